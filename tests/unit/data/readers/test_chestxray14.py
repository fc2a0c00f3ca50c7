"""ChestX-ray14: findings, patients, the official lists, and every mistake by its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests import miniatures_chest
from tests.miniatures import write_picture
from tests.miniatures_masks import write_lines

from partwise.config import UserError
from partwise.data.checks import check_headers
from partwise.data.findings import group_faults
from partwise.data.readers.chestxray14 import FINDINGS, ChestXray14


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniatures_chest.chestxray14(tmp_path / "set").root


def test_findings_and_patients(root: Path) -> None:
    source = ChestXray14(root)
    assert source.classes == FINDINGS and len(FINDINGS) == 14 and source.multi_label
    assert [record.labels for record in source.records] == [(1,), (1, 10), (), (13,), ()]
    assert [record.group for record in source.records] == ["1", "1", "2", "3", "4"]
    assert [record.split for record in source.records] == ["train"] * 3 + ["test"] * 2
    assert source.records[3].file == "images_002/images/00000003_000.png"
    assert group_faults(source) == [] and source.load(2).image.shape == (3, 24, 32)


def test_pictures_in_one_folder_and_the_corrected_table(root: Path) -> None:
    for folder in ("images_001", "images_002"):
        for file in (root / folder / "images").iterdir():
            (root / "images").mkdir(exist_ok=True)
            file.rename(root / "images" / file.name)
    table = (root / "Data_Entry_2017.csv").read_text()
    (root / "Data_Entry_2017_v2020.csv").write_text(table.replace("Hernia", "Mass|Nodule"))
    source = ChestXray14(root)
    assert source.records[3].labels == (4, 5) and source.records[0].file == "images/00000001_000.png"
    assert check_headers(source) == []


def test_lists_say_what_is_read(root: Path) -> None:
    write_lines(root / "test_list.txt", ["00000003_000.png 0 0 0 0 0 0 0 0 0 0 0 0 0 1"])
    write_lines(root / "val_list.txt", ["00000002_000.png"])
    source = ChestXray14(root)
    assert [record.split for record in source.records] == ["train", "train", "val", "test"]
    assert source.left_out == {"00000004_000.png": "in no list"}
    for name in ("train_val_list.txt", "val_list.txt", "test_list.txt"):
        (root / name).unlink()
    source = ChestXray14(root)
    assert {record.split for record in source.records} == {""} and len(source) == 5 and source.left_out == {}


def test_faulty_lists_are_named(root: Path) -> None:
    write_lines(root / "val_list.txt", ["00000009_000.png"])
    with pytest.raises(UserError, match=r"val_list\.txt: '00000009_000\.png' is not in the table"):
        ChestXray14(root)
    write_lines(root / "val_list.txt", ["00000003_000.png"])
    with pytest.raises(UserError, match=r"test_list\.txt: '00000003_000\.png' is in the list of val too"):
        ChestXray14(root)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (
            "9.png,Cardiomegalie,0,9,1,1,1,",
            "line 7: finding 'Cardiomegalie' in 'Cardiomegalie'; expected No Finding, or",
        ),
        ("9.png,Mass|No Finding,0,9,1,1,1,", "line 7: finding 'No Finding' in"),
        ("9.png,,0,9,1,1,1,", "line 7: finding ''"),
        ("9.png,Mass,0,,1,1,1,", "line 7: no picture or no patient"),
        (",Mass,0,9,1,1,1,", "line 7: no picture or no patient"),
        ("00000001_000.png,Mass,0,9,1,1,1,", r"line 7: 00000001_000\.png stands there twice"),
        ("9.png,Mass", "line 7: not as many cells"),
    ],
)
def test_bad_rows_are_named(row: str, words: str, root: Path) -> None:
    with (root / "Data_Entry_2017.csv").open("a") as table:
        table.write(f"{row}\n")
    with pytest.raises(UserError, match=rf"Data_Entry_2017\.csv: {words}"):
        ChestXray14(root)


def test_a_missing_picture_is_named(root: Path) -> None:
    (root / "images_001" / "images" / "00000001_000.png").unlink()
    assert [(fault.kind, fault.file) for fault in check_headers(ChestXray14(root))] == [
        ("missing", "images/00000001_000.png")
    ]
    write_picture(root / "images" / "00000001_000.png", 1)
    assert check_headers(ChestXray14(root)) == []
