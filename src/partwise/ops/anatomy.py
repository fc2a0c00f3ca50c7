"""Where the pictures of Adam-v1 and Adam-v2 are cut: anchors, their parts, and random crops of either.

Everything is a function of uniforms in [0, 1) that the caller drew, one row a picture, so that a process can draw for the
global batch and keep its own rows; nothing here draws. Boxes follow boxes.py, are int64 and lie in the source picture's
pixels. Sizes are (height, width). Not for what is done to the pixels: see data/anatomy_views.py.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Range = tuple[float, float]
Decomposer = Literal["grid", "binary_split"]

MARGIN = 50
"""Pixels of the border that anchors of Adam-v2's second phase keep away from, where the picture leaves room."""
TRIES = 10
"""Attempts at a random crop before its fallback."""
DEFAULT_RATIO: Range = (3 / 4, 4 / 3)
"""Width over height of random crops where the paper names no other."""
FINEST = 4
"""The last level of Adam-v1's decomposer."""
SHORTEST = 2
"""Pixels below which a side shows nothing that could be resized."""


def square_anchors(size: tuple[int, int], level: int, uniforms: Float[Tensor, "b 2"]) -> Int64[Tensor, "b 4"]:
    """Anchors of Adam-v2's first phase: squares of side floor(min(H, W) / 2^level) at a uniform place.

    `uniforms` place them down and across. Raises ValueError for a negative level, and where the side would be one pixel.
    """
    side = min(_halved(size, level))
    room = [extent - side + 1 for extent in size]
    corner = torch.stack([_whole(uniforms[:, axis], room[axis]) for axis in (1, 0)], dim=1)
    return torch.cat([corner, corner + side], dim=1)


def margin_anchors(
    size: tuple[int, int], level: int, uniforms: Float[Tensor, "b 2"], *, margin: int = MARGIN
) -> Int64[Tensor, "b 4"]:
    """Anchors of Adam-v2's second phase: the whole picture at level 0, else floor(H / 2^level) x floor(W / 2^level).

    Along each axis the first pixel is uniform in [margin, H - h - margin) where that is not empty, else in [0, H - h - 1), and
    0 where that is empty too (small pictures, on which the published code fails). Raises ValueError as `square_anchors`.
    """
    sides = _halved(size, level)
    corner = []
    for axis in (1, 0):
        last = size[axis] - sides[axis]
        first, count = (margin, last - 2 * margin) if last - margin > margin else (0, max(last - 1, 1))
        corner.append(first + _whole(uniforms[:, axis], count))
    start = torch.stack(corner, dim=1)
    return torch.cat([start, start + start.new_tensor([sides[1], sides[0]])], dim=1)


def split_parts(boxes: Int64[Tensor, "*b 4"], num_parts: int) -> Int64[Tensor, "*b n 4"]:
    """The m x m equal parts of every box, row by row, n = m^2; at most m - 1 pixels at the right and bottom are dropped.

    Raises ValueError where n is no square, and where a side of a part would be less than two pixels.
    """
    m = math.isqrt(max(num_parts, 0))
    if num_parts < 1 or m * m != num_parts:
        raise ValueError(
            f"num_parts {num_parts}: expected a square number; the nearest is {max(1, _nearest(num_parts)) ** 2}"
        )
    sides = (boxes[..., 2:] - boxes[..., :2]) // m
    if (sides < SHORTEST).any():
        found = sides.flatten(0, -2).amin(0).tolist()
        raise ValueError(
            f"parts of {found[0]} x {found[1]} pixels: expected at least {SHORTEST} a side; "
            "take larger pictures, a coarser level or fewer parts"
        )
    row, column = torch.meshgrid(torch.arange(m), torch.arange(m), indexing="ij")
    place = torch.stack([column, row], dim=-1).flatten(0, 1).to(boxes.device)
    start = boxes[..., None, :2] + place * sides[..., None, :]
    return torch.cat([start, start + sides[..., None, :]], dim=-1)


