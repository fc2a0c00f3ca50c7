"""The world of karyotypes: single chromosomes of whole cells, drawn from the human ideogram, upright on a white ground.

A record is one chromosome, its case the cell, its group the person; classes are the types "1" to "22", "X" and "Y". A picture
is a function of (version, seed, split, person, cell, type, copy) alone. The long arm points down (polarity 1) as in the real
packs: turning is the method's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Record, Source
from partwise.data.worlds.draws import Ints, Keys, keys
from partwise.data.worlds.karyotypes_cases import chromosomes, draw_cells, joined
from partwise.data.worlds.karyotypes_draw import Bytes, develop, paint
from partwise.data.worlds.karyotypes_scene import draw_bodies
from partwise.data.worlds.options import whole
from partwise.ops.iscn import TYPES

__all__ = ["VERSION", "Karyotypes"]

VERSION = 1
SPLITS = ("train", "val", "test")
CHUNK = 256
"""Pictures of 64 px drawn at once: the cost of a call is shared, and the canvas stays at 4 MB."""
UPRIGHT = 1


class Karyotypes(Source):
    """The source `karyotypes:`.

    Options: `size` of the square pictures; numbers of cells in `train`, `val` and `test`; `seed`; the share of persons with an
    `aneuploid` karyotype and that of cells that are `incomplete`, having lost an autosome; the world's `version`. Cells of a
    split do not depend on how many others there are, nor persons' shapes on the shares.

    `karyotypes` has the karyotype of each case's person, such as "47,XX,+21"; `incomplete` the cases that lost a chromosome,
    which their karyotype does not show.
    """

    kind = "karyotypes"
    name = "karyotypes"
    channels = 1
    classes = TYPES

    def __init__(
        self,
        *,
        size: int | str = 64,
        train: int | str = 100,
        val: int | str = 20,
        test: int | str = 40,
        seed: int | str = 0,
        aneuploid: float | str = 0.1,
        incomplete: float | str = 0.05,
        version: int | str = VERSION,
    ) -> None:
        self.size = whole("karyotypes", "size", size, 32, 512)
        counts = [
            whole("karyotypes", split, value, 0, 1_000_000)
            for split, value in zip(SPLITS, (train, val, test), strict=True)
        ]
        self.seed = whole("karyotypes", "seed", seed, 0, 2**31 - 1)
        self.shares = (_share("aneuploid", aneuploid), _share("incomplete", incomplete))
        self.version = whole("karyotypes", "version", version, VERSION, VERSION)
        if sum(counts) == 0:
            raise UserError("karyotypes: train, val and test are all 0; expected at least one cell")
        self.image_size = (self.size, self.size)
        world = keys(self.version, self.seed)
        self._cells = joined(
            [
                draw_cells(world, split, count, aneuploid=self.shares[0], incomplete=self.shares[1])
                for split, count in enumerate(counts)
            ]
        )
        self._chromosomes = chromosomes(self._cells.counts)
        splits = np.repeat(SPLITS, counts).tolist()
        cases = [
            f"{split}/{person:05d}.{number}"
            for split, person, number in zip(
                splits, self._cells.person.tolist(), self._cells.number.tolist(), strict=True
            )
        ]
        self.karyotypes: Mapping[str, str] = dict(zip(cases, self._cells.karyotypes(), strict=True))
        self.incomplete = frozenset(case for case, lost in zip(cases, self._cells.lost, strict=True) if lost >= 0)
        self.records = self._make_records(splits, cases)

    def _make_records(self, splits: list[str], cases: list[str]) -> list[Record]:
        own = self._chromosomes
        return [
            Record(
                id=f"{cases[cell]}/{TYPES[kind]}_{copy}",
                split=splits[cell],
                label=kind,
                group=cases[cell].partition(".")[0],
                case=cases[cell],
                polarity=UPRIGHT,
            )
            for cell, kind, copy in zip(own.cell.tolist(), own.type.tolist(), own.copy.tolist(), strict=True)
        ]

    def load_image(self, index: int) -> Tensor:
        return self.images([index])[0]

    def images(self, indices: Sequence[int]) -> Tensor:
        """uint8 `(n, 1, size, size)`; every picture the same, bit for bit, whatever else is asked for with it."""
        result = np.empty((len(indices), 1, self.size, self.size), dtype=np.uint8)
        step = max(1, CHUNK * 64 * 64 // (self.size * self.size))
        for start in range(0, len(indices), step):
            result[start : start + step] = self._draw(indices[start : start + step])
        return torch.from_numpy(result)

    def drawing_keys(self, indices: Sequence[int]) -> tuple[Keys, Keys, Keys, Ints]:
        """What pictures are drawn from: the key of each chromosome, of its cell and of its person, and its type."""
        own, cells, positions = self._chromosomes, self._cells, np.asarray(indices, dtype=np.int64)
        cell, kinds = own.cell[positions], own.type[positions]
        own_keys = keys(cells.cell_keys[cell], 3, kinds, own.copy[positions])
        return own_keys, cells.cell_keys[cell], cells.person_keys[cell], kinds

    def _draw(self, indices: Sequence[int]) -> Bytes:
        drawn_from = self.drawing_keys(indices)
        layers, look = draw_bodies(*drawn_from, self.size)
        canvas = np.zeros((len(indices), self.size, self.size), dtype=np.float32)
        for layer in layers:
            paint(canvas, layer)
        return develop(canvas, look, drawn_from[0])

    def fingerprint(self) -> str:
        """As for every source, with the options that change pixels and what is known of the cases."""
        own = repr((self.version, self.seed, self.size, sorted(self.karyotypes.items()), sorted(self.incomplete)))
        return hashlib.sha256((super().fingerprint() + own).encode()).hexdigest()[:16]


def _share(option: str, value: float | str) -> float:
    """An option as a number from 0 to 1. Raises UserError."""
    try:
        share = float(value) if not isinstance(value, bool) else -1.0
    except (TypeError, ValueError):
        share = -1.0
    if not 0.0 <= share <= 1.0:
        raise UserError(f"karyotypes: option {option}={value}; expected a number from 0 to 1")
    return share
