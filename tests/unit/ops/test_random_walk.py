"""The sparse walk against the dense one of the published code, and what a walk must keep."""

import math

import pytest
import torch
from torch import Tensor

from partwise.ops.affinity import feature_affinity, pair_offsets, path_cells
from partwise.ops.random_walk import (
    affinity_walk,
    feature_links,
    pairs_as_links,
    path_links,
    random_walk,
    transition,
    walk,
    with_background,
)

SIZES = [(7, 9), (3, 4), (1, 6), (12, 5)]


def random_maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def edge_affinity(edge: Tensor, one: tuple[int, int], other: tuple[int, int]) -> float:
    """Of two cells, the first above the second, or before it in its row."""
    cells = path_cells((other[0] - one[0], other[1] - one[1]))
    return 1 - max(edge[one[0] + y, one[1] + x].item() for y, x in cells)


def dense_affinity(size: tuple[int, int], radius: int, affinity: object) -> Tensor:
    """All pairs of cells, one by one: `affinity(one, other)` within the radius, 1 on the diagonal."""
    cells = [(y, x) for y in range(size[0]) for x in range(size[1])]
    matrix = torch.eye(len(cells), dtype=torch.float64)
    for i, one in enumerate(cells):
        for j in range(i + 1, len(cells)):
            if math.dist(one, cells[j]) < radius:
                matrix[i, j] = matrix[j, i] = affinity(one, cells[j])  # type: ignore[operator]
    return matrix


def dense_walk(maps: Tensor, affinity: Tensor, beta: float, doublings: int) -> Tensor:
    """The published form: columns normalised, the matrix squared, maps from the left."""
    matrix = affinity**beta
    matrix = matrix / matrix.sum(dim=0, keepdim=True)
    for _ in range(doublings):
        matrix = matrix @ matrix
    return (maps.flatten(1) @ matrix).reshape(maps.shape)


@pytest.mark.parametrize("size", SIZES)
def test_walk_along_boundaries_is_the_dense_one(size: tuple[int, int]) -> None:
    edge, maps = random_maps(*size) ** 2, random_maps(3, *size, seed=1)
    dense = dense_affinity(size, 5, lambda one, other: edge_affinity(edge, one, other))
    expected = dense_walk(maps * (1 - edge), dense, 10, 8)
    torch.testing.assert_close(random_walk(maps, edge), expected, rtol=0, atol=1e-10)
    short = dense_walk(maps * (1 - edge), dense, 4, 2)
    torch.testing.assert_close(random_walk(maps, edge, beta=4, steps=4), short, rtol=0, atol=1e-10)
    assert (short - expected).abs().max() > 1e-3, "beta and steps change nothing"


@pytest.mark.parametrize("radius", [2, 3, 8])
def test_other_radii(radius: int) -> None:
    edge, maps = random_maps(6, 7) ** 2, random_maps(2, 6, 7, seed=1)
    dense = dense_affinity((6, 7), radius, lambda one, other: edge_affinity(edge, one, other))
    expected = dense_walk(maps * (1 - edge), dense, 10, 3)
    torch.testing.assert_close(random_walk(maps, edge, radius=radius, steps=8), expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("size", SIZES)
def test_walk_along_features_is_the_dense_one(size: tuple[int, int]) -> None:
    """21 rows with a background, as AffinityNet walks them."""
    features, maps = 3 * random_maps(4, *size), with_background(random_maps(20, *size, seed=1))

    def affinity(one: tuple[int, int], other: tuple[int, int]) -> float:
        difference = features[:, one[0], one[1]] - features[:, other[0], other[1]]
        return math.exp(-difference.abs().mean().item())

    expected = dense_walk(maps, dense_affinity(size, 5, affinity), 8, 8)
    torch.testing.assert_close(affinity_walk(maps, features), expected, rtol=0, atol=1e-10)


def test_published_pairs_of_features_leave_out_the_margin() -> None:
    """A cell of the left, right or bottom margin is nobody's source, but still a target."""
    size, radius = (8, 11), 5
    features, maps = 3 * random_maps(4, *size), random_maps(3, *size, seed=1)

    def affinity(one: tuple[int, int], other: tuple[int, int]) -> float:
        if one[0] > 3 or not 4 <= one[1] <= 6:
            return 0.0
        difference = features[:, one[0], one[1]] - features[:, other[0], other[1]]
        return math.exp(-difference.abs().mean().item())

    expected = dense_walk(maps, dense_affinity(size, radius, affinity), 8, 5)
    links = pairs_as_links(feature_affinity(features[None], radius)[0], size, radius)
    found = walk(maps, transition(links, radius=radius, beta=8), steps=32)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-10)


