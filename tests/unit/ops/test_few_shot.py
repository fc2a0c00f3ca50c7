"""Dice, thresholds, mean masks and atlases against loops over pixels, pictures and shifts."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.ops.few_shot import (
    SCALES,
    SHIFTS,
    THRESHOLDS,
    atlas_votes,
    best_thresholds,
    dice,
    mean_masks,
    organ_areas,
    register,
    registered_atlas,
)
from partwise.ops.part_whole_probes import cut


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(count: int, side: int, seed: int = 0) -> Tensor:
    coarse = torch.rand(count, 2, 4, 4, generator=generator(seed))
    return F.interpolate(coarse, size=(side, side), mode="bilinear") > 0.5


def naive_dice(found: Tensor, true: Tensor, counted: Tensor) -> float | None:
    a = {(y, x) for y, x in found.nonzero().tolist() if counted[y, x]}
    b = {(y, x) for y, x in true.nonzero().tolist() if counted[y, x]}
    return 2 * len(a & b) / (len(a) + len(b)) if a or b else None


def test_dice_pixel_by_pixel() -> None:
    found, true = blobs(4, 9), blobs(4, 9, 1)
    counted = torch.rand(4, 9, 9, generator=generator(2)) > 0.2
    found[0, 0] = true[0, 0] = False
    true[1, 1] = False
    scores = dice(found, true, counted)
    for i, v in product(range(4), range(2)):
        expected = naive_dice(found[i, v], true[i, v], counted[i])
        assert scores[i, v].isnan() if expected is None else float(scores[i, v]) == pytest.approx(expected)
    assert scores[0, 0].isnan() and scores[1, 1] == 0 and torch.equal(dice(true, true)[2:], torch.ones(2, 2).double())


def test_areas_of_masks_that_cover_one_another() -> None:
    mask = torch.tensor([[[0, 1, 2], [2, 255, 1]]], dtype=torch.uint8)
    below = torch.tensor([[[0, 0, 1], [0, 0, 0]]], dtype=torch.uint8)
    assert organ_areas(mask, 2)[0].int().tolist() == [[[0, 1, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0]]]
    assert organ_areas(mask, 2, below)[0, 0].int().tolist() == [[0, 1, 1], [0, 0, 1]]


def test_thresholds_one_by_one() -> None:
    votes, areas = torch.rand(3, 2, 8, 8, generator=generator()), blobs(3, 8)
    votes = 0.6 * votes + 0.4 * areas
    chosen = best_thresholds(votes, areas)
    for v in range(2):
        scores = {t: float(dice(votes[:, v : v + 1] > t, areas[:, v : v + 1]).mean()) for t in THRESHOLDS}
        best = [t for t, score in scores.items() if score == max(scores.values())]
        assert float(chosen[v]) == pytest.approx(sum(best) / len(best))
    assert best_thresholds(areas.double(), areas).tolist() == pytest.approx([0.5, 0.5]), (
        "the middle of equally good ones"
    )


def test_mean_masks_leave_each_picture_out() -> None:
    areas = blobs(5, 10).float()
    mean, threshold = mean_masks(areas)
    assert torch.allclose(mean, areas.mean(0))
    others = torch.stack([areas[[j for j in range(5) if j != i]].mean(0) for i in range(5)])
    assert torch.allclose(threshold, best_thresholds(others, areas > 0.5))
    single, middle = mean_masks(areas[:1])
    assert torch.equal(single, areas[0]) and middle.tolist() == [0.5, 0.5]


def test_registration_tries_every_shift_and_scale() -> None:
    atlas = F.interpolate(torch.rand(2, 1, 6, 6, generator=generator()), size=(16, 16), mode="bicubic")[:, 0]
    target = F.interpolate(torch.rand(3, 1, 6, 6, generator=generator(1)), size=(16, 16), mode="bicubic")[:, 0]
    found = register(target, atlas)
    for m, n in product(range(3), range(2)):
        best = (-2.0, torch.zeros(4))
        for scale, right, down in product(SCALES, SHIFTS[::2], SHIFTS[::2]):
            x, y = 0.5 - right / scale, 0.5 - down / scale
            window = torch.tensor([x - 0.5 / scale, y - 0.5 / scale, x + 0.5 / scale, y + 0.5 / scale])
            warped = cut(atlas[n][None, None], window[None], 16)[0, 0, 0]
            pair = torch.stack([warped.flatten(), target[m].flatten()])
            best = max(best, (float(torch.corrcoef(pair)[0, 1]), window), key=lambda each: each[0])
        own = cut(atlas[n][None, None], found[m, n][None], 16)[0, 0, 0]
        likeness = float(torch.corrcoef(torch.stack([own.flatten(), target[m].flatten()]))[0, 1])
        assert likeness >= best[0] - 1e-5, "nothing that was tried by hand is better"


def body(shift: tuple[float, float], scale: float) -> tuple[Tensor, Tensor]:
    """A bright ellipse with an organ in it, moved and scaled; the picture and the organ."""
    steps = (torch.arange(64) + 0.5) / 64
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    x, y = (x - 0.5 - shift[0]) / scale, (y - 0.5 - shift[1]) / scale
    picture = ((x / 0.3) ** 2 + (y / 0.4) ** 2 < 1).float() + (((x + 0.1) / 0.1) ** 2 + (y / 0.1) ** 2 < 1).float()
    organ = ((x - 0.1) / 0.06) ** 2 + ((y - 0.1) / 0.06) ** 2 < 1
    return picture, organ


def test_an_atlas_follows_the_picture_where_the_mean_mask_cannot() -> None:
    few = [body((0.08, 0), 1.0), body((-0.06, 0.06), 0.95), body((0, -0.1), 1.1)]
    new = [body((0.1, 0.1), 1.0), body((-0.1, -0.05), 1.05)]
    small = F.interpolate(torch.stack([p for p, _ in [*few, *new]])[:, None], size=(32, 32), mode="area")[:, 0]
    areas = torch.stack([o for _, o in few])[:, None].float()
    truth = torch.stack([o for _, o in new])[:, None]
    windows = register(small, small[:3])
    votes, threshold = registered_atlas(windows[3:], windows[:3], areas)
    atlas = dice(votes > threshold[:, None, None], truth)
    mean, cut_at = mean_masks(areas)
    plain = dice((mean > cut_at[:, None, None]).expand_as(truth), truth)
    assert atlas.min() > 0.8 and plain.mean() < 0.4


def test_votes_are_means_of_moved_areas() -> None:
    pictures = torch.rand(4, 16, 16, generator=generator())
    areas = blobs(3, 20).float()
    windows = register(pictures, pictures[:3])
    votes = atlas_votes(windows, areas)
    without = atlas_votes(windows, areas, leave_out=torch.tensor([0, 1, 2, 0]))
    for m in range(4):
        moved = [cut(areas[n][None], windows[m, n][None], 20)[0, 0] for n in range(3)]
        assert torch.allclose(votes[m], torch.stack(moved).mean(0), atol=1e-6)
        own = (0, 1, 2, 0)[m]
        kept = [moved[n] for n in range(3) if n != own]
        assert torch.allclose(without[m], torch.stack(kept).mean(0), atol=1e-6)
    for m in range(3):
        assert windows[m, m].tolist() == pytest.approx([0, 0, 1, 1], abs=1e-6), "a picture fits itself as it is"
    _, threshold = registered_atlas(windows, windows[:3], areas)
    assert torch.equal(threshold, best_thresholds(without[:3], areas > 0.5)), "chosen without the own area"
    alone, middle = registered_atlas(windows[:2, :1], windows[:1, :1], areas[:1])
    assert alone.shape == (2, 2, 20, 20) and middle.tolist() == [0.5, 0.5]
