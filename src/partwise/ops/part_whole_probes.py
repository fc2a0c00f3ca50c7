"""Questions about parts and wholes that any encoder can be asked: where pictures are cut, and which embeddings are compared.

Windows are `(x1, y1, x2, y2)` and centres `(x, y)` in sides of the picture, from 0 to 1 inside it, so that one drawn window is
the same place in every picture. With E an encoder, w a window, p_1 ... p_n its parts and i, j pictures of two patients,

    composition    cos(E(w_i), mean over k of E(p_k,i))
    decomposition  is slice k of what a head makes of E(w_i) nearest to E(p_k,i) among the n parts?
    interpolation  cos(E(C), (1 - t) E(A) + t E(B)), C = (1 - t) A + t B
    extrapolation  cos(E(C), E(B) + t (E(B) - E(A))), C = B + t (B - A)

Each cosine is worth what it exceeds its control by: the same with the second half taken from j. Where all pictures show one
anatomy, or embeddings point into a narrow cone, the control is high, and an encoder that has collapsed has a cosine of 1.
`effective_rank` is part_whole.py's; losses of the same names are there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

Range = tuple[float, float]
AREA: Range = (0.2, 0.8)
"""Shares of the picture's area that windows have."""
RATIO: Range = (3 / 4, 4 / 3)
"""Width over height of windows."""
TIMES = (0.25, 0.5, 0.75)
"""How far between A and B, or beyond B, a line is asked about."""


# -- where ---------------------------------------------------------------------------------------------------------------


def draw_windows(
    count: int, generator: torch.Generator, *, area: Range = AREA, ratio: Range = RATIO
) -> Float[Tensor, "n 4"]:
    """Windows inside the picture, at a uniform place, their area uniform and their width over height log-uniform.

    A window of area a fits where its ratio lies in [a, 1 / a]; the range of ratios is cut to that.
    """
    share, aspect, down, across = torch.rand(4, count, generator=generator).unbind()
    size = area[0] + share * (area[1] - area[0])
    low, high = size.clamp(min=ratio[0]).log(), size.reciprocal().clamp(max=ratio[1]).log()
    shape = (low + aspect * (high - low)).exp()
    sides = torch.stack([(size * shape).sqrt(), (size / shape).sqrt()], dim=1).clamp(max=1)
    start = torch.stack([across, down], dim=1) * (1 - sides)
    return torch.cat([start, start + sides], dim=1)


def split_windows(windows: Float[Tensor, "*n 4"], m: int = 2) -> Float[Tensor, "*n parts 4"]:
    """The m x m equal parts of every window, in reading order."""
    row, column = torch.meshgrid(torch.arange(m), torch.arange(m), indexing="ij")
    place = torch.stack([column, row], dim=-1).flatten(0, 1).to(windows)
    sides = (windows[..., 2:] - windows[..., :2]) / m
    start = windows[..., None, :2] + place * sides[..., None, :]
    return torch.cat([start, start + sides[..., None, :]], dim=-1)


def square_windows(centres: Float[Tensor, "*n 2"], side: float) -> Float[Tensor, "*n 4"]:
    """Windows of one side about `centres`; they may reach beyond the picture."""
    return torch.cat([centres - side / 2, centres + side / 2], dim=-1)


def draw_centres(count: int, generator: torch.Generator, *, side: float) -> Float[Tensor, "n 2"]:
    """Uniform centres about which windows of `side` lie inside the picture."""
    return side / 2 + torch.rand(count, 2, generator=generator) * (1 - side)


def draw_lines(
    count: int, generator: torch.Generator, *, side: float, times: Sequence[float] = TIMES
) -> Float[Tensor, "n 2 2"]:
    """Centres A and B such that windows of `side` lie inside the picture from A to the last point beyond B.

    A and that last point are uniform.
    """
    first = draw_centres(count, generator, side=side)
    last = draw_centres(count, generator, side=side)
    return torch.stack([first, first + (last - first) / (1 + max(times))], dim=1)


def line_points(
    lines: Float[Tensor, "n 2 2"], times: Sequence[float] = TIMES
) -> tuple[Float[Tensor, "n t 2"], Float[Tensor, "n t 2"]]:
    """The centres (1 - t) A + t B, and those beyond, B + t (B - A)."""
    a, b = lines[:, None, 0], lines[:, None, 1]
    t = torch.tensor(times).to(lines)[None, :, None]
    return (1 - t) * a + t * b, b + t * (b - a)


def cut(
    images: Float[Tensor, "b c h w"], windows: Float[Tensor, "*b n 4"], size: int
) -> Float[Tensor, "b n c size size"]:
    """Windows of pictures, resized to a square of `size` pixels; `windows` are one set for all, or one a picture.

    Bilinear, black outside the picture. A window that is made smaller is taken from a picture reduced by means over squares,
    to within a factor of 1.4 of its own resolution; how much is decided for each place in the set.
    """
    own = (windows if windows.ndim == 3 else windows.expand(len(images), -1, -1)).to(images)
    extent = images.new_tensor([images.shape[-1], images.shape[-2]])
    shrink = ((own[..., 2:] - own[..., :2]) * extent).prod(-1).clamp(min=1).sqrt() / size
    levels = (shrink.amax(0).log2() + 0.5).floor().clamp(min=0).long().tolist()
    found = images.new_empty(len(images), own.shape[1], images.shape[1], size, size)
    for level in sorted(set(levels)):
        places = [place for place, each in enumerate(levels) if each == level]
        found[:, places] = _sampled(images, own[:, places], size, level)
    return found


