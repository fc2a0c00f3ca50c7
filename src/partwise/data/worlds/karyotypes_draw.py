"""Chromosomes of the karyotypes world -> pixels, for many pictures at once.

A pixel near a curved axis has a place along and a distance across; its darkness is the product of what tables along the
chromosome say there (stain, width, gap, all of them blurred) and of a soft profile across. So blur costs one dimension and not
two. Each chromosome is evaluated in a window around it, windows of one size together. A pixel depends on its own picture alone
and on exactly rounded operations only: a batch equals its items bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.draws import Draws, Floats, Ints, Keys, keys, noise
from partwise.data.worlds.karyotypes_body import Look
from partwise.data.worlds.karyotypes_scene import Bodies

Singles = NDArray[np.float32]
Bytes = NDArray[np.uint8]

PER_PIXEL = 4
"""Samples of the tables in a pixel."""
MARGIN = 3 / 64
"""What the tables hold before the tip of the short arm, in sides of the frame; twice that after the frame's side."""
EDGE = 4.47
"""The width of a smooth step whose slope has standard deviation 1."""
WINDOWS = (8, 12, 16, 20, 26, 32, 40, 48, 64)
"""Sides of windows in 64ths of the frame."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Along m chromosomes, float32 `(m, samples)`: `ink` in grey values below white, `half` of the width in pixels, and `gap`,
    the share of the ink that is missing between the chromatids.
    """

    ink: Singles
    half: Singles
    gap: Singles


def make_tables(bodies: Bodies, size: int) -> Tables:
    """Bands, waist, stalks, tips and gap of every body, blurred along the axis."""
    stripes, look = bodies.stripes, bodies.look
    margin = MARGIN * size
    samples = round(PER_PIXEL * (size + 3 * margin))
    ink = _blurred(_spread(stripes.edges, stripes.darkness, margin, samples), look.blur)
    # Thickness changes less abruptly than stain.
    rounded = np.sqrt(look.blur * look.blur + 0.1 * look.half * look.half)
    thickness = _blurred(_spread(stripes.edges, stripes.thickness, margin, samples), rounded)
    place = ((np.arange(samples) + 0.5) / PER_PIXEL - margin).astype(np.float32)
    half = _column(look.half)
    inside = np.minimum(place - _column(bodies.first), _column(bodies.last) - place)
    from_centromere = np.abs(place - _column(stripes.centromere))
    waist = np.maximum(np.float32(1) - _square(from_centromere / (np.float32(1.3) * half)), np.float32(0))
    thickness *= np.float32(1) - _column(stripes.waist) * _square(waist)
    arm = np.minimum(np.maximum(from_centromere / half - np.float32(0.5), np.float32(0)), np.float32(1))
    parted = from_centromere / _column(stripes.length)
    thickness *= np.float32(1) + parted * _column(look.splay)
    # Tips are blunt, with round corners.
    corner = np.float32(1) - np.minimum(np.maximum(inside / (np.float32(0.7) * half), np.float32(0)), np.float32(1))
    thickness *= np.float32(0.5) + np.float32(0.5) * np.sqrt(np.float32(1) - _square(corner))
    ink *= _smooth_step(inside / _column(EDGE * look.blur) + np.float32(0.5))
    gap = arm * _column(look.gap) * (np.float32(0.6) + np.float32(0.8) * parted)
    return Tables(ink, thickness * half, gap)


def _column(values: Floats) -> Singles:
    """One value a chromosome, to broadcast along it."""
    return values.astype(np.float32)[:, None]


def _square(values: Singles) -> Singles:
    return values * values


def _smooth_step(values: Singles) -> Singles:
    """0 below 0, 1 above 1, 3 t**2 - 2 t**3 between; may overwrite its argument."""
    clipped = np.minimum(np.maximum(values, np.float32(0), out=values), np.float32(1), out=values)
    return clipped * clipped * (np.float32(3) - np.float32(2) * clipped)


