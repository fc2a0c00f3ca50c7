"""Connected regions of maps, at every threshold of a grid at once: their boxes and sizes.

A pixel belongs to a region at threshold t if its value is above t; regions are 8-connected, as the outer contours of
image libraries are (so a diagonal line is one region). Not for choosing thresholds or a region: see localize.py.

One pass over the pixels serves all thresholds. Every pixel points to a neighbour that is higher (or as high, and later
in the order of reading), so following the pointers ends on a peak; the pixels of one peak above t are always connected
with it: its basin. Hence sizes and boxes need collecting only once for each (basin, level), and what remains is to join
basins that touch above t: a small graph of (basin, threshold) nodes.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor

PIXELS_AT_ONCE = 1 << 19
"""Bounds the memory of the (peak, threshold) tables; pictures are worked through in groups of this many pixels."""

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Components:
    """Regions in the order (picture, threshold, first pixel in the order of reading), one entry each.

    `picture` and `threshold` are positions in what was asked for; `boxes` are half-open; `size` is what was asked for.
    """

    picture: Int[Tensor, " n"]
    threshold: Int[Tensor, " n"]
    boxes: Float[Tensor, "n 4"]
    size: Float[Tensor, " n"]


def components(
    maps: Float[Tensor, "b h w"],
    thresholds: Float[Tensor, " t"] | Float[Tensor, "b t"],
    *,
    size: Literal["pixels", "contour"] = "pixels",
) -> Components:
    """Every 8-connected region of `map > threshold`, for rising thresholds, common or one row a picture.

    Sizes are numbers of pixels, or areas inside the polygon through the centres of the border pixels, holes taken off:
    0 for a line one pixel wide. Raises ValueError for maps that are not finite and for thresholds that fall.
    """
    if not maps.isfinite().all():
        raise ValueError("a map holds values that are not finite (NaN or infinity)")
    if (thresholds.diff(dim=-1) < 0).any():
        raise ValueError("thresholds must not fall")
    values = maps.detach().float().cpu()
    count, height, width = values.shape
    rows = thresholds.detach().float().cpu().expand(count, -1).contiguous()
    levels = torch.searchsorted(rows, values.flatten(1).contiguous()).reshape(values.shape)
    group = max(1, PIXELS_AT_ONCE // max(1, height * width))
    parts = [_none()]
    for start in range(0, count, group):
        some = slice(start, start + group)
        parts.append(_group(values[some].numpy(), levels[some].numpy(), rows.shape[1], start, size == "contour"))
    return Components(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(Components)))


def _none() -> Components:
    empty = torch.zeros(0, dtype=torch.int64)
    return Components(empty, empty, torch.zeros(0, 4), torch.zeros(0))


def _neighbours(height: int, width: int) -> list[tuple[int, tuple[slice, slice], tuple[slice, slice]]]:
    """The four neighbours later in the order of reading: step of the flat position, own window, neighbour's window."""
    inner, head, tail = slice(None), slice(None, -1), slice(1, None)
    return [
        (1, (inner, head), (inner, tail)),
        (width - 1, (head, tail), (tail, head)),
        (width, (head, inner), (tail, inner)),
        (width + 1, (head, head), (tail, tail)),
    ]


def _peaks(values: Floats) -> Ints:
    """For every pixel of maps `(b, h, w)` the flat position of the peak that its ascent ends on."""
    _, height, width = values.shape
    best, step = values.copy(), np.zeros(values.shape, np.int64)
    neighbours = _neighbours(height, width)
    for distance, own, other in neighbours:  # earlier neighbours must be higher
        rise = values[(slice(None), *own)] > best[(slice(None), *other)]
        best[(slice(None), *other)][rise] = values[(slice(None), *own)][rise]
        step[(slice(None), *other)][rise] = -distance
    for distance, own, other in neighbours:  # later ones may be as high: no two pixels point to each other
        rise = values[(slice(None), *other)] >= best[(slice(None), *own)]
        best[(slice(None), *own)][rise] = values[(slice(None), *other)][rise]
        step[(slice(None), *own)][rise] = distance
    target: Ints = np.arange(values.size) + step.ravel()
    while True:
        further = target[target]
        if np.array_equal(further, target):
            return target
        target = further


def _saddles(basin: Ints, level: Ints) -> tuple[Ints, Ints, Ints]:
    """Pairs of touching basins with the highest level at which they touch; `basin` and `level` are `(b, h, w)`."""
    _, height, width = level.shape
    pairs, heights = [], []
    size = int(basin.max(initial=0)) + 1
    for _, own, other in _neighbours(height, width):
        a, b = basin[(slice(None), *own)], basin[(slice(None), *other)]
        low = np.minimum(level[(slice(None), *own)], level[(slice(None), *other)])
        touch = (a != b) & (low > 0)
        a, b = a[touch], b[touch]
        pairs.append(np.minimum(a, b) * size + np.maximum(a, b))
        heights.append(low[touch])
    pair, saddle = np.concatenate(pairs), np.concatenate(heights)
    order = np.lexsort((-saddle, pair))
    pair, saddle = pair[order], saddle[order]
    first = np.concatenate([[True], pair[1:] != pair[:-1]])[: len(pair)]
    return pair[first] // size, pair[first] % size, saddle[first]


