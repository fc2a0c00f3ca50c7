"""The patients of the radiographs world: how each is built, what the finding changes, and how they stood and breathed.

Numbers are drawn for many pictures at once; what they mean says `radiographs_anatomy`.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from partwise.data.worlds.draws import Draws, Floats, Ints, Keys, keys
from partwise.data.worlds.radiographs_anatomy import (
    CARDIOMEGALY,
    EFFUSION,
    OUTWARD,
    PAIRS,
    REACH,
    SIDES,
    Anatomy,
    heart_left,
    heart_right,
    inner,
    skin,
    wall,
)

# From the head at the spine down to the bend at the wall, and from there down to the tip, of each pair.
_DROP = np.array([0.045, 0.072, 0.095, 0.112, 0.126, 0.138, 0.146, 0.150, 0.148, 0.142])
_FALL = np.array([0.085, 0.095, 0.108, 0.120, 0.130, 0.136, 0.134])
_TIP = np.array([0.075, 0.095, 0.115, 0.135, 0.155, 0.185, 0.225])


def draw_anatomy(patient_keys: Keys, picture_keys: Keys, findings: Ints) -> Anatomy:
    """The chests of n pictures: the patient's build, then how deep the breath was and how the patient stood."""
    body = _draw_patient(Draws(keys(patient_keys, 0)), findings)
    draws = Draws(keys(picture_keys, 0))
    breath = 0.018 * draws.bell()
    reach, ends, rest = np.split(body.heart, 3, axis=1)
    body = replace(
        body,
        height=body.height + breath,
        dome=body.dome + 0.25 * breath[:, None] + 0.004 * _pair(draws),
        drop=body.drop * (1.0 - 1.2 * breath)[:, None],
        heart=np.concatenate(
            [reach * (1.0 - 0.5 * breath)[:, None], ends + breath[:, None] * [0.5, 0.8], rest], axis=1
        ),
        yaw=0.009 * draws.bell(),
    )
    nodule, radius = _place_nodule(body, Draws(keys(patient_keys, 1)))
    return replace(body, nodule=np.concatenate([nodule, radius[:, None]], axis=1))


def _pair(draws: Draws) -> Floats:
    """Two bells a picture, `(n, 2)`."""
    return np.stack([draws.bell(), draws.bell()], axis=1)


def _draw_patient(draws: Draws, findings: Ints) -> Anatomy:
    count = len(draws)
    large = draws.bell()
    half = 0.382 * (1.0 + 0.035 * large + 0.04 * draws.bell())[:, None] * (1.0 + 0.018 * _pair(draws))
    half = np.minimum(half, REACH)
    top = np.clip(-0.405 + 0.01 * draws.bell(), -0.42, -0.39)
    height = np.clip(0.735 + 0.025 * large + 0.045 * draws.bell(), 0.6, REACH - top - 0.055)
    lower = np.clip(0.045 + 0.016 * draws.bell(), 0.012, 0.065)
    dome_right = np.clip(0.148 + 0.022 * draws.bell(), 0.1, 0.21)
    dome = np.stack([dome_right, dome_right - lower], axis=1)
    wide = half.mean(axis=1)
    shoulder = np.stack([top - 0.1 + 0.014 * draws.bell(), draws.uniform(0.12, 0.3), draws.uniform(0.1, 0.135)], axis=1)
    return Anatomy(
        top=top,
        height=height,
        half=half,
        apex=0.37 * wide[:, None] + 0.008 * _pair(draws),
        round=np.clip(0.41 + 0.035 * draws.bell(), 0.3, 0.52),
        flare=np.clip(0.115 + 0.035 * draws.bell(), 0.03, 0.22),
        dome=dome,
        dome_at=np.stack([draws.uniform(0.1, 0.16), draws.uniform(0.17, 0.23)], axis=1),
        steep=draws.uniform(0.55, 1.0),
        root=np.stack([0.05 + 0.005 * draws.bell(), 0.051 + 0.005 * draws.bell()], axis=1),
        knob=np.stack([0.212 + 0.018 * draws.bell(), draws.uniform(0.045, 0.062), draws.uniform(0.004, 0.034)], axis=1),
        heart=_draw_heart(draws, findings, half, top + height - dome[:, 1]),
        heads=_draw_heads(draws, top, height),
        drop=_DROP * np.clip(1.0 + 0.11 * draws.bell(), 0.7, 1.35)[:, None],
        fall=_FALL * np.clip(1.0 + 0.1 * draws.bell(), 0.7, 1.35)[:, None],
        tips=_TIP * (wide / 0.37)[:, None],
        rib_half=draws.uniform(0.0105, 0.0145),
        clavicle=_draw_clavicles(draws, top, wide, shoulder),
        spine=np.stack([draws.uniform(0.034, 0.042), 0.006 * draws.bell(), 0.006 * draws.bell()], axis=1),
        carina=top + 0.25 + 0.014 * draws.bell(),
        trunk=_draw_trunk(draws, wide),
        shoulder=shoulder,
        depth=1.0 + 0.09 * draws.bell(),
        yaw=np.zeros(count),
        finding=findings,
        side=(~draws.flag(0.55)).astype(np.int64),
        nodule=np.zeros((count, 3)),
        fluid=np.where(findings == EFFUSION, draws.uniform(0.055, 0.19), 0.0),
        breasts=np.stack(
            [np.where(draws.flag(0.45), draws.uniform(0.12, 0.18), 0.0), top + 0.53 + 0.03 * draws.bell()], axis=1
        ),
    )


