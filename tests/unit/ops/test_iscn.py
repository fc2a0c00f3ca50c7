"""The lines that cytogeneticists write, from counts and of several cells."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise.ops.iscn import TYPES, karyotype_text, lists_aneuploidy, mosaic_text


def counts(sex: str, **changes: int) -> list[int]:
    """A cell with these sex chromosomes; `c21=1` is one 21 more than two."""
    made = [2] * 22 + [sex.count("X"), sex.count("Y")]
    for name, change in changes.items():
        made[int(name[1:]) - 1] += change
    return made


@pytest.mark.parametrize(
    ("given_counts", "text"),
    [
        (counts("XX"), "46,XX"),
        (counts("XY"), "46,XY"),
        (counts("XX", c21=1), "47,XX,+21"),
        (counts("XX", c7=-1), "45,XX,-7"),
        (counts("X"), "45,X"),
        (counts("XXY"), "47,XXY"),
        (counts("XXY", c21=1), "48,XXY,+21"),
        (counts("XY", c21=1, c8=1), "48,XY,+8,+21"),
        (counts("XX", c8=1, c21=-1), "46,XX,+8,-21"),
        (counts("XYY"), "47,XYY"),
        (counts("XXX"), "47,XXX"),
        (counts("XX", c13=2), "48,XX,+13,+13"),
        (counts("XX", c13=-2), "44,XX,-13,-13"),
        (counts("Y"), "45,Y"),
        (counts(""), "44,?"),
        ([0] * 24, "0,?" + "".join(f",-{k},-{k}" for k in range(1, 23))),
    ],
)
def test_lines_of_one_cell(given_counts: list[int], text: str) -> None:
    assert karyotype_text(given_counts) == text


@given(st.lists(st.integers(0, 5), min_size=24, max_size=24))
def test_a_line_says_the_counts(given_counts: list[int]) -> None:
    """Read back with a pattern: nothing of the counts is lost, and no blank is written."""
    total, sex, *changes = karyotype_text(given_counts).split(",")
    assert int(total) == sum(given_counts)
    found = [2] * 22 + [sex.count("X"), sex.count("Y")]
    for change in changes:
        sign, name = re.fullmatch(r"([+-])(\d+)", change).groups()  # type: ignore[union-attr]
        found[TYPES.index(name)] += 1 if sign == "+" else -1
    assert found == given_counts
    order = [int(change[1:]) for change in changes]
    assert order == sorted(order)


@pytest.mark.parametrize("bad", [[2] * 23, [2] * 25, [*[2] * 23, -1]])
def test_counts_that_are_none(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 24"):
        karyotype_text(bad)


def test_lines_of_several_cells() -> None:
    cells = ["46,XX"] * 18 + ["47,XX,+21"] * 12
    assert mosaic_text(cells) == mosaic_text(reversed(cells)) == "mos 47,XX,+21[12]/46,XX[18]"
    assert mosaic_text(["45,X", "47,XXX", "45,X", "46,XX"]) == "mos 45,X[2]/47,XXX[1]/46,XX[1]"
    assert mosaic_text(["47,XX,+21"] * 2) == "47,XX,+21[2]"
    with pytest.raises(ValueError, match="no cells"):
        mosaic_text([])


def test_the_names_of_the_types() -> None:
    assert len(TYPES) == 24 and TYPES[0] == "1" and TYPES[20:] == ("21", "22", "X", "Y")


@pytest.mark.parametrize(
    "line",
    [
        "47,XX,+21",
        "47,XXY",
        "45,X",
        "48,XXY,+21",
        "46,XX,+8,-21",
        "mos 47,XX,+21[12]/46,XX[18]",
        "45,X[3]/46,XX[1]",
        "47, XY, +mar",
    ],
)
def test_lines_with_an_aneuploidy(line: str) -> None:
    assert lists_aneuploidy(line)


@pytest.mark.parametrize(
    "line",
    ["", "46,XX", "46,XY", "45,XX,-20", "44,XY,-3,-20", "44,?", "46,XX[20]", "46,XX,t(9;22)(q34;q11)", "46,XY,del(5q)"],
)
def test_lines_without(line: str) -> None:
    """A lost autosome says nothing: nobody can tell it from a piece that fell off the slide."""
    assert not lists_aneuploidy(line)
