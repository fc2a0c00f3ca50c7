"""Pictures of the radiographs world, from what they are drawn from to what they absorb.

A scene is everything that is known before a pixel is drawn; `expose` paints it with the painters of `radiographs_draw`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.draws import Draws, Floats, Ints, Keys, cos_sin, keys
from partwise.data.worlds.radiographs_anatomy import (
    CARDIOMEGALY,
    EFFUSION,
    NODULE,
    Anatomy,
    landmarks,
)
from partwise.data.worlds.radiographs_draw import Regions, absorb, clavicles_shown, paint, part_of, spine_shown
from partwise.data.worlds.radiographs_film import Look, Singles, draw_looks
from partwise.data.worlds.radiographs_marks import Marks, nodules, ribs, shadows
from partwise.data.worlds.radiographs_outline import Outlines, Pose, outline
from partwise.data.worlds.radiographs_patients import draw_anatomy

LAYERS = ("right lung", "left lung", "heart", "right clavicle", "left clavicle", "ribs", "spine", "finding")
"""What can be asked for as a whole, whatever lies over it: a lung goes on behind the heart and below a fluid."""
PIECE = 16
"""Pictures of 64 px that are painted at once: they stay in the second-level cache."""


@dataclass(frozen=True, slots=True)
class Scene:
    """n pictures: `landmarks` `(n, len(LANDMARKS), 2)` in pixels; `sides` 0 or 1 for findings in one lung, -1 for others."""

    size: int
    findings: Ints
    sides: Ints
    body: Anatomy
    pose: Pose
    outlines: Outlines
    look: Look
    shadows: Marks
    ribs: Marks
    nodules: Marks
    landmarks: Floats


def draw_scene(patient_keys: Keys, picture_keys: Keys, findings: Ints, size: int) -> Scene:
    """The scenes of n pictures from the keys of patients and pictures and the findings to show."""
    body = draw_anatomy(patient_keys, picture_keys, findings)
    pose = _draw_pose(Draws(keys(picture_keys, 1)), size)
    look = draw_looks(Draws(keys(picture_keys, 2)), size)
    return Scene(
        size=size,
        findings=findings,
        sides=np.where((findings == NODULE) | (findings == EFFUSION), body.side, -1),
        body=body,
        pose=pose,
        outlines=outline(body, pose),
        look=look,
        shadows=shadows(body, pose, Draws(keys(patient_keys, 2)), Draws(keys(picture_keys, 3))),
        ribs=ribs(body, pose, look.rib),
        nodules=nodules(body, pose, Draws(keys(patient_keys, 3))),
        landmarks=pose.points(landmarks(body)),
    )


def _draw_pose(draws: Draws, size: int) -> Pose:
    """How the patient stands: a little turned, near or far, off the middle."""
    cos, sin = cos_sin(np.clip(0.004 * draws.bell(), -0.009, 0.009))
    return Pose(
        size=size,
        scale=draws.uniform(0.86, 1.03),
        cos=cos,
        sin=sin,
        shift=np.stack([0.012 * draws.bell(), 0.004 + 0.011 * draws.bell()], axis=1),
    )


def expose(scene: Scene, layers: NDArray[np.bool_] | None = None) -> Singles:
    """What the pictures absorb, float32 `(n, s, s)`; sets `layers` `(n, 8, s, s)` where it is given."""
    size, count = scene.size, len(scene.findings)
    canvas = np.empty((count, size, size), dtype=np.float32)
    step = max(1, PIECE * 64 * 64 // (size * size))
    for start in range(0, count, step):
        piece = slice(start, start + step)
        body, lines, look = (part_of(each, piece) for each in (scene.body, scene.outlines, scene.look))
        scale = scene.pose.scale[piece] * size
        canvas[piece], regions = absorb(body, lines, look, scale, size)
        if layers is not None:
            _show(layers[piece], regions, body, lines, scale)
    paint(canvas, scene.shadows)
    paint(canvas, scene.ribs, None if layers is None else layers[:, LAYERS.index("ribs")])
    paint(canvas, scene.nodules, None if layers is None else layers[:, LAYERS.index("finding")])
    return canvas


def _show(layers: NDArray[np.bool_], regions: Regions, body: Anatomy, lines: Outlines, scale: Floats) -> None:
    """Set the layers of a few pictures, but for those that are painted as marks."""
    lung, heart = regions.lung > 0, regions.heart > 0
    layers[:, 0] = lung & regions.right
    layers[:, 1] = lung & ~regions.right
    layers[:, 2] = heart
    collar = clavicles_shown(lines, heart.shape[-1])
    layers[:, 3] = collar & regions.right
    layers[:, 4] = collar & ~regions.right
    layers[:, 6] = spine_shown(body, lines, scale, heart.shape[-1])
    finding = body.finding[:, None, None]
    layers[:, 7] = (lung & (regions.fluid > 0) & (finding == EFFUSION)) | (heart & (finding == CARDIOMEGALY))
