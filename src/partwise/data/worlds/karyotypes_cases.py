"""Which chromosomes the cells of the karyotypes world hold: persons, their karyotypes, their cells, and what was lost.

A person has one to three cells, and one karyotype that all of them share. A cell may have lost one chromosome on the slide;
that is no karyotype of anybody's. Nothing here is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.draws import Draws, Ints, Keys, keys
from partwise.ops.assignment import FEMALE, MALE, NUM_AUTOSOMES, NUM_TYPES, X, Y
from partwise.ops.iscn import karyotype_text

CELLS = (0.38, 0.59, 0.03)
"""Shares of persons with one, two and three cells: those of the 612 cells that the real packs come from."""

ANEUPLOIDIES = {"+21": 0.34, "+18": 0.16, "+13": 0.08, "XXY": 0.14, "XXX": 0.08, "XYY": 0.06, "X": 0.14}
"""What clinics meet, and shares among the persons who have any: near those of the real cells, rounded."""

SERIAL = np.uint64(40)
"""Splits are ranges of 2**40 numbers, so that none shares a person with another."""


@dataclass(frozen=True, slots=True)
class Cells:
    """n cells, those of one person next to each other.

    `person` int64 counts persons within the split and `number` the cells of a person; `constitution` int64 `(n, 24)`: how
    many of each type the person has; `lost` int64: the autosome that the cell lost a copy of, -1 for none; `person_keys`
    and `cell_keys` uint64.
    """

    person: Ints
    number: Ints
    constitution: Ints
    lost: Ints
    person_keys: Keys
    cell_keys: Keys

    def __len__(self) -> int:
        return len(self.person)

    @property
    def counts(self) -> Ints:
        """How many of each type the cell shows, int64 `(n, 24)`."""
        return self.constitution - (self.lost[:, None] == np.arange(NUM_TYPES))

    def karyotypes(self) -> list[str]:
        """The karyotype of each cell's person, such as "47,XX,+21", whatever the cell lost."""
        return [karyotype_text(row) for row in self.constitution.tolist()]


@dataclass(frozen=True, slots=True)
class Chromosomes:
    """The chromosomes of cells, in the order of cells, types and copies: position of the cell, type, number of the copy."""

    cell: Ints
    type: Ints
    copy: Ints


def draw_cells(world: Keys, split: int, count: int, *, aneuploid: float, incomplete: float) -> Cells:
    """The first `count` cells of a split (a number). A longer list begins with the same cells.

    `world` is one key. Each person has an aneuploidy with probability `aneuploid`; each cell lost a copy of one autosome
    with probability `incomplete`, every one alike but for that of which the person has three: what is listed is seen.
    """
    person = np.arange(count)
    serial = (np.uint64(split) << SERIAL) + person.astype(np.uint64)
    person_keys = keys(world, 1, serial)
    draws = Draws(keys(world, 2, serial))
    cells_each = 1 + draws.weighted(np.tile(CELLS, (count, 1)))
    constitution = _constitutions(draws, aneuploid)

    owner = np.repeat(person, cells_each)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(cells_each) - cells_each, cells_each)
    owner, number = owner[:count], number[:count]
    cell_keys = keys(person_keys[owner], 1, number) if count else person_keys
    lost = _losses(Draws(keys(cell_keys, 1)), constitution[owner], incomplete)
    return Cells(owner, number, constitution[owner], lost, person_keys[owner], cell_keys)


def _constitutions(draws: Draws, aneuploid: float) -> Ints:
    """How many chromosomes of each type a person has, `(n, 24)`."""
    male = draws.flag(0.5)
    changed = draws.flag(aneuploid)
    change = draws.weighted(np.tile(list(ANEUPLOIDIES.values()), (len(draws), 1)))
    normal = np.where(male[:, None], MALE, FEMALE)
    return np.where(changed[:, None], _changed(normal)[np.arange(len(draws)), change], normal)


def _changed(normal: Ints) -> Ints:
    """Each person with each of ANEUPLOIDIES, `(n, 7, 24)`: sex chromosomes replace the own, an autosome comes on top."""
    result = np.repeat(normal[:, None], len(ANEUPLOIDIES), axis=1)
    for place, name in enumerate(ANEUPLOIDIES):
        if name.startswith("+"):
            result[:, place, int(name) - 1] += 1
        else:
            result[:, place, X], result[:, place, Y] = name.count("X"), name.count("Y")
    return result


def _losses(draws: Draws, constitution: Ints, incomplete: float) -> Ints:
    """The autosome of which each cell lost a copy, -1 for none."""
    loses = draws.flag(incomplete)
    candidates: NDArray[np.bool_] = constitution[:, :NUM_AUTOSOMES] == 2
    nth = draws.integer(candidates.sum(axis=1))
    place = (candidates.cumsum(axis=1) == nth[:, None] + 1).argmax(axis=1)
    return np.where(loses, place, -1)


def chromosomes(counts: Ints) -> Chromosomes:
    """The chromosomes of cells with these counts `(n, 24)`."""
    cell, kind = np.nonzero(counts)
    each = counts[cell, kind]
    copy = np.arange(each.sum()) - np.repeat(each.cumsum() - each, each)
    return Chromosomes(np.repeat(cell, each), np.repeat(kind, each), copy)


def joined(pieces: list[Cells]) -> Cells:
    """Cells of several splits, one after the other."""
    return Cells(*(np.concatenate([getattr(piece, field.name) for piece in pieces]) for field in fields(Cells)))
