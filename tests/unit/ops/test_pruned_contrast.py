"""Adam-v1's contrast against loops over samples and keys, its queue against a deque, and who is pruned."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from partwise.ops.pruned_contrast import (
    Queue,
    contrast_logits,
    enqueue,
    pruned_info_nce,
    pruned_share,
    random_queue,
)

Array = NDArray[np.float64]


def units(*shape: int, seed: int = 0) -> Tensor:
    vectors = np.random.default_rng(seed).normal(size=shape)
    return torch.tensor(vectors / np.linalg.norm(vectors, axis=-1, keepdims=True))


def crowded(batch: int, size: int, *, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and a queue in three dimensions, where many are alike."""
    return units(batch, 3, seed=seed), units(batch, 3, seed=seed + 1), units(size, 3, seed=seed + 2)


def oracle(
    queries: Array, keys: Array, negatives: Array, *, temperature: float = 0.2, threshold: float | None = 0.8
) -> tuple[float, int]:
    """The loss, a sample at a time over the keys that are left, and how many are not."""
    losses, pruned = [], 0
    for query, key in zip(queries, keys, strict=True):
        own = math.exp(float(query @ key) / temperature)
        total = own
        for other in negatives:
            cosine = float(query @ other)
            if threshold is not None and cosine >= threshold:
                pruned += 1
            else:
                total += math.exp(cosine / temperature)
        losses.append(-math.log(own / total))
    return sum(losses) / len(losses), pruned


# -- the loss ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threshold", [0.8, 0.3, None])
@pytest.mark.parametrize("temperature", [0.2, 0.07])
@pytest.mark.parametrize("batch", [1, 6])
def test_the_loss_a_sample_at_a_time(batch: int, temperature: float, threshold: float | None) -> None:
    inputs = crowded(batch, 40)
    options = {"temperature": temperature, "threshold": threshold}
    expected, pruned = oracle(*(x.numpy() for x in inputs), **options)
    assert pruned_info_nce(*inputs, **options).item() == pytest.approx(expected, abs=1e-12)
    narrow = pruned_info_nce(*(x.float() for x in inputs), **options)
    assert narrow.item() == pytest.approx(expected, abs=1e-6 * max(1, expected))
    assert pruned_share(contrast_logits(*inputs, **options)).item() == pytest.approx(pruned / (40 * batch))
    assert (pruned > 0) == (threshold is not None)


@pytest.mark.parametrize("threshold", [0.8, None])
def test_gradients_are_finite_differences(threshold: float | None) -> None:
    queries, keys, negatives = crowded(3, 30)
    leaf = queries.clone().requires_grad_()
    (found,) = torch.autograd.grad(pruned_info_nce(leaf, keys, negatives, threshold=threshold), leaf)
    for place in np.ndindex(*queries.shape):
        ends = []
        for shift in (1e-6, -1e-6):
            moved = queries.numpy().copy()
            moved[place] += shift
            ends.append(oracle(moved, keys.numpy(), negatives.numpy(), threshold=threshold)[0])
        assert found[place].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, rel=1e-6, abs=1e-8)


def test_published_settings_are_the_defaults() -> None:
    inputs = crowded(4, 30)
    assert torch.equal(pruned_info_nce(*inputs), pruned_info_nce(*inputs, temperature=0.2, threshold=0.8))


def test_the_own_key_is_kept_however_near() -> None:
    queries = units(5, 8)
    logits = contrast_logits(queries, queries, units(20, 8, seed=1))
    torch.testing.assert_close(logits[:, 0], torch.full((5,), 5.0, dtype=torch.float64))
    assert logits.shape == (5, 21)


def test_the_threshold_itself_is_pruned() -> None:
    query = torch.tensor([[1.0, 0.0]])
    negatives = torch.tensor([[0.8, 0.6], [0.7999, 0.6001], [-1.0, 0.0]])
    logits = contrast_logits(query, query, negatives)
    assert logits[0].isneginf().tolist() == [False, True, False, False]
    assert pruned_share(logits).item() == pytest.approx(1 / 3)


def test_a_query_prunes_for_itself_alone() -> None:
    queries = torch.eye(2)
    logits = contrast_logits(queries, queries, queries)
    assert logits[:, 1:].isneginf().tolist() == [[True, False], [False, True]]


def test_the_loss_where_nothing_is_left() -> None:
    queries = torch.eye(3)[:1].requires_grad_()
    loss = pruned_info_nce(queries, torch.eye(3)[:1], torch.eye(3)[:1].expand(7, 3))
    (gradient,) = torch.autograd.grad(loss, queries)
    assert loss.item() == 0 and gradient.eq(0).all()


def test_pruned_keys_do_not_pull() -> None:
    """Moving a pruned key, as long as it stays pruned, changes neither the loss nor its gradient."""
    queries, keys = (torch.tensor([[1.0, 0.0, 0.0]]) for _ in range(2))
    results = []
    for near in ([0.9, math.sqrt(0.19), 0.0], [0.85, 0.0, math.sqrt(1 - 0.85**2)]):
        leaf = queries.clone().requires_grad_()
        loss = pruned_info_nce(leaf, keys, torch.tensor([near, [0.0, 1.0, 0.0]]))
        results.append((loss.detach(), torch.autograd.grad(loss, leaf)[0]))
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


