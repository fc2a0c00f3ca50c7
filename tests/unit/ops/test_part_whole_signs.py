"""What keeps Adam-v2 going and what shows that it collapsed: clipping, schedules and numbers against naive versions."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from partwise.ops.part_whole import (
    centre_norm,
    clip_each,
    composition_loss,
    decomposition_loss,
    divergence,
    effective_rank,
    entropy,
    self_distillation,
    spread,
    teacher_probabilities,
    update_centre,
    view_cross_entropy,
)

Array = NDArray[np.float64]


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(size=shape) * scale


def tensor(array: Array, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(array, dtype=dtype)


def softmax(row: Array) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / math.fsum(powers) for power in powers]


# -- optimisation --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [3.0, 0.5])
def test_gradients_are_clipped_one_by_one(max_norm: float) -> None:
    shapes: list[tuple[int, ...]] = [(4, 3), (2,), (), (5, 2, 2), (3,)]
    gradients = [torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 4 for shape in shapes]
    gradients[1] *= 0.01
    gradients[4].zero_()
    before = [gradient.clone() for gradient in gradients]
    norms = clip_each([gradients[0], None, *gradients[1:]], max_norm=max_norm)
    for gradient, old, norm in zip(gradients, before, norms, strict=True):
        length = math.sqrt(sum(float(value) ** 2 for value in old.flatten()))
        assert norm.item() == pytest.approx(length, rel=1e-6)
        factor = max_norm / length if length > max_norm else 1.0
        torch.testing.assert_close(gradient, old * factor, rtol=1e-5, atol=1e-7)
    assert torch.equal(gradients[1], before[1]) and not torch.equal(gradients[0], before[0])


def test_clipping_a_global_norm_would_be_another_thing() -> None:
    """Many short gradients: together far above the limit, each below it."""
    gradients = [torch.ones(4) for _ in range(20)]
    clip_each(gradients)
    assert all(torch.equal(gradient, torch.ones(4)) for gradient in gradients)


def test_gradients_of_several_precisions_and_none_at_all() -> None:
    gradients = [torch.full((9,), 2.0, dtype=dtype) for dtype in (torch.float64, torch.float32, torch.bfloat16)]
    clip_each(gradients)
    for gradient in gradients:
        torch.testing.assert_close(gradient, torch.ones_like(gradient), rtol=1e-2, atol=0)
    assert clip_each([]).numel() == clip_each([None]).numel() == 0


@contextmanager
def values_unseen() -> Iterator[None]:
    """Tensors without values: what reads one, and would wait for an accelerator, raises."""
    with FakeTensorMode():
        with pytest.raises(DataDependentOutputException):
            torch.ones(()).item()
        yield


def test_nothing_waits_for_the_device() -> None:
    with values_unseen():
        clip_each([torch.randn(3, 4), None, torch.randn(5)])
        students, teachers, centre = torch.randn(3, 2, 5), torch.randn(2, 2, 5), torch.zeros(5)
        loss = self_distillation(students, teachers, centre, skip_same=True)
        probabilities = teacher_probabilities(teachers, update_centre(centre, teachers))
        parts = torch.randn(2, 4, 5)
        composition_loss(parts[:, 0], parts[:, 1])
        decomposition_loss(parts, parts), decomposition_loss(parts, parts, norm="per_part")
        assert divergence(loss, probabilities).shape == centre_norm(centre).shape == spread(parts[0]).shape == ()


# -- signs of a collapse -------------------------------------------------------------------------------------------------


def test_entropy_and_divergence_are_the_naive_ones() -> None:
    students, teachers, centre = normal(4, 3, 6, scale=0.3), normal(2, 3, 6, seed=1, scale=0.3), normal(6, seed=2) * 0.1
    probabilities = teacher_probabilities(tensor(teachers), tensor(centre))
    q = [[softmax((row - centre) / 0.04) for row in view] for view in teachers]
    np.testing.assert_allclose(probabilities.numpy(), np.array(q), rtol=1e-10)
    mean = np.mean([[-sum(a * math.log(a) for a in row) for row in view] for view in q])
    assert entropy(probabilities).item() == pytest.approx(mean, abs=1e-12)
    for skip_same in (False, True):
        terms = []
        for v, view in enumerate(students):
            for t in range(2):
                for row, student in enumerate(view):
                    if not (skip_same and v == t):
                        p = softmax(student / 0.1)
                        terms.append(sum(a * math.log(a / b) for a, b in zip(q[t][row], p, strict=True)))
        loss = view_cross_entropy(tensor(students).requires_grad_(), probabilities, skip_same=skip_same)
        found = divergence(loss, probabilities)
        assert found.item() == pytest.approx(np.mean(terms), abs=1e-12) and not found.requires_grad


def test_uniform_answers_stand_at_ln_k() -> None:
    for students, teachers, size in ((3, 1, 4096), (10, 2, 64)):
        logits, centre = torch.zeros(students, 2, size), torch.zeros(size)
        loss = self_distillation(logits, logits[:teachers], centre, skip_same=teachers > 1)
        probabilities = teacher_probabilities(logits[:teachers], centre)
        assert loss.item() == pytest.approx(math.log(size), rel=1e-6)
        assert entropy(probabilities).item() == pytest.approx(math.log(size), rel=1e-6)
        assert divergence(loss, probabilities).item() == pytest.approx(0, abs=1e-5)


def test_one_code_for_all_pictures() -> None:
    logits = torch.zeros(3, 8, 64)
    logits[..., 5] = 3.0
    probabilities = teacher_probabilities(logits[:1], torch.zeros(64))
    loss = self_distillation(logits, logits[:1], torch.zeros(64), skip_same=False)
    assert entropy(probabilities).item() == pytest.approx(0, abs=1e-6)
    assert divergence(loss, probabilities).item() == pytest.approx(0, abs=1e-6)
    embeddings = logits[0]
    assert spread(embeddings).item() == pytest.approx(0, abs=1e-6)
    assert effective_rank(embeddings).item() == pytest.approx(1, abs=1e-3)
    centre = torch.zeros(64)
    for _ in range(60):
        centre = update_centre(centre, logits[:1])
    assert centre_norm(centre).item() == pytest.approx(3, rel=0.01)


def test_centre_norm_by_hand() -> None:
    assert centre_norm(torch.tensor([3.0, -4.0])).item() == 5


def test_spread_is_the_naive_one() -> None:
    embeddings = normal(7, 5) + 1
    units = [row / math.sqrt(sum(value**2 for value in row)) for row in embeddings]
    deviations = []
    for k in range(5):
        mean = sum(row[k] for row in units) / 7
        deviations.append(math.sqrt(sum((row[k] - mean) ** 2 for row in units) / 6))
    expected = sum(deviations) / 5 * math.sqrt(5)
    assert spread(tensor(embeddings)).item() == pytest.approx(expected, abs=1e-12)
    assert spread(tensor(embeddings) * 17).item() == pytest.approx(expected, abs=1e-12)


def test_the_ends_of_spread() -> None:
    assert spread(torch.eye(16)).item() == pytest.approx(1, abs=1e-6)
    assert spread(tensor(normal(2000, 64))).item() == pytest.approx(1, abs=0.02)
    assert spread(torch.ones(9, 4)).item() == pytest.approx(0, abs=1e-6)
    assert spread(torch.randn(1, 4)).item() == 0


def test_effective_rank_is_the_naive_one() -> None:
    embeddings = normal(9, 4)
    values = np.sqrt(np.clip(np.linalg.eigvalsh(embeddings.T @ embeddings), 0, None))
    shares = values / values.sum()
    expected = math.exp(-sum(share * math.log(share) for share in shares))
    assert effective_rank(tensor(embeddings)).item() == pytest.approx(expected, rel=1e-9)
    assert effective_rank(tensor(embeddings.T * 3)).item() == pytest.approx(expected, rel=1e-9)


def test_the_ends_of_effective_rank() -> None:
    for rank in (1, 3, 6):
        basis = torch.linalg.qr(tensor(normal(8, rank)))[0]
        other = torch.linalg.qr(tensor(normal(6, rank, seed=1)))[0]
        assert effective_rank(basis @ other.T).item() == pytest.approx(rank, rel=1e-6)
    assert effective_rank(torch.randn(1, 5)).item() == pytest.approx(1)
    assert effective_rank(torch.zeros(3, 5)).item() == 1


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_embeddings_are_measured_in_float32(dtype: torch.dtype) -> None:
    embeddings = tensor(normal(6, 5), dtype)
    for number in (spread, effective_rank, entropy, centre_norm):
        arguments = (
            embeddings.softmax(1) if number is entropy else embeddings[0] if number is centre_norm else embeddings
        )
        with torch.autocast("cpu", dtype):
            found = number(arguments)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, number(arguments.float()))
