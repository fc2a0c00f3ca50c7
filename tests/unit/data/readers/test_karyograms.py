"""Karyograms cut by their boxes: which pixels, which way round, every mistake by its line, and the real pack."""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests import miniatures_chromosomes as mini
from tests.miniatures_chromosomes import karyogram, write_crop

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.headers import FaultyPicture
from partwise.data.readers.karyograms import KEPT, Karyograms, darken
from partwise.data.sources import open_source
from partwise.ops.iscn import TYPES

HEADER = "file,class_name,class,x1,y1,x2,y2"


def opened(source: str) -> Karyograms:
    found = open_source(source)
    assert isinstance(found, Karyograms)
    return found


def write_set(folder: Path, rows: list[str], *, pixels: np.ndarray | None = None) -> Path:
    write_crop(folder / "k.png", karyogram(1, [(5, 5, 15, 25), (20, 5, 30, 25)]) if pixels is None else pixels)
    (folder / "boxes.csv").write_text("\n".join([HEADER, *rows]))
    return folder


def darkened_by_loops(picture: np.ndarray, boxes: list[tuple[int, int, int, int]]) -> np.ndarray:
    """Pixel by pixel, percentiles from sorted lists with the place between two neighbours."""

    def percentile(values: list[int], share: float) -> float:
        values = sorted(values)
        place = share * (len(values) - 1)
        low = int(place)
        high = min(low + 1, len(values) - 1)
        return values[low] + (place - low) * (values[high] - values[low])

    height, width = picture.shape
    everywhere = [(y, x) for y in range(height) for x in range(width)]
    boxed = [(y, x) for y, x in everywhere if any(x1 <= x < x2 and y1 <= y < y2 for x1, y1, x2, y2 in boxes)]
    ground = percentile([int(picture[place]) for place in everywhere], 0.5)
    bright = percentile([int(picture[place]) for place in boxed], 0.99)
    found = np.zeros_like(picture)
    for place in everywhere:
        share = min(1.0, max(0.0, (int(picture[place]) - ground) / (bright - ground)))
        found[place] = round(255 * (1 - share))
    return found


def test_every_box_is_a_chromosome(tmp_path: Path) -> None:
    source = opened(mini.karyograms(tmp_path / "set").source)
    assert source.classes == TYPES and source.channels == 1 and len(source) == 9
    assert [record.id for record in source.records[:5]] == [
        *(f"karyotype_0.png#{n}" for n in (1, 2, 3, 4)),
        "karyotype_1.png#1",
    ]
    assert [record.label for record in source.records] == [0, 0, 7, 23, 0, 0, 7, 23, 0]
    assert all(r.case == r.group == r.file and r.polarity == 1 and r.boxes == () for r in source.records)
    assert source.cuts[:2] == [(5, 10, 16, 45), (20, 12, 31, 46)]  # half pixels are rounded outwards
    assert source.pad == round(35 / 0.5625)  # heights of chromosome 1: 35, 34, 35, 34, 35
    assert source.load(3).image.shape == (1, source.pad, source.pad)


def test_the_side_is_of_the_median_chromosome_1(tmp_path: Path) -> None:
    rows = ["k.png,1,1,5,5,15,23", "k.png,2,2,20,5,30,40", "k.png,1,1,20,5,30,25"]
    assert opened(f"karyograms:{write_set(tmp_path, rows)}").pad == round(19 / 0.5625)
    assert opened(f"karyograms:{write_set(tmp_path, rows)}?pad=64").load_image(1).shape == (1, 64, 64)
    with pytest.raises(UserError, match="pad=-3; expected a side"):
        opened(f"karyograms:{tmp_path}?pad=-3")


@pytest.mark.parametrize("ground", [0, 60])
def test_dark_on_white(ground: int, tmp_path: Path) -> None:
    boxes = [(5, 10, 16, 45), (20, 12, 31, 46), (25, 30, 40, 50)]  # the last overlaps its neighbour
    pixels = karyogram(3, boxes, ground=ground)
    noise = np.random.default_rng(0).integers(-4, 5, pixels.shape)
    pixels = (pixels.astype(int) + noise).clip(0, 255).astype(np.uint8)
    rows = [f"k.png,{i},{i},{','.join(map(str, box))}" for i, box in enumerate(boxes, 1)]
    source = opened(f"karyograms:{write_set(tmp_path, rows, pixels=pixels)}")
    wanted = darkened_by_loops(pixels, boxes)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        crop = source.crop(index)[0].numpy()
        assert np.abs(crop.astype(int) - wanted[y1:y2, x1:x2]).max() <= 1  # halves may round either way
        assert crop[0, 0] > 245 and crop.min() < 30


