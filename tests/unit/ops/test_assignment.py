"""Dispatch: the paper's rule step by step, and the optimal one against every assignment there is."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from partwise.ops.assignment import (
    FEMALE,
    MALE,
    NUM_TYPES,
    PRICE,
    CountWarning,
    X,
    Y,
    assign_places,
    choose_price,
    count_warnings,
    greedy_dispatch,
    is_healthy,
    optimal_dispatch,
    type_counts,
)

HEALTHY_MALE = [*range(22), *range(22), X, Y]
HEALTHY_FEMALE = [*range(22), *range(22), X, X]


def rows(*chosen: dict[int, float]) -> Tensor:
    """Probabilities with these values; what is missing to 1 is spread over the other types."""
    rest = [(1 - sum(values.values())) / (NUM_TYPES - len(values)) for values in chosen]
    return torch.tensor([[values.get(k, r) for k in range(24)] for values, r in zip(chosen, rest, strict=True)])


def blurred(types: Sequence[int], seed: int, noise: float = 2.0, sure: float = 6.0) -> Tensor:
    """Probabilities of a network that mostly knows these types."""
    generator = torch.Generator().manual_seed(seed)
    logits = noise * torch.randn(len(types), NUM_TYPES, generator=generator, dtype=torch.float64)
    logits[range(len(types)), list(types)] += sure
    return logits.softmax(dim=1)


def random_types(count: int, seed: int) -> list[int]:
    return torch.randint(NUM_TYPES, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


# -- the paper's rule --------------------------------------------------------------------------------------------------


def naive_greedy(probabilities: np.ndarray, threshold: float) -> list[int]:
    """The steps of the paper, type by type, with lists."""
    sets = {k: [i for i, row in enumerate(probabilities) if int(row.argmax()) == k] for k in range(24)}
    out: dict[int, list[int]] = {k: [] for k in range(24)}
    for k, members in sets.items():
        capacity = 1 if k == 23 else 2
        members.sort(key=lambda i: (-probabilities[i, k], i))
        if len(members) <= capacity:
            kept = members
        elif all(probabilities[i, k] > threshold for i in members[: capacity + 1]):
            kept = members[: capacity + 1]
        else:
            kept = members[:capacity]
        out[k] += kept
        for i in members[len(kept) :]:
            others = [j for j in range(24) if j != k]
            out[max(others, key=lambda j: (probabilities[i, j], -j))].append(i)
    place = {i: k for k, members in out.items() for i in members}
    return [place[i] for i in range(len(probabilities))]


@pytest.mark.parametrize(
    ("probabilities", "types"),
    [
        ([{20: 0.99}, {20: 0.95}, {20: 0.97}], [20, 20, 20]),
        ([{20: 0.99}, {20: 0.95}, {20: 0.60, 21: 0.35}], [20, 20, 21]),
        ([{20: 0.99}, {20: 0.98}, {20: 0.97}, {20: 0.96, 23: 0.03}], [20, 20, 20, 23]),
        ([{23: 0.95}, {23: 0.92}], [23, 23]),
        ([{23: 0.90, 20: 0.10}, {23: 0.95}], [20, 23]),
        ([{0: 0.95}, {0: 0.90}, {0: 0.50, 1: 0.40}, {1: 0.99}, {1: 0.98}], [0, 0, 1, 1, 1]),
    ],
)
def test_worked_examples(probabilities: list[dict[int, float]], types: list[int]) -> None:
    found = greedy_dispatch(rows(*probabilities))
    assert found.tolist() == types and found.dtype == torch.int64
    assert naive_greedy(rows(*probabilities).numpy(), 0.9) == types


def test_worked_examples_warn() -> None:
    """Of three 21s the first example warns, of three 2s the last one."""
    trisomy = greedy_dispatch(rows({20: 0.99}, {20: 0.95}, {20: 0.97}))
    assert CountWarning((20,), 3, 2) in count_warnings(trisomy)
    overfull = greedy_dispatch(rows({0: 0.95}, {0: 0.90}, {0: 0.50, 1: 0.40}, {1: 0.99}, {1: 0.98}))
    assert CountWarning((1,), 3, 2) in count_warnings(overfull)
    assert not any(0 in warning.types for warning in count_warnings(overfull))


def test_a_probability_of_exactly_the_threshold_is_not_above_it() -> None:
    three = [{4: 0.75, 7: 0.25}] * 3
    assert greedy_dispatch(rows(*three), threshold=0.75).tolist() == [4, 4, 7]
    assert greedy_dispatch(rows(*three), threshold=0.7499).tolist() == [4, 4, 4]


def test_within_capacity_confidence_does_not_matter() -> None:
    """And where the third is sure but the second is not, the second is in reach of the two best all the same."""
    assert greedy_dispatch(rows({3: 0.2}, {3: 0.1})).tolist() == [3, 3]
    assert greedy_dispatch(rows({3: 0.99}, {3: 0.3, 5: 0.2}, {3: 0.98})).tolist() == [3, 5, 3]


def test_a_tetrasomy_always_loses_one() -> None:
    """At most capacity + 1 of a type survive of those that chose it, however sure."""
    found = greedy_dispatch(rows(*[{9: 0.999 - i / 1e4, 2: 5e-4} for i in range(5)]))
    assert found.tolist() == [9, 9, 9, 2, 2]
    assert greedy_dispatch(rows({Y: 0.99}, {Y: 0.98, 6: 0.01}, {Y: 0.97, 6: 0.01})).tolist() == [Y, Y, 6]


def test_two_y_and_no_x_pass_silently() -> None:
    types = torch.tensor([*range(22), *range(22), Y, Y])
    assert greedy_dispatch(blurred(types.tolist(), 0, noise=0, sure=20)).tolist() == types.tolist()
    assert count_warnings(types) == ()
    assert count_warnings(types, sex_pattern=True) == (CountWarning((X,), 0, 1),)


@pytest.mark.parametrize("count", [0, 1, 2, 36, 45, 46, 47, 49, 130])
@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.9])
def test_greedy_step_by_step(count: int, threshold: float) -> None:
    for seed in range(8):
        probabilities = blurred(random_types(count, seed), seed, sure=4.0)
        found = greedy_dispatch(probabilities, threshold=threshold)
        assert found.tolist() == naive_greedy(probabilities.numpy(), threshold)


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(1, 4), st.integers(0, 2**32))
def test_greedy_with_many_equal_probabilities(count: int, levels: int, seed: int) -> None:
    """Few levels: ties within a type and between types, as the naive version breaks them."""
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.randint(0, levels + 1, (count, NUM_TYPES), generator=generator) / levels
    assert greedy_dispatch(probabilities, threshold=0.5).tolist() == naive_greedy(probabilities.numpy(), 0.5)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 60), st.integers(0, 2**32))
def test_the_order_of_chromosomes_does_not_matter(count: int, seed: int) -> None:
    probabilities = blurred(random_types(count, seed), seed, sure=3.0)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(greedy_dispatch(probabilities)[order], greedy_dispatch(probabilities[order]))
    assert torch.equal(optimal_dispatch(probabilities)[order], optimal_dispatch(probabilities[order]))


# -- counts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        (HEALTHY_MALE, ()),
        (HEALTHY_FEMALE, ()),
        ([*HEALTHY_MALE, 20], (CountWarning((20,), 3, 2),)),
        (HEALTHY_MALE[1:], (CountWarning((0,), 1, 2),)),
        (HEALTHY_MALE[:-1], (CountWarning((X, Y), 1, 2),)),
        ([*HEALTHY_FEMALE, Y], (CountWarning((X, Y), 3, 2),)),
        ([*HEALTHY_FEMALE[1:], X, 5], (CountWarning((0,), 1, 2), CountWarning((5,), 3, 2), CountWarning((X, Y), 3, 2))),
    ],
)
def test_warnings_of_counts(types: list[int], expected: tuple[CountWarning, ...]) -> None:
    order = torch.randperm(len(types), generator=torch.Generator().manual_seed(1))
    assert count_warnings(torch.tensor(types)[order]) == expected
    assert count_warnings(torch.tensor(types)[order], sex_pattern=True) == expected
    assert is_healthy(torch.tensor(types)) == (expected == ())


def test_an_empty_case_lacks_everything() -> None:
    warnings = count_warnings(torch.zeros(0, dtype=torch.long))
    assert len(warnings) == 23 and all(warning.count == 0 and warning.expected == 2 for warning in warnings)


def test_counts_of_types() -> None:
    types = random_types(70, 3)
    assert type_counts(torch.tensor(types)) == [Counter(types)[k] for k in range(24)]
    for strange in ([3, 24], [-1, 3]):
        with pytest.raises(ValueError, match="expected 0 to 23"):
            type_counts(torch.tensor(strange))


# -- the optimal one ---------------------------------------------------------------------------------------------------


def worth(scores: np.ndarray, types: Sequence[int], places: Sequence[int], extra: float, missing: float) -> float:
    """The sum of scores, less a price for each one too many and each one too few."""
    counts = Counter(types)
    surplus = sum(max(counts[k] - own, 0) for k, own in enumerate(places))
    lack = sum(max(own - counts[k], 0) for k, own in enumerate(places))
    return float(sum(scores[i, k] for i, k in enumerate(types))) - extra * surplus - missing * lack


@pytest.mark.parametrize("places", [(2, 1, 1), (2, 2, 0), (0, 0, 1), (0, 0, 0), (3, 1, 2)])
@pytest.mark.parametrize("count", [0, 1, 2, 4, 6])
@pytest.mark.parametrize(("extra", "missing"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.7, 0.3), (2.5, 1.5)])
def test_every_assignment_is_tried(places: tuple[int, ...], count: int, extra: float, missing: float) -> None:
    """Also that two prices act through their sum alone."""
    for seed in range(4):
        scores = torch.randn(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        ways = itertools.product(range(3), repeat=count)
        best = max(ways, key=lambda types: worth(scores.numpy(), types, places, extra, missing))
        types, value = assign_places(scores, places, price=extra + missing)
        assert types.tolist() == list(best)
        assert value == pytest.approx(worth(scores.numpy(), best, places, extra + missing, 0.0))


def naive_optimal(probabilities: Tensor, price: float) -> list[int]:
    """As many further places for every type as there are chromosomes, each at its price; both sexes."""
    scores = probabilities.double().log().numpy()
    count, found = len(scores), []
    for sex in ((2, 0), (1, 1)):
        places = [(k, 0.0) for k in range(22) for _ in range(2)]
        places += [(22 + k, 0.0) for k in (0, 1) for _ in range(sex[k])]
        places += [(k, price) for k in range(24) for _ in range(count)]
        cost = np.array([paid for _, paid in places]) - scores[:, [k for k, _ in places]]
        _, columns = linear_sum_assignment(cost)
        types = [places[column][0] for column in columns]
        found.append((sum(cost[i, column] for i, column in enumerate(columns)), types))
    return min(found, key=lambda pair: pair[0])[1]


@pytest.mark.parametrize("count", [0, 1, 2, 36, 46, 49, 60])
@pytest.mark.parametrize("price", [0.0, 1.0, 12.0])
def test_optimal_dispatch_place_by_place(count: int, price: float) -> None:
    for seed in range(3):
        probabilities = blurred(random_types(count, seed), seed, sure=3.0)
        found = optimal_dispatch(probabilities, price=price)
        assert found.dtype == torch.int64 and found.tolist() == naive_optimal(probabilities, price)


def test_without_a_price_every_chromosome_names_itself() -> None:
    probabilities = blurred(random_types(50, 0), 0)
    assert torch.equal(optimal_dispatch(probabilities, price=0.0), probabilities.argmax(dim=1))


@pytest.mark.parametrize("types", [HEALTHY_MALE, HEALTHY_FEMALE])
def test_at_any_great_price_46_chromosomes_fill_a_healthy_cell(types: list[int]) -> None:
    probabilities = blurred(types, 5, noise=4.0)
    assert (probabilities.argmax(dim=1) != torch.tensor(types)).any(), "the network alone is wrong somewhere"
    assert is_healthy(optimal_dispatch(probabilities, price=1e6))


def test_a_trisomy_among_47_is_free() -> None:
    types = [*HEALTHY_FEMALE, 20]
    assert optimal_dispatch(blurred(types, 1, noise=0.5), price=1e6).tolist() == types


def test_a_trisomy_beside_a_lost_piece_is_worth_its_price() -> None:
    """Three 21s and one 5 among 46: the least sure 21 moves to the open place of 5 where that costs less than the price."""
    types = torch.tensor([*HEALTHY_FEMALE, 20])
    probabilities = torch.full((47, NUM_TYPES), 1e-6)
    probabilities[range(47), types] = 0.99
    probabilities[46, 4] = 1e-3
    lost = torch.arange(47) != 4
    fall = math.log(0.99 / 1e-3)
    assert optimal_dispatch(probabilities[lost], price=fall + 0.01).tolist() == [*types[lost][:-1].tolist(), 4]
    assert optimal_dispatch(probabilities[lost], price=fall - 0.01).tolist() == types[lost].tolist()


def test_sex_is_the_better_of_both() -> None:
    """One X for sure and one chromosome between X and Y, in a cell whose autosomes are clear."""
    probabilities = blurred(HEALTHY_FEMALE, 0, noise=0, sure=20)
    for odds, last in ((0.6, X), (0.4, Y)):
        probabilities[-1] = 0.0
        probabilities[-1, X], probabilities[-1, Y] = odds, 1 - odds
        assert optimal_dispatch(probabilities).tolist() == [*HEALTHY_FEMALE[:-1], last]
    probabilities[-2:] = probabilities[-1]  # two that look like Y: one of them must be an X
    assert sorted(optimal_dispatch(probabilities)[-2:].tolist()) == [X, Y]


def test_probabilities_that_underflowed_are_no_obstacle() -> None:
    """Three chromosomes of type 8 without a doubt, and 43 others: one of the three fills the last place, whichever it is."""
    types = torch.tensor([8, *HEALTHY_MALE[1:]])
    probabilities = torch.nn.functional.one_hot(types, NUM_TYPES).float()
    assert torch.equal(optimal_dispatch(probabilities), types), "at the usual price nothing is worth it"
    assert is_healthy(optimal_dispatch(probabilities, price=1e4))


def test_the_places_of_healthy_cells() -> None:
    assert [k for k, places in enumerate(FEMALE) for _ in range(places)] == sorted(HEALTHY_FEMALE)
    assert [k for k, places in enumerate(MALE) for _ in range(places)] == sorted(HEALTHY_MALE)


@pytest.mark.parametrize("dispatch", [greedy_dispatch, optimal_dispatch])
@pytest.mark.parametrize(
    ("probabilities", "message"),
    [
        (torch.rand(46, 23), r"\(46, 23\): expected \(N, 24\)"),
        (torch.rand(24), r"expected \(N, 24\)"),
        (torch.full((2, 24), float("nan")), "finite"),
        (torch.full((2, 24), -0.1), "not negative"),
    ],
)
def test_what_is_no_probability_is_refused(dispatch: object, probabilities: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dispatch(probabilities)  # type: ignore[operator]


@pytest.mark.parametrize("price", [-1.0, float("inf"), float("nan")])
def test_a_price_is_a_number(price: float) -> None:
    with pytest.raises(ValueError, match="price"):
        optimal_dispatch(torch.rand(3, 24), price=price)
    with pytest.raises(ValueError, match="places of 2 types: expected 3"):
        assign_places(torch.rand(4, 3), (1, 1), price=1.0)


# -- choosing the price ------------------------------------------------------------------------------------------------


def naive_choice(cases: list[Tensor], labels: list[Tensor], candidates: Sequence[float], most: float) -> float:
    """Case by case with lists; first what is allowed, then what is best."""
    table = []
    for price in candidates:
        shares, alarms = [], []
        for case, label in zip(cases, labels, strict=True):
            named = naive_optimal(case, price)
            shares.append(sum(a == b for a, b in zip(named, label.tolist(), strict=True)) / len(named))
            if sorted(label.tolist()) in (sorted(HEALTHY_MALE), sorted(HEALTHY_FEMALE)):
                alarms.append(len(count_warnings(torch.tensor(named))) > 0)
        table.append((price, sum(shares) / len(shares), sum(alarms) / len(alarms) if alarms else 0.0))
    allowed = [row for row in table if row[2] <= most]
    if not allowed:
        fewest = min(alarms for *_, alarms in table)
        allowed = [row for row in table if row[2] == fewest]
    best = max(share for _, share, _ in allowed)
    return min(price for price, share, _ in allowed if share == pytest.approx(best, abs=1e-12))


def some_cases(seed: int, noise: float) -> tuple[list[Tensor], list[Tensor]]:
    lost = HEALTHY_MALE[1:]
    kinds = [HEALTHY_MALE, HEALTHY_FEMALE, [*HEALTHY_FEMALE, 20], [*lost, 17], lost, HEALTHY_MALE]
    cases = [blurred(types, seed * 10 + i, noise=noise) for i, types in enumerate(kinds)]
    return cases, [torch.tensor(types) for types in kinds]


@pytest.mark.parametrize(("most", "noise"), [(0.05, 1.5), (0.05, 3.0), (0.5, 3.0), (1.0, 3.0)])
def test_choice_of_the_price(most: float, noise: float) -> None:
    candidates = [8.0, 0.0, 1.0, 3.0]
    for seed in range(3):
        cases, labels = some_cases(seed, noise)
        chosen = choose_price(cases, labels, candidates, most_warnings=most)
        assert chosen == naive_choice(cases, labels, candidates, most)


def test_too_many_warnings_are_worse_than_mistakes() -> None:
    """Of a healthy cell with one chromosome read as another for sure: only the great price does not warn."""
    types = torch.tensor(HEALTHY_MALE)
    probabilities = blurred(HEALTHY_MALE, 0, noise=0, sure=20)
    probabilities[0] = blurred([9], 0, noise=0, sure=8)[0]
    assert choose_price([probabilities], [types], [1.0, 20.0]) == 20.0
    assert choose_price([probabilities], [types], [1.0, 2.0]) == 1.0, "all warn, all alike: the lowest"
    trisomy = torch.tensor([9, *HEALTHY_MALE[1:]])
    assert choose_price([probabilities], [trisomy], [1.0, 20.0]) == 1.0, "where no cell is healthy only accuracy counts"


def test_nothing_to_choose_from_is_refused() -> None:
    cases, labels = some_cases(0, 1.0)
    for bad in (([], [], [1.0]), (cases, labels, []), (cases, labels[1:], [1.0])):
        with pytest.raises(ValueError, match="expected some of each"):
            choose_price(*bad)
    with pytest.raises(ValueError, match="without chromosomes"):
        choose_price([torch.zeros(0, 24)], [torch.zeros(0, dtype=torch.long)], [PRICE])
