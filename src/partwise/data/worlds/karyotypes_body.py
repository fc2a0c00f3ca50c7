"""What a chromosome of the karyotypes world is made of, along its length: bands, thickness, the gap between its chromatids.

Persons differ in the regions that differ between people, cells in contraction, stain and focus, and each chromosome in length
and in where its bands lie. Lengths are pixels from the tip of the short arm. Nothing here bends or touches a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from partwise.data.worlds import ideogram
from partwise.data.worlds.draws import Draws, Floats, Ints, Keys, keys
from partwise.ops.iscn import TYPES

DARKNESS = {
    "gneg": 110.0,
    "gpos25": 138.0,
    "gpos50": 170.0,
    "gpos75": 200.0,
    "gpos100": 230.0,
    "acen": 165.0,
    "gvar": 165.0,
    "stalk": 80.0,
}
"""Grey values below the white ground, before contrast."""

SPAN = 0.53
"""The length of an average chromosome 1 in sides of the frame; with blur and bends its picture is 0.56 high."""
HALF = 0.0345
"""Half the width of an average chromosome, in sides of the frame."""
SOURCE_SIDE = 212.0
"""The frame in pixels of the microscope, in which blur is told: there a chromosome 1 is 119 high."""

PLAIN, VARIABLE, SATELLITE, STALK, SHORT = range(5)
"""What a person's variants do to a band: nothing; heterochromatin; p13, p12 and the rest of an acrocentric short arm."""


@dataclass(frozen=True, slots=True)
class Pattern:
    """The 24 types side by side, bands padded with empty ones: `widths` in units of ISCN, `darkness`, `thickness` as a share
    of the full width and `variant` `(24, K)`; `short` `(24,)`, how many bands the short arm has.
    """

    widths: Floats
    darkness: Floats
    thickness: Floats
    variant: Ints
    short: Ints


@cache
def pattern() -> Pattern:
    """The ideogram at the 400-band level as arrays.

    A band is as dark as the mean of what the 400-band table prints and what its rows of the 850-band table weigh in base
    pairs: a printed band has one stain, whatever it is made of. Against the mean profiles of real cells the mean of both
    correlates with 0.65, the printed stains with 0.62, the rows with 0.59.
    """
    most = max(len(bands) for bands in ideogram.bands_400().values())
    widths, darkness = np.zeros((len(TYPES), most)), np.zeros((len(TYPES), most))
    thickness, variant = np.ones((len(TYPES), most)), np.zeros((len(TYPES), most), dtype=np.int64)
    short = np.zeros(len(TYPES), dtype=np.int64)
    for place, kind in enumerate(TYPES):
        bands = ideogram.bands_400()[kind]
        short[place] = sum(band.arm == "p" for band in bands)
        for column, band in enumerate(bands):
            rows = ideogram.parts(kind, band)
            weighed = sum(DARKNESS[row.stain] * len(row) for row in rows) / sum(len(row) for row in rows)
            widths[place, column] = len(band)
            darkness[place, column] = 0.5 * (weighed + DARKNESS[band.stain])
            variant[place, column] = _variant(kind, band)
    thickness[variant == SATELLITE], thickness[variant == STALK], thickness[variant == SHORT] = 0.6, 0.4, 0.75
    return Pattern(widths, darkness, thickness, variant, short)


def _variant(kind: str, band: ideogram.Band) -> int:
    if kind in ideogram.ACROCENTRIC and band.arm == "p" and band.stain != "acen":
        return {"p13": SATELLITE, "p12": STALK}.get(band.name, SHORT)
    return VARIABLE if band.stain == "gvar" else PLAIN


@dataclass(frozen=True, slots=True)
class Look:
    """What the chromosomes of one cell share, `(m,)` each: contraction; half width in pixels; depth of the gap between
    chromatids, and how far they part towards the tips; contrast and lift of the stain; blur in pixels (a standard deviation),
    strength of grain (grey values) and of the stain's texture (a share); how much is bent; spread of lengths.
    """

    contraction: Floats
    half: Floats
    gap: Floats
    splay: Floats
    contrast: Floats
    lift: Floats
    blur: Floats
    grain: Floats
    texture: Floats
    bend: Floats
    spread: Floats


