"""From scores at the cells of a walk to pseudo masks: the ground's threshold, chosen where it may be, and PNGs in VOC's way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.loading import PictureData
from partwise.data.palette import encode_palette_png
from partwise.data.pictures import decode_mask
from partwise.data.sample import VOID
from partwise.engine.stages import Products
from partwise.methods.ppl.growing import named, thresholded
from partwise.methods.ppl.mapping import known_classes
from partwise.methods.ppl.picturewise import PictureStage
from partwise.methods.ppl.sharpening import sharpen_labels
from partwise.methods.ppl.sizing import raised
from partwise.ops.confusion import best_class, confusion, mean_iou, shown_classes, sweep_counts, sweep_histogram
from partwise.ops.localize import threshold_grid

if TYPE_CHECKING:
    from partwise.methods.ppl.method import PplMethod

FIXED = 0.25
"""IRN's background score after the walk, where there is nothing to choose it on."""
FIXED_MAPS = 0.15
STEP = 0.01


class WritePseudoMasks(PictureStage):
    """A palette PNG of every training picture: 0 ground, k + 1 class k, in `RUN/products/pseudo/`."""

    name = "pseudo"
    suffix: ClassVar[str] = ".png"

    def __init__(self, method: PplMethod, data: PictureData) -> None:
        super().__init__(data)
        self.method, self.fields = method, method.fields.pseudo
        self.walks = method.fields.affinity.kind != "none"
        records = data.source.records
        self.names = {records[i].id: i for i in data.splits["train"].tolist()}
        self.judges = [i for i in data.splits["val"].tolist() if records[i].has_mask]

    def prepare(self, products: Products) -> None:
        self.products = products
        self.threshold, self.chosen = self._choose()

    def items(self) -> Sequence[str]:
        return list(self.names)

    def facts(self) -> Mapping[str, Any]:
        return {"threshold": self.threshold, "threshold_from": self.chosen}

    def compute(self, item: str) -> bytes:
        return encode_palette_png(self._mask(item).cpu())

    def scores(self, item: str, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """A picture's classes, and their scores `(k, H, W)` float32 at its own size."""
        if not self.walks:
            maps = self.products.read("maps", item)
            return maps["classes"], maps["full"].float().to(self.data.device)
        walked = self.products.read("walk", item)
        found = walked["scores"].float().to(self.data.device)
        return walked["classes"], raised(found, size) if len(found) else found.new_zeros(0, *size)

    def _mask(self, item: str) -> Tensor:
        sample = self.data.native(self.names[item])
        if sample is None:
            return torch.full((1, 1), VOID, dtype=torch.uint8)
        image = sample.image.to(self.data.device)
        with self.taking(image[0].numel()):
            classes, scores = self.scores(item, (image.shape[1], image.shape[2]))
            places = sharpen_labels(image, self.places(scores, len(classes)), len(classes), self.fields.crf)
        return named(places, classes)

    def places(self, scores: Tensor, count: int) -> Tensor:
        """0 for the ground or the place of the best class + 1; AffinityNet's scores hold the ground as their first row."""
        if len(scores) == count + 1 and count:
            return scores.argmax(0).to(torch.uint8)
        return thresholded(scores, self.threshold)

    def _choose(self) -> tuple[float, str]:
        """The ground's score, and where it comes from: never from the pictures whose masks are made."""
        fixed = FIXED if self.walks else FIXED_MAPS
        if self.fields.threshold is not None:
            return self.fields.threshold, "the recipe"
        if self.method.fields.affinity.kind == "affinitynet":
            return fixed, "not used: the walk has a row for the ground"
        best, count = self._best()
        if best is None:
            return fixed, "a fixed value: no validation picture has a mask"
        return best, f"the best mIoU of {count} validation pictures"

    def _best(self) -> tuple[float | None, int]:
        """The first of the best thresholds, and on how many pictures; None where no pixel of them can be judged."""
        num_classes = len(self.data.source.classes)
        thresholds = threshold_grid(STEP)
        slots = min(num_classes, 32)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        for index in self.judges:
            sample = self.data.native(index, whole=True)
            if sample is None or sample.mask is None:
                continue
            size = (sample.mask.shape[0], sample.mask.shape[1])
            classes, scores = self.scores(self.data.source.records[index].id, size)
            truth = sample.mask[None]
            best, place = (values[0].cpu() for values in _best_place(scores))
            which = named(place, classes)[None]
            own = shown_classes(known_classes(self.data, [index]), slots)
            histogram = sweep_histogram(best[None], which, truth, thresholds, own)
            true = confusion(truth, torch.zeros_like(truth), num_classes + 1)[:, :, 0]
            parts.append((histogram, own, true))
        if not any(int(true.sum()) for _, _, true in parts):
            return None, 0
        histogram, own, true = (torch.cat(column) for column in zip(*parts, strict=True))
        return round(float(thresholds[int(mean_iou(sweep_counts(histogram, own, true)).argmax())]), 6), len(parts)


def _best_place(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`best_class` of one picture's own classes `(k, H, W)`, 0 where there are none: both `(1, H, W)`."""
    if not len(scores):
        none = torch.zeros(1, *scores.shape[1:], device=scores.device)
        return none, none.to(torch.uint8)
    return best_class(scores[None], scores.new_ones(1, len(scores), dtype=torch.bool))


def read_pseudo_mask(products: Products, item: str) -> Tensor | None:
    """The pseudo mask uint8 `(H, W)` that a run wrote for a picture; None where it wrote none."""
    path = products.path("pseudo", item, ".png")
    return decode_mask(path, name=item) if path.exists() else None


def require_pseudo_mask(products: Products, item: str) -> Tensor:
    """As `read_pseudo_mask`. Raises UserError where there is none: the products were removed by hand."""
    mask = read_pseudo_mask(products, item)
    if mask is None:
        raise UserError(f"{products.folder('pseudo')}: the mask of {item} is gone; --fresh starts the run anew")
    return mask
