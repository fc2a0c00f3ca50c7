"""Distances between gradients and mean features, channel by channel and class by class."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partwise.ops.matching import (
    conv_gradient_distance,
    gradient_distance,
    mean_feature_distance,
    row_distances,
    weight_rows,
)

SHAPES = [(4, 3, 3, 3), (4,), (4,), (5, 4, 3, 3), (5,), (2, 20), (2,)]
"""Two convolutions with biases, a norm's scale, and a linear layer."""


def gradients(seed: int, classes: int | None = None, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    lead = () if classes is None else (classes,)
    return [torch.randn(*lead, *shape, generator=generator, dtype=dtype) for shape in SHAPES]


def naive_cosine_distance(a: list[float], b: list[float]) -> float:
    product = math.fsum(x * y for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(x * x for x in b))
    return 1 - product / (lengths + 1e-6)


def naive_gradient_distance(synthetic: list[Tensor], real: list[Tensor], kind: str) -> float:
    """Parameter by parameter and output channel by output channel, in Python's numbers."""
    if kind == "dc":
        return math.fsum(
            naive_cosine_distance(own[channel].flatten().tolist(), other[channel].flatten().tolist())
            for own, other in zip(synthetic, real, strict=True)
            if own.dim() > 1
            for channel in range(own.shape[0])
        )
    a = [value for gradient in synthetic for value in gradient.flatten().tolist()]
    b = [value for gradient in real for value in gradient.flatten().tolist()]
    if kind == "cos":
        return naive_cosine_distance(a, b)
    return math.fsum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def naive_conv_distance(synthetic: list[Tensor], real: list[Tensor], kind: str) -> float:
    power = {"mse": 2, "l1": 1}[kind]
    return math.fsum(
        abs(x - y) ** power
        for own, other in zip(synthetic, real, strict=True)
        if own.dim() == 4
        for x, y in zip(own.flatten().tolist(), other.flatten().tolist(), strict=True)
    )


@pytest.mark.parametrize("kind", ["dc", "mse", "cos"])
def test_gradient_distance_number_by_number(kind: str) -> None:
    own, other = gradients(0), gradients(1)
    assert gradient_distance(own, other, kind=kind).item() == pytest.approx(naive_gradient_distance(own, other, kind))


@pytest.mark.parametrize("kind", ["mse", "l1"])
def test_conv_distance_number_by_number(kind: str) -> None:
    own, other = gradients(0), gradients(1)
    found = conv_gradient_distance(own, other, kind=kind)
    assert found.item() == pytest.approx(naive_conv_distance(own, other, kind))


@pytest.mark.parametrize("kind", ["dc", "mse", "cos", "conv mse", "conv l1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_classes_at_once_are_class_by_class(kind: str, dtype: torch.dtype) -> None:
    own, other = gradients(0, 3, dtype), gradients(1, 3, dtype)
    distance = conv_gradient_distance if kind.startswith("conv") else gradient_distance
    name = kind.removeprefix("conv ")
    found = distance(own, other, kind=name, classes=True)
    assert found.shape == (3,) and found.dtype == dtype
    for number in range(3):
        single = distance([g[number] for g in own], [g[number] for g in other], kind=name)
        torch.testing.assert_close(found[number], single, rtol=1e-5, atol=1e-5)


def test_biases_and_norms_count_nothing() -> None:
    own, other = gradients(0), gradients(1)
    changed = [g + 5 if g.dim() == 1 else g for g in own]
    assert torch.equal(gradient_distance(changed, other), gradient_distance(own, other))
    assert torch.equal(conv_gradient_distance(changed, other), conv_gradient_distance(own, other))
    assert gradient_distance(changed, other, kind="mse") != gradient_distance(own, other, kind="mse")
    linear = [g + 5 if g.dim() == 2 else g for g in own]
    assert torch.equal(conv_gradient_distance(linear, other), conv_gradient_distance(own, other))
    assert [tuple(rows.shape) for rows, _ in weight_rows(own, other, classes=False)] == [(4, 27), (5, 36), (2, 20)]


@given(seed=st.integers(0, 10_000), scale=st.floats(0.1, 100))
@settings(max_examples=25, deadline=None)
def test_dc_sees_directions_and_lies_between_zero_and_two_a_channel(seed: int, scale: float) -> None:
    own, other = gradients(seed), gradients(seed + 1)
    found = gradient_distance(own, other).item()
    assert 0 <= found <= 2 * (4 + 5 + 2)
    assert gradient_distance([scale * g for g in own], other).item() == pytest.approx(found, rel=1e-4)
    assert gradient_distance(own, own).item() == pytest.approx(0, abs=1e-4)
    assert gradient_distance(own, [-g for g in own]).item() == pytest.approx(2 * 11, rel=1e-4)


def test_rows_of_zeros_are_at_distance_one_and_give_finite_gradients() -> None:
    rows = torch.zeros(3, 5, requires_grad=True)
    distances = row_distances(rows, torch.randn(3, 5))
    assert distances.tolist() == [1, 1, 1]
    (gradient,) = torch.autograd.grad(distances.sum(), rows)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("kind", ["dc", "mse", "cos", "conv mse", "conv l1"])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    shapes = [(2, 2, 1, 2), (2,), (3, 2)]
    generator = torch.Generator().manual_seed(3)
    own = [torch.randn(2, *shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]
    other = [torch.randn(2, *shape, generator=generator, dtype=torch.float64) for shape in shapes]
    distance = conv_gradient_distance if kind.startswith("conv") else gradient_distance

    def of(*synthetic: Tensor) -> Tensor:
        return distance(synthetic, other, kind=kind.removeprefix("conv "), classes=True)

    assert torch.autograd.gradcheck(of, tuple(own))


def test_mean_features_class_by_class() -> None:
    generator = torch.Generator().manual_seed(0)
    synthetic, real = torch.randn(4, 3, 6, generator=generator), torch.randn(4, 7, 6, generator=generator)
    found = mean_feature_distance(synthetic, real)
    assert found.shape == (4,)
    for number in range(4):
        expected = 0.0
        for column in range(6):
            own = sum(synthetic[number, row, column].item() for row in range(3)) / 3
            other = sum(real[number, row, column].item() for row in range(7)) / 7
            expected += (own - other) ** 2
        assert found[number].item() == pytest.approx(expected, rel=1e-5)
        torch.testing.assert_close(mean_feature_distance(synthetic[number], real[number]), found[number])
    free = synthetic.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: mean_feature_distance(s, real.double()), (free,))


def test_mistakes_are_answered() -> None:
    own, other = gradients(0), gradients(1)
    with pytest.raises(ValueError, match="distance 'cosine': expected one of dc, mse, cos"):
        gradient_distance(own, other, kind="cosine")
    with pytest.raises(ValueError, match="distance 'dc': expected one of mse, l1"):
        conv_gradient_distance(own, other, kind="dc")
    with pytest.raises(ValueError, match="of 7 and of 6 parameters"):
        gradient_distance(own, other[:-1])
    with pytest.raises(ValueError, match="parameter 5 have shapes"):
        gradient_distance(own, [*other[:5], other[5].mT, other[6]])
    with pytest.raises(ValueError, match="no parameter counts"):
        gradient_distance(own[1:3], other[1:3])
    with pytest.raises(ValueError, match=r"no parameter counts .* leading axis"):
        conv_gradient_distance(own, other, classes=True)
