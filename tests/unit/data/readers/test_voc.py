"""Pascal VOC's layout: lists, labels of XML and of masks, boxes, numbers, and every mistake by its file."""

from __future__ import annotations

import csv
import runpy
import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import miniatures_masks
from tests.miniatures import Miniature, write_picture
from tests.miniatures_masks import block_box, block_mask, write_lines, write_mask, write_xml

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.readers.voc import CLASSES
from partwise.data.sample import FaultySample, Source
from partwise.data.sources import open_source
from partwise.data.splits import split_indices


@pytest.fixture
def made(tmp_path: Path) -> Miniature:
    return miniatures_masks.voc(tmp_path / "set")


def folder(made: Miniature) -> Path:
    return made.root / "VOCdevkit" / "VOC2012"


def names(source: Source) -> dict[str, list[str]]:
    """Class names by id."""
    return {record.id: [source.classes[label] for label in record.labels or ()] for record in source.records}


def test_labels_boxes_and_splits(made: Miniature) -> None:
    source = open_source(made.source)
    assert source.multi_label and source.classes == tuple(CLASSES) and len(CLASSES) == 20
    assert names(source) == {
        "2007_000001": ["aeroplane"],
        "2007_000002": ["cat", "person"],
        "2008_000003": ["cat"],
        "2007_000004": ["tvmonitor"],
        "2009_000005": [],  # no object is no fault
    }
    assert [record.split for record in source.records] == ["train", "train", "train", "test", "test"]
    assert source.records[1].boxes == (
        block_box(0),
        block_box(1),
    )  # in the order of the file, parts of objects left out
    assert {name: len(part) for name, part in split_indices(source, validation=0.34).items()} == {
        "train": 2,
        "val": 1,
        "test": 2,
    }
    labels = source.load(1).labels
    assert labels is not None and labels.nonzero().flatten().tolist() == [7, 14]


def test_masks_keep_their_numbers(made: Miniature) -> None:
    source = open_source(made.source)
    mask = source.load(1).mask
    wanted = block_mask(15, 8)
    wanted[0] = 255
    assert mask is not None and (mask.numpy() == wanted).all()
    for index, record in enumerate(source.records):
        mask = source.load(index).mask
        assert mask is not None
        assert tuple(value - 1 for value in mask.unique().tolist() if value not in (0, 255)) == record.labels


def test_a_set_without_xml_has_the_labels_of_its_masks(made: Miniature) -> None:
    before = open_source(made.source)
    shutil.rmtree(folder(made) / "Annotations")
    after = open_source(made.source)
    assert names(after) == names(before) and all(record.boxes == () for record in after.records)
    assert check_headers(after) == []


def test_the_lists_of_sbd(made: Miniature) -> None:
    source = open_source(f"{made.source}?train=train_aug")
    added = source.records[3]
    assert (added.id, added.split, added.has_mask) == ("2010_000006", "train", True)
    mask = source.load(3).mask
    assert mask is not None and (mask.numpy() == block_mask(12)).all()
    # where both have a mask VOC's own is taken, by which masks are scored
    write_mask(folder(made) / "SegmentationClassAug" / "2007_000001.png", block_mask(2))
    mask = open_source(f"{made.source}?train=train_aug").load(0).mask
    assert mask is not None and set(mask.unique().tolist()) == {0, 1, 255}
    # pictures to train on need no mask, those of VOC's own lists do
    (folder(made) / "SegmentationClassAug" / "2010_000006.png").unlink()
    assert not open_source(f"{made.source}?train=train_aug").records[3].has_mask
    (folder(made) / "SegmentationClass" / "2007_000004.png").unlink()
    faults = check_headers(open_source(made.source))
    assert [(fault.kind, fault.file) for fault in faults] == [("missing", "SegmentationClass/2007_000004.png")]


def test_the_classes_that_occur(made: Miniature) -> None:
    source = open_source(f"{made.source}?classes=present")
    assert source.classes == ("aeroplane", "cat", "person", "tvmonitor")
    assert [record.labels for record in source.records] == [(0,), (1, 2), (1,), (3,), ()]
    mask = source.load(1).mask
    wanted = block_mask(3, 2)
    wanted[0] = 255
    assert mask is not None and (mask.numpy() == wanted).all()


