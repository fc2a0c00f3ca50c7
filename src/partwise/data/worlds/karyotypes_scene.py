"""What a picture of the karyotypes world shows: one chromosome in the middle, and pieces of others that a cut left there.

Everything is drawn from one key a picture, for many pictures at once; `karyotypes_draw` paints the result.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.draws import Draws, Floats, Ints, Keys, keys
from partwise.data.worlds.karyotypes_axis import Rows, draw_bends, extent, lay_axes
from partwise.data.worlds.karyotypes_body import Look, Stripes, draw_looks, draw_stripes
from partwise.ops.iscn import TYPES

BESIDE = 0.08
"""Share of pictures with a piece of a neighbour that touches the chromosome."""
AT_EDGE = 0.03
"""Share of pictures with a piece of a neighbour at the edge of the frame."""

Rowwise = TypeVar("Rowwise", Look, Stripes, Rows)


@dataclass(frozen=True, slots=True)
class Bodies:
    """m chromosomes or pieces, each whole rows of what it is made of.

    `owner` `(m,)` is the position of the picture; `first` and `last` bound the stretch that is seen; `down` is how many rows,
    `right` how many pixels the axis is moved; `slant` how many pixels along a band shifts for each pixel across; `bounds`
    `(m, 4)` are first row, row after the last, first column and column after the last, within the picture.
    """

    owner: Ints
    stripes: Stripes
    look: Look
    rows: Rows
    first: Floats
    last: Floats
    down: Ints
    right: Floats
    slant: Floats
    bounds: Ints


def draw_bodies(
    chromosome_keys: Keys, cell_keys: Keys, person_keys: Keys, kinds: Ints, size: int
) -> tuple[list[Bodies], Look]:
    """The chromosomes of n pictures, then the pieces beside them and at the edge; and the look of each picture's cell."""
    look = draw_looks(cell_keys, size)
    draws = Draws(keys(chromosome_keys, 0))
    stripes = draw_stripes(draws, kinds, person_keys, look, size)
    nothing = np.zeros(len(kinds))
    amount = look.bend * np.minimum(1.0, 0.4 + stripes.length / (0.8 * size))
    turning = 2.0 * stripes.centromere / stripes.length - 1.0
    rows = lay_axes(draw_bends(draws, amount, turning), nothing, stripes.length, size)
    lines, columns = extent(rows, nothing, stripes.length, look.half)
    down = (size - lines.sum(axis=1)) // 2
    right = 0.5 * (size - columns.sum(axis=1))
    main = _bodies(np.arange(len(kinds)), stripes, look, rows, (nothing, stripes.length), (down, right), draws, size)
    beside = _beside(Draws(keys(chromosome_keys, 1)), main, person_keys, size)
    at_edge = _at_edge(Draws(keys(chromosome_keys, 2)), look, person_keys, size)
    return [main, *beside, *at_edge], look


def _bodies(
    owner: Ints,
    stripes: Stripes,
    look: Look,
    rows: Rows,
    seen: tuple[Floats, Floats],
    moved: tuple[Ints, Floats],
    draws: Draws,
    size: int,
) -> Bodies:
    """With the bounds that follow: softness reaches two and a half standard deviations further."""
    (first, last), (down, right) = seen, moved
    margin = 2.5 * look.blur + 0.5
    # Splayed tips are wider.
    lines, columns = extent(rows, first - margin, last + margin, look.half * (1.0 + look.splay) + margin)
    low = np.stack([lines[:, 0] + down, np.floor(columns[:, 0] + right).astype(np.int64)], axis=1)
    high = np.stack([lines[:, 1] + down, np.ceil(columns[:, 1] + right).astype(np.int64)], axis=1)
    bounds = np.clip(np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], axis=1), 0, size)
    slant = 0.06 * draws.bell()
    return Bodies(owner, stripes, look, rows, first, last, down, right, slant, bounds)


def _taken(of: Rowwise, rows: NDArray[np.int64]) -> Rowwise:
    return type(of)(*(getattr(of, field.name)[rows] for field in fields(of)))


def _piece(
    draws: Draws, owner: Ints, look: Look, person_keys: Keys, longest: Floats, size: int
) -> tuple[Stripes, Rows, Floats, Floats]:
    """A stretch, at most `longest` pixels long, of a chromosome of the same cell, leaning as it likes."""
    stripes = draw_stripes(draws, draws.integer(len(TYPES)), person_keys[owner], look, size)
    long = np.minimum(draws.uniform(0.3, 1.0) * longest, stripes.length)
    first = draws.unit() * (stripes.length - long)
    bend = draw_bends(draws, 0.3 * look.bend, np.zeros(len(owner)))
    bend = replace(bend, tilt=draws.uniform(-0.6, 0.6))
    rows = lay_axes(bend, first, first + long, size)
    return stripes, rows, first, first + long


def _beside(draws: Draws, main: Bodies, person_keys: Keys, size: int) -> list[Bodies]:
    """Pieces that touch the flank of the picture's own chromosome."""
    owner = np.flatnonzero(draws.flag(BESIDE))
    if not len(owner):
        return []
    draws = Draws(keys(draws.keys[owner], 1))
    look = _taken(main.look, owner)
    # Never more than half of what it lies beside: nobody cuts out the wrong one.
    longest = np.minimum(3.0 * look.half, 0.5 * main.stripes.length[owner])
    stripes, rows, first, last = _piece(draws, owner, look, person_keys, longest, size)
    top, bottom = main.bounds[owner, 0], main.bounds[owner, 1]
    line = np.floor(top + draws.uniform(0.1, 0.9) * (bottom - top)).astype(np.int64)
    own = np.clip(line - main.down[owner], 0, size - 1)
    side = np.where(draws.flag(0.5), 1.0, -1.0)
    away = look.half * (1.0 / main.rows.cos[owner, own] + draws.uniform(0.4, 1.1))
    right = main.rows.x[owner, own] + main.right[owner] + side * away
    return [_bodies(owner, stripes, look, rows, (first, last), (line - size // 2, right), draws, size)]


def _at_edge(draws: Draws, look: Look, person_keys: Keys, size: int) -> list[Bodies]:
    """Pieces that the frame cuts."""
    owner = np.flatnonzero(draws.flag(AT_EDGE))
    if not len(owner):
        return []
    draws = Draws(keys(draws.keys[owner], 1))
    look = _taken(look, owner)
    stripes, rows, first, last = _piece(draws, owner, look, person_keys, 6.0 * look.half, size)
    side, along, into = draws.integer(4), draws.uniform(0.05, 0.95), draws.uniform(0.0, 0.04)
    edge = np.where(side % 2 == 0, into, 1.0 - into)
    across, down = np.where(side < 2, edge, along), np.where(side < 2, along, edge)
    line = np.floor(down * size).astype(np.int64)
    return [_bodies(owner, stripes, look, rows, (first, last), (line - size // 2, across * size), draws, size)]
