"""Average precision against a sweep over thresholds, and from histograms against the exact one."""

import numpy as np
import pytest
import torch
from torch import Tensor

from partwise.ops.precision import average_precision, histogram_precision, score_histograms


def naive(scores: list[float], positive: list[bool]) -> float:
    """Every score as a threshold, from the top; precision times the recall it gains."""
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = [hit for score, hit in zip(scores, positive, strict=True) if score >= threshold]
        recall = sum(taken) / sum(positive)
        area += (recall - before) * sum(taken) / len(taken)
        before = recall
    return area


def some(count: int, values: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(values, (count,), generator=generator) / values
    return scores, torch.rand(count, generator=generator) < 0.2 + 0.6 * scores


@pytest.mark.parametrize(("values", "seed"), [(4, 0), (1000, 1), (1, 2)])
def test_average_precision_threshold_by_threshold(values: int, seed: int) -> None:
    scores, positive = some(60, values, seed)
    assert average_precision(scores, positive) == pytest.approx(naive(scores.tolist(), positive.tolist()))


@pytest.mark.oracle
def test_average_precision_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, positive = some(500, 40, 3)
    expected = metrics.average_precision_score(positive.numpy(), scores.numpy())
    assert average_precision(scores, positive) == pytest.approx(expected)


def test_without_positives_there_is_no_precision() -> None:
    with pytest.raises(ValueError, match="positive"):
        average_precision(torch.rand(4), torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ValueError, match="positive"):
        average_precision(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    with pytest.raises(ValueError, match="positive"):
        histogram_precision(torch.tensor([3, 1]), torch.tensor([0, 0]))


def pictures(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = (torch.randint(0, 21, (3, 6, 5), generator=generator) / 20).float()
    masks = torch.randint(0, 3, (3, 6, 5), generator=generator).to(torch.uint8)
    masks[:, 0] = 255
    return scores, masks


def test_histograms_agree_with_sorting() -> None:
    """Scores on the edges of the bins: nothing is lost by counting."""
    scores, masks = pictures(0)
    counts = score_histograms(scores, masks, bins=20)
    assert counts.shape == (3, 2, 21)
    kept = masks != 255
    assert counts.sum() == kept.sum()
    expected = naive(scores[kept].tolist(), (masks[kept] != 0).tolist())
    assert histogram_precision(*counts.sum(dim=0)) == pytest.approx(expected)


def test_fine_bins_come_close_to_sorting() -> None:
    generator = torch.Generator().manual_seed(4)
    masks = (torch.rand(2, 40, 40, generator=generator) < 0.3).to(torch.uint8)
    scores = (torch.rand(2, 40, 40, generator=generator) + 0.4 * masks).clamp(max=1)
    exact = average_precision(scores.flatten(), masks.flatten() > 0)
    counted = histogram_precision(*score_histograms(scores, masks, bins=1000).sum(dim=0))
    assert counted == pytest.approx(exact, abs=2e-3)


def test_histograms_pixel_by_pixel() -> None:
    scores, masks = pictures(1)
    expected = np.zeros((3, 2, 5), int)
    for (b, y, x), score in np.ndenumerate(scores.numpy()):
        if masks[b, y, x] != 255:
            expected[b, int(masks[b, y, x] != 0), int(np.floor(float(score) * 4))] += 1
    assert score_histograms(scores, masks, bins=4).tolist() == expected.tolist()


@pytest.mark.parametrize("void", [0.0, 1.0])
def test_perfect_maps_score_one_whatever_lies_in_the_void(void: float) -> None:
    _, masks = pictures(2)
    scores = torch.where(masks == 255, torch.tensor(void), (masks != 0).float())
    assert histogram_precision(*score_histograms(scores, masks, bins=100).sum(dim=0)) == 1.0


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_constant_maps_score_the_positive_share(value: float) -> None:
    _, masks = pictures(3)
    share = ((masks != 0) & (masks != 255)).sum() / (masks != 255).sum()
    counts = score_histograms(torch.full(masks.shape, value), masks, bins=100).sum(dim=0)
    assert histogram_precision(*counts) == pytest.approx(float(share))
