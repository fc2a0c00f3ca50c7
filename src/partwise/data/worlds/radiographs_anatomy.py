"""The body of the radiographs world: the numbers that a chest is made of, its outlines and landmarks.

Lengths are sides of a picture at scale 1, x from the midline to the right of the picture (the patient's left), y down from the
middle of the frame. Arrays over sides have the patient's right first. Everything is computed for many pictures at once from
those numbers, which `radiographs_patients` draws; nothing here touches a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from partwise.data.worlds.draws import Floats, Ints

FINDINGS = ("none", "nodule", "effusion", "cardiomegaly")
NONE, NODULE, EFFUSION, CARDIOMEGALY = range(4)
SIDES = ("right", "left")
OUTWARD = np.array([-1.0, 1.0])
"""The direction in x from the midline to each side."""

PAIRS = 10
FRONT_PAIRS = 7
REACH = 0.415
"""No landmark is further from the middle, so that however a patient stands all of them are in the picture."""
WIDEST = 0.55
"""How far down the heart reaches furthest to the right."""
"""Pairs of ribs, and those of which the front part is drawn too."""
SPINE_POINTS = (2, 4, 6, 8, 10)
"""Thoracic vertebrae that are landmarks; each carries the ribs of its number."""


def _landmark_names() -> tuple[str, ...]:
    paired = [
        *("clavicle inner end", "clavicle outer end", "lung apex", "costophrenic angle", "dome top", "hilum"),
        *(f"rib {k} head" for k in range(1, PAIRS + 1)),
        *(f"rib {k} bend" for k in range(1, PAIRS + 1)),
        *(f"rib {k} tip" for k in range(1, FRONT_PAIRS + 1)),
    ]
    single = ("heart right border", "heart left border", "heart apex", "heart base", "aortic knob", "carina")
    spine = (f"vertebra T{k}" for k in SPINE_POINTS)
    return (*(f"{side} {name}" for name in paired for side in SIDES), *single, *spine)


LANDMARKS = _landmark_names()
"""Names of the landmarks, in their order: those with two sides first, the right one before the left one."""


@dataclass(frozen=True, slots=True)
class Anatomy:
    """n chests: `(n,)` each, `(n, 2)` where the sides differ.

    `top` and `height` of the lungs (down to the costophrenic angles); `half` width of the chest, where it is widest; the
    `apex` of each lung from the midline; `round`, the share of the height over which the top curves into the wall, and
    `flare` of the wall below; `dome` height and its place; `steep`, how late a dome falls to the wall.
    """

    top: Floats
    height: Floats
    half: Floats
    apex: Floats
    round: Floats
    flare: Floats
    dome: Floats
    dome_at: Floats
    steep: Floats
    root: Floats
    """Half the width of the mediastinum above the heart, `(n, 2)`."""
    knob: Floats
    """The aortic knob: how far down, half its height, how far it stands out, `(n, 3)`."""
    heart: Floats
    """Reach to the right and left, top, bottom, height of the apex above the bottom, fullness, `(n, 6)`."""
    heads: Floats
    """Where the heads of the ribs lie on the spine, `(n, 10)`."""
    drop: Floats
    fall: Floats
    """From head to bend and from bend to tip, `(n, 10)` and `(n, 7)`."""
    tips: Floats
    """How far the tips are from the midline, `(n, 7)`."""
    rib_half: Floats
    clavicle: Floats
    """Inner end x, y, outer end x, y, sway, half thickness, `(n, 2, 6)`; x away from the midline."""
    spine: Floats
    """Half width, lean to a side at the top, bow, `(n, 3)`."""
    carina: Floats
    trunk: Floats
    """Half width at the armpits and at the waist, height of the armpits, `(n, 3)`."""
    shoulder: Floats
    """Height of the skin beside the neck, slope, half width of the neck, `(n, 3)`."""
    depth: Floats
    """Thickness from front to back where the whole chest is 1."""
    yaw: Floats
    """How far a turn about the vertical axis moves what lies in front to the patient's left."""
    finding: Ints
    side: Ints
    """Of the finding, 0 for the patient's right."""
    nodule: Floats
    """Place x (signed), y and radius, `(n, 3)`."""
    fluid: Floats
    """Height of an effusion at the wall above the costophrenic angle; 0 without one."""
    breasts: Floats
    """Reach of the shadow of the breasts, 0 for none, and its height, `(n, 2)`."""


# -- outlines ----------------------------------------------------------------------------------------------------------


def _rest(values: Floats, like: Floats) -> Floats:
    """`(n,)` to broadcast over whatever follows the first axis of `like`."""
    return values.reshape(len(values), *[1] * (like.ndim - 1))


