"""The shapes of COCO's annotations, polygons and run lengths, drawn into one mask of classes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.data.palette import decode_rle

Bools = NDArray[np.bool_]
Window = tuple[slice, slice]
"""Rows and columns of a picture."""


@dataclass(frozen=True, slots=True)
class Shape:
    """Where an object is: polygons or else `runs` over a picture of `size`.

    A polygon is the bytes of float32 x and y of its corners in turn: COCO has a million, mostly smaller than the frame of an
    array. Runs count pixels down the columns from the left, alternately outside and inside: int64, or COCO's compressed string,
    which is read when it is drawn. `size` is (height, width).
    """

    polygons: tuple[bytes, ...] = ()
    runs: NDArray[np.int64] | str | None = None
    size: tuple[int, int] = (0, 0)

    def __bool__(self) -> bool:
        return self.runs is not None or bool(self.polygons)


def parse_shape(segmentation: object) -> Shape:
    """The value of an annotation's key `segmentation`. Raises ValueError where it is neither polygons nor run lengths."""
    if isinstance(segmentation, dict):
        height, width = (int(side) for side in segmentation["size"])
        counts = segmentation["counts"]
        return Shape(runs=counts if isinstance(counts, str) else np.asarray(counts, np.int64), size=(height, width))
    if not isinstance(segmentation, list):
        raise ValueError(f"a segmentation of type {type(segmentation).__name__}")
    polygons = [np.asarray(corners, np.float32) for corners in segmentation]
    for corners in polygons:
        if corners.ndim != 1 or len(corners) % 2 or not np.isfinite(corners).all():
            raise ValueError("a polygon that is no list of x and y in turn")
    return Shape(tuple(corners.tobytes() for corners in polygons))


def paint(size: tuple[int, int], shapes: Iterable[tuple[int, Shape]]) -> NDArray[np.uint8]:
    """A mask of `size` (height, width), 0 where nothing is; each (value, shape) covers those before it.

    Raises ValueError for run lengths that are torn or over another size.
    """
    mask = np.zeros(size, np.uint8)
    for value, shape in shapes:
        for window, inside in _areas(size, shape):
            mask[window][inside] = value
    return mask


def _areas(size: tuple[int, int], shape: Shape) -> Iterator[tuple[Window, Bools]]:
    if shape.runs is None:
        for polygon in shape.polygons:
            yield fill_polygon(size, np.frombuffer(polygon, np.float32).reshape(-1, 2))
        return
    if shape.size != size:
        wrong, right = (f"{width} x {height}" for height, width in (shape.size, size))
        raise ValueError(f"run lengths over {wrong} pixels for a picture of {right}")
    inside = decode_rle(shape.runs, size).numpy() if isinstance(shape.runs, str) else fill_runs(size, shape.runs)
    yield (slice(None), slice(None)), inside


def fill_runs(size: tuple[int, int], runs: NDArray[np.int64]) -> Bools:
    """Run lengths down the columns, the first outside -> bool `(H, W)`. Raises ValueError where they do not cover the size."""
    height, width = size
    if runs.ndim != 1 or (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(f"run lengths that do not cover {width} x {height} pixels")
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(width, height).T


def fill_polygon(size: tuple[int, int], corners: NDArray[np.float32]) -> tuple[Window, Bools]:
    """The pixels of a picture whose centre is inside a polygon `(n, 2)`, even-odd rule: a window and its pixels, bool.

    Coordinates count from the picture's upper left corner, so pixel (x, y) has its centre at (x + 0.5, y + 0.5). In each row
    the edges that cross the line of centres are counted: a pixel is inside where an odd number lies to its left.
    """
    height, width = size
    start = corners.astype(np.float64)
    end = np.roll(start, -1, axis=0)
    step = end - start
    ends = np.stack([start[:, 1], end[:, 1]])
    first, last = np.clip(np.ceil(np.array([ends.min(axis=0), ends.max(axis=0)]) - 0.5), 0, height).astype(np.int64)
    edge = np.repeat(np.arange(len(start)), last - first)
    if not len(edge):
        return (slice(0, 0), slice(0, 0)), np.zeros((0, 0), np.bool_)
    row = np.concatenate([np.arange(a, b) for a, b in zip(first, last, strict=True)])
    crossing = start[edge, 0] + (row + 0.5 - start[edge, 1]) * step[edge, 0] / step[edge, 1]
    column = np.clip(np.ceil(crossing - 0.5), 0, width).astype(np.int64)
    top, left = int(row.min()), int(column.min())
    rows, columns = int(row.max()) + 1 - top, int(column.max()) - left
    cell = (row - top) * (columns + 1) + column - left
    crossings = np.bincount(cell, minlength=rows * (columns + 1)).reshape(rows, columns + 1)
    return (slice(top, top + rows), slice(left, left + columns)), np.cumsum(crossings, axis=1)[:, :columns] % 2 == 1
