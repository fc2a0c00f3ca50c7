"""Chests of the radiographs world -> what they absorb and where their organs are, for many pictures at once.

A pixel's value is the thickness of tissue that its ray passes: the depth of the body, less the air of the lungs, more bone. It
depends on its own picture alone and is made of exactly rounded operations only, so a batch equals its items bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.draws import Floats, Ints
from partwise.data.worlds.radiographs_anatomy import Anatomy
from partwise.data.worlds.radiographs_film import IN, UP, Look, lung_atlas, vessel_atlas
from partwise.data.worlds.radiographs_marks import Marks
from partwise.data.worlds.radiographs_outline import Curve, Outlines

Singles = NDArray[np.float32]
Flags = NDArray[np.bool_]

AIR = 0.68
"""The share of the depth of the chest that is air, where a lung is thickest."""
SPINE_COLUMNS = (0.3, 0.7)
"""Columns that the spine never leaves, as shares of the side."""
CLAVICLE_ROWS = 0.45
WINDOWS = (4, 6, 9, 13, 18, 24, 32, 44, 64)
"""Sides of windows in 64ths of the frame."""


def part_of(whole: Any, rows: slice) -> Any:
    """Some rows of a record of arrays, of tuples of such, or of an array."""
    if isinstance(whole, np.ndarray):
        return whole[rows]
    if isinstance(whole, tuple):
        return tuple(part_of(each, rows) for each in whole)
    return type(whole)(*(part_of(getattr(whole, name), rows) for name in whole.__dataclass_fields__))


def _across(curve: Curve | Floats) -> Singles:
    """A value a row, to broadcast along it."""
    return (curve.place if isinstance(curve, Curve) else curve).astype(np.float32)[:, :, None]


def _down(curve: Curve | Floats) -> Singles:
    """A value a column, to broadcast down it."""
    return (curve.place if isinstance(curve, Curve) else curve).astype(np.float32)[:, None, :]


def _each(values: Floats) -> Singles:
    return values.astype(np.float32)[:, None, None]


def _clip(values: Singles) -> Singles:
    """Between 0 and 1, in place."""
    return np.minimum(np.maximum(values, np.float32(0), out=values), np.float32(1), out=values)


def _rounded(values: Singles) -> Singles:
    """0 at 0 with an upright slope, 1 from 1 on: the depth of a ball from its edge; overwrites its argument."""
    inside = _clip(values)
    return np.sqrt(inside * (np.float32(2) - inside))


@dataclass(frozen=True, slots=True)
class Regions:
    """Distances into the organs in pixels, positive inside, `(n, s, s)`; `right` tells the patient's right half."""

    lung: Singles
    heart: Singles
    fluid: Singles
    right: Flags