def _sampled(images: Tensor, windows: Tensor, size: int, level: int) -> Tensor:
    """Windows `(b, n, 4)` of pictures reduced 2^level times."""
    count, num = windows.shape[:2]
    pixels = F.avg_pool2d(images, 2**level, ceil_mode=True) if level else images
    # A last square that is not full stretches the picture: places are those of the squares, not of the picture.
    stretch = images.new_tensor([images.shape[k] / (pixels.shape[k] * 2**level) for k in (-1, -2)])
    steps = (torch.arange(size, device=images.device, dtype=images.dtype) + 0.5) / size
    corner, sides = windows[..., None, :2], (windows[..., 2:] - windows[..., :2])[..., None, :]
    places = corner + sides * steps[:, None]  # (b, n, size, 2): x and y of every column and row
    grid = torch.stack(
        [
            places[..., None, :, 0].expand(count, num, size, size),
            places[..., :, None, 1].expand(count, num, size, size),
        ],
        dim=-1,
    )
    inside = ((grid >= 0) & (grid <= 1)).all(-1)
    sampled: Tensor = F.grid_sample(
        pixels,
        (grid * stretch * 2 - 1).flatten(1, 2),
        mode="bilinear",
        padding_mode="border",
        align_corners=False,
    )
    windows_first: Tensor = sampled.unflatten(2, (num, size)).transpose(1, 2)
    return windows_first * inside[:, :, None]


# -- what is compared ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Compared:
    """Cosines of n pictures at w places, float64 `(n, w)`, NaN where there is nothing to compare with.

    `cosine` of a picture's two halves; `control`: the mean with the second half of the same place in all other patients;
    `random`: with that of all other places in all other patients.
    """

    cosine: Tensor
    control: Tensor
    random: Tensor


def compare(own: Float[Tensor, "n w d"], other: Float[Tensor, "n w d"], groups: Int64[Tensor, " n"]) -> Compared:
    """Cosines of `own` with `other`, in the same picture and over the pictures of all other `groups` (patients).

    A mean of cosines with unit vectors is the product with their sum, so that all pairs count at the cost of none.
    """
    first, second = unit(own), unit(other)
    _, group = groups.unique(return_inverse=True)
    sizes = torch.bincount(group)
    by_group = second.new_zeros(len(sizes), *second.shape[1:]).index_add_(0, group, second)
    strangers = second.sum(0) - by_group[group]
    count = (len(own) - sizes[group])[:, None]
    places = own.shape[1]
    same_place = (first * strangers).sum(-1)
    all_places = (first * strangers.sum(1, keepdim=True)).sum(-1)
    return Compared(
        cosine=(first * second).sum(-1),
        control=_share(same_place, count),
        random=_share(all_places - same_place, count * (places - 1)),
    )


def compare_scales(embeddings: Float[Tensor, "n m s d"], groups: Int64[Tensor, " n"]) -> Compared:
    """Windows of s sizes about m centres: the mean of `compare` over all pairs of different sizes about one centre."""
    pairs = [(a, b) for a in range(embeddings.shape[2]) for b in range(embeddings.shape[2]) if a != b]
    each = [compare(embeddings[:, :, a], embeddings[:, :, b], groups) for a, b in pairs]
    return Compared(
        *(torch.stack([getattr(one, name) for one in each]).mean(0) for name in ("cosine", "control", "random"))
    )


def compare_mirrored(
    mirrored: Float[Tensor, "n p d"], opposite: Float[Tensor, "n p d"], present: Bool[Tensor, "n p"]
) -> tuple[Float[Tensor, "n p"], Float[Tensor, "n p"]]:
    """Symmetry: cosines of mirrored landmarks of one side with their opposites, and their mean with all other opposites.

    Both float64, of one picture; NaN where a landmark or every other opposite is not `present`.
    """
    cosines = unit(mirrored) @ unit(opposite).transpose(1, 2)
    itself = torch.eye(cosines.shape[1], dtype=torch.bool, device=cosines.device)
    others = present[:, None, :] & ~itself
    control = _share((cosines * others).sum(-1), others.sum(-1))
    own = cosines.diagonal(dim1=1, dim2=2)
    return own.masked_fill(~present, math.nan), control.masked_fill(~present, math.nan)


def interpolate(ends: Float[Tensor, "n l 2 d"], times: Sequence[float] = TIMES) -> Float[Tensor, "n l t d"]:
    """(1 - t) E(A) + t E(B) of the embeddings of A and B."""
    t = torch.tensor(times).to(ends)[:, None]
    return (1 - t) * ends[:, :, None, 0] + t * ends[:, :, None, 1]


def extrapolate(ends: Float[Tensor, "n l 2 d"], times: Sequence[float] = TIMES) -> Float[Tensor, "n l t d"]:
    """E(B) + t (E(B) - E(A)) of the embeddings of A and B."""
    t = torch.tensor(times).to(ends)[:, None]
    a, b = ends[:, :, None, 0], ends[:, :, None, 1]
    return b + t * (b - a)


def decompose_cosines(slices: Float[Tensor, "*b n d"], parts: Float[Tensor, "*b n d"]) -> Float[Tensor, "*b n n"]:
    """Cosines of every slice (rows) with every part (columns) of one whole, float64."""
    return unit(slices) @ unit(parts).transpose(-1, -2)


def decompose_confusion(cosines: Float[Tensor, "b w n n"]) -> Int64[Tensor, "b n n"]:
    """Of the w wholes of each picture, how often slice i (row) was nearest to part k (column); the first of equal ones."""
    num = cosines.shape[-1]
    return F.one_hot(cosines.argmax(-1), num).sum(1)


def unit(embeddings: Float[Tensor, "*n d"]) -> Float[Tensor, "*n d"]:
    """At unit length, float64; zero stays zero."""
    return F.normalize(embeddings.double(), dim=-1)


def _share(total: Tensor, count: Tensor) -> Tensor:
    return torch.where(count > 0, total / count.clamp(min=1), math.nan)
