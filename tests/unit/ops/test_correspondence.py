"""Places found by embeddings, and what position alone says, against loops."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from partwise.ops.correspondence import distances, match, mean_shape, sample_map, share_within


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_maps_are_sampled_between_centres() -> None:
    maps = torch.randn(2, 3, 4, 5, generator=generator())
    points = torch.rand(2, 7, 2, generator=generator(1))
    found = sample_map(maps, points)
    for b, place in product(range(2), range(7)):
        x = min(max(float(points[b, place, 0]) * 5 - 0.5, 0), 4)
        y = min(max(float(points[b, place, 1]) * 4 - 0.5, 0), 3)
        left, top = min(int(x), 3), min(int(y), 2)
        dx, dy = x - left, y - top
        own = maps[b, :, top : top + 2, left : left + 2]
        value = (1 - dy) * ((1 - dx) * own[:, 0, 0] + dx * own[:, 0, 1])
        value = value + dy * ((1 - dx) * own[:, 1, 0] + dx * own[:, 1, 1])
        assert torch.allclose(found[b, place], value, atol=1e-5)


def test_matching_cell_by_cell() -> None:
    map = torch.randn(6, 5, 7, generator=generator())
    queries = torch.randn(9, 6, generator=generator(1))
    found = match(queries, map, cells=1)
    for row in range(9):
        each = {
            (y, x): float(torch.cosine_similarity(queries[row], map[:, y, x], dim=0))
            for y, x in product(range(5), range(7))
        }
        y, x = max(each, key=lambda cell: each[cell])
        assert found[row].tolist() == pytest.approx([(x + 0.5) / 7, (y + 0.5) / 5])


def test_what_was_taken_from_a_place_is_found_there() -> None:
    smooth = F.interpolate(torch.randn(1, 32, 8, 8, generator=generator()), size=(16, 16), mode="bilinear")
    points = 0.1 + 0.8 * torch.rand(1, 40, 2, generator=generator(1))
    found = match(sample_map(smooth, points)[0], smooth[0], cells=64)
    assert distances(found, points[0]).max() < 1.2 / 64


def test_a_constant_map_is_matched_at_its_first_cell() -> None:
    assert match(torch.ones(2, 3), torch.ones(3, 4, 4), cells=32).tolist() == [[0.5 / 32, 0.5 / 32]] * 2


def test_shares_of_errors() -> None:
    errors = torch.tensor([0.01, 0.05, 0.051, math.nan, 0.2])
    assert float(share_within(errors, 0.05)) == 0.5
    assert distances(torch.tensor([[0.0, 0.3]]), torch.tensor([[0.4, 0.0]])).tolist() == pytest.approx([0.5])
    assert share_within(torch.full((2,), math.nan), 0.1).isnan()


def test_mean_shapes_leave_the_own_group_out() -> None:
    points = torch.rand(6, 3, 2, generator=generator())
    points[1, 0] = points[4, 2] = math.nan
    points[:, 1][torch.tensor([0, 2, 3, 4, 5])] = math.nan  # only picture 1 has landmark 1
    groups = torch.tensor([3, 3, 5, 5, 8, 9])
    found = mean_shape(points, groups)
    for i, k in product(range(6), range(3)):
        own = [points[j, k].double() for j in range(6) if groups[j] != groups[i] and not points[j, k].isnan().any()]
        if own:
            assert found[i, k].tolist() == pytest.approx(torch.stack(own).mean(0).tolist(), abs=1e-9)
        else:
            assert found[i, k].isnan().all() and i in (0, 1) and k == 1
