"""The species of the creatures world: what tells them apart, as a table of values.

A species is told by one **ornament** (small, certain) and, weakly, by habits of the whole body: proportions, coat, number of
legs. The habits shift means and odds only; every body occurs in every species. Not here: how a creature stands or is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

COATS = ("plain", "striped", "spotted", "patched", "lined")
LEGS = (2, 4, 6)

Capsule = tuple[float, float, float, float, float, float]
"""ax, ay, bx, by, radius at a, radius at b; x forward, y up, in units of the anchor."""


def _chain(points: list[tuple[float, float]], start: float, end: float) -> list[Capsule]:
    """A tapering line through the points, a capsule for each stretch."""
    steps = len(points) - 1
    radii = [start + (end - start) * i / steps for i in range(steps + 1)]
    return [(*points[i], *points[i + 1], radii[i], radii[i + 1]) for i in range(steps)]


def _aside(capsules: list[Capsule], dx: float, dy: float) -> list[Capsule]:
    """The same shape moved: the far one of a pair."""
    return [(ax + dx, ay + dy, bx + dx, by + dy, ra, rb) for ax, ay, bx, by, ra, rb in capsules]


@dataclass(frozen=True, slots=True)
class Species:
    """One class. `front` is drawn over the head, `back` behind the body; habits are -1, 0 or 1 for short, usual, long."""

    name: str
    anchor: str
    front: list[Capsule]
    back: list[Capsule]
    coat: str
    legs: int
    leg: int
    neck: int
    length: int
    head: int
    tail: int


_HORN = _chain([(0.0, 0.7), (-0.1, 1.7), (-0.8, 2.4), (-1.7, 2.5)], 0.38, 0.12)
_EAR: list[Capsule] = [(-0.25, 0.7, -0.8, 2.8, 0.36, 0.42)]
_FEELER: list[Capsule] = [
    *_chain([(0.2, 0.8), (0.35, 1.6), (0.8, 2.3)], 0.15, 0.13),
    (0.85, 2.45, 0.85, 2.45, 0.42, 0.42),
]
_ANTLER: list[Capsule] = [
    *_chain([(-0.1, 0.7), (-0.4, 1.7), (-0.2, 2.7)], 0.24, 0.14),
    (-0.35, 1.5, -1.3, 2.1, 0.2, 0.13),
    (-0.35, 1.7, 0.7, 2.2, 0.2, 0.13),
]
_TUSK = _chain([(-0.5, -0.2), (0.1, -1.2), (1.2, -1.2)], 0.38, 0.12)

SPECIES: tuple[Species, ...] = (
    Species("horned", "head", _HORN, _aside(_HORN, 0.6, -0.05), "patched", 4, 0, 0, 1, 0, -1),
    Species(
        "crested",
        "head",
        [],
        [
            (0.3, 0.6, 0.75, 1.9, 0.3, 0.14),
            (0.0, 0.6, -0.15, 2.2, 0.34, 0.14),
            (-0.3, 0.5, -1.15, 1.95, 0.34, 0.14),
            (-0.5, 0.2, -1.9, 1.15, 0.32, 0.14),
        ],
        "striped",
        2,
        1,
        1,
        -1,
        0,
        0,
    ),
    Species("long-eared", "head", _EAR, _aside(_EAR, 0.75, 0.1), "plain", 4, 1, -1, -1, 1, -1),
    Species(
        "round-eared",
        "head",
        [(-0.5, 1.1, -0.5, 1.1, 0.85, 0.85)],
        [(0.75, 1.2, 0.75, 1.2, 0.75, 0.75)],
        "spotted",
        4,
        -1,
        -1,
        0,
        1,
        1,
    ),
    Species("one-horned", "head", [(0.5, 0.7, 1.5, 2.9, 0.5, 0.1)], [], "lined", 4, 1, 1, 0, -1, 1),
    Species(
        "trunked",
        "snout",
        _chain([(-0.2, 0.0), (0.8, -0.5), (1.1, -1.4), (0.7, -2.2), (1.3, -2.7)], 0.46, 0.24),
        [],
        "plain",
        4,
        0,
        -1,
        1,
        1,
        -1,
    ),
    Species(
        "beaked",
        "snout",
        [(-0.3, -0.3, 1.3, -0.6, 0.4, 0.1), (-0.4, 0.15, 1.9, -0.1, 0.66, 0.1)],
        [],
        "spotted",
        2,
        1,
        1,
        -1,
        -1,
        -1,
    ),
    Species(
        "sail-backed",
        "back",
        [],
        [
            (-1.5, -0.2, -1.7, 1.3, 0.55, 0.3),
            (-0.5, -0.2, -0.6, 2.3, 0.6, 0.3),
            (0.5, -0.2, 0.5, 2.4, 0.6, 0.3),
            (1.4, -0.2, 1.5, 1.5, 0.55, 0.3),
        ],
        "striped",
        6,
        -1,
        0,
        1,
        -1,
        1,
    ),
    Species(
        "club-tailed",
        "tail",
        [
            (0.4, 0.0, 1.5, 1.1, 0.3, 0.1),
            (0.4, 0.0, 1.9, 0.0, 0.3, 0.1),
            (0.4, 0.0, 1.5, -1.1, 0.3, 0.1),
            (0.4, 0.0, 0.4, 0.0, 0.85, 0.85),
        ],
        [],
        "patched",
        6,
        -1,
        -1,
        0,
        0,
        1,
    ),
    Species(
        "fork-tailed",
        "tail",
        [(-0.2, 0.0, 1.5, 1.35, 0.32, 0.2), (-0.2, 0.0, 1.5, -1.35, 0.32, 0.2)],
        [],
        "lined",
        2,
        0,
        1,
        1,
        -1,
        0,
    ),
    Species("feelered", "head", _FEELER, _aside(_FEELER, 0.65, -0.1), "striped", 6, 0, -1, 1, 0, -1),
    Species(
        "frilled",
        "head",
        [],
        [
            (-0.7, 0.9, -0.9, 1.3, 0.75, 0.6),
            (-1.2, 0.1, -1.6, 0.1, 0.8, 0.6),
            (-0.7, -0.8, -0.9, -1.2, 0.75, 0.6),
            (-0.6, 0.0, -0.6, 0.0, 1.2, 1.2),
        ],
        "plain",
        2,
        -1,
        0,
        0,
        1,
        1,
    ),
    Species(
        "humped",
        "back",
        [],
        [(-1.2, -0.3, -1.1, 1.0, 1.1, 0.6), (1.1, -0.3, 1.0, 1.1, 1.1, 0.6)],
        "patched",
        4,
        1,
        1,
        0,
        -1,
        0,
    ),
    Species(
        "winged",
        "back",
        [
            (0.3, -0.5, -2.4, 0.4, 0.4, 0.15),
            (0.4, -0.4, -2.3, 1.3, 0.42, 0.15),
            (0.5, -0.3, -1.7, 2.2, 0.42, 0.15),
            (0.6, -0.2, -0.8, 2.7, 0.4, 0.15),
        ],
        [],
        "lined",
        2,
        0,
        0,
        -1,
        0,
        1,
    ),
    Species("antlered", "head", _ANTLER, _aside(_ANTLER, 0.6, 0.0), "spotted", 4, 1, 0, 0, -1, -1),
    Species("tusked", "snout", _TUSK, _aside(_TUSK, 0.35, 0.2), "striped", 4, -1, -1, 1, 1, 0),
)

MAX_CLASSES = len(SPECIES)
