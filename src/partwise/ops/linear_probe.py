"""What a linear layer can read off frozen embeddings: logistic regression, solved to the end, its decay chosen by patients.

The loss is the mean cross entropy (of several labels a picture: the mean of their binary ones) plus decay / 2 |W|^2 over
embeddings brought to mean 0 and deviation 1. It is convex, so there is no learning rate and no seed; L-BFGS finds the minimum.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from partwise.ops import draws

DECAYS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
FOLDS = 3
ITERATIONS = 100


@dataclass(frozen=True)
class LinearProbe:
    """logits = weight (x - mean) / scale + bias."""

    mean: Tensor
    scale: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, embeddings: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
        return F.linear((embeddings.double() - self.mean) / self.scale, self.weight, self.bias)


def fit_linear(
    embeddings: Float[Tensor, "n d"],
    targets: Int64[Tensor, " n"] | Float[Tensor, "n c"],
    num_classes: int,
    *,
    decay: float,
) -> LinearProbe:
    """The probe with the least loss, in float64; `targets` are class indices, or zeros and ones for several labels."""
    wide = embeddings.double()
    mean, scale = wide.mean(0), wide.std(0, correction=0)
    scale = torch.where(
        scale > 1e-6 * mean.abs().clamp(min=1e-6), scale, 1.0
    )  # what is constant but for rounding says nothing
    with torch.inference_mode(False), torch.enable_grad():
        x, y = ((wide - mean) / scale).clone(), targets.clone()
        # The decay leaves nothing outside the span of the embeddings; with few of them that is a smaller problem.
        basis = torch.linalg.qr(x.T).Q if len(x) < x.shape[1] else None
        x = x if basis is None else x @ basis
        weight = x.new_zeros(num_classes, x.shape[1]).requires_grad_()
        bias = x.new_zeros(num_classes).requires_grad_()
        solver = torch.optim.LBFGS([weight, bias], max_iter=ITERATIONS, history_size=20, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            solver.zero_grad()
            value = _error(F.linear(x, weight, bias), y) + decay / 2 * weight.square().sum()
            value.backward()
            return value

        solver.step(loss)
    found = weight.detach()
    return LinearProbe(mean, scale, found if basis is None else found @ basis.T, bias.detach())


def choose_decay(
    embeddings: Float[Tensor, "n d"],
    targets: Int64[Tensor, " n"] | Float[Tensor, "n c"],
    num_classes: int,
    groups: Int64[Tensor, " n"],
    *,
    decays: Sequence[float] = DECAYS,
) -> float:
    """The decay with the least error on held-out groups, over FOLDS folds; the largest of equal ones, and with one group.

    The folds are a fixed function of the groups' order.
    """
    _, group = groups.unique(return_inverse=True)
    num = int(group.max()) + 1
    if num < 2:
        return max(decays)
    fold = (draws.order(num, 0, "linear probe") % min(FOLDS, num)).to(group.device)[group]
    totals = {}
    for decay in sorted(decays, reverse=True):
        total = 0.0
        for out in range(min(FOLDS, num)):
            own = fold != out
            probe = fit_linear(embeddings[own], targets[own], num_classes, decay=decay)
            total += float(_error(probe(embeddings[~own]), targets[~own])) * int((~own).sum())
        totals[decay] = total
    return min(totals, key=lambda decay: totals[decay])


def _error(logits: Tensor, targets: Tensor) -> Tensor:
    if targets.ndim == 1:
        return F.cross_entropy(logits, targets)
    return F.binary_cross_entropy_with_logits(logits, targets.to(logits))
