"""How well scores separate: against counting pair by pair and threshold by threshold, scikit-learn and pytorch-ood."""

from __future__ import annotations

import importlib
import importlib.util

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partwise.ops.separation import auroc, separation

VALUES = st.lists(st.integers(-4, 4), min_size=1, max_size=25)


def by_counting(inside: list[float], outside: list[float]) -> dict[str, float]:
    pairs = [(a > b) + 0.5 * (a == b) for a in inside for b in outside]
    rates = []
    for threshold in sorted({*inside, *outside}):
        kept = sum(a >= threshold for a in inside) / len(inside)
        refused = sum(b < threshold for b in outside) / len(outside)
        rates.append((kept, refused))
    # Of rates as near, the one that keeps more, then the one that refuses more.
    nearest = min(rates, key=lambda rate: (round(abs(rate[0] - 0.95), 9), -rate[0], -rate[1]))
    return {
        "auroc": sum(pairs) / len(pairs),
        "tnr95": nearest[1],
        "fpr95": 1 - nearest[1],
        "detection_accuracy": max([0.5, *((kept + refused) / 2 for kept, refused in rates)]),
    }


@settings(max_examples=80, deadline=None)
@given(VALUES, VALUES)
def test_numbers_are_those_of_counting(inside: list[int], outside: list[int]) -> None:
    found = separation(torch.tensor(inside).double(), torch.tensor(outside).double())
    for name, value in by_counting(inside, outside).items():  # type: ignore[arg-type]
        assert getattr(found, name) == pytest.approx(value), name


def scores(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(300, generator=generator) + 1, torch.randn(200, generator=generator)


@pytest.mark.oracle
def test_areas_are_scikit_learn_s() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    for round_to in (3, 0):
        inside, outside = (one.round(decimals=round_to) for one in scores())
        values, labels = torch.cat((inside, outside)).numpy(), [1] * 300 + [0] * 200
        found = separation(inside, outside)
        assert found.auroc == pytest.approx(metrics.roc_auc_score(labels, values))
        assert found.aupr_in == pytest.approx(metrics.average_precision_score(labels, values))
        flipped = [1 - label for label in labels]
        assert found.aupr_out == pytest.approx(metrics.average_precision_score(flipped, -values))


@pytest.mark.oracle
def test_areas_are_pytorch_ood_s() -> None:
    """Its areas under precision-recall are by trapezoids, and its rates have foreign rows as positives."""
    pytest.importorskip("pytorch_ood")
    newer = importlib.util.find_spec("pytorch_ood.metrics") is not None  # from 0.4 on
    ood = importlib.import_module("pytorch_ood.metrics" if newer else "pytorch_ood.utils")
    inside, outside = scores(1)
    metrics = ood.OODMetrics()
    metrics.update(-torch.cat((inside, outside)), torch.tensor([0] * 300 + [-1] * 200))
    theirs, found = metrics.compute(), separation(inside, outside)
    assert found.auroc == pytest.approx(theirs["AUROC"], abs=1e-6)
    assert sorted((found.aupr_in, found.aupr_out)) == pytest.approx(
        sorted((theirs["AUPR-IN"], theirs["AUPR-OUT"])), abs=5e-3
    )
    assert separation(-outside, -inside).fpr95 == pytest.approx(theirs["FPR95TPR"], abs=0.02)


def test_ends() -> None:
    above, below = torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0])
    assert separation(above, below)[:] == (1, 1, 1, 1, 0, 1)
    worst = separation(below, above)
    assert (worst.auroc, worst.tnr95, worst.detection_accuracy) == (0, 0, 0.5)
    assert auroc(above, above) == 0.5
    with pytest.raises(ValueError, match="0 inside and 2 outside"):
        separation(torch.zeros(0), below)