def absorb(body: Anatomy, lines: Outlines, look: Look, scale: Floats, size: int) -> tuple[Singles, Regions]:
    """What n chests absorb, without ribs and marks `(n, s, s)`, and where their large organs are.

    `scale` is the length in pixels of the unit of the chest's frame.
    """
    xs = (np.arange(size, dtype=np.float32) + np.float32(0.5))[None, None, :]
    ys = (np.arange(size, dtype=np.float32) + np.float32(0.5))[None, :, None]
    unit = _each(1.0 / scale)
    lateral = np.minimum(
        (xs - _across(lines.wall[0])) * _across(lines.wall[0].cos),
        (_across(lines.wall[1]) - xs) * _across(lines.wall[1].cos),
    )
    medial = np.maximum(
        (_across(lines.inner[0]) - xs) * _across(lines.inner[0].cos),
        (xs - _across(lines.inner[1])) * _across(lines.inner[1].cos),
    )
    above = (_down(lines.dome) - ys) * _down(lines.dome.cos)
    lung = np.minimum(np.minimum(lateral, medial), np.minimum(above, ys - _each(lines.top)))
    beside = np.minimum(
        (xs - _across(lines.heart[0])) * _across(lines.heart[0].cos),
        (_across(lines.heart[1]) - xs) * _across(lines.heart[1].cos),
    )
    low = (_down(lines.heart_bottom) - ys) * _down(lines.heart_bottom.cos)
    heart = np.minimum(np.minimum(beside, low), ys - _each(lines.heart_top))
    fluid = ys - _down(lines.fluid)
    regions = Regions(lung, heart, fluid, np.broadcast_to(xs < _across(lines.middle), lung.shape))

    air = _rounded(lateral * (unit * np.float32(1 / 0.11)))
    near = _clip(medial * (unit * np.float32(1 / 0.05)))
    air *= np.float32(0.55) + np.float32(0.45) * near * (np.float32(2) - near)
    base = _clip(above * (unit * np.float32(1 / 0.06)))
    air *= np.float32(0.5) + np.float32(0.5) * base * (np.float32(2) - base)
    air *= _clip(lung + np.float32(0.5))
    air *= np.float32(1) - _clip(heart * (unit * np.float32(1 / 0.012)) + np.float32(0.5)) * _each(look.heart)
    air *= np.float32(1) - _clip(fluid * (unit * np.float32(1 / 0.03)) + np.float32(0.5)) * np.float32(0.93)
    # The lungs are thinner from front to back at their tips.
    air *= np.float32(0.72) + np.float32(0.28) * _clip((ys - _each(lines.top)) * (unit * np.float32(1 / 0.25)))
    air *= _aerated(look, lines, size)
    tissue = _flesh(body, lines, xs, ys, unit)
    tissue -= air * np.float32(AIR) * _each(body.depth)
    # Rays graze ribs and muscle along the wall.
    rim = np.abs(lateral * unit + np.float32(0.009)) * np.float32(1 / 0.015)
    rim = _clip(np.float32(1) - rim) * _clip((ys - _each(lines.top)) * (unit * np.float32(1 / 0.1)))
    tissue += rim * _each(look.rib)
    _add_spine(tissue, body, lines, look, scale, unit)
    _add_clavicles(tissue, lines, look, ys)
    return tissue, regions


def _aerated(look: Look, lines: Outlines, size: int) -> Singles:
    """What vessels and the fine markings leave of the air, `(n, s, s)`."""
    count = len(look.rib)
    left = np.empty((count, size, size), dtype=np.float32)
    markings, trees = lung_atlas(size), vessel_atlas(size)
    vessels = look.vessel / AIR
    for i in range(count):
        v, u = look.corner[i, 2:].tolist()
        np.multiply(markings[v : v + size, u : u + size], np.float32(-look.texture[i]), out=left[i])
        left[i] += np.float32(1)
        for side in (0, 1):
            tree = trees[look.tree[i, side]]
            row, column = (round(float(lines.hilum[i, side, k])) for k in (1, 0))
            _subtract(left[i], tree if side == 1 else tree[:, ::-1], row, column, side, float(vessels[i]) * 2.0)
    return left


def _subtract(plane: Singles, tree: Singles, row: int, column: int, side: int, strength: float) -> None:
    """Take a tree of vessels whose root lies at a pixel from a plane."""
    size = plane.shape[0]
    top = row - round(UP * size)
    left = column - round(IN * size) if side == 1 else column + round(IN * size) - tree.shape[1]
    rows, columns = _overlap(top, tree.shape[0], size), _overlap(left, tree.shape[1], size)
    plane[rows[0], columns[0]] -= tree[rows[1], columns[1]] * np.float32(strength)


def _overlap(start: int, length: int, size: int) -> tuple[slice, slice]:
    """Where a stretch that starts at `start` lies on the plane, and which part of it that is."""
    first, last = max(start, 0), max(start, 0, min(start + length, size))
    return slice(first, last), slice(first - start, last - start)


def _flesh(body: Anatomy, lines: Outlines, xs: Singles, ys: Singles, unit: Singles) -> Singles:
    """The depth of the body without lungs and bones."""
    left, right = lines.trunk[0].place, lines.trunk[1].place
    middle, half = 0.5 * (left + right), np.maximum(0.5 * (right - left), 1.0)
    out = (xs - _across(middle)) * _across(1.0 / half)
    out *= out
    np.subtract(np.float32(1), out, out=out)
    flesh = np.sqrt(np.maximum(out, np.float32(0), out=out))
    # Neck and shoulders are less deep than the chest.
    into = _clip((ys - _each(lines.top)) * (unit * np.float32(1 / 0.3)) + np.float32(0.25))
    flesh *= (np.float32(0.6) + np.float32(0.4) * into) * _each(body.depth)
    flesh *= _rounded((ys - _down(lines.shoulder)) * (unit * np.float32(1 / 0.07)))
    return flesh


