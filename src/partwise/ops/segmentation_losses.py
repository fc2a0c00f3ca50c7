"""Losses of segmentation networks against masks with a void value, and masks at the size of a network's scores.

Scores are `(B, K, h, w)` without softmax, masks integers `(B, h, w)` with class indices below K and 255 for pixels that
count nowhere. All are computed in at least float32. Where a batch is spread over processes whose gradients are averaged,
`average` (the mean of a tensor over the processes) makes the loss that of the whole batch, however the void pixels fall.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Integer, Shaped
from torch import Tensor

from partwise.ops.averages import Average, alone
from partwise.ops.multi_scale import Forward, fuse_max, rescale

IGNORED = 255
"""The mask value of pixels without a class."""
TRAINING_SCALES = (1.0, 0.75, 0.5)
"""Picture sizes of DeepLab-v2's training."""

Criterion = Callable[[Tensor, Tensor], Tensor]


def pixel_losses(
    logits: Float[Tensor, "b k h w"], labels: Integer[Tensor, "b h w"], *, ignore: int = IGNORED
) -> Float[Tensor, "b h w"]:
    """Cross entropy of every pixel, 0 where the label is `ignore`.

    Raises ValueError for labels of another size than the scores (see resize_labels) and, on the CPU, for labels that are
    no class.
    """
    if labels.ndim != 3 or labels.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(
            f"labels {tuple(labels.shape)} do not fit scores {tuple(logits.shape)}; expected (B, h, w), see resize_labels"
        )
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    try:
        return F.cross_entropy(wide, labels.long(), ignore_index=ignore, reduction="none")
    except IndexError as error:  # an accelerator says so at its own time
        found = labels[(labels != ignore) & ((labels < 0) | (labels >= logits.shape[1]))].unique().tolist()
        raise ValueError(
            f"labels hold {found}; expected 0 to {logits.shape[1] - 1}, or {ignore} to be ignored"
        ) from error


def masked_mean(
    values: Float[Tensor, "*n"], chosen: Shaped[Tensor, "*n"], *, average: Average = alone
) -> Float[Tensor, ""]:
    """The mean of the chosen values; 0, with gradients of 0, where none is chosen."""
    count = average(chosen.sum().to(values.dtype))
    # not clamped to 1: over processes the mean number of pixels may be a fraction
    return values.masked_fill(~chosen, 0.0).sum() / torch.where(count > 0, count, 1.0)


def cross_entropy(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h w"],
    *,
    ignore: int = IGNORED,
    average: Average = alone,
) -> Float[Tensor, ""]:
    """Mean cross entropy over the pixels of the batch that are not `ignore`; 0 where there is none."""
    return masked_mean(pixel_losses(logits, labels, ignore=ignore), labels != ignore, average=average)


def balanced_cross_entropy(
    logits: Float[Tensor, "b k h w"],
    labels: Integer[Tensor, "b h w"],
    *,
    ignore: int = IGNORED,
    average: Average = alone,
) -> Float[Tensor, ""]:
    """Half the mean over background pixels (class 0) plus half the mean over foreground pixels, of the whole batch.

    The balance of Huang et al. (DSRG, 2018): background is most of a picture, and without it an ImageNet start may learn
    nothing else. Pixels that are `ignore` are in neither mean; a mean over no pixel is 0.
    """
    losses = pixel_losses(logits, labels, ignore=ignore)
    background = labels == 0
    foreground = ~background & (labels != ignore)
    return 0.5 * (masked_mean(losses, background, average=average) + masked_mean(losses, foreground, average=average))


def multi_scale_loss(
    forward: Forward,
    images: Float[Tensor, "b c h w"],
    labels: Integer[Tensor, "b oh ow"],
    *,
    scales: Sequence[float] = TRAINING_SCALES,
    criterion: Criterion = cross_entropy,
) -> Float[Tensor, ""]:
    """DeepLab-v2's training loss: `criterion` summed over the scores of every scale and over their pixelwise maximum.

    Each scale's scores are compared at their own resolution, with `labels` resized to it (resize_labels). Raises
    ValueError where no scale is given.
    """
    if not scales:
        raise ValueError("multi_scale_loss: expected at least one scale")
    scores = [forward(rescale(images, scale)) for scale in scales]
    losses = [
        criterion(each, resize_labels(labels, (each.shape[-2], each.shape[-1]))) for each in [*scores, fuse_max(scores)]
    ]
    return torch.stack(losses).sum()


def resize_labels(labels: Shaped[Tensor, "b h w"], size: tuple[int, int]) -> Shaped[Tensor, "b oh ow"]:
    """Masks at `size` (height, width), by nearest pixel, exactly as PIL's NEAREST samples: at the centres of the cells.

    torch's "nearest" samples at the corners, half a cell off; values and dtype stay.
    """
    rows, columns = (
        torch.tensor(nearest_indices(old, new), device=labels.device)
        for old, new in zip(labels.shape[-2:], size, strict=True)
    )
    return labels[..., rows[:, None], columns]


@functools.lru_cache(maxsize=1024)
def nearest_indices(old: int, new: int) -> tuple[int, ...]:
    """Which of `old` pixels each of `new` takes: floor((i + 0.5) old / new), with PIL's rounding of the sum.

    PIL adds the step up in double precision instead of multiplying, which decides ties; so does this.
    """
    step = old / new
    positions = np.cumsum(np.concatenate([[step * 0.5], np.full(new - 1, step)]))
    return tuple(positions.astype(np.int64).tolist())
