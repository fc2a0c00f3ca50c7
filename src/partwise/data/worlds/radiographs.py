"""The world of radiographs: chests seen from the front, with organs, landmarks and a finding, exactly known.

The patient's left is on the right of the picture: there the heart points, the stomach holds its gas, the diaphragm is lower
and the aorta stands out. A picture is a function of (version, seed, split, patient, picture) alone. Not a model of disease:
three findings are drawn as simply as they can be told apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partwise.config import UserError, nearest
from partwise.data.sample import Record, Sample, Source
from partwise.data.worlds.draws import Ints, keys, permutations
from partwise.data.worlds.options import whole
from partwise.data.worlds.radiographs_anatomy import FINDINGS, LANDMARKS
from partwise.data.worlds.radiographs_film import develop
from partwise.data.worlds.radiographs_scene import LAYERS, Scene, draw_scene, expose
from partwise.data.worlds.recent import Recent

__all__ = ["FINDINGS", "LANDMARKS", "LAYERS", "ORGANS", "PARTS", "VERSION", "Radiographs", "Rendered"]

VERSION = 1
SPLITS = ("train", "val", "test")
ORGANS = ("right lung", "left lung", "heart", "right clavicle", "left clavicle")
"""What masks of organs tell apart; of two at one pixel the later one counts."""
PARTS = ("none", "right lung", "left lung", "heart", "spine", "ribs", "right clavicle", "left clavicle", "finding")
"""What `parts` tell apart; of two at one pixel the later one counts."""
CHUNK = 256
"""Pictures of 64 px that are drawn at once."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """n pictures with everything that is known of them.

    `images` uint8 `(n, 1, s, s)`; `layers` bool `(n, 8, s, s)`, where each of LAYERS is, whatever else is there; `organs` and
    `parts` uint8 `(n, s, s)`, one of ORGANS (k as k + 1) and one of PARTS a pixel; `boxes` float32 `(n, 8, 4)` around the
    layers, not-a-number around nothing; `landmarks` float32 `(n, len(LANDMARKS), 2)`; `labels` int64 `(n,)`, one of FINDINGS;
    `sides` int64 `(n,)`, 0 for a finding in the patient's right lung, 1 in the left one, -1 for others.
    """

    images: Tensor
    layers: Tensor
    organs: Tensor
    parts: Tensor
    boxes: Tensor
    landmarks: Tensor
    labels: Tensor
    sides: Tensor


class Radiographs(Source):
    """The source `radiographs:`.

    Options: `size` of the square pictures; patients in `train`, `val` and `test`; `pictures` of each patient, 1 or 2; `seed`;
    what are the `classes`; the world's `version`. With `classes=findings` a picture has a label (balanced over patients), the
    mask shows the finding (for cardiomegaly the heart) and so does the box. With `classes=organs` every picture shows all of
    ORGANS: labels, mask and five boxes. Pictures are the same either way, and patients of a split do not depend on how many
    others there are.
    """

    kind = "radiographs"
    name = "radiographs"
    channels = 1
    landmark_names = LANDMARKS

    def __init__(
        self,
        *,
        size: int | str = 128,
        train: int | str = 2000,
        val: int | str = 250,
        test: int | str = 500,
        pictures: int | str = 1,
        seed: int | str = 0,
        classes: Literal["findings", "organs"] = "findings",
        version: int | str = VERSION,
    ) -> None:
        self.size = whole("radiographs", "size", size, 32, 512)
        patients = [
            whole("radiographs", split, value, 0, 5_000_000)
            for split, value in zip(SPLITS, (train, val, test), strict=True)
        ]
        self.pictures = whole("radiographs", "pictures", pictures, 1, 2)
        self.seed = whole("radiographs", "seed", seed, 0, 2**31 - 1)
        self.version = whole("radiographs", "version", version, VERSION, VERSION)
        if classes not in ("findings", "organs"):
            near = nearest(str(classes), ("findings", "organs"))
            raise UserError(
                f"radiographs: option classes={classes}; expected findings or organs"
                + (f"; nearest: {near}" if near else "")
            )
        if sum(patients) == 0:
            raise UserError("radiographs: train, val and test are all 0; expected at least one patient")
        self.image_size = (self.size, self.size)
        self.classes = FINDINGS if classes == "findings" else ORGANS
        self.multi_label = classes == "organs"
        self._split = np.repeat(np.arange(3), [count * self.pictures for count in patients])
        within = np.concatenate([np.arange(count * self.pictures) for count in patients])
        self._patient, self._number = within // self.pictures, within % self.pictures
        self._findings = self._draw_findings()
        self._recent: Recent[Rendered] = Recent()
        self.records = self._make_records()

    def _draw_findings(self) -> Ints:
        """The finding of each picture: balanced in every run of as many patients as there are findings."""
        count = len(FINDINGS)
        serial = (self._split.astype(np.int64) << 40) + self._patient // count
        order = permutations(keys(self.version, self.seed, 1, serial), count)
        return order[np.arange(len(order)), self._patient % count]

    def _make_records(self) -> list[Record]:
        records = []
        rows = (self._split.tolist(), self._patient.tolist(), self._number.tolist(), self._findings.tolist())
        for split, patient, number, finding in zip(*rows, strict=True):
            group = f"{SPLITS[split]}/{patient:06d}"
            records.append(
                Record(
                    id=f"{group}.{number}",
                    split=SPLITS[split],
                    label=None if self.multi_label else finding,
                    labels=tuple(range(len(ORGANS))) if self.multi_label else None,
                    group=group,
                    has_mask=True,
                )
            )
        return records

    def scene(self, indices: Sequence[int]) -> Scene:
        """What the pictures show, before any pixel is drawn; splits are ranges of keys of their own."""
        at = np.asarray(indices, dtype=np.int64)
        patients = keys(self.version, self.seed, 2, (self._split[at].astype(np.int64) << 40) + self._patient[at])
        return draw_scene(patients, keys(patients, 3, self._number[at]), self._findings[at], self.size)

    def load_image(self, index: int) -> Tensor:
        return self.images([index])[0]

    def images(self, indices: Sequence[int]) -> Tensor:
        """uint8 `(n, 1, size, size)`; every picture the same, bit for bit, whatever else is asked for with it."""
        result = np.empty((len(indices), 1, self.size, self.size), dtype=np.uint8)
        for piece in self._pieces(len(indices)):
            scene = self.scene(indices[piece])
            result[piece] = develop(expose(scene), scene.look)
        return torch.from_numpy(result)

    def _pieces(self, count: int) -> Iterator[slice]:
        """Consecutive runs of pictures that are drawn at once."""
        step = max(1, CHUNK * 64 * 64 // (self.size * self.size))
        return (slice(start, min(start + step, count)) for start in range(0, count, step))

    def render(self, indices: Sequence[int]) -> Rendered:
        """The pictures with layers, organs, parts, boxes and landmarks; `indices` must not be empty."""
        pieces = [self._render_piece(self.scene(indices[piece])) for piece in self._pieces(len(indices))]
        return Rendered(**{f.name: torch.cat([getattr(piece, f.name) for piece in pieces]) for f in fields(Rendered)})

    def _render_piece(self, scene: Scene) -> Rendered:
        layers = np.zeros((len(scene.findings), len(LAYERS), self.size, self.size), dtype=bool)
        absorbed = expose(scene, layers)
        return Rendered(
            images=torch.from_numpy(develop(absorbed, scene.look)),
            layers=torch.from_numpy(layers),
            organs=torch.from_numpy(uppermost(layers, ORGANS)),
            parts=torch.from_numpy(uppermost(layers, PARTS[1:])),
            boxes=torch.from_numpy(tight_boxes(layers)),
            landmarks=torch.from_numpy(scene.landmarks.astype(np.float32)),
            labels=torch.from_numpy(scene.findings),
            sides=torch.from_numpy(scene.sides),
        )

    def load(self, index: int) -> Sample:
        """One picture with its mask, parts, boxes and landmarks (named by LANDMARKS).

        Pictures asked for in order of index are drawn together, several times as fast as alone.
        """
        record = self.records[index]
        seen, place = self._recent.find(self.render, len(self), index % len(self))
        if self.multi_label:
            mask, boxes = seen.organs[place].clone(), seen.boxes[place, : len(ORGANS)].clone()
        else:
            mask = seen.layers[place, LAYERS.index("finding")].to(torch.uint8) * (
                seen.labels[place].to(torch.uint8) + 1
            )
            boxes = seen.boxes[place, LAYERS.index("finding")][None]
        return Sample(
            id=record.id,
            image=seen.images[place].clone(),
            label=record.label,
            labels=self.multi_hot(record.labels),
            mask=mask,
            parts=seen.parts[place].clone(),
            boxes=boxes[~boxes.isnan().any(dim=1)],
            landmarks=seen.landmarks[place].clone(),
            group=record.group,
            split=record.split,
        )

    def fingerprint(self) -> str:
        """As for every source, with the options that change pixels."""
        own = repr((self.version, self.seed, self.size))
        return hashlib.sha256((super().fingerprint() + own).encode()).hexdigest()[:16]


def uppermost(layers: NDArray[np.bool_], names: Sequence[str]) -> NDArray[np.uint8]:
    """Layers bool `(n, 8, s, s)` -> uint8 `(n, s, s)`: 0, or k + 1 for the last of `names` that is there."""
    shown = np.zeros((len(layers), *layers.shape[2:]), dtype=np.uint8)
    for value, name in enumerate(names, start=1):
        shown[layers[:, LAYERS.index(name)]] = value
    return shown


def tight_boxes(layers: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Half-open boxes around layers bool `(n, k, h, w)`, float32 `(n, k, 4)`; not-a-number around nothing."""
    height, width = layers.shape[2:]
    columns, rows = (np.logical_or.reduce(layers, axis=axis) for axis in (2, 3))
    edges = (
        columns.argmax(axis=2),
        rows.argmax(axis=2),
        width - columns[:, :, ::-1].argmax(axis=2),
        height - rows[:, :, ::-1].argmax(axis=2),
    )
    boxes = np.stack(edges, axis=2).astype(np.float32)
    boxes[~np.logical_or.reduce(columns, axis=2)] = np.nan
    return boxes
