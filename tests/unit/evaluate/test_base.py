"""The table of suites, and that reading it costs nothing."""

import subprocess
import sys

import pytest

from partwise.config import UserError
from partwise.evaluate.base import SUITES, Evaluation, find_evaluator


def test_suites_are_found_by_name() -> None:
    for name in SUITES:
        assert find_evaluator(name).suite == name


def test_a_typo_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match=r"no suite 'localisation'.*did you mean 'localization'"):
        find_evaluator("localisation")
    with pytest.raises(
        UserError, match="expected one of classification, distilled, embedding, fewshot, karyotype, localization"
    ):
        find_evaluator("zzz")


def test_the_table_needs_no_torch() -> None:
    code = "import sys, partwise.evaluate.base; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_is_left_out_says_why() -> None:
    found = Evaluation()
    found.found("a/b", 1, n=3)
    found.leave_out("a/c", "there are no masks")
    assert found.metrics == {"a/b": 1.0}
    assert found.detail == {"a/b": {"n": 3}, "a/c": {"left_out": "there are no masks"}}
