"""Pairs of cells, their paths, labels and losses against loops over cells and against cases computed by hand."""

import math
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from partwise.ops.affinity import (
    PairLabels,
    affinity_loss,
    displacement_loss,
    feature_affinity,
    pair_labels,
    pair_offsets,
    pair_sources,
    pair_targets,
    path_affinity,
    path_cells,
)


def naive_distance(point: tuple[int, int], end: tuple[int, int]) -> float:
    """From a point to the segment between (0, 0) and `end`, by the nearest point on it."""
    share = (point[0] * end[0] + point[1] * end[1]) / (end[0] ** 2 + end[1] ** 2)
    share = min(max(share, 0.0), 1.0)
    return math.dist(point, (share * end[0], share * end[1]))


def naive_path(end: tuple[int, int]) -> set[tuple[int, int]]:
    box = [sorted((0, side)) for side in end]
    cells = [(y, x) for y in range(box[0][0], box[0][1] + 1) for x in range(box[1][0], box[1][1] + 1)]
    return {cell for cell in cells if naive_distance(cell, end) < 1 - 1e-9}


def pairs(height: int, width: int, radius: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """Number of the offset and of the source cell, then both cells, of every pair, by the published rule."""
    sources = [(y, x) for y in range(height - radius + 1) for x in range(radius - 1, width - radius + 1)]
    for p, (dy, dx) in enumerate(pair_offsets(radius)):
        for n, (y, x) in enumerate(sources):
            yield p, n, y, x, y + dy, x + dx


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("radius", "count", "longest"), [(5, 34, 11), (10, 152, 22)])
def test_published_numbers_of_offsets_and_of_path_cells(radius: int, count: int, longest: int) -> None:
    offsets = pair_offsets(radius)
    assert len(offsets) == len(set(offsets)) == count
    assert max(len(path_cells(offset)) for offset in offsets) == longest


@pytest.mark.parametrize("radius", [2, 3, 5, 10])
def test_each_unordered_pair_within_the_radius_once(radius: int) -> None:
    offsets = set(pair_offsets(radius))
    for dy in range(-radius, radius + 1):
        for dx in range(-radius, radius + 1):
            near = 0 < math.hypot(dy, dx) < radius
            assert ((dy, dx) in offsets) + ((-dy, -dx) in offsets) == near
    assert all(dy >= 0 for dy, _ in offsets)
    lengths = [len(path_cells(offset)) for offset in pair_offsets(radius)]
    assert lengths == sorted(lengths)


@pytest.mark.parametrize("radius", [2, 5, 10])
def test_paths_are_cells_near_the_segment(radius: int) -> None:
    for offset in pair_offsets(radius):
        cells = path_cells(offset)
        assert set(cells) == naive_path(offset) and len(set(cells)) == len(cells)
        assert {(0, 0), offset} <= set(cells)
    assert path_cells((0, 2)) == ((0, 0), (0, 1), (0, 2))
    assert path_cells((1, 1)) == ((0, 0), (0, 1), (1, 0), (1, 1))
    assert path_cells((2, -1)) == ((0, -1), (0, 0), (1, -1), (1, 0), (2, -1), (2, 0))


@pytest.mark.parametrize(("radius", "size"), [(2, (4, 5)), (5, (9, 13)), (5, (5, 9))])
def test_path_affinity_pair_by_pair(radius: int, size: tuple[int, int]) -> None:
    edge = random_maps(2, *size)
    found = path_affinity(edge, radius)
    assert found.shape == (2, len(pair_offsets(radius)), (size[0] - radius + 1) * (size[1] - 2 * radius + 2))
    for p, n, y, x, _, _ in pairs(*size, radius):
        for b in range(2):
            worst = max(edge[b, y + dy, x + dx].item() for dy, dx in naive_path(pair_offsets(radius)[p]))
            assert found[b, p, n].item() == 1 - worst
    assert torch.equal(path_affinity(edge[:, None], radius), found)


