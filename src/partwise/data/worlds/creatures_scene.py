"""What a picture of creatures shows: ground, light, who stands where, loose pieces and what hides them.

Everything is drawn from one key a picture, for many pictures at once; `creatures_draw` paints the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.creatures_anatomy import (
    FAR_PARTS,
    LANDMARKS,
    ORNAMENT,
    Build,
    Pose,
    Shape,
    draw_builds,
    extent,
    ornaments,
)
from partwise.data.worlds.creatures_draw import GROUNDS, Finish, Ground, Layer, Light
from partwise.data.worlds.creatures_species import COATS, SPECIES
from partwise.data.worlds.draws import (
    Draws,
    Floats,
    Ints,
    Keys,
    at_luminance,
    cos_sin,
    hue_colour,
    keys,
    luminance,
    permutations,
)

# Hue, saturation and luminance ranges of the grounds, in the order of GROUNDS.
_PALETTE = np.array(
    [
        [0.07, 0.14, 0.25, 0.55, 0.55, 0.75],  # sand
        [0.20, 0.36, 0.35, 0.70, 0.35, 0.55],  # grass
        [0.50, 0.65, 0.03, 0.14, 0.75, 0.88],  # snow
        [0.48, 0.62, 0.40, 0.75, 0.35, 0.60],  # water
        [0.00, 1.00, 0.03, 0.18, 0.38, 0.60],  # rock
        [0.03, 0.09, 0.30, 0.60, 0.22, 0.42],  # soil
        [0.22, 0.45, 0.30, 0.60, 0.25, 0.45],  # moss
        [0.02, 0.16, 0.40, 0.75, 0.32, 0.55],  # leaves
    ]
)
_CONTRAST = np.array([0.10, 0.13, 0.06, 0.11, 0.12, 0.10, 0.11, 0.13])
# Where two and three creatures stand, in picture sides.
_PLACES = {2: [(0.28, 0.42), (0.72, 0.58)], 3: [(0.26, 0.3), (0.74, 0.32), (0.5, 0.74)]}
# The longer side of a creature's box, in picture sides, by number of creatures.
_REACH = np.array([[0.7, 0.98], [0.7, 0.98], [0.48, 0.64], [0.42, 0.54]])
_OVERHANG = 0.04


@dataclass(frozen=True, slots=True)
class Scene:
    """n pictures: `layers` from far to near; `labels`, `facing`, `coats` `(n, objects)` with -1, 0, 0 where nobody is;
    `landmarks` `(n, objects, 8, 2)` in pixels; `habits` `(n, objects, 13)`, what the body alone could tell.
    """

    size: int
    labels: Ints
    ground: Ground
    light: Light
    finish: Finish
    layers: list[Layer]
    landmarks: Floats
    facing: Ints
    coats: Ints
    habits: Floats

    def captions(self) -> tuple[str, ...]:
        """One sentence a picture, such as "a horned striped creature facing left on sand"."""
        return tuple(self._caption(i) for i in range(len(self.labels)))

    def _caption(self, i: int) -> str:
        phrases = []
        for label, coat, facing in zip(self.labels[i], self.coats[i], self.facing[i], strict=True):
            if label >= 0:
                name = SPECIES[label].name
                article = "an" if name[0] in "aeiu" else "a"
                phrases.append(f"{article} {name} {COATS[coat]} creature facing {'right' if facing > 0 else 'left'}")
        listed = " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]
        return f"{listed} on {GROUNDS[self.ground.kind[i]]}"


@dataclass(slots=True)
class _Cast:
    """The creatures placed so far: what later draws must keep clear of."""

    boxes: list[Floats]
    scale: Floats
    landmarks: Floats


def draw_scene(picture_keys: Keys, labels: Ints, *, size: int, num_classes: int) -> Scene:
    """The scenes of n pictures with creatures of the given `labels` `(n, objects)`, -1 for nobody."""
    count, objects = labels.shape
    draws = Draws(keys(picture_keys, 0))
    ground_parts = _draw_ground(draws, size)
    ground_light = luminance(0.5 * (ground_parts["dark"] + ground_parts["light"]))
    light, settings = _draw_light(draws), _draw_finish(draws, size)
    crowd = (labels >= 0).sum(axis=1)
    order = permutations(keys(picture_keys, 1), 3)

    landmarks = np.full((count, objects, len(LANDMARKS), 2), np.nan)
    facing, coats = np.zeros((count, objects), dtype=np.int64), np.zeros((count, objects), dtype=np.int64)
    habits = np.zeros((count, objects, 13))
    shadow = np.tile(np.array([0.0, 0.0, 1.0, 1.0, 0.0]), (count, objects, 1))
    cast = _Cast([], np.ones(count), np.zeros((count, len(LANDMARKS), 2)))
    creature_layers: list[Layer] = []
    for number in range(objects):
        rows = np.flatnonzero(labels[:, number] >= 0)
        if not len(rows):
            continue
        own = Draws(keys(picture_keys[rows], 10 + number))
        build = draw_builds(own, labels[rows, number])
        pose, box = _draw_pose(own, build, crowd[rows], order[rows], number, size)
        creature_layers += _creature_layers(own, build, pose, rows, ground_light[rows], number + 1)
        landmarks[rows, number] = pose.points(build.landmarks)
        facing[rows, number] = pose.facing.astype(np.int64)
        coats[rows, number], habits[rows, number] = build.coat, build.habits
        shadow[rows, number] = _shadow(box)
        boxes = np.full((count, 4), np.nan)
        boxes[rows] = box
        cast.boxes.append(boxes)
        cast.scale[rows], cast.landmarks[rows] = pose.scale, landmarks[rows, number]

    stones = [_draw_stone(Draws(keys(picture_keys, 30)), ground_light, size)]
    loose = _draw_loose(picture_keys, labels, cast, size, num_classes)
    hiding = [_draw_hiding(Draws(keys(picture_keys, 50)), cast, ground_light)]
    return Scene(
        size=size,
        labels=labels,
        ground=Ground(shadow=shadow, **ground_parts),
        light=light,
        finish=settings,
        layers=stones + loose + creature_layers + hiding,
        landmarks=landmarks,
        facing=facing,
        coats=coats,
        habits=habits,
    )


def _draw_ground(draws: Draws, size: int) -> dict[str, NDArray]:
    kind = draws.integer(len(GROUNDS))
    low, high = _PALETTE[kind, 0::2], _PALETTE[kind, 1::2]
    hue, saturation, brightness = (draws.uniform(low[:, i], high[:, i]) for i in range(3))
    base = hue_colour(hue, saturation)
    contrast = _CONTRAST[kind] * draws.uniform(0.8, 1.3)
    shifted = hue_colour(hue + 0.03 * draws.bell(), saturation)
    backdrop = hue_colour(np.where(draws.flag(0.7), draws.uniform(0.5, 0.62), draws.unit()), draws.uniform(0.08, 0.5))
    span = 3 * size
    corners = np.stack([np.stack([draws.integer(span), draws.integer(span)], axis=1) for _ in range(2)], axis=1)
    return {
        "kind": kind,
        "corner": corners,
        "mirror": np.stack([draws.flag(0.5), draws.flag(0.5)], axis=1),
        "dark": at_luminance(shifted, brightness - contrast),
        "light": at_luminance(base, np.minimum(brightness + contrast, 0.97)),
        "horizon": np.where(draws.flag(0.5), draws.uniform(0.1, 0.42), -1.0),
        "slope": 0.06 * draws.bell(),
        "hills": draws.uniform(0.0, 0.3),
        "sky": at_luminance(backdrop, draws.uniform(0.6, 0.85)),
    }


def _draw_light(draws: Draws) -> Light:
    cos, sin = cos_sin(draws.uniform(0.1, 0.4))
    return Light(
        direction=np.stack([cos, -sin], axis=1),
        amplitude=draws.uniform(0.16, 0.34),
        ambient=draws.uniform(0.9, 1.0),
        outline=draws.uniform(0.45, 0.8),
    )


def _draw_finish(draws: Draws, size: int) -> Finish:
    count = len(draws)
    exposure = draws.uniform(0.82, 1.12)
    tint = np.stack([1.0 + 0.05 * draws.bell() for _ in range(3)], axis=1)
    return Finish(
        gain=exposure[:, None] * tint,
        slope=np.stack([0.18 * draws.bell(), 0.18 * draws.bell()], axis=1),
        lift=draws.uniform(-0.02, 0.05),
        grain=draws.uniform(0.004, 0.025),
        corner=np.stack([draws.integer(size + 64), draws.integer(size + 64)], axis=1).reshape(count, 2),
    )


def _draw_pose(draws: Draws, build: Build, crowd: Ints, order: Ints, number: int, size: int) -> tuple[Pose, Floats]:
    """Facing, turn, scale and place; and the box around the whole creature, hidden or not, `(m, 4)`."""
    shapes = [shape for _, shape in build.parts]
    cos, sin = cos_sin(np.clip(0.045 * draws.bell(), -0.1, 0.1))
    facing = np.where(draws.flag(0.5), 1.0, -1.0)
    ones, nowhere = np.ones(len(crowd)), np.zeros((len(crowd), 2))
    squeeze = _squeeze(draws, extent([Pose(ones, ones, facing, cos, sin, nowhere).shape(shape) for shape in shapes]))
    box = extent([Pose(ones, squeeze, facing, cos, sin, nowhere).shape(shape) for shape in shapes])
    spread = box[:, 2:] - box[:, :2]
    reach = _REACH[crowd]
    scale = draws.uniform(reach[:, 0], reach[:, 1]) * size / spread.max(axis=1)
    origin = _draw_centre(draws, spread * scale[:, None], crowd, order, number, size)
    origin -= 0.5 * (box[:, :2] + box[:, 2:]) * scale[:, None]
    box = box * scale[:, None] + np.concatenate([origin, origin], axis=1)
    return Pose(scale, squeeze, facing, cos, sin, origin), box


def _squeeze(draws: Draws, box: Floats) -> Floats:
    """Foreshortening that leads halfway to a ratio of sides drawn without regard to the class: the box must not tell it."""
    ratio = (box[:, 2] - box[:, 0]) / (box[:, 3] - box[:, 1])
    return np.clip(np.sqrt(draws.uniform(0.7, 1.5) / ratio), 0.65, 1.12)


def _draw_centre(draws: Draws, spread: Floats, crowd: Ints, order: Ints, number: int, size: int) -> Floats:
    """The middle of a box `spread` wide and high `(m, 2)`: anywhere for one creature, near its own place in a crowd."""
    free = np.stack([draws.unit(), draws.unit()], axis=1)
    jitter = np.stack([draws.bell(), draws.bell()], axis=1)
    place = np.full((len(crowd), 2), 0.5)
    for people, spots in _PLACES.items():
        chosen = crowd == people
        place[chosen] = np.array(spots)[_seat(order[chosen], number, people)]
    low = np.minimum(0.5 * spread - _OVERHANG * size, 0.5 * size)
    high = size - low
    seated = np.minimum(np.maximum((place + 0.03 * jitter) * size, low), high)
    return np.where((crowd == 1)[:, None], low + (high - low) * free, seated)


def _seat(order: Ints, number: int, people: int) -> Ints:
    """Which of `people` places creature `number` takes: its rank in a random order."""
    return (order[:, :people] < order[:, number : number + 1]).sum(axis=1)


def _creature_layers(
    draws: Draws, build: Build, pose: Pose, rows: Ints, ground_light: Floats, instance: int
) -> list[Layer]:
    """The parts of creatures in the order to paint them, coloured against their ground."""
    tone = _contrasting(draws, ground_light)
    hue = draws.unit()
    base = at_luminance(hue_colour(hue, draws.uniform(0.25, 0.8)), tone)
    other_tone = np.where(tone > 0.5, tone * draws.uniform(0.4, 0.62), tone + draws.uniform(0.25, 0.42))
    other_hue = np.where(draws.flag(0.6), hue + 0.03 * draws.bell(), draws.unit())
    other = at_luminance(hue_colour(other_hue, draws.uniform(0.1, 0.7)), other_tone)
    trim = _ornament_colour(draws)
    white, black = np.full_like(base, 0.95), np.full_like(base, 0.08)
    eyes = {len(build.parts) - 2: white, len(build.parts) - 1: black}
    frame, layers = pose.frame(), []
    for place, (part, shape) in enumerate(build.parts):
        plain = part == ORNAMENT or place in eyes
        first = trim if part == ORNAMENT else eyes.get(place, base)
        depth = 0.74 if place in FAR_PARTS else 1.0
        layers.append(
            Layer(
                owner=rows,
                shape=pose.shape(shape),
                colour=first * depth,
                second=other * depth,
                coat=np.zeros_like(build.coat) if plain else build.coat,
                frame=frame,
                instance=instance,
                part=part,
            )
        )
    return layers


def _contrasting(draws: Draws, ground_light: Floats) -> Floats:
    """A luminance well above or below that of the ground."""
    lighter = draws.unit() < np.clip((0.72 - ground_light) / 0.44, 0.0, 1.0)
    gap = draws.uniform(0.2, 0.42)
    return np.clip(np.where(lighter, ground_light + gap, ground_light - gap), 0.14, 0.9)


def _ornament_colour(draws: Draws) -> Floats:
    bone = hue_colour(draws.uniform(0.05, 0.15), draws.uniform(0.05, 0.4))
    vivid = hue_colour(draws.unit(), draws.uniform(0.5, 0.9))
    colour = np.where(draws.flag(0.45)[:, None], bone, vivid)
    return at_luminance(colour, draws.uniform(0.25, 0.85))


def _shadow(box: Floats) -> Floats:
    """A soft ellipse under the feet: centre, half-widths, strength."""
    width, height = box[:, 2] - box[:, 0], box[:, 3] - box[:, 1]
    return np.stack(
        [
            0.5 * (box[:, 0] + box[:, 2]),
            box[:, 3] - 0.05 * height,
            0.52 * width,
            0.14 * height,
            np.full_like(width, 0.55),
        ],
        axis=1,
    )


def _draw_stone(draws: Draws, ground_light: Floats, size: int) -> Layer:
    """A stone lying about, in a third of the pictures, behind the creatures."""
    shown = draws.flag(0.35)
    place = np.stack([draws.uniform(0.05, 0.95), draws.uniform(0.1, 0.95)], axis=1) * size
    shape = _boulder(draws, place, draws.uniform(0.05, 0.11) * size)
    shape.count = np.where(shown, shape.count, 0)
    return _scenery(draws, shape, np.zeros(len(draws), dtype=bool), ground_light)


def _boulder(draws: Draws, place: Floats, radius: Floats) -> Shape:
    """Two thick capsules `(m, 2, 6)` that make a stone."""
    capsules = []
    for _ in range(2):
        cos, sin = cos_sin(0.06 * draws.bell())
        half = np.stack([cos, sin], axis=1) * (radius * draws.uniform(0.3, 0.9))[:, None]
        low, high = radius * draws.uniform(0.6, 0.9), radius * draws.uniform(0.5, 0.9)
        shift = np.stack([0.2 * draws.bell(), 0.1 * draws.bell()], axis=1) * radius[:, None]
        capsules.append(
            np.concatenate([place + shift - half, place + shift + half, low[:, None], high[:, None]], axis=1)
        )
    return Shape(np.stack(capsules, axis=1), np.full(len(radius), 2, dtype=np.int64))


def _tuft(draws: Draws, place: Floats, radius: Floats) -> Shape:
    """Four blades of grass `(m, 4, 6)` that fan out from a root."""
    capsules = []
    for blade in range(4):
        root = place + np.stack([(blade - 1.5) * 0.28 * radius, 0.6 * radius], axis=1)
        cos, sin = cos_sin(0.25 - (blade - 1.5) * 0.045 + 0.015 * draws.bell())
        tip = root + np.stack([cos, -sin], axis=1) * (radius * draws.uniform(1.3, 2.1))[:, None]
        capsules.append(np.concatenate([root, tip, 0.22 * radius[:, None], 0.06 * radius[:, None]], axis=1))
    return Shape(np.stack(capsules, axis=1), np.full(len(radius), 4, dtype=np.int64))


def _scenery(draws: Draws, shape: Shape, green: NDArray[np.bool_], ground_light: Floats) -> Layer:
    """One stone or (where `green`) tuft a picture, of a brightness near the ground's."""
    tone = np.clip(ground_light + np.where(draws.flag(0.5), 1.0, -1.0) * draws.uniform(0.08, 0.2), 0.15, 0.9)
    hue, saturation = draws.unit(), draws.uniform(0.05, 0.3)
    hue, saturation = np.where(green, 0.1 + 0.28 * hue, hue), np.where(green, 0.3 + saturation, saturation)
    colour = at_luminance(hue_colour(hue, saturation), tone)
    return _plain_layer(shape, colour)


