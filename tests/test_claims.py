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


def load(name: str, folder: Path = CLAIMS) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, folder / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


rules = load("paired")
tables = load("claim_tables", CLAIMS.parent)
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


def test_a_page_of_chromosomes_without_results_shows_the_papers_rows_alone() -> None:
    block = tables.cells_block(None)
    assert block.count("| *paper: ") == len(tables.TABLE_III) and block.endswith("No arm has been measured yet.")
    assert all(len(numbers) == len(tables.CELLS) for _, numbers in tables.TABLE_III.values())


def test_a_page_of_chromosomes_shows_means_over_seeds_beside_the_papers_rows() -> None:
    """As `varifocal.py --summary` writes it: a list of values a number, and numbers that an arm may lack."""
    arms = {
        "both": {"seeds": [0, 1], "karyotype/type_top1": [0.94, 0.96], "karyotype/polarity_top1": [0.98, 0.99]},
        "single_task": {"seeds": [0], "karyotype/type_top1": [0.93], "karyotype/polarity_top1": []},
    }
    difference = {"n": 2, "mean": 0.02, "low": -0.1, "high": 0.14, "p": 0.3, "p_holm": 0.3, "verdict": "not shown"}
    values = {"arms": arms, "primary": {}, "secondary": {"both - single_task": difference}}
    rows = [[cell.strip() for cell in row.strip("|").split("|")] for row in tables.cells_block(values).splitlines()]
    both, paper, alone = rows[2:5]
    assert both[:5] == ["both", "2", "0.950 ± 0.014", "", "0.985 ± 0.007"]
    assert paper[:3] == ["*paper: Varifocal-Net*", "", "0.989"]
    assert alone[:5] == ["single_task", "1", "0.930", "", ""] and all(row[0] != "both" for row in rows[5:])
    assert ["secondary", "both - single_task", "+0.0200", "-0.1000 to +0.1400", "2", "0.300", "not shown"] in rows
