"""Pixels by true and predicted class: confusion, IoU, precision and recall, and every threshold of a score in one pass.

Masks hold 0 for the ground, k + 1 for class k, 255 for void; `num_classes` counts the ground. Void of the truth is counted
nowhere; a prediction is never left out, and void in one counts as the ground. A class that neither truth nor prediction
shows has no IoU, precision or recall (NaN, passed over in means); where it is in one of them, nothing over nothing is 0.
So the three means run over the same classes.

The sweep. Where no score of a pixel exceeds the threshold t it is ground, else the class of its highest score; a score that
equals t is ground. So the number of thresholds below the highest score, counted by class, tells all confusions at once.
Only the classes that a picture is known to show may be predicted in it, and all means need of a confusion is how many
pixels of each class are true, predicted, and both. Hence a picture keeps, instead of `thresholds x classes x classes`
numbers, for each class that it shows and for the ground two histograms: right pixels, wrong pixels.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

VOID = 255


def confusion(
    truth: UInt8[Tensor, "b h w"], predicted: UInt8[Tensor, "b h w"], num_classes: int
) -> Int[Tensor, "b k k"]:
    """Pixels of each picture, int64: rows are true classes, columns predicted ones.

    Raises ValueError for masks of different shapes, and for a value that is neither void nor below `num_classes`.
    """
    if truth.shape != predicted.shape:
        raise ValueError(f"confusion: the truth is {tuple(truth.shape)}, the prediction {tuple(predicted.shape)}")
    kept = truth != VOID
    true, found = truth.long(), predicted.long().masked_fill(predicted == VOID, 0)
    for name, values in (("truth", true[kept]), ("prediction", found)):
        if values.numel() and int(values.max()) >= num_classes:
            raise ValueError(
                f"confusion: the {name} holds {int(values.max())}; expected below {num_classes}, or {VOID}"
            )
    flat = (_pictures(truth, 3) * num_classes + true) * num_classes + found
    counts = torch.bincount(flat[kept], minlength=len(truth) * num_classes**2)
    return counts.reshape(len(truth), num_classes, num_classes)


def _pictures(batch: Tensor, ndim: int) -> Int[Tensor, " b *one"]:
    """The number of each picture, shaped to go with tensors of so many dimensions."""
    return torch.arange(len(batch), device=batch.device).reshape(-1, *[1] * (ndim - 1))


# -- what a confusion says of each class -------------------------------------------------------------------------------


def class_counts(matrix: Int[Tensor, "*n k k"]) -> Int[Tensor, "*n three k"]:
    """Of every class the pixels that are both true and predicted, those that are true, those that are predicted.

    Counts of several pictures add up to those of all.
    """
    both = matrix.diagonal(dim1=-2, dim2=-1)
    return torch.stack([both, matrix.sum(dim=-1), matrix.sum(dim=-2)], dim=-2)


def iou(counts: Int[Tensor, "*n three k"]) -> Float[Tensor, "*n k"]:
    """Pixels in both over pixels in either, of `class_counts`; float64."""
    both, true, predicted = counts.double().unbind(dim=-2)
    return both / (true + predicted - both)


def mean_iou(counts: Int[Tensor, "*n three k"]) -> Float[Tensor, "*n"]:
    """The mean over classes, ground included, float64; NaN where nothing is counted."""
    return iou(counts).nanmean(dim=-1)


def precision_recall(
    counts: Int[Tensor, "*n three k"],
) -> tuple[Float[Tensor, "*n k"], Float[Tensor, "*n k"]]:
    """Pixels in both over those predicted, and over those true, of `class_counts`; float64."""
    both, true, predicted = counts.double().unbind(dim=-2)
    absent = true + predicted == 0
    precision, recall = both / predicted.clamp(min=1), both / true.clamp(min=1)
    return precision.masked_fill(absent, torch.nan), recall.masked_fill(absent, torch.nan)


# -- every threshold at once -------------------------------------------------------------------------------------------


def best_class(
    scores: Float[Tensor, "b k h w"], present: Bool[Tensor, "b k"]
) -> tuple[Float[Tensor, "b h w"], UInt8[Tensor, "b h w"]]:
    """The highest score among the classes that a picture shows, and its class as a mask value, the first of equal ones.

    Where no such score is above 0, both are 0.
    """
    assert scores.shape[1] < VOID, f"{VOID} is the void value of a mask"
    best, which = scores.masked_fill(~present[:, :, None, None], 0).max(dim=1)
    some = best > 0
    return best * some, ((which + 1) * some).to(torch.uint8)


def shown_classes(present: Bool[Tensor, "b k"], slots: int) -> Int[Tensor, "b slots"]:
    """The mask values of the classes that each picture shows, rising, filled up with 0; int64.

    Raises ValueError where a picture shows more classes than there are slots.
    """
    most = int(present.sum(dim=1).max()) if len(present) else 0
    if most > slots:
        raise ValueError(f"a picture shows {most} classes; expected at most {slots}")
    value = torch.arange(1, present.shape[1] + 1, device=present.device)
    absent = present.shape[1] + 1
    rising = torch.where(present, value, absent).sort(dim=1).values[:, :slots]
    return rising.masked_fill(rising == absent, 0)


def sweep_histogram(
    best: Float[Tensor, "b h w"],
    which: UInt8[Tensor, "b h w"],
    truth: UInt8[Tensor, "b h w"],
    thresholds: Float[Tensor, " t"],
    classes: Int[Tensor, "b slots"],
) -> Int[Tensor, "b rows two bins"]:
    """Pixels by how many of the rising `thresholds` lie below their score, int32 `(B, slots + 1, 2, T + 1)`.

    `best` and `which` as `best_class` gives them, `classes` as `shown_classes` does. Row r holds the pixels whose best
    class is `classes[:, r]`, the last row all pixels; `[:, r, 1]` are those whose truth is the row's class (the last
    row's: the ground), `[:, r, 0]` the others.
    """
    count, slots = classes.shape
    rows, bins = slots + 1, len(thresholds) + 1
    row_of = torch.zeros(count, VOID + 1, dtype=torch.long, device=classes.device)
    row_of.scatter_(1, classes, torch.arange(slots, device=classes.device).expand(count, -1))
    row = row_of.gather(1, which.flatten(1).long())
    row = torch.stack([row, torch.full_like(row, slots)], dim=1)
    right = torch.stack([which == truth, truth == 0], dim=1).flatten(2)
    flat = ((_pictures(row, 3) * rows + row) * 2 + right) * bins + _passed(best, thresholds)[:, None]
    kept = (truth != VOID).flatten(1)[:, None].expand_as(flat)
    return torch.bincount(flat[kept], minlength=count * rows * 2 * bins).reshape(count, rows, 2, bins).int()


def _passed(best: Float[Tensor, "b h w"], thresholds: Float[Tensor, " t"]) -> Int[Tensor, "b pixels"]:
    """How many thresholds lie below each score: at threshold j a pixel is ground where this is at most j."""
    return torch.bucketize(best.flatten(1), thresholds)


def sweep_counts(
    histogram: Int[Tensor, "n rows two bins"], classes: Int[Tensor, "n slots"], true: Int[Tensor, "n k"]
) -> Int[Tensor, "t three k"]:
    """`class_counts` of all pictures together at every threshold, int64, from `sweep_histogram` and the true pixels."""
    num_classes, bins = true.shape[1], histogram.shape[-1]
    total = torch.zeros(num_classes, 2, bins, dtype=torch.int64, device=histogram.device)
    for slot in range(classes.shape[1]):  # one at a time: the whole as int64 takes twice the memory
        total.index_add_(0, classes[:, slot], histogram[:, slot].long())
    above = total.flip(-1).cumsum(dim=-1).flip(-1)[..., 1:]
    both, predicted = above[:, 1], above.sum(dim=1)
    ground = histogram[:, -1].sum(dim=0).cumsum(dim=-1)[:, :-1]
    both[0], predicted[0] = ground[1], ground.sum(dim=0)
    counted = true.sum(dim=0)[:, None].expand_as(both)
    return torch.stack([both, counted, predicted]).permute(2, 0, 1)


def picture_counts(
    histogram: Int[Tensor, "n rows two bins"], classes: Int[Tensor, "n slots"], true: Int[Tensor, "n k"], place: int
) -> Int[Tensor, "n three k"]:
    """`class_counts` of each picture at the threshold number `place`, int64."""
    above = histogram[:, :-1, :, place + 1 :].sum(dim=-1)
    ground = histogram[:, -1, :, : place + 1].sum(dim=-1)
    both, predicted = torch.zeros_like(true, dtype=torch.int64), torch.zeros_like(true, dtype=torch.int64)
    both.scatter_add_(1, classes, above[:, :, 1])
    predicted.scatter_add_(1, classes, above.sum(dim=2))
    both[:, 0], predicted[:, 0] = ground[:, 1], ground.sum(dim=1)
    return torch.stack([both, true.long(), predicted], dim=1)


def part_histogram(
    best: Float[Tensor, "b h w"],
    which: UInt8[Tensor, "b h w"],
    truth: UInt8[Tensor, "b h w"],
    parts: UInt8[Tensor, "b h w"],
    thresholds: Float[Tensor, " t"],
    *,
    num_parts: int,
) -> Int[Tensor, "b parts bins"]:
    """Pixels of each part by the number of thresholds up to which they are found as their true class, int32.

    Void and ground of the truth are left out. The recall at threshold j is the share in bins above j. Raises ValueError
    for a part beyond `num_parts`.
    """
    count, bins = len(parts), len(thresholds) + 1
    kept = ((truth != VOID) & (truth != 0)).flatten(1)
    part = parts.flatten(1).long()
    if kept.any() and int(part[kept].max()) >= num_parts:
        raise ValueError(f"a pixel belongs to part {int(part[kept].max())}; expected below {num_parts}")
    passed = _passed(best, thresholds) * (which == truth).flatten(1)
    flat = (_pictures(parts, 2) * num_parts + part) * bins + passed
    return torch.bincount(flat[kept], minlength=count * num_parts * bins).reshape(count, num_parts, bins).int()