def _plain_layer(shape: Shape, colour: Floats) -> Layer:
    """A shape a picture without coat, which shows as ground in the maps."""
    count = len(colour)
    none = np.zeros(count, dtype=np.int64)
    return Layer(np.arange(count), shape, colour, colour, none, np.zeros((count, 6)), instance=0, part=0)


def _draw_loose(picture_keys: Keys, labels: Ints, cast: _Cast, size: int, num_classes: int) -> list[Layer]:
    """An ornament of a class that is not in the picture, lying on the ground clear of every creature."""
    draws = Draws(keys(picture_keys, 40))
    order = permutations(keys(picture_keys, 41), num_classes)
    absent = (order[:, :, None] != labels[:, None, :]).all(axis=2)
    species = order[np.arange(len(order)), absent.argmax(axis=1)]
    unit = 0.27 * cast.scale * draws.uniform(0.8, 1.1)
    best, clear = np.zeros((len(order), 2)), np.full(len(order), -np.inf)
    for _ in range(6):
        place = np.stack([draws.uniform(0.08, 0.92), draws.uniform(0.08, 0.92)], axis=1) * size
        gaps = [np.maximum(box[:, :2] - place, place - box[:, 2:]).max(axis=1) for box in cast.boxes]
        gap = np.fmin.reduce(gaps)
        best, clear = np.where((gap > clear)[:, None], place, best), np.maximum(gap, clear)
    shown = draws.flag(0.4) & (clear > 1.2 * unit) & absent.any(axis=1)
    facing = np.where(draws.flag(0.5), 1.0, -1.0)
    turn = draws.unit()
    front, behind, centre = ornaments(draws, species, np.zeros_like(best), turn, unit, facing)
    colour = _ornament_colour(draws)
    layers = []
    for shape in (behind, front):
        shape.capsules[:, :, 0:2] += (best - centre)[:, None]
        shape.capsules[:, :, 2:4] += (best - centre)[:, None]
        shape.count = np.where(shown, shape.count, 0)
        layers.append(_plain_layer(shape, colour))
    return layers


