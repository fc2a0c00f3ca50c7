"""Masks of several areas: what is on top, what is covered, and files that do not fit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.miniatures import write_picture
from tests.miniatures_chest import block, write_area
from torch import Tensor

from partwise.data.headers import FaultyPicture
from partwise.data.readers.areas import Area, AreaSource, ShapeSource, Size, area_of, read_area, stack
from partwise.data.readers.coco_shapes import Shape, parse_shape
from partwise.data.sample import Record


def stacked_by_loops(size: Size, areas: list[Area]) -> tuple[Tensor, Tensor]:
    """Pixel by pixel: the last area that has it, and the last one before of another value."""
    top, covered = torch.zeros(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    for y in range(size[0]):
        for x in range(size[1]):
            values = [0]
            for value, inside in areas:
                if inside[y, x] and value != values[-1]:
                    values.append(value)
            top[y, x] = values[-1]
            covered[y, x] = values[-2] if len(values) > 1 else 0
    return top, covered


@pytest.mark.parametrize("seed", range(5))
def test_areas_are_stacked(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    areas = [(value, torch.rand(7, 9, generator=generator) < 0.5) for value in (3, 1, 255, 3)]
    for found, wanted in zip(stack((7, 9), areas), stacked_by_loops((7, 9), areas), strict=True):
        assert torch.equal(found, wanted)


def test_two_areas_can_be_told_apart_again() -> None:
    generator = torch.Generator().manual_seed(0)
    areas = [(value, torch.rand(8, 8, generator=generator) < 0.5) for value in (1, 2)]
    top, covered = stack((8, 8), areas)
    for value, inside in areas:
        assert torch.equal((top == value) | (covered == value), inside)
    assert not stack((8, 8), [])[0].any()


@pytest.mark.parametrize(("mode", "suffix"), [("1", "png"), ("L", "png"), ("L", "gif"), ("P", "gif"), ("RGB", "tif")])
def test_areas_are_read_in_any_mode(mode: str, suffix: str, tmp_path: Path) -> None:
    inside = block((3, 4, 9, 20))
    path = write_area(tmp_path / f"mask.{suffix}", inside, mode=mode)
    assert (read_area(path, (24, 32)).numpy() == inside).all()


def test_grey_edges_and_masks_of_ones(tmp_path: Path) -> None:
    edges = np.full((4, 4), 127, np.uint8)
    edges[1:3] = 128
    Image.fromarray(edges).save(tmp_path / "edges.png")
    assert read_area(tmp_path / "edges.png", (4, 4)).sum() == 8
    Image.fromarray((edges > 127).astype(np.uint8)).save(tmp_path / "ones.png")
    assert read_area(tmp_path / "ones.png", (4, 4)).sum() == 8
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / "empty.png")
    assert not read_area(tmp_path / "empty.png", (4, 4)).any()


def test_an_area_of_another_size_is_refused(tmp_path: Path) -> None:
    path = write_area(tmp_path / "mask.png", block(height=20))
    with pytest.raises(FaultyPicture, match=r"m\.png: wrong size: mask of 32 x 20 for a picture of 32 x 24"):
        read_area(path, (24, 32), name="m.png")


class Blocks(AreaSource):
    """One picture with two files of masks."""

    kind, layout, home = "blocks", "", ""
    gives_covered = True

    def __init__(self, root: Path) -> None:
        super().__init__(root, root, [Record("a", labels=(), file="a.png", has_mask=True), Record("b", file="a.png")])
        self.area_files = {0: ["1.png", "2.png"]}

    def areas(self, index: int, size: Size) -> Iterator[Area]:
        for value, file in enumerate(self.area_files[index], start=1):
            yield value, read_area(self.root / file, size, name=file)


@pytest.fixture
def blocks(tmp_path: Path) -> Blocks:
    write_picture(tmp_path / "a.png", 1)
    write_area(tmp_path / "1.png", block((0, 0, 6, 6)))
    write_area(tmp_path / "2.png", block((4, 4, 8, 8)))
    return Blocks(tmp_path)


def test_a_source_of_areas(blocks: Blocks) -> None:
    sample = blocks.load(0)
    assert sample.mask is not None and sample.parts is not None
    assert [int((sample.mask == value).sum()) for value in (1, 2)] == [32, 16]
    assert int((sample.parts == 1).sum()) == 4
    assert blocks.load(1).mask is None and blocks.load(1).parts is None
    blocks.gives_covered = False
    assert blocks.load(0).parts is None


def test_headers_find_masks_that_are_missing_torn_or_too_small(blocks: Blocks) -> None:
    assert blocks.header(0).size == (24, 32)
    before = blocks.fingerprint()
    path = write_area(blocks.root / "2.png", block(height=20))
    assert blocks.fingerprint() != before
    with pytest.raises(FaultyPicture, match=r"2\.png: wrong size: mask of 32 x 20"):
        blocks.header(0)
    assert blocks.header(1).size == (24, 32)
    write_area(path, np.random.default_rng(0).random((24, 32)) < 0.5)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(FaultyPicture, match=r"2\.png: truncated"):
        blocks.header(0)
    path.unlink()
    with pytest.raises(FaultyPicture, match=r"2\.png: missing"):
        blocks.header(0)
    assert blocks.fingerprint() != before


class Shapes(ShapeSource):
    """One picture with two shapes."""

    kind, layout, home = "shapes", "", ""

    def __init__(self, root: Path, runs: list[int]) -> None:
        super().__init__(root, root, [Record("a", labels=(), file="a.png", has_mask=True)])
        square = parse_shape([[1, 1, 5, 1, 5, 5, 1, 5]])
        self.shapes = [[(2, square), (1, Shape(runs=np.array(runs), size=(24, 32)))]]


def test_a_source_of_shapes(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    source = Shapes(tmp_path, [0, 24 * 2, 24 * 30])
    mask = source.load(0).mask
    assert (
        mask is not None and (mask[:, :2] == 1).all() and int((mask == 2).sum()) == 12 and source.load(0).parts is None
    )
    assert source.fingerprint() != Shapes(tmp_path, [0, 24 * 3, 24 * 29]).fingerprint()
    with pytest.raises(FaultyPicture, match=r"a\.png: unreadable: its mask: run lengths"):
        Shapes(tmp_path, [0, 1]).load(0)


def test_an_area_of_a_shape() -> None:
    assert area_of((4, 4), parse_shape([[1, 1, 3, 1, 3, 3, 1, 3]])).int().tolist() == [
        [0, 0, 0, 0],
        [0, 1, 1, 0],
        [0, 1, 1, 0],
        [0, 0, 0, 0],
    ]
