"""The organs of the radiographs world as outlines in pixels: where each is in every row or column of its picture.

Everything is computed for many pictures at once from `radiographs_anatomy`; `radiographs_draw` fills the outlines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from partwise.data.worlds import radiographs_anatomy as anatomy
from partwise.data.worlds.draws import Floats
from partwise.data.worlds.radiographs_anatomy import OUTWARD, Anatomy

POINTS = 49
"""Points of an outline before it is laid over rows or columns."""


@dataclass(frozen=True, slots=True)
class Pose:
    """How chests lie in their pictures: `pixel = size * (0.5 + shift + scale * rotate(x, y))`; `shift` is `(n, 2)`."""

    size: int
    scale: Floats
    cos: Floats
    sin: Floats
    shift: Floats

    def points(self, points: Floats) -> Floats:
        """`(n, ..., 2)` from the chest's frame to pixels."""
        cos, sin, scale = (v.reshape(-1, *[1] * (points.ndim - 2)) for v in (self.cos, self.sin, self.scale))
        shift = self.shift.reshape(-1, *[1] * (points.ndim - 2), 2)
        x, y = points[..., 0], points[..., 1]
        turned = np.stack([scale * (cos * x - sin * y), scale * (sin * x + cos * y)], axis=-1)
        return self.size * (0.5 + shift + turned)

    def back(self) -> tuple[Floats, Floats]:
        """`(n, 3)` twice: x = f0 X + f1 Y + f2 in the chest's frame from pixels X, Y, and the same for y."""
        inverse = 1.0 / (self.scale * self.size)
        x0, y0 = (self.size * (0.5 + self.shift)).T
        across = np.stack([self.cos * inverse, self.sin * inverse], axis=1)
        down = np.stack([-self.sin * inverse, self.cos * inverse], axis=1)
        ends = [-(part[:, 0] * x0 + part[:, 1] * y0) for part in (across, down)]
        return np.concatenate([across, ends[0][:, None]], axis=1), np.concatenate([down, ends[1][:, None]], axis=1)


@dataclass(frozen=True, slots=True)
class Curve:
    """An outline by row (or column), `(n, size)` each: where it is, and the cosine of its angle from the other axis."""

    place: Floats
    cos: Floats


def lay(points: Floats, axis: int, size: int) -> Curve:
    """Points in pixels `(n, P, 2)`, ascending along `axis`, -> the curve at the middle of each row (axis 1) or column (0)."""
    # A turned outline may lean over by a hair where it was level.
    at, value = np.maximum.accumulate(points[..., axis], axis=1), points[..., 1 - axis]
    middle = np.arange(size) + 0.5
    before = np.zeros((len(at), size), dtype=np.int64)
    for place in range(1, at.shape[1] - 1):
        before += at[:, place, None] <= middle
    step = np.maximum(np.diff(at, axis=1), 1e-6)
    slope = np.diff(value, axis=1) / step
    corner = np.concatenate([slope[:, :1], 0.5 * (slope[:, 1:] + slope[:, :-1]), slope[:, -1:]], axis=1)

    def of(values: Floats, offset: int = 0) -> Floats:
        return np.take_along_axis(values, before + offset, axis=1)

    share = np.clip((middle - of(at)) / of(step), 0.0, 1.0)
    here = of(value) + (of(value, 1) - of(value)) * share
    steep = of(corner) + (of(corner, 1) - of(corner)) * share
    return Curve(here, 1.0 / np.sqrt(1.0 + steep * steep))


@dataclass(frozen=True, slots=True)
class Outlines:
    """What bounds the organs: by row the walls and inner borders of both lungs, the heart, the trunk, spine and trachea; by
    column the domes, fluid, lower border of the heart, shoulders and clavicles.
    """

    wall: tuple[Curve, Curve]
    inner: tuple[Curve, Curve]
    heart: tuple[Curve, Curve]
    trunk: tuple[Curve, Curve]
    spine: Curve
    trachea: Curve
    dome: Curve
    fluid: Curve
    heart_bottom: Curve
    shoulder: Curve
    clavicle: Curve
    clavicle_half: Floats
    """Half the thickness by column, 0 where there is none."""
    bone: Floats
    """By row, where the row lies within its vertebra: 0 at the upper end, 1 at the lower."""
    middle: Floats
    """The column of the midline by row."""
    top: Floats
    heart_top: Floats
    carina: Floats
    """Rows, `(n,)`."""
    hilum: Floats
    """Where the vessels enter each lung, x and y in pixels, `(n, 2, 2)`."""