def _draw_hiding(draws: Draws, cast: _Cast, ground_light: Floats) -> Layer:
    """A stone or a tuft in front of the last creature, at hip or feet, never over its ornament."""
    shown, is_tuft = draws.flag(0.3), draws.flag(0.5)
    # Grass may hide any of these; stones lie at the feet.
    spots = np.array([LANDMARKS.index(name) for name in ("front foot", "hind foot", "hip", "shoulder")])
    spot = spots[draws.integer(np.where(is_tuft, 4, 2))]
    rows = np.arange(len(draws))
    unit = 0.27 * cast.scale
    place = cast.landmarks[rows, spot] + np.stack([draws.bell(), draws.bell()], axis=1) * 0.3 * unit[:, None]
    radius = unit * draws.uniform(0.8, 1.5)
    ornament = cast.landmarks[:, LANDMARKS.index("ornament")]
    eye = cast.landmarks[:, LANDMARKS.index("eye")]
    reach = radius * 1.6 + 1.6 * unit
    for kept in (ornament, eye):
        away = place - kept
        shown = shown & (away[:, 0] * away[:, 0] + away[:, 1] * away[:, 1] > reach * reach)
    stone, tuft = _boulder(draws, place, radius), _tuft(draws, place, radius)
    padded = np.concatenate([stone.capsules, stone.capsules[:, :1], stone.capsules[:, :1]], axis=1)
    capsules = np.where(is_tuft[:, None, None], tuft.capsules, padded)
    count = np.where(shown, np.where(is_tuft, 4, 2), 0)
    return _scenery(draws, Shape(capsules, count), is_tuft, ground_light)