def centred_crops(
    boxes: Int64[Tensor, "*b 4"], uniforms: Float[Tensor, "*b t 2"], *, area: Range, ratio: Range = DEFAULT_RATIO
) -> Int64[Tensor, "*b 4"]:
    """A crop about the centre of every box, off it by at most half a pixel each way.

    Its share of the box is uniform in `area`, its width over height log-uniform in `ratio`, before sides are rounded. Of the t
    attempts in `uniforms` (area, ratio) the first counts that fits; where none does, the largest crop with a ratio in range.
    """
    sides, _, _ = _first_fit(boxes, uniforms, area, ratio)
    start = boxes[..., :2] + (boxes[..., 2:] - boxes[..., :2] - sides) // 2
    return torch.cat([start, start + sides], dim=-1)


def random_crops(
    boxes: Int64[Tensor, "*b 4"], uniforms: Float[Tensor, "*b t 4"], *, area: Range, ratio: Range = DEFAULT_RATIO
) -> Int64[Tensor, "*b 4"]:
    """As `centred_crops`, at a uniform place of every box: the law of torchvision's RandomResizedCrop.

    `uniforms` are (area, ratio, down, across) for each attempt. The fallback is centred.
    """
    sides, first, fits = _first_fit(boxes, uniforms[..., :2], area, ratio)
    room = boxes[..., 2:] - boxes[..., :2] - sides
    own = uniforms[..., 2:].flip(-1).gather(-2, first[..., None, None].expand(*first.shape, 1, 2))[..., 0, :]
    shift = torch.where(fits[..., None], (own.double() * (room + 1)).long(), room // 2)
    start = boxes[..., :2] + shift
    return torch.cat([start, start + sides], dim=-1)


def decomposed_anchors(
    size: tuple[int, int], level: int, uniforms: Float[Tensor, " b"], *, rule: Decomposer = "grid"
) -> Int64[Tensor, "b 4"]:
    """One patch a picture of Adam-v1's anatomy decomposer, levels 0 (the whole) to 4.

    "binary_split", the paper's: halves from left to right, then from top to bottom, and so on: 2^level patches. "grid", the
    published code's: level x level patches. Both agree on levels 0, 2 and 4, the ones that are trained. Raises ValueError for
    another level or rule, and where a side of a patch would be less than two pixels.
    """
    rows, columns = decomposer_grid(level, rule)
    height, width = size[0] // rows, size[1] // columns
    _check_sides(height, width, f"level {level}")
    place = _whole(uniforms, rows * columns)
    start = torch.stack([place % columns * width, place // columns * height], dim=1)
    return torch.cat([start, start + start.new_tensor([width, height])], dim=1)


def decomposer_grid(level: int, rule: Decomposer) -> tuple[int, int]:
    """Rows and columns of patches at a level of Adam-v1's decomposer. Raises ValueError for another level or rule."""
    if not 0 <= level <= FINEST:
        raise ValueError(f"decomposer: level {level}; expected 0 to {FINEST}")
    if rule == "grid":
        return max(level, 1), max(level, 1)
    if rule == "binary_split":
        return 2 ** (level // 2), 2 ** (level - level // 2)
    raise ValueError(f"decomposer: rule {rule!r}; expected 'grid' or 'binary_split'")


class Lines(NamedTuple):
    """Where the pixels of rotated views lie in their picture, in pixels: sums of one number a row and one a column.

    Of pixel (i, j) coordinate `axis` (0: x, 1: y) is down[axis, ..., i] + across[axis, ..., j], cut to [least, most][axis]. In
    row i the j in [first, last][..., i] are the view, all others the corners that rotation leaves empty.
    """

    down: Float[Tensor, "axes ... s"]
    across: Float[Tensor, "axes ... s"]
    least: Float[Tensor, "axes ..."]
    most: Float[Tensor, "axes ..."]
    first: Float[Tensor, "*b s"]
    last: Float[Tensor, "*b s"]

    def rows(self, own: slice) -> Lines:
        """Those of some pictures, the first dimension of the boxes."""
        down, across, least, most = (numbers[:, own] for numbers in (self.down, self.across, self.least, self.most))
        return Lines(down, across, least, most, self.first[own], self.last[own])


def view_lines(
    boxes: Int64[Tensor, "*b 4"], angle: Float[Tensor, "*b"], size: int, *, pixel: Float[Tensor, "*b"]
) -> Lines:
    """Boxes resized to `size` x `size`, then rotated about their centres by `angle` radians, counter-clockwise to the eye.

    `least` and `most` are the centres of a box's outermost pixels of side `pixel`: what interpolates between pixels of that
    side then takes nothing from beyond the box.
    """
    x1, y1, x2, y2 = boxes.float().unbind(-1)
    half, centre = torch.stack([x2 - x1, y2 - y1]) / 2, torch.stack([x1 + x2, y1 + y2]) / 2
    steps = (torch.arange(size, device=boxes.device) * 2 + 1) / size - 1
    cos, sin = angle.cos()[..., None], angle.sin()[..., None]
    # The view's own x is cos j - sin i and its y is sin j + cos i, with i and j in [-1, 1] and y pointing down.
    across = torch.stack([cos * steps, sin * steps])
    down = torch.stack([-sin * steps, cos * steps])
    # Both lie in [-1, 1] for the j of an interval; where a slope is 0 its ends are infinite.
    slopes = torch.stack([cos, sin])
    one, other = (-1 - down) / slopes, (1 - down) / slopes
    first, last = torch.minimum(one, other).amax(0), torch.maximum(one, other).amin(0)
    reach = (half - pixel / 2).clamp(min=0)
    return Lines(
        down * half[..., None] + centre[..., None],
        across * half[..., None],
        centre - reach,
        centre + reach,
        *(((end + 1) * size - 1) / 2 for end in (first, last)),
    )


def _first_fit(
    boxes: Int64[Tensor, "*b 4"], uniforms: Float[Tensor, "*b t 2"], area: Range, ratio: Range
) -> tuple[Int64[Tensor, "*b 2"], Int64[Tensor, "*b"], Bool[Tensor, "*b"]]:
    """(width, height) of every crop, which attempt it was, and whether one fitted at all."""
    whole = boxes[..., 2:] - boxes[..., :2]
    # Double precision rounds as Python does, one crop at a time.
    share, aspect = uniforms.double().unbind(-1)
    pixels = whole.double().prod(-1, keepdim=True) * (area[0] + share * (area[1] - area[0]))
    shape = torch.exp(math.log(ratio[0]) + aspect * (math.log(ratio[1]) - math.log(ratio[0])))
    tried = torch.stack([(pixels * shape).sqrt(), (pixels / shape).sqrt()], dim=-1).round().long()
    fits = ((tried > 0) & (tried <= whole[..., None, :])).all(-1)
    first = fits.long().argmax(-1)
    chosen = tried.gather(-2, first[..., None, None].expand(*first.shape, 1, 2))[..., 0, :]
    found = fits.any(-1)
    return torch.where(found[..., None], chosen, _largest(whole, ratio)), first, found


def _largest(whole: Int64[Tensor, "*b 2"], ratio: Range) -> Int64[Tensor, "*b 2"]:
    """The largest (width, height) within `whole` whose ratio lies in range, rounded."""
    width, height = whole.double().unbind(-1)
    sides = torch.stack([torch.minimum(width, height * ratio[1]), torch.minimum(height, width / ratio[0])], dim=-1)
    return sides.round().long().clamp(min=1)


def _whole(uniforms: Float[Tensor, " b"], count: int) -> Int64[Tensor, " b"]:
    """0 to count - 1, each as likely."""
    return (uniforms.double() * count).long()


def _halved(size: tuple[int, int], level: int) -> tuple[int, int]:
    """The picture's sides over 2^level."""
    if level < 0:
        raise ValueError(f"level {level}: expected 0 (the coarsest) or above")
    height, width = size[0] >> level, size[1] >> level
    _check_sides(height, width, f"level {level}")
    return height, width


def _check_sides(height: int, width: int, where: str) -> None:
    if min(height, width) < SHORTEST:
        raise ValueError(
            f"{where}: anchors of {width} x {height} pixels; expected at least {SHORTEST} a side; "
            "take larger pictures or a coarser level"
        )


def _nearest(number: int) -> int:
    """The whole number whose square is nearest."""
    return round(math.sqrt(max(number, 0)))
