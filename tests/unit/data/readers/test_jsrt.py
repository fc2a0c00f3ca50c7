"""JSRT as published: raw pictures, SCR's masks by folder, the split, and every mistake by its file."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import miniatures_chest
from tests.miniatures import write_picture
from tests.miniatures_chest import ORGANS, block, write_area

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.headers import FaultyPicture
from partwise.data.readers.jsrt import RAW_SIDE, Jsrt, choose_organs, fixed_split, halve, read_raw


def write_raw(path: Path, seed: int = 0) -> np.ndarray:
    """A raw picture of 12 bits; the values are returned."""
    values = np.random.default_rng(seed).integers(0, 4096, (RAW_SIDE, RAW_SIDE), dtype=np.int32)
    path.write_bytes(values.astype(">u2").tobytes())
    return values


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniatures_chest.jsrt(tmp_path / "set").root


def test_organs(root: Path) -> None:
    source = Jsrt(root)
    assert source.classes == ("heart", "right lung", "left lung", "clavicles")
    assert [record.id for record in source.records] == ["JPCLN001", "JPCLN002", "JPCNN005", "JPCNN008"]
    assert [record.split for record in source.records] == ["val", "train", "test", "train"]
    assert all(record.group == record.id and record.labels == (0, 1, 2, 3) for record in source.records)
    sample = source.load(2)
    assert sample.mask is not None and sample.parts is not None
    assert ((sample.mask == 4).numpy() == block(ORGANS["right clavicle"], ORGANS["left clavicle"])).all()
    for value, organ in ((1, "heart"), (2, "right lung"), (3, "left lung")):
        assert (((sample.mask == value) | (sample.parts == value)).numpy() == block(ORGANS[organ])).all()
    assert Jsrt(root, organs="heart").classes == ("heart",)


def test_nodules_need_no_masks(tmp_path: Path) -> None:
    made = miniatures_chest.jsrt_nodules(tmp_path / "set")
    source = Jsrt(made.root, labels="nodule")
    assert source.classes == ("no nodule", "nodule") and not source.multi_label
    assert {record.id: record.label for record in source.records} == {"JPCLN001": 1, "JPCLN154": 1, "JPCNN093": 0}
    assert source.load(0).mask is None
    with pytest.raises(UserError, match="no masks of heart; organs= leaves it out, labels=nodule needs no masks"):
        Jsrt(made.root)


def test_the_split_is_of_all_cases_the_same_share() -> None:
    nodules = Counter(fixed_split(number) for number in range(1, 155))
    others = Counter(fixed_split(number) for number in range(1, 94))
    assert nodules + others == {"train": 173, "val": 26, "test": 48}
    assert [round(part[split] / part.total(), 2) for part in (nodules, others) for split in ("val", "test")] == [
        0.1,
        0.19,
        0.11,
        0.19,
    ]


def test_raw_pictures_are_turned_round_and_halved(tmp_path: Path) -> None:
    values = write_raw(tmp_path / "JPCLN001.IMG")
    source = Jsrt(tmp_path, labels="nodule")
    image = source.load_image(0)
    assert image.shape == (3, 1024, 1024) and image.dtype == torch.uint8
    for y, x in ((0, 0), (3, 1000), (1023, 511)):
        four = [4095 - int(values[2 * y + dy, 2 * x + dx]) for dy in (0, 1) for dx in (0, 1)]
        assert image[:, y, x].tolist() == [sum(four) // 4 // 16] * 3
    header = source.header(0)
    assert (header.size, header.mode, header.format) == ((1024, 1024), "I;16B", "JSRT")
    assert check_headers(source) == []
    report = check_source(source)
    assert report.num_unusable == 0 and report.sizes == {(1024, 1024): 1}


def test_halving() -> None:
    values = np.arange(24, dtype=np.int32).reshape(1, 4, 6)
    wanted = [[int(values[0, 2 * y : 2 * y + 2, 2 * x : 2 * x + 2].sum()) // 4 for x in range(3)] for y in range(2)]
    assert halve(values)[0].tolist() == wanted


def test_converted_pictures_of_the_raw_size_are_halved(tmp_path: Path) -> None:
    write_picture(tmp_path / "JPCLN002.png", 1, height=RAW_SIDE, width=RAW_SIDE, mode="L")
    write_area(tmp_path / "heart" / "JPCLN002.gif", block((9, 9, 99, 99), height=1024, width=1024), mode="L")
    source = Jsrt(tmp_path, organs="heart")
    assert source.header(0).size == (1024, 1024) and check_headers(source) == []
    sample = source.load(0)
    assert sample.image.shape == (3, 1024, 1024) and sample.mask is not None and int(sample.mask.sum()) == 8100


def test_faulty_raw_pictures_are_named(tmp_path: Path) -> None:
    path = tmp_path / "JPCNN001.IMG"
    write_raw(path)
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    with pytest.raises(
        FaultyPicture, match=r"x\.IMG: truncated: 8,388,606 bytes; expected 2048 x 2048 numbers of 16 bits"
    ):
        read_raw(path, name="x.IMG")
    source = Jsrt(tmp_path, labels="nodule")
    assert [(fault.kind, fault.file) for fault in check_headers(source)] == [("truncated", "JPCNN001.IMG")]
    path.write_bytes(data + b"\0")
    with pytest.raises(FaultyPicture, match="unreadable: 8,388,609 bytes"):
        read_raw(path)
    path.write_bytes(b"\xff" + data[1:])  # as if the bytes were in the other order
    with pytest.raises(FaultyPicture, match=r"unreadable: values reach \d+; expected 12 bits, big-endian"):
        read_raw(path)


def test_missing_and_stray_files_are_named(root: Path) -> None:
    mask = root / "scratch" / "fold2" / "masks" / "left clavicle" / "JPCLN002.gif"
    mask.unlink()
    with pytest.raises(UserError, match=r"JPCLN002: masks of clavicles: .*right clavicle/JPCLN002\.gif; expected 2"):
        Jsrt(root)
    write_area(mask, block(height=20), mode="L")
    assert [(fault.kind, Path(fault.file).parent.name) for fault in check_headers(Jsrt(root))] == [
        ("wrong size", "left clavicle")
    ]
    write_picture(root / "png" / "jpcln001.png", 1)
    with pytest.raises(UserError, match=r"JPCLN001\.IMG\.png and png/jpcln001\.png; expected one picture of JPCLN001"):
        Jsrt(root)


def test_organs_of_an_option() -> None:
    assert choose_organs("left_lung; heart", where="x") == ["heart", "left lung"]
    assert choose_organs("", where="x", default=("heart",)) == ["heart"]
    with pytest.raises(UserError, match=r"^x: organs=lung: no organ 'lung'"):
        choose_organs("lung", where="x")
