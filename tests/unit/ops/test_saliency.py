"""Fine-grained saliency against its definition, one pixel at a time."""

from __future__ import annotations

import pytest
import torch

from partwise.ops.saliency import fine_grained_saliency, peaks


def by_definition(grey: torch.Tensor, reaches: tuple[int, ...]) -> torch.Tensor:
    height, width = grey.shape
    total = torch.zeros(height, width, dtype=torch.float64)
    for reach in reaches:
        for y in range(height):
            for x in range(width):
                window = grey[max(y - reach, 0) : y + reach + 1, max(x - reach, 0) : x + reach + 1].double()
                others = (window.sum() - grey[y, x].double()) / max(window.numel() - 1, 1)
                on, off = max(grey[y, x] - others, 0), max(others - grey[y, x], 0)
                total[y, x] += on + off if window.numel() > 1 else 0
    return total


@pytest.mark.parametrize("reaches", [(1,), (2, 5), (12, 24, 28, 48, 56, 112)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_saliency_is_the_difference_from_the_surroundings(reaches: tuple[int, ...], dtype: torch.dtype) -> None:
    images = 255 * torch.rand(2, 3, 6, 9, generator=torch.Generator().manual_seed(0))
    images = images.to(dtype)
    found = fine_grained_saliency(images, reaches=reaches)
    for row in range(2):
        expected = by_definition(images[row].float().mean(0), reaches)
        torch.testing.assert_close(found[row].double(), expected, rtol=1e-4, atol=1e-3)


def test_a_spot_is_the_peak_and_ties_go_to_the_first() -> None:
    images = torch.full((2, 3, 20, 30), 0.5)
    images[0, :, 13, 4] = 1.0
    images[1, :, 2, 25] = 0.0
    assert peaks(fine_grained_saliency(images)).tolist() == [[4, 13], [25, 2]]
    assert peaks(torch.zeros(1, 4, 5)).tolist() == [[0, 0]]
    assert fine_grained_saliency(torch.ones(1, 3, 1, 1)).item() == 0
