"""Chromosomes: each layout on a miniature, every mistake by its line, and the counts of the real packs."""

from __future__ import annotations

import csv
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests import miniatures_chromosomes as mini
from tests.miniatures import write_picture
from tests.miniatures_chromosomes import chromosome, malformed, write_bytes, write_crop

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.headers import FaultyPicture
from partwise.data.readers.chromosomes import Chromosomes
from partwise.data.sources import open_source
from partwise.ops.iscn import TYPES

HEADER = "file,type,polarity,case,specimen,split"
TALLEST = 43
"""Height of every chromosome 1 of the miniatures."""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def opened(source: str) -> Chromosomes:
    found = open_source(source)
    assert isinstance(found, Chromosomes)
    return found


def record_of(source: Chromosomes, file: str) -> int:
    return [record.file for record in source.records].index(file)


# -- layouts -------------------------------------------------------------------------------------------------------------


def test_a_table(tmp_path: Path) -> None:
    source = opened(mini.chromosomes_table(tmp_path / "set").source)
    assert source.classes == TYPES and source.channels == 1 and not source.inverted
    assert source.karyotypes == {"0.1": "47,XY,+21", "1.1": "", "2.1": ""}
    first, last = source.records[0], source.records[-1]
    assert (first.id, first.label, first.polarity, first.case, first.group, first.split) == (
        "cells/0.1/1_0.png", 0, 1, "0.1", "0", "train",
    )  # fmt: skip
    assert (last.label, last.polarity, last.case, last.group, last.split) == (23, 0, "2.1", "2", "test")
    assert (source.crop(0)[0].numpy() == chromosome(1, TALLEST)).all()


def test_cir_net(tmp_path: Path) -> None:
    source = opened(mini.chromosomes_cir_net(tmp_path / "set").source)
    assert source.classes == TYPES and source.root.name == "DataNew" and not source.inverted
    assert Counter(record.label for record in source.records) == dict.fromkeys(range(24), 2)
    assert {(r.case, r.group, r.polarity) for r in source.records} == {("56131_115966_1341591", "56131", 1)}
    for number, copy, suffix in ((1, 1, "tiff"), (2, 2, "png"), (3, 1, "tiff"), (24, 2, "tiff")):
        index = record_of(source, f"{number}/{number}_{copy}_56131_115966_1341591.{suffix}")
        assert source.records[index].label == number - 1
        assert (source.crop(index)[0].numpy() == chromosome(10 * number + copy, 44 - number)).all()
    assert {source.file_header(i).format for i in range(4, 8)} <= {"TIFF", "PNG"}


def test_folders_of_cir_net_may_have_leading_zeros(tmp_path: Path) -> None:
    for folder, name in (("01", "1_1_7_8_9.png"), ("10", "10_1_7_8_9.png"), ("10", "1_1_7_8_9.png")):
        write_crop(tmp_path / folder / name, chromosome(1))
    source = Chromosomes(tmp_path)
    assert [record.label for record in source.records] == [0, 9]
    assert source.left_out == {"10/1_1_7_8_9.png": "not named as the crops of this layout"}


def test_bioimlab(tmp_path: Path) -> None:
    made = mini.chromosomes_bioimlab(tmp_path / "set")
    source = opened(made.source)
    assert source.inverted and {record.polarity for record in source.records} == {None}
    counts = {cell: Counter(r.label for r in source.records if r.case == cell) for cell in ("12", "male 3")}
    autosomes = dict.fromkeys(range(22), 2)
    assert counts == {"12": autosomes | {22: 2}, "male 3": autosomes | {22: 1, 23: 1}}
    assert all(record.group == record.case for record in source.records)
    first = record_of(source, "12/12 1a.bmp")
    assert (source.crop(first)[0].numpy() == 255 - chromosome(0, TALLEST, black=True)).all()
    assert not opened(f"{made.source}?ground=white").inverted
    tight = write_crop(tmp_path / "tight" / "3" / "3 1a.bmp", np.full((9, 4), 200, np.uint8))
    assert Chromosomes(tight.parents[1]).inverted  # by the layout, whatever borders show


