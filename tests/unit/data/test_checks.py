"""A data set with one of each fault: all are found, none is invented, and each names its file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import miniatures
from tests.miniatures import pixels, write_picture

from partwise.data.checks import check_headers, check_source
from partwise.data.sources import open_source


@pytest.fixture
def spoiled(tmp_path: Path) -> Path:
    """An image folder with a finding of every kind that files can have."""
    root = tmp_path / "spoiled"
    for split, first in (("train", 0), ("test", 100)):
        for number, name in enumerate(("cat", "dog")):
            for i in range(6):
                write_picture(root / split / name / f"{i}.png", first + 10 * i + number)
    (root / "train" / "emu").mkdir()
    cats = root / "train" / "cat"
    (cats / "empty.png").write_bytes(b"")
    (cats / "text.png").write_text("words")
    for suffix in ("jpg", "png"):
        whole = write_picture(tmp_path / f"whole.{suffix}", 50, height=90, width=90).read_bytes()
        (cats / f"torn.{suffix}").write_bytes(whole[: len(whole) * 3 // 4])
    (cats / "gone.png").symlink_to(root / "nowhere.png")
    for mode in ("P", "RGBA", "1", "L"):
        write_picture(cats / f"mode_{mode}.png", 60, mode=mode, height=30 + len(mode))
    Image.fromarray(pixels(61)).convert("CMYK").save(cats / "mode_CMYK.jpg")
    Image.fromarray(np.arange(600, dtype=np.uint16).reshape(20, 30) * 100).save(cats / "mode_16.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels(62)).save(cats / "turned.jpg", exif=exif)
    write_picture(tmp_path / "real.png", 63).rename(cats / "misnamed.jpg")
    write_picture(cats / "again.png", 10)
    write_picture(root / "train" / "dog" / "relabelled.png", 20)
    write_picture(root / "test" / "cat" / "leaked.bmp", 30)
    return root


SERIOUS = {
    ("empty", "train/cat/empty.png"),
    ("missing", "train/cat/gone.png"),
    ("truncated", "train/cat/torn.jpg"),
    ("truncated", "train/cat/torn.png"),
    ("unreadable", "train/cat/text.png"),
}
NOTES = {
    ("palette", "train/cat/mode_P.png"),
    ("transparency", "train/cat/mode_RGBA.png"),
    ("1 bit", "train/cat/mode_1.png"),
    ("grey among colour", "train/cat/mode_L.png"),
    ("CMYK", "train/cat/mode_CMYK.jpg"),
    ("16 bit", "train/cat/mode_16.png"),
    ("EXIF-rotated", "train/cat/turned.jpg"),
    ("misnamed", "train/cat/misnamed.jpg"),
    ("duplicate", "train/cat/again.png"),
    ("duplicate with another label", "train/dog/relabelled.png"),
    ("leakage between splits", "test/cat/leaked.bmp"),
    ("empty class", "emu"),
}


def test_the_full_check_finds_each_by_name(spoiled: Path) -> None:
    source = open_source(f"imagefolder:{spoiled}")
    told: list[tuple[int, int]] = []
    report = check_source(source, threads=2, progress=lambda done, total: told.append((done, total)))
    assert {(fault.kind, fault.file) for fault in report.faults if fault.serious} == SERIOUS
    assert {(fault.kind, fault.file) for fault in report.faults if not fault.serious} == NOTES
    assert told == [(len(source), len(source))]
    assert report.num_unusable == len(SERIOUS)
    for fault in report.faults:
        assert fault.index is None or source.records[fault.index].file == fault.file
    text = "\n".join(report.lines())
    assert "5 pictures cannot be used" in text and "train/cat/text.png" in text
    faulty = {fault.index for fault in report.faults if fault.serious}
    assert sum(report.sizes.values()) == len(source) - len(faulty) == sum(report.modes.values())
    assert report.counts["train"] == (20, 7, 0) and report.counts["test"] == (7, 6, 0)
    assert (32, 24) in report.sizes and report.sizes[24, 32] > 20  # the turned picture stands upright


def test_the_quick_check_finds_what_cannot_be_used(spoiled: Path) -> None:
    source = open_source(f"imagefolder:{spoiled}")
    faults = check_headers(source)
    assert {(fault.kind, fault.file) for fault in faults} == SERIOUS
    assert [fault.index for fault in faults] == sorted(fault.index for fault in faults if fault.index is not None)
    assert all(fault.serious for fault in faults)


def test_the_quick_check_decodes_nothing_that_looks_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = open_source(miniatures.imagefolder(tmp_path / "set").source)

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(type(source), "load_image", refuse)
    assert check_headers(source) == []


def test_masks_are_looked_at(tmp_path: Path) -> None:
    made = miniatures.csv(tmp_path / "set")
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(made.root / "masks" / "1.png")
    (made.root / "masks" / "3.png").unlink()
    write_picture(made.root / "masks" / "0.png", 1)
    found = [(fault.kind, fault.file) for fault in check_source(open_source(made.source)).faults if fault.serious]
    assert sorted(found) == [("missing", "masks/3.png"), ("unreadable", "masks/0.png"), ("wrong size", "masks/1.png")]
    quick = [(fault.kind, fault.file) for fault in check_headers(open_source(made.source))]
    assert quick == [("unreadable", "masks/0.png"), ("wrong size", "masks/1.png"), ("missing", "masks/3.png")]


def test_pictures_of_another_size_in_a_source_of_one(tmp_path: Path) -> None:
    made = miniatures.tinyimagenet(tmp_path / "set")
    write_picture(made.torn, 1, height=64, width=63)
    source = open_source(made.source)
    for faults in (check_headers(source), [f for f in check_source(source).faults if f.serious]):
        assert [(fault.kind, Path(fault.file).name) for fault in faults] == [("wrong size", made.torn.name)]


def test_a_broken_picture_in_a_pack(tmp_path: Path) -> None:
    made = miniatures.cifar10_pack(tmp_path / "set")
    with np.load(made.torn) as pack:
        arrays = dict(pack)
    start, end = arrays["train_offsets"][3:5]
    arrays["train_bytes"] = arrays["train_bytes"].copy()
    arrays["train_bytes"][start + 4 : end] = 0
    np.savez(made.torn, **arrays)
    source = open_source(made.source)
    assert [(fault.kind, fault.file, fault.index) for fault in check_headers(source)] == [
        ("unreadable", "train/00003", 3)
    ]
    assert [fault.index for fault in check_source(source).faults if fault.serious] == [3]
    assert torch.equal(source.images([2]), source.load_image(2)[None])


def test_previews_show_findings_first_and_every_class(spoiled: Path) -> None:
    report = check_source(open_source(f"imagefolder:{spoiled}"), previews=20)
    assert len(report.previews) == 20
    remarks = [preview.remark for preview in report.previews]
    assert "palette" in remarks and "" in remarks and max(remarks.count(kind) for kind in set(remarks) - {""}) <= 4
    assert {preview.label for preview in report.previews} == {"cat", "dog"}
    assert all(max(preview.image.shape[:2]) <= 128 and preview.image.dtype == np.uint8 for preview in report.previews)
    assert len(check_source(open_source(f"imagefolder:{spoiled}"), previews=0).previews) == 0


def test_preview_boxes_are_in_the_preview(tmp_path: Path) -> None:
    rows = ["file,label,box", "big.png,cat,100 200 300 400"]
    write_picture(tmp_path / "big.png", 1, height=512, width=640)
    (tmp_path / "t.csv").write_text("\n".join(rows))
    (preview,) = check_source(open_source(f"csv:{tmp_path / 't.csv'}")).previews
    assert preview.image.shape == (102, 128, 3)
    assert preview.boxes == ((20.0, 40.0, 60.0, 80.0),)


def test_a_world_can_be_checked() -> None:
    report = check_source(open_source("creatures:?train=6&val=2&test=2&size=32&classes=2"))
    assert report.num_unusable == 0 and report.splits == {"train": 6, "val": 2, "test": 2}
    assert report.modes == {"in memory": 10}


def test_an_empty_source_has_a_report(tmp_path: Path) -> None:
    (tmp_path / "only.png").write_bytes(b"")
    report = check_source(open_source(f"images:{tmp_path}"))
    assert report.sizes == {} and report.num_unusable == 1 and "none read" in "\n".join(report.lines())
