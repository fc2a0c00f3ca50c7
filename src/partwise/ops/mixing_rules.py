"""What a mix is: the parameters of CutMix, Mixup, Cutout, ResizeMix or FMix for one batch, drawn once and applied everywhere.

A `Mix` says which picture each row is mixed with, where and how much. It holds no pixels, so the same one is applied to
images, targets, masks and detection boxes, stored and replayed. Drawing one is `mixing_draws`, applying it
`mixing_pixels` and `mixing_labels`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float32, Int64
from torch import Tensor

from partwise.config import UserError, nearest

Rule = Literal["cutmix", "mixup", "cutout", "resizemix", "fmix"]
Mode = Literal["sample", "pair", "batch"]
PartnerRule = Literal["permutation", "derangement", "flip", "roll"]
Gate = Literal["sample", "batch"]


@dataclass(frozen=True, eq=False)
class Mix:
    """The drawn parameters for a batch of B pictures; row i concerns picture i.

    `boxes` are `(x1, y1, x2, y2)` in pixels, half-open, in a frame of `size` = (height, width); an empty box changes
    nothing. `partner` is the row of the source (the batch itself, or the gathered global batch) that picture i is mixed
    with. `lam` is the weight of picture i's own target, 1 where the gate left it alone. `shared` says that all rows
    carry one box, so that one slice copies it; `first` is where row 0 stands in the batch that partners point into.
    `fill` is what Cutout writes, one value or one a channel, in the images' own units. `shapes` are the pixels that FMix
    takes from the partner, whose boxes are empty.
    """

    rule: Rule
    size: tuple[int, int]
    boxes: Int64[Tensor, "b 4"]
    partner: Int64[Tensor, " b"]
    lam: Float32[Tensor, " b"]
    shared: bool = False
    first: int = 0
    fill: tuple[float, ...] = (0.0,)
    shapes: Bool[Tensor, "b h w"] | None = None

    def __len__(self) -> int:
        return self.partner.shape[0]

    @property
    def device(self) -> torch.device:
        """Where the parameters are; on the CPU they can be read without waiting for an accelerator."""
        return self.boxes.device

    def slice(self, lo: int, hi: int) -> Mix:
        """Rows `lo` to `hi` of a mix drawn for the global batch; partners keep pointing into that global batch."""
        lo, hi, _ = slice(lo, hi).indices(len(self))
        boxes, partner, lam = (tensor[lo:hi] for tensor in (self.boxes, self.partner, self.lam))
        shapes = None if self.shapes is None else self.shapes[lo:hi]
        return replace(self, boxes=boxes, partner=partner, lam=lam, shapes=shapes, first=self.first + lo)

    def to(self, device: torch.device | str) -> Mix:
        """The same mix with its tensors on `device`, without waiting for the copies."""
        if self.device == torch.device(device):
            return self
        boxes, partner, lam = (tensor.to(device, non_blocking=True) for tensor in (self.boxes, self.partner, self.lam))
        shapes = None if self.shapes is None else self.shapes.to(device, non_blocking=True)
        return replace(self, boxes=boxes, partner=partner, lam=lam, shapes=shapes)


def check_choice(value: str, choices: Collection[str], what: str) -> None:
    """Raises UserError with the valid names, the nearest first, where `value` is none of them."""
    if value not in choices:
        close = nearest(value, choices)
        hint = f"; did you mean {close!r}?" if close else ""
        raise UserError(f"{what}: got {value!r}, expected one of {', '.join(choices)}{hint}")


def check_share(value: float, what: str) -> None:
    """Raises UserError unless `value` lies in [0, 1]."""
    if not 0.0 <= value <= 1.0:
        raise UserError(f"{what}: got {value}, expected a number from 0 to 1")


MODES: tuple[str, ...] = get_args(Mode)
PARTNER_RULES: tuple[str, ...] = get_args(PartnerRule)
GATES: tuple[str, ...] = get_args(Gate)