def test_other_sets_in_the_layout(tmp_path: Path) -> None:
    made = miniatures_masks.voc_detection(tmp_path / "set")
    source = open_source(made.source)
    assert source.classes == ("Platelets", "RBC", "WBC") and not any(record.has_mask for record in source.records)
    assert [record.split for record in source.records] == ["train", "train", "val", "test"]
    assert source.load(0).boxes is not None and source.load(0).mask is None
    both = open_source(f"{made.source}&train=trainval")
    assert Counter(record.split for record in both.records) == {"train": 3, "test": 1}
    with pytest.raises(UserError, match=r"a\.xml: 'RBC' is none of VOC's 20 classes.*classes=present"):
        open_source(f"voc:{made.root}")
    write_mask(made.root / "SegmentationClass" / "a.png", block_mask(1))
    with pytest.raises(UserError, match="'Platelets' has in the masks is not known"):
        open_source(made.source)


def test_main_lists(made: Miniature) -> None:
    with pytest.raises(UserError, match="ImageSets/Main is not there"):
        open_source(f"{made.source}?set=main")
    write_lines(folder(made) / "ImageSets" / "Main" / "train.txt", ["2007_000001", "2010_000006"])
    write_lines(folder(made) / "ImageSets" / "Main" / "val.txt", ["2007_000004"])
    source = open_source(f"{made.source}?set=main")
    assert [record.id for record in source.records] == ["2007_000001", "2010_000006", "2007_000004"]
    assert len(open_source(made.source)) == 5  # the segmentation lists come first


def test_lists_that_cannot_be(made: Miniature) -> None:
    with pytest.raises(UserError, match=r"trainaug\.txt: not there, but train=trainaug.*did you mean 'train_aug'"):
        open_source(f"{made.source}?train=trainaug")
    with pytest.raises(
        UserError, match=r"trainval\.txt: 2 of its pictures \(2007_000004, \.\.\.\) are in val\.txt too"
    ):
        open_source(f"{made.source}?train=trainval")
    for part in ("train", "val"):
        write_lines(folder(made) / "ImageSets" / "Segmentation" / f"{part}.txt", [])
    with pytest.raises(UserError, match="name no picture"):
        open_source(made.source)


def test_two_years_are_not_guessed_between(made: Miniature) -> None:
    shutil.copytree(folder(made), folder(made).with_name("VOC2007"))
    with pytest.raises(UserError, match=r"holds 2 data sets \(VOC2007, VOC2012\)"):
        open_source(made.source)
    assert len(open_source(f"voc:{folder(made)}")) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("<annotation><object>", "not an annotation in XML"),
        ("", "not an annotation in XML"),
        ("<annotation><object><name>cat</name></object></annotation>", r"object 1 \(cat\)"),
        (
            "<annotation><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></object>"
            "</annotation>",
            "without a name",
        ),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>1</xmin><ymin>x</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
            "</object></annotation>",
            r"object 1 \(cat\).*xmin, ymin",
        ),
        (
            "<annotation><object><name>cat</name><bndbox><xmin>nan</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax>"
            "</bndbox></object></annotation>",
            r"object 1 \(cat\)",
        ),
    ],
)
def test_torn_annotations_are_named(text: str, words: str, made: Miniature) -> None:
    (folder(made) / "Annotations" / "2007_000002.xml").write_text(text)
    with pytest.raises(UserError, match=rf"2007_000002\.xml: .*{words}"):
        open_source(made.source)


def test_numbers_of_fractions(made: Miniature) -> None:
    write_xml(folder(made) / "Annotations" / "2007_000001.xml", [("aeroplane", (1.25, 2, 10.5, 9))])
    assert open_source(made.source).records[0].boxes == ((1.25, 2, 10.5, 9),)


