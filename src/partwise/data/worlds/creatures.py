"""The world of creatures: articulated animals on textured grounds, with exact masks, parts, boxes and landmarks.

Ten species by default (16 at most) that are told apart by one small ornament for certain and by the habits of the whole body
weakly. A picture is a function of (version, seed, split, index) alone. `masks` hold 0 for the ground, class k as k + 1, and 255
in the ring around every creature; `parts` hold the indices of `PARTS`, of which `ornament` is the telling one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import VOID, Record, Sample, Source
from partwise.data.worlds.creatures_anatomy import LANDMARKS, PARTS
from partwise.data.worlds.creatures_draw import Bytes, Canvas, finish, lay_ground, paint
from partwise.data.worlds.creatures_scene import Scene, draw_scene
from partwise.data.worlds.creatures_species import MAX_CLASSES, SPECIES
from partwise.data.worlds.draws import Ints, keys, permutations
from partwise.data.worlds.options import whole
from partwise.data.worlds.recent import Recent

__all__ = ["LANDMARKS", "PARTS", "Creatures", "Rendered"]

SPLITS = ("train", "val", "test")
CHUNK = 256
"""Pictures of 64 px drawn at once: the cost of a call is shared, and the canvas stays below 16 MB."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """n pictures with everything that is known of them.

    `images` uint8 `(n, 3, s, s)`, `masks` and `parts` uint8 `(n, s, s)`; `boxes` float32 `(n, objects, 4)` and `landmarks`
    float32 `(n, objects, 8, 2)`, not-a-number where a picture has fewer creatures; `labels` int64 `(n, objects)`, -1 there;
    `facing` int64 `(n, objects)`, 1 to the right and -1 to the left.
    """

    images: Tensor
    masks: Tensor
    parts: Tensor
    boxes: Tensor
    landmarks: Tensor
    labels: Tensor
    facing: Tensor
    captions: tuple[str, ...]


class Creatures(Source):
    """The source `creatures:`.

    Options: `size` of the square pictures, number of `classes`, pictures in `train`, `val` and `test`, `seed`, `objects` (the
    most creatures in a picture; above 1 the pictures have several labels) and the world's `version`. Pictures of a split do
    not depend on how many others there are.
    """

    kind = "creatures"
    name = "creatures"

    def __init__(
        self,
        *,
        size: int | str = 64,
        classes: int | str = 10,
        train: int | str = 4000,
        val: int | str = 500,
        test: int | str = 1000,
        seed: int | str = 0,
        objects: int | str = 1,
        version: int | str = 1,
    ) -> None:
        self.size = whole("creatures", "size", size, 32, 512)
        num_classes = whole("creatures", "classes", classes, 2, MAX_CLASSES)
        counts = [
            whole("creatures", split, value, 0, 10_000_000)
            for split, value in zip(SPLITS, (train, val, test), strict=True)
        ]
        self.seed = whole("creatures", "seed", seed, 0, 2**31 - 1)
        self.objects = whole("creatures", "objects", objects, 1, 3)
        self.version = whole("creatures", "version", version, 1, 1)
        if sum(counts) == 0:
            raise UserError("creatures: train, val and test are all 0; expected at least one picture")
        if self.objects > num_classes:
            raise UserError(
                f"creatures: objects={self.objects} with classes={num_classes}; expected objects <= classes"
            )
        self.image_size = (self.size, self.size)
        self.classes = tuple(species.name for species in SPECIES[:num_classes])
        self.multi_label = self.objects > 1
        self._split = np.repeat(np.arange(3), counts)
        self._within = np.concatenate([np.arange(count) for count in counts])
        self._labels = self._draw_labels()
        self._recent: Recent[Rendered] = Recent()
        self.records = self._make_records()

    def _keys(self, positions: Ints, purpose: int) -> np.ndarray:
        """One key a picture; splits are ranges of their own, so that none shares a picture with another."""
        serial = (self._split[positions].astype(np.int64) << 40) + self._within[positions]
        return keys(self.version, self.seed, purpose, serial)

    def _draw_labels(self) -> Ints:
        """`(n, objects)`, -1 where there is no creature; single labels are balanced in every run of `classes` pictures."""
        everything, count = np.arange(len(self._split)), len(self.classes)
        if not self.multi_label:
            block, place = self._within // count, self._within % count
            serial = (self._split.astype(np.int64) << 40) + block
            return permutations(keys(self.version, self.seed, 1, serial), count)[everything, place][:, None]
        order = permutations(self._keys(everything, 2), count)[:, : self.objects]
        present = 1 + self._keys(everything, 3) % np.uint64(self.objects)
        return np.where(np.arange(self.objects) < present[:, None].astype(np.int64), order, -1)

    def _make_records(self) -> list[Record]:
        records = []
        for split, within, row in zip(self._split.tolist(), self._within.tolist(), self._labels.tolist(), strict=True):
            labels = tuple(sorted(label for label in row if label >= 0))
            records.append(
                Record(
                    id=f"{SPLITS[split]}/{within:06d}",
                    split=SPLITS[split],
                    label=None if self.multi_label else labels[0],
                    labels=labels if self.multi_label else None,
                    has_mask=True,
                )
            )
        return records

    def scene(self, indices: Sequence[int]) -> Scene:
        """What the pictures show, before any pixel is drawn."""
        positions = np.asarray(indices, dtype=np.int64)
        return draw_scene(
            self._keys(positions, 4), self._labels[positions], size=self.size, num_classes=len(self.classes)
        )

    def load_image(self, index: int) -> Tensor:
        return self.images([index])[0]

    def images(self, indices: Sequence[int]) -> Tensor:
        """uint8 `(n, 3, size, size)`; every picture the same, bit for bit, whatever else is asked for with it."""
        result = np.empty((len(indices), 3, self.size, self.size), dtype=np.uint8)
        for piece in self._pieces(len(indices)):
            result[piece] = _draw(self.scene(indices[piece]), with_maps=False)[0]
        return torch.from_numpy(result)

    def _pieces(self, count: int) -> Iterator[slice]:
        """Consecutive runs of pictures that are drawn at once."""
        step = max(1, CHUNK * 64 * 64 // (self.size * self.size))
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def render(self, indices: Sequence[int]) -> Rendered:
        """The pictures with masks, parts, boxes, landmarks and captions; `indices` must not be empty."""
        pieces = [self._render_piece(self.scene(indices[piece])) for piece in self._pieces(len(indices))]
        tensors = {
            field.name: torch.cat([getattr(piece, field.name) for piece in pieces])
            for field in fields(Rendered)
            if field.name != "captions"
        }
        return Rendered(**tensors, captions=tuple(caption for piece in pieces for caption in piece.captions))

    def _render_piece(self, scene: Scene) -> Rendered:
        images, instances, parts = _draw(scene, with_maps=True)
        assert instances is not None and parts is not None
        ring = max(1, round(self.size / 64))
        return Rendered(
            images=torch.from_numpy(images),
            masks=torch.from_numpy(class_mask(instances, scene.labels, ring)),
            parts=torch.from_numpy(parts),
            boxes=torch.from_numpy(tight_boxes(instances, self.objects)),
            landmarks=torch.from_numpy(scene.landmarks.astype(np.float32)),
            labels=torch.from_numpy(scene.labels),
            facing=torch.from_numpy(scene.facing),
            captions=scene.captions(),
        )

    def load(self, index: int) -> Sample:
        """One picture with its mask, parts, boxes, landmarks (8 a creature, named by LANDMARKS) and caption.

        Pictures asked for in order of index are drawn together, ten times as fast as alone.
        """
        record = self.records[index]
        seen, place = self._recent.find(self.render, len(self), index % len(self))
        present = ~torch.isnan(seen.boxes[place, :, 0])
        return Sample(
            id=record.id,
            image=seen.images[place].clone(),
            label=record.label,
            labels=self.multi_hot(record.labels),
            mask=seen.masks[place].clone(),
            parts=seen.parts[place].clone(),
            boxes=seen.boxes[place, present],
            landmarks=seen.landmarks[place, present].reshape(-1, 2),
            split=record.split,
            caption=seen.captions[place],
        )

    def fingerprint(self) -> str:
        """As for every source, with the options that change pixels."""
        own = repr((self.version, self.seed, self.size, self.objects))
        return hashlib.sha256((super().fingerprint() + own).encode()).hexdigest()[:16]


def _draw(scene: Scene, *, with_maps: bool) -> tuple[Bytes, Bytes | None, Bytes | None]:
    """Images, instances (1, 2, 3 in the order of the labels) and parts of a scene."""
    pixels = lay_ground(scene.ground, scene.size)
    shape = pixels.shape[1:]
    maps = [np.zeros(shape, dtype=np.uint8) if with_maps else None for _ in range(2)]
    canvas = Canvas(pixels, maps[0], maps[1])
    for layer in scene.layers:
        paint(canvas, layer, scene.light)
    return finish(pixels, scene.finish), maps[0], maps[1]


def class_mask(instances: Bytes, labels: Ints, ring: int) -> Bytes:
    """Instances `(n, h, w)` -> class masks: 0 ground, class k as k + 1, VOID in a ring of that width around each creature.

    The ring lies outside: on the ground, or on the creature of lower number where two touch, so thin legs keep their pixels.
    """
    table = np.concatenate([np.zeros((len(labels), 1), dtype=np.int64), labels + 1], axis=1).astype(np.uint8)
    mask = np.take_along_axis(table, instances.reshape(len(labels), -1).astype(np.int64), axis=1).reshape(
        instances.shape
    )
    highest = instances
    for _ in range(ring):
        highest = _highest_neighbour(highest)
    mask[highest > instances] = VOID
    return mask


def _highest_neighbour(values: Bytes) -> Bytes:
    """The maximum over each pixel's 3 x 3 neighbourhood."""
    padded = np.pad(values, ((0, 0), (1, 1), (1, 1)))
    across = np.maximum(np.maximum(padded[:, :, :-2], padded[:, :, 1:-1]), padded[:, :, 2:])
    return np.maximum(np.maximum(across[:, :-2], across[:, 1:-1]), across[:, 2:])


def tight_boxes(instances: Bytes, objects: int) -> np.ndarray:
    """Half-open boxes around the visible pixels of each instance, float32 `(n, objects, 4)`; not-a-number without any."""
    _, height, width = instances.shape
    boxes = np.full((len(instances), objects, 4), np.nan, dtype=np.float32)
    for number in range(objects):
        seen = instances == number + 1
        columns, rows = seen.any(axis=1), seen.any(axis=2)
        there = columns.any(axis=1)
        edges = (
            columns.argmax(axis=1),
            rows.argmax(axis=1),
            width - columns[:, ::-1].argmax(axis=1),
            height - rows[:, ::-1].argmax(axis=1),
        )
        boxes[there, number] = np.stack(edges, axis=1)[there]
    return boxes
