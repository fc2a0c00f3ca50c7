"""Ablations and descendants of CutMix: their laws, and each pixel against a plain second version."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from partwise.config import UserError
from partwise.ops.mixing import (
    Mix,
    apply_mix,
    draw_cutmix,
    draw_cutmix_fixed,
    draw_cutmix_gaussian,
    draw_fmix,
    draw_saliencymix,
    mix_boxes,
    mix_masks,
    mix_targets,
    weighed,
)
from partwise.ops.mixing_variants import smooth_noise

PEAKS = torch.stack((torch.arange(40) % 13, torch.arange(40) % 7), dim=1)
DRAWS: dict[str, Any] = {
    "gaussian": draw_cutmix_gaussian,
    "fixed": draw_cutmix_fixed,
    "saliencymix": lambda *size, **options: draw_saliencymix(*size, peaks=PEAKS, **options),
    "fmix": draw_fmix,
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pasted(mix: Mix) -> torch.Tensor:
    """What each row takes from its partner, pixel by pixel."""
    height, width = mix.size
    if mix.shapes is not None:
        return mix.shapes
    rows = []
    for x1, y1, x2, y2 in mix.boxes.tolist():
        rows.append([[x1 <= x < x2 and y1 <= y < y2 for x in range(width)] for y in range(height)])
    return torch.tensor(rows)


@pytest.mark.parametrize("mode", ["sample", "pair", "batch"])
@pytest.mark.parametrize("rule", list(DRAWS))
def test_pixels_and_shares_follow_the_draw(rule: str, mode: str) -> None:
    for batch, height, width in ((1, 5, 7), (6, 9, 14), (7, 12, 12)):
        mix = DRAWS[rule](batch, height, width, mode=mode, p=0.8, generator=seeded(batch))
        images = torch.rand(batch, 3, height, width, generator=seeded(3))
        taken = pasted(mix)
        expected = torch.where(taken[:, None], images[mix.partner], images)
        assert torch.equal(apply_mix(images, mix), expected)
        kept = 1 - taken.float().mean((1, 2))
        torch.testing.assert_close(mix.lam, kept)
        again = DRAWS[rule](batch, height, width, mode=mode, p=0.8, generator=seeded(batch))
        assert torch.equal(again.lam, mix.lam) and torch.equal(pasted(again), taken)
        if mode == "batch":
            assert mix.shared and (mix.lam == mix.lam[0]).all()


@pytest.mark.parametrize("rule", list(DRAWS))
def test_the_gate_opens_with_p(rule: str) -> None:
    draw = DRAWS[rule]
    if rule == "saliencymix":
        draw = lambda *s, **o: draw_saliencymix(*s, peaks=torch.full((4000, 2), 6), **o)  # noqa: E731
    lam = draw(4000, 12, 12, p=0.3, generator=seeded()).lam
    share = float((lam < 1).float().mean())
    assert 0.24 < share <= 0.33  # a few boxes are empty
    assert draw(64, 12, 12, p=0.0, generator=seeded()).lam.eq(1).all()


@pytest.mark.parametrize("rule", list(DRAWS))
def test_ranks_take_their_rows(rule: str) -> None:
    mix = DRAWS[rule](9, 8, 8, generator=seeded())
    images = torch.rand(9, 3, 8, 8, generator=seeded(1))
    parts = [apply_mix(images[lo:hi], mix.slice(lo, hi), source=images) for lo, hi in ((0, 4), (4, 9))]
    assert torch.equal(torch.cat(parts), apply_mix(images, mix))


def test_gaussian_centres_have_their_spread() -> None:
    """The middles of boxes that the border did not clip, with a spread that keeps nearly all centres inside."""
    mix = draw_cutmix_gaussian(40_000, 101, 101, std=0.1, alpha=50.0, generator=seeded())
    x1, y1, x2, y2 = mix.boxes.double().unbind(1)
    for low, high in ((x1, x2), (y1, y2)):
        whole = (low > 0) & (high < 101)
        middle = (low + high)[whole] / 2
        half = (high - low)[whole].mean() / 2
        bounds = (half - 50.5) / 10.1, (50.5 - half) / 10.1  # the clipped ones are missing
        law = stats.truncnorm(*(float(b) for b in bounds), loc=50.0, scale=10.1)
        assert float(middle.mean()) == pytest.approx(law.mean(), abs=0.4)
        assert float(middle.std()) == pytest.approx(law.std(), rel=0.12)


def test_fixed_boxes_have_the_published_mean_share() -> None:
    """0.8086 for squares of 16 in pictures of 32: 0.75 unclipped."""
    lam = draw_cutmix_fixed(100_000, 32, 32, length=16, generator=seeded()).lam
    assert float(lam.min()) == 0.75 and float(lam.max()) <= 0.9375
    assert float(lam.mean()) == pytest.approx(0.8086, abs=1e-3)


def test_salient_boxes_lie_about_the_partner_s_peak() -> None:
    mix = draw_saliencymix(40, 7, 13, peaks=PEAKS, alpha=4.0, generator=seeded(2))
    same = draw_cutmix(40, 7, 13, alpha=4.0, generator=seeded(2))
    assert len(same) == len(mix)
    for (x1, y1, x2, y2), partner in zip(mix.boxes.tolist(), mix.partner.tolist(), strict=True):
        if x2 > x1 and y2 > y1:
            x, y = PEAKS[partner].tolist()
            assert x1 <= x < x2 and y1 <= y < y2
            assert (x - x1 == x2 - x) or x1 == 0 or x2 == 13
    with pytest.raises(UserError, match="peaks: got those of 40"):
        draw_saliencymix(41, 7, 13, peaks=PEAKS)


def noise_by_numpy(real: np.ndarray, height: int, width: int, decay: float) -> np.ndarray:
    """The inverse transform written out as a sum over frequencies, for a Hermitian spectrum."""
    spectrum = real[..., 0] + 1j * real[..., 1]
    for i in range(height):
        for j in range(width // 2 + 1):
            down = (i if i <= (height - 1) // 2 else i - height) / height
            frequency = max(math.hypot(down, j / width), 1 / max(height, width))
            spectrum[i, j] /= frequency**decay
    return np.fft.irfft2(spectrum, s=(height, width))


@pytest.mark.parametrize(("height", "width"), [(8, 8), (7, 10), (9, 5)])
def test_noise_is_that_of_its_spectrum(height: int, width: int) -> None:
    drawn = torch.randn(2, height, width // 2 + 1, 2, generator=seeded(4)).numpy().astype(np.float64)
    found = smooth_noise(2, height, width, generator=seeded(4))
    for row in range(2):
        expected = noise_by_numpy(drawn[row], height, width, 3.0)
        np.testing.assert_allclose(found[row].numpy(), expected, atol=1e-5 * np.abs(expected).max())


def test_fmix_takes_the_lowest_noise_and_whole_pixels() -> None:
    mix = draw_fmix(500, 10, 10, generator=seeded(5))
    assert mix.shapes is not None and mix.boxes.eq(0).all()
    counts = (100 * mix.lam).round()
    torch.testing.assert_close(counts / 100, mix.lam)
    assert 0.45 < float(mix.lam.mean()) < 0.55  # uniform for alpha 1
    # Shapes are few blobs: a pixel is mostly as its neighbour is, unlike noise without decay.
    taken = mix.shapes.float()
    rough = (taken[:, 1:] != taken[:, :-1]).float().mean()
    flat = draw_fmix(500, 10, 10, decay=0.0, generator=seeded(5)).shapes
    assert flat is not None
    assert rough < 0.4 * (flat[:, 1:] != flat[:, :-1]).float().mean()


def test_masks_go_with_the_shapes_and_boxes_cannot() -> None:
    mix = draw_fmix(4, 6, 6, generator=seeded(6))
    masks = torch.arange(4)[:, None, None].expand(4, 6, 6).contiguous()
    assert torch.equal(mix_masks(masks, mix), torch.where(pasted(mix), masks[mix.partner], masks))
    with pytest.raises(UserError, match="FMix pastes shapes"):
        mix_boxes([torch.zeros(0, 4)] * 4, [torch.zeros(0)] * 4, mix)


def test_labels_of_table_8() -> None:
    mix = draw_cutmix(300, 8, 8, p=0.7, generator=seeded(7))
    targets = torch.arange(300) % 5
    hard = mix_targets(targets, weighed(mix, "one_hot"), num_classes=5)
    half = mix_targets(targets, weighed(mix, "complete"), num_classes=5)
    assert weighed(mix, "share") is mix
    for row in range(300):
        own, other, lam = targets[row], targets[mix.partner[row]], float(mix.lam[row])
        expected = torch.zeros(5)
        expected[own if lam >= 0.5 else other] = 1
        assert torch.equal(hard[row], expected)
        expected = torch.zeros(5)
        expected[own] += 1 if lam == 1 else 0.5
        expected[other] += 0 if lam == 1 else 0.5
        assert torch.equal(half[row], expected)


@pytest.mark.parametrize(
    ("draw", "options", "words"),
    [
        ("gaussian", {"std": 0.0}, "std"),
        ("gaussian", {"alpha": 0.0}, "alpha"),
        ("fixed", {"length": 0}, "length"),
        ("fmix", {"alpha": -1.0}, "alpha"),
        ("saliencymix", {"p": 1.5}, "p"),
    ],
)
def test_wrong_options_are_named(draw: str, options: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        DRAWS[draw](4, 8, 8, **options)
