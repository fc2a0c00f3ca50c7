"""Average precision: exactly from scores, and from histograms that can be added up over pictures.

The area is the step sum over recall, `sum_k (R_k - R_{k-1}) P_k`, equal scores counted together; no interpolation.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

VOID = 255


def average_precision(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """Area under precision-recall of one ranking. Raises ValueError where nothing is positive."""
    order = scores.argsort(descending=True)
    ranked, hits = scores[order], positive[order].double()
    last = torch.ones(len(ranked), dtype=torch.bool)
    last[:-1] = ranked[1:] != ranked[:-1]
    found, taken = hits.cumsum(0)[last], torch.arange(1, len(ranked) + 1, dtype=torch.float64)[last]
    return _area(found, taken)


def _area(found: Float[Tensor, " n"], taken: Float[Tensor, " n"]) -> float:
    """The step sum for falling thresholds: true ones `found` among `taken` in all, both cumulated."""
    if len(found) == 0 or found[-1] == 0:
        raise ValueError("average precision needs at least one positive")
    gained = found.diff(prepend=found.new_zeros(1))
    return float((gained * found / taken.clamp(min=1)).sum() / found[-1])


def score_histograms(
    scores: Float[Tensor, "b h w"], masks: UInt8[Tensor, "b h w"], *, bins: int
) -> Int[Tensor, "b two bins_and_one"]:
    """Pixels by score in [0, 1], per picture: `[:, 0]` where the mask is 0, `[:, 1]` the others, void left out.

    Bin k holds k / bins <= score < (k + 1) / bins; a score of 1 has a bin of its own.
    """
    count = scores.shape[0]
    positive = (masks != 0).long()
    column = (scores * bins).long().clamp(0, bins)
    row = torch.arange(count, device=scores.device)[:, None, None] * 2 + positive
    kept = masks != VOID
    flat = (row * (bins + 1) + column)[kept]
    return torch.bincount(flat, minlength=count * 2 * (bins + 1)).reshape(count, 2, bins + 1).int()


def histogram_precision(negative: Int[Tensor, " bins"], positive: Int[Tensor, " bins"]) -> float:
    """Average precision of counts by rising score: PxAP for a sum of `score_histograms`.

    Raises ValueError where nothing is positive.
    """
    found = positive.double().flip(0).cumsum(0)
    return _area(found, found + negative.double().flip(0).cumsum(0))
