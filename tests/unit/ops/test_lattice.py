"""The permutohedral lattice against a filter of dictionaries, one point and one corner at a time."""

import math
from collections import defaultdict

import pytest
import torch
from torch import Tensor

from partwise.ops.lattice import Permutohedral, enclosing_simplices

Key = tuple[int, ...]


def naive_corners(point: list[float]) -> list[tuple[Key, float]]:
    """(all d + 1 coordinates, barycentric weight) of the d + 1 corners around one point, by the textbook's steps."""
    d = len(point)
    scaled = [f * math.sqrt(2 / 3) * (d + 1) / math.sqrt((i + 1) * (i + 2)) for i, f in enumerate(point)]
    elevated = [sum(scaled)] + [sum(scaled[j:]) - j * scaled[j - 1] for j in range(1, d + 1)]
    nearest = [(d + 1) * round(e / (d + 1)) for e in elevated]
    excess = sum(nearest) // (d + 1)
    rank = [0] * (d + 1)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            smaller = i if elevated[i] - nearest[i] < elevated[j] - nearest[j] else j
            rank[smaller] += 1
    for i in range(d + 1):
        rank[i] += excess
        shift = (d + 1) * ((rank[i] < 0) - (rank[i] > d))
        rank[i] += shift
        nearest[i] += shift
    barycentric = [0.0] * (d + 2)
    for i in range(d + 1):
        share = (elevated[i] - nearest[i]) / (d + 1)
        barycentric[d - rank[i]] += share
        barycentric[d - rank[i] + 1] -= share
    barycentric[0] += 1 + barycentric[d + 1]
    canonical = [[k if t <= d - k else k - (d + 1) for t in range(d + 1)] for k in range(d + 1)]
    return [(tuple(nearest[i] + canonical[k][rank[i]] for i in range(d + 1)), barycentric[k]) for k in range(d + 1)]


def naive_filter(features: Tensor, values: Tensor) -> Tensor:
    d = features.shape[1]
    corners = [naive_corners(point) for point in features.tolist()]
    table: dict[Key, Tensor] = defaultdict(lambda: torch.zeros(values.shape[1], dtype=values.dtype))
    for own, value in zip(corners, values, strict=True):
        for key, share in own:
            table[key] = table[key] + share * value
    for axis in range(d + 1):
        step = tuple(-d if j == axis else 1 for j in range(d + 1))
        blurred = {}
        for key, own_value in table.items():
            value = own_value
            for sign in (1, -1):
                beside = tuple(k + sign * s for k, s in zip(key, step, strict=True))
                if beside in table:
                    value = value + table[beside] / 2
            blurred[key] = value
        table = blurred
    sliced = [sum(share * table[key] for key, share in own) for own in corners]
    return torch.stack(sliced) / (1 + 2.0**-d)


