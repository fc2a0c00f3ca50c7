"""Stored pictures and the training pictures they stand for, window by window."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partwise.ops.multi_formation import decode, decode_shares, decode_tiles, pack_tiles


def pictures(count: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 2, height, width, generator=torch.Generator().manual_seed(count), dtype=dtype)


def naive_window(image: Tensor, row: int, column: int, factor: int) -> Tensor:
    """One window pixel by pixel, 0.5 outside."""
    channels, height, width = image.shape
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    window = torch.full((channels, rows, columns), 0.5, dtype=image.dtype)
    for y in range(rows):
        for x in range(columns):
            if row * rows + y < height and column * columns + x < width:
                window[:, y, x] = image[:, row * rows + y, column * columns + x]
    return window


def naive_bilinear(window: Tensor, size: int, axis: int) -> Tensor:
    """Along one axis: output pixel centres between input pixel centres, the outermost pixels going on outside."""
    length = window.shape[axis]
    lines = []
    for place in range(size):
        at = max((place + 0.5) * length / size - 0.5, 0.0)
        low = min(int(at), length - 1)
        high, share = min(low + 1, length - 1), at - low
        lines.append((1 - share) * window.select(axis, low) + share * window.select(axis, high))
    return torch.stack(lines, dim=axis)


def naive_decode(images: Tensor, factor: int) -> Tensor:
    made = []
    for row in range(factor):
        for column in range(factor):
            for image in images:
                window = naive_window(image, row, column, factor)
                made.append(naive_bilinear(naive_bilinear(window, image.shape[1], 1), image.shape[2], 2))
    return torch.stack(made)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (9, 9), (7, 10), (32, 32)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_windows_one_by_one(height: int, width: int, factor: int) -> None:
    images = pictures(2, height, width, torch.float64)
    found = decode_tiles(images, factor=factor)
    assert found.shape == (2 * factor**2, 2, height, width)
    torch.testing.assert_close(found, naive_decode(images, factor), rtol=1e-5, atol=1e-5)


def test_order_is_window_by_window_with_labels() -> None:
    images = torch.zeros(3, 1, 4, 4)
    for number in range(3):
        images[number, 0] = torch.tensor([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]) + 10 * number
    found, labels = decode(images, torch.tensor([5, 6, 7]), factor=2)
    assert found[:, 0, 0, 0].tolist() == [0, 10, 20, 1, 11, 21, 2, 12, 22, 3, 13, 23]
    assert labels.tolist() == [5, 6, 7] * 4
    soft = torch.rand(3, 4)
    assert torch.equal(decode(images, soft, factor=2)[1], torch.cat([soft] * 4))


def test_multi_is_every_factor_in_turn() -> None:
    images, labels = pictures(2, 9, 9), torch.tensor([3, 4])
    found, repeated = decode(images, labels, factor=3, mode="multi")
    assert torch.equal(found, torch.cat([decode_tiles(images, factor=factor) for factor in (1, 2, 3)]))
    assert repeated.tolist() == [3, 4] * 14


def test_bound_decodes_every_picture_once() -> None:
    images, labels = pictures(50, 4, 4), torch.arange(50)
    found, repeated = decode(images, labels, factor=2, mode="bound")
    assert len(found) == len(repeated) == 107  # the published count, see decode_shares
    assert torch.equal(found, torch.cat([decode_tiles(images[:19], factor=2), images[19:]]))
    assert repeated.tolist() == [*range(19)] * 4 + [*range(19, 50)]
    assert torch.equal(decode(images[:10], factor=2, mode="bound"), decode_tiles(images[:10], factor=2))


@given(count=st.integers(1, 200), factor=st.integers(1, 4), bound=st.integers(1, 300))
@settings(max_examples=200, deadline=None)
def test_shares_under_a_bound(count: int, factor: int, bound: int) -> None:
    shares = decode_shares(count, factor=factor, bound=bound)
    assert sum(taken for _, taken in shares) == count
    assert [each for each, _ in shares] == sorted({each for each, _ in shares}, reverse=True)
    assert all(1 <= each <= factor and taken > 0 for each, taken in shares)
    assert sum(each**2 * taken for each, taken in shares) <= max(bound, count)


def test_decoding_is_differentiable() -> None:
    images = pictures(2, 5, 5, torch.float64).requires_grad_()
    for mode in ("single", "multi", "bound"):
        assert torch.autograd.gradcheck(lambda x, mode=mode: decode(x, factor=2, mode=mode, bound=6), (images,))


@pytest.mark.parametrize(("side", "factor"), [(8, 2), (9, 3), (32, 3), (31, 3), (7, 2)])
def test_packing_picture_by_picture(side: int, factor: int) -> None:
    images = pictures(2 * factor**2, side, side)
    packed = pack_tiles(images, factor=factor)
    assert packed.shape == (2, 2, side, side)
    window = math.ceil(side / factor)
    for tile in range(factor**2):
        for number in range(2):
            top, left = tile // factor * window, tile % factor * window
            rows, columns = min(window, side - top), min(window, side - left)
            for y in range(rows):
                for x in range(columns):
                    picked = images[tile * 2 + number, :, y * side // rows, x * side // columns]
                    assert torch.equal(packed[number, :, top + y, left + x], picked)


@pytest.mark.parametrize("resampling", ["nearest", "antialias"])
def test_decoding_gives_back_what_was_packed(resampling: str) -> None:
    """Smooth pictures come back in their order, blurred."""
    coarse = torch.randn(18, 1, 2, 2, generator=torch.Generator().manual_seed(0))
    images = F.interpolate(coarse, size=(24, 24), mode="bilinear", align_corners=True)
    found = decode_tiles(pack_tiles(images, factor=3, resampling=resampling), factor=3)
    errors = (found[:, None] - images[None]).abs().mean((2, 3, 4))
    assert errors.argmin(1).tolist() == list(range(18))
    assert errors.diagonal().mean() < 0.25 * errors.mean()


def test_mistakes_are_answered() -> None:
    images = pictures(4, 8, 8)
    with pytest.raises(ValueError, match="factor 0: "):
        decode_tiles(images, factor=0)
    with pytest.raises(ValueError, match="factor 7: does not cut a side of 8 px"):
        decode_tiles(images, factor=7)
    with pytest.raises(ValueError, match="decode mode 'many': expected one of single, multi, bound"):
        decode(images, factor=2, mode="many")
    with pytest.raises(ValueError, match="4 pictures: expected a multiple of factor"):
        pack_tiles(images, factor=3)
    with pytest.raises(ValueError, match="resampling 'cubic'"):
        pack_tiles(images, factor=2, resampling="cubic")
