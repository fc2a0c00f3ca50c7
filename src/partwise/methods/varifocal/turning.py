"""What is done to a training picture: rotated a little, and now and then turned upside down, with its polarity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Turns:
    """One entry a picture: `angle` in radians, counter-clockwise, float32, and bool `upended`."""

    angle: Tensor
    upended: Tensor

    def rows(self, own: slice) -> Turns:
        """Those of some pictures of a batch."""
        return Turns(self.angle[own], self.upended[own])


def draw_turns(count: int, *, rotation: float, upend: bool, generator: torch.Generator) -> Turns:
    """Angles even in [-rotation, rotation] degrees, and coins, on the CPU."""
    angle = (torch.rand(count, generator=generator) * 2 - 1) * math.radians(rotation)
    coin = torch.rand(count, generator=generator) < 0.5
    return Turns(angle, coin if upend else torch.zeros_like(coin))


def turned(images: Tensor, turns: Turns) -> Tensor:
    """Float pictures `(B, C, S, S)` in [0, 1], upended where wanted, then rotated, on a white ground.

    Upending is a mirror image, top for bottom, as in the paper. Pictures without any turn come back with rounding alone.
    """
    angle, sign = turns.angle.to(images.device), torch.where(turns.upended, -1.0, 1.0).to(images.device)
    cos, sin = angle.cos(), angle.sin()
    zero = torch.zeros_like(cos)
    # Output place -> picture place: rotated back, then mirrored back. y points down.
    theta = torch.stack([cos, -sin, zero, sin * sign, cos * sign, zero], dim=1).unflatten(1, (2, 3))
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # Outside is zero, and zero shall be white.
    return 1 - F.grid_sample(1 - images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def after(polarity: Tensor, turns: Turns) -> Tensor:
    """Polarities int64 `(B,)` once the pictures are turned; -1, not known, stays."""
    return torch.where(polarity < 0, polarity, polarity ^ turns.upended.to(polarity))
