"""Whether masks are right: those of activation maps, of a segmentation network, and the pseudo masks between the two.

Masks hold 0 for the ground, k + 1 for class k and 255 for void, which is counted nowhere. All numbers come from one
confusion over all pictures; a class that neither masks nor predictions show is left out of the means, the ground is a
class of `*miou` and none of precision and recall. Maps are thresholded with the classes of the picture known, as it is
when pseudo masks are made; the network is told nothing. The background threshold is the one of 0.00, 0.01, ... 0.99 with
the best mIoU on the validation split, never on the reported one; without such a split it is 0.15, IRN's.
"""

from __future__ import annotations

import math
from abc import ABC
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from partwise.data.sample import Batch
from partwise.evaluate.base import Again, Evaluation, Evaluator, Images, Redraw, Rows
from partwise.evaluate.segmentation_pictures import Row, sweep_curves, worst, worst_rows
from partwise.ops.confusion import (
    best_class,
    class_counts,
    confusion,
    iou,
    mean_iou,
    part_histogram,
    picture_counts,
    precision_recall,
    shown_classes,
    sweep_counts,
    sweep_histogram,
)
from partwise.ops.localize import class_masks, threshold_grid

if TYPE_CHECKING:
    from partwise.report.values import Picture

STEP = 0.01
FIXED = 0.15
"""The threshold where there is nothing to choose it on."""
MOST_CLASSES = 32
"""Classes that one picture may show; bounds the rows of a set with many classes."""
MOST_PARTS = 16
NOTHING = "no pixel of any mask is counted"


@runtime_checkable
class Seeder(Protocol):
    """Says how much each pixel speaks for each class that the picture is known to show."""

    def seeds(self, images: Tensor, labels: Tensor, /) -> Tensor:
        """Pictures `(B, 3, H, W)` in [0, 1], labels `(B, K)` of zeros and ones -> maps `(B, K, H, W)`.

        Each class's map is scaled to [0, 1]; those of classes that the picture does not show are 0.
        """


@runtime_checkable
class Segmenter(Protocol):
    """Names the class of every pixel, knowing the picture alone."""

    def segment(self, images: Tensor, /) -> Tensor:
        """Pictures `(B, 3, H, W)` in [0, 1] -> uint8 `(B, H, W)`, 0 for the ground and k + 1 for class k."""


@runtime_checkable
class PseudoLabeller(Protocol):
    """Has made masks for its training pictures, by name."""

    def pseudo_mask(self, id: str, /) -> Tensor | None:
        """The mask uint8 `(H, W)` in the frame in which it is measured, 255 where it is undecided; None if there is none."""


