"""A creature as capsules: which bones it has, how it stands, where they lie in the picture.

A capsule is a line with a radius at either end; every part of a creature is a union of a few. Everything is computed for many
creatures at once from their draws; nothing here touches a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from partwise.data.worlds.creatures_species import COATS, LEGS, SPECIES, Capsule
from partwise.data.worlds.draws import Draws, Floats, Ints, cos_sin

PARTS = ("none", "body", "head", "limbs", "tail", "ornament")
BODY, HEAD, LIMBS, TAIL, ORNAMENT = 1, 2, 3, 4, 5
LANDMARKS = ("eye", "snout", "shoulder", "hip", "tail tip", "ornament", "front foot", "hind foot")

ORNAMENT_CAPSULES = 4

FAR_PARTS = (1, 2, 3, 7)
"""Which of a build's parts lie on the far side and are painted darker: three legs and the far ornament."""


@dataclass(slots=True)
class Shape:
    """A union of capsules for each of m owners: `capsules` `(m, k, 6)` as ax, ay, bx, by, ra, rb, of which `count` are used.

    Unused capsules repeat the first, so that extents need no mask; `count` 0 means that there is nothing to draw.
    """

    capsules: Floats
    count: Ints


@dataclass(slots=True)
class Build:
    """The bodies of m creatures in their own frame (x forward, y down, length about 1), parts from far to near."""

    parts: list[tuple[int, Shape]]
    landmarks: Floats
    coat: Ints
    habits: Floats
    """`(m, 13)`: coat and legs as one-hot and the proportions, for the probe that asks how much the body alone tells."""


def _template_table(side: str) -> tuple[Floats, Ints]:
    """The ornaments of all species as `(species, 4, 6)` with their counts."""
    table = np.zeros((len(SPECIES), ORNAMENT_CAPSULES, 6))
    counts = np.zeros(len(SPECIES), dtype=np.int64)
    for row, species in enumerate(SPECIES):
        capsules: list[Capsule] = getattr(species, side)
        counts[row] = len(capsules)
        for k in range(ORNAMENT_CAPSULES):
            table[row, k] = capsules[k if k < len(capsules) else 0] if capsules else 0.0
    return table, counts


_TEMPLATES = {side: _template_table(side) for side in ("front", "back")}
_ANCHORS = ("head", "snout", "back", "tail")
_ANCHOR = np.array([_ANCHORS.index(species.anchor) for species in SPECIES])
_COAT = np.array([COATS.index(species.coat) for species in SPECIES])
_LEG_COUNT = np.array([LEGS.index(species.legs) for species in SPECIES])
_HABITS = np.array([[s.leg, s.neck, s.length, s.head, s.tail] for s in SPECIES], dtype=np.float64)

COAT_ODDS = 0.58
LEG_ODDS = 0.58
"""How often a species wears its own coat and has its own number of legs; the others share the rest."""
HABIT_SHIFT = 0.65
"""How far a species' proportions lie from the usual, in standard deviations."""


