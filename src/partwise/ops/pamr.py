"""Pixel-adaptive mask refinement (Araslanov and Roth 2020): maps diffused along what looks alike nearby.

Cheap, batched and differentiable in the maps, for use inside a training step. Not a replacement for a dense CRF and its
published numbers (crf.py): no unary term holds a pixel to its evidence, and it sees no further than its dilations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

DILATIONS = (1, 2, 4, 8, 12, 24)


def pamr(
    image: Float[Tensor, "b 3 h w"],
    maps: Float[Tensor, "b c h w"],
    *,
    iterations: int = 10,
    dilations: Sequence[int] = DILATIONS,
) -> Float[Tensor, "b c h w"]:
    """Maps of the picture's size after `iterations` rounds of `m_i <- sum_j a_ij m_j` over the neighbours of `affinities`.

    Channels do not mix, and the range of a map never grows. Pictures in [0, 1]. Raises ValueError where batch or size of
    picture and maps differ, and for no or non-positive dilations.
    """
    if image.shape[0] != maps.shape[0] or image.shape[2:] != maps.shape[2:]:
        raise ValueError(f"pamr: picture {tuple(image.shape)} and maps {tuple(maps.shape)} differ in batch or size")
    if not dilations or min(dilations) < 1:
        raise ValueError(f"pamr: dilations {tuple(dilations)}; expected at least one, all positive")
    weights = affinities(image, dilations)
    for _ in range(iterations):
        refined = torch.zeros_like(maps)
        for place, shifted in enumerate(_neighbours(maps, dilations)):
            refined = refined.addcmul_(weights[:, place, None], shifted)
        maps = refined
    return maps


def affinities(image: Float[Tensor, "b 3 h w"], dilations: Sequence[int]) -> Float[Tensor, "b k h w"]:
    """Weights of each pixel's 8 neighbours at every dilation, adding up to 1; beyond the border its nearest pixel counts.

    Softmax over neighbours j of the mean over colours of `-|I_i - I_j| / (1e-8 + 0.1 s_i)`, where s is the standard
    deviation (n - 1) over the 3 x 3 grids of all dilations, in which the pixel itself occurs once a dilation.
    """
    # Differences from the pixel itself, of which it has none: their spread is that of the colours.
    count = 9 * len(dilations)
    mean = torch.zeros_like(image)
    for neighbour in _neighbours(image, dilations):
        mean = mean + (neighbour - image) / count
    squares = len(dilations) * mean.square()
    for neighbour in _neighbours(image, dilations):
        squares = squares + (neighbour - image - mean).square()
    scale = 1e-8 + 0.1 * (squares / (count - 1)).sqrt()
    likeness = [-((neighbour - image).abs() / scale).mean(dim=1) for neighbour in _neighbours(image, dilations)]
    return torch.stack(likeness, dim=1).softmax(dim=1)


def _neighbours(values: Float[Tensor, "b c h w"], dilations: Sequence[int]) -> list[Float[Tensor, "b c h w"]]:
    """Views of the values moved by every offset, dilation by dilation, each from the upper left in reading order."""
    height, width = values.shape[2:]
    margin = max(dilations)
    padded = F.pad(values, [margin] * 4, mode="replicate")
    moves = [
        (margin + dy * dilation, margin + dx * dilation)
        for dilation in dilations
        for dy in (-1, 0, 1)
        for dx in (-1, 0, 1)
        if (dy, dx) != (0, 0)
    ]
    return [padded[:, :, y : y + height, x : x + width] for y, x in moves]
