"""ChestX-Det: findings as labels, boxes and masks, all as one class, and every mistake by its picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tests import miniatures_chest
from tests.miniatures_chest import block

from partwise.config import UserError
from partwise.data.checks import check_headers
from partwise.data.readers.chestxdet import FINDINGS, ChestXDet


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniatures_chest.chestxdet(tmp_path / "set").root


def test_findings(root: Path) -> None:
    source = ChestXDet(root)
    assert source.classes == FINDINGS and len(FINDINGS) == 13
    assert [record.labels for record in source.records] == [(3, 10), (), (8, 11)]
    assert [record.split for record in source.records] == ["train", "train", "test"]
    assert [record.file for record in source.records] == ["train_data/36.png", "train_data/37.png", "test/40.png"]
    assert source.records[0].boxes == ((6, 6, 10, 10), (2, 2, 20, 20))
    assert source.records[2].boxes == ((3, 3, 9, 9),)  # the one without width is left out


def test_the_small_one_on_the_large_one_is_seen(root: Path) -> None:
    source = ChestXDet(root)
    mask, healthy = source.load(0).mask, source.load(1).mask
    assert mask is not None and healthy is not None and not healthy.any()
    nodule = block((6, 6, 10, 10))
    assert ((mask == FINDINGS.index("Nodule") + 1).numpy() == nodule).all()
    assert ((mask == FINDINGS.index("Consolidation") + 1).numpy() == (block((2, 2, 20, 20)) & ~nodule)).all()


def test_all_as_one(root: Path) -> None:
    source = ChestXDet(root, binary=True)
    assert source.classes == ("finding",) and [record.labels for record in source.records] == [(0,), (), (0,)]
    mask = source.load(0).mask
    assert mask is not None and (mask.bool().numpy() == block((2, 2, 20, 20))).all() and int(mask.max()) == 1
    assert source.fingerprint() != ChestXDet(root).fingerprint()


def test_a_missing_picture_is_named(root: Path) -> None:
    (root / "test" / "40.png").unlink()
    assert [(fault.kind, fault.file) for fault in check_headers(ChestXDet(root))] == [("missing", "test/40.png")]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"syms": ["Nodul", "Mass"]}, r"entry 0 \(36\.png\): no finding 'Nodul'; .*did you mean 'Nodule'"),
        ({"syms": ["Mass"]}, r"entry 0 \(36\.png\): .*1 syms, 2 boxes and 2 polygons"),
        ({"boxes": [[1, 2, 3], [1, 2, 3, 4]]}, r"entry 0 \(36\.png\)"),
        ({"polygons": [[[1, 2], ["a", 3]], []]}, r"entry 0 \(36\.png\)"),
        ({"polygons": None}, r"entry 0 \(36\.png\)"),
        ({"file_name": None}, "entry 0: KeyError"),
    ],
)
def test_faulty_entries_are_named(changes: dict[str, Any], words: str, root: Path) -> None:
    file = root / "ChestX_Det_train.json"
    entries = json.loads(file.read_text())
    entries[0] = {key: value for key, value in (entries[0] | changes).items() if key != "file_name" or value}
    file.write_text(json.dumps(entries))
    with pytest.raises(UserError, match=rf"ChestX_Det_train\.json: {words}"):
        ChestXDet(root)


def test_foreign_annotations_are_named(root: Path) -> None:
    for text, words in (("[", "not JSON"), ("{}", "expected a list of pictures")):
        (root / "ChestX_Det_test.json").write_text(text)
        with pytest.raises(UserError, match=rf"ChestX_Det_test\.json: {words}"):
            ChestXDet(root)