def draw_builds(draws: Draws, species: Ints) -> Build:
    """Bodies and poses for creatures of the given species `(m,)`."""
    coat = draws.weighted(_odds(_COAT[species], len(COATS), COAT_ODDS))
    legs = draws.weighted(_odds(_LEG_COUNT[species], len(LEGS), LEG_ODDS))
    habits = np.stack([draws.bell() for _ in range(5)], axis=1) + HABIT_SHIFT * _HABITS[species]
    leg_length = 0.62 + 0.11 * habits[:, 0]
    neck_length = 0.42 + 0.13 * habits[:, 1]
    length = 1.0 + 0.11 * habits[:, 2]
    head = 0.285 + 0.028 * habits[:, 3]
    tail_length = 0.75 + 0.14 * habits[:, 4]
    girth = 0.3 + 0.03 * draws.bell()

    spine, body, back_direction = _draw_body(draws, length, girth)
    shoulder, hip = spine[:, 2], spine[:, 0]
    neck, head_centre, head_turn = _draw_neck(draws, shoulder, neck_length, girth, head)
    skull, snout, eye = _draw_head(draws, head_centre, head_turn, head)
    tail, tail_turn = _draw_tail(draws, hip, tail_length, girth)
    near, far, feet = _draw_legs(draws, spine, np.array(LEGS)[legs], leg_length, girth)

    tail_tip = tail[:, -1, 2:4]
    back = 0.5 * (spine[:, 1] + 0.5 * (hip + shoulder))
    back = np.stack([back[:, 0], back[:, 1] - 0.75 * girth], axis=1)
    origins = np.stack([head_centre, snout, back, tail_tip], axis=1)
    turns = np.stack([head_turn, head_turn, back_direction, tail_turn], axis=1)
    units = np.stack([head, head, np.full_like(head, 0.27), np.full_like(head, 0.27)], axis=1)
    rows, anchor = np.arange(len(species)), _ANCHOR[species]
    front, behind, centre = ornaments(
        draws, species, origins[rows, anchor], turns[rows, anchor], units[rows, anchor], np.ones(len(species))
    )
    whole = np.full(len(species), 1, dtype=np.int64)
    parts = [
        (TAIL, Shape(tail, whole * tail.shape[1])),
        *((LIMBS, leg) for leg in far),
        *((LIMBS, leg) for leg in near),
        (ORNAMENT, behind),
        (BODY, Shape(np.concatenate([body, neck], axis=1), whole * 3)),
        (HEAD, Shape(skull, whole * 2)),
        (ORNAMENT, front),
        (HEAD, Shape(_disc(eye, 0.3 * head), whole)),
        (HEAD, Shape(_disc(eye + np.stack([0.08 * head, 0.05 * head], axis=1), 0.17 * head), whole)),
    ]
    landmarks = np.stack([eye, snout, shoulder, hip, tail_tip, centre, feet[:, 0], feet[:, 1]], axis=1)
    shares = np.concatenate([np.eye(len(COATS))[coat], np.eye(len(LEGS))[legs], habits], axis=1)
    return Build(parts, landmarks, coat, shares)


def _odds(favourite: Ints, count: int, probability: float) -> Floats:
    """Weights `(m, count)`: the favourite with this probability, the others share the rest."""
    weights = np.full((len(favourite), count), (1.0 - probability) / (count - 1))
    weights[np.arange(len(favourite)), favourite] = probability
    return weights


def _point(x: Floats, y: Floats) -> Floats:
    return np.stack([x, y], axis=1)


def _along(start: Floats, turns: Floats, distance: Floats) -> Floats:
    """The point at this distance; turns grow upwards (against y)."""
    cos, sin = cos_sin(turns)
    return start + _point(cos * distance, -sin * distance)


def _capsule(a: Floats, b: Floats, ra: Floats, rb: Floats) -> Floats:
    """`(m, 1, 6)`."""
    return np.concatenate([a, b, ra[:, None], rb[:, None]], axis=1)[:, None]


def _disc(centre: Floats, radius: Floats) -> Floats:
    return _capsule(centre, centre, radius, radius)


def _draw_body(draws: Draws, length: Floats, girth: Floats) -> tuple[Floats, Floats, Floats]:
    """Spine points hip, middle, shoulder `(m, 3, 2)`, two capsules, and the direction of the back in turns."""
    pitch = 0.035 * draws.bell()
    arch = 0.07 * draws.bell()
    half = 0.5 * length
    middle = _point(np.zeros_like(half), -arch)
    hip = _along(np.zeros_like(middle), pitch + 0.5, half)
    shoulder = _along(np.zeros_like(middle), pitch, half)
    belly = girth * draws.uniform(0.95, 1.15)
    rump, chest = girth * draws.uniform(0.75, 1.0), girth * draws.uniform(0.85, 1.1)
    body = np.concatenate([_capsule(hip, middle, rump, belly), _capsule(middle, shoulder, belly, chest)], axis=1)
    return np.stack([hip, middle, shoulder], axis=1), body, pitch


