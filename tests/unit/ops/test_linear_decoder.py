"""The linear decoder against plain concatenation, a written-out loss, and tasks it must or cannot solve."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F

from partwise.ops.linear_decoder import LinearDecoder, fit_decoder, linear_scores, segmentation_loss


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_convolving_before_resizing_changes_nothing() -> None:
    stages = [torch.randn(2, 5, 8, 8, generator=generator()), torch.randn(2, 7, 3, 4, generator=generator(1))]
    weights = [torch.randn(3, 5, generator=generator(2)), torch.randn(3, 7, generator=generator(3))]
    side_by_side = torch.cat([F.interpolate(s, size=(12, 10), mode="bilinear") for s in stages], dim=1)
    expected = F.conv2d(side_by_side, torch.cat(weights, dim=1)[:, :, None, None])
    assert torch.allclose(linear_scores(stages, weights, (12, 10)), expected, atol=1e-5)
    decoder = LinearDecoder(tuple(weights), torch.tensor([1.0, 2, 3]))
    assert torch.allclose(decoder(stages, (12, 10)) - expected, torch.tensor([1.0, 2, 3])[:, None, None], atol=1e-5)


def test_loss_pixel_by_pixel() -> None:
    scores = torch.randn(2, 3, 4, 5, generator=generator())
    areas, counted = torch.rand(2, 3, 4, 5, generator=generator(1)), torch.rand(2, 4, 5, generator=generator(2))
    cross = total = 0.0
    both, sizes = [0.0] * 3, [0.0] * 3
    for n, v, y, x in product(range(2), range(3), range(4), range(5)):
        p, g, c = 1 / (1 + math.exp(-scores[n, v, y, x])), float(areas[n, v, y, x]), float(counted[n, y, x])
        cross -= c * (g * math.log(p) + (1 - g) * math.log(1 - p))
        total += c
        both[v] += c * p * c * g
        sizes[v] += c * (p + g)
    expected = cross / total + 1 - sum((2 * b + 1) / (s + 1) for b, s in zip(both, sizes, strict=True)) / 3
    assert float(segmentation_loss(scores, areas, counted)) == pytest.approx(expected, rel=1e-5)
    ones = torch.ones(2, 4, 5)
    assert torch.allclose(segmentation_loss(scores, areas, ones), segmentation_loss(scores, areas))


def test_what_a_channel_shows_is_learned_from_one_picture() -> None:
    maps = torch.randn(6, 8, 12, 12, generator=generator())
    areas = torch.stack([maps[:, 2] > 0.3, maps[:, 5] < -0.5], dim=1)
    decoder = fit_decoder([maps[:2]], areas[:2].float())
    found = decoder([maps[2:]], (12, 12)) > 0
    assert (found == areas[2:]).float().mean() > 0.97
    scaled = fit_decoder([100 * maps[:2] + 7], areas[:2].float())
    assert (
        torch.equal(scaled([100 * maps[2:] + 7], (12, 12)) > 0, found)
        or ((scaled([100 * maps[2:] + 7], (12, 12)) > 0) == found).float().mean() > 0.99
    )


def test_pixels_that_do_not_count_teach_nothing() -> None:
    maps = torch.randn(2, 4, 10, 10, generator=generator())
    areas = (maps[:, :1] > 0).float()
    counted = torch.ones(2, 10, 10)
    counted[:, :5] = 0
    wrong = areas.clone()
    wrong[:, :, :5] = 1 - areas[:, :, :5]
    one, other = fit_decoder([maps], areas, counted), fit_decoder([maps], wrong, counted)
    assert torch.equal(one.weights[0], other.weights[0]) and torch.equal(one.bias, other.bias)


def test_decay_holds_weights_back_and_constant_channels_have_none() -> None:
    maps = torch.randn(2, 4, 8, 8, generator=generator())
    maps[:, 3] = 5.0
    areas = (maps[:, :1] > 0).float()
    loose, tight = fit_decoder([maps], areas, decay=1e-4), fit_decoder([maps], areas, decay=1.0)
    assert tight.weights[0].norm() < 0.2 * loose.weights[0].norm()
    assert loose.weights[0][0, 3].abs() < 1e-3 and loose.bias.isfinite().all()


def test_it_fits_inside_inference_mode_and_the_same_each_time() -> None:
    maps = torch.randn(2, 4, 8, 8, generator=generator())
    with torch.inference_mode():
        inside = fit_decoder([maps * 1], (maps[:, :1] > 0).float())
    outside = fit_decoder([maps], (maps[:, :1] > 0).float())
    assert torch.equal(inside.weights[0], outside.weights[0])