def wall(body: Anatomy, side: int, y: Floats) -> Floats:
    """How far the inner wall of the chest is from the midline at heights `y` `(n, ...)`; its apex above the top."""
    share = np.clip((y - _rest(body.top, y)) / _rest(body.height, y), 0.0, 1.0)
    curved = _rest(body.round, y)
    apex = _rest(body.apex[:, side], y)
    widest = _rest(body.half[:, side], y)
    straight = widest * (1.0 - _rest(body.flare, y))
    above = np.maximum(1.0 - share / curved, 0.0)
    below = np.maximum((share - curved) / (1.0 - curved), 0.0)
    return (
        apex
        + (straight - apex) * np.sqrt(1.0 - above * above)
        + (widest - straight) * below * below * (3.0 - 2.0 * below)
    )


def inner(body: Anatomy, side: int, y: Floats) -> Floats:
    """How far the mediastinum, without the heart, reaches from the midline at heights `y` `(n, ...)`."""
    root, top, apex = (_rest(v, y) for v in (body.root[:, side], body.top, body.apex[:, side]))
    share = np.clip((y - top) / (0.13 * _rest(body.height, y)), 0.0, 1.0)
    closing = (apex - root) * (1.0 - np.sqrt(1.0 - (1.0 - share) * (1.0 - share)))
    down, tall, out = (_rest(v, y) for v in body.knob.T)
    begin, over, by = (0.14, 0.26, 0.032) if side == 0 else (down - tall, 1.4 * tall, 0.044)
    into = np.clip((y - top - begin) / over, 0.0, 1.0)
    wider = root + closing + by * into * into * (3.0 - 2.0 * into)
    if side == 0:
        return wider
    away = (y - top - down) / tall
    bump = np.maximum(1.0 - away * away, 0.0)
    return wider + out * bump * bump


def dome(body: Anatomy, side: int, x: Floats) -> Floats:
    """The height of the diaphragm at distances `x` `(n, ...)` from the midline."""
    angle = _rest(body.top + body.height, x)
    high, at, widest = (_rest(v, x) for v in (body.dome[:, side], body.dome_at[:, side], body.half[:, side]))
    out = np.clip((x - at) / (widest - at), 0.0, 1.0)
    steep = _rest(body.steep, x)
    inward = np.clip((at - x) / at, 0.0, 1.0)
    fallen = out * out * ((1.0 - steep) + steep * out) * (1.0 - 0.05 * out)
    return angle - high + high * fallen / 0.95 + 0.012 * inward * inward


def fluid_level(body: Anatomy, side: int, x: Floats) -> Floats:
    """The surface of an effusion: highest at the wall; below everything on a side without one."""
    angle, high, widest = (_rest(v, x) for v in (body.top + body.height, body.fluid, body.half[:, side]))
    out = np.clip(x / widest, 0.0, 1.0)
    there = _rest((body.side == side) & (body.fluid > 0.0), x)
    return np.where(there, angle - high * (0.5 + 0.5 * out * out * out), 1.0)


def heart_right(body: Anatomy, y: Floats) -> Floats:
    """x (negative) of the right border of the heart at heights `y`: a parabola from the root of the vessels."""
    right, _, top, bottom, _, _ = (_rest(v, y) for v in body.heart.T)
    root = _rest(body.root[:, 0], y) + 0.01
    away = (y - top) / (WIDEST * (bottom - top)) - 1.0
    return 0.5 * _rest(body.yaw, y) - root - (right - root) * (1.0 - away * away)


def heart_left(body: Anatomy, y: Floats) -> Floats:
    """x of the left border of the heart: from the base out to the apex, and back in below it."""
    _, left, top, bottom, apex, full = (_rest(v, y) for v in body.heart.T)
    base = _rest(body.root[:, 1], y) + 0.04
    down = (y - top) / (bottom - apex - top)
    out = np.clip(down, 0.0, 1.0)
    grown = out * ((1.0 - full) + full * (2.0 - out))
    back = np.maximum(down - 1.0, 0.0)
    return 0.5 * _rest(body.yaw, y) + base + (left - base) * (grown - 0.9 * back * back)


def heart_bottom(body: Anatomy, x: Floats) -> Floats:
    """The lower border of the heart at signed `x`."""
    right, left, _, bottom, _, _ = (_rest(v, x) for v in body.heart.T)
    middle = 0.5 * (left - right) + 0.03
    away = (x - middle) / (0.5 * (left + right) + 0.03)
    return bottom - np.where(away < 0.0, 0.07, 0.032) * away * away


def skin(shoulder: Floats, out: Floats) -> Floats:
    """The height of the skin above the shoulders at distances `out` `(n, P)` from the midline; the neck leaves the picture."""
    high, slope, neck = (v[:, None] for v in shoulder.T)
    beside = out - neck
    hollow = np.maximum(0.17 - beside, 0.0)
    return high + slope * np.maximum(beside, 0.0) - 6.0 * hollow * hollow + np.minimum(beside, 0.0) * 8.0


