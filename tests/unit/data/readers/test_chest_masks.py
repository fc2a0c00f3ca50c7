"""The pack of masks and contours: organs, what covers what, landmarks, the split, every mistake, and the real packs."""

from __future__ import annotations

import shutil
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import miniatures_chest
from tests.miniatures_chest import ORGANS, block, write_area
from torch import Tensor

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.headers import FaultyPicture
from partwise.data.pictures import decode_mask
from partwise.data.readers.chest_masks import CONTOURS, LANDMARKS, ChestMasks
from partwise.data.readers.coco_shapes import fill_polygon
from partwise.data.sample import Sample


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return miniatures_chest.cxrmasks(tmp_path / "set").root


def whole(sample: Sample, value: int) -> Tensor:
    """All of an organ, by the rule of the documentation."""
    assert sample.mask is not None and sample.parts is not None
    return (sample.mask == value) | (sample.parts == value)


def index_of(source: ChestMasks, case: str) -> int:
    return next(i for i, record in enumerate(source.records) if record.group == case)


def test_what_all_pictures_have(root: Path) -> None:
    source = ChestMasks(root)
    assert source.classes == ("heart", "right lung", "left lung") and source.multi_label
    assert all(record.labels == (0, 1, 2) and record.has_mask for record in source.records)
    assert [record.group for record in source.records[:2]] == ["JPCLN001", "JPCLN002"]
    assert {record.group: record.split for record in source.records} == {
        "JPCLN001": "val", "JPCLN002": "train", "JPCLN016": "train", "JPCNN005": "test", "JPCNN012": "train",
        "wingspan_000": "test", "wingspan_001": "val", "wingspan_002": "train",
    }  # fmt: skip


def test_organs_cover_one_another_and_nothing_is_lost(root: Path) -> None:
    source = ChestMasks(root, part="jsrt")
    assert source.classes == ("heart", "right lung", "left lung", "clavicles")
    sample = source.load(index_of(source, "JPCLN002"))
    assert sample.mask is not None and sample.parts is not None
    clavicles = block(ORGANS["right clavicle"], ORGANS["left clavicle"])
    for value, inside in enumerate((block(ORGANS["heart"]), block(ORGANS["right lung"]), block(ORGANS["left lung"]))):
        assert (whole(sample, value + 1).numpy() == inside).all()
    assert ((sample.mask == 4).numpy() == clavicles).all() and not (sample.parts == 4).any()
    assert (sample.mask.numpy()[block(ORGANS["heart"])] == 1).all()  # none of the clavicles lies on it


def test_some_organs(root: Path) -> None:
    source = ChestMasks(root, part="jsrt", organs="clavicles;right_lung")
    assert source.classes == ("right lung", "clavicles")
    sample = source.load(0)
    assert sample.mask is not None and set(sample.mask.unique().tolist()) == {0, 1, 2}
    heart = ChestMasks(root, organs="heart").load(0).mask
    assert heart is not None and (heart.bool().numpy() == block(ORGANS["heart"])).all()
    with pytest.raises(
        UserError, match="no organ 'hart'; expected some of heart;right lung;left lung;clavicles; did you"
    ):
        ChestMasks(root, organs="hart")


def test_clavicles_need_contours(root: Path) -> None:
    source = ChestMasks(root, organs="clavicles")
    masked = {record.group for record in source.records if record.has_mask}
    assert masked == {"JPCLN001", "JPCLN002", "JPCNN005", "JPCNN012"}
    assert source.load(index_of(source, "wingspan_000")).mask is None
    shutil.rmtree(root / "chest_xray_landmarks")
    assert ChestMasks(root, part="jsrt").classes == ("heart", "right lung", "left lung")
    with pytest.raises(UserError, match="clavicles need the pack chest_xray_landmarks"):
        ChestMasks(root, organs="clavicles")


def test_landmarks_in_the_frame_of_the_picture(root: Path) -> None:
    source = ChestMasks(root)
    sample = source.load(index_of(source, "JPCLN002"))
    assert sample.landmarks is not None and sample.landmarks.shape == (len(LANDMARKS), 2) == (166, 2)
    assert source.landmark_names == LANDMARKS and "left clavicle 22" in LANDMARKS
    x1, y1, x2, y2 = ORGANS["heart"]
    heart = sample.landmarks[[name.startswith("H ") for name in LANDMARKS]]
    assert sample.landmarks.dtype == torch.float32 and len(heart) == 26
    assert heart.min(dim=0)[0].tolist() == pytest.approx([x1, y1]) and heart.max(dim=0)[0].tolist() == pytest.approx(
        [x2, y2]
    )
    for case in ("JPCLN016", "wingspan_002"):
        assert source.load(index_of(source, case)).landmarks is None and not source.has_landmarks(
            index_of(source, case)
        )


@pytest.mark.parametrize("place", ["beside the folder", "archive in a folder", "beside the archive"])
def test_where_contours_are_looked_for(place: str, root: Path) -> None:
    named = root / "chest_xray"
    if place != "beside the folder":
        with tarfile.open(root / "packed.tar.gz", "w:gz") as archive:
            archive.add(root / "chest_xray_landmarks", "chest_xray_landmarks")
        shutil.rmtree(root / "chest_xray_landmarks")
        (root / "chest_xray_landmarks").mkdir()
        (root / "packed.tar.gz").rename(root / "chest_xray_landmarks" / "chest_xray_landmarks.tar.gz")
    if place == "beside the archive":
        (root / "chest_xray_masks").mkdir()
        named = root / "chest_xray_masks" / "chest_xray_masks.tar"
        with tarfile.open(named, "w") as archive:
            archive.add(root / "chest_xray", "chest_xray")
    assert ChestMasks(named, part="jsrt").classes[-1] == "clavicles"


