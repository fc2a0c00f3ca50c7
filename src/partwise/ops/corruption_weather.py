"""Snow, frost and fog among the common corruptions; see `corruptions`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partwise.ops.corruption_blurs import motion_blurred
from partwise.ops.sampling import zoomed

Generators = Sequence[torch.Generator]
GREY = (0.299, 0.587, 0.114)
"""Red, green and blue in grey."""


def plasma(side: int, decay: float, generator: torch.Generator) -> Tensor:
    """A height map in [0, 1] by the diamond-square rule, which repeats beyond its borders: float32 `(side, side)`.

    `side` is a power of two. Each new point is the mean of its four neighbours and noise, whose reach falls with each
    halving of the distance; `decay` is the root of that factor.
    """
    assert side & (side - 1) == 0, f"side {side} is no power of two"
    noise = 2 * torch.rand(side, side, generator=generator, dtype=torch.float64) - 1
    heights = torch.zeros(side, side, dtype=torch.float64)
    step, reach = side, 100.0
    while step >= 2:
        half, amount = step // 2, reach * reach
        corners = heights[::step, ::step]
        across = corners + corners.roll(-1, 0)
        heights[half::step, half::step] = (across + across.roll(-1, 1)) / 4 + amount * noise[half::step, half::step]
        middles = heights[half::step, half::step]
        upright = middles + middles.roll(1, 0) + corners + corners.roll(-1, 1)
        heights[::step, half::step] = upright / 4 + amount * noise[::step, half::step]
        level = middles + middles.roll(1, 1) + corners + corners.roll(-1, 0)
        heights[half::step, ::step] = level / 4 + amount * noise[half::step, ::step]
        step, reach = half, reach / decay
    heights -= heights.min()
    return (heights / heights.max()).float()


def plasmas(images: Tensor, decay: float, generators: Generators) -> Tensor:
    """One height map a picture, `(B, 1, H, W)`: the corner of the next power of two."""
    height, width = images.shape[2:]
    side = 1 << (max(height, width, 2) - 1).bit_length()
    maps = [plasma(side, decay, g)[:height, :width] for g in generators]
    return torch.stack(maps)[:, None].to(images)


def fog(images: Tensor, amounts: tuple[float, float], generators: Generators) -> Tensor:
    """Clouds added, and the whole darkened so that its brightest value stays; amounts: how thick, and their decay."""
    thick, decay = amounts
    brightest = images.amax(dim=(1, 2, 3), keepdim=True)
    return (images + thick * plasmas(images, decay, generators)) * brightest / (brightest + thick)


def frost(images: Tensor, amounts: tuple[float, float], generators: Generators) -> Tensor:
    """A share of the picture and a share of frost: pale, bluish ridges, generated in place of published photographs."""
    kept, added = amounts
    fine = plasmas(images, 1.6, generators)
    ridges = 1 - (2 * fine - 1).abs()
    tint = torch.tensor([0.80, 0.90, 1.0] if images.shape[1] == 3 else [0.9] * images.shape[1]).to(images)
    return kept * images + added * (0.35 + 0.65 * ridges) * tint[:, None, None]


def snow(images: Tensor, amounts: tuple[float, ...], generators: Generators) -> Tensor:
    """Flakes that fall at a slant, in front of a paler picture.

    Amounts: mean and spread of the noise, how far it is enlarged, below what there is no flake, radius and sigma of the
    fall, how much of the picture stays as it is.
    """
    mean, spread, enlarged, least, radius, sigma, kept = amounts
    size = images.shape[2:]
    noise = torch.stack([mean + spread * torch.randn(1, *size, generator=g) for g in generators]).to(images)
    flakes = zoomed(noise, enlarged)
    flakes = (255 * torch.where(flakes < least, 0.0, flakes).clamp(0, 1)).floor() / 255
    angles = [float(-135 + 90 * torch.rand((), generator=g)) for g in generators]
    flakes = (255 * motion_blurred(flakes, radius, sigma, angles)).round() / 255
    if images.shape[1] == 3:
        grey = (images * torch.tensor(GREY).to(images)[:, None, None]).sum(dim=1, keepdim=True)
    else:
        grey = images.mean(dim=1, keepdim=True)
    paler = torch.maximum(images, 1.5 * grey + 0.5)
    return kept * images + (1 - kept) * paler + flakes + flakes.rot90(2, (2, 3))
