"""Random numbers as a pure function of a key, and the few functions of them that the worlds need.

A world's picture is a function of (version, seed, split, index) alone, on every machine. So no generator with a history is
used, and nothing beyond the operations that IEEE 754 rounds exactly (+ - * / sqrt floor): the mathematical library's sine
differs in its last bit from one machine to the next.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def scramble(values: Keys) -> Keys:
    """The splitmix64 finaliser: a bijection of 64-bit words whose every output bit depends on every input bit."""
    mixed = np.array(values, dtype=np.uint64, ndmin=1)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def keys(*parts: int | NDArray[Any]) -> Keys:
    """One key for each row of the broadcast parts (integers or integer arrays, in this order)."""
    folded = np.zeros(1, dtype=np.uint64)
    for part in parts:
        folded = scramble((folded + _GOLDEN) ^ scramble(np.asarray(part).astype(np.uint64) + _GOLDEN))
    return folded


class Draws:
    """A row of numbers for each key: the n-th call gives the n-th number of every row, whichever rows are present."""

    BLOCK = 32
    """Numbers made at a time: one call on a block costs little more than one call on a number."""

    def __init__(self, row_keys: Keys) -> None:
        self.keys = row_keys
        self._count = 0
        self._block = np.empty((0, len(row_keys)))

    def __len__(self) -> int:
        return len(self.keys)

    def unit(self) -> Floats:
        """Uniform in [0, 1), float64 `(n,)`."""
        place = self._count % self.BLOCK
        if place == 0:
            counters = np.arange(self._count + 1, self._count + 1 + self.BLOCK, dtype=np.uint64)
            words = scramble(self.keys + (_GOLDEN * counters)[:, None])
            self._block = (words >> np.uint64(11)).astype(np.float64) * 2.0**-53
        self._count += 1
        return self._block[place]

    def uniform(self, low: float | Floats, high: float | Floats) -> Floats:
        """Uniform in [low, high); either bound may differ from row to row."""
        return low + (high - low) * self.unit()

    def bell(self) -> Floats:
        """Mean 0, standard deviation 1, within -3 and 3: the centred and scaled sum of three uniforms."""
        return 2.0 * (self.unit() + self.unit() + self.unit()) - 3.0

    def integer(self, count: int | Ints) -> Ints:
        """Uniform among 0 .. count - 1."""
        return np.floor(self.unit() * count).astype(np.int64)

    def flag(self, probability: float | Floats) -> NDArray[np.bool_]:
        """True with this probability."""
        return self.unit() < probability

    def weighted(self, weights: Floats) -> Ints:
        """An index for each row, by weights `(n, k)` that sum to one in each row."""
        thresholds = weights.cumsum(axis=1)[:, :-1]
        return (self.unit()[:, None] >= thresholds).sum(axis=1)


def permutations(row_keys: Keys, count: int) -> Ints:
    """A permutation of 0 .. count - 1 for each key, `(n, count)`."""
    words = scramble(row_keys[:, None] + _GOLDEN * np.arange(1, count + 1, dtype=np.uint64))
    return np.argsort(words, axis=1, kind="stable")


def cos_sin(turns: Floats) -> tuple[Floats, Floats]:
    """Cosine and sine of an angle in turns, within 1e-7, by a polynomial: the same bits on every machine."""
    return _sine(turns + 0.25), _sine(turns)


def _sine(turns: Floats) -> Floats:
    # Folded to a quarter turn either side of zero, where a short Taylor series suffices.
    wrapped = turns - np.floor(turns + 0.5)
    folded = np.where(np.abs(wrapped) > 0.25, np.sign(wrapped) * 0.5 - wrapped, wrapped)
    x = folded * (2.0 * 3.141592653589793)
    square = x * x
    series = np.ones_like(x)
    for n in (14, 12, 10, 8, 6, 4, 2):
        series = 1.0 - series * square / (n * (n + 1.0))
    return x * series


def hue_colour(hue: Floats, saturation: Floats) -> Floats:
    """Full-value colour of a hue in turns, `(n, 3)` in [0, 1]."""
    wheel = np.abs(np.mod(hue[:, None] * 6.0 + np.array([0.0, 4.0, 2.0]), 6.0) - 3.0) - 1.0
    return 1.0 - saturation[:, None] * (1.0 - np.clip(wheel, 0.0, 1.0))


def luminance(colour: Floats) -> Floats:
    """Perceived brightness of `(n, 3)` colours, `(n,)`."""
    return 0.3 * colour[:, 0] + 0.59 * colour[:, 1] + 0.11 * colour[:, 2]


def at_luminance(colour: Floats, target: Floats) -> Floats:
    """The colour darkened towards black or lightened towards white until its luminance is `target` `(n,)`."""
    light = luminance(colour)
    darker = colour * (target / light)[:, None]
    share = ((target - light) / np.maximum(1.0 - light, 1e-6))[:, None]
    return np.where((target <= light)[:, None], darker, colour + (1.0 - colour) * share)


def noise(size: int, periods: tuple[int, int], seed: int) -> NDArray[np.float64]:
    """Periodic value noise in [0, 1], `(size, size)`, with `periods` (vertical, horizontal) random values a side."""
    rows, columns = periods
    grid = Draws(keys(seed, np.arange(rows * columns))).unit().reshape(rows, columns)

    def weights(count: int) -> tuple[Ints, Ints, Floats]:
        place = (np.arange(size) + 0.5) * count / size
        low = np.floor(place).astype(np.int64)
        share = place - low
        return low % count, (low + 1) % count, share * share * (3.0 - 2.0 * share)

    top, bottom, down = weights(rows)
    left, right, across = weights(columns)
    lines = grid[:, left] + (grid[:, right] - grid[:, left]) * across
    return lines[top] + (lines[bottom] - lines[top]) * down[:, None]
