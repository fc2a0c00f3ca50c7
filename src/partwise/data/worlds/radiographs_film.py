"""How a radiograph of the radiographs world was taken: exposure, contrast, scatter, blur, grain, the marker, the shutters.

Also the textures that are made once for a size of picture: branching vessels, the grain of lung and of film.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.draws import Draws, Floats, Ints, Keys, cos_sin, keys, noise

Singles = NDArray[np.float32]
Bytes = NDArray[np.uint8]

VESSEL_TREES = 12
LEAVING = ((0.07, -0.05), (0.14, -0.03), (0.26, 0.0), (0.34, 0.03), (0.4, 0.055), (0.45, 0.075))
"""Directions of the vessels at the root, in turns from straight up, clockwise, and how far below its middle they leave."""
UP, DOWN, IN, OUT = 0.27, 0.4, 0.03, 0.33
"""How far a tree of vessels reaches from the root of its lung, in sides of a picture."""
NO_MARKER, RIGHT_MARKER, LEFT_MARKER = range(3)
GLYPHS = (
    ("11110", "10001", "10001", "11110", "10100", "10010", "10001"),
    ("10000", "10000", "10000", "10000", "10000", "10000", "11111"),
)
"""R and L."""


@dataclass(frozen=True, slots=True)
class Look:
    """Per picture `(n,)`: how strongly bones, vessels and the texture of the lung show, what share of its air the heart takes.

    The absorption that is shown as `white`; the film's curve (`bend` 0 straight, 1 a parabola), its gain and lift; the share
    of scattered light, blur, grain. Corners in the textures `(n, 4)` and trees of vessels `(n, 2)`. The marker and its place
    in sides of the picture `(n, 2)`; shutters `(n, 4)`: left, top, right, bottom, in sides of the picture, and how bright what
    they cover is.
    """

    rib: Floats
    clavicle: Floats
    spine: Floats
    heart: Floats
    vessel: Floats
    texture: Floats
    white: Floats
    bend: Floats
    gain: Floats
    lift: Floats
    scatter: Floats
    blur: Floats
    grain: Floats
    corner: Ints
    tree: Ints
    marker: Ints
    marker_at: Floats
    shutter: Floats
    covered: Floats


def draw_looks(draws: Draws, size: int) -> Look:
    """The looks of n pictures."""
    gain = draws.uniform(0.72, 1.02)
    marked = draws.weighted(np.tile(np.array([[0.35, 0.5, 0.15]]), (len(draws), 1)))
    outward = np.where(marked == RIGHT_MARKER, -1.0, 1.0)
    aside = 0.5 + outward * draws.uniform(0.33, 0.43)
    edges = [np.where(draws.flag(0.35), draws.uniform(0.0, 0.05), 0.0) for _ in range(4)]
    shut = draws.flag(0.45)
    return Look(
        rib=draws.uniform(0.07, 0.13),
        clavicle=draws.uniform(0.12, 0.2),
        spine=draws.uniform(0.05, 0.17),
        heart=draws.uniform(0.8, 0.95),
        vessel=draws.uniform(0.04, 0.09),
        texture=draws.uniform(0.02, 0.06),
        white=draws.uniform(1.0, 1.36),
        bend=draws.uniform(0.5, 1.15),
        gain=gain,
        lift=draws.uniform(-0.06, 0.16) * np.minimum(1.0, 2.2 * (1.1 - gain)),
        scatter=draws.uniform(0.03, 0.22),
        blur=draws.uniform(0.0, 0.8),
        grain=draws.uniform(0.003, 0.013),
        corner=np.stack([draws.integer(size) for _ in range(4)], axis=1),
        tree=np.stack([draws.integer(VESSEL_TREES), draws.integer(VESSEL_TREES)], axis=1),
        marker=marked,
        marker_at=np.stack([aside, draws.uniform(0.04, 0.13)], axis=1),
        shutter=np.stack(edges, axis=1) * shut[:, None],
        covered=np.where(draws.flag(0.8), 0.02, 0.98),
    )


# -- textures ----------------------------------------------------------------------------------------------------------


@cache
def grain_atlas(size: int) -> Singles:
    """Quantum noise with mean 0 and standard deviation 1, `(2 size, 2 size)`."""
    draws = Draws(keys(81, np.arange(2 * size)))
    return np.stack([draws.bell() for _ in range(2 * size)], axis=1).astype(np.float32)


@cache
def lung_atlas(size: int) -> Singles:
    """The fine markings of the lung with mean 0 in [-1, 1], `(2 size, 2 size)`."""
    layers = ((0.4, 22, 82), (0.35, 50, 83), (0.25, 96, 84))
    total = sum(weight * (2.0 * noise(2 * size, (period, period), seed) - 1.0) for weight, period, seed in layers)
    return np.asarray(total, dtype=np.float32)


@cache
def vessel_atlas(size: int) -> Singles:
    """Trees of vessels for left lungs, `(VESSEL_TREES, rows, columns)`, thickness 1 where they leave the root."""
    shape = (VESSEL_TREES, round((UP + DOWN) * size), round((IN + OUT) * size))
    atlas = np.zeros(shape, dtype=np.float32)
    for number, tree in enumerate(atlas):
        for x0, y0, x1, y1, r0, r1 in _branches(keys(85, number)):
            _stroke(
                tree, ((x0 + IN) * size, (y0 + UP) * size), ((x1 + IN) * size, (y1 + UP) * size), r0 * size, r1 * size
            )
    return atlas


def _branches(key: Keys) -> list[tuple[float, ...]]:
    """Stretches of vessel from the root at 0, 0: ends and radii."""
    draws = Draws(key)

    def one(low: float, high: float) -> float:
        return float(draws.uniform(low, high)[0])

    found: list[tuple[float, ...]] = []
    # Directions in turns from straight up, clockwise to straight down.
    growing = [(0.0, y, turn + one(-0.03, 0.03), one(0.0055, 0.0085), 0) for turn, y in LEAVING]
    while growing:
        x, y, turn, radius, order = growing.pop()
        long = one(0.022, 0.042)
        cos, sin = cos_sin(np.array([turn]))
        x1, y1 = x + long * float(sin[0]), y - long * float(cos[0])
        thin = radius * one(0.8, 0.92)
        found.append((x, y, x1, y1, radius, thin))
        if order < 9 and thin > 0.0012:
            spread = one(0.03, 0.085) * (1.0 if one(0.0, 1.0) < 0.5 else -1.0)
            growing.append((x1, y1, turn + 0.6 * spread, thin, order + 1))
            if one(0.0, 1.0) < 0.55:
                growing.append((x1, y1, turn - spread, thin * one(0.6, 0.9), order + 1))
    return found


def _stroke(plane: Singles, start: tuple[float, float], end: tuple[float, float], r0: float, r1: float) -> None:
    """Add a tapered line of soft profile; thinner than a pixel it is a pixel wide and as much fainter."""
    reach = max(r0, r1, 0.8) + 1.0
    (x0, y0), (x1, y1) = start, end
    left, right = (min(x0, x1) - reach, max(x0, x1) + reach)
    top, bottom = (min(y0, y1) - reach, max(y0, y1) + reach)
    rows = slice(max(0, int(top)), max(0, min(plane.shape[0], int(bottom) + 1)))
    columns = slice(max(0, int(left)), max(0, min(plane.shape[1], int(right) + 1)))
    ys, xs = np.arange(plane.shape[0])[rows, None] + 0.5 - y0, np.arange(plane.shape[1])[None, columns] + 0.5 - x0
    dx, dy = x1 - x0, y1 - y0
    along = np.clip((xs * dx + ys * dy) / max(dx * dx + dy * dy, 1e-6), 0.0, 1.0)
    across = np.square(xs - along * dx) + np.square(ys - along * dy)
    radius = r0 + (r1 - r0) * along
    drawn = np.maximum(radius, 0.8)
    faint = radius / drawn
    value = np.maximum(1.0 - across / (drawn * drawn), 0.0) * faint * faint
    plane[rows, columns] = np.maximum(plane[rows, columns], value * np.minimum(1.0, radius * 160.0 / plane.shape[0]))


# -- developing --------------------------------------------------------------------------------------------------------


def develop(absorbed: Singles, look: Look) -> Bytes:
    """Absorption `(n, s, s)` -> grey pictures `(n, 1, s, s)`; dense is bright."""
    count, size, _ = absorbed.shape
    value = absorbed * _each(1.0 / look.white)
    value += (_haze(value) - value) * _each(look.scatter)
    np.minimum(np.maximum(value, np.float32(0), out=value), np.float32(1), out=value)
    value += _each(look.bend) * value * (np.float32(1) - value)
    value *= _each(look.gain)
    value += _each(look.lift)
    _soften(value, look.blur)
    result = np.empty((count, 1, size, size), dtype=np.uint8)
    grain = grain_atlas(size)
    for i in range(count):
        y, x = look.corner[i, :2].tolist()
        seen = value[i]
        noisy = grain[y : y + size, x : x + size] * np.float32(look.grain[i])
        noisy *= np.float32(0.5) + seen
        seen += noisy
        if look.shutter[i].any():
            _shut(seen, look.shutter[i], float(look.covered[i]))
        if look.marker[i] != NO_MARKER:
            _mark(seen, int(look.marker[i]), look.marker_at[i])
        seen *= np.float32(255)
        seen += np.float32(0.5)
        np.minimum(np.maximum(seen, np.float32(0), out=seen), np.float32(255), out=seen)
        result[i, 0] = seen
    return result


def _each(values: Floats) -> Singles:
    """One value a picture, to broadcast over its pixels."""
    return values.astype(np.float32)[:, None, None]


HAZE = 16
"""Cells a side in which scattered light is told."""


def _haze(value: Singles) -> Singles:
    """Each picture seen without its detail: cells looked up, averaged over their neighbours, and laid over the picture."""
    size = value.shape[-1]
    centres = (np.arange(HAZE) * size + size // 2) // HAZE
    cells = value[:, centres[:, None], centres]
    for _ in range(3):
        for axis in (1, 2):
            padded = np.pad(cells, [(0, 0)] + [(1, 1) if a == axis else (0, 0) for a in (1, 2)], mode="edge")
            low, high = [slice(None)] * 3, [slice(None)] * 3
            low[axis], high[axis] = slice(0, HAZE), slice(2, HAZE + 2)
            cells = np.float32(0.5) * cells + np.float32(0.25) * (padded[tuple(low)] + padded[tuple(high)])
    place = np.clip((np.arange(size) + 0.5) * HAZE / size - 0.5, 0.0, HAZE - 1.0)
    before = np.minimum(np.floor(place).astype(np.int64), HAZE - 2)
    share = (place - before).astype(np.float32)
    lines = cells[:, before] + (cells[:, before + 1] - cells[:, before]) * share[:, None]
    left = lines[:, :, before]
    left += (lines[:, :, before + 1] - left) * share
    return left


def _soften(value: Singles, blur: Floats) -> None:
    """Blur in place: each pixel with those beside it, at distances that halve down to 1; larger pictures start further."""
    size = value.shape[-1]
    share = (0.14 * blur).astype(np.float32)[:, None, None]
    step = max(1, size // 128)
    while step >= 1:
        for axis in (1, 2):
            near, far = [slice(None)] * 3, [slice(None)] * 3
            near[axis], far[axis] = slice(0, -step), slice(step, None)
            change = (value[tuple(far)] - value[tuple(near)]) * share
            value[tuple(near)] += change
            value[tuple(far)] -= change
        step //= 2


def _shut(seen: Singles, edges: Floats, covered: float) -> None:
    """Cover the margins of one picture."""
    size = seen.shape[-1]
    left, top, right, bottom = np.floor(edges * size + 0.5).astype(np.int64).tolist()
    seen[:top], seen[size - bottom :] = covered, covered
    seen[:, :left], seen[:, size - right :] = covered, covered


def _mark(seen: Singles, kind: int, at: Floats) -> None:
    """Lay a letter of lead over one picture, its upper left corner in the pixel that `at` lies in."""
    letter = letters(seen.shape[-1])[kind]
    height, width = letter.shape
    x, y = (at * seen.shape[-1]).astype(np.int64).tolist()
    under = seen[y : y + height, x : x + width]
    under += (np.float32(0.98) - under) * letter


@cache
def letters(size: int) -> tuple[Singles, ...]:
    """How much of each pixel the markers cover, by marker; letters are 0.05 high."""
    fine, unit = 4, 0.05 * size / 7
    made = [np.zeros((0, 0), dtype=np.float32)]
    for glyph in (np.array([[float(bit) for bit in row] for row in rows]) for rows in GLYPHS):
        rows, columns = int(7 * unit) + 1, int(5 * unit) + 1
        cells = np.pad(glyph, ((0, 1), (0, 1)))
        down, across = (
            np.minimum(np.floor((np.arange(n * fine) + 0.5) / (fine * unit)).astype(np.int64), last)
            for n, last in ((rows, 7), (columns, 5))
        )
        cover = cells[down[:, None], across].reshape(rows, fine, columns, fine)
        made.append((cover.sum(axis=(1, 3)) / (fine * fine)).astype(np.float32))
    return tuple(made)