def test_the_fingerprint_follows_organs_and_contours(root: Path) -> None:
    prints = {
        source.fingerprint()
        for source in (ChestMasks(root), ChestMasks(root, part="jsrt"), ChestMasks(root, organs="heart"))
    }
    shutil.rmtree(root / "chest_xray_landmarks")
    prints.add(ChestMasks(root).fingerprint())
    assert len(prints) == 4


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("jsrt/img/JPCLN01.jpg,jsrt,1,", r"line 10: file 'jsrt/img/JPCLN01\.jpg' of source 'jsrt'; expected such as"),
        ("jsrt/img/JPCLN003.jpg,wingspan,1,", r"line 10: file 'jsrt/img/JPCLN003\.jpg' of source 'wingspan'"),
        ("jsrt/img/JPCLN001.jpg,jsrt,1,", r"line 10: jsrt/img/JPCLN001\.jpg stands there twice"),
    ],
)
def test_bad_rows_are_named(row: str, words: str, root: Path) -> None:
    with (root / "chest_xray" / "labels.csv").open("a") as table:
        table.write(f"{row}\n")
    with pytest.raises(UserError, match=rf"labels\.csv: {words}"):
        ChestMasks(root)


def test_a_part_that_is_not_there(root: Path) -> None:
    labels = root / "chest_xray" / "labels.csv"
    labels.write_text("\n".join(line for line in labels.read_text().splitlines() if "wingspan" not in line))
    assert len(ChestMasks(root)) == 5
    with pytest.raises(UserError, match="no picture of part=wingspan"):
        ChestMasks(root, part="wingspan")


def test_faulty_masks_and_contours_are_named(root: Path) -> None:
    masks = root / "chest_xray" / "jsrt" / "mask"
    (masks / "heart" / "JPCLN001.png").unlink()
    write_area(masks / "left_lung" / "JPCLN002.png", block(height=20))
    source = ChestMasks(root)
    wanted = [("missing", "heart/JPCLN001.png"), ("wrong size", "left_lung/JPCLN002.png")]
    for faults in (check_headers(source), [fault for fault in check_source(source).faults if fault.serious]):
        assert [(fault.kind, fault.file.removeprefix("jsrt/mask/")) for fault in faults] == wanted
    contours = root / "chest_xray_landmarks"
    np.save(contours / "RL" / "JPCNN012.npy", np.zeros((43, 2)))
    with pytest.raises(FaultyPicture, match=r"RL/JPCNN012\.npy: unreadable: \(43, 2\) float64; expected 44 points"):
        source.load(index_of(source, "JPCNN012"))
    (contours / "RL" / "JPCNN012.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(FaultyPicture, match=r"RL/JPCNN012\.npy: truncated"):
        source.load(index_of(source, "JPCNN012"))
    (contours / "H" / "JPCNN012.npy").unlink()
    with pytest.raises(UserError, match=r"H/JPCNN012\.npy: not there, but JPCNN012 has other contours"):
        ChestMasks(root)


def test_pickled_contours_are_not_read(root: Path) -> None:
    np.save(root / "chest_xray_landmarks" / "H" / "JPCLN001.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(FaultyPicture, match=r"H/JPCLN001\.npy"):
        ChestMasks(root).load(0)


@pytest.mark.data
def test_real_organs(pack: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = ChestMasks(pack("chest_xray_masks"))
    assert len(source) == 506 and source.classes == ("heart", "right lung", "left lung")
    jsrt = [record for record in source.records if record.group.startswith("JPC")]
    assert Counter(record.split for record in jsrt) == {"train": 173, "val": 26, "test": 48}
    rest = [record for record in source.records if record not in jsrt]
    assert Counter(record.split for record in rest) == {"train": 181, "val": 26, "test": 52}
    assert check_headers(source) == []
    for index in range(0, len(source), 25):
        sample = source.load(index)
        assert sample.image.shape == (3, 512, 512)
        for value, organ in enumerate(source.classes, start=1):
            file = (
                source.records[index].file.replace("/img/", f"/mask/{organ.replace(' ', '_')}/").replace(".jpg", ".png")
            )
            assert torch.equal(whole(sample, value), decode_mask(source.root / file).bool())


@pytest.mark.data
def test_real_clavicles_and_contours(
    pack: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    pack("chest_xray_landmarks")
    source = ChestMasks(pack("chest_xray_masks"), part="jsrt")
    assert source.classes[-1] == "clavicles" and len(source) == 247
    assert [record.group for record in source.records if not record.has_mask] == ["JPCLN016"]
    starts = dict(zip(CONTOURS, np.cumsum([0, *CONTOURS.values()]), strict=False))
    overlaps = {"RL": [], "LL": [], "H": []}
    for index in range(1, len(source), 30):
        sample = source.load(index)
        assert sample.mask is not None and sample.landmarks is not None
        assert 0.005 < float((sample.mask == 4).float().mean()) < 0.05
        for folder, value in (("RL", 2), ("LL", 3), ("H", 1)):
            points = sample.landmarks[starts[folder] : starts[folder] + CONTOURS[folder]].numpy()
            filled = np.zeros((512, 512), bool)
            window, pixels = fill_polygon((512, 512), points)
            filled[window] = pixels
            mask = whole(sample, value).numpy()
            overlaps[folder].append((filled & mask).sum() / (filled | mask).sum())
        right, left = (sample.landmarks[starts[f] : starts[f] + 23, 0].mean() for f in ("RCLA", "LCLA"))
        assert right < left  # the patient's right is on the left of the picture
    assert all(min(values) > 0.97 and np.mean(values) > 0.985 for values in overlaps.values())
