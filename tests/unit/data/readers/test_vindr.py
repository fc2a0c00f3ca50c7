"""VinDr-CXR's votes and VinDr-RibCXR's polygons: what they become, DICOM and not, and every mistake by its place."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from tests import miniatures_chest
from tests.miniatures_chest import block, rib_box, vindr_row
from tests.miniatures_masks import write_lines

from partwise.config import UserError
from partwise.data.checks import check_headers
from partwise.data.readers.vindr import GLOBAL, LOCAL, RIBS, VinDr, VinDrRibs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniatures_chest.vindr(tmp_path / "set").root


@pytest.fixture
def ribs(tmp_path: Path) -> Path:
    return miniatures_chest.vindrribs(tmp_path / "set").root


def named(source: VinDr) -> dict[str, list[str]]:
    return {record.id: [source.classes[label] for label in record.labels or ()] for record in source.records}


def test_most_readers_decide(root: Path) -> None:
    source = VinDr(root)
    assert source.classes == GLOBAL and len(GLOBAL) == 6 and len(LOCAL) == 22
    assert named(source) == {"a1": ["No finding"], "b2": ["Pneumonia"], "c3": ["Tuberculosis"], "d4": ["No finding"]}
    assert [record.split for record in source.records] == ["train", "train", "test", "test"]
    assert [record.file for record in source.records][1:3] == ["train_jpeg/b2.jpg", "test_jpeg/c3.jpg"]


def test_one_reader_is_enough(root: Path) -> None:
    assert named(VinDr(root, votes="any"))["b2"] == ["COPD", "Pneumonia"]
    source = VinDr(root, votes="any", labels="local")
    assert source.classes == LOCAL and named(source) == {"a1": [], "b2": ["ILD"], "c3": ["Edema"], "d4": []}
    assert VinDr(root, labels="all").classes == (*LOCAL, *GLOBAL)


def test_two_of_four_are_not_most(root: Path) -> None:
    with (root / "annotations" / "image_labels_train.csv").open("a") as table:
        table.write(vindr_row("b2", "R9", ["COPD"]) + "\n")
    assert named(VinDr(root))["b2"] == []


def test_dicom_files_need_the_extra(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "train_jpeg").rename(root / "train")
    for file in (root / "train").iterdir():
        file.rename(file.with_suffix(".dicom"))
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"^vindr: train/a1\.dicom: pydicom is not installed"):
        VinDr(root)


def test_a_missing_picture_is_named(root: Path) -> None:
    (root / "train_jpeg" / "b2.jpg").unlink()
    assert [(fault.kind, fault.file) for fault in check_headers(VinDr(root))] == [("missing", "train_jpeg/b2.jpg")]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (vindr_row("a1", "R0", []), "line 8: a1 by reader 'R0' stands there twice"),
        (vindr_row("", "R0", []), "line 8: no picture"),
        (vindr_row("e5", "R0", []).replace(",0", ",2"), "line 8: COPD '2'; expected 0 or 1"),
    ],
)
def test_bad_rows_are_named(row: str, words: str, root: Path) -> None:
    with (root / "annotations" / "image_labels_train.csv").open("a") as table:
        table.write(f"{row}\n")
    with pytest.raises(UserError, match=rf"image_labels_train\.csv: {words}"):
        VinDr(root)


def test_a_missing_column_is_named(root: Path) -> None:
    table = root / "annotations" / "image_labels_test.csv"
    table.write_text(table.read_text().replace("Lung tumor", "Tumor"))
    assert len(VinDr(root, labels="local")) == 4
    with pytest.raises(UserError, match=r"image_labels_test\.csv: no column 'Lung tumor'"):
        VinDr(root)


def test_ribs(ribs: Path) -> None:
    source = VinDrRibs(ribs)
    assert source.classes == RIBS and RIBS[0] == "R1" and RIBS[-1] == "L10" and len(RIBS) == 20
    assert [record.labels for record in source.records] == [tuple(range(20)), tuple(range(19)), tuple(range(20))]
    assert [record.split for record in source.records] == ["train", "train", "test"]
    assert source.records[2].file == "val/img/VinDr_RibCXR_val_000.png"
    mask, lacking = source.load(0).mask, source.load(1).mask
    assert mask is not None and lacking is not None
    boxes = {value: block(rib_box(value)) for value in range(1, 21)}
    for value, inside in boxes.items():
        later = (
            sum(boxes[other].astype(int) for other in range(value + 1, 21)) if value < 20 else 0 * inside.astype(int)
        )
        assert ((mask == value).numpy() == inside & (later == 0)).all()
    assert (boxes[1] & boxes[2]).any()
    assert 20 not in lacking.unique().tolist()


def test_a_missing_picture_of_ribs_is_named(ribs: Path) -> None:
    (ribs / "Data" / "val" / "img" / "VinDr_RibCXR_val_000.png").unlink()
    faults = check_headers(VinDrRibs(ribs))
    assert [(fault.kind, fault.file) for fault in faults] == [("missing", "data/val/img/VinDr_RibCXR_val_000.png")]


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("R3", {"0": [{"x": 1}], "1": "None"}, r"data/train/img/VinDr_RibCXR_train_000\.png: R3 is no list of x and y"),
        ("R3", {"0": [{"x": "a", "y": 2}], "1": "None"}, ".*R3 is no list of x and y"),
        ("R3", None, "not annotations of ribs"),
        ("img", ["a.png"], "not annotations of ribs"),
    ],
)
def test_faulty_ribs_are_named(key: str, value: object, words: str, ribs: Path) -> None:
    file = ribs / "Data" / "train" / "Vindr_RibCXR_train_mask.json"
    content = json.loads(file.read_text())
    content[key] = value
    if value is None:
        del content[key]
    write_lines(file, [json.dumps(content)])
    with pytest.raises(UserError, match=rf"Vindr_RibCXR_train_mask\.json: {words}"):
        VinDrRibs(ribs)
    file.write_text("{")
    with pytest.raises(UserError, match=r"Vindr_RibCXR_train_mask\.json: not annotations of ribs"):
        VinDrRibs(ribs)