def test_percentiles_leave_out_what_is_round_the_boxes() -> None:
    boxes = [(10, 10, 20, 40)]
    plain = karyogram(1, boxes)
    framed = plain.copy()
    framed[50:55] = 255
    first, second = (darken(picture[None], boxes, name="k")[0] for picture in (plain, framed))
    assert (first[:50] == second[:50]).all() and (second[50:55] == 0).all()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["k.png,23,23,1,2,3,4"], ["line 2", "type '23'", "expected 1 to 22, X or Y"]),
        (["k.png,X,24,1,2,3,4"], ["line 2", "class 24 is not that of class_name X, 23"]),
        (["k.png,1,1,1,2,3,four"], ["line 2", "box '1 2 3 four'", "x1, y1, x2, y2 in pixels"]),
        (["k.png,1,1,1,2,inf,4"], ["line 2", "in pixels"]),
        (["k.png,1,1,nan,2,3,4"], ["line 2", "in pixels"]),
        (["k.png,1,1,3,2,3,4"], ["line 2", "is empty"]),
        ([",1,1,1,2,3,4"], ["line 2", "'file' is empty"]),
        ([], ["no row below the header"]),
    ],
)
def test_mistakes_in_the_table_are_named(rows: list[str], words: list[str], tmp_path: Path) -> None:
    write_set(tmp_path, rows)
    with pytest.raises(UserError) as caught:
        Karyograms(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "boxes.csv")) and "\n" not in message
    for word in words:
        assert word in message


def test_boxes_that_leave_their_picture(tmp_path: Path) -> None:
    rows = ["k.png,1,1,5,5,15,25", "k.png,2,2,100,5,121,25", "k.png,3,3,100,5,125,25", "k.png,4,4,-9,5,0.5,25"]
    source = opened(f"karyograms:{write_set(tmp_path, rows)}")
    assert source.crop(1).shape == (1, 20, 20)  # a pixel outside is rounding
    faults = check_headers(source)
    assert [(fault.kind, fault.index) for fault in faults] == [("unreadable", 2), ("unreadable", 3)]
    assert "the box of k.png#3, (100, 5, 125, 25), leaves the picture of 120 x 60" in faults[0].detail


def test_a_karyogram_that_is_not_bright_on_dark_is_a_fault(tmp_path: Path) -> None:
    pixels = 255 - karyogram(1, [(5, 5, 15, 25)])
    source = opened(f"karyograms:{write_set(tmp_path, ['k.png,1,1,5,5,15,25'], pixels=pixels)}")
    with pytest.raises(FaultyPicture, match=r"^k\.png: .*expected bright on dark"):
        source.load(0)
    with pytest.raises(FaultyPicture, match="none of its boxes lies in the picture"):
        darken(pixels[None], [(500, 500, 510, 510)], name="k")


def test_karyograms_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [f"{number}.png" for number in range(KEPT + 1)]
    for number, file in enumerate(files):
        write_crop(tmp_path / file, karyogram(number, [(5, 5, 15, 25)]))
    rows = [f"{file},{name},,{5},5,{15},25" for file in files for name in ("1", "X")]
    (tmp_path / "boxes.csv").write_text("\n".join([HEADER, *rows]))
    source = Karyograms(tmp_path)
    read: list[str] = []
    original = source._read
    monkeypatch.setattr(source, "_read", lambda file: (read.append(file), original(file))[1])
    for index in range(len(source)):
        source.crop(index)
    assert read == files
    source.crop(3)
    source.crop(0)
    source.crop(3)  # asked for again, it was not the next to go
    assert read == [*files, files[0]]
    monkeypatch.undo()
    assert (pickle.loads(pickle.dumps(source)).crop(5) == source.crop(5)).all()
    source.crop(5).zero_()
    assert source.crop(5).any()  # what is kept is not what is given


def test_the_fingerprint_covers_the_boxes(tmp_path: Path) -> None:
    made = mini.karyograms(tmp_path / "set")
    before = opened(made.source).fingerprint()
    table = made.root / "boxes.csv"
    table.write_text(table.read_text().replace("Y,24,60,", "Y,24,59,", 1))
    assert opened(made.source).fingerprint() != before


@pytest.mark.data
def test_ninety_karyograms(pack: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = opened(f"karyograms:{pack('karyograms_qband')}")
    assert len(source) == 4_140 and source.pad == 110  # 62 px over 0.5625
    assert Counter(Counter(r.case for r in source.records).values()) == {46: 88, 45: 1, 47: 1}
    labels = Counter(record.label for record in source.records)
    assert (labels[0], labels[22], labels[23]) == (179, 138, 41)
    report = check_source(source)
    assert report.num_unusable == 0 and report.sizes == {(110, 110): 4_140} and report.num_groups == 90
    with Image.open(source.root / source.records[0].file) as image:
        stored = np.array(image.convert("L")).astype(float)
    x1, y1, x2, y2 = source.cuts[0]
    crop = source.crop(0)[0].numpy().astype(float)
    assert np.corrcoef(crop.ravel(), stored[y1:y2, x1:x2].ravel())[0, 1] < -0.95  # what shone is dark
    means = source.images(range(0, 4_140, 20)).float().mean(dim=(1, 2, 3))
    assert means.min() > 200  # on white, whatever the ground was