def test_links_lead_nowhere_outside_the_map() -> None:
    links = path_links(torch.zeros(4, 6), 5), feature_links(torch.zeros(2, 4, 6), 5)
    for p, (dy, dx) in enumerate(pair_offsets(5)):
        for y in range(4):
            for x in range(6):
                inside = 0 <= y + dy < 4 and 0 <= x + dx < 6
                assert all(link[p, y, x] == inside for link in links)


@pytest.fixture
def matrix() -> Tensor:
    return transition(path_links(random_maps(9, 12), 5), radius=5, beta=10)


def test_rows_of_the_transition_sum_to_one(matrix: Tensor) -> None:
    dense = matrix.to_dense()
    assert (dense >= 0).all() and (dense.diagonal() > 0).all()
    torch.testing.assert_close(dense.sum(dim=1), torch.ones(108, dtype=torch.float64), rtol=0, atol=1e-14)
    assert matrix.values().numel() < 108 * 69, "pairs that leave the map are no entries"


@pytest.mark.parametrize("size", [(9, 12), (2, 2), (1, 1)])
def test_the_matrix_is_sound(size: tuple[int, int]) -> None:
    """In each row columns ascend and differ; torch looks only when asked to."""
    found = transition(path_links(random_maps(*size), 5), radius=5, beta=10)
    parts = found.crow_indices(), found.col_indices(), found.values()
    torch.sparse_csr_tensor(*parts, size=found.shape, check_invariants=True)
    assert all(part.dtype == torch.int32 for part in parts[:2])


def test_outputs_are_means_of_inputs(matrix: Tensor) -> None:
    maps = random_maps(3, 9, 12, seed=1)
    for steps in (1, 5, 256):
        found = walk(maps, matrix, steps=steps)
        assert (found.amax(dim=(1, 2)) <= maps.amax(dim=(1, 2)) + 1e-12).all()
        assert (found.amin(dim=(1, 2)) >= maps.amin(dim=(1, 2)) - 1e-12).all()
    constant = torch.full((1, 9, 12), 0.3, dtype=torch.float64)
    torch.testing.assert_close(walk(constant, matrix, steps=256), constant, rtol=0, atol=1e-12)


def test_a_closed_contour_stops_all_leakage() -> None:
    edge = 0.2 * torch.rand(15, 17, generator=torch.Generator().manual_seed(0))
    edge[3:12, 4:13] = 1
    edge[4:11, 5:12] = 0.1
    inside = torch.zeros(15, 17, dtype=torch.bool)
    inside[4:11, 5:12] = True
    maps = torch.stack([inside.float(), (~inside).float()])
    found = random_walk(maps, edge)
    assert found[0][inside].min() > 0.5 and not found[0][~inside].any()
    assert not found[1][inside].any()
    open_edge = edge.clone()
    open_edge[3, 8] = 0
    assert random_walk(maps, open_edge)[0][~inside].max() > 1e-3