def _spread(edges: Floats, values: Floats, margin: float, samples: int) -> Floats:
    """Piecewise constant values `(m, K)` between edges in pixels -> `(m, samples)` from -`margin` on, the mean of each sample.

    Every step is put where it happens, shared between two samples, and the steps are summed from left to right.
    """
    count, _ = values.shape
    at = np.clip((edges[:, 1:-1] + margin) * PER_PIXEL, 0.0, samples - 2.0)
    low = at.astype(np.int64)
    later = at - low
    step = np.diff(values, axis=1)
    where = low + (np.arange(count) * samples)[:, None]
    places = np.concatenate([where.ravel(), where.ravel() + 1])
    weights = np.concatenate([(step * (1.0 - later)).ravel(), (step * later).ravel()])
    steps: Floats = np.bincount(places, weights, minlength=count * samples).astype(np.float64).reshape(count, samples)
    steps[:, 0] += values[:, 0]
    return steps.cumsum(axis=1)


def _blurred(values: Floats, blur: Floats) -> Singles:
    """Samples along the axis averaged over a box, twice, so that the standard deviation is `blur` pixels."""
    # A box of b samples has variance b * b / 12.
    half = np.sqrt(1.5) * PER_PIXEL * blur
    return _averaged(_averaged(values, half), half).astype(np.float32)


def _averaged(values: Floats, half: Floats) -> Floats:
    """Means over `half` samples to either side `(m,)`, from differences of the integral; the ends go on for ever."""
    edge = half + 0.5
    whole = np.floor(edge).astype(np.int64)
    rest = (edge - whole)[:, None]
    # Never of the batch: how much is summed before a sample must not depend on the company it is in.
    reach = values.shape[1] // 16
    assert whole.max() < reach, "blur and thickness keep within a sixteenth of the tables"
    # The integral up to the right side of each sample, linear within it.
    integral = np.pad(values, ((0, 0), (reach, reach)), mode="edge").cumsum(axis=1)
    middle = np.arange(reach, reach + values.shape[1])

    def up_to(offset: Ints) -> Floats:
        return np.take_along_axis(integral, middle + offset[:, None], axis=1)

    right, left = up_to(whole - 1), up_to(-whole)
    right += rest * (up_to(whole) - right)
    left -= rest * (left - up_to(-whole - 1))
    return (right - left) / (2.0 * half)[:, None]


# -- pixels ------------------------------------------------------------------------------------------------------------


def paint(canvas: Singles, bodies: Bodies) -> None:
    """Add the bodies to `canvas` `(n, s, s)`, grey values below white; where two lie over each other the light passes both."""
    size = canvas.shape[-1]
    tables = make_tables(bodies, size)
    for rows, height, width in _windows(bodies.bounds, size):
        top = np.minimum(bodies.bounds[rows, 0], size - height)
        left = np.minimum(bodies.bounds[rows, 2], size - width)
        darkness = _window(bodies, tables, rows, (top, left), (height, width))
        for i, y, x, dark in zip(bodies.owner[rows].tolist(), top.tolist(), left.tolist(), darkness, strict=True):
            under = canvas[i, y : y + height, x : x + width]
            under += dark - under * dark * np.float32(1 / 255)