def _draw_neck(
    draws: Draws, shoulder: Floats, length: Floats, girth: Floats, head: Floats
) -> tuple[Floats, Floats, Floats]:
    """The neck's capsule, the centre of the head, and where the head points in turns."""
    rise = draws.uniform(0.06, 0.21)
    centre = _along(shoulder, rise, np.maximum(length, 0.1) + 0.55 * head + 0.35 * girth)
    neck = _capsule(shoulder, centre, 0.72 * girth, 0.55 * head)
    return neck, centre, draws.uniform(-0.08, 0.05)


def _draw_head(draws: Draws, centre: Floats, turn: Floats, head: Floats) -> tuple[Floats, Floats, Floats]:
    """Skull and muzzle `(m, 2, 6)`, the tip of the snout and the eye."""
    snout = _along(centre, turn - 0.02, head * draws.uniform(0.95, 1.45))
    muzzle = _capsule(centre, snout, 0.78 * head, head * draws.uniform(0.42, 0.6))
    eye = _along(centre, turn + 0.12, 0.42 * head)
    return np.concatenate([_disc(centre, head), muzzle], axis=1), snout, eye


def _draw_tail(draws: Draws, hip: Floats, length: Floats, girth: Floats) -> tuple[Floats, Floats]:
    """Three capsules `(m, 3, 6)` and where the tip points in turns."""
    turn = 0.5 - draws.uniform(-0.06, 0.2)
    curl = draws.uniform(-0.09, 0.09)
    start, radius = hip, 0.42 * girth
    capsules = []
    for step in range(3):
        end = _along(start, turn, length / 3.0 + (0.5 * girth if step == 0 else 0.0))
        thinner = radius * 0.72
        capsules.append(_capsule(start, end, radius, thinner))
        start, radius = end, thinner
        turn = turn + curl
    return np.concatenate(capsules, axis=1), turn - curl


def _draw_legs(
    draws: Draws, spine: Floats, legs: Ints, length: Floats, girth: Floats
) -> tuple[list[Shape], list[Shape], Floats]:
    """Near and far legs, a shape each, and the front and the hind foot of the near side `(m, 2, 2)`.

    Legs are shapes of their own, not a union: small windows are quick to draw.
    """
    pairs = legs // 2
    stride = draws.uniform(0.02, 0.1)
    thickness = girth * draws.uniform(0.34, 0.46)
    hip, middle, shoulder = spine[:, 0], spine[:, 1], spine[:, 2]
    # Two legs carry the middle; four stand under hip and shoulder; six have a pair more between these.
    front = np.where((pairs == 1)[:, None], 0.45 * hip + 0.55 * shoulder, 0.88 * shoulder + 0.12 * hip)
    hind = 0.88 * hip + 0.12 * shoulder
    sides: list[list[Shape]] = []
    feet = []
    for side in range(2):
        shapes = []
        for place, top in enumerate((front, hind, middle)):
            swing = stride * (1.0 if (place + side) % 2 == 0 else -1.0) + 0.02 * draws.bell()
            start = top + _point(np.full_like(girth, 0.1 * side), 0.35 * girth)
            knee = _along(start, swing - 0.25, 0.55 * length)
            foot = _along(knee, 0.4 * swing - 0.27 + 0.015 * draws.bell(), 0.5 * length)
            thigh = _capsule(start, knee, 1.25 * thickness, 0.85 * thickness)
            shin = _capsule(knee, foot, 0.85 * thickness, 0.8 * thickness)
            shapes.append(Shape(np.concatenate([thigh, shin], axis=1), np.where(pairs > place, 2, 0)))
            if side == 0 and place < 2:
                feet.append(foot)
        sides.append(shapes)
    feet[1] = np.where((pairs == 1)[:, None], feet[0], feet[1])
    return sides[0], sides[1], np.stack(feet, axis=1)


