"""Pixels of many views at once: a pyramid that all of them are sampled from, colour jitter and blur, each view in its own way.

Pixels are float32 in [0, 255]. Written for the CPU as much as for an accelerator: whole planes, in place and in one dtype,
because there comparisons, broadcast calls of three operands and fresh memory each cost more than the arithmetic. Where the
views lie is anatomy.py; which there are, and in which order all this is done, is data/anatomy_views.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, Shaped
from torch import Tensor

from partwise.ops.anatomy import Lines, view_lines

LUMA = (0.299, 0.587, 0.114)
"""Grey from red, green and blue (ITU-R BT.601), as PIL has it."""
BOX_PASSES = 3
"""How often PIL's Gaussian blur uses its box."""
STEEP = 1e6
"""What makes a distance, in pixels, a step from 0 to 1."""


def pyramid_levels(boxes: Int64[Tensor, "*b 4"], sizes: Float[Tensor, "*#b"]) -> Int64[Tensor, "*b"]:
    """The level whose pixels, 2^level of the picture's, are nearest to those of a box resized to a square of side `sizes`.

    Nearest on a scale of logarithms, with the geometric mean of both axes; 0 for boxes that are enlarged.
    """
    sides = (boxes[..., 2:] - boxes[..., :2]).float()
    return ((sides.prod(-1).sqrt() / sizes).log2() + 0.5).floor().long().clamp(min=0)


