"""Reading pictures between their pixels, and the plain filters that corruptions are made of. Bilinear, batched."""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

Border = Literal["mirror", "reflect", "edge"]


def folded(places: Int64[Tensor, "*n"], length: int, border: Border) -> Int64[Tensor, "*n"]:
    """Places outside [0, length) brought inside: "mirror" c b | a b c, "reflect" b a | a b c, "edge" a a | a b c."""
    if border == "edge" or length == 1:
        return places.clamp(0, length - 1)
    if border == "mirror":
        period = 2 * length - 2
        place = places.remainder(period)
        return torch.where(place >= length, period - place, place)
    place = places.remainder(2 * length)
    return torch.where(place >= length, 2 * length - 1 - place, place)


def picked(images: Float[Tensor, "b c h w"], rows: Int64[Tensor, "b k l"], columns: Int64[Tensor, "b k l"]) -> Tensor:
    """Pixels (rows, columns) of each picture, all channels: `(B, C, k, l)`."""
    batch, channels, _, width = images.shape
    index = (rows * width + columns).flatten(1)[:, None].expand(batch, channels, -1)
    return images.flatten(2).gather(2, index).view(batch, channels, *rows.shape[1:])


def bilinear(
    images: Float[Tensor, "b c h w"], y: Float[Tensor, "b k l"], x: Float[Tensor, "b k l"], *, border: Border
) -> Float[Tensor, "b c k l"]:
    """Values at the points (y, x), whose whole numbers are pixels' centres; beyond the picture as `border` says."""
    height, width = images.shape[2:]
    top, left = y.floor(), x.floor()
    below, right = (y - top)[:, None], (x - left)[:, None]
    rows = [folded(top.long() + step, height, border) for step in (0, 1)]
    columns = [folded(left.long() + step, width, border) for step in (0, 1)]
    upper = torch.lerp(picked(images, rows[0], columns[0]), picked(images, rows[0], columns[1]), right)
    lower = torch.lerp(picked(images, rows[1], columns[0]), picked(images, rows[1], columns[1]), right)
    return torch.lerp(upper, lower, below)


def convolved(images: Float[Tensor, "b c h w"], kernel: Float[Tensor, "k l"], *, border: Border) -> Tensor:
    """Each channel correlated with one odd-sided kernel."""
    height, width = images.shape[2:]
    down, right = kernel.shape[0] // 2, kernel.shape[1] // 2
    rows = folded(torch.arange(-down, height + down, device=images.device), height, border)
    columns = folded(torch.arange(-right, width + right, device=images.device), width, border)
    padded = images[:, :, rows][:, :, :, columns]
    channels = images.shape[1]
    weight = kernel.to(images)[None, None].expand(channels, 1, -1, -1)
    return F.conv2d(padded, weight, groups=channels)


def gaussian_line(sigma: float, reach: int) -> Float[Tensor, " n"]:
    """A Gaussian's values at -reach, ..., reach, with sum 1; sigma 0 leaves the middle alone."""
    places = torch.arange(-reach, reach + 1, dtype=torch.float64)
    values = torch.exp(-0.5 * (places / sigma).square()) if sigma > 0 else (places == 0).double()
    return (values / values.sum()).float()


def gaussian_blurred(
    images: Float[Tensor, "b c h w"], sigma: float, *, truncate: float = 4.0, border: Border = "edge"
) -> Float[Tensor, "b c h w"]:
    """Gaussian blur, the filter cut off at `truncate` sigmas to the nearest pixel."""
    line = gaussian_line(sigma, int(truncate * sigma + 0.5))
    return convolved(convolved(images, line[:, None], border=border), line[None], border=border)


def resized(images: Float[Tensor, "b c h w"], height: int, width: int) -> Float[Tensor, "b c k l"]:
    """Bilinear with the corner pixels on the corners, without antialiasing."""
    return F.interpolate(images, (height, width), mode="bilinear", align_corners=True)


def zoomed(images: Float[Tensor, "b c h w"], factor: float) -> Float[Tensor, "b c h w"]:
    """The middle 1 / factor of each side, rounded up, enlarged to the whole picture; factor at least 1."""
    height, width = images.shape[2:]
    sides = [math.ceil(side / factor) for side in (height, width)]
    top, left = (height - sides[0]) // 2, (width - sides[1]) // 2
    part = images[:, :, top : top + sides[0], left : left + sides[1]]
    large = resized(part, round(sides[0] * factor), round(sides[1] * factor))
    top, left = (large.shape[2] - height) // 2, (large.shape[3] - width) // 2
    return large[:, :, top : top + height, left : left + width]


def box_weights(length: int, size: int) -> Float[Tensor, "size length"]:
    """Row t: which pixels of a line of `length` make pixel t of one of `size`, as PIL's BOX filter has it, in equal parts."""
    scale = length / size
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * scale
    # In PIL's order of operations, which decides about pixels that lie on an edge.
    place = (torch.arange(length, dtype=torch.float64) - centre[:, None] + 0.5) * (1.0 / max(scale, 1.0))
    weights = ((place > -0.5) & (place <= 0.5)).float()
    return weights / weights.sum(dim=1, keepdim=True)