def test_masks_that_cannot_be_used_are_named(made: Miniature) -> None:
    masks = folder(made) / "SegmentationClass"
    write_mask(masks / "2007_000001.png", block_mask(21))
    write_picture(masks / "2007_000002.png", 1)
    write_mask(masks / "2008_000003.png", block_mask(8, height=25))
    faults = [fault for fault in check_source(open_source(made.source)).faults if fault.serious]
    assert {(Path(fault.file).stem, fault.kind) for fault in faults} == {
        ("2007_000001", "unreadable"),
        ("2007_000002", "unreadable"),
        ("2008_000003", "wrong size"),
    }
    with pytest.raises(FaultySample, match=r"2007_000001\.png: .*mask value 21; expected 0 to 20, 255"):
        open_source(made.source).load(0)
    # read for labels as well, they are no reason to fall over
    shutil.rmtree(folder(made) / "Annotations")
    source = open_source(made.source)
    assert [record.labels for record in source.records[:3]] == [(), (), (7,)]
    assert {index: fault.kind for index, fault in source.faulty_masks.items()} == {0: "unreadable", 1: "unreadable"}


def test_a_picture_with_neither_xml_nor_mask(made: Miniature) -> None:
    write_lines(folder(made) / "ImageSets" / "Segmentation" / "train_aug.txt", ["2007_000001", "2011_000007"])
    source = open_source(f"{made.source}?train=train_aug")
    assert source.records[1].labels is None
    assert [(fault.kind, fault.file) for fault in check_headers(source)] == [("no label", "JPEGImages/2011_000007.jpg")]


@pytest.mark.data
def test_the_made_voc_of_three_classes(pack: Callable[[str], Path], tmp_path: Path) -> None:
    runpy.run_path(str(pack("wsss_voc3") / "make_voc_layout.py"))["main"](str(tmp_path))
    source = open_source(f"voc:{tmp_path}")
    assert Counter(record.split for record in source.records) == {"train": 577, "test": 348}
    counts = Counter(name for found in names(source).values() for name in found)
    assert counts == {"cat": 398, "dog": 200, "horse": 327}
    assert check_headers(source) == []
    assert sum(len(record.boxes) for record in source.records) == 925 and all(r.has_mask for r in source.records)
    present = open_source(f"voc:{tmp_path}?classes=present")
    assert present.classes == ("cat", "dog", "horse")
    for index in range(0, len(source), 20):
        sample, small = source.load(index), present.load(index)
        assert sample.mask is not None and small.mask is not None and sample.boxes is not None
        assert tuple(v - 1 for v in sample.mask.unique().tolist() if v not in (0, 255)) == source.records[index].labels
        assert tuple(v - 1 for v in small.mask.unique().tolist() if v not in (0, 255)) == present.records[index].labels
        rows, columns = np.nonzero(sample.mask.numpy())
        wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert torch.equal(sample.boxes, torch.tensor([wanted], dtype=torch.float32))


@pytest.mark.data
def test_blood_cells(pack: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = open_source(f"voc:{pack('bccd')}?classes=present")
    assert source.classes == ("Platelets", "RBC", "WBC")
    assert Counter(record.split for record in source.records) == {"train": 107, "val": 44, "test": 31}
    report = check_source(source)
    assert report.num_boxes == 2_094 + 187 + 179
    assert {fault.kind for fault in report.faults if fault.serious} <= {"empty box"}


@pytest.mark.data
def test_labels_of_real_masks(pack: Callable[[str], Path], tmp_path: Path) -> None:
    """VOC's and SBD's masks below blank pictures: labels are those that the pack lists."""
    with tarfile.open(next(pack("voc2012_masks").glob("*.tar*"))) as archive:
        archive.extractall(tmp_path, filter="data")
    masks = sorted((tmp_path / "VOC2012_masks" / "SegmentationClassAug").iterdir())
    for file in masks:
        path = tmp_path / "JPEGImages" / f"{file.stem}.jpg"
        path.parent.mkdir(exist_ok=True)
        with Image.open(file) as mask:
            Image.new("RGB", mask.size).save(path)
    file.parent.rename(tmp_path / "SegmentationClassAug")
    write_lines(tmp_path / "ImageSets" / "Segmentation" / "train.txt", [file.stem for file in masks])
    source = open_source(f"voc:{tmp_path}")
    with (tmp_path / "VOC2012_masks" / "image_labels.csv").open() as stream:
        listed = {row["id"]: {name for name in CLASSES if row[name] == "1"} for row in csv.DictReader(stream)}
    assert len(source) == 400 and {key: set(found) for key, found in names(source).items()} == {
        file.stem: listed[file.stem] for file in masks
    }
    assert max(len(record.labels or ()) for record in source.records) > 2
