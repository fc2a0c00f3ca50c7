"""A case: the chromosomes of one cell as a network read them, with what their counts say. No drawing here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.ops.iscn import TYPES
from partwise.report.values import ChromosomePrediction

SEX = ("X", "Y")
NO_DEVICE = "Research software, not a medical device: a qualified person must check every chromosome before any use."
DRAFT = "Draft from the counts of this one cell; structural analysis not performed. One cell never makes a diagnosis."


@dataclass(frozen=True)
class Chromosome:
    """One chromosome and what the network says of it.

    `image` uint8 `(h, w)` grey, dark bands on a white ground, as the file holds it; `type` one of TYPES, `probability` that
    it is; `second` the most probable of the other types, with its probability: where dispatch `moved` the chromosome, that is
    the type the network had put first. `polarity` 1 stands for the long arm down, 0 for up; `turned` says that the karyogram
    turns it by 180 degrees, which it does where polarity is 0. `doubtful` asks for a person's eye.
    """

    file: str
    image: NDArray[np.uint8]
    type: str
    probability: float
    second: tuple[str, float]
    polarity: int
    polarity_probability: float
    turned: bool
    doubtful: bool
    moved: bool

    def __post_init__(self) -> None:
        assert self.type in TYPES and self.second[0] in TYPES, f"{self.file}: no type of a chromosome: {self.type!r}"
        assert self.image.dtype == np.uint8 and self.image.ndim == 2 and self.image.size, (
            f"{self.file}: a chromosome must be uint8 (h, w), not {self.image.dtype} {self.image.shape}"
        )
        assert self.turned == (self.polarity == 0), f"{self.file}: turned where polarity is 0, and only there"

    @property
    def upright(self) -> NDArray[np.uint8]:
        """The image with the long arm down: a chromosome of polarity 0 is turned by 180 degrees, never mirrored."""
        return np.ascontiguousarray(np.rot90(self.image, 2)) if self.turned else self.image


@dataclass(frozen=True)
class Read:
    """A chromosome as the network read it, before its cell is looked at; `image` as of Chromosome."""

    file: str
    image: NDArray[np.uint8]
    found: ChromosomePrediction


@dataclass(frozen=True)
class Case:
    """One cell: its chromosomes, `warnings` for people, `iscn` drafted from counts, `left_out` files with the reasons.

    `specimen` is whose cell it is, empty where that is not known.
    """

    name: str
    chromosomes: tuple[Chromosome, ...]
    warnings: tuple[str, ...]
    iscn: str
    left_out: tuple[tuple[str, str], ...] = ()
    specimen: str = ""

    @property
    def num_doubtful(self) -> int:
        return sum(chromosome.doubtful for chromosome in self.chromosomes)

    @property
    def num_moved(self) -> int:
        return sum(chromosome.moved for chromosome in self.chromosomes)

    @property
    def num_turned(self) -> int:
        return sum(chromosome.turned for chromosome in self.chromosomes)

    @property
    def lowest(self) -> float:
        """The smallest probability of a type in the case; 1 where it is empty."""
        return min((chromosome.probability for chromosome in self.chromosomes), default=1.0)


def by_type(case: Case) -> dict[str, list[int]]:
    """Type -> places of its chromosomes in the case: those the network put there itself first, the most probable left."""
    found: dict[str, list[int]] = {name: [] for name in TYPES}
    for place, chromosome in enumerate(case.chromosomes):
        found[chromosome.type].append(place)
    for places in found.values():
        places.sort(key=lambda place: (case.chromosomes[place].moved, -case.chromosomes[place].probability))
    return found


def unusual_types(case: Case) -> set[str]:
    """Types whose count calls for a warning: an autosome that is not there twice; X and Y where they are not two in all."""
    counts = Counter(chromosome.type for chromosome in case.chromosomes)
    autosomes = {name for name in TYPES if name not in SEX and counts[name] != 2}
    return autosomes if counts["X"] + counts["Y"] == 2 else autosomes | set(SEX)


def percent(probability: float) -> str:
    """A probability in whole percent that never claims certainty: `98 %`, `>99 %`, `<1 %`."""
    if probability > 0.99:
        return ">99 %"
    return "<1 %" if probability < 0.01 else f"{int(100 * probability + 1e-9)} %"
