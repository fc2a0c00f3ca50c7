"""SIIM-ACR: run lengths by the contest's own rule, several rows a picture, folders, and every mistake by its line."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from tests import miniatures_chest
from tests.miniatures import write_picture
from tests.miniatures_masks import write_lines

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.readers.coco_shapes import fill_runs
from partwise.data.readers.siim import SIZE, Siim, relative_runs


def mask_by_loops(numbers: Sequence[int], size: tuple[int, int]) -> np.ndarray:
    """Fill pixel by pixel a list that runs down the columns, each gap from the end of the run before."""
    flat = [0] * (size[0] * size[1])
    at = 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        at += gap
        for place in range(at, at + length):
            flat[place] = 1
        at += length
    columns = [flat[x * size[0] : (x + 1) * size[0]] for x in range(size[1])]
    return np.array([[columns[x][y] for x in range(size[1])] for y in range(size[0])], bool)


@pytest.mark.parametrize("numbers", [(0, 3), (5, 1, 0, 2, 20, 4), (47, 1), (0, 48), (3, 0)])
def test_relative_runs(numbers: tuple[int, ...]) -> None:
    assert (fill_runs((6, 8), relative_runs(numbers, (6, 8))) == mask_by_loops(numbers, (6, 8))).all()


@pytest.mark.parametrize(
    ("numbers", "words"),
    [((1, 2, 3), "pairs"), ((-1, 2), "none below 0"), ((40, 9), "the runs end 1 pixels beyond 8 x 6")],
)
def test_runs_that_are_none(numbers: tuple[int, ...], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        relative_runs(numbers, (6, 8))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniatures_chest.siim(tmp_path / "set").root


def test_rows_of_one_picture_are_joined(root: Path) -> None:
    source = Siim(root)
    assert source.classes == ("pneumothorax",) and [record.id for record in source.records] == [
        "1.2.a",
        "1.2.b",
        "1.2.c",
    ]
    assert [record.labels for record in source.records] == [(0,), (), (0,)]
    assert [record.split for record in source.records] == ["train", "train", "test"]
    masks = [source.load(i).mask for i in range(3)]
    first, empty, column = masks
    assert first is not None and empty is not None and column is not None
    wanted = mask_by_loops((5, 3, 1021, 2), SIZE) | mask_by_loops((2048, 4), SIZE)
    assert (first.numpy() == wanted).all() and not empty.any()
    assert column[:, 0].all() and int(column.sum()) == 1024  # 1024 pixels from the first are the first column


def test_splits_need_both_folders(root: Path) -> None:
    shutil.move(root / "test" / "1.2.c.png", root / "train" / "1.2.c.png")
    assert {record.split for record in Siim(root).records} == {""}


def test_a_missing_picture_is_named(root: Path) -> None:
    (root / "train" / "1.2.b.png").unlink()
    assert [(fault.kind, Path(fault.file).name) for fault in check_headers(Siim(root))] == [("missing", "1.2.b.png")]
    shutil.rmtree(root / "train")
    shutil.rmtree(root / "test")
    with pytest.raises(UserError, match="holds no picture"):
        Siim(root)


def test_a_picture_of_another_size_is_named(root: Path) -> None:
    write_picture(root / "train" / "1.2.a.png", 1)
    faults = [fault for fault in check_source(Siim(root)).faults if fault.serious]
    assert [Path(fault.file).name for fault in faults] == ["1.2.a.png"] and "1024 x 1024" in faults[0].detail


def test_the_later_table_and_dicom_files(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(root / "stage_2_train.csv", ["ImageId,EncodedPixels", "1.2.a,-1", "1.2.d,-1"])
    (root / "dicom-images-train" / "1" / "2").mkdir(parents=True)
    (root / "dicom-images-train" / "1" / "2" / "1.2.d.dcm").write_bytes(b"x")
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(UserError, match=r"siim: dicom-images-train/1/2/1\.2\.d\.dcm: pydicom is not installed"):
        Siim(root)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("1.2.b, 5 3", "line 6: 1.2.b has run lengths in one row and none"),
        ("1.2.a, -1", "line 6: 1.2.a has run lengths in one row and none"),
        ("1.2.d, 5", "line 6: EncodedPixels '5': expected pairs of a gap and a length"),
        ("1.2.d, 5 x", "line 6: EncodedPixels '5 x'"),
        ("1.2.d,", "line 6: EncodedPixels '': the cell is empty; -1 says that there is none"),
        ("1.2.d, 1048570 9", "line 6: .*: the runs end 3 pixels beyond 1024 x 1024"),
        (", 5 3", "line 6: column 'ImageId' is empty"),
    ],
)
def test_bad_rows_are_named(row: str, words: str, root: Path) -> None:
    with (root / "train-rle.csv").open("a") as table:
        table.write(f"{row}\n")
    with pytest.raises(UserError, match=rf"train-rle\.csv: {words}"):
        Siim(root)
