"""The rules by which a claim is called shown: pairs against scipy's paired test, Holm's correction against its definition."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

CLAIMS = Path(__file__).resolve().parents[1] / "benchmarks" / "claims"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, CLAIMS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


rules = load("paired")
FIRST, SECOND = [0.41, 0.44, 0.40, 0.47, 0.42], [0.39, 0.40, 0.41, 0.43, 0.40]


def test_pairs_are_those_of_scipy() -> None:
    found, expected = rules.paired(FIRST, SECOND), stats.ttest_rel(FIRST, SECOND)
    interval = expected.confidence_interval(0.95)
    assert (found.n, found.mean) == (5, pytest.approx(0.022))
    assert (found.low, found.high) == (pytest.approx(interval.low), pytest.approx(interval.high))
    assert found.p == pytest.approx(expected.pvalue)


def test_pairs_without_spread() -> None:
    assert rules.paired([2.0, 3.0], [1.0, 2.0]).p == 0
    assert rules.paired([1.0, 2.0], [1.0, 2.0]).p == 1


@pytest.mark.parametrize(("first", "second"), [([1.0], [2.0]), ([1.0, 2.0], [1.0, 2.0, 3.0])])
def test_what_is_no_pair_is_refused(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="as many of each"):
        rules.paired(first, second)


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0, 1), min_size=1, max_size=6))
def test_holm_rejects_what_its_steps_reject(p: dict[str, float]) -> None:
    """The step-down procedure itself: the smallest p against level / m, the next against level / (m - 1), until one fails."""
    adjusted = rules.holm(p)
    for level in (0.01, 0.05, 0.2, 0.5):
        rejected: set[str] = set()
        for place, name in enumerate(sorted(p, key=lambda name: p[name])):
            if p[name] * (len(p) - place) > level:
                break
            rejected.add(name)
        assert {name for name in p if adjusted[name] <= level} == rejected


@pytest.mark.parametrize(
    ("count", "first", "expected"),
    [
        (5, FIRST, "not shown"),
        (5, [0.42, 0.44, 0.44, 0.47, 0.43], "beats"),
        (3, [0.42, 0.44, 0.44], "seen"),
        (2, [0.42, 0.43], "not shown"),
    ],
)
def test_words_need_seeds(count: int, first: list[float], expected: str) -> None:
    result = rules.paired(first, SECOND[:count])
    assert rules.verdict(result) == expected
    opposite = {"beats": "is beaten", "seen": "the opposite seen"}.get(expected, expected)
    assert rules.verdict(rules.paired(SECOND[:count], first)) == opposite
    assert rules.verdict(result, p=0.2) == "not shown"
