"""The chromosomes of one case -> types, knowing how many of each a cell has: greedily as published, or optimally.

Types are 0 to 21 for the autosomes 1 to 22, then X and Y. A healthy cell has 46 places: two for each autosome, and XX or XY.
The number N of chromosomes is free. Not for names or the text of a karyotype: see iscn.py.

`greedy_dispatch` is the third stage of Varifocal-Net (Qin et al., 2019). `optimal_dispatch` is not in the paper. It maximises

    sum over chromosomes of log P(type) - price * (chromosomes beyond the places of their type)

over all ways to name them and over both sexes. There is one price, not one for an extra and one for a missing chromosome: in
every assignment of N chromosomes to 46 places, missing = extra + 46 - N, so two such prices act through their sum alone. It is
what is paid for one extra together with one missing chromosome, in nats; extras that N itself forces cost every
assignment the same. So a trisomy among 47 chromosomes is free, and one beside a lost piece has to be worth the price.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

NUM_TYPES = 24
NUM_AUTOSOMES = 22
X, Y = 22, 23
FEMALE, MALE = (*[2] * NUM_AUTOSOMES, 2, 0), (*[2] * NUM_AUTOSOMES, 1, 1)
"""Places of each type in a healthy cell."""

THRESHOLD = 0.9
"""The paper's: as sure as this of the chromosome beyond a type's capacity, and it stays."""
PRICE = 12.0
"""Where validation has not chosen: about -ln of the odds that a cell gains one given type (1 : 400) and loses another."""
PRICES = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0, 24.0, 32.0)
"""From no influence of the counts to hardly any of the network."""
MOST_WARNINGS = 0.05


@dataclass(frozen=True, slots=True)
class CountWarning:
    """A number that calls for a person's eye: `count` chromosomes of `types` together where a healthy cell has `expected`."""

    types: tuple[int, ...]
    count: int
    expected: int


def type_counts(types: Int[Tensor, " n"]) -> list[int]:
    """How many of each of the 24 types there are. Raises ValueError for a type outside 0 to 23."""
    strange = types[(types < 0) | (types >= NUM_TYPES)]
    if len(strange):
        raise ValueError(f"type {int(strange[0])}: expected 0 to {NUM_TYPES - 1}")
    return [int(count) for count in torch.bincount(types, minlength=NUM_TYPES).tolist()]


def count_warnings(types: Int[Tensor, " n"], *, sex_pattern: bool = False) -> tuple[CountWarning, ...]:
    """The possible numerical abnormalities: an autosome that is not there twice; X and Y that are not two in all.

    Step 3 of the paper's dispatch, which lets YY pass. `sex_pattern` is no part of it: it also warns of a pair that is
    neither XX nor XY, as X missing. Raises as `type_counts`.
    """
    counts = type_counts(types)
    found = [CountWarning((k,), counts[k], 2) for k in range(NUM_AUTOSOMES) if counts[k] != 2]
    if counts[X] + counts[Y] != 2:
        found.append(CountWarning((X, Y), counts[X] + counts[Y], 2))
    elif sex_pattern and counts[X] == 0:
        found.append(CountWarning((X,), 0, 1))
    return tuple(found)


def is_healthy(types: Int[Tensor, " n"]) -> bool:
    """Whether a cell has 46 chromosomes, two of each autosome, and XX or XY."""
    return not count_warnings(types, sex_pattern=True)


def _check(probabilities: Tensor) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] != NUM_TYPES:
        raise ValueError(f"probabilities of shape {tuple(probabilities.shape)}: expected (N, {NUM_TYPES})")
    if not (probabilities.isfinite() & (probabilities >= 0)).all():
        raise ValueError("probabilities must be finite and not negative")


# -- as published ------------------------------------------------------------------------------------------------------


def greedy_dispatch(probabilities: Float[Tensor, "n 24"], *, threshold: float = THRESHOLD) -> Int[Tensor, " n"]:
    """The type of every chromosome of a case by the paper's rule, int64; `count_warnings` of it are the paper's.

    Each goes to its most probable type. A type keeps its most probable ones: as many as its capacity (1 for Y, else 2), and
    one more where that one is above `threshold` too. The others go to their second most probable type, whatever that
    then holds. Of equal probabilities the earlier chromosome, or the lower type, counts as the higher.

    Raises ValueError for another shape, and for values that are no probabilities.
    """
    _check(probabilities)
    own, first = probabilities.max(dim=1)
    second = probabilities.scatter(1, first[:, None], -1).argmax(dim=1)
    capacity = torch.full_like(first, 2) - (first == Y).long()
    rank = _rank_among_same(first, own)
    # Sorted by probability, the last of `capacity + 1` is above the threshold exactly where all of them are.
    kept = (rank < capacity) | ((rank == capacity) & (own > threshold))
    return torch.where(kept, first, second)


