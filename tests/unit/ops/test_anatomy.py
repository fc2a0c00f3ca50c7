"""Anchors, parts and crops against versions in plain loops, and what must hold for any picture."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partwise.data.augment import resized_window
from partwise.ops import draws
from partwise.ops.anatomy import (
    TRIES,
    centred_crops,
    decomposed_anchors,
    decomposer_grid,
    margin_anchors,
    random_crops,
    split_parts,
    square_anchors,
    view_lines,
)

SIDES = st.integers(9, 700)
SEEDS = st.integers(0, 10_000)
BANDS = st.sampled_from([(0.05, 0.1), (0.3, 0.4), (0.7, 0.8), (0.8, 1.0), (0.2, 1.0)])
RATIOS = st.sampled_from([(2 / 3, 1.0), (1.0, 3 / 2), (3 / 4, 4 / 3)])


def uniforms(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=draws.generator(seed))


def naive_start(extent: int, side: int, uniform: float, margin: int) -> int:
    """A uniform whole number in the range that the published code names, or 0 where it is empty."""
    low, high = (margin, extent - side - margin) if extent - side - margin > margin else (0, extent - side - 1)
    return low + int(uniform * (high - low)) if high > low else 0


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.integers(0, 2), SEEDS)
def test_anchors_one_at_a_time(height: int, width: int, level: int, seed: int) -> None:
    drawn = uniforms(seed, 5, 2)
    squares = square_anchors((height, width), level, drawn)
    margins = margin_anchors((height, width), level, drawn)
    side, h, w = min(height, width) // 2**level, height // 2**level, width // 2**level
    for row, (down, across) in enumerate(drawn.tolist()):
        x, y = int(across * (width - side + 1)), int(down * (height - side + 1))
        assert squares[row].tolist() == [x, y, x + side, y + side]
        x, y = naive_start(width, w, across, 50), naive_start(height, h, down, 50)
        assert margins[row].tolist() == [x, y, x + w, y + h]
        assert x >= 0 and x + w <= width and y >= 0 and y + h <= height


def test_anchors_of_the_paper() -> None:
    """Shares of 1, 1/4 and 1/16; at 1024 px level 1 starts in [50, 462) and level 2 in [50, 718), and every place occurs."""
    drawn = uniforms(0, 20_000, 2)
    assert margin_anchors((1024, 1024), 0, drawn).unique(dim=0).tolist() == [[0, 0, 1024, 1024]]
    for level, last in ((1, 462), (2, 718)):
        boxes = margin_anchors((1024, 1024), level, drawn)
        assert (boxes[:, 2:] - boxes[:, :2] == 1024 >> level).all()
        for axis in (0, 1):
            assert boxes[:, axis].unique().tolist() == list(range(50, last))
    squares = square_anchors((600, 400), 1, drawn)
    assert squares[:, 0].unique().tolist() == list(range(201)) and squares[:, 1].unique().tolist() == list(range(401))


def test_margins_of_small_pictures() -> None:
    """Where the margin leaves no room the whole picture is open but for its last place; where that is one place, it is 0."""
    drawn = uniforms(1, 5_000, 2)
    assert margin_anchors((200, 204), 1, drawn)[:, 1].unique().tolist() == list(range(99))
    assert margin_anchors((200, 204), 1, drawn)[:, 0].unique().tolist() == [50, 51]
    assert margin_anchors((4, 5), 1, drawn).unique(dim=0).tolist() == [[0, 0, 2, 2], [1, 0, 3, 2]]


@settings(max_examples=40, deadline=None)
@given(SIDES, SIDES, st.sampled_from([1, 4, 9]), SEEDS)
def test_parts_tile_their_anchor(height: int, width: int, num_parts: int, seed: int) -> None:
    """Put together again they are the anchor, cut to multiples of m."""
    m = math.isqrt(num_parts)
    anchors = margin_anchors((height, width), 0, uniforms(seed, 1, 2))
    picture = torch.arange(height * width).view(height, width)
    pieces = [picture[y1:y2, x1:x2] for x1, y1, x2, y2 in split_parts(anchors, num_parts)[0].tolist()]
    rows = [torch.cat(pieces[row * m : (row + 1) * m], dim=1) for row in range(m)]
    assert torch.equal(torch.cat(rows), picture[: height // m * m, : width // m * m])


def test_parts_in_reading_order() -> None:
    parts = split_parts(torch.tensor([[10, 20, 15, 31]]), 4)[0]
    assert parts.tolist() == [[10, 20, 12, 25], [12, 20, 14, 25], [10, 25, 12, 30], [12, 25, 14, 30]]


def naive_sides(
    width: int, height: int, tries: list[list[float]], area: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int | None]:
    """Width, height and which attempt fitted."""
    for number, (share, aspect, *_) in enumerate(tries):
        pixels = width * height * (area[0] + share * (area[1] - area[0]))
        shape = math.exp(math.log(ratio[0]) + aspect * (math.log(ratio[1]) - math.log(ratio[0])))
        w, h = round(math.sqrt(pixels * shape)), round(math.sqrt(pixels / shape))
        if 0 < w <= width and 0 < h <= height:
            return w, h, number
    if width / height < ratio[0]:
        return width, max(1, round(width / ratio[0])), None
    if width / height > ratio[1]:
        return max(1, round(height * ratio[1])), height, None
    return width, height, None


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, BANDS, RATIOS, st.integers(1, TRIES), SEEDS)
def test_crops_one_at_a_time(
    height: int, width: int, area: tuple[float, float], ratio: tuple[float, float], tries: int, seed: int
) -> None:
    """Centred ones off the middle by half a pixel at most, random ones anywhere, all inside."""
    drawn = uniforms(seed, 4, tries, 4)
    boxes = torch.tensor([[7, 11, 7 + width, 11 + height]]).expand(4, 4)
    centred, anywhere = (
        centred_crops(boxes, drawn[..., :2], area=area, ratio=ratio),
        random_crops(boxes, drawn, area=area, ratio=ratio),
    )
    for row, numbers in enumerate(drawn.tolist()):
        w, h, found = naive_sides(width, height, numbers, area, ratio)
        x1, y1, x2, y2 = centred[row].tolist()
        assert (x2 - x1, y2 - y1) == (w, h) and x1 >= 7 and x2 <= 7 + width and y1 >= 11 and y2 <= 11 + height
        assert abs((x1 + x2) / 2 - 7 - width / 2) <= 0.5 and abs((y1 + y2) / 2 - 11 - height / 2) <= 0.5
        if found is None:
            assert torch.equal(anywhere[row], centred[row])
            continue
        _, _, down, across = numbers[found]
        x, y = 7 + int(across * (width - w + 1)), 11 + int(down * (height - h + 1))
        assert anywhere[row].tolist() == [x, y, x + w, y + h]
        # In range before rounding, which moves each side by half a pixel.
        assert (w - 0.5) * (h - 0.5) <= area[1] * width * height and (w + 0.5) * (h + 0.5) >= area[0] * width * height
        assert (w - 0.5) / (h + 0.5) <= ratio[1] and (w + 0.5) / max(h - 0.5, 0.1) >= ratio[0]


def test_random_crops_follow_the_windows_of_training_pictures() -> None:
    """The same numbers give the same window as in data/augment.py."""
    drawn = uniforms(3, 50, TRIES, 4)
    boxes = torch.tensor([[0, 0, 300, 200]]).expand(50, 4)
    for row, box in enumerate(random_crops(boxes, drawn, area=(0.05, 1.0)).tolist()):
        top, left, h, w = resized_window(200, 300, drawn[row], scale=(0.05, 1.0), ratio=(3 / 4, 4 / 3))
        assert box == [left, top, left + w, top + h]


def test_crops_that_never_fit() -> None:
    """Nearly the whole of a long box at any ratio near 1: the largest centred one with a ratio in range."""
    boxes = torch.tensor([[0, 0, 100, 20], [0, 0, 20, 101]])
    drawn = uniforms(4, 2, TRIES, 4)
    for crops in (
        random_crops(boxes, drawn, area=(0.9, 1.0)),
        centred_crops(boxes, drawn[..., :2], area=(0.9, 1.0)),
    ):
        assert crops.tolist() == [[36, 0, 63, 20], [0, 37, 20, 64]]


def test_decomposer_of_the_paper_and_of_the_code() -> None:
    assert [decomposer_grid(n, "binary_split") for n in range(5)] == [(1, 1), (1, 2), (2, 2), (2, 4), (4, 4)]
    assert [decomposer_grid(n, "grid") for n in range(5)] == [(1, 1), (1, 1), (2, 2), (3, 3), (4, 4)]


def test_decomposed_anchors_are_the_patches_of_the_grid() -> None:
    """All of them, each as often."""
    drawn = uniforms(5, 4_000)
    boxes, counts = decomposed_anchors((50, 85), 3, drawn, rule="binary_split").unique(dim=0, return_counts=True)
    wanted = sorted([c * 21, r * 25, c * 21 + 21, r * 25 + 25] for r in range(2) for c in range(4))
    assert boxes.tolist() == wanted and counts.min() > 400
    assert decomposed_anchors((50, 85), 0, drawn).unique(dim=0).tolist() == [[0, 0, 85, 50]]


def test_what_is_refused() -> None:
    drawn = uniforms(6, 1, 2)
    with pytest.raises(ValueError, match="level -1"):
        square_anchors((64, 64), -1, drawn)
    with pytest.raises(ValueError, match=r"level 5: anchors of 2 x 1 pixels.*at least 2 a side"):
        square_anchors((32, 64), 5, drawn)
    with pytest.raises(ValueError, match="anchors of 4 x 1 pixels"):
        margin_anchors((7, 17), 2, drawn)
    with pytest.raises(ValueError, match=r"parts of 1 x 2 pixels: expected at least 2 a side"):
        split_parts(torch.tensor([[0, 0, 40, 40], [0, 0, 3, 4]]), 4)
    with pytest.raises(ValueError, match="num_parts 8: expected a square number; the nearest is 9"):
        split_parts(torch.tensor([[0, 0, 40, 40]]), 8)
    with pytest.raises(ValueError, match=r"num_parts 0.*nearest is 1"):
        split_parts(torch.tensor([[0, 0, 40, 40]]), 0)
    with pytest.raises(ValueError, match="level 5; expected 0 to 4"):
        decomposed_anchors((64, 64), 5, drawn[:, 0])
    with pytest.raises(ValueError, match=r"rule 'halves'; expected 'grid' or 'binary_split'"):
        decomposed_anchors((64, 64), 2, drawn[:, 0], rule="halves")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="anchors of 16 x 1 pixels"):
        decomposed_anchors((7, 64), 4, drawn[:, 0])


@pytest.mark.parametrize("degrees", [0.0, 10.0, -30.0, 90.0, 135.0])
def test_lines_pixel_by_pixel(degrees: float) -> None:
    """Each pixel of the turned view turned back, then laid into its box."""
    size, box, pixel = 6, [10, 20, 40, 32], 2.0
    lines = view_lines(torch.tensor([box]), torch.tensor([math.radians(degrees)]), size, pixel=torch.tensor([pixel]))
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    for i in range(size):
        for j in range(size):
            x, y = j + 0.5 - size / 2, i + 0.5 - size / 2
            back_x, back_y = cos * x - sin * y + size / 2, sin * x + cos * y + size / 2
            wanted = (box[0] + back_x * 30 / size, box[1] + back_y * 12 / size)
            found = [float(lines.down[axis, 0, i] + lines.across[axis, 0, j]) for axis in (0, 1)]
            assert found == pytest.approx(wanted, abs=1e-4)
            inside = 0 <= back_x <= size and 0 <= back_y <= size
            assert inside == bool(lines.first[0, i] <= j <= lines.last[0, i])
    assert lines.least[:, 0].tolist() == [11, 21] and lines.most[:, 0].tolist() == [39, 31]


def test_lines_of_some_pictures() -> None:
    boxes, angle = torch.tensor([[[0, 0, 8, 8]], [[2, 2, 9, 7]], [[1, 0, 3, 3]]]), torch.tensor([[0.1], [0.2], [0.3]])
    lines = view_lines(boxes, angle, 5, pixel=torch.ones(3, 1))
    for all_rows, some in zip(
        view_lines(boxes[1:2], angle[1:2], 5, pixel=torch.ones(1, 1)), lines.rows(slice(1, 2)), strict=True
    ):
        assert torch.equal(all_rows, some)