def clavicle(body: Anatomy, side: int, share: Floats) -> tuple[Floats, Floats, Floats]:
    """x from the midline, y and half thickness at `share` of the way from the inner to the outer end."""
    x0, y0, x1, y1, sway, half = (_rest(v, share) for v in body.clavicle[:, side].T)
    x = x0 + (x1 - x0) * share + OUTWARD[side] * _rest(body.yaw, share) * (1.0 - share)
    bent = share * (1.0 - share) * (1.0 - 2.0 * share)
    thick = 1.0 - 2.2 * share
    return x, y0 + (y1 - y0) * share + sway * 0.35 * bent, half * (1.0 + 0.55 * thick * np.maximum(thick, 0.0))


def spine(body: Anatomy, y: Floats) -> Floats:
    """x of the middle of the spine at heights `y`."""
    _, lean, bow = (_rest(v, y) for v in body.spine.T)
    return -lean * y + bow * (1.0 - 9.0 * y * y) - 0.6 * _rest(body.yaw, y)


def trachea(body: Anatomy, y: Floats) -> Floats:
    """x of the middle of the trachea at heights `y`: the arch of the aorta pushes it aside."""
    pushed = np.clip(1.0 - np.abs(y - _rest(body.carina, y) + 0.05) / 0.08, 0.0, 1.0)
    return 0.4 * _rest(body.yaw, y) - 0.01 * pushed


def rib_points(body: Anatomy) -> tuple[Floats, Floats, Floats]:
    """Heads and bends `(n, 2, 10, 2)` and tips `(n, 2, 7, 2)` of the ribs, as x away from the midline and y."""
    offset = 0.6 * body.spine[:, None, :1] + OUTWARD[:, None] * spine(body, body.heads)[:, None, :]
    heads = np.stack([offset, np.broadcast_to(body.heads[:, None, :], offset.shape)], axis=-1)
    low = np.minimum(body.heads + body.drop, REACH)
    out = np.stack([wall(body, side, low) + 0.3 * body.rib_half[:, None] for side in (0, 1)], axis=1)
    bends = np.stack([out, np.broadcast_to(low[:, None, :], out.shape)], axis=-1)
    tips_x = body.tips[:, None, :] + OUTWARD[:, None] * body.yaw[:, None, None]
    tips_y = np.minimum(low[:, :FRONT_PAIRS] + body.fall, REACH)[:, None, :]
    return heads, bends, np.stack(np.broadcast_arrays(tips_x, tips_y), axis=-1)


def landmarks(body: Anatomy) -> Floats:
    """The points of LANDMARKS, `(n, len(LANDMARKS), 2)`."""
    sides = [_side_landmarks(body, side) for side in (0, 1)]
    paired = np.stack(sides, axis=2).reshape(len(body.top), -1, 2)
    _, _, top, bottom, apex, _ = body.heart.T
    at_right, at_apex = top + WIDEST * (bottom - top), bottom - apex
    tip = bottom - 0.45 * apex
    knob = body.top + body.knob[:, 0]
    single = [
        (heart_right(body, at_right), at_right),
        (heart_left(body, at_apex), at_apex),
        (heart_left(body, tip), tip),
        (0.5 * body.yaw, top),
        (inner(body, 1, knob), knob),
        (trachea(body, body.carina), body.carina),
        *((spine(body, body.heads[:, k - 1]), body.heads[:, k - 1]) for k in SPINE_POINTS),
    ]
    return np.concatenate([paired, np.stack([np.stack(point, axis=1) for point in single], axis=1)], axis=1)


def hilum(body: Anatomy, side: int) -> tuple[Floats, Floats]:
    """Where the vessels enter the lung: x from the midline, y; the left one lies higher."""
    y = body.carina + (0.075 if side == 0 else 0.052)
    return inner(body, side, y) + 0.018, y


def _side_landmarks(body: Anatomy, side: int) -> Floats:
    ends = np.broadcast_to(np.array([0.0, 1.0]), (len(body.top), 2))
    x, y, _ = clavicle(body, side, ends)
    angle = body.top + body.height
    heads, bends, tips = (points[:, side] for points in rib_points(body))
    plain = [
        (x[:, 0], y[:, 0]),
        (x[:, 1], y[:, 1]),
        (body.apex[:, side], body.top),
        (body.half[:, side], angle),
        (body.dome_at[:, side], angle - body.dome[:, side]),
        hilum(body, side),
    ]
    points = np.concatenate([np.stack([np.stack(p, axis=1) for p in plain], axis=1), heads, bends, tips], axis=1)
    return points * np.array([OUTWARD[side], 1.0])