@dataclass(frozen=True)
class Atlas:
    """The levels of a pyramid in one picture, so that one call samples each view at its own: `pixels` `(B, C, H, W)`.

    Level k holds means over squares of 2^k pixels, the border repeated where sides are odd. `places` are (x, y, width, height)
    of the levels: the picture itself at the left, all others one below the other at its right.
    """

    pixels: Float[Tensor, "b c h w"]
    places: list[tuple[int, int, int, int]]

    @classmethod
    def blank(cls, size: tuple[int, int], depth: int, count: int, channels: int, device: torch.device) -> Atlas:
        """Room for `depth` levels of `count` pictures of `size` (height, width)."""
        height, width = size
        places = [(0, 0, width, height)]
        for level in range(1, depth):
            _, y, above_width, above_height = places[-1]
            top = y + above_height if level > 1 else 0
            places.append((width, top, -(-above_width // 2), -(-above_height // 2)))
        extent = [max(place[axis] + place[axis + 2] for place in places) for axis in (1, 0)]
        # Zeros: beside a level's border they are multiplied by zero, which memory as it comes need not survive.
        return cls(torch.zeros(count, channels, *extent, device=device), places)

    def fill(self, images: Shaped[Tensor, "b c h w"]) -> None:
        """Write as many pictures, uint8 or floats in [0, 1]."""
        levels = [self.pixels[: len(images), :, y : y + height, x : x + width] for x, y, width, height in self.places]
        levels[0].copy_(images)
        if images.dtype != torch.uint8:
            levels[0].mul_(255)
        for finer, coarser in pairwise(levels):
            coarser.copy_(halved(finer))

    def lines(
        self, boxes: Int64[Tensor, "b v 4"], angle: Float[Tensor, "b v"], level: Int64[Tensor, "b v"], size: int
    ) -> Lines:
        """`view_lines` of views at their levels, on the CPU -> coordinates for grid_sample in this picture, on its device."""
        device = self.pixels.device
        corner = torch.tensor([place[:2] for place in self.places])[level].movedim(-1, 0).to(device, non_blocking=True)
        pixel = torch.exp2(level.float()).to(device, non_blocking=True)
        found = view_lines(boxes.to(device, non_blocking=True), angle.to(device, non_blocking=True), size, pixel=pixel)
        height, width = self.pixels.shape[-2:]
        unit = (2 / torch.tensor([width, height])).view(2, 1, 1).to(device, non_blocking=True)
        scale, shift = unit / pixel, unit * corner - 1
        return found._replace(
            down=found.down * scale[..., None] + shift[..., None],
            across=found.across * scale[..., None],
            least=found.least * scale + shift,
            most=found.most * scale + shift,
        )


def halved(pixels: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h2 w2"]:
    """Means over squares of two pixels; an odd side's last pixel counts twice."""
    height, width = pixels.shape[-2:]
    if height % 2 or width % 2:
        pixels = F.pad(pixels, (0, width % 2, 0, height % 2), mode="replicate")
    rows = pixels[..., 0::2, :] + pixels[..., 1::2, :]
    return (rows[..., 0::2] + rows[..., 1::2]).mul_(0.25)


def sample_lines(
    pixels: Float[Tensor, "b c h w"], lines: Lines, desk: Float[Tensor, "b 3 v s s"]
) -> Float[Tensor, "b v c s s"]:
    """V views of each picture in one bilinear sampling, with the nearest pixel of their crop in the corners.

    `lines` come from `Atlas.lines`; `desk` is memory to work in.
    """
    count, _, views, size, _ = desk.shape
    plane, grid = desk[:, 0], desk[:, 1:].view(count, views, size, size, 2)
    for axis in (0, 1):
        torch.add(lines.across[axis][..., None, :], lines.down[axis][..., None], out=plane)
        torch.minimum(plane, lines.most[axis][..., None, None], out=plane)
        torch.maximum(plane, lines.least[axis][..., None, None], out=plane)
        grid[..., axis] = plane
    grid = grid.view(count, views * size, size, 2)
    sampled = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.view(count, -1, views, size, size).transpose(1, 2).contiguous()


def inside_lines(lines: Lines, desk: Float[Tensor, "b 3 v s s"]) -> Float[Tensor, "b v s s"]:
    """1 where a rotated view has pixels, 0 in its corners; part of `desk`, which is memory to work in."""
    columns = STEEP * torch.arange(desk.shape[-1], dtype=torch.float32, device=desk.device)
    inside = torch.sub(columns, STEEP * lines.first[..., None], out=desk[:, 0])
    torch.minimum(inside, torch.sub(STEEP * lines.last[..., None], columns, out=desk[:, 1]), out=inside)
    return inside.clamp_(0, 1)


class GreyJitter(NamedTuple):
    """Brightness and contrast of grey views, in their order, as two steps gain * pixel + share * mean, each cut to [0, 255]."""

    gain: Float[Tensor, "steps b v"]
    share: Float[Tensor, "steps b v"]

    @classmethod
    def of(cls, factors: Float[Tensor, "b v 4"], order: Int64[Tensor, "b v 4"]) -> GreyJitter:
        """Brightness is factor * pixel, contrast factor * pixel + (1 - factor) * mean; arguments as of `jitter_colour`."""
        brightness, contrast = factors[..., 0], factors[..., 1]
        places = order.argsort(-1)
        contrast_last = places[..., 0] < places[..., 1]
        contrast_now = torch.stack([~contrast_last, contrast_last])
        return cls(torch.where(contrast_now, contrast, brightness), torch.where(contrast_now, 1 - contrast, 0.0))

    def rows(self, own: slice) -> GreyJitter:
        """Those of some pictures."""
        return GreyJitter(self.gain[:, own], self.share[:, own])

    def apply(self, pixels: Float[Tensor, "b v 1 h w"]) -> None:
        """Change the views in place."""
        for gain, share in zip(self.gain[..., None, None, None], self.share[..., None, None, None], strict=True):
            offset = pixels.mean((-2, -1), keepdim=True) * share
            pixels.mul_(gain).add_(offset).clamp_(0, 255)


def jitter_colour(pixels: Float[Tensor, "n 3 h w"], factors: Float[Tensor, "n 4"], order: Int64[Tensor, "n 4"]) -> None:
    """Brightness, contrast, saturation and hue in place, each view's in its own order: torchvision's ColorJitter.

    `factors` (on the CPU) are three gains, 1 for no change, and a share of the circle of hues; `order` says which of the four
    comes first, second, ... Pixels are cut to [0, 255] after each, but not rounded.
    """
    for step in range(4):
        for kind, (change, neutral) in enumerate(CHANGES):
            rows = ((order[:, step] == kind) & (factors[:, kind] != neutral)).nonzero()[:, 0]
            if len(rows):
                amount = factors[rows, kind, None, None, None].to(pixels.device, non_blocking=True)
                rows = rows.to(pixels.device, non_blocking=True)
                pixels[rows] = change(pixels[rows], amount).clamp_(0, 255)


def _luma(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1 h w"]:
    red, green, blue = pixels.split(1, dim=1)
    luma: Tensor = (red * LUMA[0]).add_(green, alpha=LUMA[1]).add_(blue, alpha=LUMA[2])
    return luma


def _contrast(pixels: Tensor, amount: Tensor) -> Tensor:
    return pixels * amount + _luma(pixels).mean((2, 3), keepdim=True) * (1 - amount)


def _saturation(pixels: Tensor, amount: Tensor) -> Tensor:
    return pixels * amount + _luma(pixels) * (1 - amount)


def _hue(pixels: Tensor, amount: Tensor) -> Tensor:
    """Colours turned by a share of the circle, at their own saturation and value (HSV)."""
    red, green, blue = pixels.split(1, dim=1)
    value = torch.maximum(torch.maximum(red, green), blue)
    chroma = value - torch.minimum(torch.minimum(red, green), blue)
    # Sixths of the circle, from red. Greys have no hue, and with a chroma of 0 none is needed.
    scale = chroma.clamp(min=1e-6)
    beyond_green = torch.where(value == green, blue - red + 2 * scale, red - green + 4 * scale)
    hue = torch.where(value == red, green - blue, beyond_green).div_(scale).add_(6 * amount)
    # What a channel lacks of the value falls from the whole chroma to nothing between 1 and 2 sixths off its opposite, which
    # lies at 3, 5 and 7 sixths for red, green and blue.
    opposite = torch.arange(3.0, 8.0, 2.0, device=pixels.device)[:, None, None]
    away = (hue - opposite).div_(6)
    away.sub_(away.round()).abs_()
    return value - chroma * away.mul_(-6).add_(2).clamp_(0, 1)


CHANGES: tuple[tuple[Callable[[Tensor, Tensor], Tensor], float], ...] = (
    (torch.mul, 1.0),
    (_contrast, 1.0),
    (_saturation, 1.0),
    (_hue, 0.0),
)
"""What `jitter_colour` does, with the amount that changes nothing."""


def blur(pixels: Float[Tensor, "n c h w"], kernels: Float[Tensor, "n k"], chosen: Bool[Tensor, " n"]) -> None:
    """The views that are `chosen` (on the CPU) blurred in place, each with its own symmetric kernel, the border repeated."""
    rows = chosen.nonzero()[:, 0].to(pixels.device, non_blocking=True)
    if not len(rows):
        return
    weights, reach = kernels[rows][..., None, None, None], kernels.shape[1] // 2
    # Sums of shifted pictures: on the CPU a convolution with a kernel for each picture is several times slower.
    blurred = F.pad(pixels[rows], (reach,) * 4, mode="replicate")
    for axis in (2, 3):
        length = blurred.shape[axis] - 2 * reach
        middle = blurred.narrow(axis, reach, length) * weights[:, reach]
        pair = torch.empty_like(middle)
        for step in range(1, reach + 1):
            torch.add(blurred.narrow(axis, reach - step, length), blurred.narrow(axis, reach + step, length), out=pair)
            middle.add_(pair.mul_(weights[:, reach + step]))
        blurred = middle
    pixels[rows] = blurred


def box_kernels(sigma: Float[Tensor, "*b"], passes: int = BOX_PASSES) -> Float[Tensor, "*b k"]:
    """Kernels of an extended box filter used `passes` times, whose variance is exactly sigma^2 (Gwosdek et al. 2011).

    The box has 2 l + 1 equal weights and a share a of one at both ends, so that its variance is
    (l (l + 1) (2 l + 1) / 3 + 2 a (l + 1)^2) / (2 l + 1 + 2 a) = sigma^2 / passes, with the largest l that leaves a above 0.
    """
    variance = sigma.double()[..., None] ** 2 / passes
    whole = (((12 * variance + 1).sqrt() - 1) / 2).floor()
    width = 2 * whole + 1
    ends = width * (variance - whole * (whole + 1) / 3) / (2 * ((whole + 1) ** 2 - variance))
    reach = int(whole.max()) + 1
    place = torch.arange(-reach, reach + 1).abs()
    box = torch.where(place <= whole, 1.0, torch.where(place == whole + 1, ends, 0.0)) / (width + 2 * ends)
    kernels = box
    for _ in range(passes - 1):
        windows = F.pad(kernels, (2 * reach, 2 * reach)).unfold(-1, 2 * reach + 1, 1)
        kernels = (windows * box[..., None, :]).sum(-1)
    return kernels.float()
