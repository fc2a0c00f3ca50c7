"""EyePACS: grades, persons, the table of test, and every mistake by its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import miniatures_chest

from partwise.config import UserError
from partwise.data.checks import check_headers
from partwise.data.readers.eyepacs import GRADES, EyePacs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniatures_chest.eyepacs(tmp_path / "set").root


def test_grades_and_persons(root: Path) -> None:
    source = EyePacs(root)
    assert source.classes == GRADES and [record.label for record in source.records] == [0, 2, 4, 0, 1]
    assert [record.group for record in source.records] == ["10", "10", "13", "13", "1"]
    assert [record.split for record in source.records] == ["train"] * 4 + ["test"]
    (root / "retinopathy_solution.csv").unlink()
    assert len(EyePacs(root)) == 4


def test_a_missing_picture_is_named(root: Path) -> None:
    (root / "train" / "10_right.jpeg").unlink()
    assert [(fault.kind, fault.file) for fault in check_headers(EyePacs(root))] == [("missing", "train/10_right.jpeg")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("15_left,5", "line 6: level '5'; expected 0 to 4"),
        ("15_left,", "line 6: level ''"),
        ("15left,1", "line 6: image '15left'; expected such as 10_left"),
        ("10_left,1", "line 6: 10_left stands there twice"),
    ],
)
def test_bad_rows_are_named(row: str, words: str, root: Path) -> None:
    with (root / "trainLabels.csv").open("a") as table:
        table.write(f"{row}\n")
    with pytest.raises(UserError, match=rf"trainLabels\.csv: {words}"):
        EyePacs(root)