def _falling(table: NDArray[Any], reduce: np.ufunc) -> NDArray[Any]:
    """`(basins, t)` of what lies at exactly each level -> the same for all higher levels together."""
    return np.asarray(reduce.accumulate(table[:, ::-1], axis=1)[:, ::-1])


def _contours(basin: Ints, level: Ints, slots: int, num: int) -> NDArray[np.float64]:
    """Polygon area by (basin, level): a 2x2 window adds a half when three of its pixels are in, a half when all are."""
    windows = [level[:, y : level.shape[1] - 1 + y, x : level.shape[2] - 1 + x] for y in (0, 1) for x in (0, 1)]
    owners = [basin[:, y : level.shape[1] - 1 + y, x : level.shape[2] - 1 + x] for y in (0, 1) for x in (0, 1)]
    stacked = np.stack(windows)
    owner = np.take_along_axis(np.stack(owners), stacked.argmax(axis=0)[None], axis=0)[0]
    stacked.sort(axis=0)
    total = np.zeros(slots)
    for reached in stacked[:2]:  # the lowest of the four, and the second lowest
        inside = reached > 0
        total += np.bincount(owner[inside] * num + reached[inside] - 1, minlength=slots) * 0.5
    return total


_REDUCE: dict[str, np.ufunc] = {
    "first": np.minimum,
    "last": np.maximum,
    "left": np.minimum,
    "right": np.maximum,
    "size": np.add,
}
"""What is kept of a region, and how two regions' values become those of their union."""


def _collected(slot: Ints, place: Ints, slots: int, width: int, nowhere: int) -> dict[str, NDArray[Any]]:
    """First and last position, left and right column and number of the pixels in each (basin, level) slot."""
    seen = {"first": place, "last": place, "left": place % width, "right": place % width, "size": np.ones_like(place)}
    return {name: _scattered(reduce, slot, seen[name], slots, nowhere) for name, reduce in _REDUCE.items()}


def _scattered(reduce: np.ufunc, slot: Ints, values: NDArray[Any], slots: int, nowhere: int) -> NDArray[Any]:
    """`slots` numbers, each reduced from the values that name it; `nowhere` is above every position and column."""
    table = np.full(slots, nowhere if reduce is np.minimum else 0, values.dtype)
    reduce.at(table, slot, values)
    return table


def _group(values: Floats, level: Ints, num: int, offset: int, contour: bool) -> Components:
    """Some pictures' regions; `level` is the number of thresholds that each pixel is above."""
    _, height, width = values.shape
    area, flat, peak_of = height * width, level.ravel(), _peaks(values)
    above = np.flatnonzero(flat > 0)
    tops = above[peak_of[above] == above]
    if len(tops) == 0:
        return _none()
    number = np.zeros(flat.size, np.int64)
    number[tops] = np.arange(len(tops))
    flat_basin, slots = number[peak_of], len(tops) * num
    basin = flat_basin.reshape(level.shape)
    table = _collected(flat_basin[above] * num + flat[above] - 1, above % area, slots, width, area)
    if contour:
        table["size"] = _contours(basin, level, slots, num)

    nodes = np.flatnonzero((np.arange(num) < flat[tops][:, None]).ravel())
    label, total = _joined(basin, level, slots, num, nodes)
    joined = {}
    for name, reduce in _REDUCE.items():
        higher = _falling(table[name].reshape(-1, num), reduce).ravel()
        joined[name] = _scattered(reduce, label, higher[nodes], total, area)
    picture, threshold = np.zeros(total, np.int64), np.zeros(total, np.int64)
    picture[label], threshold[label] = tops[nodes // num] // area + offset, nodes % num
    order = np.lexsort((joined["first"], threshold, picture))
    corners = [joined["left"], joined["first"] // width, joined["right"] + 1, joined["last"] // width + 1]
    return Components(
        picture=torch.from_numpy(picture[order]),
        threshold=torch.from_numpy(threshold[order]),
        boxes=torch.from_numpy(np.stack(corners, axis=1)[order].astype(np.float32)),
        size=torch.from_numpy(joined["size"][order].astype(np.float32)),
    )


def _joined(basin: Ints, level: Ints, slots: int, num: int, nodes: Ints) -> tuple[Ints, int]:
    """The region number of every existing (basin, threshold) node, and how many regions there are."""
    a, b, saddle = _saddles(basin, level)
    ends = saddle.cumsum()
    rung = np.arange(int(saddle.sum())) - np.repeat(ends - saddle, saddle)  # 0 .. saddle - 1 for every pair
    rows, columns = np.repeat(a * num, saddle) + rung, np.repeat(b * num, saddle) + rung
    graph = coo_matrix((np.ones(len(rows), np.int8), (rows, columns)), shape=(slots, slots))
    labels = connected_components(graph, directed=False)[1][nodes]
    used = np.zeros(slots, bool)
    used[labels] = True
    return (used.cumsum() - 1)[labels], int(used.sum())
