"""Two arms over the same seeds: the rule by which one beats the other (METRICS.md), and Holm's correction of several.

Not for choosing anything: what is compared was trained and chosen before.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from scipy import stats

ENOUGH, FEW = 5, 3
"""Seeds from which a difference may be called one, and from which it may be called seen."""
LEVEL = 0.95
Units = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Arm -> seed -> values of the unit."""


@dataclass(frozen=True)
class Paired:
    """The mean difference of `n` pairs, its interval by Student's t, and the two-sided p of no difference."""

    n: int
    mean: float
    low: float
    high: float
    p: float

    def plain(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def paired(first: Sequence[float], second: Sequence[float]) -> Paired:
    """`first - second`, pair by pair. Raises ValueError for fewer than two pairs or sequences of different lengths."""
    if len(first) != len(second) or len(first) < 2:
        raise ValueError(f"paired: {len(first)} and {len(second)} values; expected as many of each, two or more")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    count = len(differences)
    mean, error = statistics.fmean(differences), statistics.stdev(differences) / count**0.5
    if error == 0:  # arms that are alike: the t distribution has no width then
        return Paired(count, mean, mean, mean, float(mean == 0))
    low, high = stats.t.interval(LEVEL, count - 1, loc=mean, scale=error)
    return Paired(count, mean, float(low), float(high), float(2 * stats.t.sf(abs(mean) / error, count - 1)))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p of every hypothesis (Holm 1979): of m in rising order the greatest `(m - j) p_j` so far, j from 0."""
    adjusted: dict[str, float] = {}
    greatest = 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        greatest = max(greatest, min(1.0, (len(p) - place) * p[name]))
        adjusted[name] = greatest
    return {name: adjusted[name] for name in p}


def verdict(result: Paired, p: float | None = None) -> str:
    """`beats` or `is beaten` (5 seeds), `seen` or `the opposite seen` (3 or 4), else `not shown`; `p` is a corrected one."""
    chance = result.p if p is None else p
    if result.n < FEW or chance >= 1 - LEVEL:
        return "not shown"
    words = ("beats", "is beaten") if result.n >= ENOUGH else ("seen", "the opposite seen")
    return words[0] if result.mean > 0 else words[1]


def difference(found: Units, first: str, second: str, metric: str) -> Paired | None:
    """`first - second` over the seeds that both have; None where there are fewer than two or no such number."""
    one, two = found.get(first, {}), found.get(second, {})
    seeds = [seed for seed in sorted(one) if seed in two]
    pairs = [(one[seed]["metrics"].get(metric), two[seed]["metrics"].get(metric)) for seed in seeds]
    if len(pairs) < 2 or any(value is None for pair in pairs for value in pair):
        return None
    return paired([a for a, _ in pairs], [b for _, b in pairs])


def endpoints(primary: Mapping[str, Paired | None], secondary: Mapping[str, Paired | None]) -> dict[str, Any]:
    """Both groups for JSON, each with its verdict, the secondary ones with Holm's correction over those that there are."""
    kept = {name: result for name, result in secondary.items() if result is not None}
    corrected = holm({name: result.p for name, result in kept.items()})
    return {
        "primary": {
            name: result.plain() | {"verdict": verdict(result)}
            for name, result in primary.items()
            if result is not None
        },
        "secondary": {
            name: result.plain() | {"p_holm": corrected[name], "verdict": verdict(result, corrected[name])}
            for name, result in kept.items()
        },
    }


def endpoint_lines(values: Mapping[str, Any]) -> list[str]:
    """What `endpoints` gave, a line each."""
    return [
        f"{group}: {name}: {found['mean']:+.4f} [{found['low']:+.4f}, {found['high']:+.4f}], {found['verdict']}"
        for group in ("primary", "secondary")
        for name, found in values[group].items()
    ]
