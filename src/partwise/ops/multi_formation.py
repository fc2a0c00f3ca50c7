"""IDC's multi-formation (Kim et al. 2022): several small pictures stored in one, upsampled before use, and packed.

Pictures are in [0, 1], not normalised. A picture of side h holds factor^2 square windows of side ceil(h / factor); where
factor does not divide h, the last windows reach over the border, which is grey.
"""

from __future__ import annotations

from typing import Literal, get_args, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

DecodeMode = Literal["single", "multi", "bound"]
Resampling = Literal["nearest", "antialias"]

GREY = 0.5
"""What lies outside the picture."""


def decode_tiles(images: Float[Tensor, "n ch h w"], *, factor: int) -> Float[Tensor, "m ch h w"]:
    """All m = factor^2 n windows, each upsampled (bilinear) to the size of a picture.

    Window by window in reading order, and within a window picture by picture: row t n + i is window t of picture i.
    Raises ValueError for a factor below 1 or so large that a window lies outside the picture.
    """
    height, width = images.shape[-2:]
    rows, columns = _window(height, factor), _window(width, factor)
    if factor == 1:
        return images
    below, right = factor * rows - height, factor * columns - width
    framed = F.pad(images, (0, right, 0, below), value=GREY)
    windows = framed.unflatten(-1, (factor, columns)).unflatten(-3, (factor, rows))  # n ch fy rows fx columns
    tiles = windows.permute(2, 4, 0, 1, 3, 5).flatten(0, 2)
    return F.interpolate(tiles, size=(height, width), mode="bilinear", align_corners=False)


@overload
def decode(
    images: Tensor, targets: None = None, *, factor: int, mode: DecodeMode = "single", bound: int = 128
) -> Tensor:
    """Pictures alone."""


@overload
def decode(
    images: Tensor, targets: Tensor, *, factor: int, mode: DecodeMode = "single", bound: int = 128
) -> tuple[Tensor, Tensor]:
    """Pictures with their targets."""


def decode(
    images: Float[Tensor, "n ch h w"],
    targets: Shaped[Tensor, "n ..."] | None = None,
    *,
    factor: int,
    mode: DecodeMode = "single",
    bound: int = 128,
) -> Tensor | tuple[Tensor, Tensor]:
    """The training pictures that `images` stand for, with targets repeated to match. Differentiable.

    `"single"`: `decode_tiles` at `factor`. `"multi"`: at 1, 2, ... `factor`, one after the other. `"bound"`: every
    picture at one factor, the first ones at `factor` and so on down to 1, so that no more than `bound` come out as long
    as there are no more than `bound` pictures (the code's own count, `decode_shares`). Raises ValueError for an unknown
    mode.
    """
    if mode == "single":
        parts = [(factor, 0, len(images))]
    elif mode == "multi":
        parts = [(each, 0, len(images)) for each in range(1, factor + 1)]
    elif mode == "bound":
        parts, first = [], 0
        for each, count in decode_shares(len(images), factor=factor, bound=bound):
            parts.append((each, first, first + count))
            first += count
    else:
        raise ValueError(f"decode mode {mode!r}: expected one of {', '.join(get_args(DecodeMode))}")
    pictures = torch.cat([decode_tiles(images[first:end], factor=each) for each, first, end in parts])
    if targets is None:
        return pictures
    return pictures, torch.cat([targets[first:end] for each, first, end in parts for _ in range(each**2)])


def decode_shares(count: int, *, factor: int, bound: int) -> list[tuple[int, int]]:
    """How many of `count` pictures are decoded at which factor under a bound: `(factor, pictures)`, factors falling.

    IDC's rule: at each factor f as many as fit f^2-fold into what the bound leaves beside one place for each picture
    that is still to come. The place of a picture that is being decoded is not given back, so the bound is not always
    reached: 50 pictures under a bound of 128 give 19 at 2 and 31 at 1, which make 107.
    """
    shares, left, made = [], count, 0
    for each in range(factor, 0, -1):
        room = bound - made - left
        taken = min(max(room, 0) // each**2, left) if each > 1 else left
        if taken:
            shares.append((each, taken))
        left, made = left - taken, made + taken * each**2
    return shares


def pack_tiles(
    images: Float[Tensor, "m ch h w"], *, factor: int, resampling: Resampling = "nearest"
) -> Float[Tensor, "n ch h w"]:
    """IDC's start from real pictures ("mix"): factor^2 of them shrunk into the windows of each of n = m / factor^2.

    In the order of `decode_tiles`, which gives the pictures back, blurred. A window that reaches over the border gets a
    picture of the part inside (IDC's code shares the remainder of the side out over the first windows instead, which no
    longer are those it decodes where more than one pixel is missing). `"nearest"` is the code's way of shrinking,
    `"antialias"` averages. Raises ValueError for a number of pictures that factor^2 does not divide, and as
    `decode_tiles`.
    """
    if resampling not in get_args(Resampling):
        raise ValueError(f"resampling {resampling!r}: expected one of {', '.join(get_args(Resampling))}")
    height, width = images.shape[-2:]
    rows, columns = _window(height, factor), _window(width, factor)
    count, rest = divmod(len(images), factor**2)
    if rest or not count:
        raise ValueError(f"{len(images)} pictures: expected a multiple of factor^2 = {factor**2}")
    packed = images.new_empty(count, *images.shape[1:])
    for tile in range(factor**2):
        top, left = tile // factor * rows, tile % factor * columns
        place = packed[:, :, top : top + rows, left : left + columns]  # clipped at the border
        place.copy_(_shrink(images[tile * count : (tile + 1) * count], place.shape[-2:], resampling))
    return packed


def _window(side: int, factor: int) -> int:
    """The side of a window. Raises ValueError where there is none, or where one lies outside the picture."""
    window = -(-side // factor) if factor >= 1 else 0
    if factor < 1 or (factor - 1) * window >= side:
        raise ValueError(f"factor {factor}: does not cut a side of {side} px into windows that all show some of it")
    return window


def _shrink(images: Tensor, size: torch.Size, resampling: Resampling) -> Tensor:
    if resampling == "nearest":
        return F.interpolate(images, size=size, mode="nearest")
    return F.interpolate(images, size=size, mode="bilinear", antialias=True, align_corners=False)
