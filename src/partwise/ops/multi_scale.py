"""A segmentation network at several picture sizes and mirrored: one set of class scores out of many views.

Pure functions of a callable that maps pictures `(B, C, H, W)` to class scores `(B, K, h, w)` at whatever resolution it
has. Activation maps, which are averaged without class competition, are cam.multi_scale's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from partwise.ops.cam import upsample

Forward = Callable[[Tensor], Tensor]
Fusion = Literal["mean", "max", "probability"]


def rescale(images: Float[Tensor, "b c h w"], scale: float) -> Float[Tensor, "b c oh ow"]:
    """Pictures `scale` times as large, bilinear; sides are rounded, at least 1."""
    height, width = images.shape[-2:]
    return upsample(images, (max(1, round(height * scale)), max(1, round(width * scale))))


def fuse_max(scores: Sequence[Float[Tensor, "b k _ _"]]) -> Float[Tensor, "b k h w"]:
    """The greatest score of every class and cell over maps of several sizes, at the size of the largest.

    DeepLab-v2's fusion: scores are resized bilinearly before they are compared.
    """
    largest = max(scores, key=lambda map: map.shape[-2] * map.shape[-1])
    size = (largest.shape[-2], largest.shape[-1])
    fused = upsample(scores[0], size)
    for other in scores[1:]:
        fused = torch.maximum(fused, upsample(other, size))
    return fused


def multi_scale_logits(
    forward: Forward,
    images: Float[Tensor, "b c h w"],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    fusion: Fusion = "mean",
    size: tuple[int, int] | None = None,
    multiple: int = 1,
) -> Float[Tensor, "b k oh ow"]:
    """Class scores of resized pictures and, with `flip`, of their mirror images, as one map at `size` (height, width).

    `size` is by default that of the pictures. `fusion`: "mean" averages scores at `size` (SEAM's retrained network);
    "max" takes the greatest over the scales at the resolution of the largest map, then the mean with the mirror image's,
    and resizes last (DeepLab-v2, which has no flip); "probability" averages softmax at `size` and returns its logarithm.
    Softmax of the result gives the probabilities in all three. Picture and mirror image go through `forward` as one
    batch. `multiple` above 1 repeats the right and lower border until sides are multiples of it; what a network says
    there is cut off. Raises ValueError where no scale is given.
    """
    if not scales:
        raise ValueError("multi_scale_logits: expected at least one scale")
    target = (images.shape[-2], images.shape[-1]) if size is None else size
    views = [_view(forward, rescale(images, scale), flip=flip, multiple=multiple) for scale in scales]
    twins = 2 if flip else 1
    if fusion == "max":
        return upsample(_mean_of_twins(fuse_max(views), twins), target)
    if fusion == "mean":
        return torch.stack([upsample(_mean_of_twins(view, twins), target) for view in views]).mean(dim=0)
    if fusion != "probability":
        raise ValueError(f"multi_scale_logits: fusion {fusion!r}; expected 'mean', 'max' or 'probability'")
    each = [upsample(view, target).log_softmax(dim=1).unflatten(0, (twins, -1)) for view in views]
    return torch.cat(each).logsumexp(dim=0) - math.log(len(scales) * twins)


def _view(forward: Forward, images: Tensor, *, flip: bool, multiple: int) -> Tensor:
    """Scores of the pictures and, behind them along the batch, of their mirror images, turned back."""
    both = torch.cat([images, images.flip(-1)]) if flip else images
    height, width = images.shape[-2:]
    below, beside = -height % multiple, -width % multiple
    if below or beside:
        scores = forward(F.pad(both, (0, beside, 0, below), mode="replicate"))
        scores = upsample(scores, (height + below, width + beside))[..., :height, :width]
    else:
        scores = forward(both)
    if not flip:
        return scores
    straight, mirrored = scores.chunk(2)
    return torch.cat([straight, mirrored.flip(-1)])


def _mean_of_twins(scores: Tensor, twins: int) -> Tensor:
    return scores.unflatten(0, (twins, -1)).mean(dim=0) if twins > 1 else scores