class SeederOrSegmenter(ABC):  # noqa: B024  told by its hook, as a protocol of which half is enough
    """What the suite needs: one of the two is enough, and both give all numbers."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return issubclass(other, (Seeder, Segmenter))


class Segmentation(Evaluator):
    """`cam_miou`, `cam_precision`, `cam_recall` for a Seeder, `miou` for a Segmenter."""

    suite: ClassVar[str] = "segmentation"
    metrics: ClassVar[tuple[str, ...]] = ("cam_miou", "cam_precision", "cam_recall", "miou")
    native: ClassVar[bool] = True
    needs: ClassVar[type] = SeederOrSegmenter
    wants: ClassVar[frozenset[str]] = frozenset({"targets", "masks"})
    optional: ClassVar[frozenset[str]] = frozenset({"parts"})
    uses_validation: ClassVar[bool] = True

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self.num_values = len(self.classes) + 1
        self.thresholds = threshold_grid(STEP)

    def why_not(self, model: object, batch: Batch) -> str | None:
        """Also refuses maps of pictures that show more than MOST_CLASSES classes."""
        refusal = super().why_not(model, batch)
        if refusal is None and isinstance(model, Seeder) and batch.targets is not None:
            most = int(multi_hot(batch.targets, len(self.classes)).sum(dim=1).max())
            if most > MOST_CLASSES:
                return f"suite {self.suite!r} needs pictures of at most {MOST_CLASSES} classes, and one shows {most}"
        return refusal

    def measure(self, model: object, batch: Batch) -> Rows:
        """Per picture: the sweep over its maps (see ops/confusion.py), and the counts of the network's mask."""
        assert batch.targets is not None and batch.masks is not None
        rows: Rows = {}
        if isinstance(model, Seeder):
            rows |= self._sweep(model, batch)
        if isinstance(model, Segmenter):
            found = confusion(batch.masks, model.segment(batch.images), self.num_values)
            rows["network"] = class_counts(found).int()
        return rows

    def _sweep(self, model: Seeder, batch: Batch) -> Rows:
        assert batch.targets is not None and batch.masks is not None
        present = multi_hot(batch.targets, len(self.classes))
        # The number of slots must not depend on the batch: rows of all batches lie side by side.
        slots = 1 if batch.targets.ndim == 1 else min(len(self.classes), MOST_CLASSES)
        best, which = best_class(checked_seeds(model.seeds(batch.images, present.float()), batch, present), present)
        thresholds, masks = self.thresholds.to(best.device), batch.masks
        classes = shown_classes(present, slots)
        rows = {
            "classes": classes,
            "sweep": sweep_histogram(best, which, masks, thresholds, classes),
            "true": confusion(masks, torch.zeros_like(masks), self.num_values)[:, :, 0].int(),
        }
        if batch.parts is not None:
            rows["parts"] = part_histogram(best, which, masks, batch.parts, thresholds, num_parts=MOST_PARTS)
        return rows

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """The four numbers; the threshold of the three is the one best on `validation`, the lowest of equal ones."""
        found = Evaluation()
        if "sweep" in rows:
            self._maps(found, rows, validation, draw=images is not None)
        else:
            for name in ("cam_miou", "cam_precision", "cam_recall"):
                found.leave_out(f"segmentation/{name}", "the model gives no maps")
        if "network" in rows:
            own = rows["network"]
            record_miou(found, "segmentation/miou", own.sum(dim=0), self.classes, n=len(own))
        else:
            found.leave_out("segmentation/miou", "the model segments no pictures")
        return found

    def _maps(self, found: Evaluation, rows: Rows, validation: Rows | None, *, draw: bool) -> None:
        swept = all_counts(rows)
        place, chosen = choose_threshold(validation)
        facts = {"n": len(rows["index"]), "threshold": round(place * STEP, 6), **chosen}
        record_miou(found, "segmentation/cam_miou", swept[place], self.classes, **facts)
        for name, each in zip(("cam_precision", "cam_recall"), precision_recall(swept[place, :, 1:]), strict=True):
            if each.isnan().all():
                found.leave_out(f"segmentation/{name}", "no class is shown or found")
                continue
            shares = {"parts": part_recall(rows["parts"], place)} if name == "cam_recall" and "parts" in rows else {}
            mean = float(each.nanmean())
            found.found(f"segmentation/{name}", mean, **facts, each=by_class(each, self.classes), **shares)
        if draw and "segmentation/cam_miou" in found.metrics:
            found.pictures.append(sweep_curves(swept, self.thresholds, facts["threshold"]))

    def show(self, model: object, rows: Rows, found: Evaluation, again: Again) -> list[Picture]:
        """The pictures with the lowest IoU, with what was found and the truth, from what `conclude` has `found`."""
        columns: dict[str, Callable[[Batch], Tensor]] = {}
        counts: dict[str, Tensor] = {}
        if "segmentation/cam_miou" in found.metrics and isinstance(model, Seeder):
            threshold = found.detail["segmentation/cam_miou"]["threshold"]
            name, place = f"maps > {threshold:.2f}", round(threshold / STEP)
            columns[name] = partial(self._thresholded, model, place)
            counts[name] = picture_counts(rows["sweep"], rows["classes"], rows["true"], place)
        if "segmentation/miou" in found.metrics and isinstance(model, Segmenter):
            segment = model.segment
            columns["network"] = lambda batch: segment(batch.images)
            counts["network"] = rows["network"]
        if not columns:
            return []
        return [draw_worst("worst_masks", "Masks, worst first", rows, self.classes, columns, counts, again)]

    def _thresholded(self, model: Seeder, place: int, batch: Batch) -> Tensor:
        assert batch.targets is not None
        present = multi_hot(batch.targets, len(self.classes))
        seeds = checked_seeds(model.seeds(batch.images, present.float()), batch, present)
        return class_masks(seeds, threshold=float(self.thresholds[place]), present=present)


class PseudoMasks(Evaluator):
    """`segmentation/pseudo_miou`: the pseudo masks of the training pictures against the true ones."""

    suite: ClassVar[str] = "pseudo_masks"
    family: ClassVar[str] = "segmentation"
    """The number belongs with those of the other masks, and is named so."""
    metrics: ClassVar[tuple[str, ...]] = ("pseudo_miou",)
    native: ClassVar[bool] = True
    needs: ClassVar[type] = PseudoLabeller
    wants: ClassVar[frozenset[str]] = frozenset({"masks"})
    split: ClassVar[str | None] = "train"
    """Where pseudo masks are made, whatever split is reported."""

    def measure(self, model: PseudoLabeller, batch: Batch) -> Rows:
        """Per picture: whether it has a pseudo mask, and the counts of that."""
        assert batch.masks is not None
        made = [model.pseudo_mask(name) for name in batch.ids]
        masks = side_by_side(made, batch)
        counts = class_counts(confusion(batch.masks, masks, len(self.classes) + 1)).int()
        return {"made": torch.tensor([mask is not None for mask in made]), "pseudo": counts}

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """Nothing is chosen here. Pictures without a pseudo mask are not counted; the detail says how many they are."""
        found = Evaluation()
        name, made = "segmentation/pseudo_miou", rows["made"]
        if not made.any():
            found.leave_out(name, "no picture has a pseudo mask")
        else:
            own = rows["pseudo"][made]
            record_miou(found, name, own.sum(dim=0), self.classes, n=len(own), without=int((~made).sum()))
        return found

    def show(self, model: PseudoLabeller, rows: Rows, found: Evaluation, again: Again) -> list[Picture]:
        """The pseudo masks with the lowest IoU, beside the true ones."""
        if "segmentation/pseudo_miou" not in found.metrics:
            return []
        own = {name: values[rows["made"]] for name, values in rows.items()}
        name = "pseudo mask"
        columns: dict[str, Callable[[Batch], Tensor]] = {
            name: lambda batch: side_by_side([model.pseudo_mask(id) for id in batch.ids], batch)
        }
        title = "Pseudo masks, worst first"
        return [draw_worst("worst_pseudo_masks", title, own, self.classes, columns, {name: own["pseudo"]}, again)]