def _windows(bounds: Ints, size: int) -> Iterator[tuple[Ints, int, int]]:
    """Rows of bodies whose windows have one height and width, in pieces that stay in the second-level cache."""
    sides = np.array(sorted({min(size, -(-size * share // 64)) for share in WINDOWS}))
    spans = np.stack([bounds[:, 1] - bounds[:, 0], bounds[:, 3] - bounds[:, 2]], axis=1)
    kind = np.searchsorted(sides, spans)
    code = kind[:, 0] * len(sides) + kind[:, 1]
    for each in np.unique(code[spans.min(axis=1) > 0]):
        rows = np.flatnonzero((code == each) & (spans.min(axis=1) > 0))
        height, width = int(sides[each // len(sides)]), int(sides[each % len(sides)])
        step = max(1, 16384 // (height * width))
        for start in range(0, len(rows), step):
            yield rows[start : start + step], height, width


def _window(bodies: Bodies, tables: Tables, rows: Ints, corner: tuple[Ints, Ints], shape: tuple[int, int]) -> Singles:
    """How dark some bodies are in windows of one shape, `(m, height, width)`."""
    (top, left), (height, width) = corner, shape
    size = bodies.rows.x.shape[1]
    lines = np.clip(top[:, None] + np.arange(height) - bodies.down[rows, None], 0, size - 1)

    def of_line(values: Floats) -> Singles:
        return np.take_along_axis(values[rows], lines, axis=1).astype(np.float32)[:, :, None]

    sin, cos, curvature = of_line(bodies.rows.sin), of_line(bodies.rows.cos), of_line(bodies.rows.curvature)
    column = (left - bodies.right[rows]).astype(np.float32)[:, None] + (np.arange(width, dtype=np.float32) + 0.5)
    away = column[:, None, :] - of_line(bodies.rows.x)
    across = away * (np.float32(-0.5) * curvature * sin * sin)
    across += cos
    across *= away
    along = away * (curvature * sin * cos)
    along += sin
    along *= away
    along += of_line(bodies.rows.along) + np.float32(MARGIN * size)
    slanted = across * bodies.slant[rows].astype(np.float32)[:, None, None]
    along += slanted
    return _darkness(bodies.look, tables, rows, along, across)


def _darkness(look: Look, tables: Tables, rows: Ints, along: Singles, across: Singles) -> Singles:
    """Tables times the profile across; overwrites `along` and `across`."""
    samples = tables.ink.shape[1]
    along *= np.float32(PER_PIXEL)
    np.minimum(np.maximum(along, np.float32(0), out=along), np.float32(samples - 1), out=along)
    place = along.astype(np.int64)
    place += (rows * samples)[:, None, None]
    half = tables.half.take(place)
    distance = np.abs(across)
    cover = half - distance
    cover *= (1.0 / (EDGE * look.blur[rows])).astype(np.float32)[:, None, None]
    cover += np.float32(0.5)
    cover = _smooth_step(cover)
    cover *= tables.ink.take(place)
    # The gap is a third of the width, and as wide as blur makes it.
    reach = (1.0 / (0.34 * look.half[rows] + 1.3 * look.blur[rows])).astype(np.float32)[:, None, None]
    across *= reach
    across *= across
    np.subtract(np.float32(1), across, out=across)
    np.maximum(across, np.float32(0), out=across)
    across *= across
    across *= tables.gap.take(place)
    np.subtract(np.float32(1), across, out=across)
    cover *= across
    return cover


# -- stain and sensor --------------------------------------------------------------------------------------------------


@cache
def texture_atlas(size: int) -> Singles:
    """Uneven stain with mean 0 in [-1, 1], `(2 size, 2 size)`; its grains are a fortieth of the frame."""
    return (2.0 * noise(2 * size, (80, 80), 71) - 1.0).astype(np.float32)


@cache
def grain_atlas(size: int) -> Singles:
    """Sensor noise with mean 0 and standard deviation 1, `(2 size, 2 size)`."""
    draws = Draws(keys(72, np.arange(4 * size * size)))
    return draws.bell().reshape(2 * size, 2 * size).astype(np.float32)


def develop(canvas: Singles, look: Look, picture_keys: Keys) -> Bytes:
    """Darkness `(n, s, s)` -> grey pictures `(n, 1, s, s)`; the ground stays at 255, as after a segmentation."""
    count, size, _ = canvas.shape
    draws = Draws(keys(picture_keys, 3))
    corners = np.stack([draws.integer(size) for _ in range(4)], axis=1).tolist()
    texture, grain = texture_atlas(size), grain_atlas(size)
    uneven, noisy = look.texture.astype(np.float32), look.grain.astype(np.float32)
    result = np.empty((count, 1, size, size), dtype=np.uint8)
    for i, (y, x, v, u) in enumerate(corners):
        dark = canvas[i]
        there = np.minimum(dark * np.float32(1 / 40), np.float32(1))
        dark *= texture[y : y + size, x : x + size] * uneven[i] + np.float32(1)
        there *= grain[v : v + size, u : u + size] * noisy[i]
        value = np.float32(255.5) - dark
        value -= there
        np.minimum(np.maximum(value, np.float32(0), out=value), np.float32(255), out=value)
        result[i, 0] = value
    return result
