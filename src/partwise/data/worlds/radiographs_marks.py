"""Ribs and soft shadows of the radiographs world as ellipses in pixels: bones beside the chest, vessels' roots, gas, a nodule.

Everything is computed for many pictures at once; `radiographs_draw` paints the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds import radiographs_anatomy as anatomy
from partwise.data.worlds.draws import Draws, Floats, Ints, cos_sin
from partwise.data.worlds.radiographs_anatomy import FRONT_PAIRS, NODULE, OUTWARD, Anatomy
from partwise.data.worlds.radiographs_outline import Pose


@dataclass(frozen=True, slots=True)
class Marks:
    """m ellipses: pixels X, Y have coordinates u, v (rows of three coefficients) in which an ellipse is the unit circle.

    Filled ones add `strength * min(edge * (1 - u*u - v*v), 1)`; strokes of the outline, `half` pixels to either side, add
    their strength along it. Both are multiplied by `cuts`, two more rows, clipped to 0 and 1. `bounds` in pixels are first
    column, first row, last column, last row.
    """

    owner: Ints
    u: Floats
    v: Floats
    cuts: Floats
    bounds: Floats
    strength: Floats
    edge: Floats
    half: Floats

    def taken(self, rows: NDArray[np.int64]) -> Marks:
        return Marks(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


ALWAYS = (0.0, 0.0, 1.0)


def placed(pose: Pose, owner: Ints, terms: Floats) -> Floats:
    """Coefficients of x, y and 1 in the chest's frame `(m, 3)` -> of X, Y and 1 in pixels."""
    across, down = pose.back()
    placed = terms[:, :1] * across[owner] + terms[:, 1:2] * down[owner]
    placed[:, 2] += terms[:, 2]
    return placed


def _bounds(pose: Pose, owner: Ints, low: Floats, high: Floats) -> Floats:
    """Boxes in the chest's frame, corners `(m, 2)`, -> the boxes around them in pixels `(m, 4)`."""
    own = Pose(pose.size, pose.scale[owner], pose.cos[owner], pose.sin[owner], pose.shift[owner])
    corners = np.stack([low, high, np.stack([low[:, 0], high[:, 1]], 1), np.stack([high[:, 0], low[:, 1]], 1)], axis=1)
    pixels = own.points(corners)
    return np.concatenate([pixels.min(axis=1), pixels.max(axis=1)], axis=1)


def ribs(body: Anatomy, pose: Pose, strength: Floats) -> Marks:
    """Back and front parts of all ribs, a quarter of a sheared ellipse each, as strokes."""
    heads, bends, tips = anatomy.rib_points(body)
    back = _arcs(body, pose, heads, bends, strength, rear=True)
    front = _arcs(body, pose, tips, bends[:, :, :FRONT_PAIRS], 0.7 * strength, rear=False)
    return joined([back, front])


def _arcs(body: Anatomy, pose: Pose, near: Floats, bend: Floats, strength: Floats, *, rear: bool) -> Marks:
    """Arcs from points near the midline `(n, 2, k, 2)` to the bends, level at the former, upright at the latter.

    A rear one is y = y0 + d ((1 - m) u + m (1 - sqrt(1 - u**2))) with u from 0 at the midline to 1 at the wall; a front one
    is the same upside down.
    """
    count, _, pairs, _ = near.shape
    owner = np.repeat(np.arange(count), 2 * pairs)
    sign = np.tile(np.repeat(OUTWARD, pairs), count)
    (x0, y0), (x1, y1) = near.reshape(-1, 2).T, bend.reshape(-1, 2).T
    long, tall, mixed = np.maximum(x1 - x0, 0.02), y1 - y0, 0.55
    zero, one = np.zeros_like(x0), np.ones_like(x0)
    u = np.stack([sign / long, zero, -x0 / long], axis=1)
    v = -np.stack([zero, one / tall, -y0 / tall], axis=1) + (1.0 - mixed) * u
    v = v / mixed + np.array(ALWAYS)
    pixels = (pose.scale * pose.size)[owner, None]
    toward = np.stack([zero, one if not rear else -one, y1 if rear else -y1], axis=1)
    soft = 0.25
    start = np.stack([sign, zero, -x0], axis=1)
    half_pixel = 0.5 * np.array(ALWAYS)
    cuts = [soft * placed(pose, owner, start) * pixels + half_pixel, placed(pose, owner, toward) * pixels + half_pixel]
    half = body.rib_half[owner] * (1.0 if rear else 1.05)
    # The cut at the near end is four pixels wide.
    ends = sign * (x0 - 2.0 / pixels[:, 0]), sign * (x1 + 2.0 * half)
    low_x, high_x = np.minimum(*ends), np.maximum(*ends)
    low_y, high_y = np.minimum(y0, y1) - 2 * half * rear, np.maximum(y0, y1) + 2 * half * (not rear)
    return Marks(
        owner=owner,
        u=placed(pose, owner, u),
        v=placed(pose, owner, v),
        cuts=np.stack(cuts, axis=1),
        bounds=_bounds(pose, owner, np.stack([low_x, low_y], axis=1), np.stack([high_x, high_y], axis=1)),
        strength=strength[owner],
        edge=np.zeros_like(half),
        half=half * pixels[:, 0],
    )


