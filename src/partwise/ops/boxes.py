"""Boxes: `(x1, y1, x2, y2)` in pixels, half-open, so that `x2 - x1` is the width and a box of no pixels has no area.

This is the one place where that is said; every box of the package follows it. `convention="wsol"` measures boxes as
the reference code of MaxBoxAcc (Choe et al. 2020) does: corners are whole pixels and both belong to the box, hence
`+ 1`. Not for finding boxes in maps (localize.py) or for moving pictures along with their boxes (data/augment.py).
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

Convention = Literal["continuous", "wsol"]


def check(boxes: Float[Tensor, "*n 4"]) -> None:
    """Raise ValueError for a box whose second corner lies before its first, or that is not finite."""
    wrong = (boxes[..., 2:] < boxes[..., :2]).any(dim=-1) | ~boxes.isfinite().all(dim=-1)
    if wrong.any():
        box = boxes[wrong][0].tolist()
        raise ValueError(f"box {box}: expected finite (x1, y1, x2, y2) with x1 <= x2 and y1 <= y2")


def area(boxes: Float[Tensor, "*n 4"], *, convention: Convention = "continuous") -> Float[Tensor, "*n"]:
    """Square pixels; under "wsol" a box of equal corners is one pixel large."""
    sides = boxes[..., 2:] - boxes[..., :2] + (1.0 if convention == "wsol" else 0.0)
    return sides.prod(dim=-1)


def iou(
    first: Float[Tensor, "*b n 4"], second: Float[Tensor, "*b m 4"], *, convention: Convention = "continuous"
) -> Float[Tensor, "*b n m"]:
    """Intersection over union of every box of `first` with every one of `second`; 0 where both are empty.

    Raises ValueError for an inverted box.
    """
    check(first)
    check(second)
    a, b = first.unsqueeze(-2), second.unsqueeze(-3)
    inclusive = 1.0 if convention == "wsol" else 0.0
    sides = torch.minimum(a[..., 2:], b[..., 2:]) - torch.maximum(a[..., :2], b[..., :2]) + inclusive
    shared = sides.clamp(min=0).prod(dim=-1)
    union = area(a, convention=convention) + area(b, convention=convention) - shared
    return torch.where(union > 0, shared / union.clamp(min=torch.finfo(union.dtype).tiny), 0.0)


def nonempty(boxes: Float[Tensor, "*n 4"]) -> Bool[Tensor, "*n"]:
    """Which boxes have an area: what is left after a crop is told from what fell outside."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def clip(boxes: Float[Tensor, "*n 4"], size: tuple[int, int]) -> Float[Tensor, "*n 4"]:
    """Boxes cut to a picture of `size` (height, width); what lies outside becomes empty, at the border."""
    height, width = size
    return torch.minimum(boxes.clamp(min=0), boxes.new_tensor([width, height, width, height]))


def resize(
    boxes: Float[Tensor, "*n 4"],
    *,
    source: tuple[int, int],
    target: tuple[int, int],
    convention: Convention = "continuous",
) -> Float[Tensor, "*n 4"]:
    """Boxes of a picture of size `source` (height, width), resized to `target`; "wsol" cuts them to whole pixels."""
    y, x = target[0] / source[0], target[1] / source[1]
    scaled = boxes * boxes.new_tensor([x, y, x, y])
    return scaled.trunc() if convention == "wsol" else scaled


def crop(boxes: Float[Tensor, "*n 4"], window: tuple[int, int, int, int]) -> Float[Tensor, "*n 4"]:
    """Boxes in the frame of a window (x1, y1, x2, y2) of their picture, cut to it."""
    x1, y1, x2, y2 = window
    return clip(boxes - boxes.new_tensor([x1, y1, x1, y1]), (y2 - y1, x2 - x1))


def flip(boxes: Float[Tensor, "*n 4"], *, width: int) -> Float[Tensor, "*n 4"]:
    """Boxes of a picture of that width, mirrored left-right with it."""
    x1, y1, x2, y2 = boxes.unbind(dim=-1)
    return torch.stack([width - x2, y1, width - x1, y2], dim=-1)
