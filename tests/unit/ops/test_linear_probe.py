"""Logistic regression against plain gradient descent, scikit-learn, and what it must be able to learn."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partwise.ops.linear_probe import DECAYS, choose_decay, fit_linear


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def classes(count: int, spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    centres = torch.randn(3, 6, generator=generator(9))
    labels = torch.randint(3, (count,), generator=generator(seed))
    return 5 + centres[labels] + spread * torch.randn(count, 6, generator=generator(seed + 1)), labels


def descend(x: Tensor, y: Tensor, num_classes: int, decay: float) -> tuple[Tensor, Tensor]:
    """Gradient descent with the gradients written out."""
    z = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    weight, bias = torch.zeros(num_classes, z.shape[1]).double(), torch.zeros(num_classes).double()
    for _ in range(600):
        if y.ndim == 1:
            wrong = (z @ weight.T + bias).softmax(1) - torch.nn.functional.one_hot(y, num_classes)
        else:
            wrong = ((z @ weight.T + bias).sigmoid() - y) / num_classes
        weight -= 1.0 * (wrong.T @ z / len(z) + decay * weight)
        bias -= 1.0 * wrong.mean(0)
    return weight, bias


@pytest.mark.parametrize(("several", "count"), [(False, 60), (True, 60), (False, 5)])
def test_the_minimum_of_gradient_descent(several: bool, count: int) -> None:
    x, labels = classes(count, 1.5)
    y = torch.stack([labels == 0, labels < 2], dim=1).double() if several else labels
    num = 2 if several else 3
    probe = fit_linear(x, y, num, decay=0.1)
    weight, bias = descend(x, y, num, 0.1)
    assert torch.allclose(probe.weight, weight, atol=1e-4)
    # of a softmax only differences of biases are determined
    shift = 0 if several else bias.mean() - probe.bias.mean()
    assert torch.allclose(probe.bias + shift, bias, atol=1e-3)
    standard = (x.double() - x.double().mean(0)) / x.double().std(0, correction=0)
    assert torch.allclose(probe(x), standard @ probe.weight.T + probe.bias)


def test_classes_that_lie_apart_are_told_apart() -> None:
    x, y = classes(80, 0.2)
    new, truth = classes(200, 0.2, seed=7)
    assert (fit_linear(x, y, 3, decay=1e-3)(new).argmax(1) == truth).double().mean() > 0.98


def test_constant_embeddings_give_the_commonest_class() -> None:
    """Rounding in what is constant must not be blown up to deviation 1."""
    x = torch.full((30, 4), 3.0) + torch.arange(30)[:, None] * 1e-9
    y = torch.tensor([0] * 8 + [1] * 13 + [2] * 9)
    logits = fit_linear(x, y, 3, decay=1e-2)(x)
    assert logits.argmax(1).unique().tolist() == [1]
    assert torch.allclose(logits.softmax(1)[0], torch.tensor([8, 13, 9]).double() / 30, atol=1e-4)


def test_it_learns_inside_inference_mode() -> None:
    x, y = classes(20, 0.5)
    with torch.inference_mode():
        inside = fit_linear(x * 1, y * 1, 3, decay=0.1)
    assert torch.allclose(inside.weight, fit_linear(x, y, 3, decay=0.1).weight)


def test_decay_is_chosen_on_groups_that_are_held_out() -> None:
    """Embeddings that name the patient: within a patient's pictures weak decay looks best, between patients it does not."""
    patients = torch.arange(30).repeat_interleave(3)
    y = torch.randint(2, (30,), generator=generator())[patients]
    x = torch.randn(30, 20, generator=generator(1))[patients] + 0.01 * torch.randn(90, 20, generator=generator(2))
    grid = (1e-3, 1.0)
    assert choose_decay(x, y, 2, patients, decays=grid) == 1.0
    assert choose_decay(x, y, 2, torch.arange(90), decays=grid) == 1e-3
    assert choose_decay(x, y, 2, torch.zeros(90).long()) == max(DECAYS), "one group: nothing to choose on"


@pytest.mark.oracle
def test_the_solution_of_scikit_learn() -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y = classes(70, 1.0)
    probe = fit_linear(x, y, 3, decay=0.02)
    standard = ((x.double() - probe.mean) / probe.scale).numpy()
    theirs = linear_model.LogisticRegression(C=1 / (0.02 * 70), tol=1e-8, max_iter=1000).fit(standard, y.numpy())
    assert torch.allclose(probe(x).softmax(1), torch.from_numpy(theirs.predict_proba(standard)), atol=1e-4)
