"""What is done to a training picture: stretched and rotated a little, now and then turned upside down, with its polarity."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Turns:
    """One entry a picture: `angle` in radians, counter-clockwise, float32; bool `upended`; `stretch` of width and height."""

    angle: Tensor
    upended: Tensor
    stretch: Tensor
    """float32 `(B, 2)`; 1 leaves a side as it is."""

    def rows(self, own: slice) -> Turns:
        """Those of some pictures of a batch."""
        return Turns(self.angle[own], self.upended[own], self.stretch[own])


def draw_turns(count: int, *, rotation: float, upend: bool, stretch: float = 0.0, generator: torch.Generator) -> Turns:
    """Angles even in [-rotation, rotation] degrees, coins, and factors between 1 / (1 + stretch) and 1 + stretch, on the CPU.

    Width and height are drawn apart: chromosomes of another cell are condensed more or less, which changes mostly their length.
    """
    angle = (torch.rand(count, generator=generator) * 2 - 1) * math.radians(rotation)
    coin = torch.rand(count, generator=generator) < 0.5
    factors = ((torch.rand(count, 2, generator=generator) * 2 - 1) * math.log1p(stretch)).exp()
    return Turns(angle, coin if upend else torch.zeros_like(coin), factors)


def turned(images: Tensor, turns: Turns) -> Tensor:
    """Float pictures `(B, C, S, S)` in [0, 1], stretched, upended where wanted, then rotated, on a white ground.

    Upending is a mirror image, top for bottom, as in the paper. Pictures without any turn come back with rounding alone.
    """
    angle, sign = turns.angle.to(images.device), torch.where(turns.upended, -1.0, 1.0).to(images.device)
    cos, sin = angle.cos(), angle.sin()
    zero = torch.zeros_like(cos)
    # Output place -> picture place: rotated back, then mirrored back, then pressed together again. y points down.
    wide, high = turns.stretch.to(images.device).unbind(dim=1)
    theta = torch.stack([cos / wide, -sin / wide, zero, sin * sign / high, cos * sign / high, zero], dim=1)
    theta = theta.unflatten(1, (2, 3))
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    # Outside is zero, and zero shall be white.
    return 1 - F.grid_sample(1 - images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def after(polarity: Tensor, turns: Turns) -> Tensor:
    """Polarities int64 `(B,)` once the pictures are turned; -1, not known, stays."""
    return torch.where(polarity < 0, polarity, polarity ^ turns.upended.to(polarity))
