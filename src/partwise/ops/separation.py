"""How well one score tells two kinds of rows apart: areas under curves, and rates at a threshold. Exact, ties counted once.

Higher scores speak for the first kind, the inside ones. Each distinct score is a threshold: at least it is inside.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from partwise.ops.precision import average_precision

RATE = 0.95


class Separation(NamedTuple):
    """What is said of a score. `aupr_in` takes the inside rows as positive, `aupr_out` the others."""

    auroc: float
    aupr_in: float
    aupr_out: float
    tnr95: float
    fpr95: float
    detection_accuracy: float


def separation(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"]) -> Separation:
    """All of `Separation` for scores of inside and outside rows. Raises ValueError where one kind has none.

    `tnr95`: share of outside rows below the threshold at which the share of inside rows at or above it is nearest to
    0.95, the larger share of two as near. `detection_accuracy`: the best (TPR + TNR) / 2 over all thresholds.
    """
    if len(inside) == 0 or len(outside) == 0:
        raise ValueError(f"separation: {len(inside)} inside and {len(outside)} outside rows; expected some of each")
    scores = torch.cat((inside, outside)).double()
    positive = torch.arange(len(scores)) < len(inside)
    thresholds = scores.unique()  # rising
    ordered_in, ordered_out = inside.double().sort().values, outside.double().sort().values
    kept = 1 - torch.searchsorted(ordered_in, thresholds).double() / len(inside)
    refused = torch.searchsorted(ordered_out, thresholds).double() / len(outside)
    off = (kept - RATE).abs()
    near = (off - off.min()).abs() < 1e-9
    at = near & (kept == kept[near].max())  # of thresholds that keep as many, the one that refuses most
    best = max(float(((kept + refused) / 2).max()), 0.5)
    tnr = float(refused[at].max())
    return Separation(
        auroc=auroc(inside, outside),
        aupr_in=average_precision(scores, positive),
        aupr_out=average_precision(-scores, ~positive),
        tnr95=tnr,
        fpr95=1 - tnr,
        detection_accuracy=best,
    )


def auroc(inside: Float[Tensor, " n"], outside: Float[Tensor, " m"]) -> float:
    """The share of pairs in which the inside row has the higher score, equal scores counting half."""
    ordered, asked = outside.double().sort().values, inside.double()
    below = torch.searchsorted(ordered, asked).double()
    equal_or_below = torch.searchsorted(ordered, asked, right=True).double()
    return float((below + equal_or_below).mean() / (2 * len(outside)))
