"""Pictures with a mask file each: what all readers share, `masks:`, the horses, CamVid, and every mistake by its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import miniatures_masks
from tests.miniatures import write_picture
from tests.miniatures_masks import block_box, block_mask, write_lines, write_mask

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.headers import FaultyPicture
from partwise.data.readers import masked
from partwise.data.readers.masked import extent, plain_table, read_values, spell_out, translate, values_in
from partwise.data.sources import open_source


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_values(monkeypatch: pytest.MonkeyPatch) -> None:
    mask = torch.from_numpy(np.random.default_rng(0).choice([0, 3, 255, 17], (31, 17)).astype(np.uint8))
    assert values_in(mask) == {0, 3, 17, 255} == set(mask.unique().tolist())
    monkeypatch.setattr(masked, "BLOCK", 7)
    assert values_in(mask) == {0, 3, 17, 255} and values_in(mask[:0]) == set()


def test_translation() -> None:
    stored = torch.tensor([[1, 2], [3, 1]], dtype=torch.uint8)
    table = {1: 5, 2: 0, 3: 255}
    wanted = [[table[int(value)] for value in row] for row in stored]
    found = translate(stored, table, name="a.png")
    assert found.dtype == torch.uint8 and found.tolist() == wanted
    assert translate(stored[:0], table, name="a.png").shape == (0, 2)
    with pytest.raises(FaultyPicture, match=r"a\.png: .*mask values 2, 3; expected 0, 1"):
        translate(stored, {0: 0, 1: 1}, name="a.png")
    with pytest.raises(FaultyPicture, match=r"values 4, 5, 6, 7, 8, \.\.\.; expected 0 to 3, 255"):
        translate(torch.arange(11, dtype=torch.uint8)[None], plain_table(3), name="a.png")


def test_numbers_in_words() -> None:
    assert spell_out([0, 1, 2, 3, 255]) == "0 to 3, 255"
    assert spell_out({7, 3, 4}) == "3, 4, 7" and spell_out([]) == ""


def test_the_extent_of_an_object() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        inside = generator.random((7, 9)) < 0.05
        box = extent(torch.from_numpy(inside))
        rows, columns = np.nonzero(inside)
        wanted = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]] if len(rows) else None
        assert (None if box is None else box.tolist()) == wanted


def test_masks_by_value(tmp_path: Path) -> None:
    source = open_source(miniatures_masks.masks(tmp_path / "set").source)
    assert source.classes == ("3", "7") and source.multi_label
    assert [(record.split, record.labels) for record in source.records] == [
        ("train", (0,)),
        ("train", (0, 1)),
        ("train", ()),  # nothing but ground
        ("val", (1,)),
        ("test", (0,)),
        ("test", (1,)),
    ]
    assert source.records[0].file == "train/images/deep/0.jpg"
    mask = source.load(1).mask
    assert mask is not None and (mask.numpy() == block_mask(1, 2)).all()


def test_masks_by_name(tmp_path: Path) -> None:
    made = miniatures_masks.masks_flat(tmp_path / "set")
    source = open_source(made.source)
    assert source.classes == ("leaf", "stem", "root") and [r.labels for r in source.records] == [(0,), (0, 1), (1,)]
    assert {record.split for record in source.records} == {""}
    write_mask(made.root / "masks" / "1.png", block_mask(4))
    source = open_source(made.source)
    (fault,) = [fault for fault in check_source(source).faults if fault.serious]
    assert (fault.kind, fault.file) == ("unreadable", "masks/1.png") and "value 4; expected 0 to 3, 255" in fault.detail
    assert source.records[1].labels == () and list(source.faulty_masks) == [1] and check_headers(source) == [fault]


def test_masks_of_one_class(tmp_path: Path) -> None:
    for i in range(2):
        write_picture(tmp_path / "images" / f"{i}.jpg", i)
        write_mask(tmp_path / "masks" / f"{i}.png", block_mask(*[255] * i))
    with pytest.raises(UserError, match=r"only 0 \(ground\) and 255 \(void\).*say \?binary=true"):
        open_source(f"masks:{tmp_path}")
    write_picture(tmp_path / "masks" / "0.png", 1)
    with pytest.raises(UserError, match=r"no mask holds a class, and 1 cannot be used, such as masks/0\.png: .*RGB"):
        open_source(f"masks:{tmp_path}")
    write_mask(tmp_path / "masks" / "0.png", block_mask())
    source = open_source(f"masks:{tmp_path}?binary=true")
    assert source.classes == ("foreground",) and [record.labels for record in source.records] == [(), (0,)]
    mask = source.load(1).mask
    assert mask is not None and (mask.numpy() == block_mask(1)).all()
    write_lines(tmp_path / "classes.txt", ["__background__", "polyp"])
    assert open_source(f"masks:{tmp_path}?binary=true").classes == ("polyp",)
    write_lines(tmp_path / "classes.txt", ["a", "b"])
    with pytest.raises(UserError, match=r"classes\.txt: 2 classes, but binary=true"):
        open_source(f"masks:{tmp_path}?binary=true")


def test_masks_of_every_bad_kind_are_named(tmp_path: Path) -> None:
    write_lines(tmp_path / "classes.txt", ["a"])
    for i in range(9):
        write_picture(tmp_path / "images" / f"{i}.png", i)
        write_mask(tmp_path / "masks" / f"{i}.png", block_mask(1))
    masks = tmp_path / "masks"
    write_picture(masks / "1.png", 1)  # coloured
    write_mask(masks / "2.png", block_mask(1, width=31))
    (masks / "3.png").write_bytes(b"")
    write_picture(masks / "4.jpg", 1, mode="L")
    (masks / "4.png").unlink()
    (masks / "5.png").unlink()
    (masks / "6.png").write_text("words")
    Image.fromarray(np.full((24, 32), 300, np.uint16)).save(masks / "7.png")
    write_mask(masks / "8.png", block_mask(1))
    data = (masks / "8.png").read_bytes()
    (masks / "8.png").write_bytes(data[: len(data) // 2])
    source = open_source(f"masks:{tmp_path}")
    faults = {fault.file: fault for fault in check_source(source).faults if fault.serious}
    assert {file: fault.kind for file, fault in faults.items()} == {
        "masks/1.png": "unreadable",
        "masks/2.png": "wrong size",
        "masks/3.png": "empty",
        "masks/4.jpg": "unreadable",
        "images/5.png": "no label",
        "masks/6.png": "unreadable",
        "masks/7.png": "unreadable",
        "masks/8.png": "truncated",
    }
    assert "RGB" in faults["masks/1.png"].detail and "JPEG" in faults["masks/4.jpg"].detail
    assert sorted(source.faulty_masks) == [1, 3, 4, 6, 7, 8]
    quick = {fault.file: fault.kind for fault in check_headers(source)}
    assert quick == {file: fault.kind for file, fault in faults.items()}


def test_files_that_do_not_pair_are_named(tmp_path: Path) -> None:
    made = miniatures_masks.masks_flat(tmp_path / "set")
    (made.root / "images" / "1.png").unlink()
    with pytest.raises(UserError, match=r"masks/1\.png: no picture for it \(1 such masks\); expected .*images/1"):
        open_source(made.source)
    for suffix in (".png", ".jpg"):
        write_picture(made.root / "images" / f"1{suffix}", 1)
    with pytest.raises(UserError, match=r"images: 1\.jpg and 1\.png; expected one file of a name"):
        open_source(made.source)


def test_lists_of_classes_that_cannot_be(tmp_path: Path) -> None:
    made = miniatures_masks.masks_flat(tmp_path / "set")
    write_lines(made.root / "classes.txt", ["leaf", "stem", "leaf"])
    with pytest.raises(UserError, match="'leaf' stands there twice"):
        open_source(made.source)
    write_lines(made.root / "classes.txt", [f"class {i}" for i in range(255)])
    with pytest.raises(UserError, match="255 classes; a mask has room for 254"):
        open_source(made.source)


@pytest.mark.parametrize("side", [(1, 1), (1, 5000), (5000, 1), (5000, 5000)])
def test_the_smallest_and_the_largest_pictures(side: tuple[int, int], tmp_path: Path) -> None:
    for folder, value in (("images", 128), ("masks", 1)):
        (tmp_path / folder).mkdir()
        Image.fromarray(np.full(side, value, np.uint8)).save(tmp_path / folder / "a.png", compress_level=1)
    source = open_source(f"masks:{tmp_path}")
    sample = source.load(0)
    assert sample.mask is not None and sample.mask.shape == side and source.records[0].labels == (0,)
    assert check_headers(source) == []


def test_values_are_read_in_threads_by_position(tmp_path: Path) -> None:
    files = {i: f"{i}.png" for i in (7, 2, 5)}
    for i in (2, 7):
        write_mask(tmp_path / f"{i}.png", block_mask(i))
    found = read_values(tmp_path, files)
    assert found.values == {7: {0, 7}, 2: {0, 2}} and list(found.faults) == [5]
    assert found.labels(plain_table(6)) == {5: (), 7: (), 2: (1,)} and sorted(found.faults) == [5, 7]


def test_horses(tmp_path: Path) -> None:
    source = open_source(miniatures_masks.weizmann(tmp_path / "set").source)
    assert source.classes == ("horse",) and {record.label for record in source.records} == {0}
    assert [record.id for record in source.records if record.split == "test"] == ["horse003", "horse012"]
    sample = source.load(0)
    assert sample.boxes is not None and sample.boxes.tolist() == [list(block_box(0))]


def test_street_scenes(tmp_path: Path) -> None:
    made = miniatures_masks.camvid(tmp_path / "set")
    source = open_source(made.source)
    assert [record.labels for record in source.records] == [(0, 8), (1, 8), (0, 8), (0, 8)]
    mask = source.load(1).mask
    assert mask is not None and (mask.numpy() == block_mask(9, 255, ground=2)).all()
    write_mask(made.root / "CamVid" / "valannot" / "0001TP_006690.png", block_mask(12))
    (made.root / "CamVid" / "testannot" / "0001TP_006690.png").unlink()
    source = open_source(made.source)
    faults = [(fault.kind, fault.file) for fault in check_source(source).faults if fault.serious]
    assert faults == [("missing", "testannot/0001TP_006690.png"), ("unreadable", "valannot/0001TP_006690.png")]
    write_lines(made.root / "CamVid" / "val.txt", ["val/0001TP_006690.png"])
    with pytest.raises(UserError, match=r"val\.txt: .*expected the paths of a picture and its mask"):
        open_source(made.source)


@pytest.mark.data
def test_real_horses(pack: Callable[[str], Path]) -> None:
    source = open_source(f"weizmann:{pack('weizmann_horses')}")
    assert Counter(record.split for record in source.records) == {"train": 277, "test": 50}
    report = check_source(source)
    assert report.num_unusable == 0 and report.num_masks == 327 and check_headers(source) == []
    assert all(source.load(index).boxes is not None for index in range(0, 327, 20))


@pytest.mark.data
def test_real_street_scenes(pack: Callable[[str], Path]) -> None:
    source = open_source(f"camvid:{pack('camvid_small')}")
    assert Counter(record.split for record in source.records) == {"train": 184, "val": 51, "test": 78}
    report = check_source(source)
    assert report.num_unusable == 0 and report.sizes == {(180, 240): 313} and check_headers(source) == []
    counts = dict(zip(source.classes, np.sum(list(report.counts.values()), axis=0).tolist(), strict=True))
    assert counts["Road"] > 300 and counts["Bicyclist"] < counts["Sky"]
    mask = source.load(0).mask
    assert mask is not None and mask.min() >= 1


@pytest.mark.data
def test_the_horses_as_plain_masks(pack: Callable[[str], Path], tmp_path: Path) -> None:
    horses = open_source(f"weizmann:{pack('weizmann_horses')}")
    for new, old in (("images", "horse"), ("masks", "mask")):
        (tmp_path / new).symlink_to(horses.root / old)
    source = open_source(f"masks:{tmp_path}")
    assert source.classes == ("1",) and len(source) == 327 and {record.labels for record in source.records} == {(0,)}
