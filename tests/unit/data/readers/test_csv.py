"""Tables: every column, several labels, and every mistake by its line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.miniatures import write_picture

from partwise.config import UserError
from partwise.data.sample import FaultySample
from partwise.data.sources import open_source


def table(folder: Path, text: str, *, encoding: str = "utf-8", option: str = "") -> str:
    folder.mkdir(exist_ok=True)
    path = folder / "table.csv"
    path.write_text(text, encoding=encoding, newline="")
    for name in ("a.png", "b.png", "c.png"):
        write_picture(folder / name, 1)
    return f"csv:{path}{option}"


def test_every_column(tmp_path: Path) -> None:
    text = (
        "group,file,split,label,box\r\np1,a.png,Train,cat,1 2 3 4; 5 6 7 8.5\r\n,b.png,,dog,\r\np1,c.png,valid,cat,\r\n"
    )
    source = open_source(table(tmp_path, text, encoding="utf-8-sig"))
    assert source.classes == ("cat", "dog") and not source.multi_label
    assert [(r.id, r.split, r.label, r.group) for r in source.records] == [
        ("a.png", "train", 0, "p1"),
        ("b.png", "", 1, ""),
        ("c.png", "val", 0, "p1"),
    ]
    assert source.records[0].boxes == ((1, 2, 3, 4), (5, 6, 7, 8.5)) and source.records[1].boxes == ()


def test_several_labels(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, "file,label\na.png,dog; cat\nb.png,\nc.png,emu;emu\n"))
    assert source.multi_label and source.classes == ("cat", "dog", "emu")
    assert [record.labels for record in source.records] == [(0, 1), (), (2,)]
    assert all(record.label is None for record in source.records)
    labels = [source.load(i).labels for i in range(3)]
    assert torch.equal(
        torch.stack([row for row in labels if row is not None]), torch.tensor([[1.0, 1, 0], [0, 0, 0], [0, 0, 1]])
    )


def test_without_several_an_empty_cell_is_unlabelled(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, "file,label\na.png,cat\nb.png,\n"))
    assert [record.label for record in source.records] == [0, None]


def test_numbers_are_ordered_as_numbers(tmp_path: Path) -> None:
    assert open_source(table(tmp_path, "file,label\na.png,10\nb.png,9\nc.png,-1\n")).classes == ("-1", "9", "10")
    assert open_source(table(tmp_path, "file,label\na.png,10\nb.png,9\nc.png,x\n")).classes == ("10", "9", "x")


def test_other_names_of_columns(tmp_path: Path) -> None:
    source = open_source(table(tmp_path, "path,wnid\na.png,n1\n", option="?label=wnid&file=path"))
    assert source.classes == ("n1",) and source.records[0].file == "a.png"


def test_given_classes(tmp_path: Path) -> None:
    text = "file,label\na.png,cat\nb.png,dog\n"
    source = open_source(table(tmp_path, text, option="?classes=dog; emu; cat"))
    assert source.classes == ("dog", "emu", "cat") and [record.label for record in source.records] == [2, 0]
    with pytest.raises(UserError, match=r"line 3: 'dog' is none of the classes cat, dogs; did you mean 'dogs'\?"):
        open_source(table(tmp_path, text, option="?classes=cat;dogs"))
    with pytest.raises(UserError, match="names 'cat' twice"):
        open_source(table(tmp_path, text, option="?classes=cat;dog;cat"))


def test_masks(tmp_path: Path) -> None:
    source = table(tmp_path, "file,label,mask\na.png,cat,m.png\nb.png,dog,n.png\nc.png,cat,\n")
    for name, value in (("m.png", 1), ("n.png", 3)):
        mask = np.zeros((24, 32), np.uint8)
        mask[2:5, 3:9] = value
        Image.fromarray(mask).save(tmp_path / name)
    opened = open_source(source)
    boxes = opened.load(0).boxes
    assert boxes is not None and boxes.tolist() == [[3, 2, 9, 5]]  # no box is annotated: the object's extent
    assert opened.load(2).mask is None and opened.load(2).boxes is None
    with pytest.raises(FaultySample, match=r"n\.png: .*mask value 3; expected 0 to 2, 255"):
        opened.load(1)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no column 'file'", "there are none"]),
        ("file,label\n", ["no row"]),
        ("fle,label\na.png,cat\n", ["no column 'file'", "nearest: 'fle'", "?file=fle"]),
        ("file;label\na.png;cat\n", ["separated by something else"]),
        ("file,label\na.png\n", ["line 2", "2 columns"]),
        ("file,label\na.png,cat,more\n", ["line 2", "2 columns"]),
        ("file,label\na.png,cat\n\n,dog\n", ["line 4", "'file' is empty"]),
        ("file,label\na.png,cat\nb.png,dog\na.png,dog\n", ["line 4 repeats the file of line 2", "a.png"]),
        ("file,label,split\na.png,cat,tran\n", ["line 2", "split 'tran'", "nearest: train"]),
        ("file,label,box\na.png,cat,1 2 3\n", ["line 2", "x1 y1 x2 y2"]),
        ("file,label,box\na.png,cat,1 2 three 4\n", ["line 2", "x1 y1 x2 y2"]),
        ("file,label,box\na.png,cat,5 2 5 4\n", ["line 2", "is empty"]),
        ('file,label\n"a.png,cat\n', ["not a comma-separated table"]),
    ],
)
def test_mistakes_are_named(text: str, words: list[str], tmp_path: Path) -> None:
    source = table(tmp_path, text)
    with pytest.raises(UserError) as caught:
        open_source(source)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "table.csv")) and "\n" not in message
    for word in words:
        assert word in message


def test_what_is_no_table(tmp_path: Path) -> None:
    binary = tmp_path / "binary.csv"
    binary.write_bytes(b"file,label\n\xff\xfe,cat\n")
    with pytest.raises(UserError, match="not a text file"):
        open_source(f"csv:{binary}")
    with pytest.raises(UserError, match="not a file"):
        open_source(f"csv:{tmp_path}")
