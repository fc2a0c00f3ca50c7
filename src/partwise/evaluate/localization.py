"""Whether the map of the true class finds the object: box accuracies, and pixel precision where there are masks.

All boxes are in the frame that the network saw; of several true boxes the best match counts; pictures without a box count
for `pxap` only. Masks hold 0 for the ground; every other value but void counts as the object, since a picture has one
class. Maps are upsampled bicubically to the frame first, as MaxBoxAcc's reference code does (the CutMix paper does not
say). Thresholds of `max_box_acc_*` are chosen on the validation split, one for each number.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from partwise.data.sample import Batch
from partwise.evaluate.base import Classifier, Evaluation, Evaluator, Images, Mapper, Redraw, Rows
from partwise.evaluate.localization_pictures import accuracy_curves, heatmaps
from partwise.ops.boxes import Convention, iou
from partwise.ops.cam import Upsampling, normalise, upsample
from partwise.ops.localize import grid_components, largest_boxes, relative_boxes, threshold_grid
from partwise.ops.precision import histogram_precision, score_histograms

SIGMA = 0.15
"""The CutMix paper's threshold, as a share of a map's maximum."""
LEVELS = (0.3, 0.5, 0.7)
"""The overlaps that `max_box_acc_v2` averages over."""
NUM_BINS = 1000
"""Score bins of `pxap`."""
NO_BOXES = "no picture has a box"
NO_VALIDATION = "no validation split with boxes to choose the threshold on"


class Localization(Evaluator):
    """`max_box_acc_50`, `max_box_acc_v2`, `gt_known`, `top1_loc` (for a Classifier), `pxap` (with masks)."""

    suite: ClassVar[str] = "localization"
    one_class = True
    metrics: ClassVar[tuple[str, ...]] = ("max_box_acc_50", "max_box_acc_v2", "gt_known", "top1_loc", "pxap")
    needs: ClassVar[type] = Mapper
    wants: ClassVar[frozenset[str]] = frozenset({"targets", "boxes"})
    optional: ClassVar[frozenset[str]] = frozenset({"masks"})
    uses_validation: ClassVar[bool] = True

    def __init__(
        self,
        classes: Sequence[str],
        *,
        step: float = 0.01,
        upsampling: Upsampling = "bicubic",
        box_convention: Convention = "continuous",
    ) -> None:
        super().__init__(classes)
        self.thresholds = threshold_grid(step)
        self.upsampling = upsampling
        self.convention = box_convention

    def why_not(self, model: object, batch: Batch) -> str | None:
        """Also refuses pictures with several classes: there is no one true map."""
        refusal = super().why_not(model, batch)
        if refusal is None and batch.targets is not None and batch.targets.ndim != 1:
            return f"suite {self.suite!r} needs one class a picture, and the data names several"
        return refusal

    def measure(self, model: Mapper, batch: Batch) -> Rows:
        """Per picture: found box and overlaps at every threshold, and score histograms of its pixels."""
        assert batch.targets is not None and batch.boxes is not None
        maps = true_maps(model.maps(batch.images), batch.targets, batch.images.shape, self.upsampling)
        scores = normalise(maps)
        rows = {"target": batch.targets, **self._overlaps(maps, scores, batch.boxes)}
        if batch.masks is not None:
            rows["histogram"] = score_histograms(scores, batch.masks.cpu(), bins=NUM_BINS)
        if isinstance(model, Classifier):
            rows["predicted"] = model.logits(batch.images).argmax(dim=1)
        return rows

    def _overlaps(self, maps: Tensor, scores: Tensor, boxes: Sequence[Tensor]) -> Rows:
        """The box at SIGMA with its overlap, and the best overlap at each threshold of the largest and of any region."""
        count, num = len(maps), len(self.thresholds)
        true, present = _side_by_side(boxes)
        box = relative_boxes(maps, sigma=SIGMA, convention=self.convention)
        regions = grid_components(scores, self.thresholds, convention=self.convention)
        largest = largest_boxes(regions, count, num, convention=self.convention)
        overlap, match = self._best(box[:, None], true, present)
        of_region, _ = self._best(regions.boxes[:, None], true[regions.picture], present[regions.picture])
        any_region = torch.zeros(count * num).scatter_reduce_(
            0, regions.picture * num + regions.threshold, of_region[:, 0], "amax"
        )
        return {
            "has_box": present.any(dim=1),
            "box": box,
            "true_box": true[torch.arange(count), match[:, 0]],
            "iou": overlap[:, 0],
            "iou_largest": self._best(largest, true, present)[0],
            "iou_any": any_region.reshape(count, num),
        }

    def _best(self, found: Tensor, true: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Found boxes `(b, n, 4)`, true ones `(b, m, 4)` -> the best overlap of each found one `(b, n)`, and with which."""
        overlaps = iou(found, true, convention=self.convention) * present[:, None, :]
        best, match = overlaps.max(dim=2)
        return best, match

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """The five numbers; the threshold of each is the one best on `validation` (the lowest of equally good ones)."""
        found = Evaluation()
        boxed = _with_boxes(rows)
        chosen_on = None if validation is None else _with_boxes(validation)
        self._box_accuracies(found, boxed, chosen_on)
        self._at_sigma(found, boxed)
        _pixels(found, rows)
        if images is not None and len(boxed["index"]):
            found.pictures.append(accuracy_curves(boxed, self.thresholds, LEVELS))
            if redraw is not None:
                found.pictures.append(heatmaps(boxed, self.classes, images, redraw, self.upsampling))
        return found

    def _box_accuracies(self, found: Evaluation, rows: Rows, validation: Rows | None) -> None:
        names = ("localization/max_box_acc_50", "localization/max_box_acc_v2")
        if len(rows["index"]) == 0 or validation is None or len(validation["index"]) == 0:
            for name in names:
                found.leave_out(name, NO_BOXES if len(rows["index"]) == 0 else NO_VALIDATION)
            return
        facts: dict[str, Any] = {"n": len(rows["index"]), "n_validation": len(validation["index"])}
        value, threshold = self._validated(rows, validation, "iou_largest", 0.5)
        found.found(names[0], value, threshold=threshold, **facts)
        each = {level: self._validated(rows, validation, "iou_any", level) for level in LEVELS}
        found.found(
            names[1],
            sum(value for value, _ in each.values()) / len(each),
            thresholds={str(level): threshold for level, (_, threshold) in each.items()},
            accuracies={str(level): value for level, (value, _) in each.items()},
            **facts,
        )

    def _validated(self, rows: Rows, validation: Rows, name: str, level: float) -> tuple[float, float]:
        """The accuracy at the threshold that is best on the validation split, and that threshold."""
        best = int(box_accuracy(validation[name], level).argmax())
        return float(box_accuracy(rows[name], level)[best]), round(float(self.thresholds[best]), 6)

    def _at_sigma(self, found: Evaluation, rows: Rows) -> None:
        count = len(rows["index"])
        if count == 0:
            found.leave_out("localization/gt_known", NO_BOXES)
            found.leave_out("localization/top1_loc", NO_BOXES)
            return
        located = rows["iou"] > 0.5
        found.found("localization/gt_known", located.double().mean().item(), n=count, threshold=SIGMA)
        if "predicted" in rows:
            right = located & (rows["predicted"] == rows["target"])
            found.found("localization/top1_loc", right.double().mean().item(), n=count, threshold=SIGMA)
        else:
            found.leave_out("localization/top1_loc", "the model names no class")