def test_without_boundaries_maps_become_flat() -> None:
    """All cells tend to the mean of the input, weighted by the number of neighbours."""
    maps, size = random_maps(2, 6, 8), (6, 8)
    neighbours = torch.tensor(
        [[sum(math.dist((y, x), (v, u)) < 5 for v in range(6) for u in range(8)) for x in range(8)] for y in range(6)]
    ).double()
    expected = (maps * neighbours).sum(dim=(1, 2)) / neighbours.sum()
    found = random_walk(maps, torch.zeros(size, dtype=torch.float64))
    torch.testing.assert_close(found, expected[:, None, None].expand_as(found), rtol=0, atol=1e-10)


def test_mirrored_maps_walk_alike() -> None:
    """Although only one half plane of offsets is listed."""
    edge, maps = random_maps(9, 8), random_maps(2, 9, 8, seed=1)
    expected = random_walk(maps, edge, steps=8)
    for axis in (-1, -2):
        torch.testing.assert_close(random_walk(maps.flip(axis), edge.flip(axis), steps=8), expected.flip(axis))


def test_no_step_and_no_class() -> None:
    edge, maps = random_maps(5, 6), random_maps(2, 5, 6, seed=1)
    assert torch.equal(random_walk(maps, edge, steps=0), maps * (1 - edge))
    assert random_walk(maps[:0], edge).shape == (0, 5, 6)


def test_single_precision_is_close() -> None:
    edge, maps = random_maps(20, 30) ** 2, random_maps(3, 20, 30, seed=1)
    found = random_walk(maps.float(), edge.float())
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), random_walk(maps, edge), rtol=0, atol=1e-4)
    rounded = random_walk(maps.bfloat16(), edge.bfloat16(), steps=4)
    torch.testing.assert_close(rounded.double(), random_walk(maps, edge, steps=4), rtol=0, atol=0.05)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(random_walk(maps.float(), edge.float()), found)


def test_background_row() -> None:
    maps = random_maps(3, 2, 4)
    found = with_background(maps, power=6)
    for y in range(2):
        for x in range(4):
            assert found[0, y, x].item() == pytest.approx((1 - max(maps[k, y, x].item() for k in range(3))) ** 6)
    assert torch.equal(found[1:], maps)
    assert torch.equal(with_background(maps[:0]), torch.ones(1, 2, 4, dtype=torch.float64))
    assert torch.equal(with_background(maps), with_background(maps, power=16))


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_boundaries_outside_the_unit_interval_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"edge must lie in \[0, 1\]"):
        random_walk(torch.rand(1, 6, 6), torch.full((6, 6), value))


def test_what_does_not_fit_is_refused(matrix: Tensor) -> None:
    with pytest.raises(ValueError, match=r"maps of \(6, 6\) cells, a boundary of \(6, 7\)"):
        random_walk(torch.rand(1, 6, 6), torch.rand(6, 7))
    with pytest.raises(ValueError, match=r"maps of \(6, 6\) cells, features of \(3, 6\)"):
        affinity_walk(torch.rand(1, 6, 6), torch.rand(2, 3, 6))
    with pytest.raises(ValueError, match="34 links a cell: radius 4 has"):
        transition(path_links(torch.rand(6, 6), 5), radius=4, beta=1)
    with pytest.raises(ValueError, match="beta 0"):
        random_walk(torch.rand(1, 6, 6), torch.rand(6, 6), beta=0)
    with pytest.raises(ValueError, match="9 x 11 cells: the transition is one of 108"):
        walk(torch.rand(1, 9, 11), matrix, steps=1)


@pytest.mark.gpu
def test_on_an_accelerator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    edge, maps, features = random_maps(20, 30) ** 2, random_maps(3, 20, 30, seed=1), random_maps(4, 20, 30, seed=2)
    found = random_walk(maps.cuda(), edge.cuda())
    assert found.is_cuda
    torch.testing.assert_close(found.cpu(), random_walk(maps, edge), rtol=0, atol=1e-10)
    found = affinity_walk(maps.float().cuda(), features.float().cuda())
    torch.testing.assert_close(found.cpu(), affinity_walk(maps.float(), features.float()), rtol=0, atol=1e-4)
