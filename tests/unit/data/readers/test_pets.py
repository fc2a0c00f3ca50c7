"""The pets: ids with gaps, trimaps, both kinds of boxes, and every mistake by its file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests import miniatures_masks
from tests.miniatures import Miniature
from tests.miniatures_masks import trimap, write_lines, write_mask

from partwise.config import UserError
from partwise.data.checks import check_headers, check_source
from partwise.data.sample import FaultySample
from partwise.data.sources import open_source
from partwise.data.splits import split_indices


@pytest.fixture
def made(tmp_path: Path) -> Miniature:
    return miniatures_masks.pets(tmp_path / "set")


def annotations(made: Miniature) -> Path:
    return made.root / "oxford-iiit-pet" / "annotations"


def test_breeds(made: Miniature) -> None:
    source = open_source(made.source)
    assert source.classes == ("Abyssinian", "American Bulldog", "Bengal")  # ids 1, 2, 6
    assert not source.multi_label and [record.label for record in source.records] == [0, 0, 1, 1, 2, 2, 0, 1, 2]
    assert Counter(record.split for record in source.records) == {"train": 6, "test": 3}
    assert source.records[6].id == "Abyssinian_10"


def test_species(made: Miniature) -> None:
    source = open_source(f"{made.source}?labels=species")
    assert source.classes == ("cat", "dog")
    assert [record.label for record in source.records] == [0, 0, 1, 1, 0, 0, 0, 1, 0]
    mask = source.load(2).mask
    assert mask is not None and set(mask.unique().tolist()) == {0, 2, 255}


def test_trimaps_and_the_box_of_the_whole_animal(made: Miniature) -> None:
    source = open_source(made.source)
    sample = source.load(4)
    stored = torch.from_numpy(trimap())
    assert sample.mask is not None and sample.boxes is not None
    for value, wanted in ((1, 3), (2, 0), (3, 255)):
        assert (sample.mask[stored == value] == wanted).all()
    assert sample.boxes.tolist() == [[5, 3, 22, 20]]  # the border is part of the animal
    assert source.records[4].boxes == () and source.records[4].has_mask


def test_heads(made: Miniature) -> None:
    source = open_source(f"{made.source}?boxes=head")
    assert [record.boxes for record in source.records] == [((8, 6, 14, 11),)] * 6 + [()] * 3
    assert source.load(0).boxes is not None and source.load(6).boxes is None and source.load(6).mask is not None
    for file in (annotations(made) / "xmls").iterdir():
        file.unlink()
    (annotations(made) / "xmls").rmdir()
    assert len(open_source(made.source)) == 9
    with pytest.raises(UserError, match="xmls: not there, but boxes=head"):
        open_source(f"{made.source}?boxes=head")


def test_faulty_trimaps_are_named(made: Miniature) -> None:
    trimaps = annotations(made) / "trimaps"
    (trimaps / "Abyssinian_1.png").unlink()
    write_mask(trimaps / "Bengal_1.png", trimap()[:20])
    write_mask(trimaps / "Abyssinian_2.png", trimap() - 1)
    source = open_source(made.source)
    faults = [(fault.kind, Path(fault.file).name) for fault in check_source(source).faults if fault.serious]
    assert faults == [
        ("missing", "Abyssinian_1.png"),
        ("unreadable", "Abyssinian_2.png"),
        ("wrong size", "Bengal_1.png"),
    ]
    with pytest.raises(FaultySample, match=r"Abyssinian_2\.png: .*mask value 0; expected 1 to 3"):
        source.load(1)


@pytest.mark.parametrize("line", ["Abyssinian_1 1 1", "Abyssinian_1 1 x 1", "Abyssinian_1 1 3 1", "Abyssinian_1"])
def test_torn_lines_are_named(line: str, made: Miniature) -> None:
    write_lines(annotations(made) / "test.txt", ["Abyssinian_10 1 1 1", line])
    with pytest.raises(UserError, match=rf"test\.txt: '{line}'; expected a name"):
        open_source(made.source)


@pytest.mark.data
def test_three_breeds(pack: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    source = open_source(f"pets:{pack('pets3')}")
    assert source.classes == ("Abyssinian", "American Bulldog", "Bengal")
    assert Counter(record.split for record in source.records) == {"train": 300, "test": 298}
    assert Counter(record.label for record in source.records) == {0: 198, 1: 200, 2: 200}
    assert {name: len(part) for name, part in split_indices(source).items()} == {"train": 270, "val": 30, "test": 298}
    assert check_headers(source) == []
    report = check_source(source)
    assert report.num_unusable == 0 and report.num_masks == 598
    heads = open_source(f"pets:{pack('pets3')}?boxes=head")
    assert sum(bool(record.boxes) for record in heads.records) == 296
    for index in range(0, 300, 25):
        animal, head = source.load(index).boxes, heads.load(index).boxes
        assert animal is not None
        if head is not None:  # a head is on its animal, give or take what drawing by hand costs
            assert (animal[0, :2] - 20 < head[0, :2]).all() and (head[0, 2:] < animal[0, 2:] + 20).all()
