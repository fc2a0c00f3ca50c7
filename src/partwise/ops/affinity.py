"""Pairs of nearby cells: which belong together, by a boundary map (IRN) or by features (AffinityNet), and their losses.

A pair is a source cell and the cell at an offset (dy, dx) from it, closer than `radius`. Each unordered pair is meant
once, so only one half plane of offsets is listed. The published source cells are used: every cell of the map but a
margin of `radius - 1` at the bottom, the left and the right, so that all offsets of a source lie inside. Pairs come as
`(..., p, n)`: p offsets in the order of `pair_offsets`, n source cells in reading order. Ahn et al., IRN (2019);
Ahn and Kwak, AffinityNet (2018). What maps become by these affinities is random_walk.py's.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import groupby
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Integer, Shaped
from torch import Tensor

from partwise.ops.averages import Average, alone

Offset = tuple[int, int]
"""(dy, dx) in cells."""

VOID = 255
EPSILON = 1e-5
"""Added to an affinity before its logarithm and to a count of pairs, as in both published codes."""


class PairLabels(NamedTuple):
    """What is known of each pair, as three masks `(b, p, n)`; a pair in none of them has a void cell and is ignored."""

    background: Bool[Tensor, "b p n"]
    """Both cells are background (label 0)."""
    foreground: Bool[Tensor, "b p n"]
    """Both cells are of one class above 0."""
    negative: Bool[Tensor, "b p n"]
    """The labels differ."""


@lru_cache
def pair_offsets(radius: int) -> tuple[Offset, ...]:
    """Offsets strictly inside `radius` with dy > 0, or dy = 0 and dx > 0: 34 for radius 5, 152 for 10.

    In the order of the length of their paths, then of dy and dx. Raises ValueError for a radius below 2.
    """
    if radius < 2:
        raise ValueError(f"radius {radius}: expected at least 2 cells, else no cell has a neighbour")
    reach = range(1 - radius, radius)
    half_plane = [(dy, dx) for dy in range(radius) for dx in reach if dy > 0 or dx > 0]
    inside = [(dy, dx) for dy, dx in half_plane if dy * dy + dx * dx < radius * radius]
    return tuple(sorted(inside, key=lambda offset: (len(path_cells(offset)), offset)))


@lru_cache(maxsize=1024)
def path_cells(offset: Offset) -> tuple[Offset, ...]:
    """Cells on the way from (0, 0) to `offset`: those of the bounding rectangle closer than 1 to the segment.

    Both ends belong to it. In whole numbers: |dy x - dx y| is the distance times the segment's length.
    """
    dy, dx = offset
    rows, columns = range(min(dy, 0), max(dy, 0) + 1), range(min(dx, 0), max(dx, 0) + 1)
    return tuple((y, x) for y in rows for x in columns if (dy * x - dx * y) ** 2 < dy * dy + dx * dx)


def pair_sources(cells: Shaped[Tensor, "*b h w"], radius: int) -> Shaped[Tensor, "*b n"]:
    """The values of the source cells. Raises ValueError for a map that is too small to have one."""
    return _shifted(cells, (0, 0), radius)


def pair_targets(cells: Shaped[Tensor, "*b h w"], radius: int) -> Shaped[Tensor, "*b p n"]:
    """The values of the cells at every offset from the source cells. Raises ValueError for a map that is too small."""
    return torch.stack([_shifted(cells, offset, radius) for offset in pair_offsets(radius)], dim=-2)


def path_affinity(edge: Float[Tensor, "b h w"] | Float[Tensor, "b 1 h w"], radius: int) -> Float[Tensor, "b p n"]:
    """1 - the greatest boundary on the path between the cells of each pair, for boundary maps in [0, 1] (IRN).

    A gradient goes to one cell of each path, the greatest. Raises ValueError for a map that is too small.
    """
    maps = edge[:, 0] if edge.ndim == 4 else edge
    cells, groups = _paths_by_length(radius)
    shifted = torch.stack([_shifted(maps, cell, radius) for cell in cells], dim=1)
    barriers = []
    for paths in groups:
        # Whole rows of `shifted` are copied; the greatest is found once for all paths of a length.
        rows = shifted.index_select(1, paths.flatten().to(edge.device))
        barriers.append(rows.unflatten(1, paths.shape).max(dim=2).values)
    return 1 - torch.cat(barriers, dim=1)


def feature_affinity(features: Float[Tensor, "b d h w"], radius: int) -> Float[Tensor, "b p n"]:
    """exp(-mean_d |f_i - f_j|) of each pair (AffinityNet). Raises ValueError for a map that is too small."""
    source = pair_sources(features, radius)
    # One offset at a time: the differences of all at once would be p times the features.
    distances = [(_shifted(features, offset, radius) - source).abs().mean(dim=1) for offset in pair_offsets(radius)]
    return torch.exp(-torch.stack(distances, dim=1))


def pair_labels(labels: Integer[Tensor, "b h w"], radius: int, *, void: int = VOID) -> PairLabels:
    """What a label map says of each pair; a pair with a `void` cell is neither positive nor negative.

    Raises ValueError for a map that is too small.
    """
    source, target = pair_sources(labels, radius)[:, None], pair_targets(labels, radius)
    valid = (source != void) & (target != void)
    equal = source == target
    return PairLabels(equal & (source == 0) & valid, equal & (source != 0) & valid, ~equal & valid)


def affinity_loss(
    affinity: Float[Tensor, "b p n"], labels: PairLabels, *, average: Average = alone
) -> Float[Tensor, ""]:
    """Cross entropy of affinities: background / 4 + foreground / 4 + negative / 2, each a mean over its pairs.

    -log(a + 1e-5) for the positive, -log(1 + 1e-5 - a) for the negative pairs. It is AffinityNet's loss and the
    boundary loss of IRN, which is written (positive + negative) / 2 there. A kind without pairs counts as 0. `average`
    is for several processes, see averages.py.
    """
    affinity = affinity.to(torch.promote_types(affinity.dtype, torch.float32))
    attract, repel = -torch.log(affinity + EPSILON), -torch.log(1 + EPSILON - affinity)
    background, foreground = (
        _mean_over(attract, mask, average=average) for mask in (labels.background, labels.foreground)
    )
    return ((background + foreground) / 2 + _mean_over(repel, labels.negative, average=average)) / 2


def displacement_loss(
    displacement: Float[Tensor, "b 2 h w"], labels: PairLabels, radius: int, *, average: Average = alone
) -> Float[Tensor, ""]:
    """IRN's loss of the field of vectors (dy, dx) from every cell to the centre of its object.

    For cells p and q = p + offset: the mean of |d(p) - d(q) - offset| over both channels of foreground pairs, and of
    |d(p) - d(q)| over those of background pairs; half of each. A kind without pairs counts as 0.
    """
    displacement = displacement.to(torch.promote_types(displacement.dtype, torch.float32))
    difference = pair_sources(displacement, radius)[:, :, None] - pair_targets(displacement, radius)
    offsets = torch.tensor(pair_offsets(radius), dtype=difference.dtype, device=difference.device).T[:, :, None]
    foreground = _mean_over((difference - offsets).abs().sum(dim=1), labels.foreground, values=2, average=average)
    background = _mean_over(difference.abs().sum(dim=1), labels.background, values=2, average=average)
    return (foreground + background) / 2


def _mean_over(values_of_pairs: Tensor, mask: Tensor, *, values: int = 1, average: Average) -> Tensor:
    """The sum over the pairs of a mask by their number, where a pair stands for so many `values`."""
    total = torch.where(mask, values_of_pairs, 0).sum()
    return total / (values * average(mask.sum().to(total.dtype)) + EPSILON)


def _shifted(cells: Tensor, offset: Offset, radius: int) -> Tensor:
    """The cells at one offset from the source cells, in reading order: `(..., h, w)` -> `(..., n)`."""
    margin = radius - 1
    rows, columns = cells.shape[-2] - margin, cells.shape[-1] - 2 * margin
    if rows < 1 or columns < 1:
        height, width = cells.shape[-2:]
        raise ValueError(
            f"map of {height} x {width} cells: pairs within radius {radius} need at least {radius} x {2 * radius - 1}"
        )
    dy, dx = offset
    return cells[..., dy : dy + rows, margin + dx : margin + dx + columns].flatten(-2)


@lru_cache
def _paths_by_length(radius: int) -> tuple[tuple[Offset, ...], tuple[Tensor, ...]]:
    """All cells that lie on some path, and the paths, one tensor `(paths, cells)` of places in that list a length."""
    paths = [path_cells(offset) for offset in pair_offsets(radius)]
    cells = tuple(sorted({cell for path in paths for cell in path}))
    place = {cell: number for number, cell in enumerate(cells)}
    groups = [list(group) for _, group in groupby(paths, key=len)]
    return cells, tuple(torch.tensor([[place[cell] for cell in path] for path in group]) for group in groups)
