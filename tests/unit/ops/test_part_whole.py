"""Adam-v2's losses and its centre against NumPy in float64, its finite differences, and the bounds of each."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from partwise.ops.part_whole import (
    Norm,
    Reduction,
    composition_loss,
    decomposition_loss,
    entropy,
    self_distillation,
    teacher_probabilities,
    update_centre,
    view_cross_entropy,
)

Array = NDArray[np.float64]

NORMS: tuple[Norm, ...] = ("joint", "per_part")
REDUCTIONS: tuple[Reduction, ...] = ("mean", "sum_dim")
HALVES = [torch.float16, torch.bfloat16]
PHASES = {"first": (10, 2, True), "second": (9, 1, False)}
"""Students, teachers, and whether the same pictures are left out."""


def normal(*shape: int, seed: int = 0, scale: float = 1.0) -> Array:
    return np.random.default_rng(seed).normal(size=shape) * scale


def tensor(array: Array, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(array, dtype=dtype)


# -- the oracle: section by section as the paper's losses are written, one number at a time ---------------------------------


def oracle_softmax(row: Array) -> list[float]:
    powers = [math.exp(value - max(row)) for value in row]
    return [power / math.fsum(powers) for power in powers]


def oracle_local(
    students: Array, teachers: Array, centre: Array, *, skip_same: bool, t_s: float = 0.1, t_t: float = 0.04
) -> float:
    terms = []
    for t, teacher in enumerate(teachers):
        for v, student in enumerate(students):
            if skip_same and v == t:
                continue
            rows = []
            for teacher_row, student_row in zip(teacher, student, strict=True):
                q = oracle_softmax((teacher_row - centre) / t_t)
                p = oracle_softmax(student_row / t_s)
                rows.append(-math.fsum(a * math.log(b) for a, b in zip(q, p, strict=True)))
            terms.append(sum(rows) / len(rows))
    return math.fsum(terms) / len(terms)


def unit(vector: Array) -> Array:
    return vector / math.sqrt(math.fsum(vector**2))


def oracle_mse(found: Array, target: Array, reduction: Reduction) -> float:
    """Over the rows of a batch; the mean over dimensions too, or their sum."""
    rows = [math.fsum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in zip(found, target, strict=True)]
    return math.fsum(rows) / len(rows) / (found.shape[1] if reduction == "mean" else 1)


def oracle_composition(composed: Array, whole: Array, reduction: Reduction = "mean") -> float:
    return oracle_mse(np.stack([unit(row) for row in composed]), np.stack([unit(row) for row in whole]), reduction)


def oracle_decomposition(decomposed: Array, parts: Array, norm: Norm = "joint", reduction: Reduction = "mean") -> float:
    _, n, d = parts.shape
    total = 0.0
    for i in range(n):
        slices = []
        for sample in decomposed:
            vector = unit(sample.reshape(-1)) if norm == "joint" else sample.reshape(-1)
            piece = vector[i * d : (i + 1) * d]
            slices.append(piece if norm == "joint" else unit(piece))
        total += oracle_mse(np.stack(slices), np.stack([unit(sample[i]) for sample in parts]), reduction)
    return total / n


def finite_differences(function: Callable[[Array], float], at: Array, width: float = 1e-6) -> Array:
    slopes = np.zeros_like(at)
    for place in np.ndindex(*at.shape):
        shifted = [at.copy(), at.copy()]
        shifted[0][place] += width
        shifted[1][place] -= width
        slopes[place] = (function(shifted[0]) - function(shifted[1])) / (2 * width)
    return slopes


def gradient_of(function: Callable[[Tensor], Tensor], at: Array) -> Array:
    leaf = tensor(at).requires_grad_()
    (gradient,) = torch.autograd.grad(function(leaf), leaf)
    return gradient.numpy()


# -- localizability ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("phase", PHASES)
def test_self_distillation_is_the_oracles(phase: str, batch: int) -> None:
    num_students, num_teachers, skip_same = PHASES[phase]
    students, teachers = normal(num_students, batch, 7, scale=0.3), normal(num_teachers, batch, 7, seed=1, scale=0.3)
    centre = normal(7, seed=2, scale=0.1)
    expected = oracle_local(students, teachers, centre, skip_same=skip_same)
    found = self_distillation(tensor(students), tensor(teachers), tensor(centre), skip_same=skip_same)
    assert found.item() == pytest.approx(expected, abs=1e-12)
    single = (tensor(array, torch.float32) for array in (students, teachers, centre))
    assert self_distillation(*single, skip_same=skip_same).item() == pytest.approx(expected, abs=1e-6 * expected)


@pytest.mark.parametrize(("num_students", "num_teachers", "skip_same"), [(1, 1, False), (1, 2, True), (3, 3, True)])
@pytest.mark.parametrize("temperatures", [(0.1, 0.04), (0.5, 0.07), (1.0, 1.0)])
def test_other_numbers_of_views_and_temperatures(
    num_students: int, num_teachers: int, skip_same: bool, temperatures: tuple[float, float]
) -> None:
    students, teachers = normal(num_students, 2, 5), normal(num_teachers, 2, 5, seed=1)
    centre = normal(5, seed=2)
    t_s, t_t = temperatures
    found = self_distillation(
        list(tensor(students)),
        list(tensor(teachers)),
        tensor(centre),
        student_temperature=t_s,
        teacher_temperature=t_t,
        skip_same=skip_same,
    )
    expected = oracle_local(students, teachers, centre, skip_same=skip_same, t_s=t_s, t_t=t_t)
    assert found.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("phase", PHASES)
def test_gradients_of_self_distillation_are_finite_differences(phase: str) -> None:
    num_students, num_teachers, skip_same = PHASES[phase]
    students, teachers = normal(num_students, 2, 4, scale=0.3), normal(num_teachers, 2, 4, seed=1, scale=0.3)
    centre = normal(4, seed=2, scale=0.1)
    found = gradient_of(lambda x: self_distillation(x, tensor(teachers), tensor(centre), skip_same=skip_same), students)
    expected = finite_differences(lambda x: oracle_local(x, teachers, centre, skip_same=skip_same), students)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8)
    assert np.abs(expected).max() > 0.01


def test_a_list_is_its_stack() -> None:
    students, teachers = tensor(normal(4, 2, 5)), tensor(normal(2, 2, 5, seed=1))
    stacked = self_distillation(students, teachers, torch.zeros(5), skip_same=True)
    assert torch.equal(stacked, self_distillation(list(students), list(teachers), torch.zeros(5), skip_same=True))


def test_pairs_by_hand() -> None:
    """One row, two prototypes, teachers certain of 0 and of 1, students that give 0 a chance of 3/4 and of 1/2."""
    chances = torch.tensor([[[0.75, 0.25]], [[0.5, 0.5]]]).log()
    certain = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])
    every = view_cross_entropy(chances, certain, temperature=1.0, skip_same=False)
    assert every.item() == pytest.approx((math.log(4 / 3) + math.log(4) + 2 * math.log(2)) / 4)
    crossed = view_cross_entropy(chances, certain, temperature=1.0, skip_same=True)
    assert crossed.item() == pytest.approx((math.log(4) + math.log(2)) / 2)


def test_teachers_have_no_gradient() -> None:
    students, teachers, centre = (torch.randn(2, 3, 5, requires_grad=True) for _ in range(3))
    row = centre[0, 0]
    assert not teacher_probabilities(teachers, row).requires_grad
    self_distillation(students, teachers, row, skip_same=True).backward()
    assert teachers.grad is None and centre.grad is None
    assert students.grad is not None and students.grad.isfinite().all() and students.grad.abs().sum() > 0


@pytest.mark.parametrize(("cosine", "offset"), [(0.0, 0.2), (0.5, -0.3), (1.0, -0.76)])
def test_where_training_starts(cosine: float, offset: float) -> None:
    """Unit features of 256 numbers on 65,536 unit prototypes: ln K plus .2, minus .3 and minus .76 by their cosine."""
    generator = torch.Generator().manual_seed(0)
    prototypes = F.normalize(torch.randn(65_536, 256, generator=generator))
    teacher = F.normalize(torch.randn(6, 256, generator=generator))
    other = torch.randn(6, 256, generator=generator)
    other = F.normalize(other - (other * teacher).sum(1, keepdim=True) * teacher)
    student = cosine * teacher + math.sqrt(1 - cosine**2) * other
    loss = self_distillation(
        (student @ prototypes.T)[None], (teacher @ prototypes.T)[None], torch.zeros(65_536), skip_same=False
    )
    assert loss.item() == pytest.approx(math.log(65_536) + offset, abs=0.05)


@given(st.integers(0, 1000), st.integers(1, 4), st.sampled_from([0.1, 1.0, 10.0]))
@settings(max_examples=30, deadline=None)
def test_the_loss_is_at_least_the_entropy(seed: int, num_students: int, scale: float) -> None:
    students, teachers = (
        tensor(normal(num_students, 2, 6, seed=seed, scale=scale)),
        tensor(normal(1, 2, 6, seed=seed + 1)),
    )
    centre = tensor(normal(6, seed=seed + 2))
    least = entropy(teacher_probabilities(teachers, centre))
    assert self_distillation(students, teachers, centre, skip_same=False) >= least - 1e-12
    agreeing = ((teachers - centre) / 0.04 * 0.1).expand(num_students, -1, -1)
    attained = self_distillation(agreeing, teachers, centre, skip_same=False)
    assert attained.item() == pytest.approx(least.item(), abs=1e-12)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("phase", PHASES)
def test_half_precision_logits_are_summed_in_float32(phase: str, dtype: torch.dtype) -> None:
    num_students, num_teachers, skip_same = PHASES[phase]
    students, teachers = tensor(normal(num_students, 2, 7), dtype), tensor(normal(num_teachers, 2, 7, seed=1), dtype)
    students.requires_grad_()
    with torch.autocast("cpu", dtype):
        found = self_distillation(students, teachers, torch.zeros(7), skip_same=skip_same)
        centre = update_centre(torch.zeros(7), teachers)
    expected = self_distillation(students.float(), teachers.float(), torch.zeros(7), skip_same=skip_same)
    assert found.dtype == centre.dtype == torch.float32 and torch.equal(found, expected)
    assert torch.equal(centre, update_centre(torch.zeros(7), teachers.float()))
    (gradient,) = torch.autograd.grad(found, students)
    assert gradient.dtype == dtype and gradient.isfinite().all() and gradient.abs().sum() > 0


def test_far_logits_stay_finite() -> None:
    students = (torch.eye(5)[None] * 1e4).requires_grad_()
    loss = self_distillation(students, torch.eye(5).flip(0)[None] * 1e4, torch.zeros(5), skip_same=False)
    (gradient,) = torch.autograd.grad(loss, students)
    assert loss.item() == pytest.approx(1e5 * 4 / 5) and gradient.isfinite().all()


@pytest.mark.parametrize(
    ("students", "teachers", "centre", "options", "message"),
    [
        ((1, 2, 5), (1, 2, 5), 5, {"skip_same": True}, "1 student and 1 teacher views: expected a pair"),
        ((0, 2, 5), (1, 2, 5), 5, {}, "0 student and 1 teacher views"),
        ((3, 2, 6), (1, 2, 5), 5, {}, r"student view 0 of shape \(2, 6\): expected \(2, 5\)"),
        ((3, 4, 5), (1, 2, 5), 5, {}, r"student view 0 of shape \(4, 5\)"),
        ((3, 2, 5), (1, 2, 5), 1, {}, r"centre \(1,\): expected \(5,\)"),
        ((3, 2, 5), (2, 5), 5, {}, r"views of shape \(5,\): expected one or more, all \(B, K\)"),
        ((3, 2, 5), (0, 2, 5), 5, {}, "views of shape none"),
        ((3, 2, 5), (1, 2, 5), 5, {"student_temperature": 0.0}, "temperature 0.0"),
        ((3, 2, 5), (1, 2, 5), 5, {"teacher_temperature": math.nan}, "temperature nan"),
    ],
)
def test_views_that_do_not_fit_are_refused(
    students: tuple[int, ...], teachers: tuple[int, ...], centre: int, options: dict[str, float], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        self_distillation(
            torch.zeros(students),
            torch.zeros(teachers),
            torch.zeros(centre),
            **{"skip_same": False} | options,  # type: ignore[arg-type]
        )


def test_teachers_of_two_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"views of shape \(2, 5\), \(3, 5\)"):
        update_centre(torch.zeros(5), [torch.zeros(2, 5), torch.zeros(3, 5)])


# -- the centre ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("momentum", [0.0, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("num_views", [1, 2])
def test_the_centre_follows_the_mean_of_all_rows(num_views: int, momentum: float) -> None:
    teachers, centre = normal(num_views, 3, 4), normal(4, seed=1)
    found = update_centre(tensor(centre), tensor(teachers), momentum=momentum)
    rows = [row for view in teachers for row in view]
    for k in range(4):
        mean = sum(row[k] for row in rows) / len(rows)
        assert found[k].item() == pytest.approx(momentum * centre[k] + (1 - momentum) * mean, abs=1e-12)


def test_the_centre_in_closed_form() -> None:
    teachers, centre = tensor(normal(2, 3, 4)), torch.zeros(4, dtype=torch.float64)
    for step in range(1, 8):
        before = centre.clone()
        following = update_centre(centre, teachers)
        assert torch.equal(centre, before), "the given centre must stay as it is"
        centre = following
        torch.testing.assert_close(centre, (1 - 0.9**step) * teachers.mean((0, 1)))


def test_the_centre_of_two_processes_is_that_of_their_batches_together() -> None:
    teachers, centre = tensor(normal(2, 6, 4)), tensor(normal(4, seed=1))
    halves = teachers[:, :3], teachers[:, 3:]
    means = [half.mean((0, 1)) for half in halves]

    def average(mean: Tensor) -> Tensor:
        assert any(torch.allclose(mean, each) for each in means)
        return torch.stack(means).mean(0)

    expected = update_centre(centre, teachers)
    for half in halves:
        torch.testing.assert_close(update_centre(centre, half, average=average), expected)


def test_the_centre_has_no_gradient_and_keeps_its_precision() -> None:
    teachers = torch.randn(1, 2, 4, dtype=torch.float64, requires_grad=True)
    centre = update_centre(torch.zeros(4), teachers)
    assert not centre.requires_grad and centre.dtype == torch.float32


# -- composability and decomposability -----------------------------------------------------------------------------------


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("batch", [1, 4])
def test_composition_is_the_oracles(batch: int, reduction: Reduction) -> None:
    composed, whole = normal(batch, 6), normal(batch, 6, seed=1)
    expected = oracle_composition(composed, whole, reduction)
    found = composition_loss(tensor(composed), tensor(whole), reduction=reduction)
    assert found.item() == pytest.approx(expected, abs=1e-14)
    narrow = composition_loss(tensor(composed, torch.float32), tensor(whole, torch.float32), reduction=reduction)
    assert narrow.item() == pytest.approx(expected, abs=1e-6)
    slopes = finite_differences(lambda x: oracle_composition(x, whole, reduction), composed)
    np.testing.assert_allclose(
        gradient_of(lambda x: composition_loss(x, tensor(whole), reduction=reduction), composed),
        slopes,
        rtol=1e-6,
        atol=1e-8,
    )


@pytest.mark.parametrize("reduction", REDUCTIONS)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize(("batch", "n"), [(1, 4), (3, 4), (2, 1), (2, 9)])
def test_decomposition_is_the_oracles(batch: int, n: int, norm: Norm, reduction: Reduction) -> None:
    decomposed, parts = normal(batch, n, 5), normal(batch, n, 5, seed=1)
    expected = oracle_decomposition(decomposed, parts, norm, reduction)
    found = decomposition_loss(tensor(decomposed), tensor(parts), norm=norm, reduction=reduction)
    assert found.item() == pytest.approx(expected, abs=1e-14)
    narrow = [tensor(array, torch.float32) for array in (decomposed, parts)]
    assert decomposition_loss(*narrow, norm=norm, reduction=reduction).item() == pytest.approx(expected, abs=1e-6)
    slopes = finite_differences(lambda x: oracle_decomposition(x, parts, norm, reduction), decomposed)
    np.testing.assert_allclose(
        gradient_of(lambda x: decomposition_loss(x, tensor(parts), norm=norm, reduction=reduction), decomposed),
        slopes,
        rtol=1e-6,
        atol=1e-8,
    )


def test_published_settings_are_the_defaults() -> None:
    decomposed, parts = tensor(normal(2, 4, 5)), tensor(normal(2, 4, 5, seed=1))
    joint = decomposition_loss(decomposed, parts, norm="joint", reduction="mean")
    assert torch.equal(decomposition_loss(decomposed, parts), joint)
    whole = composition_loss(decomposed[:, 0], parts[:, 0], reduction="mean")
    assert torch.equal(composition_loss(decomposed[:, 0], parts[:, 0]), whole)


@given(st.integers(0, 1000), st.integers(1, 9), st.floats(0.01, 100), st.floats(0.01, 100))
@settings(max_examples=40, deadline=None)
def test_composition_is_a_cosine_in_its_bounds(seed: int, dim: int, first: float, second: float) -> None:
    composed, whole = (
        tensor(normal(3, dim, seed=seed, scale=first)),
        tensor(normal(3, dim, seed=seed + 1, scale=second)),
    )
    cosine = F.cosine_similarity(composed, whole).mean().item()
    summed = composition_loss(composed, whole, reduction="sum_dim").item()
    assert summed == pytest.approx(2 - 2 * cosine, abs=1e-9) and -1e-12 <= summed <= 4 + 1e-12
    mean = composition_loss(composed, whole).item()
    assert mean == pytest.approx(summed / dim, abs=1e-12) and mean <= 4 / dim + 1e-12


def test_the_ends_of_composition() -> None:
    whole = tensor(normal(3, 8))
    assert composition_loss(5 * whole, whole).item() == pytest.approx(0, abs=1e-15)
    assert composition_loss(-whole, whole).item() == pytest.approx(4 / 8)
    assert composition_loss(-whole, whole, reduction="sum_dim").item() == pytest.approx(4)


@pytest.mark.parametrize(("n", "floor"), [(4, 0.25), (1, 0.0), (9, (1 - 1 / 3) ** 2)])
def test_joint_normalisation_leaves_a_rest(n: int, floor: float) -> None:
    """(1 - 1/sqrt(n))^2 / D, .25 / D at n = 4: only where slices are equally long and point to their targets."""
    parts = tensor(normal(3, n, 7)) * torch.arange(1, 3 * n + 1).view(3, n, 1)
    slices = 0.3 * F.normalize(parts, dim=-1)
    assert decomposition_loss(slices, parts).item() == pytest.approx(floor / 7, abs=1e-12)
    assert decomposition_loss(slices, parts, reduction="sum_dim").item() == pytest.approx(floor, abs=1e-12)
    assert decomposition_loss(slices, parts, norm="per_part").item() == pytest.approx(0, abs=1e-12)
    if n > 1:
        uneven = slices.clone()
        uneven[:, 0] *= 1.5
        assert decomposition_loss(uneven, parts).item() > floor / 7 + 1e-4
        assert decomposition_loss(uneven, parts, norm="per_part").item() == pytest.approx(0, abs=1e-12)
    turned = slices.clone()
    turned[:, -1] = turned[:, -1].roll(1, dims=-1)
    assert decomposition_loss(turned, parts).item() > floor / 7 + 1e-4


@given(st.integers(0, 1000), st.integers(1, 9), st.integers(1, 6))
@settings(max_examples=40, deadline=None)
def test_decomposition_keeps_its_bounds(seed: int, n: int, dim: int) -> None:
    decomposed, parts = tensor(normal(2, n, dim, seed=seed)), tensor(normal(2, n, dim, seed=seed + 1))
    assert decomposition_loss(decomposed, parts).item() >= (1 - n**-0.5) ** 2 / dim - 1e-12
    assert -1e-12 <= decomposition_loss(decomposed, parts, norm="per_part").item() <= 4 / dim + 1e-12
    for norm in NORMS:
        summed = decomposition_loss(decomposed, parts, norm=norm, reduction="sum_dim").item()
        assert summed == pytest.approx(dim * decomposition_loss(decomposed, parts, norm=norm).item(), abs=1e-12)


def test_parts_have_an_order() -> None:
    parts = tensor(normal(3, 4, 7))
    swapped = parts[:, [1, 0, 2, 3]]
    for norm in NORMS:
        right = decomposition_loss(parts, parts, norm=norm)
        assert decomposition_loss(swapped, parts, norm=norm) > right + 0.01
        torch.testing.assert_close(decomposition_loss(swapped, swapped, norm=norm), right)


def test_targets_have_no_gradient() -> None:
    found, target = (torch.randn(2, 4, 5, requires_grad=True) for _ in range(2))
    (composition_loss(found[:, 0], target[:, 0]) + decomposition_loss(found, target)).backward()
    assert target.grad is None
    assert found.grad is not None and found.grad.isfinite().all() and found.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision_embeddings_are_compared_in_float32(dtype: torch.dtype) -> None:
    found, target = tensor(normal(2, 4, 512) * 100, dtype), tensor(normal(2, 4, 512, seed=1) * 100, dtype)
    found.requires_grad_()
    with torch.autocast("cpu", dtype):
        losses = [composition_loss(found[:, 0], target[:, 0])] + [
            decomposition_loss(found, target, norm=norm) for norm in NORMS
        ]
    wide = [composition_loss(found[:, 0].float(), target[:, 0].float())] + [
        decomposition_loss(found.float(), target.float(), norm=norm) for norm in NORMS
    ]
    for loss, expected in zip(losses, wide, strict=True):
        assert loss.dtype == torch.float32 and torch.equal(loss, expected)
    (gradient,) = torch.autograd.grad(torch.stack(losses).sum() * 1e4, found)
    assert gradient.dtype == dtype and gradient.isfinite().all() and gradient.abs().sum() > 0


@pytest.mark.parametrize("shapes", [((2, 5), (2, 6)), ((2, 5), (3, 5)), ((2, 4, 5), (2, 4, 5)), ((2, 1), (2, 5))])
def test_wholes_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, D\), twice the same"):
        composition_loss(*map(torch.zeros, shapes))


@pytest.mark.parametrize("shapes", [((2, 20), (2, 4, 5)), ((2, 20), (2, 20)), ((2, 1, 5), (2, 4, 5))])
def test_parts_that_do_not_fit_are_refused(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"expected \(B, n, D\), twice the same"):
        decomposition_loss(*map(torch.zeros, shapes))


def test_unknown_words_are_refused() -> None:
    parts = torch.ones(1, 4, 5)
    with pytest.raises(ValueError, match="norm 'each'"):
        decomposition_loss(parts, parts, norm="each")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction 'sum'"):
        decomposition_loss(parts, parts, reduction="sum")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="reduction 'none'"):
        composition_loss(parts[:, 0], parts[:, 0], reduction="none")  # type: ignore[arg-type]
