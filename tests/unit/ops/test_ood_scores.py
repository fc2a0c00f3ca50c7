"""Scores of doubt against their formulas, and pytorch-ood's where it is installed."""

from __future__ import annotations

import importlib
import math

import pytest
import torch
from torch import Tensor, nn

from partwise.ops.ood_scores import brightness, energy, max_logit, msp, odin, roughness


def logits() -> Tensor:
    return 3 * torch.randn(6, 5, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(48, 16), nn.Tanh(), nn.Linear(16, 5))

    def forward(self, images: Tensor) -> Tensor:
        out: Tensor = 4 * self.layers(images)
        return out


def test_scores_of_logits_row_by_row() -> None:
    for row, values in enumerate(logits().double().tolist()):
        total = sum(math.exp(v) for v in values)
        assert float(msp(logits())[row]) == pytest.approx(max(math.exp(v) / total for v in values))
        assert float(max_logit(logits())[row]) == pytest.approx(max(values))
        assert float(energy(logits())[row]) == pytest.approx(math.log(total))


def test_odin_steps_towards_the_surest_class_at_a_high_temperature() -> None:
    model, images = Small().eval(), torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    found = odin(model, images, temperature=10.0, step=0.02)
    for row in range(7):
        x = images[row : row + 1].clone().requires_grad_()
        out = model(x) / 10
        loss = nn.functional.cross_entropy(out, out.argmax(1))
        (gradient,) = torch.autograd.grad(loss, x)
        moved = x.detach() - 0.02 * gradient.sign()
        expected = float((model(moved).detach() / 10).softmax(1).max())
        assert float(found[row]) == pytest.approx(expected, rel=1e-5)
    assert (found > (model(images) / 10).softmax(1).amax(1)).all()
    assert all(parameter.grad is None for parameter in model.parameters())
    flat = odin(lambda x: torch.zeros(len(x), 4), images)
    torch.testing.assert_close(flat, torch.full((7,), 0.25, dtype=torch.float64))


@pytest.mark.oracle
def test_scores_are_pytorch_ood_s() -> None:
    detector = pytest.importorskip("pytorch_ood.detector")
    model, images = Small().eval(), torch.rand(7, 3, 4, 4, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        for ours, theirs in ((msp, "MaxSoftmax"), (max_logit, "MaxLogit"), (energy, "EnergyBased")):
            expected = -getattr(detector, theirs)(model).predict(images)
            torch.testing.assert_close(ours(model(images)).float(), expected.float(), rtol=1e-4, atol=1e-5)
    # Its ODIN takes the loss of bare logits and no temperature at the end, unlike the paper: only the step is compared.
    step = importlib.import_module("pytorch_ood.detector.odin").odin_preprocessing
    moved = step(model, images, criterion=nn.functional.cross_entropy, eps=0.01, temperature=100.0)
    expected = (model(moved).detach() / 100).softmax(1).amax(1)
    found = odin(model, images, temperature=100.0, step=0.01)
    torch.testing.assert_close(found.float(), expected.float(), rtol=1e-4, atol=1e-5)


def test_statistics_that_know_nothing() -> None:
    images = torch.rand(2, 3, 5, 6, generator=torch.Generator().manual_seed(3))
    total = 0.0
    for c in range(3):
        for y in range(1, 4):
            for x in range(1, 5):
                around = [images[0, c, y + a, x + b] for a, b in ((-1, 0), (1, 0), (0, -1), (0, 1))]
                total += abs(float(images[0, c, y, x] - sum(around) / 4))
    assert float(roughness(images)[0]) == pytest.approx(total / (3 * 3 * 4), rel=1e-5)
    assert float(brightness(images)[1]) == pytest.approx(float(images[1].mean()))
