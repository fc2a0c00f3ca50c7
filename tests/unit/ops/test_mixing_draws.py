"""Who is mixed with whom, where and how much: the published code draw for draw, and the statistics of every sampler."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from partwise.config import UserError
from partwise.ops.mixing import (
    Mix,
    apply_mix,
    draw_cutmix,
    draw_cutmix_paper,
    draw_cutout,
    draw_mixup,
    draw_resizemix,
    scheduled_probability,
)
from partwise.ops.mixing_draws import symmetric_beta

MANY = 100_000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def mean_overlap(side: int, halves: np.ndarray) -> np.ndarray:
    """Mean length of [c - half, c + half) within [0, side) over all integer centres c."""
    centres, possible = np.arange(side)[:, None], np.arange(side // 2 + 1)
    lengths = np.minimum(centres + possible, side) - np.maximum(centres - possible, 0)
    return lengths.mean(0)[halves.astype(int)]


def expected_lambda(height: int, width: int, alpha: float) -> float:
    """E[lambda] of the published integer procedure by quadrature over the Beta law: no sampling, no torch."""
    drawn = stats.beta.ppf((np.arange(200_000) + 0.5) / 200_000, alpha, alpha)
    cut = np.sqrt(1.0 - drawn)
    pasted = mean_overlap(height, np.trunc(height * cut) // 2) * mean_overlap(width, np.trunc(width * cut) // 2)
    return float(1.0 - pasted.mean() / (height * width))


@pytest.mark.parametrize(("side", "published"), [(32, 0.7007), (64, 0.690), (224, 0.682)])
def test_the_quadrature_gives_the_known_means(side: int, published: float) -> None:
    assert expected_lambda(side, side, 1.0) == pytest.approx(published, abs=6e-4)


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (224, 224), (24, 57)])
def test_mean_lambda_is_that_of_the_published_code(height: int, width: int, alpha: float) -> None:
    lam = draw_cutmix(MANY, height, width, alpha=alpha, generator=seeded()).lam.double()
    error = lam.mean().item() - expected_lambda(height, width, alpha)
    assert abs(error) < 4 * lam.std().item() / math.sqrt(MANY)


def test_coverage_map_and_empty_boxes_at_32_pixels() -> None:
    boxes = draw_cutmix(MANY, 32, 32, generator=seeded()).boxes
    x1, y1, x2, y2 = boxes.unbind(1)
    corners = torch.zeros(33, 33, dtype=torch.int64)
    for rows, columns, sign in ((y1, x1, 1), (y1, x2, -1), (y2, x1, -1), (y2, x2, 1)):
        corners.index_put_((rows, columns), torch.full_like(rows, sign), accumulate=True)
    coverage = corners.cumsum(0).cumsum(1)[:32, :32] / MANY
    for pixel, share in {(16, 16): 0.458, (0, 0): 0.1354, (31, 31): 0.1146, (0, 16): 0.247, (16, 0): 0.247}.items():
        assert coverage[pixel].item() == pytest.approx(share, abs=0.008)
    empty = ((x2 == x1) | (y2 == y1)).double().mean().item()
    assert empty == pytest.approx(4 / 1024, abs=4 * math.sqrt(0.004 / MANY))
    assert (draw_cutmix(MANY, 32, 32, generator=seeded()).lam < 0.5).double().mean().item() == pytest.approx(
        0.146, abs=0.005
    )


def test_box_sides_are_even_unless_clipped_and_boxes_lie_inside() -> None:
    height, width = 24, 57
    mix = draw_cutmix(MANY, height, width, generator=seeded())
    x1, y1, x2, y2 = mix.boxes.unbind(1)
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= width).all() and (y2 <= height).all()
    assert (x1 <= x2).all() and (y1 <= y2).all()
    assert ((x2 - x1)[(x1 > 0) & (x2 < width)] % 2 == 0).all()
    assert ((y2 - y1)[(y1 > 0) & (y2 < height)] % 2 == 0).all()
    assert x2.max() == width and y2.max() == height and x1.min() == 0 and y1.min() == 0


def test_lambda_is_one_minus_the_share_of_pixels_that_changed() -> None:
    batch, height, width = 64, 13, 22
    images = torch.arange(batch, dtype=torch.float32)[:, None, None, None].expand(batch, 1, height, width).contiguous()
    for draw in (draw_cutmix, draw_resizemix):
        mix = draw(batch, height, width, partner="derangement", generator=seeded())
        changed = (apply_mix(images, mix) != images).double().mean(dim=(1, 2, 3))
        torch.testing.assert_close(mix.lam, (1.0 - changed).float(), rtol=0, atol=1e-7)


def test_uncorrected_lambda_is_the_drawn_one() -> None:
    exact = draw_cutmix(1000, 32, 32, p=0.5, generator=seeded())
    drawn = draw_cutmix(1000, 32, 32, p=0.5, correct_lambda=False, generator=seeded())
    assert torch.equal(exact.boxes, drawn.boxes)
    assert drawn.lam.mean() < exact.lam.mean() - 0.05
    shut = drawn.lam == 1.0
    assert (exact.lam[shut] == 1.0).all() and 0.4 < shut.double().mean() < 0.6
    # Truncation and clipping only ever shrink the box.
    assert (exact.lam >= drawn.lam - 1e-6).all()


@pytest.mark.parametrize("alpha", [0.1, 0.25, 0.5, 1.0, 2.0, 4.0])
def test_symmetric_beta_follows_the_beta_law(alpha: float) -> None:
    """Kolmogorov-Smirnov at the 0.1 % level, on a grid that leaves out the last 1e-6, where float32 has few numbers."""
    drawn = symmetric_beta(alpha, torch.rand(2, MANY, generator=seeded())).double().numpy()
    law = stats.beta(alpha, alpha)
    grid = np.concatenate((np.geomspace(1e-6, 0.5, 400), 1.0 - np.geomspace(1e-6, 0.5, 400)))
    reached = np.searchsorted(np.sort(drawn), grid, side="right") / MANY
    assert np.abs(reached - law.cdf(grid)).max() < 1.95 / math.sqrt(MANY)


def test_symmetric_beta_survives_the_ends() -> None:
    ends = torch.tensor([[0.0, 0.0, 1 - 2**-24, 1 - 2**-24, 0.5], [0.0, 0.5, 0.0, 0.25, 0.25]])
    for alpha in (0.001, 0.01, 0.3, 3.0, 1000.0):
        for uniforms in (ends, torch.rand(2, MANY, generator=seeded())):
            drawn = symmetric_beta(alpha, uniforms)
            assert ((drawn >= 0.0) & (drawn <= 1.0)).all()


@pytest.mark.parametrize("draw", [draw_cutmix, draw_mixup, draw_resizemix])
def test_gate_opens_with_p_and_never_p_squared(draw) -> None:
    def is_open(mix: Mix) -> torch.Tensor:
        return (mix.lam < 1.0).double()

    each = is_open(draw(20_000, 64, 64, p=0.3, generator=seeded()))
    # A CutMix box can be empty although the gate is open.
    assert each.mean().item() == pytest.approx(0.3, abs=0.015)
    generator = seeded()
    for mode, gate in (("sample", "batch"), ("batch", "sample")):
        batches = torch.stack(
            [is_open(draw(3, 64, 64, p=0.3, mode=mode, gate=gate, generator=generator)) for _ in range(400)]
        )
        if mode == "batch" or draw is draw_mixup:
            assert torch.equal(batches.amin(1), batches.amax(1))
        assert batches.amax(1).mean().item() == pytest.approx(0.3, abs=4 * math.sqrt(0.21 / 400))


def test_p_zero_and_one_are_certain() -> None:
    assert (draw_mixup(1000, 8, 8, p=0.0, generator=seeded()).lam == 1.0).all()
    assert (draw_cutmix(1000, 8, 8, p=0.0, generator=seeded()).boxes == 0).all()
    assert (draw_resizemix(1000, 8, 8, p=1.0, generator=seeded()).lam < 1.0).all()


def test_rows_of_a_batch_are_drawn_independently() -> None:
    mix = draw_cutmix(MANY, 224, 224, partner="derangement", generator=seeded())
    width = (mix.boxes[:, 2] - mix.boxes[:, 0]).double()
    columns = [mix.lam.double(), mix.boxes[:, 0].double(), mix.boxes[:, 1].double(), width]
    for first in columns:
        for second in columns:
            neighbours = torch.corrcoef(torch.stack((first[1:], second[:-1])))[0, 1]
            assert abs(neighbours.item()) < 4 / math.sqrt(MANY)
    assert mix.boxes[:32].unique(dim=0).shape[0] == 32


@pytest.mark.parametrize(
    ("mode", "partner", "fixed"),
    [("sample", "permutation", True), ("sample", "derangement", False), ("pair", "permutation", False)],
)
def test_partners_are_uniform(mode: str, partner: str, fixed: bool) -> None:
    generator, draws, batch = seeded(), 1500, 4
    partners = torch.stack(
        [draw_mixup(batch, 1, 1, mode=mode, partner=partner, generator=generator).partner for _ in range(draws)]
    )
    assert torch.equal(partners.sort(1).values, torch.arange(batch).expand(draws, batch))
    for row in range(batch):
        counts = torch.bincount(partners[:, row], minlength=batch).double()
        choices = counts if fixed else torch.cat((counts[:row], counts[row + 1 :]))
        assert fixed or counts[row] == 0
        assert stats.chisquare(choices.numpy()).pvalue > 1e-3
    if fixed:
        assert len(partners.unique(dim=0)) == math.factorial(batch)


def test_flip_and_roll() -> None:
    assert draw_cutmix(5, 4, 4, partner="flip").partner.tolist() == [4, 3, 2, 1, 0]
    images = torch.arange(5)
    assert torch.equal(images[draw_cutmix(5, 4, 4, partner="roll").partner], images.roll(1))


@pytest.mark.parametrize("partner", ["permutation", "flip"])
@pytest.mark.parametrize("batch", [1, 2, 7, 8])
def test_pairs_swap_one_box(partner: str, batch: int) -> None:
    mix = draw_cutmix(batch, 32, 32, mode="pair", partner=partner, p=0.8, generator=seeded())
    assert torch.equal(mix.partner[mix.partner], torch.arange(batch))
    assert (mix.partner == torch.arange(batch)).sum() == batch % 2
    assert torch.equal(mix.boxes[mix.partner], mix.boxes) and torch.equal(mix.lam[mix.partner], mix.lam)
    if batch > 4:
        assert len(mix.boxes.unique(dim=0)) > 1


@pytest.mark.parametrize("draw", [draw_cutmix, draw_mixup, draw_cutout, draw_resizemix])
@pytest.mark.parametrize("mode", ["sample", "pair", "batch"])
@pytest.mark.parametrize("batch", [1, 5])
def test_same_seed_same_mix_for_any_batch(draw, mode: str, batch: int) -> None:
    one, two, other = (draw(batch, 29, 48, mode=mode, generator=seeded(seed)) for seed in (3, 3, 4))
    for name in ("boxes", "partner", "lam"):
        assert torch.equal(getattr(one, name), getattr(two, name))
    assert one.boxes.dtype == one.partner.dtype == torch.int64 and one.lam.dtype == torch.float32
    assert one.boxes.shape == (batch, 4) and one.partner.shape == one.lam.shape == (batch,)
    assert not all(torch.equal(getattr(one, name), getattr(other, name)) for name in ("boxes", "lam"))
    if mode == "batch":
        assert one.shared and len(one.boxes.unique(dim=0)) == 1 and len(one.lam.unique()) == 1


def test_without_a_generator_the_global_seed_rules() -> None:
    torch.manual_seed(5)
    one = draw_cutmix(6, 32, 32)
    torch.manual_seed(5)
    assert torch.equal(one.boxes, draw_cutmix(6, 32, 32).boxes)


def official(images: torch.Tensor, alpha: float, p: float, state: np.random.RandomState):
    """The published loop body (spec 1.2), with its own names: `W` is dimension 2, `H` dimension 3."""
    mixed = images.clone()
    if not (alpha > 0 and state.uniform() < p):
        return mixed, torch.arange(len(images)), 1.0
    lam = state.beta(alpha, alpha)
    order = torch.randperm(len(images))
    W, H = images.size(2), images.size(3)
    cut_w, cut_h = int(W * np.sqrt(1.0 - lam)), int(H * np.sqrt(1.0 - lam))
    cx, cy = state.randint(W), state.randint(H)
    x1, x2 = np.clip(cx - cut_w // 2, 0, W), np.clip(cx + cut_w // 2, 0, W)
    y1, y2 = np.clip(cy - cut_h // 2, 0, H), np.clip(cy + cut_h // 2, 0, H)
    mixed[:, :, x1:x2, y1:y2] = images[order, :, x1:x2, y1:y2]
    return mixed, order, 1.0 - (x2 - x1) * (y2 - y1) / (W * H)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (11, 26)])
def test_paper_mode_repeats_the_published_code_draw_for_draw(height: int, width: int) -> None:
    images = torch.arange(7 * 3 * height * width, dtype=torch.float32).reshape(7, 3, height, width)
    ours, theirs = np.random.RandomState(11), np.random.RandomState(11)
    for iteration in range(60):
        alpha = 1.0 if iteration % 2 else 0.4
        torch.manual_seed(iteration)
        want, order, lam = official(images, alpha, 0.6, theirs)
        torch.manual_seed(iteration)
        mix = draw_cutmix_paper(7, height, width, alpha=alpha, p=0.6, numpy_state=ours, generator=None)
        assert torch.equal(apply_mix(images, mix), want)
        assert torch.equal(mix.partner, order)
        assert mix.lam.tolist() == pytest.approx([lam] * 7, abs=1e-7)
    assert ours.randint(1 << 30) == theirs.randint(1 << 30)


def test_paper_mode_has_the_published_statistics() -> None:
    state, generator = np.random.RandomState(0), seeded()
    mixes = [
        draw_cutmix_paper(1, 32, 32, alpha=1.0, p=1.0, numpy_state=state, generator=generator) for _ in range(4000)
    ]
    lam = torch.cat([mix.lam for mix in mixes]).double()
    assert lam.mean().item() == pytest.approx(expected_lambda(32, 32, 1.0), abs=4 * lam.std().item() / math.sqrt(4000))
    boxes = torch.cat([mix.boxes for mix in mixes])
    for (x, y), share in {(16, 16): 0.458, (0, 0): 0.1354, (31, 31): 0.1146}.items():
        covered = (boxes[:, 0] <= x) & (x < boxes[:, 2]) & (boxes[:, 1] <= y) & (y < boxes[:, 3])
        assert covered.double().mean().item() == pytest.approx(share, abs=0.035)


def test_paper_mode_is_off_with_alpha_zero_and_keeps_the_drawn_lambda_on_request() -> None:
    state = np.random.RandomState(0)
    mix = draw_cutmix_paper(4, 8, 8, alpha=0.0, p=1.0, numpy_state=state, generator=seeded())
    assert (mix.lam == 1.0).all() and (mix.boxes == 0).all()
    drawn = np.random.RandomState(1)
    drawn.rand()
    expected = drawn.beta(1.0, 1.0)
    mix = draw_cutmix_paper(
        4, 8, 8, alpha=1.0, p=1.0, numpy_state=np.random.RandomState(1), generator=seeded(), correct_lambda=False
    )
    assert mix.lam.tolist() == pytest.approx([expected] * 4)


def test_resizemix_shows_the_whole_partner_at_the_drawn_scale() -> None:
    mix = draw_resizemix(MANY, 40, 100, generator=seeded())
    x1, y1, x2, y2 = mix.boxes.unbind(1)
    assert (x1 >= 0).all() and (y1 >= 0).all() and (x2 <= 100).all() and (y2 <= 40).all()
    scale = (x2 - x1).double() / 100
    assert scale.min() >= 0.1 - 1e-9 and scale.max() <= 0.8
    assert scale.mean().item() == pytest.approx(0.45 - 0.005, abs=0.003)
    assert ((y2 - y1).double() / 40 - scale).abs().max() <= 1 / 40
    assert (x2 == 100).any() and (y2 == 40).any() and (x1 == 0).any()
    # The place is uniform over all legal ones: its share of the free way has mean one half.
    free = (x1.double() / (100 - (x2 - x1)).double()).mean().item()
    assert free == pytest.approx(0.5, abs=0.005)


def test_resizemix_keeps_a_pixel_of_tiny_pictures() -> None:
    mix = draw_resizemix(50, 1, 3, generator=seeded())
    assert ((mix.boxes[:, 2:] - mix.boxes[:, :2]) >= 1).all()


@given(length=st.integers(1, 60), height=st.integers(1, 40), width=st.integers(1, 40), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_cutout_is_a_clipped_square_about_a_pixel(length: int, height: int, width: int, seed: int) -> None:
    mix = draw_cutout(16, height, width, length=length, generator=seeded(seed))
    half = length // 2
    for x1, y1, x2, y2 in mix.boxes.tolist():
        assert any((x1, x2) == (max(c - half, 0), min(c + half, width)) for c in range(width))
        assert any((y1, y2) == (max(c - half, 0), min(c + half, height)) for c in range(height))
    assert (mix.lam == 1.0).all()


def test_scheduled_probability_is_a_line() -> None:
    assert [scheduled_probability(progress) for progress in (0.0, 0.25, 1.0)] == [0.0, 0.25, 1.0]
    assert scheduled_probability(0.5, start=0.2, end=0.4) == pytest.approx(0.3)
    with pytest.raises(UserError, match="progress"):
        scheduled_probability(1.2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"p": 1.5}, "p: got 1.5"),
        ({"alpha": 0.0}, "alpha"),
        ({"mode": "pair", "partner": "roll"}, "does not make pairs"),
        ({"mode": "pair", "partner": "derangement"}, "does not make pairs"),
    ],
)
def test_wrong_options_are_named(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        draw_cutmix(4, 8, 8, **options)


def test_wrong_sizes_are_named() -> None:
    with pytest.raises(UserError, match="batch: got 0"):
        draw_cutmix(0, 8, 8)
    with pytest.raises(UserError, match="width: got 0"):
        draw_mixup(2, 8, 0)
    with pytest.raises(UserError, match="length"):
        draw_cutout(2, 8, 8, length=0)
    with pytest.raises(UserError, match="scale"):
        draw_resizemix(2, 8, 8, scale=(0.8, 0.1))