def points(count: int, dims: int, spread: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return spread * torch.randn(count, dims, generator=generator, dtype=torch.float64)


def values_at(count: int, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(9), dtype=torch.float64)


@pytest.mark.parametrize("dims", [1, 2, 3, 5])
@pytest.mark.parametrize("spread", [0.3, 2.0])
def test_filter_of_dictionaries(dims: int, spread: float) -> None:
    features, values = points(60, dims, spread, seed=dims), values_at(60)
    assert torch.allclose(Permutohedral(features).filter(values), naive_filter(features, values), atol=1e-10)


def test_filter_of_a_grid_with_ties() -> None:
    """Whole numbers and equal coordinates, as pixels have them, put many points onto the borders of simplices."""
    y, x = torch.meshgrid(torch.arange(6.0), torch.arange(7.0), indexing="ij")
    flat = torch.stack([x, y, 0 * x, 0 * x, (x > 3) * 40.0], dim=-1).reshape(-1, 5).double()
    for features in (flat[:, :2], flat[:, :2] / 3, flat, flat * 0):
        values = values_at(len(features))
        assert torch.allclose(Permutohedral(features).filter(values), naive_filter(features, values), atol=1e-10)


@pytest.mark.parametrize("dims", [1, 2, 5])
def test_corners_of_every_point(dims: int) -> None:
    """Weights, and keys that are equal where all coordinates are, and only there."""
    features = points(200, dims, 1.5)
    simplices = enclosing_simplices(features)
    assert simplices.weights.min() >= -1e-12
    assert torch.allclose(simplices.weights.sum(0), torch.ones(200, dtype=torch.float64))
    known: dict[int, Key] = {}
    for place, point in enumerate(features.tolist()):
        for k, (key, share) in enumerate(naive_corners(point)):
            assert simplices.weights[k, place].item() == pytest.approx(share, abs=1e-12)
            assert known.setdefault(int(simplices.keys[k, place]), key) == key
    assert len(set(known.values())) == len(known)


def test_neighbours_of_the_outermost_vertices_are_not_taken_for_others() -> None:
    """Two far corners of a box: stepping off the packed range of one coordinate must not enter the next."""
    features = torch.tensor([[0.0, 0, 0], [0, 0, 9], [0, 9, 0], [9, 0, 0], [9, 9, 9], [0, 9, 9]], dtype=torch.float64)
    for seed in range(20):
        moved = features + points(6, 3, 1.0, seed)
        values = values_at(6)
        assert torch.allclose(Permutohedral(moved).filter(values), naive_filter(moved, values), atol=1e-10)


def test_close_to_the_gaussian_sum() -> None:
    """Up to a factor, the sum that it stands for; on a dense grid, away from its border."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(40.0), indexing="ij")
    features = torch.stack([x, y], dim=-1).reshape(-1, 2) / 3
    values = torch.rand(1600, 1, generator=torch.Generator().manual_seed(0))
    exact = (-torch.cdist(features, features).square() / 2).exp() @ values
    inside = ((x > 9) & (x < 30) & (y > 9) & (y < 30)).flatten()
    factor = Permutohedral(features).filter(values)[inside] / exact[inside]
    assert factor.std() / factor.mean() < 0.02


def test_splat_and_slice_are_transposes() -> None:
    features, values = points(50, 3, 1.0), values_at(50, 1)
    lattice = Permutohedral(features)
    table = values_at(lattice.num_vertices, 1)
    inner = (lattice.splat(values) * table).sum()
    assert torch.allclose(inner, (values * lattice.slice(table)).sum() * (1 + 2.0**-3))
    assert torch.allclose(lattice.splat(torch.ones_like(values)).sum(), torch.tensor(50.0, dtype=torch.float64))


def test_normalised_is_the_scaled_kernel() -> None:
    """D^-1/2 G D^-1/2, from G as a matrix."""
    features = points(40, 3, 1.0)
    lattice, identity = Permutohedral(features), torch.eye(40, dtype=torch.float64)
    kernel = lattice.filter(identity)
    scale = kernel.sum(1).rsqrt().diag()
    assert torch.allclose(lattice.normalised().filter(identity), scale @ kernel @ scale, atol=1e-12)
    assert torch.allclose(lattice.normalised(2.5).filter(identity), 2.5 * scale @ kernel @ scale, atol=1e-12)
    assert torch.equal(lattice.filter(identity), kernel), "normalising leaves the lattice itself as it was"


def test_float32_and_repeatable() -> None:
    features, values = points(300, 5, 1.0).float(), values_at(300).float()
    lattice = Permutohedral(features)
    found = lattice.filter(values)
    assert found.dtype == torch.float32
    assert torch.equal(found, lattice.filter(values)) and torch.equal(found, Permutohedral(features).filter(values))
    assert torch.allclose(found, naive_filter(features.double(), values.double()).float(), atol=1e-4)


def test_one_point() -> None:
    """d + 1 corners that nothing else reaches: the squares of their weights, and no blur from outside."""
    for dims in (1, 3):
        features, values = points(1, dims, 1.0), values_at(1)
        assert torch.allclose(Permutohedral(features).filter(values), naive_filter(features, values), atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e15])
def test_features_that_cannot_be_numbered(bad: float) -> None:
    features = points(10, 5, 1.0)
    features[3] = bad
    with pytest.raises(ValueError, match="finite"):
        Permutohedral(features)


@pytest.mark.parametrize("shape", [(0, 3), (4, 0), (4,)])
def test_shapes_that_are_no_points(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="points"):
        Permutohedral(torch.zeros(shape))


@pytest.mark.gpu
def test_on_an_accelerator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    features, values = points(2000, 5, 2.0).float(), values_at(2000).float()
    found = Permutohedral(features.cuda()).normalised().filter(values.cuda()).cpu()
    assert torch.allclose(found, Permutohedral(features).normalised().filter(values), atol=1e-5)