def blobs(
    pose: Pose, owner: Ints, centre: Floats, reach: Floats, turn: Floats, strength: Floats, edge: Floats
) -> Marks:
    """Filled ellipses: centre and half axes `(m, 2)` in the chest's frame, turned by `turn` (in turns, from x to y)."""
    cos, sin = cos_sin(turn)
    (x, y), (a, b) = centre.T, reach.T
    u = np.stack([cos / a, sin / a, -(cos * x + sin * y) / a], axis=1)
    v = np.stack([-sin / b, cos / b, (sin * x - cos * y) / b], axis=1)
    spread = np.stack(
        [np.sqrt(cos * cos * a * a + sin * sin * b * b), np.sqrt(sin * sin * a * a + cos * cos * b * b)], axis=1
    )
    return Marks(
        owner=owner,
        u=placed(pose, owner, u),
        v=placed(pose, owner, v),
        cuts=np.broadcast_to(np.array(ALWAYS), (len(owner), 2, 3)).copy(),
        bounds=_bounds(pose, owner, centre - spread, centre + spread),
        strength=strength,
        edge=edge,
        half=np.zeros(len(owner)),
    )


def nodules(body: Anatomy, pose: Pose, draws: Draws) -> Marks:
    """The nodule of every chest that has one."""
    owner = np.flatnonzero(body.finding == NODULE)
    dense, edge = draws.uniform(0.13, 0.24)[owner], draws.uniform(1.1, 1.8)[owner]
    long, turn = draws.uniform(0.85, 1.2)[owner], draws.unit()[owner]
    place, radius = body.nodule[owner, :2], body.nodule[owner, 2]
    reach = np.stack([radius * long, radius / long], axis=1)
    return blobs(pose, owner, place, reach, turn, dense, edge)


def shadows(body: Anatomy, pose: Pose, draws: Draws, day: Draws) -> Marks:
    """Everything else that is soft: shoulders, hila, bronchi, gas, breasts, nipples, a calcified spot.

    `draws` are the patient's, `day` the picture's: gas moves.
    """
    made = _Shadows(pose)
    nipples, spot = draws.flag(0.25), draws.flag(0.2)
    for side in (0, 1):
        _add_shoulder(made, body, draws, side)
        _add_hilum(made, body, draws, side)
        _add_breast(made, body, draws, nipples, side)
    _add_gas(made, body, day)
    right = draws.flag(0.5)
    y = body.top + draws.uniform(0.2, 0.55)
    x = np.where(right, -anatomy.wall(body, 0, y), anatomy.wall(body, 1, y)) * draws.uniform(0.35, 0.85)
    small = draws.uniform(0.006, 0.01)
    made.add(x, y, small, small, np.where(spot, draws.uniform(0.12, 0.25), 0.0), edge=2.0)
    return joined(made.marks)


class _Shadows:
    """Ellipses gathered one a chest at a time; those of no strength are left out."""

    def __init__(self, pose: Pose) -> None:
        self.pose = pose
        self.marks: list[Marks] = []

    def add(
        self,
        x: float | Floats,
        y: Floats,
        wide: float | Floats,
        tall: float | Floats,
        strength: Floats,
        *,
        edge: float,
        turn: float | Floats = 0.0,
        side: int = 1,
        fade: tuple[Floats, Floats] | None = None,
    ) -> None:
        """Centre, half axes, turn, seen on the left; `side` 0 mirrors it to the right.

        `fade` lets it grow from nothing at a height to all of itself that much lower.
        """
        own = np.flatnonzero(strength != 0.0)
        out, whole = OUTWARD[side], np.zeros(len(strength))
        terms = [(part + whole)[own] for part in (out * x, y, wide, tall, out * turn)]
        centre, reach = np.stack(terms[:2], axis=1), np.stack(terms[2:4], axis=1)
        marks = blobs(self.pose, own, centre, reach, terms[4], strength[own], np.full(len(own), edge))
        if fade is not None:
            start, over = (part[own] for part in fade)
            rows = np.stack([np.zeros(len(own)), 1.0 / over, -start / over], axis=1)
            marks.cuts[:, 0] = placed(self.pose, own, rows)
        self.marks.append(marks)