def ornaments(
    draws: Draws, species: Ints, origin: Floats, turn: Floats, unit: Floats, facing: Floats
) -> tuple[Shape, Shape, Floats]:
    """The telling parts of `species` at an anchor: what lies in front, what lies behind, and the centre of both `(m, 2)`.

    `origin` `(m, 2)` and `unit` are in the frame to draw in, `turn` is the anchor's direction, `facing` 1 or -1.
    """
    size = unit * draws.uniform(1.05, 1.3)
    stretch = draws.uniform(0.9, 1.12)
    lean = 0.13 * draws.bell()
    cos, sin = cos_sin(turn + 0.02 * draws.bell())
    shapes = []
    for side in ("front", "back"):
        table, counts = _TEMPLATES[side]
        template = table[species]
        placed = np.empty_like(template)
        for end in (0, 2):
            up = template[:, :, end + 1] * stretch[:, None]
            along = template[:, :, end] / stretch[:, None] + lean[:, None] * up
            x = (along * cos[:, None] - up * sin[:, None]) * size[:, None] * facing[:, None]
            y = -(along * sin[:, None] + up * cos[:, None]) * size[:, None]
            placed[:, :, end], placed[:, :, end + 1] = origin[:, :1] + x, origin[:, 1:] + y
        placed[:, :, 4:] = template[:, :, 4:] * size[:, None, None]
        shapes.append(Shape(placed, counts[species]))
    front, behind = shapes
    chosen = np.where((front.count > 0)[:, None, None], front.capsules, behind.capsules)
    low = np.minimum(chosen[:, :, 0:2], chosen[:, :, 2:4]).min(axis=1)
    high = np.maximum(chosen[:, :, 0:2], chosen[:, :, 2:4]).max(axis=1)
    return front, behind, 0.5 * (low + high)


@dataclass(frozen=True, slots=True)
class Pose:
    """How creatures lie in their pictures: `pixel = origin + scale * rotate(mirror * squeeze * x, y)`."""

    scale: Floats
    squeeze: Floats
    facing: Floats
    cos: Floats
    sin: Floats
    origin: Floats

    def points(self, points: Floats) -> Floats:
        """`(m, ..., 2)` from the creature's frame to pixels."""
        shape = (len(self.scale),) + (1,) * (points.ndim - 2)
        cos, sin = self.cos.reshape(shape), self.sin.reshape(shape)
        x = points[..., 0] * (self.squeeze * self.facing).reshape(shape)
        y = points[..., 1]
        scale = self.scale.reshape(shape)
        turned_x = self.origin[:, 0].reshape(shape) + scale * (cos * x - sin * y)
        turned_y = self.origin[:, 1].reshape(shape) + scale * (sin * x + cos * y)
        return np.stack([turned_x, turned_y], axis=-1)

    def shape(self, shape: Shape) -> Shape:
        """Capsules in pixels; radii only grow with the scale."""
        ends = self.points(shape.capsules[:, :, :4].reshape(len(self.scale), -1, 2, 2))
        placed = shape.capsules.copy()
        placed[:, :, :4] = ends.reshape(*placed.shape[:2], 4)
        placed[:, :, 4:] *= self.scale[:, None, None]
        return Shape(placed, shape.count)

    def frame(self) -> Floats:
        """`(m, 6)`: the rows of the way back, u = f0 x + f1 y + f2 and v = f3 x + f4 y + f5, for coats."""
        inverse = 1.0 / self.scale
        along = self.facing / self.squeeze * inverse
        f0, f1 = self.cos * along, self.sin * along
        f3, f4 = -self.sin * inverse, self.cos * inverse
        x, y = self.origin[:, 0], self.origin[:, 1]
        return np.stack([f0, f1, -(f0 * x + f1 * y), f3, f4, -(f3 * x + f4 * y)], axis=1)


def extent(shapes: list[Shape]) -> Floats:
    """`(m, 4)`: the smallest box x1, y1, x2, y2 around all capsules that are used."""
    lows, highs = [], []
    for shape in shapes:
        capsules, radii = shape.capsules, shape.capsules[:, :, 4:]
        ends_a, ends_b = capsules[:, :, 0:2], capsules[:, :, 2:4]
        absent = np.where(shape.count == 0, np.inf, 0.0)[:, None]
        lows.append(np.minimum(ends_a - radii[:, :, :1], ends_b - radii[:, :, 1:]).min(axis=1) + absent)
        highs.append(np.maximum(ends_a + radii[:, :, :1], ends_b + radii[:, :, 1:]).max(axis=1) - absent)
    return np.concatenate([np.minimum.reduce(lows), np.maximum.reduce(highs)], axis=1)