def test_one_cell_of_each_path_has_a_gradient() -> None:
    edge = random_maps(2, 5, 7).requires_grad_()
    assert torch.autograd.gradcheck(lambda edge: path_affinity(edge, 3), edge)
    flat = torch.zeros(1, 5, 7, requires_grad=True)
    affinity = path_affinity(flat, 3)
    affinity.sum().backward()
    assert flat.grad is not None and flat.grad.sum() == -affinity.numel()
    assert torch.equal(flat.grad, flat.grad.round()), "ties are not shared"


def test_feature_affinity_pair_by_pair() -> None:
    features = random_maps(2, 3, 6, 9)
    found = feature_affinity(features, 4)
    for p, n, y, x, other_y, other_x in pairs(6, 9, 4):
        for b in range(2):
            distance = sum(abs(features[b, d, y, x] - features[b, d, other_y, other_x]).item() for d in range(3)) / 3
            assert found[b, p, n].item() == pytest.approx(math.exp(-distance), rel=1e-12)


def test_sources_and_targets_keep_leading_dimensions() -> None:
    cells = torch.arange(2 * 3 * 4 * 6).reshape(2, 3, 4, 6)
    source, target = pair_sources(cells, 3), pair_targets(cells, 3)
    for p, n, y, x, other_y, other_x in pairs(4, 6, 3):
        assert torch.equal(source[..., n], cells[..., y, x])
        assert torch.equal(target[..., p, n], cells[..., other_y, other_x])


@pytest.mark.parametrize("size", [(4, 9), (5, 8)])
def test_maps_without_a_source_are_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"{size[0]} x {size[1]} cells: .* radius 5 need at least 5 x 9"):
        path_affinity(torch.zeros(1, *size), 5)
    with pytest.raises(ValueError, match="radius 1: expected at least 2"):
        pair_offsets(1)


TWO_BY_HAND = torch.tensor(
    [
        [[0, 0, 1], [255, 1, 1], [2, 0, 1]],
        [[0, 0, 0], [0, 0, 255], [0, 255, 0]],
    ],
    dtype=torch.uint8,
)
"""With radius 2 the sources are cells (0, 1) and (1, 1), the offsets (0, 1), (1, 0), (1, -1), (1, 1)."""
BACKGROUND = [[[0, 0], [0, 0], [0, 0], [0, 0]], [[1, 0], [1, 0], [1, 1], [0, 1]]]
FOREGROUND = [[[0, 1], [0, 0], [0, 0], [0, 1]], [[0, 0], [0, 0], [0, 0], [0, 0]]]
NEGATIVE = [[[1, 0], [1, 1], [0, 1], [1, 0]], [[0, 0], [0, 0], [0, 0], [0, 0]]]


def test_labels_of_pairs_by_hand() -> None:
    assert pair_offsets(2) == ((0, 1), (1, 0), (1, -1), (1, 1))
    found = pair_labels(TWO_BY_HAND, 2)
    for mask, expected in zip(found, (BACKGROUND, FOREGROUND, NEGATIVE), strict=True):
        assert mask.dtype == torch.bool and mask.int().tolist() == expected


@pytest.mark.parametrize("void", [255, 4])
def test_labels_of_pairs_one_by_one(void: int) -> None:
    labels = torch.randint(0, 4, (2, 7, 9), generator=torch.Generator().manual_seed(0))
    labels[torch.rand(labels.shape, generator=torch.Generator().manual_seed(1)) < 0.2] = void
    found = pair_labels(labels, 4, void=void)
    for p, n, y, x, other_y, other_x in pairs(7, 9, 4):
        for b in range(2):
            one, other = labels[b, y, x].item(), labels[b, other_y, other_x].item()
            known = void not in (one, other)
            expected = (known and one == other == 0, known and one == other > 0, known and one != other)
            assert tuple(mask[b, p, n].item() for mask in found) == expected


