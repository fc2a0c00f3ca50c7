"""Crops: the frame against loops, grey against another library, the side against the paper's share."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.miniatures_chromosomes import chromosome, malformed, tiff, write_bytes, write_crop

from partwise.data.headers import FaultyPicture
from partwise.data.readers.crops import pad_white, paper_side, probe_crop, read_crop, to_grey
from partwise.data.sample import Record


def framed_by_loops(crop: np.ndarray, side: int) -> np.ndarray:
    """Every pixel of the frame asked where it comes from."""
    height, width = crop.shape
    top, left = (side - height) // 2, (side - width) // 2
    frame = np.empty((side, side), np.uint8)
    for y in range(side):
        for x in range(side):
            inside = 0 <= y - top < height and 0 <= x - left < width
            frame[y, x] = crop[y - top, x - left] if inside else 255
    return frame


def shrunk_by_loops(crop: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each pixel the mean of those it covers, weighted by a triangle of twice its width; float64."""

    def weights(size: int, wanted: int) -> np.ndarray:
        scale = size / wanted
        found = np.zeros((wanted, size))
        for i in range(wanted):
            for j in range(size):
                found[i, j] = max(0.0, 1 - abs((j + 0.5) - (i + 0.5) * scale) / scale)
        return found / found.sum(axis=1, keepdims=True)

    return weights(crop.shape[0], height) @ crop.astype(float) @ weights(crop.shape[1], width).T


@given(height=st.integers(1, 12), width=st.integers(1, 12), margin=st.integers(0, 5))
def test_a_frame(height: int, width: int, margin: int) -> None:
    crop = np.random.default_rng(height * 13 + width).integers(0, 256, (height, width), dtype=np.uint8)
    side = max(height, width) + margin
    found = pad_white(torch.from_numpy(crop)[None], side)
    assert found.dtype == torch.uint8 and (found[0].numpy() == framed_by_loops(crop, side)).all()


@pytest.mark.parametrize(
    ("height", "width", "side", "shrunk"),
    [
        (40, 20, 20, (20, 10)),
        (41, 13, 30, (30, 10)),
        (9, 33, 16, (4, 16)),
        (200, 1, 10, (10, 1)),
        (25, 25, 24, (24, 24)),
    ],
)
def test_a_larger_crop_is_shrunk(height: int, width: int, side: int, shrunk: tuple[int, int]) -> None:
    crop = np.random.default_rng(side).integers(0, 256, (height, width), dtype=np.uint8)
    found = pad_white(torch.from_numpy(crop)[None], side)[0].numpy().astype(float)
    wanted = framed_by_loops(np.rint(shrunk_by_loops(crop, *shrunk)).astype(np.uint8), side).astype(float)
    assert np.abs(found - wanted).max() <= 1.01  # each of two passes rounds to whole levels


def test_grey_is_as_another_library_has_it() -> None:
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    colours[:, 32:] = colours[:, 32:, :1]
    found = to_grey(torch.from_numpy(colours).permute(2, 0, 1))
    assert found.shape == (1, 64, 64) and found.dtype == torch.uint8
    assert (found[0].numpy() == np.array(Image.fromarray(colours).convert("L"))).all()
    assert (found[0, :, 32:].numpy() == colours[:, 32:, 0]).all()


def test_files_of_every_kind(tmp_path: Path) -> None:
    pixels = chromosome(1)
    for name in ("a.png", "a.bmp", "a.tiff"):
        assert (read_crop(write_crop(tmp_path / name, pixels))[0].numpy() == pixels).all()
    path = write_bytes(tmp_path / "b.tiff", malformed(pixels))
    assert (read_crop(path)[0].numpy() == pixels).all()
    header = probe_crop(path)
    assert (header.format, header.mode, header.size, header.bytes) == ("TIFF", "L", (20, 9), path.stat().st_size)
    assert probe_crop(tmp_path / "a.bmp").format == "BMP"
    clear = np.dstack([np.zeros((20, 9, 3), np.uint8), 255 - pixels])  # black ink of the strength of the crop
    Image.fromarray(clear).save(tmp_path / "c.png")
    assert np.abs(read_crop(tmp_path / "c.png")[0].numpy().astype(int) - pixels).max() <= 1


def test_faults_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    write_bytes(tmp_path / "cut.tiff", tiff(chromosome(1))[:150])
    for name, kind in (
        ("empty.png", "empty"),
        ("text.png", "unreadable"),
        ("cut.tiff", "truncated"),
        ("no.png", "missing"),
    ):
        for read in (read_crop, probe_crop):
            with pytest.raises(FaultyPicture, match=f"^below/{name}: {kind}"):
                read(tmp_path / name, name=f"below/{name}")


def test_the_side_of_the_frame_is_the_papers() -> None:
    heights = [119, 90, 121, 30, 117]
    records = [Record(str(i), label=0 if i in (0, 2, 4) else 3) for i in range(5)]
    assert paper_side(records, heights.__getitem__) == 212  # 119 px over 0.5625
    assert paper_side(records, lambda i: None if i == 2 else heights[i]) == round(118 / 0.5625)


@given(st.lists(st.lists(st.integers(1, 200), min_size=1, max_size=6), min_size=1, max_size=5))
def test_without_labels_the_second_tallest_stands_for_chromosome_1(cells: list[list[int]]) -> None:
    pairs = [(case, height) for case, heights in enumerate(cells) for height in heights]
    records = [Record(str(i), case=str(case)) for i, (case, _) in enumerate(pairs)]
    seconds = []
    for heights in cells:
        rest = list(heights)
        if len(rest) > 1:
            rest.remove(max(rest))
        seconds.append(max(rest))
    found = paper_side(records, lambda i: pairs[i][1])
    assert math.isclose(found, statistics.median(seconds) / 0.5625, abs_tol=0.501)


def test_no_height_no_side() -> None:
    assert paper_side([], lambda i: 1) == 0
    assert paper_side([Record("a", label=0), Record("b", case="c")], lambda i: None) == 0
    assert paper_side([Record("a", label=0), Record("b", label=1, case="c")], lambda i: 9 if i else None) == 16