def test_cells(tmp_path: Path) -> None:
    made = mini.chromosomes_cells(tmp_path / "set")
    folder = made.root / "97002569.11.tiff"
    (folder / "clase9" / "clase9_0_97002569.11.tiff").write_bytes(b"")
    source = opened(made.source)
    assert {(r.case, r.group, r.polarity) for r in source.records} == {
        ("97002194.14", "97002194", 1),
        ("97002569.11", "97002569", 1),
    }
    assert list(source.left_out) == ["97002569.11.tiff/clase25/clase25_0_97002569.11.tiff"]
    assert "type 25 is none of 1 to 24" in next(iter(source.left_out.values()))
    coloured = record_of(source, "97002194.14.tiff/clase4/clase4_0_97002194.14.tiff")
    assert source.file_header(coloured).mode == "RGBA"
    assert (source.crop(coloured)[0].numpy() == chromosome(4, 40)).all()
    assert [(fault.kind, fault.file) for fault in check_headers(source)] == [
        ("empty", "97002569.11.tiff/clase9/clase9_0_97002569.11.tiff")
    ]


def test_plain_folders(tmp_path: Path) -> None:
    made = mini.chromosomes_plain(tmp_path / "set")
    source = opened(made.source)
    assert source.classes == () and {record.label for record in source.records} == {None}
    assert Counter((r.case, r.group) for r in source.records) == {("a", "a"): 24, ("b", "b"): 24}
    one = opened(f"chromosomes:{made.root / 'b'}")
    assert {(r.case, r.polarity) for r in one.records} == {("b", None)} and len(one) == 24
    write_crop(made.root / "a" / "deep" / "x.png", chromosome(1))
    assert list(opened(made.source).left_out) == ["a/deep/x.png"]
    write_crop(made.root / "x.png", chromosome(1))
    with pytest.raises(UserError, match=r"holds crops \(x\.png\) beside folders of crops \(a/crop01\.png\)"):
        opened(made.source)


def test_a_table_below_is_not_taken_for_a_case(tmp_path: Path) -> None:
    (tmp_path / "README.txt").write_text("about")
    write_crop(tmp_path / "set" / "a.png", chromosome(1))
    (tmp_path / "set" / "labels.csv").write_text(f"{HEADER}\na.png,7,1,c,s,\n")
    assert [record.label for record in Chromosomes(tmp_path).records] == [6]


@pytest.mark.parametrize("ground", ["auto", "white", "black"])
@pytest.mark.parametrize("black", [True, False])
def test_grounds(ground: str, black: bool, tmp_path: Path) -> None:
    for seed in range(5):
        write_crop(tmp_path / f"{seed}.png", chromosome(seed, black=black))
    (tmp_path / "4.png").write_bytes(b"")
    source = opened(f"chromosomes:{tmp_path}?ground={ground}")
    assert source.inverted == (black if ground == "auto" else ground == "black")
    if ground == "auto":
        assert (source.crop(0)[0].numpy() == chromosome(0)).all() or black
        assert source.load_image(0)[0, 0, 0] == 255 and source.crop(0)[0, 0, 0] == 255


# -- the frame -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", mini.MAKERS["chromosomes"], ids=lambda maker: maker.__name__)
def test_one_white_frame(maker: Callable[[Path], mini.Miniature], tmp_path: Path) -> None:
    made = maker(tmp_path / "set")
    source = opened(made.source)
    wanted = round((TALLEST if source.classes else TALLEST - 1) / 0.5625)
    assert source.pad == wanted and source.image_size == (wanted, wanted)
    frames = source.images(range(len(source)))
    assert frames.shape == (len(source), 1, wanted, wanted)
    assert (frames[:, :, 0] == 255).all() and (frames[:, :, :, -1] == 255).all()
    for index, crop in ((index, source.crop(index)) for index in range(len(source))):
        _, height, width = crop.shape
        top, left = (wanted - height) // 2, (wanted - width) // 2
        assert torch.equal(frames[index, :, top : top + height, left : left + width], crop)
        assert (255 - frames[index].long()).sum() == (255 - crop.long()).sum()


def test_a_given_side(tmp_path: Path) -> None:
    made = mini.chromosomes_table(tmp_path / "set")
    source = opened(f"{made.source}?pad=20")
    assert source.load_image(0).shape == (1, 20, 20) and source.crop(0).shape == (1, TALLEST, 9)
    assert (source.load_image(0)[0, :, :4] > 250).all()  # 43 x 9 becomes 20 x 4
    assert check_headers(source) == [] and source.fingerprint() != opened(made.source).fingerprint()
    with pytest.raises(UserError, match=r"pad=-1; expected a side in pixels, or 0"):
        opened(f"{made.source}?pad=-1")
    with pytest.raises(UserError, match="expected a whole number"):
        opened(f"{made.source}?pad=big")


