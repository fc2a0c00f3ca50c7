from collections.abc import Callable
from pathlib import Path

import pytest

from partwise.config import UserError
from partwise.report.card import CLINICAL_WARNING, model_card

MakeRun = Callable[..., Path]


def test_a_card_says_what_the_model_is_for_and_what_it_reached(make_run: MakeRun) -> None:
    claim = {
        "metric": "classification/top1",
        "data": "CIFAR-10",
        "value": 0.9,
        "title": "CutMix",
        "year": 2019,
        "link": "https://example.org/a(b)",
    }
    card = model_card(make_run(changes={"optim.lr": (0.1, 0.4)}, paper=[claim]))
    assert card.startswith("# cutmix/demo\n")
    for words in (
        "## Intended use",
        "| 0.9125 | test · n = 2,000 · last weights | 0.9000 (CIFAR-10) |",
        "| optim.lr | 0.1 | 0.4 |",
    ):
        assert words in card, words
    assert "[CutMix](https://example.org/a%28b%29), 2019." in card
    assert CLINICAL_WARNING not in card


def test_a_clinical_card_warns(make_run: MakeRun) -> None:
    assert CLINICAL_WARNING in model_card(make_run(), clinical=True)


def test_a_card_of_an_unfinished_run_says_so(make_run: MakeRun) -> None:
    card = model_card(make_run(status="running", metrics={}))
    assert "not finished" in card and "No metric has been measured yet." in card


def test_text_from_files_cannot_break_the_table(make_run: MakeRun) -> None:
    card = model_card(make_run(metrics={"a|b\n<b>*x*": 0.5}))
    (row,) = [line for line in card.splitlines() if line.startswith("| a")]
    assert row.startswith(r"| a\|b &lt;b&gt;\*x\* | 0.5000 |")


def test_no_run_no_card(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        model_card(tmp_path / "nothing")
