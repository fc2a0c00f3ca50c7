"""The bands of the human chromosomes: where each begins and ends, and how dark Giemsa stains it.

Two public tables (both CC0) stand beside this module. `cytoband_hg38.tsv` has the 850-band level in base pairs of GRCh38.
`ideogram_400.tsv` has the 400-band level, what a routine cell shows, in the units in which ISCN draws chromosomes: these
follow measured lengths more closely than base pairs do (gene-rich 19 and 22 are longer under the microscope than in base
pairs), and draw the short arms of 13 to 15, 21 and 22 longer than either. Each band of 400 is a union of rows of 850, by name.

Not for how dark a stain is in a picture, nor for any variation: see karyotypes_body.py.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType

from partwise.ops.iscn import TYPES

STAINS = ("gneg", "gpos25", "gpos50", "gpos75", "gpos100", "acen", "gvar", "stalk")
"""gneg does not stain and gposN does, the more the larger N; acen lies at the centromere, gvar differs between people."""

ACROCENTRIC = ("13", "14", "15", "21", "22")
"""Types whose short arm is a satellite (p13) on a stalk (p12)."""


@dataclass(frozen=True, slots=True)
class Band:
    """A stretch of a chromosome, counted from the tip of the short arm; half-open. The name's first letter is the arm."""

    name: str
    start: int
    end: int
    stain: str

    @property
    def arm(self) -> str:
        return self.name[0]

    def __len__(self) -> int:
        return self.end - self.start


Ideogram = Mapping[str, tuple[Band, ...]]
"""Type -> its bands from the tip of the short arm to that of the long arm, without gaps."""


@cache
def bands_850() -> Ideogram:
    """862 bands of the 24 types, in base pairs."""
    return _read("cytoband_hg38.tsv")


@cache
def bands_400() -> Ideogram:
    """393 bands of the 24 types, in the units of ISCN's drawings."""
    return _read("ideogram_400.tsv")


def _read(file: str) -> Ideogram:
    text = files("partwise.data.worlds").joinpath(file).read_text(encoding="utf-8")
    found: dict[str, list[Band]] = {name: [] for name in TYPES}
    for row in csv.DictReader((line for line in text.splitlines() if not line.startswith("#")), delimiter="\t"):
        band = Band(row["band"], int(row["start"]), int(row["end"]), row["stain"])
        found[row["chrom"].removeprefix("chr")].append(band)
    return MappingProxyType({name: tuple(bands) for name, bands in found.items()})


def length(bands: tuple[Band, ...]) -> int:
    """Of a whole chromosome, in the units of its table."""
    return bands[-1].end


def centromere(bands: tuple[Band, ...]) -> int:
    """Where the short arm ends and the long arm begins."""
    return next(band.start for band in bands if band.arm == "q")


def parts(kind: str, band: Band) -> tuple[Band, ...]:
    """The rows at 850 of which a band at 400 of this type is made: those whose names begin with its own."""
    return tuple(row for row in bands_850()[kind] if row.name.startswith(band.name))