def test_a_set_of_which_nothing_can_be_read_opens_and_names_it(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_text("no picture")
    source = Chromosomes(tmp_path)
    assert [(fault.kind, fault.file) for fault in check_headers(source)] == [
        ("unreadable", "a.png"),
        ("unreadable", "b.png"),
    ]


def test_colour_and_transparency_become_grey(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", 1)
    with Image.open(path) as image:
        wanted = np.array(image.convert("L"))
    source = Chromosomes(tmp_path, ground="white")
    assert (source.crop(0)[0].numpy() == wanted).all()


# -- mistakes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["a.png,23,1,c,s,"], ["line 2", "type '23'", "expected 1 to 22, X or Y"]),
        (["a.png,x,1,c,s,"], ["type 'x'", "did you mean 'X'?"]),
        (["a.png,1,1,c,s,", "b.png,2,2,c,s,"], ["line 3", "polarity '2'", "1 (long arm down), 0 (up)"]),
        (["a.png,1,up,c,s,"], ["line 2", "polarity 'up'"]),
        (["a.png,1,1,c,s,trian"], ["line 2", "split 'trian'", "nearest: train"]),
        ([",1,1,c,s,"], ["line 2", "'file' is empty"]),
        (["a.png,1,1,c,s,", "a.png,2,1,c,s,"], ["line 3 repeats the file of line 2", "a.png"]),
        (["a.png,1,1,c,s,train", "b.png,2,1,c,s,test"], ["line 3", "case 'c' has split 'test', and 'train' on line 2"]),
        (["a.png,1,1,c,s,", "b.png,2,1,c,t,"], ["line 3", "case 'c' has specimen 't', and 's' on line 2"]),
        (["a.png,1,1,c,s"], ["line 2", "6 columns"]),
        ([], ["no row below the header"]),
    ],
)
def test_mistakes_in_a_table_are_named(rows: list[str], words: list[str], tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("\n".join([HEADER, *rows]))
    with pytest.raises(UserError) as caught:
        Chromosomes(tmp_path)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "labels.csv")) and "\n" not in message
    for word in words:
        assert word in message


def test_mistakes_in_the_table_of_cases_are_named(tmp_path: Path) -> None:
    write_crop(tmp_path / "a.png", chromosome(1))
    (tmp_path / "labels.csv").write_text(f"{HEADER}\na.png,1,1,c,s,")
    (tmp_path / "cases.csv").write_text("case,karyotype\nc,x\n")
    with pytest.raises(UserError, match=r"cases\.csv: no column 'karyotype_by_count'"):
        Chromosomes(tmp_path)
    (tmp_path / "cases.csv").write_text('case,karyotype_by_count\nc,"46,XX"\nc,"46,XY"\n')
    with pytest.raises(UserError, match=r"cases\.csv: line 3: case 'c' has another karyotype"):
        Chromosomes(tmp_path)


def test_what_nobody_knows_stays_open(tmp_path: Path) -> None:
    rows = ["a.png,,,,,", "b.png,Y,0,c,,", "gone.png,1,1,c,,"]
    (tmp_path / "labels.csv").write_text("\n".join([HEADER, *rows]))
    for name in ("a.png", "b.png"):
        write_crop(tmp_path / name, chromosome(1))
    source = Chromosomes(tmp_path)
    assert [(r.label, r.polarity, r.case, r.group) for r in source.records] == [
        (None, None, "", ""),
        (23, 0, "c", "c"),  # at least the cell is not cut
        (0, 1, "c", "c"),
    ]
    assert source.karyotypes == {"c": ""}
    assert [(fault.kind, fault.file) for fault in check_headers(source)] == [
        ("no label", "a.png"),
        ("missing", "gone.png"),
    ]
    with pytest.raises(FaultyPicture, match=r"^gone\.png: missing"):
        source.load(2)


def test_no_layout_fits(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "notes.txt"):
        with pytest.raises(UserError) as caught:
            Chromosomes(path)
        for word in ("labels.csv", "<k>_<copy>_<patient>", "<cell> <k><a|b>.bmp", "clase<k>", "a folder of crops"):
            assert word in str(caught.value)
    write_crop(tmp_path / "97.1.tiff" / "clase25" / "clase25_0_97.1.tiff", chromosome(1))
    with pytest.raises(UserError, match="none of 1 pictures is a crop of a type"):
        Chromosomes(tmp_path)


def test_a_malformed_file_without_its_pixels_is_named(tmp_path: Path) -> None:
    data = malformed(chromosome(1))
    for name, content in (("1_1_7_8_9.tiff", data), ("1_2_7_8_9.tiff", data[:100]), ("1_3_7_8_9.tiff", data[:48])):
        write_bytes(tmp_path / "1" / name, content)
    source = Chromosomes(tmp_path)
    assert [(fault.kind, fault.file) for fault in check_headers(source)] == [
        ("truncated", "1/1_2_7_8_9.tiff"),
        ("truncated", "1/1_3_7_8_9.tiff"),
    ]
    with pytest.raises(FaultyPicture, match=r"^1/1_2_7_8_9\.tiff: truncated"):
        source.load_image(1)


