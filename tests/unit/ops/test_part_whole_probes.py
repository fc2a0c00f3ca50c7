"""Windows and what is compared, against loops over pictures, places and pixels."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.ops.part_whole_probes import (
    AREA,
    RATIO,
    TIMES,
    compare,
    compare_mirrored,
    compare_scales,
    cut,
    decompose_confusion,
    decompose_cosines,
    draw_centres,
    draw_lines,
    draw_windows,
    extrapolate,
    interpolate,
    line_points,
    split_windows,
    square_windows,
)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cosine(a: Tensor, b: Tensor) -> float:
    a, b = a.double(), b.double()
    return float((a * b).sum() / (a.square().sum().sqrt() * b.square().sum().sqrt()))


# -- where ---------------------------------------------------------------------------------------------------------------


def test_windows_lie_inside_and_have_the_drawn_area() -> None:
    windows = draw_windows(4000, generator())
    sides = windows[:, 2:] - windows[:, :2]
    assert (windows >= 0).all() and (windows <= 1 + 1e-6).all()
    area, shape = sides.prod(1), sides[:, 0] / sides[:, 1]
    assert area.min() >= AREA[0] - 1e-5 and area.max() <= AREA[1] + 1e-5
    assert shape.min() >= RATIO[0] - 1e-5 and shape.max() <= RATIO[1] + 1e-5
    assert area.mean() == pytest.approx(sum(AREA) / 2, abs=0.01), "areas are uniform"
    assert shape.log().mean() == pytest.approx(0, abs=0.01), "neither upright nor lying windows are preferred"
    room = 1 - sides
    assert (windows[:, :2] / room).mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_windows_are_a_function_of_the_generator() -> None:
    assert torch.equal(draw_windows(5, generator(3)), draw_windows(5, generator(3)))
    assert not torch.equal(draw_windows(5, generator(3)), draw_windows(5, generator(4)))


def test_parts_tile_their_window_in_reading_order() -> None:
    window = torch.tensor([[0.1, 0.2, 0.5, 0.8]])
    parts = split_windows(window)[0]
    expected = [[0.1, 0.2, 0.3, 0.5], [0.3, 0.2, 0.5, 0.5], [0.1, 0.5, 0.3, 0.8], [0.3, 0.5, 0.5, 0.8]]
    assert parts.tolist() == [pytest.approx(row) for row in expected]
    assert split_windows(draw_windows(3, generator()), 3).shape == (3, 9, 4)


def test_lines_stay_inside_the_picture() -> None:
    side = 0.22
    lines = draw_lines(500, generator(), side=side)
    between, beyond = line_points(lines)
    for points in (lines, between, beyond):
        windows = square_windows(points, side)
        assert windows.min() >= -1e-6 and windows.max() <= 1 + 1e-6
    a, b = lines[7].double().unbind()
    for place, t in enumerate(TIMES):
        assert between[7, place].tolist() == pytest.approx(((1 - t) * a + t * b).tolist(), abs=1e-6)
        assert beyond[7, place].tolist() == pytest.approx((b + t * (b - a)).tolist(), abs=1e-6)
    centres = draw_centres(200, generator(), side=0.3)
    assert centres.min() >= 0.15 and centres.max() <= 0.85


# -- cutting -------------------------------------------------------------------------------------------------------------


def pixel(image: Tensor, x: float, y: float) -> list[float]:
    """Bilinear between pixel centres, the border repeated, black outside the picture; x, y in pixels."""
    channels, height, width = image.shape
    if not (0 <= x <= width and 0 <= y <= height):
        return [0.0] * channels
    x, y = min(max(x - 0.5, 0), width - 1), min(max(y - 0.5, 0), height - 1)
    left, top = min(int(x), width - 2), min(int(y), height - 2)
    dx, dy = x - left, y - top
    corner = image[:, top : top + 2, left : left + 2].double()
    value = (1 - dy) * ((1 - dx) * corner[:, 0, 0] + dx * corner[:, 0, 1])
    return (value + dy * ((1 - dx) * corner[:, 1, 0] + dx * corner[:, 1, 1])).tolist()


def test_cutting_pixel_by_pixel() -> None:
    images = torch.rand(2, 3, 14, 10, generator=generator())
    windows = torch.tensor([[0.1, 0.2, 0.7, 0.9], [-0.3, 0.5, 0.4, 1.2], [0, 0, 1, 1]])
    found = cut(images, windows, 12)
    assert found.shape == (2, 3, 3, 12, 12)
    for b, w, row, column in product(range(2), range(3), (0, 5, 11), (0, 4, 11)):
        x1, y1, x2, y2 = windows[w].tolist()
        x, y = x1 + (x2 - x1) * (column + 0.5) / 12, y1 + (y2 - y1) * (row + 0.5) / 12
        assert found[b, w, :, row, column].tolist() == pytest.approx(pixel(images[b], x * 10, y * 14), abs=1e-5)


def test_own_windows_of_every_picture() -> None:
    images = torch.rand(3, 1, 16, 16, generator=generator())
    windows = draw_windows(6, generator(1)).unflatten(0, (3, 2))
    together = cut(images, windows, 16)
    for row in range(3):
        assert torch.equal(together[row], cut(images[row : row + 1], windows[row], 16)[0])


def test_the_whole_picture_comes_back_unchanged() -> None:
    images = torch.rand(2, 3, 9, 9, generator=generator())
    assert torch.allclose(cut(images, torch.tensor([[0.0, 0, 1, 1]]), 9)[:, 0], images, atol=1e-5)


@pytest.mark.parametrize("side", [32, 30, 33])
def test_making_smaller_takes_means(side: int) -> None:
    """A checkerboard of single pixels is grey from afar; without means it would be black or white."""
    board = ((torch.arange(side)[:, None] + torch.arange(side)) % 2).float()[None, None]
    small = cut(board, torch.tensor([[0.0, 0, 1, 1]]), 8)[0, 0, 0]
    assert (small[1:-1, 1:-1] - 0.5).abs().max() < 0.1
    ramp = torch.linspace(0, 1, side).expand(1, 1, side, side)
    shrunk = cut(ramp, torch.tensor([[0.25, 0.0, 0.75, 1.0]]), 4)[0, 0, 0, 0]
    expected = (torch.tensor([0.3125, 0.4375, 0.5625, 0.6875]) * side - 0.5) / (side - 1)
    assert torch.allclose(shrunk, expected, atol=0.02), "reduced pictures keep their places"


# -- comparing -----------------------------------------------------------------------------------------------------------


def test_comparison_pair_by_pair() -> None:
    own, other = torch.randn(2, 6, 3, 5, generator=generator())
    groups = torch.tensor([4, 4, 7, 1, 7, 9])
    found = compare(own, other, groups)
    for i, w in product(range(6), range(3)):
        strangers = [j for j in range(6) if groups[j] != groups[i]]
        control = [cosine(own[i, w], other[j, w]) for j in strangers]
        random = [cosine(own[i, w], other[j, v]) for j in strangers for v in range(3) if v != w]
        assert float(found.cosine[i, w]) == pytest.approx(cosine(own[i, w], other[i, w]), abs=1e-6)
        assert float(found.control[i, w]) == pytest.approx(sum(control) / len(control), abs=1e-6)
        assert float(found.random[i, w]) == pytest.approx(sum(random) / len(random), abs=1e-6)


def test_without_another_patient_there_is_no_control() -> None:
    one = torch.randn(3, 2, 4, generator=generator())
    found = compare(one, one, torch.zeros(3, dtype=torch.int64))
    assert torch.allclose(found.cosine, torch.ones(3, 2).double())
    assert found.control.isnan().all() and found.random.isnan().all()
    assert compare(one[:, :1], one[:, :1], torch.arange(3)).random.isnan().all(), "nor another window"


def test_a_collapsed_encoder_has_no_margin() -> None:
    same = torch.ones(4, 3, 8)
    found = compare(same, same, torch.arange(4))
    for values in (found.cosine, found.control, found.random):
        assert torch.allclose(values, torch.ones_like(values))


def test_scales_pair_by_pair() -> None:
    embeddings = torch.randn(4, 2, 3, 5, generator=generator())
    groups = torch.tensor([0, 1, 1, 2])
    found = compare_scales(embeddings, groups)
    for i, m in product(range(4), range(2)):
        pairs = [(a, b) for a, b in product(range(3), repeat=2) if a != b]
        own = [cosine(embeddings[i, m, a], embeddings[i, m, b]) for a, b in pairs]
        strangers = [j for j in range(4) if groups[j] != groups[i]]
        control = [cosine(embeddings[i, m, a], embeddings[j, m, b]) for a, b in pairs for j in strangers]
        assert float(found.cosine[i, m]) == pytest.approx(sum(own) / len(own), abs=1e-6)
        assert float(found.control[i, m]) == pytest.approx(sum(control) / len(control), abs=1e-6)


def test_symmetry_pair_by_pair() -> None:
    mirrored, opposite = torch.randn(2, 3, 4, 6, generator=generator())
    present = torch.tensor([[True] * 4, [True, False, True, True], [False, False, True, False]])
    own, control = compare_mirrored(mirrored, opposite, present)
    for i, p in product(range(3), range(4)):
        if not present[i, p]:
            assert own[i, p].isnan() and control[i, p].isnan()
            continue
        assert float(own[i, p]) == pytest.approx(cosine(mirrored[i, p], opposite[i, p]), abs=1e-6)
        others = [cosine(mirrored[i, p], opposite[i, q]) for q in range(4) if q != p and present[i, q]]
        if others:
            assert float(control[i, p]) == pytest.approx(sum(others) / len(others), abs=1e-6)
        else:
            assert control[i, p].isnan()


def test_mixing_embeddings_of_a_line() -> None:
    ends = torch.randn(2, 3, 2, 4, generator=generator())
    for place, t in enumerate(TIMES):
        a, b = ends[:, :, 0], ends[:, :, 1]
        assert torch.allclose(interpolate(ends)[:, :, place], (1 - t) * a + t * b, atol=1e-6)
        assert torch.allclose(extrapolate(ends)[:, :, place], b + t * (b - a), atol=1e-6)


def test_an_embedding_that_is_linear_in_place_is_on_the_line() -> None:
    lines = draw_lines(5, generator(), side=0.2)
    between, beyond = line_points(lines)
    weights = torch.randn(2, 7, generator=generator())

    def embed(points: Tensor) -> Tensor:
        return points @ weights + 1

    assert torch.allclose(interpolate(embed(lines)[None])[0], embed(between), atol=1e-5)
    assert torch.allclose(extrapolate(embed(lines)[None])[0], embed(beyond), atol=1e-5)


def test_confusion_of_slices_one_by_one() -> None:
    parts = torch.randn(2, 5, 4, 16, generator=generator())
    slices = parts + 1.5 * torch.randn(parts.shape, generator=generator(1))
    cosines = decompose_cosines(slices, parts)
    counts = decompose_confusion(cosines)
    expected = torch.zeros(2, 4, 4, dtype=torch.int64)
    for b, w, i in product(range(2), range(5), range(4)):
        each = [cosine(slices[b, w, i], parts[b, w, k]) for k in range(4)]
        assert cosines[b, w, i].tolist() == pytest.approx(each, abs=1e-6)
        expected[b, i, each.index(max(each))] += 1
    assert torch.equal(counts, expected) and 0 < counts.diagonal(dim1=1, dim2=2).sum() < 40
    assert torch.equal(decompose_confusion(decompose_cosines(parts, parts)), 5 * torch.eye(4).long().expand(2, 4, 4))
    # A head that swaps parts is wrong although every slice is a part.
    assert decompose_confusion(decompose_cosines(parts.flip(2), parts)).diagonal(dim1=1, dim2=2).sum() == 0


def test_gradients_are_not_needed_and_types_are_kept() -> None:
    images = torch.rand(1, 1, 8, 8, dtype=torch.float64)
    assert cut(images, draw_windows(1, generator()), 4).dtype == torch.float64
    assert compare(F.normalize(torch.rand(2, 1, 3), dim=-1), torch.rand(2, 1, 3), torch.arange(2)).cosine.dtype == (
        torch.float64
    )
    assert math.isnan(compare(torch.rand(1, 1, 3), torch.rand(1, 1, 3), torch.zeros(1).long()).control.item())
