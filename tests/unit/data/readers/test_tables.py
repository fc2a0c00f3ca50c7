"""Tables: what is read, and every mistake by its file and line."""

from __future__ import annotations

from pathlib import Path

import pytest

from partwise.config import UserError
from partwise.data.readers.tables import read_rows, read_table, split_of


def write(folder: Path, text: str) -> Path:
    path = folder / "table.csv"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_rows_with_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, '\ufeffa, b\r\n 1,"two, 2 "\r\n,\r\n3,\r\n')
    assert read_rows(path) == (["a", "b"], [(2, {"a": "1", "b": "two, 2"}), (4, {"a": "3", "b": ""})])
    assert read_table(path, ["b"]) == read_rows(path)[1]
    assert read_rows(write(tmp_path, "")) == ([], [])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no column 'file'", "there are none", "expected file, type"]),
        ("file,typ\n1,2\n", ["no column 'type'", "nearest: 'typ'"]),
        ("file,type\n", ["no row below the header"]),
        ("file,type\n1\n", ["line 2", "2 columns"]),
        ("file,type\n1,2,3\n", ["line 2", "2 columns"]),
        ('file,type\n"1,2\n', ["not a comma-separated table"]),
    ],
)
def test_mistakes_are_named(text: str, words: list[str], tmp_path: Path) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as caught:
        read_table(path, ["file", "type"])
    assert str(caught.value).startswith(str(path))
    assert all(word in str(caught.value) for word in words)


def test_what_is_no_table(tmp_path: Path) -> None:
    (tmp_path / "binary.csv").write_bytes(b"a,b\n\xff\xfe,1\n")
    with pytest.raises(UserError, match="not a text file"):
        read_rows(tmp_path / "binary.csv")
    for path in (tmp_path, tmp_path / "nowhere.csv"):
        with pytest.raises(UserError, match="cannot be read"):
            read_rows(path)


def test_splits() -> None:
    assert [split_of(Path("t.csv"), 1, cell) for cell in ("", "Training", " valid ", "test")] == [
        "",
        "train",
        "val",
        "test",
    ]
    with pytest.raises(UserError, match=r"t\.csv: line 7: split 'tran'; expected train, val or test; nearest: train"):
        split_of(Path("t.csv"), 7, "tran")
