from collections.abc import Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.ops.iscn import TYPES
from partwise.report.case import Case, Chromosome, by_type, percent, unusual_types


def chromosome(type_: str, image: np.ndarray) -> Chromosome:
    return Chromosome(f"{type_}.png", image, type_, 0.97, ("1", 0.02), 1, 0.9, False, False, False)


def flat_case(types: Sequence[str]) -> Case:
    image = np.full((9, 3), 80, np.uint8)
    return Case("a case", tuple(chromosome(name, image) for name in types), (), "46,XY")


@given(st.lists(st.sampled_from(TYPES), max_size=60))
@settings(max_examples=50, deadline=None)
def test_counts_agree_with_counting_by_hand(types: list[str]) -> None:
    case = flat_case(types)
    expected = set()
    for name in map(str, range(1, 23)):
        if sum(1 for other in types if other == name) != 2:
            expected.add(name)
    if sum(1 for other in types if other in "XY") != 2:
        expected |= {"X", "Y"}
    assert unusual_types(case) == expected
    groups = by_type(case)
    assert sorted(chain.from_iterable(groups.values())) == list(range(len(types)))
    assert all(types[place] == name for name, places in groups.items() for place in places)


@pytest.mark.parametrize(
    ("probability", "words"),
    [(1.0, ">99 %"), (0.991, ">99 %"), (0.99, "99 %"), (0.989, "98 %"), (0.29, "29 %"), (0.01, "1 %"), (0.0, "<1 %")],
)
def test_percent_never_claims_certainty(probability: float, words: str) -> None:
    assert percent(probability) == words


def test_what_is_no_chromosome_is_refused() -> None:
    good = np.zeros((4, 4), np.uint8)
    with pytest.raises(AssertionError, match="no type of a chromosome: '23'"):
        chromosome("23", good)
    with pytest.raises(AssertionError, match="must be uint8"):
        chromosome("1", good.astype(float))
    with pytest.raises(AssertionError, match="turned where polarity is 0"):
        replace(chromosome("1", good), turned=True)


def test_those_the_network_put_there_stand_first_and_the_most_probable_left() -> None:
    case = flat_case(["5"] * 4)
    probabilities, moved = (0.4, 0.9, 0.6, 0.5), (True, False, False, True)
    found = tuple(
        replace(c, probability=p, moved=m) for c, p, m in zip(case.chromosomes, probabilities, moved, strict=True)
    )
    assert by_type(replace(case, chromosomes=found))["5"] == [1, 2, 3, 0]