def _draw_heart(draws: Draws, findings: Ints, half: Floats, floor: Floats) -> Floats:
    """Reach to both sides, top, bottom, apex above the bottom, fullness; the ratio of heart to chest says what is large.

    The heart lies on the left dome, whose top is the `floor`.
    """
    usual = np.clip(0.445 + 0.028 * draws.bell(), 0.37, 0.495)
    enlarged = np.clip(0.562 + 0.02 * draws.bell(), 0.525, 0.62)
    width = np.where(findings == CARDIOMEGALY, enlarged, usual) * half.sum(axis=1)
    share = 0.325 + 0.024 * draws.bell()
    bottom = floor + np.clip(0.022 + 0.008 * draws.bell(), 0.008, 0.05)
    tall = 0.31 + 0.016 * draws.bell() + 0.12 * (width - 0.33)
    return np.stack(
        [
            width * share,
            width * (1.0 - share),
            bottom - tall,
            bottom,
            np.clip(0.062 + 0.016 * draws.bell(), 0.025, 0.11),
            draws.uniform(0.4, 0.9),
        ],
        axis=1,
    )


def _draw_heads(draws: Draws, top: Floats, height: Floats) -> Floats:
    """Vertebrae grow from top to bottom."""
    first = top - 0.015 + 0.006 * draws.bell()
    spacing = (0.066 + 0.0025 * draws.bell()) * (0.5 + 0.5 * height / 0.735)
    growth = draws.uniform(0.015, 0.03)
    number = np.arange(PAIRS)
    uneven = np.stack([0.0025 * draws.bell() for _ in range(PAIRS)], axis=1)
    return first[:, None] + spacing[:, None] * (number * (0.8 + growth[:, None] * number)) + uneven


def _draw_clavicles(draws: Draws, top: Floats, wide: Floats, shoulder: Floats) -> Floats:
    """They rise outwards, but stay below the skin."""
    inner = top + 0.092 + 0.014 * draws.bell()
    tilt = 0.085 + 0.03 * draws.bell()
    each = []
    for _ in SIDES:
        x = 0.052 + 0.005 * draws.bell()
        y = inner + 0.005 * draws.bell()
        outer = wide * draws.uniform(0.86, 0.98)
        rise = np.clip(tilt + 0.012 * draws.bell(), 0.0, 0.18)
        end = np.maximum(y - rise, skin(shoulder, outer[:, None])[:, 0] + 0.045)
        each.append(np.stack([x, y, outer, end, draws.uniform(0.1, 0.28), draws.uniform(0.0135, 0.0185)], axis=1))
    return np.stack(each, axis=1)


def _draw_trunk(draws: Draws, wide: Floats) -> Floats:
    flesh = draws.uniform(0.035, 0.13)
    return np.stack([wide + flesh, wide + flesh * draws.uniform(0.1, 1.4), draws.uniform(0.0, 0.28)], axis=1)


def _place_nodule(body: Anatomy, draws: Draws) -> tuple[Floats, Floats]:
    """A place in the lung that neither heart nor diaphragm hides `(n, 2)`, and a radius; for every chest, used or not."""
    radius = draws.uniform(0.019, 0.037)
    down, across = draws.unit(), draws.unit()
    places = []
    for side in (0, 1):
        low = body.top + body.height - body.dome[:, side] - 1.5 * radius
        high = body.top + 0.13
        y = high + (low - high) * down
        border = heart_left(body, y) if side == 1 else -heart_right(body, y)
        hidden = np.where(y > body.heart[:, 2], border, 0.0)
        near = np.maximum(inner(body, side, y), hidden) + 1.6 * radius
        far = wall(body, side, y) - 1.7 * radius
        places.append(np.stack([OUTWARD[side] * (near + (far - near) * across), y], axis=1))
    return np.where((body.side == 0)[:, None], places[0], places[1]), radius
