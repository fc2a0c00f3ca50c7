"""Single findings on records made by hand."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partwise.data.findings import (
    box_faults,
    class_faults,
    duplicate_faults,
    group_faults,
    label_faults,
    mode_faults,
)
from partwise.data.headers import Header
from partwise.data.sample import Record, Source


class Listed(Source):
    kind = name = "listed"

    def __init__(self, records: Sequence[Record], classes: tuple[str, ...] = ("cat", "dog")) -> None:
        self.records, self.classes = records, classes

    def load_image(self, index: int) -> Tensor:
        return torch.zeros(3, 4, 4, dtype=torch.uint8)


def header(mode: str = "RGB", kind: str = "JPEG", turned: bool = False) -> Header:
    return Header(kind, mode, (10, 20), turned, 100)


def test_labels() -> None:
    records = [
        Record("a", label=0),
        Record("b"),
        Record("c", label=2),
        Record("d", labels=(0, 5)),
        Record("a", label=1),
    ]
    found = [(fault.kind, fault.file, fault.index, fault.serious) for fault in label_faults(Listed(records))]
    assert found == [
        ("id twice", "a", 0, True),
        ("no label", "b", 1, True),
        ("bad label", "c", 2, True),
        ("bad label", "d", 3, True),
        ("id twice", "a", 4, True),
    ]
    assert label_faults(Listed([Record("b")], ())) == []
    assert label_faults(Listed([Record("none of the classes", labels=())])) == []


def test_empty_classes() -> None:
    records = [Record("a", "train", 0), Record("b", "train", 1), Record("c", "test", 1)]
    found = class_faults(Listed(records))
    assert [(fault.file, fault.detail, fault.serious) for fault in found] == [("cat", "no picture in test", False)]


def test_groups_in_two_splits() -> None:
    records = [
        Record("a", "train", 0, group="p1"),
        Record("b", "test", 0, group="p1"),
        Record("c", "test", 0, group="p2"),
    ]
    assert [(fault.file, fault.reason) for fault in group_faults(Listed(records))] == [
        ("p1", "leakage of a group: in train (1), test (1)")
    ]


def test_duplicates() -> None:
    records = [
        Record("a", "train", 0),
        Record("b", "train", 0),
        Record("c", "train", 1),
        Record("d", "test", 0),
        Record("e", "test", 0),
        Record("unreadable", "test", 0),
    ]
    found = duplicate_faults(Listed(records), [b"x", b"x", b"x", b"x", b"y", b""])
    assert [(fault.kind, fault.index) for fault in found] == [
        ("duplicate", 1),
        ("duplicate with another label", 2),
        ("leakage between splits", 3),
    ]
    assert found[2].detail == "same pixels as a in train" and not any(fault.serious for fault in found)


def test_modes() -> None:
    files = [
        "a.jpg",
        "p.png",
        "k.jpg",
        "t.png",
        "d.png",
        "turned.jpg",
        "grey.jpg",
        "misnamed.jpg",
        "ok.JPEG",
        "ok.tif",
        "ok.x",
    ]
    headers = [
        header(),
        header("P", "PNG"),
        header("CMYK"),
        header("RGBA", "PNG"),
        header("I;16", "PNG"),
        header(turned=True),
        header("L"),
        header("RGB", "PNG"),
        header(),
        header("RGB", "TIFF"),
        header("RGB", "unknown"),
    ]
    grey = [header.mode in ("L", "I;16") for header in headers]
    source = Listed([Record(file, file=file, label=0) for file in files])
    assert [(fault.file, fault.kind) for fault in mode_faults(source, headers, grey)] == [
        ("p.png", "palette"),
        ("k.jpg", "CMYK"),
        ("t.png", "transparency"),
        ("d.png", "16 bit"),
        ("turned.jpg", "EXIF-rotated"),
        ("grey.jpg", "grey among colour"),
        ("misnamed.jpg", "misnamed"),
    ]


def test_grey_among_grey_is_no_finding() -> None:
    source = Listed([Record(str(i), file=f"{i}.png", label=0) for i in range(3)])
    assert mode_faults(source, [header("L", "PNG")] * 3, [True] * 3) == []
    assert mode_faults(source, [None] * 3, [True] * 3) == []


def test_boxes() -> None:
    boxes = [
        (0, 0, 20, 10),
        (-0.6, 0, 20.9, 10),
        (5, 5, 22, 9),
        (5, 5, 9, 11.5),
        (-3, 0, 5, 5),
        (20, 0, 25, 5),
        (0, 12, 5, 15),
    ]
    records = [Record(str(i), label=0, boxes=(box,)) for i, box in enumerate(boxes)]
    found = box_faults(Listed(records), [(10, 20)] * len(boxes))
    assert [(fault.kind, fault.index, fault.serious) for fault in found] == [
        ("box leaves its picture", 2, False),
        ("box leaves its picture", 3, False),
        ("box leaves its picture", 4, False),
        ("empty box", 5, True),
        ("empty box", 6, True),
    ]
    assert found[0].detail == "(5, 5, 22, 9) in 20 x 10"
    assert box_faults(Listed(records), [None] * len(boxes)) == []