def _add_spine(tissue: Singles, body: Anatomy, lines: Outlines, look: Look, scale: Floats, unit: Singles) -> None:
    """The vertebrae with their discs, processes and pedicles, and the air of the trachea before them."""
    size = tissue.shape[-1]
    columns = slice(int(SPINE_COLUMNS[0] * size), int(SPINE_COLUMNS[1] * size) + 1)
    xs = (np.arange(size, dtype=np.float32) + np.float32(0.5))[None, None, columns]
    ys = (np.arange(size, dtype=np.float32) + np.float32(0.5))[None, :, None]
    strip = tissue[:, :, columns]
    phase = lines.bone
    # A disc takes a fifth of each step.
    solid = np.clip(5.0 * (phase - 0.06), 0.0, 1.0) * np.clip(5.0 * (0.94 - phase), 0.0, 1.0)
    away = (xs - _across(lines.spine)) * _each(1.0 / (body.spine[:, 0] * scale))
    square = away * away
    bone = _clip((np.float32(1) - square) * np.float32(3.0))
    bone *= np.float32(0.7) + np.float32(0.3) * square
    bone *= _across((0.5 + 0.5 * solid) * look.spine[:, None])
    pedicle = np.clip(1.0 - 16.0 * (phase - 0.35) * (phase - 0.35), 0.0, 1.0)
    beside = np.abs(away) - np.float32(0.62)
    bone += _clip(np.float32(1) - beside * beside * np.float32(22)) * _across(0.25 * pedicle * look.spine[:, None])
    process = np.clip(1.0 - 14.0 * (phase - 0.75) * (phase - 0.75), 0.0, 1.0)
    bone += _clip(np.float32(1) - square * np.float32(60)) * _across(0.2 * process * look.spine[:, None])
    strip += bone
    pipe = (xs - _across(lines.trachea)) * (unit * np.float32(1 / 0.019))
    pipe = _clip((np.float32(1) - pipe * pipe) * np.float32(1.4))
    strip -= (
        pipe * _clip((_each(lines.carina) - ys) * (unit * np.float32(1 / 0.05)) + np.float32(0.5)) * np.float32(0.2)
    )


def _add_clavicles(tissue: Singles, lines: Outlines, look: Look, ys: Singles) -> None:
    rows = slice(0, int(CLAVICLE_ROWS * tissue.shape[-1]) + 1)
    half = np.maximum(lines.clavicle_half, 1e-3)
    inside = _clavicle_distance(lines, ys[:, rows])
    cover = _clip(inside + np.float32(0.5))
    across = np.float32(1) - _clip(inside * _down(1.0 / half))
    cover *= np.float32(0.7) + np.float32(0.5) * across * across
    tissue[:, rows] += cover * _each(look.clavicle)


def _clavicle_distance(lines: Outlines, ys: Singles) -> Singles:
    """Pixels into the clavicles, negative outside."""
    away = np.abs(ys - _down(lines.clavicle)) * _down(lines.clavicle.cos)
    inside = _down(lines.clavicle_half) - away
    return np.where(_down(lines.clavicle_half) > 0, inside, np.float32(-9))


def clavicles_shown(lines: Outlines, size: int) -> Flags:
    """Where the clavicles are, `(n, s, s)`."""
    ys = (np.arange(size, dtype=np.float32) + np.float32(0.5))[None, :, None]
    return _clavicle_distance(lines, ys) > 0


def spine_shown(body: Anatomy, lines: Outlines, scale: Floats, size: int) -> Flags:
    """Where the spine is, `(n, s, s)`."""
    xs = (np.arange(size, dtype=np.float32) + np.float32(0.5))[None, None, :]
    return np.abs(xs - _across(lines.spine)) < _each(body.spine[:, 0] * scale)


# -- marks -------------------------------------------------------------------------------------------------------------


def paint(canvas: Singles, marks: Marks, shown: Flags | None = None) -> None:
    """Add marks to `canvas` `(n, s, s)`, and set `shown` where they are."""
    size = canvas.shape[-1]
    for rows, top, left, height, width in _windows(marks, size):
        value, inside = _window(marks.taken(rows), top, left, height, width)
        owners = marks.owner[rows].tolist()
        for i, y, x, added in zip(owners, top.tolist(), left.tolist(), value, strict=True):
            canvas[i, y : y + height, x : x + width] += added
        if shown is not None:
            for i, y, x, there in zip(owners, top.tolist(), left.tolist(), inside, strict=True):
                shown[i, y : y + height, x : x + width] |= there


