"""Nearest neighbours by cosine: classification of embeddings by the weighted vote of a bank, and retrieval.

The vote is that of DINO (Caron et al., 2021): the k nearest count with exp(cosine / T). `groups` (patients) keep apart what
belongs together: a neighbour never comes from the query's own. Distances at the same place of maps are anomaly.py's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

NEIGHBOURS = 20
TEMPERATURE = 0.07
CHUNK = 1024
"""Queries that are compared with the whole bank at once."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest of every query, most alike first: `cosines` `(q, k)` and their `places` int64 `(q, k)` in the bank.

    Where fewer than k come from other groups, the rest have a cosine of -inf.
    """

    cosines: Tensor
    places: Tensor


def find_neighbours(
    queries: Float[Tensor, "q d"],
    bank: Float[Tensor, "n d"],
    *,
    k: int = NEIGHBOURS,
    groups: tuple[Int64[Tensor, " q"], Int64[Tensor, " n"]] | None = None,
) -> Neighbours:
    """The k nearest of the bank by cosine, or all where it is smaller; of equal ones those that stand first.

    `groups` of queries and bank: members of the query's own are passed over. Raises ValueError for an empty bank.
    """
    if len(bank) == 0:
        raise ValueError("neighbours: the bank is empty")
    first, second = F.normalize(queries.float(), dim=1), F.normalize(bank.float(), dim=1)
    k = min(k, len(bank))
    found = []
    for start in range(0, len(queries), CHUNK):
        rows = slice(start, start + CHUNK)
        cosines = first[rows] @ second.T
        if groups is not None:
            cosines.masked_fill_(groups[0][rows, None] == groups[1], -math.inf)
        found.append(_highest(cosines, k))
    if not found:
        return Neighbours(queries.new_empty(0, k), torch.empty(0, k, dtype=torch.int64, device=queries.device))
    return Neighbours(*(torch.cat(each) for each in zip(*found, strict=True)))


def _highest(cosines: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k highest of every row and their places; topk alone may choose any of equal ones."""
    values, places = cosines.topk(k, dim=1)
    tied = ((cosines >= values[:, -1:]).sum(1) > k) | (values[:, 1:] == values[:, :-1]).any(1)
    rows = tied.nonzero()[:, 0]
    if len(rows):
        ordered, order = cosines[rows].sort(dim=1, descending=True, stable=True)
        values[rows], places[rows] = ordered[:, :k], order[:, :k]
    return values, places


def vote(
    found: Neighbours,
    labels: Int64[Tensor, " n"] | Float[Tensor, "n c"],
    num_classes: int,
    *,
    temperature: float = TEMPERATURE,
) -> Float[Tensor, "q c"]:
    """The share of the neighbours' weight that each class has, float64; `labels` of the bank, indices or zeros and ones.

    The weights are exp(cosine / temperature) over their sum. A query without a neighbour gives 0 for every class.
    """
    logits = found.cosines.double() / temperature
    # Not a softmax: that of -inf alone is NaN.
    weights = (logits - logits.amax(1, keepdim=True).clamp(min=-1e9)).exp()
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-300)
    shown = F.one_hot(labels, num_classes) if labels.ndim == 1 else labels
    return torch.einsum("qk,qkc->qc", weights, shown.to(weights)[found.places])


def recall_at(
    queries: Float[Tensor, "n d"], labels: Int64[Tensor, " n"], groups: Int64[Tensor, " n"], *, ks: Sequence[int]
) -> Float[Tensor, "n ks"]:
    """Retrieval among other groups: whether one of the first k has the query's label, 0 or 1 in float64, for every k.

    NaN for queries whose label no other group has.
    """
    found = find_neighbours(queries, queries, k=max(ks), groups=(groups, groups))
    right = (labels[found.places] == labels[:, None]) & found.cosines.isfinite()
    hits = torch.stack([right[:, :k].any(1) for k in ks], dim=1).double()
    pairs = torch.stack([labels, groups], dim=1).unique(dim=0)
    seen_in = torch.bincount(pairs[:, 0], minlength=int(labels.max()) + 1 if len(labels) else 0)
    return hits.masked_fill((seen_in[labels] < 2)[:, None], math.nan)
