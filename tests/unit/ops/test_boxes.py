"""Boxes against rasterised and hand-computed ones, and the facts of the reference code of MaxBoxAcc."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partwise.ops import boxes

SIDE = 12


@st.composite
def whole_boxes(draw: st.DrawFn, most: int = 4) -> Tensor:
    """Boxes with whole corners in a square of SIDE, possibly empty."""
    rows = []
    for _ in range(draw(st.integers(1, most))):
        x = sorted(draw(st.lists(st.integers(0, SIDE), min_size=2, max_size=2)))
        y = sorted(draw(st.lists(st.integers(0, SIDE), min_size=2, max_size=2)))
        rows.append([x[0], y[0], x[1], y[1]])
    return torch.tensor(rows, dtype=torch.float32)


def raster(box: Tensor, inclusive: bool) -> set[tuple[int, int]]:
    x1, y1, x2, y2 = (int(v) for v in box)
    return {(x, y) for x in range(x1, x2 + inclusive) for y in range(y1, y2 + inclusive)}


def naive_iou(first: Tensor, second: Tensor, inclusive: bool) -> Tensor:
    table = torch.zeros(len(first), len(second))
    for i, a in enumerate(first):
        for j, b in enumerate(second):
            union = raster(a, inclusive) | raster(b, inclusive)
            table[i, j] = len(raster(a, inclusive) & raster(b, inclusive)) / len(union) if union else 0.0
    return table


@settings(deadline=None, max_examples=60)
@given(whole_boxes(), whole_boxes())
def test_iou_counts_pixels(first: Tensor, second: Tensor) -> None:
    torch.testing.assert_close(boxes.iou(first, second), naive_iou(first, second, inclusive=False))
    torch.testing.assert_close(boxes.iou(first, second, convention="wsol"), naive_iou(first, second, inclusive=True))


@settings(deadline=None, max_examples=60)
@given(whole_boxes())
def test_area_counts_pixels(some: Tensor) -> None:
    assert boxes.area(some).tolist() == [len(raster(box, False)) for box in some]
    assert boxes.area(some, convention="wsol").tolist() == [len(raster(box, True)) for box in some]


def test_iou_of_fractions_by_hand() -> None:
    first, second = torch.tensor([[0.0, 0.0, 1.5, 2.0]]), torch.tensor([[0.5, 1.0, 2.5, 1.5], [5.0, 5.0, 6.0, 6.0]])
    torch.testing.assert_close(boxes.iou(first, second), torch.tensor([[0.5 / 3.5, 0.0]]))


def test_iou_over_leading_dimensions() -> None:
    first, second = torch.rand(3, 5, 4).sort(dim=-1).values, torch.rand(3, 2, 4).sort(dim=-1).values
    together = boxes.iou(first, second)
    for row in range(3):
        torch.testing.assert_close(together[row], boxes.iou(first[row], second[row]))


def test_reference_facts() -> None:
    """Degenerate equal boxes overlap fully, (1,2,5,6) and (3,1,4,5) by 8/27, resizing cuts to whole pixels."""
    nothing = torch.zeros(3, 4)
    assert boxes.iou(nothing, torch.zeros(5, 4), convention="wsol").eq(1).all()
    assert boxes.iou(nothing, nothing).eq(0).all()
    apart = torch.tensor([[1.0, 1, 3, 3], [4, 4, 5, 5]])
    assert torch.equal(boxes.iou(apart, apart, convention="wsol"), torch.eye(2))
    one, two = torch.tensor([[1.0, 2, 5, 6]]), torch.tensor([[3.0, 1, 4, 5]])
    torch.testing.assert_close(boxes.iou(one, two, convention="wsol"), torch.tensor([[8 / 27]]))
    small = torch.tensor([[1.0, 2, 4, 3]])
    resized = boxes.resize(small, source=(20, 10), target=(10, 35), convention="wsol")
    assert resized.tolist() == [[3, 1, 14, 1]]
    assert boxes.resize(small, source=(20, 10), target=(10, 35)).tolist() == [[3.5, 1, 14, 1.5]]


@pytest.mark.parametrize("wrong", [[1.0, 1, 0, 0], [1.0, 1, 2, 0], [float("nan"), 0, 1, 1], [0.0, 0, 1, float("inf")]])
def test_inverted_boxes_are_refused(wrong: list[float]) -> None:
    good = torch.tensor([[1.0, 1, 2, 2]])
    for pair in ((torch.tensor([wrong]), good), (good, torch.tensor([wrong]))):
        with pytest.raises(ValueError, match="x1 <= x2"):
            boxes.iou(*pair)


@settings(deadline=None, max_examples=60)
@given(whole_boxes(), st.integers(0, SIDE), st.integers(0, SIDE), st.integers(1, SIDE), st.integers(1, SIDE))
def test_crop_keeps_the_pixels_inside(some: Tensor, left: int, top: int, width: int, height: int) -> None:
    moved = boxes.crop(some, (left, top, left + width, top + height))
    window = {(x, y) for x in range(left, left + width) for y in range(top, top + height)}
    for before, after in zip(some, moved, strict=True):
        assert {(x + left, y + top) for x, y in raster(after, False)} == raster(before, False) & window
    assert boxes.nonempty(moved).tolist() == [len(raster(box, False)) > 0 for box in moved]


@settings(deadline=None, max_examples=60)
@given(whole_boxes())
def test_flip_mirrors_the_pixels(some: Tensor) -> None:
    mirrored = boxes.flip(some, width=SIDE)
    for before, after in zip(some, mirrored, strict=True):
        assert raster(after, False) == {(SIDE - 1 - x, y) for x, y in raster(before, False)}
    assert torch.equal(boxes.flip(mirrored, width=SIDE), some)


@settings(deadline=None, max_examples=60)
@given(whole_boxes(), whole_boxes(), st.integers(1, 5), st.integers(1, 5))
def test_resize_keeps_overlaps(first: Tensor, second: Tensor, y: int, x: int) -> None:
    sizes = {"source": (SIDE, SIDE), "target": (SIDE * y, SIDE * x)}
    larger = boxes.iou(boxes.resize(first, **sizes), boxes.resize(second, **sizes))
    torch.testing.assert_close(larger, boxes.iou(first, second))
    assert torch.equal(boxes.resize(boxes.resize(first, **sizes), source=sizes["target"], target=(SIDE, SIDE)), first)


def test_clip_leaves_the_inside_alone() -> None:
    some = torch.tensor([[-3.0, 2, 4, 30], [20, 1, 25, 5], [1, 1, 2, 2]])
    assert boxes.clip(some, (10, 8)).tolist() == [[0, 2, 4, 10], [8, 1, 8, 5], [1, 1, 2, 2]]