@given(st.integers(0, 1000), st.floats(-1, 1))
@settings(max_examples=30, deadline=None)
def test_pruning_only_lowers_the_loss(seed: int, threshold: float) -> None:
    inputs = crowded(3, 12, seed=seed)
    pruned, plain = pruned_info_nce(*inputs, threshold=threshold), pruned_info_nce(*inputs, threshold=None)
    assert -1e-12 <= pruned <= plain + 1e-12


def test_gradients_reach_queries_only() -> None:
    queries, keys, negatives = (x.requires_grad_() for x in crowded(3, 12))
    pruned_info_nce(queries, keys, negatives).backward()
    assert keys.grad is None and negatives.grad is None
    assert queries.grad is not None and queries.grad.isfinite().all() and queries.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_float32(dtype: torch.dtype) -> None:
    queries, keys, negatives = (x.to(dtype) for x in crowded(4, 50))
    queries.requires_grad_()
    expected = pruned_info_nce(queries.float(), keys.float(), negatives.float())
    with torch.autocast("cpu", dtype):
        found = pruned_info_nce(queries, keys, negatives.float())
        wide = pruned_info_nce(*(x.float() for x in (queries, keys, negatives)))
    assert found.dtype == torch.float32 and torch.equal(found, expected) and torch.equal(wide, expected)
    (gradient,) = torch.autograd.grad(found, queries)
    assert gradient.dtype == dtype and gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize(
    "shapes",
    [((2, 3), (3, 3), (4, 3)), ((2, 3), (2, 4), (4, 3)), ((2, 3), (2, 3), (4, 2)), ((3,), (3,), (4, 3))],
)
def test_vectors_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, D\), \(B, D\), \(N, D\)"):
        pruned_info_nce(*map(torch.zeros, shapes))


@pytest.mark.parametrize("temperature", [0.0, -0.1, math.nan])
def test_bad_temperatures_are_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="temperature"):
        pruned_info_nce(*crowded(2, 3), temperature=temperature)


# -- the queue -----------------------------------------------------------------------------------------------------------


def numbered(count: int, first: int = 0) -> Tensor:
    return torch.arange(first, first + count).float()[:, None].expand(count, 2)


def empty(size: int) -> Queue:
    return Queue(torch.full((size, 2), -1.0), torch.tensor(0))


@given(st.integers(1, 9), st.lists(st.integers(0, 12), max_size=6))
@settings(max_examples=80, deadline=None)
def test_the_queue_is_a_deque(size: int, batches: list[int]) -> None:
    queue, naive, rows, done = empty(size), deque([-1.0] * size, maxlen=size), [-1.0] * size, 0
    for count in batches:
        keys = numbered(count, done)
        before = queue.keys.clone(), queue.position.clone()
        following = enqueue(queue, keys)
        assert torch.equal(queue.keys, before[0]) and torch.equal(queue.position, before[1])
        queue = following
        for value in range(done, done + count):
            naive.append(value)
            rows[value % size] = value
        done += count
        assert queue.keys[:, 0].tolist() == rows
        assert queue.keys.roll(-int(queue.position), 0)[:, 0].tolist() == list(naive)


def test_the_queue_has_no_gradient_and_keeps_its_precision() -> None:
    queue = enqueue(empty(4), torch.ones(2, 2, dtype=torch.bfloat16, requires_grad=True))
    assert not queue.keys.requires_grad and queue.keys.dtype == torch.float32
    assert queue.keys[:, 0].tolist() == [1, 1, -1, -1] and queue.position == 2


@pytest.mark.parametrize("shape", [(3, 5), (2,), (1, 3, 2)])
def test_keys_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, 2\), as the queue's"):
        enqueue(empty(4), torch.zeros(shape))


def test_the_first_queue_is_random_directions() -> None:
    queue, again, other = (random_queue(64, 8, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    torch.testing.assert_close(queue.keys.norm(dim=1), torch.ones(64))
    assert queue.keys.shape == (64, 8) and queue.position == 0 and queue.position.dtype == torch.int64
    assert torch.equal(queue.keys, again.keys) and not torch.equal(queue.keys, other.keys)
    assert queue.keys.mean(0).norm() < 0.4


def test_nothing_waits_for_the_device() -> None:
    with FakeTensorMode():  # tensors without values: reading one raises
        queue = Queue(torch.randn(7, 3), torch.zeros((), dtype=torch.int64))
        queue = enqueue(enqueue(queue, torch.randn(4, 3)), torch.randn(9, 3))
        logits = contrast_logits(torch.randn(4, 3), torch.randn(4, 3), queue.keys)
        assert pruned_share(logits).shape == pruned_info_nce(logits, logits, logits).shape == ()


def test_learning_from_the_queue() -> None:
    """Queries that follow the gradient come nearer to their keys than to what the queue holds."""
    torch.manual_seed(0)
    keys, queue = units(4, 6), enqueue(random_queue(16, 6, generator=torch.Generator().manual_seed(0)), units(3, 6))
    free = units(4, 6, seed=9).requires_grad_()
    losses = []
    for _ in range(20):
        loss = pruned_info_nce(F.normalize(free, dim=1), keys, queue.keys)
        losses.append(loss.item())
        free = (free - torch.autograd.grad(loss, free)[0]).detach().requires_grad_()
    assert losses[-1] < losses[0] - 0.3