def draw_looks(cell_keys: Keys, size: int) -> Look:
    """The look of each cell; frames are `size` pixels wide."""
    draws = Draws(keys(cell_keys, 2))
    contraction = np.clip(1.0 + 0.14 * draws.bell(), 0.7, 1.3)
    half = HALF * size * draws.uniform(0.86, 1.16) / np.sqrt(contraction)
    gap = draws.unit()
    splay = draws.unit()
    # The picture's own pixels blur too, by 0.4 of one, in quadrature.
    blur = draws.uniform(0.8, 2.0) * size / SOURCE_SIDE
    return Look(
        contraction=contraction,
        half=half,
        gap=0.65 * gap,
        splay=0.3 * splay * splay * gap,
        contrast=draws.uniform(0.8, 1.15),
        lift=draws.uniform(-14.0, 16.0),
        blur=np.sqrt(blur * blur + 0.16),
        grain=draws.uniform(3.0, 6.0),
        texture=draws.uniform(0.05, 0.14),
        bend=draws.uniform(0.3, 1.0),
        spread=draws.uniform(0.05, 0.09),
    )


@dataclass(frozen=True, slots=True)
class Stripes:
    """m chromosomes along their length: `edges` of the bands in pixels `(m, K + 1)` from 0 on, `darkness` and `thickness`
    `(m, K)`; `centromere` in pixels, and by what share the `waist` there is thinner `(m,)`.
    """

    edges: Floats
    darkness: Floats
    thickness: Floats
    centromere: Floats
    waist: Floats

    @property
    def length(self) -> Floats:
        return self.edges[:, -1]


def draw_stripes(draws: Draws, kinds: Ints, person_keys: Keys, look: Look, size: int) -> Stripes:
    """Chromosomes of these types `(m,)`.

    Widths of bands vary and drift along the length, so that the place of a boundary has a standard deviation of 2 % of the
    length (up to 4 % in types with variable regions); the length itself varies by the cell's spread.
    """
    table = pattern()
    per_unit = SPAN * size / table.widths[0].sum()
    length_factor, stain_factor = _variants(person_keys, kinds)
    variant = table.variant[kinds]
    widths = table.widths[kinds] * np.take_along_axis(length_factor, variant, axis=1)
    total = _last(widths)
    middle = (widths.cumsum(axis=1) - 0.5 * widths) / total[:, None]
    first, second = 0.06 * draws.bell()[:, None], 0.05 * draws.bell()[:, None]
    drift = 1.0 + first * (1.0 - 2.0 * middle) + second * (1.0 - 6.0 * middle * (1.0 - middle))
    moved = widths * drift * _each_band(draws, widths, 0.83, 1.17)
    length = total * per_unit * look.contraction * (1.0 + look.spread * draws.bell())
    edges = np.zeros((len(kinds), widths.shape[1] + 1))
    edges[:, 1:] = moved.cumsum(axis=1) * (length / _last(moved))[:, None]

    stain = table.darkness[kinds] * np.take_along_axis(stain_factor, variant, axis=1)
    stain = stain + _each_band(draws, widths, -12.0, 12.0)
    # Dark bands are a little thicker than light ones.
    thickness = table.thickness[kinds] * (_each_band(draws, widths, 0.92, 1.08) + 0.0006 * (stain - 165.0))
    stain = (stain - 165.0) * look.contrast[:, None] + 165.0 + look.lift[:, None]
    # Crops come with their own exposure: the darkest band that is wide enough to be seen is as dark in one as in another.
    seen = np.where(np.diff(edges, axis=1) > 0.6 * look.blur[:, None], stain, 0.0).max(axis=1)
    stain = stain * (draws.uniform(250.0, 270.0) / np.maximum(seen, 60.0))[:, None]
    centromere = edges[np.arange(len(kinds)), table.short[kinds]]
    return Stripes(edges, np.clip(stain, 30.0, 252.0), thickness, centromere, draws.uniform(0.2, 0.5))


def _each_band(draws: Draws, widths: Floats, low: float, high: float) -> Floats:
    """A number for each band, `(m, K)`."""
    return np.stack([draws.uniform(low, high) for _ in range(widths.shape[1])], axis=1)


def _last(widths: Floats) -> Floats:
    """The sum of each row, added from left to right on every machine."""
    return widths.cumsum(axis=1)[:, -1]


def _variants(person_keys: Keys, kinds: Ints) -> tuple[Floats, Floats]:
    """Factors of length and of darkness by variant, `(m, 5)`: the same for both homologues of a person."""
    draws = Draws(keys(person_keys, 3, kinds))
    is_y = kinds == len(TYPES) - 1
    heterochromatin = np.where(is_y, draws.uniform(0.3, 1.15), draws.uniform(0.6, 1.6))
    ones = np.ones(len(kinds))
    length = [ones, heterochromatin, draws.uniform(0.4, 1.4), draws.uniform(0.3, 1.2), draws.uniform(0.5, 1.2)]
    stain = [ones, draws.uniform(0.85, 1.25), draws.uniform(0.7, 1.3), ones, draws.uniform(0.8, 1.2)]
    return np.stack(length, axis=1), np.stack(stain, axis=1)
