"""Pictures changed so that a classifier errs: attacks in pixel space, within eps of each value, and covered pictures.

For measuring, not for training. Gradients are taken of whatever maps pictures in [0, 1] to logits, row by row, so that a
picture's result does not depend on its batch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Logits = Callable[[Tensor], Tensor]


def loss_gradient(
    logits: Logits, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"]
) -> Float[Tensor, "b c h w"]:
    """d cross entropy / d picture of every row by itself; what `logits` depends on besides gets none.

    Zero where logits do not depend on the picture by anything that has a gradient.
    """
    with torch.enable_grad():
        asked = images.detach().requires_grad_()
        loss = F.cross_entropy(logits(asked).float(), targets, reduction="sum")
        if not loss.requires_grad:
            return torch.zeros_like(images)
        (gradient,) = torch.autograd.grad(loss, asked, allow_unused=True, materialize_grads=True)
    return gradient


def fgsm(
    logits: Logits, images: Float[Tensor, "b c h w"], targets: Int64[Tensor, " b"], *, eps: float
) -> Float[Tensor, "b c h w"]:
    """x + eps sign(dL/dx), clipped to [0, 1] (Goodfellow et al., 2015): one step, a weak attack."""
    return (images + eps * loss_gradient(logits, images, targets).sign()).clamp(0, 1)


def pgd(
    logits: Logits,
    images: Float[Tensor, "b c h w"],
    targets: Int64[Tensor, " b"],
    *,
    eps: float,
    start: Float[Tensor, "b c h w"],
    steps: int = 20,
    step: float | None = None,
) -> Float[Tensor, "b c h w"]:
    """Projected gradient ascent within eps (Madry et al., 2018), from `start` in [-1, 1] times eps off the picture.

    `step` defaults to eps / 4. Values are kept in [0, 1].
    """
    size = eps / 4 if step is None else step
    low, high = (images - eps).clamp_min(0), (images + eps).clamp_max(1)
    found = torch.minimum(torch.maximum(images + eps * start, low), high)
    for _ in range(steps):
        found = found + size * loss_gradient(logits, found, targets).sign()
        found = torch.minimum(torch.maximum(found, low), high)
    return found


def withstands(
    logits: Logits,
    images: Float[Tensor, "b c h w"],
    targets: Int64[Tensor, " b"],
    *,
    eps: float,
    starts: Callable[[int], Float[Tensor, "b c h w"]],
    restarts: int = 5,
    steps: int = 20,
) -> Bool[Tensor, " b"]:
    """Which pictures are named right as they are and after `pgd` from each of `starts(0)`, `starts(1)`, ...

    One restart that succeeds is enough; pictures that are lost are not attacked again.
    """
    with torch.no_grad():
        right = logits(images).argmax(1) == targets
    for number in range(restarts):
        left = right.nonzero()[:, 0]
        if len(left) == 0:
            break
        rows = images[left], targets[left]
        changed = pgd(logits, *rows, eps=eps, start=starts(number)[left], steps=steps)
        with torch.no_grad():
            right[left] = logits(changed).argmax(1) == rows[1]
    return right


def centred_square(height: int, width: int, share: float) -> Bool[Tensor, "h w"]:
    """A square (of other pictures: a rectangle of their shape) about the middle whose sides are this share, whole pixels."""
    sides = [round(share * side) for side in (height, width)]
    inside = torch.zeros(height, width, dtype=torch.bool)
    top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
    inside[top : top + sides[0], left : left + sides[1]] = True
    return inside


def occluded(
    images: Float[Tensor, "b c h w"], share: float, fill: Float[Tensor, " c"], *, outside: bool
) -> Float[Tensor, "b c h w"]:
    """Pictures whose middle is covered with `fill`, or with `outside` all but the middle (CutMix, section 4.4)."""
    inside = centred_square(images.shape[2], images.shape[3], share).to(images.device)
    return torch.where(inside ^ outside, fill.to(images)[:, None, None], images)


def between(
    first: Float[Tensor, "b c h w"], second: Float[Tensor, "b c h w"], share: float, *, boxes: bool
) -> Float[Tensor, "b c h w"]:
    """Pictures between two classes: share * first + (1 - share) * second, or the second in a hole in the middle.

    The hole has sides of 1 - share (CutMix, appendix E): `share` is then of the sides, not of the area.
    """
    if not boxes:
        return torch.lerp(second, first, share)
    hole = centred_square(first.shape[2], first.shape[3], 1 - share).to(first.device)
    return torch.where(hole, second, first)