def multi_hot(targets: Tensor, num_classes: int) -> Tensor:
    """Class indices `(B,)` (-1 for none) or zeros and ones `(B, K)` -> which classes each picture shows, bool `(B, K)`."""
    if targets.ndim == 2:
        return targets > 0.5
    return targets[:, None] == torch.arange(num_classes, device=targets.device)


def checked_seeds(seeds: Tensor, batch: Batch, present: Tensor) -> Tensor:
    """A model's maps as float32. Raises ValueError where they are not what a Seeder promises."""
    expected = (*present.shape, *batch.images.shape[-2:])
    if seeds.shape != expected:
        raise ValueError(f"the model's maps are {tuple(seeds.shape)}; expected {expected}")
    if not ((seeds >= 0) & (seeds <= 1)).all():  # NaN compares as false
        raise ValueError("the model's maps must lie in [0, 1] and be finite")
    return seeds.float()


def all_counts(rows: Rows) -> Tensor:
    """The class counts of all pictures at every threshold `(T, 3, K + 1)`."""
    return sweep_counts(rows["sweep"], rows["classes"], rows["true"])


def choose_threshold(validation: Rows | None) -> tuple[int, dict[str, Any]]:
    """The number of the threshold with the best mIoU on the validation rows, and how it came about."""
    if validation is not None:
        score = mean_iou(all_counts(validation))
        if not score.isnan().any():
            return int(score.argmax()), {"chosen_on": "validation", "n_validation": len(validation["index"])}
    return round(FIXED / STEP), {"chosen_on": "nothing: there are no validation pictures with masks, so it is fixed"}


def record_miou(found: Evaluation, name: str, counts: Tensor, classes: Sequence[str], **facts: Any) -> None:
    """Record the mean IoU of class counts `(3, K + 1)` and every class's own; left out where nothing is counted."""
    each = iou(counts)
    value = float(each.nanmean())
    if math.isnan(value):
        found.leave_out(name, NOTHING)
        return
    ground = {} if each[0].isnan() else {"ground": float(each[0])}
    found.found(name, value, **facts, **ground, each=by_class(each[1:], classes))


def by_class(values: Tensor, classes: Sequence[str]) -> dict[str, float]:
    """Values `(K,)` by the names of their classes, without those that are not measured."""
    return {name: value for name, value in zip(classes, values.tolist(), strict=True) if not math.isnan(value)}


def part_recall(histogram: Tensor, place: int) -> dict[str, float]:
    """For every part that is there, by its index, the share of its pixels found as their class at threshold `place`."""
    total = histogram.sum(dim=0)
    share = total[:, place + 1 :].sum(dim=1) / total.sum(dim=1)
    return {str(part): value for part, value in enumerate(share.tolist()) if part > 0 and not math.isnan(value)}


def side_by_side(made: Sequence[Tensor | None], batch: Batch) -> Tensor:
    """Pseudo masks as uint8 `(B, H, W)` on the batch's device, ground for those that are missing.

    Raises ValueError where one is not in the frame of the true mask.
    """
    assert batch.masks is not None
    masks = torch.zeros_like(batch.masks)
    for row, mask in enumerate(made):
        if mask is None:
            continue
        if mask.shape != masks[row].shape:
            raise ValueError(
                f"{batch.ids[row]}: the pseudo mask is {tuple(mask.shape)}, the true one {tuple(masks[row].shape)}"
            )
        masks[row] = mask.to(masks.device)
    return masks


def draw_worst(
    name: str,
    title: str,
    rows: Rows,
    classes: Sequence[str],
    columns: Mapping[str, Callable[[Batch], Tensor]],
    counts: Mapping[str, Tensor],
    again: Again,
) -> Picture:
    """The pictures with the lowest IoU of the last column; `counts` `(n, 3, K + 1)` of every column, as `rows` are sorted.

    `columns` name -> a batch's masks. Pictures that can no longer be read are passed over.
    """
    scores = {column: mean_iou(own) for column, own in counts.items()}
    shown = []
    for place in worst(scores[list(scores)[-1]]).tolist():
        batch = again(int(rows["index"][place]))
        if batch is not None:
            masks = {column: find(batch)[0].cpu() for column, find in columns.items()}
            shown.append(Row(batch, masks, {column: float(own[place]) for column, own in scores.items()}))
    return worst_rows(name, title, shown, classes)
