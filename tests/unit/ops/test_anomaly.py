"""Distances to a bank, scores of pictures and the area under the curve, against loops."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from partwise.ops import anomaly
from partwise.ops.anomaly import auroc, picture_scores, place_distances


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_distances_cell_by_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anomaly, "CHUNK", 2)
    maps, bank = torch.randn(5, 4, 2, 3, generator=generator()), torch.randn(6, 4, 2, 3, generator=generator(1))
    found = place_distances(maps, bank)
    for b, y, x in product(range(5), range(2), range(3)):
        each = [float(torch.cosine_similarity(maps[b, :, y, x], bank[j, :, y, x], dim=0)) for j in range(6)]
        assert float(found[b, y, x]) == pytest.approx(1 - max(each), abs=1e-5)
    assert place_distances(bank, bank).abs().max() < 1e-5
    for bad in (bank[:0], bank[:, :, :1]):
        with pytest.raises(ValueError, match="bank"):
            place_distances(maps, bad)


def test_scores_are_the_largest_and_the_mean_of_the_top() -> None:
    distances = torch.rand(3, 20, 15, generator=generator())
    largest, top = picture_scores(distances)
    for row in range(3):
        ordered = sorted(distances[row].flatten().tolist(), reverse=True)
        assert float(largest[row]) == ordered[0]
        assert float(top[row]) == pytest.approx(sum(ordered[:3]) / 3)
    few = picture_scores(distances[:, :2, :2])
    assert torch.equal(few[0], few[1]), "of four cells the top is one"


@pytest.mark.parametrize("levels", [3, 1000])
def test_area_pair_by_pair(levels: int) -> None:
    scores = torch.randint(levels, (40,), generator=generator()).float() / levels
    positive = torch.rand(40, generator=generator(1)) < 0.4
    pairs = [(float(p), float(n)) for p in scores[positive] for n in scores[~positive]]
    expected = sum((p > n) + 0.5 * (p == n) for p, n in pairs) / len(pairs)
    assert auroc(scores, positive) == pytest.approx(expected)
    assert auroc(-scores, positive) == pytest.approx(1 - expected)
    assert auroc(torch.zeros(40), positive) == 0.5


def test_area_without_both_kinds_is_refused() -> None:
    for positive in (torch.ones(3) > 0, torch.zeros(3) > 0):
        with pytest.raises(ValueError, match="some of both"):
            auroc(torch.rand(3), positive)


@pytest.mark.oracle
def test_area_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, positive = torch.rand(200, generator=generator()).round(decimals=2), torch.rand(200) < 0.5
    assert auroc(scores, positive) == pytest.approx(metrics.roc_auc_score(positive.numpy(), scores.numpy()))
