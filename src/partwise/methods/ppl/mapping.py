"""From the patch classifier to class maps of pictures at their own size, by the protocol of IRN (Ahn et al. 2019)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.methods.ppl.config import MapFields
from partwise.methods.ppl.picturewise import MOST_PIXELS, PictureStage
from partwise.methods.ppl.sizing import within
from partwise.models.patch_learning import PatchLearning
from partwise.ops.cam import upsample

SMALL = 1e-5
"""Added to a class's greatest value before it divides the map."""


class Maps(NamedTuple):
    """Class maps in [0, 1], zero for classes that a picture does not show."""

    strided: Tensor
    """`(B, K, ceil(H / stride), ceil(W / stride))`, for walks between cells."""
    full: Tensor
    """`(B, K, H, W)`, for thresholds."""


def cells(side: int, stride: int) -> int:
    """Cells of `stride` pixels that cover a side."""
    return -(-side // stride)


def read_maps(network: PatchLearning, images: Tensor, present: Tensor, fields: MapFields, *, stride: int = 4) -> Maps:
    """Maps of float pictures `(B, C, H, W)` in [0, 1] whose classes `present` `(B, K)` are known.

    Sums over scales of the ReLU of the raw map and of its mirror image's, turned back; each class then divided by its own
    greatest value. Raises nothing for pictures of any size: those with a longer side than `fields.longest` are reduced.
    """
    used = shown_by_some(present)
    found = maps_of(network, images, present, used, fields, stride=stride)
    count = present.shape[1]
    if len(used) == count:
        return found
    places = used.to(images.device)
    return Maps(*(own.new_zeros(len(own), count, *own.shape[2:]).index_copy_(1, places, own) for own in found))


def shown_by_some(present: Tensor) -> Tensor:
    """The classes that at least one picture shows, rising, int64, of `present` `(B, K)`."""
    return present.bool().any(0).nonzero()[:, 0]


@torch.no_grad()
def maps_of(
    network: PatchLearning, images: Tensor, present: Tensor, used: Tensor, fields: MapFields, *, stride: int
) -> Maps:
    """As `read_maps`, of the classes `used` alone: few maps of large pictures, however many classes there are."""
    height, width = images.shape[-2:]
    grids = ((cells(height, stride), cells(width, stride)), (16 * cells(height, 16), 16 * cells(width, 16)))
    if not len(used):
        return Maps(images.new_zeros(len(images), 0, *grids[0]), images.new_zeros(len(images), 0, height, width))
    reduced = within(images, fields.longest)
    shown = present[:, used].to(images.device).float()[:, :, None, None]
    own = used.to(images.device)
    totals: list[Tensor | None] = [None, None]
    for scale in fields.scales:
        raw = _twins(network, _rescaled(reduced, scale), fields)[:, own] * shown
        for number, grid in enumerate(grids):
            raised = upsample(raw, grid)
            total = totals[number]
            totals[number] = raised if total is None else total + raised
    strided, whole = totals
    assert strided is not None and whole is not None
    return Maps(_scaled(strided, shown, fields), _scaled(whole[..., :height, :width], shown, fields))


def _rescaled(images: Tensor, scale: float) -> Tensor:
    """Bicubic, as the published pipelines resize pictures; at least one pixel a side."""
    height, width = (max(1, round(side * scale)) for side in images.shape[-2:])
    return upsample(images, (height, width), mode="bicubic")


def _twins(network: PatchLearning, images: Tensor, fields: MapFields) -> Tensor:
    """ReLU maps of pictures plus those of their mirror images, turned back; of two placements of the cuts where asked."""
    views = torch.cat([images, images.flip(-1)]) if fields.flip else images
    raw = network.maps(views, fields.half)[1].relu()
    if fields.seam_average and network.active_cuts:
        raw = (raw + network.maps(views, fields.half, shifted=True)[1].relu()) / 2
    if not fields.flip:
        return raw
    plain, mirrored = raw.chunk(2)
    return plain + mirrored.flip(-1)


def _scaled(maps: Tensor, shown: Tensor, fields: MapFields) -> Tensor:
    if fields.normalise == "minmax":
        maps = (maps - maps.amin((2, 3), keepdim=True)) * shown
    return maps / (maps.amax((2, 3), keepdim=True) + SMALL)


class ReadMaps(PictureStage):
    """Maps of all training and validation pictures: `classes` int64 `(k,)`, `strided` float32 and `full` float16 of them."""

    def __init__(self, name: str, network: PatchLearning, data: PictureData, fields: MapFields, *, stride: int) -> None:
        super().__init__(data)
        self.name = name
        self.network, self.fields, self.stride = network, fields, stride
        self.names = {data.source.records[i].id: i for split in ("train", "val") for i in data.splits[split].tolist()}

    def items(self) -> Sequence[str]:
        return list(self.names)

    def compute_all(self, items: Sequence[str]) -> Sequence[Mapping[str, Tensor] | bytes]:
        self.network.eval()
        return super().compute_all(items) if self.data.device.type == "cpu" else self._in_batches(items)

    def _in_batches(self, items: Sequence[str]) -> Sequence[Mapping[str, Tensor]]:
        """Pictures of one size together, as many as memory is meant to hold."""
        pictures = {item: self.data.native(self.names[item]) for item in items}
        by_size: dict[tuple[int, ...], list[str]] = defaultdict(list)
        for item, sample in pictures.items():
            by_size[tuple(sample.image.shape) if sample else ()].append(item)
        done: dict[str, Mapping[str, Tensor]] = {}
        for size, alike in by_size.items():
            if not size:  # set aside: no picture, no classes
                done |= {item: empty_maps() for item in alike}
                continue
            together = max(1, min(len(alike), MOST_PIXELS // (size[1] * size[2])))
            for start in range(0, len(alike), together):
                done |= self._read(alike[start : start + together], pictures)
        return [done[item] for item in items]

    def compute(self, item: str) -> Mapping[str, Tensor]:
        sample = self.data.native(self.names[item])
        if sample is None:
            return empty_maps()
        with self.taking(sample.image[0].numel()):
            return self._read([item], {item: sample})[item]

    def _read(self, items: Sequence[str], pictures: Mapping[str, object]) -> dict[str, Mapping[str, Tensor]]:
        images = torch.stack([pictures[item].image for item in items])  # type: ignore[attr-defined]
        present = known_classes(self.data, [self.names[item] for item in items])
        images = images.to(self.data.device).float() / 255
        used = shown_by_some(present)
        maps = maps_of(self.network, images, present, used, self.fields, stride=self.stride)
        found: dict[str, Mapping[str, Tensor]] = {}
        for row, item in enumerate(items):
            mine = present[row, used]
            own = mine.nonzero()[:, 0].to(maps.full.device)
            found[item] = {
                "classes": used[mine],
                "strided": maps.strided[row, own],
                "full": maps.full[row, own].half(),
            }
        return found


def empty_maps() -> dict[str, Tensor]:
    """The maps of a picture that cannot be read: no classes, one cell."""
    none = torch.zeros(0, 1, 1)
    return {"classes": torch.zeros(0, dtype=torch.int64), "strided": none, "full": none.half()}


def known_classes(data: PictureData, indices: Sequence[int]) -> Tensor:
    """Which classes pictures show, by their labels: bool `(n, K)` on the host."""
    count = len(data.source.classes)
    present = torch.zeros(len(indices), count, dtype=torch.bool)
    for row, index in enumerate(indices):
        record = data.source.records[index]
        labels = record.labels if record.labels is not None else (() if record.label is None else (record.label,))
        present[row, list(labels)] = True
    return present
