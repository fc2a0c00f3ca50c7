"""Pixel-adaptive mask refinement against loops over pixels and neighbours."""

import numpy as np
import pytest
import torch
from torch import Tensor

from partwise.ops.pamr import affinities, pamr


def pictures(count: int, height: int, width: int, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, height, width, generator=torch.Generator().manual_seed(height + channels))


def offsets(dilations: tuple[int, ...]) -> list[tuple[int, int]]:
    around = [(-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]
    return [(dy * dilation, dx * dilation) for dilation in dilations for dy, dx in around]


def naive_pamr(image: np.ndarray, maps: np.ndarray, iterations: int, dilations: tuple[int, ...]) -> np.ndarray:
    """One picture (3, h, w), its maps (c, h, w), one pixel at a time."""
    _, height, width = image.shape
    weights = np.zeros((height, width, 8 * len(dilations)))

    def at(values: np.ndarray, y: int, x: int) -> np.ndarray:
        return values[:, min(max(y, 0), height - 1), min(max(x, 0), width - 1)]

    for y, x in np.ndindex(height, width):
        beside = np.stack([at(image, y + dy, x + dx) for dy, dx in offsets(dilations)])
        own = np.repeat(image[None, :, y, x], len(dilations), axis=0)
        spread = np.concatenate([beside, own]).std(axis=0, ddof=1)
        likeness = (-np.abs(beside - image[:, y, x]) / (1e-8 + 0.1 * spread)).mean(axis=1)
        chances = np.exp(likeness - likeness.max())
        weights[y, x] = chances / chances.sum()
    for _ in range(iterations):
        refined = np.zeros_like(maps)
        for y, x in np.ndindex(height, width):
            beside = np.stack([at(maps, y + dy, x + dx) for dy, dx in offsets(dilations)])
            refined[:, y, x] = weights[y, x] @ beside
        maps = refined
    return maps


@pytest.mark.parametrize("dilations", [(1,), (1, 2, 4), (3, 24)])
def test_pixel_by_pixel(dilations: tuple[int, ...]) -> None:
    image, maps = pictures(2, 7, 9).double(), pictures(2, 7, 9, channels=4).double()
    found = pamr(image, maps, iterations=3, dilations=dilations)
    for picture in range(2):
        expected = naive_pamr(image[picture].numpy(), maps[picture].numpy(), 3, dilations)
        assert np.allclose(found[picture].numpy(), expected, atol=1e-10)


def test_defaults_are_the_published_ones() -> None:
    image, maps = pictures(1, 9, 11), pictures(1, 9, 11, channels=2)
    expected = naive_pamr(image[0].double().numpy(), maps[0].double().numpy(), 10, (1, 2, 4, 8, 12, 24))
    assert np.allclose(pamr(image, maps)[0].numpy(), expected, atol=1e-5)


def test_weights_add_up_to_one_and_constants_stay() -> None:
    image = pictures(2, 12, 10)
    assert torch.allclose(affinities(image, (1, 2, 8)).sum(dim=1), torch.ones(2, 12, 10))
    assert torch.allclose(pamr(image, torch.full((2, 1, 12, 10), 0.3)), torch.full((2, 1, 12, 10), 0.3))


def test_a_flat_picture_averages_evenly() -> None:
    weights = affinities(torch.full((1, 3, 5, 6), 0.5), (1, 2))
    assert torch.allclose(weights, torch.full_like(weights, 1 / 16))


def test_maps_stop_at_an_edge() -> None:
    """What is known of a few pixels spreads over their colour, hardly beyond it."""
    image = torch.zeros(1, 3, 16, 16)
    image[..., 8:] = 1
    maps = torch.zeros(1, 1, 16, 16)
    maps[..., 2:14, 3:6] = 1
    found = pamr(image, maps, dilations=(1, 2, 4))
    assert found[..., :8].min() > 0.2 and found[..., 8:].max() < 0.1


def test_differentiable_in_the_maps() -> None:
    image, maps = pictures(1, 3, 4).double(), pictures(1, 3, 4, channels=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda m: pamr(image, m, iterations=2, dilations=(1,)), (maps,))


def test_maps_are_left_as_they_were() -> None:
    image, maps = pictures(1, 6, 6), pictures(1, 6, 6, channels=2)
    kept = maps.clone()
    pamr(image, maps)
    assert torch.equal(maps, kept)
    assert torch.equal(pamr(image, maps, iterations=0), maps)


def test_wrong_arguments_are_refused() -> None:
    image = pictures(2, 6, 7)
    for maps in (torch.zeros(1, 2, 6, 7), torch.zeros(2, 2, 7, 6)):
        with pytest.raises(ValueError, match="differ"):
            pamr(image, maps)
    for dilations in ((), (0, 1)):
        with pytest.raises(ValueError, match="dilations"):
            pamr(image, image, dilations=dilations)


@pytest.mark.gpu
def test_on_an_accelerator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    image, maps = pictures(2, 40, 50), pictures(2, 40, 50, channels=3)
    assert torch.allclose(pamr(image.cuda(), maps.cuda()).cpu(), pamr(image, maps), atol=1e-5)
