"""Keyed random numbers against slow second versions, and their independence of what else is drawn."""

import colorsys
import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from partwise.data.worlds import draws
from partwise.data.worlds.draws import Draws

WORD = 2**64


def naive_scramble(word: int) -> int:
    word ^= word >> 30
    word = word * 0xBF58476D1CE4E5B9 % WORD
    word ^= word >> 27
    word = word * 0x94D049BB133111EB % WORD
    return word ^ (word >> 31)


@given(st.lists(st.integers(0, WORD - 1), min_size=1, max_size=5))
def test_scramble_is_splitmix64(words: list[int]) -> None:
    found = draws.scramble(np.array(words, dtype=np.uint64))
    assert [int(word) for word in found] == [naive_scramble(word) for word in words]


def test_numbers_follow_from_key_and_count_alone() -> None:
    golden = 0x9E3779B97F4A7C15
    keys = draws.keys(3, np.arange(5))
    many, one = Draws(keys), Draws(keys[2:3])
    for count in range(1, 70):
        row = many.unit()
        assert row[2] == one.unit()[0]
        assert row[4] == (naive_scramble((int(keys[4]) + golden * count) % WORD) >> 11) / 2**53


def test_keys_depend_on_every_part_and_on_their_order() -> None:
    seen = {int(draws.keys(*parts)[0]) for parts in ((1, 2), (2, 1), (1, 3), (0, 2), (1, 2, 0), (1,))}
    assert len(seen) == 6
    assert len(np.unique(draws.keys(7, np.arange(10000)))) == 10000
    assert np.array_equal(draws.keys(7, np.arange(9))[4:], draws.keys(7, np.arange(4, 9)))


def test_distributions() -> None:
    d = Draws(draws.keys(5, np.arange(20000)))
    assert abs(d.uniform(2.0, 4.0).mean() - 3.0) < 0.02
    bell = d.bell()
    assert abs(bell.mean()) < 0.03 and abs(bell.std() - 1.0) < 0.02 and np.abs(bell).max() < 3.0
    assert np.allclose(np.bincount(d.integer(4)) / 20000, 0.25, atol=0.015)
    weights = np.tile([0.6, 0.1, 0.3], (20000, 1))
    assert np.allclose(np.bincount(d.weighted(weights)) / 20000, [0.6, 0.1, 0.3], atol=0.015)
    assert abs(d.flag(0.2).mean() - 0.2) < 0.015


def test_permutations_are_permutations_and_all_occur() -> None:
    orders = draws.permutations(draws.keys(9, np.arange(3000)), 3)
    assert np.array_equal(np.sort(orders, axis=1), np.tile(np.arange(3), (3000, 1)))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(counts) == 6 and counts.min() > 400


@given(st.floats(-50, 50))
def test_cos_sin(turns: float) -> None:
    cos, sin = draws.cos_sin(np.array([turns]))
    assert math.isclose(cos[0], math.cos(turns * math.tau), abs_tol=1e-7)
    assert math.isclose(sin[0], math.sin(turns * math.tau), abs_tol=1e-7)


@given(st.floats(0, 0.999), st.floats(0, 1))
def test_hue_colour(hue: float, saturation: float) -> None:
    found = draws.hue_colour(np.array([hue]), np.array([saturation]))[0]
    assert np.allclose(found, colorsys.hsv_to_rgb(hue, saturation, 1.0), atol=1e-9)


@given(st.floats(0, 0.999), st.floats(0, 1), st.floats(0.05, 0.95))
def test_at_luminance(hue: float, saturation: float, target: float) -> None:
    colour = draws.at_luminance(draws.hue_colour(np.array([hue]), np.array([saturation])), np.array([target]))
    assert math.isclose(draws.luminance(colour)[0], target, abs_tol=1e-9)
    assert colour.min() >= -1e-9 and colour.max() <= 1 + 1e-9


def test_noise_is_periodic_smooth_and_interpolates() -> None:
    field = draws.noise(32, (4, 8), 3)
    grid = Draws(draws.keys(3, np.arange(32))).unit().reshape(4, 8)
    for y, x in ((0, 0), (5, 31), (31, 17)):
        v, u = (y + 0.5) / 8, (x + 0.5) / 4
        top, left = int(v), int(u)
        b, a = (share * share * (3 - 2 * share) for share in (v - top, u - left))
        corners = [grid[(top + i) % 4, (left + j) % 8] for i in (0, 1) for j in (0, 1)]
        weights = [(1 - b) * (1 - a), (1 - b) * a, b * (1 - a), b * a]
        assert math.isclose(field[y, x], sum(c * w for c, w in zip(corners, weights, strict=True)))
    assert np.abs(field - np.roll(field, 1, axis=0)).max() < 0.25