def test_affinity_loss_by_hand() -> None:
    """The pairs of TWO_BY_HAND: five of background, two of foreground, five of different classes."""
    affinity = torch.linspace(0.05, 0.95, 16, dtype=torch.float64).reshape(2, 4, 2)
    sums = [0.0, 0.0, 0.0]
    for kind, mask in enumerate((BACKGROUND, FOREGROUND, NEGATIVE)):
        for b, p, n in torch.tensor(mask).nonzero().tolist():
            value = affinity[b, p, n].item()
            sums[kind] -= math.log(1 + 1e-5 - value if kind == 2 else value + 1e-5)
    expected = sums[0] / (5 + 1e-5) / 4 + sums[1] / (2 + 1e-5) / 4 + sums[2] / (5 + 1e-5) / 2
    labels = pair_labels(TWO_BY_HAND, 2)
    assert [int(mask.sum()) for mask in labels] == [5, 2, 5]
    assert affinity_loss(affinity, labels).item() == pytest.approx(expected, rel=1e-12)


def test_affinity_loss_at_its_ends() -> None:
    labels = pair_labels(TWO_BY_HAND, 2)
    right = (labels.background | labels.foreground).float()
    assert abs(affinity_loss(right, labels).item()) < 2e-5
    assert affinity_loss(1 - right, labels).item() == pytest.approx(-math.log(1e-5), rel=1e-3)
    assert affinity_loss(right.bfloat16(), labels).dtype == torch.float32


def test_losses_without_pairs_are_zero() -> None:
    labels = pair_labels(torch.full((1, 3, 3), 255), 2)
    assert not any(mask.any() for mask in labels)
    edge = torch.rand(1, 3, 3, requires_grad=True)
    field = torch.rand(1, 2, 3, 3, requires_grad=True)
    total = affinity_loss(path_affinity(edge, 2), labels) + displacement_loss(field, labels, 2)
    total.backward()
    assert total.item() == 0 and edge.grad is not None and field.grad is not None
    assert not edge.grad.any() and not field.grad.any()


def naive_displacement_loss(field: Tensor, labels: PairLabels, radius: int) -> float:
    sums, counts = [0.0, 0.0], [0, 0]
    for p, n, y, x, other_y, other_x in pairs(*field.shape[-2:], radius):
        for b in range(len(field)):
            moved = [(field[b, c, y, x] - field[b, c, other_y, other_x]).item() for c in range(2)]
            if labels.foreground[b, p, n]:
                sums[0] += abs(moved[0] - (other_y - y)) + abs(moved[1] - (other_x - x))
                counts[0] += 1
            if labels.background[b, p, n]:
                sums[1] += abs(moved[0]) + abs(moved[1])
                counts[1] += 1
    return sum(total / (2 * count + 1e-5) for total, count in zip(sums, counts, strict=True)) / 2


def test_displacement_loss_pair_by_pair() -> None:
    labels = pair_labels(torch.randint(0, 3, (2, 6, 8), generator=torch.Generator().manual_seed(0)), 3)
    assert all(mask.any() for mask in labels)
    field = 5 * random_maps(2, 2, 6, 8)
    assert displacement_loss(field, labels, 3).item() == pytest.approx(naive_displacement_loss(field, labels, 3))
    by_hand = pair_labels(TWO_BY_HAND, 2)
    field = random_maps(2, 2, 3, 3)
    assert displacement_loss(field, by_hand, 2).item() == pytest.approx(naive_displacement_loss(field, by_hand, 2))


def test_vectors_to_the_centre_have_no_displacement_loss() -> None:
    y, x = torch.meshgrid(torch.arange(9.0), torch.arange(11.0), indexing="ij")
    to_centre = torch.stack([3.0 - y, 6.0 - x])[None]
    inside = pair_labels(torch.ones(1, 9, 11, dtype=torch.long), 5)
    outside = pair_labels(torch.zeros(1, 9, 11, dtype=torch.long), 5)
    assert displacement_loss(to_centre, inside, 5) == 0
    assert displacement_loss(-to_centre, inside, 5) > 1
    assert displacement_loss(torch.full((1, 2, 9, 11), 0.7), outside, 5) == 0
    assert displacement_loss(to_centre, outside, 5) > 0.5
