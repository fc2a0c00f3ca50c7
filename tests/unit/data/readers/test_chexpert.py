"""CheXpert: what becomes of uncertain labels and lateral views, patients, and every mistake by its line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import miniatures_chest

from partwise.config import UserError
from partwise.data.checks import check_headers
from partwise.data.readers.chexpert import COMPETITION, OBSERVATIONS, CheXpert, Uncertain


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniatures_chest.chexpert(tmp_path / "set").root


def named(source: CheXpert) -> list[list[str]]:
    return [[source.classes[label] for label in record.labels or ()] for record in source.records]


@pytest.mark.parametrize(
    ("uncertain", "wanted"),
    [
        ("zeros", [["Edema"], [], [], ["No Finding"]]),
        ("ones", [["Edema", "Fracture"], ["Cardiomegaly"], [], ["No Finding"]]),
        ("left_out", [[], ["No Finding"]]),
    ],
)
def test_uncertain_labels(uncertain: Uncertain, wanted: list[list[str]], root: Path) -> None:
    source = CheXpert(root, uncertain=uncertain)
    assert source.classes == OBSERVATIONS and len(OBSERVATIONS) == 14 and named(source) == wanted
    reasons = {"train/patient00002/study1/view2_lateral.jpg": "a lateral view"}
    if uncertain == "left_out":
        reasons["train/patient00001/study1/view1_frontal.jpg"] = "uncertain: Fracture"
        reasons["train/patient00002/study1/view1_frontal.jpg"] = "uncertain: Cardiomegaly"
    assert source.left_out == reasons


def test_the_competition(root: Path) -> None:
    source = CheXpert(root, labels="competition", uncertain="left_out")
    assert source.classes == COMPETITION
    assert named(source) == [["Edema"], [], []]  # a fracture that is uncertain is not asked for


def test_views_patients_and_splits(root: Path) -> None:
    source = CheXpert(root, view="all")
    assert [record.group for record in source.records] == [f"patient{n:05d}" for n in (1, 2, 2, 3, 64541)]
    assert [record.split for record in source.records] == ["train"] * 4 + ["val"]
    assert source.records[0].file == "train/patient00001/study1/view1_frontal.jpg"
    assert check_headers(source) == [] and source.left_out == {}
    with pytest.raises(UserError, match="all 1 pictures are left out by view=frontal"):
        (root / "CheXpert-v1.0-small" / "valid.csv").unlink()
        table = root / "CheXpert-v1.0-small" / "train.csv"
        lines = table.read_text().splitlines()
        table.write_text("\n".join([lines[0], lines[3]]))
        CheXpert(root)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (",Frontal,AP,,,,,,1.0", ",Frontal,AP,,,,,,2.0", r"line 2: Edema '2\.0'; expected 1, 0, -1 or nothing"),
        (",Frontal,AP,,,,,,1.0", ",Frontal,AP,,,,,,yes", "line 2: Edema 'yes'"),
        (
            "view1_frontal.jpg,Female,68,Frontal",
            "view1_frontal.jpg,Female,68,Oblique",
            "line 2: Frontal/Lateral 'Oblique'",
        ),
        (
            "small/train/patient00001",
            "small/patients/patient00001",
            "line 2: Path 'CheXpert.*expected .../train/patient",
        ),
        ("patient00002/study1/view1", "patient00001/study1/view1", "line 3: .* stands there twice"),
        ("Frontal/Lateral", "View", "no column 'Frontal/Lateral'"),
    ],
)
def test_bad_rows_are_named(old: str, new: str, words: str, root: Path) -> None:
    table = root / "CheXpert-v1.0-small" / "train.csv"
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError, match=rf"train\.csv: {words}"):
        CheXpert(root)
