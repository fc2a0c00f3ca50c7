"""Large pictures are brought down and cells brought up, each against a version of its own."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from partwise.methods.ppl.sharpening import sharpen_labels, sharpen_probabilities
from partwise.methods.ppl.sizing import LARGEST, raised, within
from partwise.ops.segmentation_losses import resize_labels


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 120))
def test_the_longer_side_fits_and_the_ratio_stays(height: int, width: int, longest: int) -> None:
    found = within(torch.zeros(1, 1, height, width), longest).shape[-2:]
    if max(height, width) <= longest:
        assert tuple(found) == (height, width)
        return
    assert max(found) == longest
    short = min(height, width) * longest / max(height, width)
    assert abs(min(found) - max(1.0, short)) <= 0.5


def test_small_pictures_are_not_touched() -> None:
    image = torch.rand(2, 3, 7, LARGEST)
    assert within(image) is image
    assert within(torch.zeros(1, 1, LARGEST + 1, 4)).shape[-2:] == (LARGEST, 4)


def test_pixels_are_averaged_as_pil_does() -> None:
    """Every pixel of a large picture counts: leaving some out would show a fine pattern as a coarse one."""
    stripes = (torch.arange(60) % 2 * 255.0).expand(1, 1, 40, 60).contiguous()
    found = within(stripes, 20)[0, 0]
    theirs = Image.fromarray(stripes[0, 0].numpy()).resize((20, 13), Image.Resampling.BILINEAR)
    torch.testing.assert_close(found, torch.from_numpy(np.array(theirs)), rtol=0, atol=0.1)
    assert (found - 127.5).abs().max() < 20


def naive_raised(cells: torch.Tensor, stride: int, size: tuple[int, int]) -> torch.Tensor:
    """Bilinear between the centres of cells of `stride` pixels, one pixel at a time."""
    rows, columns = cells.shape[-2:]
    out = torch.zeros(len(cells), *size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) / stride - 0.5, 0), rows - 1)
            u = min(max((x + 0.5) / stride - 0.5, 0), columns - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            a, b = v - top, u - left
            out[:, y, x] = (1 - a) * ((1 - b) * cells[:, top, left] + b * cells[:, top, right]) + a * (
                (1 - b) * cells[:, below, left] + b * cells[:, below, right]
            )
    return out


@pytest.mark.parametrize("stride", [1, 2, 4, 8])
@pytest.mark.parametrize(("height", "width"), [(33, 30), (17, 40), (32, 16)])
def test_cells_of_a_stride_stay_where_they_are(stride: int, height: int, width: int) -> None:
    cells = torch.rand(2, math.ceil(height / stride), math.ceil(width / stride))
    torch.testing.assert_close(raised(cells, (height, width)), naive_raised(cells, stride, (height, width)))


@pytest.mark.parametrize(("height", "width", "rows", "columns"), [(225, 40, 28, 5), (2000, 1500, 256, 192)])
def test_cells_of_no_stride_are_spread_over_the_picture(height: int, width: int, rows: int, columns: int) -> None:
    cells = torch.rand(1, rows, columns)
    expected = F.interpolate(cells[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    assert torch.equal(raised(cells, (height, width)), expected)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.sampled_from([1, 2, 4, 8, 16]))
def test_any_picture_gets_scores_of_its_size_within_the_range_of_its_cells(
    height: int, width: int, stride: int
) -> None:
    cells = torch.rand(1, math.ceil(height / stride), math.ceil(width / stride))
    found = raised(cells, (height, width))
    assert found.shape == (1, height, width)
    assert cells.min() - 1e-6 <= found.min() and found.max() <= cells.max() + 1e-6


@pytest.mark.parametrize("by", ["pamr", "deeplab"])
def test_large_pictures_are_sharpened_at_a_bounded_size(by: str) -> None:
    """Time and memory of a CRF grow with the pixels: what is found on the reduced picture is brought back to its own."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (3, 2 * LARGEST + 3, 12), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 3, image.shape[1:], dtype=torch.uint8, generator=generator)
    small = torch.round(within(image[None].float() / 255) * 255).to(torch.uint8)[0]
    assert small.shape == (3, LARGEST, 6)
    found = sharpen_labels(image, labels, 2, by)  # type: ignore[arg-type]
    expected = sharpen_labels(small, resize_labels(labels[None], (LARGEST, 6))[0], 2, by)  # type: ignore[arg-type]
    assert found.dtype == torch.uint8 and torch.equal(found, resize_labels(expected[None], labels.shape)[0])
    chances = torch.rand(3, *labels.shape, generator=generator).softmax(0)
    rough = F.interpolate(chances[None], size=(LARGEST, 6), mode="bilinear", align_corners=False)[0]
    sharp = sharpen_probabilities(small, rough, by)[None]  # type: ignore[arg-type]
    answer = F.interpolate(sharp, size=labels.shape, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(sharpen_probabilities(image, chances, by), answer)  # type: ignore[arg-type]
    torch.testing.assert_close(answer.sum(0), torch.ones(labels.shape))