def _add_shoulder(made: _Shadows, body: Anatomy, draws: Draws, side: int) -> None:
    """The head of the arm and its shaft, what lies above them, and the shoulder blade."""
    wide = body.half[:, side]
    joint = body.top + 0.055 + 0.012 * draws.bell()
    made.add(wide + 0.115, joint, 0.055, 0.058, draws.uniform(0.06, 0.11), edge=1.6, side=side)
    made.add(wide + 0.135, joint + 0.1, 0.032, 0.12, draws.uniform(0.06, 0.1), edge=2.0, turn=-0.03, side=side)
    made.add(wide + 0.03, joint - 0.05, 0.075, 0.014, draws.uniform(0.05, 0.09), edge=2.0, turn=0.04, side=side)
    x, turn = wide + 0.015 + draws.uniform(0.0, 0.07), draws.uniform(-0.02, 0.03)
    made.add(x, joint + 0.2, 0.045, 0.16, draws.uniform(0.03, 0.065), edge=3.0, turn=turn, side=side)


def _add_hilum(made: _Shadows, body: Anatomy, draws: Draws, side: int) -> None:
    """Haze about the root of a lung, its large vessels, and the air of the bronchus that leads there."""
    x, y = anatomy.hilum(body, side)
    dense = draws.uniform(0.05, 0.09)
    made.add(x + 0.01, y + 0.03, 0.085, 0.14, draws.uniform(0.03, 0.07), edge=1.0, turn=-0.03, side=side)
    made.add(x, y, 0.022, 0.045, dense, edge=1.3, turn=-0.04, side=side)
    made.add(x + 0.016, y + 0.065, 0.011, 0.055, dense, edge=1.3, turn=-0.035, side=side)
    made.add(x + 0.012, y - 0.05, 0.009, 0.045, 0.8 * dense, edge=1.3, turn=0.06, side=side)
    # The right bronchus is the steeper one.
    low, turn = ((0.028, 0.12), (0.02, 0.075))[side]
    air = -draws.uniform(0.03, 0.07)
    made.add(0.038, body.carina + low, 0.04, 0.0085, air, edge=1.5, turn=turn, side=side)


def _add_breast(made: _Shadows, body: Anatomy, draws: Draws, nipples: NDArray[np.bool_], side: int) -> None:
    """A breast, which has an edge below and none above, and a nipple, which may pass for a nodule."""
    wide, (reach, y) = body.half[:, side], body.breasts.T
    there, reach = reach > 0, np.maximum(reach, 1e-3)
    made.add(
        0.53 * wide + 0.005 * draws.bell(),
        y,
        reach,
        0.92 * reach,
        np.where(there, draws.uniform(0.08, 0.2), 0.0),
        edge=2.5,
        side=side,
        fade=(y - 0.2 * reach, 1.1 * reach),
    )
    x = 0.5 * wide + 0.012 * draws.bell()
    dense = np.where(nipples, draws.uniform(0.03, 0.07), 0.0)
    made.add(x, y + 0.25 * body.breasts[:, 0] - 0.02, 0.0095, 0.0095, dense, edge=1.5, side=side)


def _add_gas(made: _Shadows, body: Anatomy, day: Draws) -> None:
    """The bubble of the stomach below the left dome, and gas in the bowels, mostly on the left too."""
    angle = body.top + body.height
    wide, tall = day.uniform(0.04, 0.085), day.uniform(0.02, 0.045)
    y = angle - body.dome[:, 1] + tall + day.uniform(0.012, 0.03)
    air = np.where(day.flag(0.8), -day.uniform(0.12, 0.38), 0.0)
    made.add(day.uniform(0.13, 0.24), y, wide, tall, air, edge=1.9, turn=0.02 * day.bell())
    for _ in range(3):
        air = np.where(day.flag(0.4), -day.uniform(0.05, 0.2), 0.0)
        x = np.where(day.flag(0.75), 1.0, -1.0) * day.uniform(0.06, 0.34)
        wide, tall = day.uniform(0.018, 0.045), day.uniform(0.015, 0.035)
        made.add(x, angle + day.uniform(0.0, 0.14), wide, tall, air, edge=1.8, turn=day.unit())


def joined(several: list[Marks]) -> Marks:
    """The marks of all lists, in their order."""
    return Marks(*(np.concatenate([getattr(m, name) for m in several]) for name in Marks.__dataclass_fields__))