def _windows(marks: Marks, size: int) -> Iterator[tuple[Ints, Ints, Ints, int, int]]:
    """Rows of marks whose windows have one height and width, in pieces that stay in the second-level cache."""
    first = np.clip(np.floor(marks.bounds[:, :2] - 1.0), 0, size).astype(np.int64)
    last = np.clip(np.ceil(marks.bounds[:, 2:] + 1.0), 0, size).astype(np.int64)
    sides = np.array(sorted({min(size, -(-size * share // 64)) for share in WINDOWS}))
    spans = last - first
    kind = np.searchsorted(sides, spans)
    code = kind[:, 0] * len(sides) + kind[:, 1]
    visible = spans.min(axis=1) > 0
    for each in np.unique(code[visible]).tolist():
        rows = np.flatnonzero((code == each) & visible)
        # Strokes and filled ones are computed differently.
        for of_kind in (rows[marks.half[rows] > 0], rows[marks.half[rows] == 0]):
            width, height = int(sides[each // len(sides)]), int(sides[each % len(sides)])
            step = max(1, 16384 // (height * width))
            for start in range(0, len(of_kind), step):
                piece = of_kind[start : start + step]
                left, top = np.minimum(first[piece, 0], size - width), np.minimum(first[piece, 1], size - height)
                yield piece, top, left, height, width


def _window(marks: Marks, top: Ints, left: Ints, height: int, width: int) -> tuple[Singles, Flags]:
    """What some marks add in windows of one shape `(m, height, width)`, and where they are."""
    xs = (np.arange(width) + 0.5)[None, None, :].astype(np.float32)
    ys = (np.arange(height) + 0.5)[None, :, None].astype(np.float32)

    def plane(terms: Floats) -> Singles:
        moved = terms[:, 2] + terms[:, 0] * left + terms[:, 1] * top
        return _each(terms[:, 0]) * xs + (_each(terms[:, 1]) * ys + _each(moved))

    u, v = plane(marks.u), plane(marks.v)
    value: Singles
    if marks.half[0] > 0:
        value, inside = _strokes(marks, u, v)
    else:
        square = u * u
        square += v * v
        inside = square < 1
        value = np.subtract(np.float32(1), square, out=square) * _each(marks.edge)
        value = _clip(value)
    whole = np.array([0.0, 0.0, 1.0])
    for k in (0, 1):
        if (marks.cuts[:, k] != whole).any():
            cut = _clip(plane(marks.cuts[:, k]))
            value *= cut
            inside &= cut > np.float32(0.5)
    value *= _each(marks.strength)
    return value, inside


def _strokes(marks: Marks, u: Singles, v: Singles) -> tuple[Singles, Flags]:
    """Along the outlines: bone is densest at its edges. The distance to an outline is exact to first order."""
    a, b = ((terms[:, 0] * terms[:, 0] + terms[:, 1] * terms[:, 1]) for terms in (marks.u, marks.v))
    both = 2.0 * (marks.u[:, 0] * marks.v[:, 0] + marks.u[:, 1] * marks.v[:, 1])
    # Of the ellipse the part with v < 0 is no part of the stroke: there it goes straight on.
    np.maximum(v, np.float32(0), out=v)
    uu, vv = u * u, v * v
    form = uu * _each(a)
    form += vv * _each(b)
    form += u * v * _each(both)
    np.maximum(form, np.float32(1e-6), out=form)
    distance = np.sqrt(form, out=form)
    distance *= np.float32(2)
    uu += vv
    uu -= np.float32(1)
    np.divide(uu, distance, out=distance)
    half = _each(marks.half)
    np.abs(distance, out=distance)
    # Beyond the tip of a flat ellipse that is too little: it is as far at least as to the line u = 1.
    u -= np.float32(1)
    u *= _each(1.0 / np.sqrt(a))
    np.maximum(distance, u, out=distance)
    inside = distance < half
    value = _clip(half - distance + np.float32(0.5))
    distance *= _each(1.0 / marks.half)
    _clip(distance)
    distance *= distance
    value *= np.float32(0.7) + np.float32(0.5) * distance
    return value, inside