def true_maps(maps: Tensor, targets: Tensor, shape: Sequence[int], mode: Upsampling) -> Tensor:
    """The map of each picture's own class, in the frame of pictures of `shape` `(B, C, H, W)`: float32 on the host."""
    own = maps[torch.arange(len(maps), device=maps.device), targets.to(maps.device)]
    return upsample(own[:, None].float(), (shape[-2], shape[-1]), mode=mode)[:, 0].cpu()


def box_accuracy(overlaps: Tensor, level: float) -> Tensor:
    """Overlaps `(N, T)` -> the share of pictures that reach `level` at each threshold, float64 `(T,)`."""
    return (overlaps >= level).double().mean(dim=0)


def _side_by_side(boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Boxes of each picture -> `(b, m, 4)` filled up with zeros, and which of them are real; m is at least 1."""
    most = max([1, *(len(own) for own in boxes)])
    padded, present = torch.zeros(len(boxes), most, 4), torch.zeros(len(boxes), most, dtype=torch.bool)
    for row, own in enumerate(boxes):
        padded[row, : len(own)] = own.float().cpu().reshape(-1, 4)
        present[row, : len(own)] = True
    return padded, present


def _with_boxes(rows: Rows) -> Rows:
    return {name: values[rows["has_box"]] for name, values in rows.items()}


def _pixels(found: Evaluation, rows: Rows) -> None:
    name = "localization/pxap"
    if "histogram" not in rows:
        found.leave_out(name, "there are no masks")
        return
    negative, positive = rows["histogram"].long().sum(dim=0)
    if positive.sum() == 0:
        found.leave_out(name, "no pixel of any mask belongs to an object")
        return
    share = float(positive.sum() / (positive.sum() + negative.sum()))
    found.found(name, histogram_precision(negative, positive), n=len(rows["index"]), positive_share=share)
