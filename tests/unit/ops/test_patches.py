"""Patches against slow versions: borders by definition, every patch alone, and no leak from one to another."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from partwise.ops.patches import cuts, merge, patchwise, split


def strided(stride: int, seed: int = 0) -> nn.Sequential:
    """A chain of every kind of layer that halves: total stride 1, 2, 4 or 8."""
    torch.manual_seed(seed)
    halvings = [
        nn.Conv2d(3, 3, 3, 2, padding=1),
        nn.Conv2d(3, 3, 1, 2),
        nn.MaxPool2d(3, 2, padding=1),
    ]
    count = {1: 0, 2: 1, 4: 2, 8: 3}[stride]
    return nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), *halvings[:count], nn.Conv2d(3, 3, 3, padding=1)).eval()


@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 7))
def test_borders_are_aligned_and_cover_the_side(length: int, stride: int, count: int) -> None:
    borders = cuts(length, stride=stride, count=count)
    cells = -(-length // stride)
    assert borders[0] == 0 and borders[-1] == length
    assert all(low < high for low, high in pairwise(borders))
    assert all(border % stride == 0 for border in borders[:-1])
    assert len(borders) - 1 == min(count, cells)


def test_borders_by_hand() -> None:
    assert cuts(125, stride=1, count=2) == [0, 62, 125]  # not 62, 62 and 1
    assert cuts(125, stride=4, count=2) == [0, 64, 125]  # 32 cells: 16 and 16
    assert cuts(9, stride=4, count=3) == [0, 4, 8, 9]
    assert cuts(5, stride=4, count=4) == [0, 4, 5]  # only two cells


@given(st.integers(1, 300), st.sampled_from([1, 2, 4, 8, 16]), st.integers(1, 7))
def test_shifted_borders_are_aligned_and_lie_elsewhere(length: int, stride: int, count: int) -> None:
    borders = cuts(length, stride=stride, count=count, shifted=True)
    assert borders[0] == 0 and borders[-1] == length
    assert all(low < high for low, high in pairwise(borders))
    assert all(border % stride == 0 for border in borders[:-1])


def test_shifted_borders_by_hand() -> None:
    assert cuts(32, stride=4, count=2, shifted=True) == [0, 8, 24, 32]
    assert cuts(32, stride=4, count=1, shifted=True) == [0, 16, 32]
    assert cuts(3, stride=4, count=2, shifted=True) == [0, 3]


@pytest.mark.parametrize("numbers", [(0, 1, 1), (4, 0, 1), (4, 1, 0)])
def test_numbers_below_one_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        cuts(numbers[0], stride=numbers[1], count=numbers[2])


@given(st.integers(1, 23), st.integers(1, 23), st.sampled_from([1, 2, 4]), st.integers(1, 4), st.integers(1, 4))
def test_merge_is_the_inverse_of_split(height: int, width: int, stride: int, rows: int, columns: int) -> None:
    maps = torch.arange(2 * 3 * height * width).reshape(2, 3, height, width).float()
    assert torch.equal(merge(split(maps, stride=stride, grid=(rows, columns))), maps)


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 2), (4, 4)])
def test_the_merged_map_has_the_size_of_the_uncut_one(stride: int, grid: tuple[int, int]) -> None:
    network = strided(stride)
    with torch.no_grad():
        for side in range(9, 141, 1 if stride == 4 else 7):
            maps = torch.zeros(1, 3, side, 150 - side)
            assert patchwise(network, maps, stride=stride, grid=grid).shape == network(maps).shape, side


@pytest.mark.parametrize("stride", [1, 2, 8])
def test_one_patch_is_the_uncut_map_bit_for_bit(stride: int) -> None:
    network, maps = strided(stride), torch.randn(2, 3, 37, 22)
    assert torch.equal(patchwise(network, maps, stride=stride, grid=(1, 1)), network(maps))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (37, 41), (9, 50), (3, 5)])
def test_batched_patches_are_what_each_gives_alone(height: int, width: int) -> None:
    network, maps = strided(4).double(), torch.randn(3, 3, height, width, dtype=torch.float64)

    def alone(maps: Tensor) -> Tensor:
        rows, columns = cuts(height, stride=4, count=3), cuts(width, stride=4, count=2)
        lines = []
        for top, bottom in pairwise(rows):
            pieces = [network(maps[:, :, top:bottom, a:b]) for a, b in pairwise(columns)]
            lines.append(torch.cat(pieces, dim=3))
        return torch.cat(lines, dim=2)

    torch.testing.assert_close(patchwise(network, maps, stride=4, grid=(3, 2)), alone(maps))


def test_a_patch_knows_nothing_of_the_others_and_the_uncut_map_does() -> None:
    network, maps = strided(2), torch.randn(1, 3, 16, 16)
    changed = maps.clone()
    changed[:, :, :8, :8] += 1
    before, after = (patchwise(network, m, stride=2, grid=(2, 2)) for m in (maps, changed))
    differs = (before != after).any(dim=1)[0]
    assert differs[:4, :4].all()
    assert not differs[4:].any() and not differs[:, 4:].any()
    across = (network(maps) != network(changed)).any(dim=1)[0]
    assert across[4:].any()


def test_gradients_pass_through_every_patch() -> None:
    maps = torch.randn(1, 3, 13, 9, requires_grad=True)
    patchwise(strided(2), maps, stride=2, grid=(2, 2)).sum().backward()
    assert maps.grad is not None and (maps.grad.abs().sum(1) > 0).all()