def outline(body: Anatomy, pose: Pose) -> Outlines:
    """The outlines of n chests in their pictures."""
    size, grow = pose.size, np.linspace(0.0, 1.0, POINTS)
    # Close together at the top, where the outlines turn fast.
    down = body.top[:, None] + body.height[:, None] * grow * grow
    further = body.top[:, None] + (0.55 - body.top)[:, None] * grow * (0.4 + 0.6 * grow)
    level = np.broadcast_to(-0.75 + 1.5 * grow, down.shape)
    beat = body.heart[:, 2:3] - 0.01 + (body.heart[:, 3:4] - body.heart[:, 2:3] + 0.03) * grow

    def rows(x: Floats, y: Floats) -> Curve:
        return lay(pose.points(np.stack([x, y], axis=-1)), 1, size)

    def columns(y: Floats) -> Curve:
        return lay(pose.points(np.stack([level, y], axis=-1)), 0, size)

    def of_both(edge: Callable[[Anatomy, int, Floats], Floats]) -> Curve:
        return columns(np.where(level < 0.0, edge(body, 0, -level), edge(body, 1, np.abs(level))))

    def row_of(points: Floats) -> Floats:
        return pose.points(np.stack([np.zeros_like(points), points], axis=1))[:, 1]

    roots = [anatomy.hilum(body, k) for k in (0, 1)]
    hila = np.stack([np.stack([OUTWARD[k] * roots[k][0], roots[k][1]], axis=1) for k in (0, 1)], axis=1)
    clavicles, halves = _clavicles(body, pose)
    wall, inner = (
        tuple(rows(OUTWARD[k] * edge(body, k, y), y) for k in (0, 1))
        for edge, y in ((anatomy.wall, down), (anatomy.inner, further))
    )
    return Outlines(
        wall=(wall[0], wall[1]),
        inner=(inner[0], inner[1]),
        heart=(rows(anatomy.heart_right(body, beat), beat), rows(anatomy.heart_left(body, beat), beat)),
        trunk=(rows(-_trunk(body, level), level), rows(_trunk(body, level), level)),
        spine=rows(anatomy.spine(body, level), level),
        trachea=rows(anatomy.trachea(body, level), level),
        dome=of_both(anatomy.dome),
        fluid=of_both(anatomy.fluid_level),
        heart_bottom=columns(anatomy.heart_bottom(body, level)),
        shoulder=columns(anatomy.skin(body.shoulder, np.abs(level))),
        clavicle=clavicles,
        clavicle_half=halves,
        bone=_vertebrae(body, pose),
        middle=rows(np.zeros_like(level), level).place,
        top=row_of(body.top),
        heart_top=row_of(body.heart[:, 2]),
        carina=row_of(body.carina),
        hilum=pose.points(hila),
    )


def _trunk(body: Anatomy, y: Floats) -> Floats:
    """Half the width of the body: the arms leave the picture above the armpits, the waist is narrower."""
    chest, waist, armpit = (v[:, None] for v in body.trunk.T)
    below = np.clip((y - armpit) / (0.5 - armpit), 0.0, 1.2)
    above = np.maximum(armpit - y, 0.0)
    return chest + (waist - chest) * below + above * (0.15 + 2.0 * above)


def _clavicles(body: Anatomy, pose: Pose) -> tuple[Curve, Floats]:
    """Both clavicles by column, in pixels; a picture's columns meet the right one first."""
    size = pose.size
    share = np.broadcast_to(np.linspace(0.0, 1.0, POINTS), (len(body.top), POINTS))
    sides = []
    for side in (0, 1):
        x, y, half = anatomy.clavicle(body, side, share)
        points = pose.points(np.stack([OUTWARD[side] * x, y], axis=-1))
        half = half * (pose.scale * size)[:, None]
        sides.append((points[:, ::-1], half[:, ::-1]) if side == 0 else (points, half))
    points = np.concatenate([sides[0][0], sides[1][0]], axis=1)
    half = np.concatenate([sides[0][1], sides[1][1]], axis=1)
    curve = lay(points, 0, size)
    thick = lay(np.stack([points[..., 0], half], axis=-1), 0, size).place
    # Round ends: the thickness closes over its own width.
    columns = np.arange(size) + 0.5
    into = np.full(thick.shape, -np.inf)
    for own, _ in sides:
        first, last = own[:, 0, 0, None], own[:, -1, 0, None]
        into = np.maximum(into, np.minimum(columns - first, last - columns))
    share_in = np.clip((into + 0.5) / np.maximum(thick, 0.5), 0.0, 1.0)
    return curve, thick * np.sqrt(share_in * (2.0 - share_in))


def _vertebrae(body: Anatomy, pose: Pose) -> Floats:
    """Where each row lies within its vertebra, from 0 to 1, `(n, size)`; rib k is carried by the upper part of number k."""
    heads = body.heads
    first, last = heads[:, 1:2] - heads[:, :1], heads[:, -1:] - heads[:, -2:-1]
    up = heads[:, :1] - first * np.arange(3, 0, -1)
    low = heads[:, -1:] + last * np.arange(1, 7)
    joints = np.concatenate([up, heads, low], axis=1)
    points = pose.points(np.stack([np.zeros_like(joints), joints], axis=-1))
    number = np.broadcast_to(np.arange(joints.shape[1], dtype=np.float64), joints.shape)
    phase = lay(np.stack([number, points[..., 1]], axis=-1), 1, pose.size).place + 0.35
    return phase - np.floor(phase)
