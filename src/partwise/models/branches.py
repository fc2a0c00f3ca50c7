"""Noise on residual branches while a network trains: stochastic depth, ShakeDrop, DropBlock.

Blocks of our own networks and of timm's have a place for it, `drop_path`, between a branch and its sum with the shortcut.
`regularise` fills the places; what a network answers later needs them too, so saved.py keeps them with it.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.config import UserError

Kind = Literal["stochastic_depth", "dropblock", "shakedrop"]
Ramp = Literal["linear", "constant"]
PLACES = ("drop_path", "drop_path1", "drop_path2")
"""Attributes of blocks that stand between a branch and its sum; transformers have two."""


class StochasticDepth(nn.Module):
    """Drops the branch of the whole batch with probability `rate`; used, it is scaled by 1 - rate (Huang et al., 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1.0 - self.rate)
        kept = torch.rand((), device=x.device) >= self.rate
        return x * kept.to(x.dtype)


class ShakeDrop(nn.Module):
    """ShakeDrop (Yamada et al., 2018): with probability `rate` the branch is shaken, else left alone.

    The gate is drawn for the batch. A shaken branch is multiplied by alpha ~ U(-1, 1) on the way forward and its gradient by
    beta ~ U(0, 1), both drawn for each picture. Used, the branch is scaled by 1 - rate, its mean factor.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1.0 - self.rate)
        shape = (x.shape[0], *[1] * (x.ndim - 1))
        still = torch.rand((), device=x.device) >= self.rate
        alpha, beta = (torch.rand(shape, device=x.device) for _ in range(2))
        forward = torch.where(still, 1.0, 2.0 * alpha - 1.0).to(x.dtype)
        backward = torch.where(still, 1.0, beta).to(x.dtype)
        # The value is x * forward, the gradient that of x * backward.
        return x * backward + (x * (forward - backward)).detach()


class DropBlock(nn.Module):
    """Sets squares of `size` cells of each channel to zero and scales the rest up (Ghiasi et al., 2018, algorithm 1).

    Corners are drawn at the rate gamma = (1 - keep) / size^2 * h w / ((h - size + 1)(w - size + 1)), so that about `rate` =
    1 - keep of the cells go. A map smaller than the square gets squares of its own side.
    """

    def __init__(self, rate: float, size: int) -> None:
        super().__init__()
        self.rate, self.size = rate, size

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self.rate == 0.0:
            return x
        height, width = x.shape[-2:]
        size = min(self.size, height, width)
        rows, columns = height - size + 1, width - size + 1
        gamma = self.rate / size**2 * (height * width) / (rows * columns)
        corners = (torch.rand(*x.shape[:2], rows, columns, device=x.device) < gamma).float()
        # A cell goes where any corner up to size - 1 above and left of it was drawn.
        dropped = F.max_pool2d(F.pad(corners, [size - 1] * 4), size, stride=1)
        kept = 1.0 - dropped
        scale = kept.numel() / kept.sum().clamp_min(1.0)
        return x * (kept * scale).to(x.dtype)


def regularise(network: nn.Module, *, kind: Kind, rate: float, ramp: Ramp = "linear", size: int = 4) -> nn.Module:
    """Put the noise into every residual branch of `network`, in place, and return it.

    ramp "linear": block l of L has the rate l / L * rate, so that the last has `rate`; "constant": all have it. DropBlock,
    of squares of `size` cells, is put into the deeper half of the blocks alone (the paper has it in the last two stages of
    four), at a constant rate. Raises UserError for a network without residual branches.
    """
    places = [(block, name) for block in network.modules() for name in PLACES if hasattr(block, name)]
    if not places:
        raise UserError(f"{kind}: {type(network).__name__} has no residual branches; choose a ResNet or PyramidNet")
    count = len(places)
    for number, (block, name) in enumerate(places, start=1):
        own = rate if ramp == "constant" else rate * number / count
        noise: nn.Module
        if kind == "dropblock":
            noise = DropBlock(rate, size) if 2 * number > count else nn.Identity()
        else:
            noise = StochasticDepth(own) if kind == "stochastic_depth" else ShakeDrop(own)
        setattr(block, name, noise.train(block.training))
    return network
