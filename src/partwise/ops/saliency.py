"""Where a picture differs from its surroundings, without any network: fine-grained saliency (Montabone and Soto, 2010).

Used to place boxes (SaliencyMix). Not for explaining what a network looks at: that is cam.py's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float32, Int64, Shaped
from torch import Tensor

REACHES = (12, 24, 28, 48, 56, 112)
"""How far the surroundings reach to each side, pixels, at the six scales of the paper."""


def fine_grained_saliency(
    images: Shaped[Tensor, "b c h w"], *, reaches: Sequence[int] = REACHES
) -> Float32[Tensor, "b h w"]:
    """Sum over scales of |pixel - mean of its surroundings|, on the mean of the channels.

    On-centre and off-centre differences count alike, so their sum is the absolute difference. Surroundings are squares
    without the pixel itself, cut off at the border; scales that reach over the whole picture from everywhere are all alike.
    """
    grey = images.float().mean(dim=1)
    height, width = grey.shape[1:]
    total = torch.zeros_like(grey)
    sums = F.pad(grey.double().cumsum(1).cumsum(2), (1, 0, 1, 0))
    for reach in reaches:
        top, bottom = _ends(height, reach, grey.device)
        left, right = _ends(width, reach, grey.device)
        inside = sums[:, bottom][:, :, right] - sums[:, top][:, :, right] - sums[:, bottom][:, :, left]
        inside = inside + sums[:, top][:, :, left]
        count = (bottom - top)[:, None] * (right - left)
        surroundings = (inside - grey) / (count - 1).clamp_min(1)
        total += torch.where(count > 1, (grey - surroundings).abs(), 0.0).float()
    return total


def peaks(saliency: Shaped[Tensor, "b h w"]) -> Int64[Tensor, "b 2"]:
    """The most salient pixel (x, y) of each picture; of equal ones the first in reading order."""
    width = saliency.shape[2]
    place = saliency.flatten(1).argmax(dim=1)
    return torch.stack((place % width, place // width), dim=1)


def _ends(length: int, reach: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """First and one behind the last pixel within `reach` of each pixel of a line."""
    places = torch.arange(length, device=device)
    return (places - reach).clamp_min(0), (places + reach + 1).clamp_max(length)