def test_the_fingerprint_covers_what_is_measured(tmp_path: Path) -> None:
    made = mini.chromosomes_table(tmp_path / "set")
    prints = {opened(made.source).fingerprint(), opened(f"{made.source}?ground=black").fingerprint()}
    (made.root / "cases.csv").write_text('case,karyotype_by_count\n0.1,"46,XY"\n')
    prints.add(opened(made.source).fingerprint())
    assert len(prints) == 3


# -- real packs ----------------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.slow
def test_whole_cells(pack: Callable[[str], Path]) -> None:
    source = opened(f"chromosomes:{pack('chromosomes_cells')}")
    assert len(source) == 14_344 and len(source.karyotypes) == 312 and source.classes == TYPES
    counts = {
        split: (len({r.group for r in own}), len({r.case for r in own}), len(own))
        for split in ("train", "val", "test")
        if (own := [r for r in source.records if r.split == split])
    }
    assert counts == {"train": (127, 211, 9_696), "val": (19, 32, 1_474), "test": (38, 69, 3_174)}
    assert len({record.group for record in source.records}) == 184
    assert {record.polarity for record in source.records} == {1} and not source.inverted
    assert source.karyotypes["97002558.5"] == "47,XY,+21"
    changed = [text for text in source.karyotypes.values() if "+" in text or text.split(",")[1] not in ("XX", "XY")]
    assert len(changed) == 14
    assert source.pad == 210  # 118 px over 0.5625
    report = check_source(source)
    assert report.num_unusable == 0 and report.sizes == {(210, 210): 14_344} and report.modes == {"L": 14_344}
    assert not [fault for fault in report.faults if fault.kind in ("leakage of a group", "leakage between splits")]


@pytest.mark.data
def test_sixteen_persons(pack: Callable[[str], Path]) -> None:
    source = opened(f"chromosomes:{pack('chromosomes_gband') / 'chromosomes_gband.tar.gz'}")
    assert len(source) == 2_806 and source.pad == 160 and not source.inverted
    assert Counter(record.split for record in source.records) == {"train": 1_860, "val": 389, "test": 557}
    assert len({record.group for record in source.records}) == 16
    assert len({record.case for record in source.records}) == 65 == len(source.karyotypes)
    assert check_headers(source) == []
    frames = source.images(range(0, 2_806, 50))
    assert frames.min() < 60 and frames.float().mean(dim=(1, 2, 3)).min() > 200  # dark on white


@pytest.mark.data
def test_malformed_originals_are_what_the_pngs_show(pack: Callable[[str], Path], tmp_path: Path) -> None:
    folder = pack("chromosomes_gband")
    with tarfile.open(folder / "chromosomes_gband.tar.gz") as archive:
        archive.extractall(tmp_path, filter="data")
    copies = {path.stem: path for path in (tmp_path / "chromosomes").rglob("*.png")}
    with (tmp_path / "chromosomes" / "labels.csv").open(newline="") as stream:
        rows = {Path(row["file"]).stem: row for row in csv.DictReader(stream)}
    source = opened(f"chromosomes:{folder / 'source_tiff_sample.tar.gz'}")
    assert len(source) == 47 and source.left_out == {} and check_headers(source) == []
    for index, record in enumerate(source.records):
        stem = Path(record.file).stem
        with Image.open(copies[stem]) as image:
            assert (source.crop(index)[0].numpy() == np.array(image)).all()
        row = rows[stem]
        assert (TYPES[record.label or 0], record.case, record.group) == (row["type"], row["case"], row["specimen"])


@pytest.mark.data
@pytest.mark.slow
def test_without_labels_the_side_is_the_same(pack: Callable[[str], Path], tmp_path: Path) -> None:
    """On both packs the second tallest crop of a cell is as tall, in the median, as chromosome 1."""
    for name, side in (("chromosomes_gband", 160), ("chromosomes_cells", 210)):
        labelled = opened(f"chromosomes:{pack(name) / f'{name}.tar.gz'}?pad=8")
        for index, record in enumerate(labelled.records):
            place = tmp_path / name / record.case / f"{index}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(labelled.root / record.file)
        assert opened(f"chromosomes:{tmp_path / name}").pad == side
