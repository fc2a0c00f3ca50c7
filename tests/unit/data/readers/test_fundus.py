"""Retina photographs: four layouts, fields of view, both observers, what does not fit, and the real pack."""

from __future__ import annotations

import gzip
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import miniatures_chest
from tests.miniatures_chest import VESSELS, VIEW, block, write_area

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.readers.fundus import Fundus
from partwise.data.splits import split_indices


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return miniatures_chest.fundus(tmp_path / "set").root


def test_two_sets_side_by_side(root: Path) -> None:
    source = Fundus(root)
    assert source.classes == ("vessel",) and not source.multi_label
    assert [(record.id, record.split, record.group) for record in source.records] == [
        ("CHASEDB1/Image_01L.jpg", "train", "chase 01"),
        ("CHASEDB1/Image_01R.jpg", "train", "chase 01"),
        ("CHASEDB1/Image_11L.jpg", "test", "chase 11"),
        ("DRIVE/training/images/21_training.tif", "train", ""),
        ("DRIVE/training/images/22_training.tif", "train", ""),
        ("DRIVE/test/images/01_test.tif", "test", ""),
    ]
    assert Fundus(root, set="drive").records[0].id == "DRIVE/training/images/21_training.tif"
    assert Fundus(root / "DRIVE").records[0].id == "training/images/21_training.tif"
    with pytest.raises(UserError, match="another layout; expected DRIVE/"):
        Fundus(root, set="hrf")


def test_vessels_and_the_field_of_view(root: Path) -> None:
    source = Fundus(root)
    chase, drive = source.load(0), source.load(3)
    assert chase.mask is not None and drive.mask is not None and drive.parts is None and drive.boxes is None
    assert ((chase.mask == 1).numpy() == block(VESSELS)).all() and 255 not in chase.mask
    assert ((drive.mask == 1).numpy() == block(VESSELS)).all()
    assert ((drive.mask == 255).numpy() == ~block(VIEW)).all()


def test_the_second_observer(root: Path) -> None:
    source = Fundus(root, observer="second")
    assert [record.has_mask for record in source.records] == [True, True, True, False, False, True]
    for index in (0, 5):
        mask = source.load(index).mask
        assert mask is not None and ((mask == 1).numpy() == block((5, 5, 9, 9))).all()
    assert source.load(3).mask is None and source.fingerprint() != Fundus(root).fingerprint()


def test_test_pictures_without_drawings(root: Path) -> None:
    (root / "DRIVE" / "test" / "1st_manual" / "01_manual1.gif").unlink()
    source = Fundus(root, set="drive")
    assert [record.has_mask for record in source.records] == [True, True, False] and source.load(2).mask is None


def test_stare(tmp_path: Path) -> None:
    root = miniatures_chest.fundus_stare(tmp_path / "set").root
    for observer in ("first", "second"):
        mask = Fundus(root, observer=observer).load(1).mask  # type: ignore[arg-type]
        assert mask is not None and (mask.bool().numpy() == block(VESSELS)).all()
    picture = root / "STARE" / "stare-images" / "im0001.ppm"
    (picture.parent / "im0001.ppm.gz").write_bytes(gzip.compress(picture.read_bytes()))
    with pytest.raises(UserError, match=r"stare-images: holds \.ppm\.gz; unpack pictures and labels with gunzip"):
        Fundus(root)


def test_hrf(tmp_path: Path) -> None:
    source = Fundus(miniatures_chest.fundus_hrf(tmp_path / "set").root)
    mask = source.load(0).mask
    assert mask is not None and ((mask == 255).numpy() == ~block(VIEW)).all() and int((mask == 1).sum()) == 64
    assert not any(record.has_mask for record in Fundus(source.root, observer="second").records)


def test_faulty_drawings_are_named(root: Path) -> None:
    write_area(root / "DRIVE" / "training" / "mask" / "21_training_mask.gif", block(height=20), mode="L")
    write_area(root / "CHASEDB1" / "Image_01L_1stHO.png", block(width=20))
    wanted = [("wrong size", "Image_01L_1stHO.png"), ("wrong size", "21_training_mask.gif")]
    source = Fundus(root)
    for faults in (check_headers(source), sorted(check_source(source).faults, key=lambda fault: fault.index or 0)):
        serious = [(fault.kind, Path(fault.file).name) for fault in faults if fault.serious]
        assert serious == wanted


@pytest.mark.data
def test_real_vessels(pack: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = Fundus(pack("fundus_vessels"))
    count = Counter((record.file.partition("/")[0], record.split) for record in source.records)
    assert count == {("DRIVE", "train"): 20, ("DRIVE", "test"): 20, ("CHASEDB1", "train"): 20, ("CHASEDB1", "test"): 8}
    assert {name: len(part) for name, part in split_indices(source).items()} == {"train": 36, "val": 4, "test": 28}
    assert check_headers(source) == [] and all(record.has_mask for record in source.records)
    for index in range(0, len(source), 7):
        sample = source.load(index)
        assert sample.mask is not None
        seen = sample.mask != 255
        if "DRIVE" in sample.id:
            assert sample.mask.shape == (584, 565) and 0.6 < float(seen.float().mean()) < 0.75
        else:
            assert sample.mask.shape == (960, 999) and seen.all()
        assert 0.04 < float((sample.mask == 1).sum() / seen.sum()) < 0.2
    second = Fundus(pack("fundus_vessels"), observer="second")
    assert Counter(record.has_mask for record in second.records) == {True: 48, False: 20}