def _rank_among_same(types: Int[Tensor, " n"], values: Float[Tensor, " n"]) -> Int[Tensor, " n"]:
    """How many of the same type have a higher value, or the same and stand earlier."""
    place = torch.arange(len(types), device=types.device)
    ahead = (values > values[:, None]) | ((values == values[:, None]) & (place < place[:, None]))
    return (ahead & (types == types[:, None])).sum(dim=1)


# -- optimal -----------------------------------------------------------------------------------------------------------


def optimal_dispatch(probabilities: Float[Tensor, "n 24"], *, price: float = PRICE) -> Int[Tensor, " n"]:
    """The types that maximise the objective above, int64: the better of XX and XY, XX where they are equal.

    `price` 0 names every chromosome by itself. Works on the host. Raises ValueError for another shape, for values that are
    no probabilities, and for a price that is negative or not finite.
    """
    _check(probabilities)
    # A probability that underflowed must stay comparable: minus infinity would forbid what may be the only way out.
    scores = probabilities.detach().double().clamp(min=torch.finfo(torch.float64).tiny).log()
    female, male = (assign_places(scores, places, price=price) for places in (FEMALE, MALE))
    types, _ = male if male[1] > female[1] else female
    return types


def assign_places(
    scores: Float[Tensor, "n k"], places: Sequence[int], *, price: float
) -> tuple[Int[Tensor, " n"], float]:
    """Types of n items with the highest sum of scores, less `price` for every item beyond the `places` of its type.

    Returns int64 types on the scores' device, and that sum. Any number may be beyond, so those compete with nobody
    and each has its own best type: an assignment problem of n rows and (all places + n) columns.

    Raises ValueError for a number of places for each type that does not fit, and for a price that is negative or not finite.
    """
    if len(places) != scores.shape[1]:
        raise ValueError(f"places of {len(places)} types: expected {scores.shape[1]}")
    if not (math.isfinite(price) and price >= 0):
        raise ValueError(f"price {price}: expected a finite number that is not negative")
    values = scores.detach().double().cpu().numpy()
    count = len(values)
    columns = np.repeat(np.arange(len(places)), places)
    best = np.repeat(values.argmax(axis=1)[:, None], count, axis=1)
    beyond = np.repeat(values.max(axis=1, keepdims=True) - price, count, axis=1)
    names = np.concatenate([np.broadcast_to(columns, (count, len(columns))), best], axis=1)
    gains = np.concatenate([values[:, columns], beyond], axis=1)
    chosen = linear_sum_assignment(gains, maximize=True)  # as many columns as rows and more: every row, in order
    return torch.from_numpy(names[chosen]).to(scores.device), float(gains[chosen].sum())


def choose_price(
    cases: Sequence[Float[Tensor, "_ 24"]],
    labels: Sequence[Int[Tensor, " _"]],
    candidates: Sequence[float] = PRICES,
    *,
    most_warnings: float = MOST_WARNINGS,
) -> float:
    """The price with the highest case accuracy on validation cases: probabilities and true types of each, one entry a case.

    Case accuracy is the mean over cases of the share of chromosomes named right. Only prices count at which at most the
    share `most_warnings` of the healthy cases is warned of; where there is none, those that warn of the fewest. Of equal
    ones the lowest: it keeps the most trisomies. Raises ValueError without candidates or cases, or for an empty case.
    """
    if not candidates or not cases or len(cases) != len(labels):
        raise ValueError(f"{len(candidates)} prices, {len(cases)} cases, {len(labels)} labels: expected some of each")
    if not all(len(label) for label in labels):
        raise ValueError("a case without chromosomes says nothing about prices")
    healthy = [is_healthy(label) for label in labels]

    def badness(price: float) -> tuple[float, float, float]:
        named = [optimal_dispatch(case, price=price) for case in cases]
        right = fmean((own == label).double().mean().item() for own, label in zip(named, labels, strict=True))
        warned = [bool(count_warnings(own)) for own, well in zip(named, healthy, strict=True) if well]
        return max(fmean(warned) - most_warnings, 0.0) if warned else 0.0, -right, price

    return min(candidates, key=badness)
