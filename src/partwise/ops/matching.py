"""The distances that dataset distillation makes small: between gradients (DC, DSA, IDC) and between mean features (DM).

Every one can answer for C classes at once and then returns one value a class; the sum over classes is the published
loss. Gradients come as lists, one tensor a parameter in the network's order, from `per_class.class_gradients` or
`torch.autograd.grad`; with `classes=True` each has a leading axis of classes. Nothing is detached here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

GradientKind = Literal["dc", "mse", "cos"]
ConvKind = Literal["mse", "l1"]

EPSILON = 1e-6
"""Added to the product of the two norms, as DC's code does."""


def row_distances(rows: Float[Tensor, "*c out k"], others: Float[Tensor, "*c out k"]) -> Float[Tensor, "*c out"]:
    """`1 - <a, b> / (|a| |b| + 1e-6)` for each row; a row of zeros is at distance 1 from everything."""
    norms: Tensor = torch.linalg.vector_norm(rows, dim=-1) * torch.linalg.vector_norm(others, dim=-1)
    return 1 - (rows * others).sum(-1) / (norms + EPSILON)


def weight_rows(
    gradients: Sequence[Tensor], others: Sequence[Tensor], *, classes: bool
) -> list[tuple[Float[Tensor, "*c out k"], Float[Tensor, "*c out k"]]]:
    """Both gradients of every weight as one row an output channel; biases and norms, which have one axis, are left out.

    Raises ValueError for lists that do not belong together and where nothing is left.
    """
    first = 1 + int(classes)
    return [
        (own.flatten(first), other.flatten(first))
        for own, other in _pairs(gradients, others, classes=classes, axes=range(2, 6))
    ]


def gradient_distance(
    synthetic: Sequence[Tensor], real: Sequence[Tensor], *, kind: GradientKind = "dc", classes: bool = False
) -> Float[Tensor, " *c"]:
    """The distance between two gradients of a network: a scalar, or one value for each of C classes.

    `"dc"` (Zhao et al. 2021, the code's): the sum of `row_distances` over the output channels of every weight; biases and
    norms count nothing. `"mse"` sums the squared differences over all parameters, `"cos"` is 1 - cos of all
    parameters as one vector. Raises ValueError for an unknown kind and for lists that do not belong together.
    """
    _check_kind(kind, get_args(GradientKind))
    if kind == "dc":
        rows = weight_rows(synthetic, real, classes=classes)
        return torch.stack([row_distances(own, other).sum(-1) for own, other in rows]).sum(0)
    pairs = _pairs(synthetic, real, classes=classes, axes=range(6))
    first = int(classes)
    own, other = (torch.cat([pair[side].flatten(first) for pair in pairs], dim=-1) for side in (0, 1))
    return row_distances(own, other) if kind == "cos" else (own - other).square().sum(-1)


def conv_gradient_distance(
    synthetic: Sequence[Tensor], real: Sequence[Tensor], *, kind: ConvKind = "mse", classes: bool = False
) -> Float[Tensor, " *c"]:
    """IDC's distance (Kim et al. 2022, the code's): over convolution weights alone, summed squares or absolute values.

    Linear layers, biases and norms count nothing. A scalar, or one value for each of C classes. Raises ValueError as
    `gradient_distance`, and for networks without a convolution.
    """
    _check_kind(kind, get_args(ConvKind))
    pairs = _pairs(synthetic, real, classes=classes, axes=range(4, 5))
    first = int(classes)
    differences = [(own - other).flatten(first) for own, other in pairs]
    measured = [d.square() if kind == "mse" else d.abs() for d in differences]
    return torch.stack([values.sum(-1) for values in measured]).sum(0)


def mean_feature_distance(synthetic: Float[Tensor, "*c n d"], real: Float[Tensor, "*c m d"]) -> Float[Tensor, " *c"]:
    """DM's distance (Zhao and Bilen 2023): the squared distance between the mean features of two sets of pictures."""
    return (synthetic.mean(-2) - real.mean(-2)).square().sum(-1)


def _check_kind(kind: str, kinds: Sequence[str]) -> None:
    """Raises ValueError for a kind of distance that is none."""
    if kind not in kinds:
        raise ValueError(f"distance {kind!r}: expected one of {', '.join(kinds)}")


def _pairs(
    gradients: Sequence[Tensor], others: Sequence[Tensor], *, classes: bool, axes: range
) -> list[tuple[Tensor, Tensor]]:
    """The gradients of those parameters whose number of axes, classes aside, is in `axes`, side by side."""
    if len(gradients) != len(others):
        raise ValueError(f"gradients of {len(gradients)} and of {len(others)} parameters: not those of one network")
    for number, (own, other) in enumerate(zip(gradients, others, strict=True)):
        if own.shape != other.shape:
            shapes = f"{tuple(own.shape)} and {tuple(other.shape)}"
            raise ValueError(f"gradients of parameter {number} have shapes {shapes}: not those of one network")
    chosen = [(own, other) for own, other in zip(gradients, others, strict=True) if own.ndim - int(classes) in axes]
    if not chosen:
        raise ValueError("no parameter counts in this distance" + (" (is there a leading axis of classes?)" * classes))
    return chosen
