"""Patches of feature maps: cut at stride-aligned places, sent through the rest of a network one by one, put back together.

What a patch gives depends on nothing outside it: every convolution behind the cut pads at the patch's own border. Because all
cuts are multiples of the stride that is left, the pieces fit together to exactly the size that the uncut map gets, for any
size (PPL, figures 2 and 5; the rule for sizes that do not divide is ours). Not for patches of pictures as tokens.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

Grid = tuple[int, int]
"""Rows and columns of patches."""


def cuts(length: int, *, stride: int, count: int, shifted: bool = False) -> list[int]:
    """The borders of `count` patches along a side of `length` cells: 0, multiples of `stride`, `length`.

    With U = ceil(length / stride) output cells, border k is stride * floor(U k / count); a side with fewer output cells than
    patches gets one patch a cell. `shifted` moves the inner borders by half a patch: count + 1 patches, the outer ones half as
    wide. Raises ValueError where a number is below 1.
    """
    if min(length, stride, count) < 1:
        raise ValueError(f"cuts: length {length}, stride {stride} and count {count} must all be at least 1")
    cells = -(-length // stride)
    count = min(count, cells)
    if shifted:
        inner = sorted({cells * (2 * k + 1) // (2 * count) for k in range(count)} - {0})
        return [0, *(stride * border for border in inner), length]
    return [*(stride * (cells * k // count) for k in range(count)), length]


def split(maps: Float[Tensor, "b c h w"], *, stride: int, grid: Grid, shifted: bool = False) -> list[list[Tensor]]:
    """Views of `maps`, row by row; `merge` puts them back together."""
    rows = cuts(maps.shape[-2], stride=stride, count=grid[0], shifted=shifted)
    columns = cuts(maps.shape[-1], stride=stride, count=grid[1], shifted=shifted)
    return [
        [maps[..., top:bottom, left:right] for left, right in itertools.pairwise(columns)]
        for top, bottom in itertools.pairwise(rows)
    ]


def merge(patches: Sequence[Sequence[Tensor]]) -> Tensor:
    """Rows of patches `(B, C, h, w)` as one map `(B, C, H, W)`."""
    return torch.cat([torch.cat(list(row), dim=-1) for row in patches], dim=-2)


def patchwise(
    function: Callable[[Tensor], Tensor],
    maps: Float[Tensor, "b c h w"],
    *,
    stride: int,
    grid: Grid,
    shifted: bool = False,
) -> Float[Tensor, "b d gh gw"]:
    """`function` of every patch alone, put back together; patches of one size go through it as one batch.

    `function` has a total stride of `stride` and must treat the rows of a batch independently (batch norm in eval mode).
    """
    patches = split(maps, stride=stride, grid=grid, shifted=shifted)
    places: dict[tuple[int, int], list[tuple[int, int]]] = defaultdict(list)
    for i, row in enumerate(patches):
        for j, patch in enumerate(row):
            places[patch.shape[-2], patch.shape[-1]].append((i, j))
    done: list[list[Tensor]] = [[patch for patch in row] for row in patches]
    for own in places.values():
        together = function(torch.cat([patches[i][j] for i, j in own]))
        for (i, j), result in zip(own, together.split(len(maps)), strict=True):
            done[i][j] = result
    return merge(done)
