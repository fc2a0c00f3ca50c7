"""The random walk beside the published dense one: seconds for one picture of 94 x 125 cells, 3 classes, 256 steps.

The rival is written here as the code of IRN works: the affinities of all pairs of cells in one float32 matrix, its
columns normalised, squared eight times, and the maps multiplied with it. A better use of the same matrix, 256 products
with the maps and no squaring, is measured too. `refinement.py` calls `measure_walk` and records what it returns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.ops.random_walk import path_links, random_walk, transition

SIZE = (94, 125)
"""Cells at a quarter of a VOC picture's 375 x 500 pixels."""
CLASSES, RADIUS, BETA, DOUBLINGS = 3, 5, 10, 8
ASKED = 20.0
REPETITIONS = 11


def measure_walk(size: tuple[int, int] = SIZE, repetitions: int = REPETITIONS) -> dict[str, Any]:
    """Seconds of our walk and of both dense ones, from maps and boundary to walked maps, and how far they differ.

    Ours is the median of so many repetitions; the dense ones run once: each takes minutes or seconds and a few GB.
    """
    maps, edge = example(size)
    walked = random_walk(maps, edge)  # warms up threads and memory
    ours = [seconds(lambda: random_walk(maps, edge))[0] for _ in range(repetitions)]
    built = [seconds(lambda: transition(path_links(edge, RADIUS), radius=RADIUS, beta=BETA))[0] for _ in ours]
    squared_time, squared = seconds(lambda: dense_walk(maps, edge))
    applied_time, applied = seconds(lambda: dense_walk(maps, edge, squared=False))
    exact = random_walk(maps.double(), edge.double())
    speed_up = squared_time / statistics.median(ours)
    return {
        "cells": list(size),
        "classes": CLASSES,
        "steps": 2**DOUBLINGS,
        "repetitions": repetitions,
        "ours_s": rounded(statistics.median(ours)),
        "ours_quartiles_s": [rounded(value) for value in statistics.quantiles(ours, n=4)[::2]],
        "of_which_building_s": rounded(statistics.median(built)),
        "dense_squared_s": rounded(squared_time),
        "dense_applied_s": rounded(applied_time),
        "speed_up": round(speed_up, 1),
        "speed_up_over_applied": round(applied_time / statistics.median(ours), 1),
        "asked": ASKED,
        "met": speed_up >= ASKED,
        "largest_difference": {
            "ours": difference(walked, exact),
            "dense_squared": difference(squared, exact),
            "dense_applied": difference(applied, exact),
        },
    }


def example(size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Maps `(c, h, w)` and a boundary `(h, w)` with smooth regions and thin, strong edges, in [0, 1]."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, CLASSES + 1, size[0] // 8, size[1] // 8, generator=generator)
    smooth = F.interpolate(coarse, size=size, mode="bicubic", align_corners=False)[0].clamp(0, 1)
    return smooth[:CLASSES], torch.exp(-(((smooth[CLASSES] - 0.5) / 0.03) ** 2))


def dense_walk(maps: Tensor, edge: Tensor, *, squared: bool = True) -> Tensor:
    """The walk by the matrix of all pairs of cells, squared eight times or applied 256 times."""
    matrix = dense_affinity(edge) ** BETA
    matrix /= matrix.sum(dim=0, keepdim=True)
    values = (maps * (1 - edge)).flatten(1)
    if squared:
        for _ in range(DOUBLINGS):
            matrix = matrix @ matrix
        return (values @ matrix).reshape(maps.shape)
    for _ in range(2**DOUBLINGS):
        values = values @ matrix
    return values.reshape(maps.shape)


def dense_affinity(edge: Tensor) -> Tensor:
    """1 - the greatest boundary on the path of every pair within the radius, 1 on the diagonal, 0 elsewhere."""
    height, width = edge.shape
    cell = torch.arange(height * width).reshape(height, width)
    matrix = torch.eye(height * width)
    for dy in range(RADIUS):
        for dx in range(1 - RADIUS, RADIUS):
            if dy * dy + dx * dx >= RADIUS * RADIUS or (dy == 0 and dx <= 0):
                continue
            rows, columns = height - dy, width - abs(dx)
            left = max(-dx, 0)
            worst = torch.zeros(rows, columns)
            for y in range(dy + 1):
                for x in range(min(dx, 0), max(dx, 0) + 1):
                    if (dy * x - dx * y) ** 2 < dy * dy + dx * dx:
                        worst = torch.maximum(worst, edge[y : y + rows, left + x : left + x + columns])
            one = cell[:rows, left : left + columns].flatten()
            other = cell[dy:, left + dx : left + dx + columns].flatten()
            matrix[one, other] = matrix[other, one] = 1 - worst.flatten()
    return matrix


def seconds(call: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """How long a call takes, and what it returns."""
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def difference(found: Tensor, exact: Tensor) -> float:
    """The greatest difference as a share of the greatest value, to two digits."""
    return float(f"{((found - exact).abs().max() / exact.max()).item():.1e}")


def rounded(value: float) -> float:
    """To a tenth of a millisecond."""
    return round(value, 4)
