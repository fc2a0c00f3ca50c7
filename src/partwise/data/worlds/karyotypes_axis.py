"""The curved axis of a chromosome of the karyotypes world, row by row of the picture.

An axis runs from top to bottom and never turns by more than 43 degrees from the vertical, so that each row meets it once. Near
it a pixel's place along and across the chromosome follows from its row alone, to second order in the distance.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.draws import Draws, Floats

STEEPEST = 0.75
"""Radians from the vertical."""
FULL_BEND = 1.05
"""60 degrees, in radians: the most between the tips."""
RAMP = 0.35
"""Half the length over which a kink turns, in half lengths of the chromosome."""


@dataclass(frozen=True, slots=True)
class Bend:
    """Angles from the vertical in radians, `(m,)` each: `tilt` of the whole, `arc` at either tip, `kink` at either tip from a
    turn at `turning` (in half lengths from the middle); `offset`: where the rows lie, in pixels.
    """

    tilt: Floats
    arc: Floats
    kink: Floats
    turning: Floats
    offset: Floats


def draw_bends(draws: Draws, amount: Floats, turning: Floats) -> Bend:
    """Bends of up to 60 degrees times `amount` (0 to 1), mostly slight, shared between an arc and a turn at the centromere."""
    share = draws.unit()
    half = 0.5 * FULL_BEND * amount * draws.unit() * np.where(draws.flag(0.5), 1.0, -1.0)
    other = np.where(draws.flag(0.7), 1.0, -1.0)
    return Bend(
        tilt=0.08 * draws.bell(),
        arc=half * share,
        kink=half * (1.0 - share) * other,
        turning=turning,
        offset=draws.uniform(-0.5, 0.5),
    )


@dataclass(frozen=True, slots=True)
class Rows:
    """Axes by row of the picture, float64 `(m, size)` each: where a row meets the axis (`x` pixels), how far `along` it that
    is, the `cos` and `sin` of its angle from the vertical, and its `curvature` in radians a pixel.
    """

    x: Floats
    along: Floats
    cos: Floats
    sin: Floats
    curvature: Floats


def lay_axes(bend: Bend, first: Floats, last: Floats, size: int) -> Rows:
    """Axes whose stretch from `first` to `last` has its middle near the middle of the picture; x counts from there."""
    place = np.arange(size) + 0.5 - 0.5 * size + bend.offset[:, None]
    half = 0.5 * (last - first)[:, None]
    v = np.clip(place / half, -1.1, 1.1)
    into = np.clip((v - bend.turning[:, None]) / RAMP, -1.0, 1.0)
    # A ramp with smooth ends: 1.5 t - 0.5 t ** 3.
    turn = into * (1.5 - 0.5 * into * into)
    angle = bend.tilt[:, None] + bend.arc[:, None] * v + bend.kink[:, None] * turn
    angle = np.clip(angle, -STEEPEST, STEEPEST)
    square = angle * angle
    slope = angle * (1.0 + square * (1.0 / 3.0 + square * (2.0 / 15.0)))
    stretch = np.sqrt(1.0 + slope * slope)
    curvature = np.zeros_like(angle)
    curvature[:, 1:-1] = 0.5 * (angle[:, 2:] - angle[:, :-2]) / stretch[:, 1:-1]
    return Rows(
        x=_integral(slope, place),
        along=_integral(stretch, place) + 0.5 * (first + last)[:, None],
        cos=1.0 / stretch,
        sin=slope / stretch,
        curvature=curvature,
    )


def _integral(values: Floats, place: Floats) -> Floats:
    """From place 0 to each row, by the trapezoidal rule."""
    steps = np.zeros_like(values)
    steps[:, 1:] = 0.5 * (values[:, 1:] + values[:, :-1])
    total = steps.cumsum(axis=1)
    middle = values.shape[1] // 2
    return total - (total[:, middle] - values[:, middle] * place[:, middle])[:, None]


def extent(rows: Rows, first: Floats, last: Floats, half: Floats) -> tuple[NDArray[np.int64], Floats]:
    """First row and row after the last `(m, 2)`, left and right `(m, 2)`, of chromosomes this wide and of these stretches."""
    on = (rows.along >= first[:, None] - 1.0) & (rows.along <= last[:, None] + 1.0)
    top = on.argmax(axis=1)
    bottom = on.shape[1] - on[:, ::-1].argmax(axis=1)
    reach = half[:, None] / rows.cos
    left = np.where(on, rows.x - reach, np.inf).min(axis=1)
    right = np.where(on, rows.x + reach, -np.inf).max(axis=1)
    return np.stack([top, bottom], axis=1), np.stack([left, right], axis=1)
