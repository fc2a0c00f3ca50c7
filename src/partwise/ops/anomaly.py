"""What looks otherwise than in the healthy: distances to a bank of the same place, scores of pictures, their ranking."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

TOP = 0.01
"""Share of a picture's cells whose mean is its second score."""
CHUNK = 64
"""Pictures that are compared with the whole bank at once."""


def place_distances(maps: Float[Tensor, "b d h w"], bank: Float[Tensor, "n d h w"]) -> Float[Tensor, "b h w"]:
    """1 - the highest cosine of each cell with the same cell of a bank of normal pictures.

    Raises ValueError where the bank is empty or its maps are others than these.
    """
    if len(bank) == 0 or bank.shape[1:] != maps.shape[1:]:
        raise ValueError(f"maps {tuple(maps.shape)} and a bank {tuple(bank.shape)}: expected maps of one size, not 0")
    known = F.normalize(bank.float(), dim=1).flatten(2).permute(2, 1, 0)
    found = []
    for part in maps.split(CHUNK):
        own = F.normalize(part.float(), dim=1).flatten(2).permute(2, 0, 1)
        found.append((1 - (own @ known).amax(2)).T.unflatten(1, tuple(maps.shape[-2:])))
    return torch.cat(found)


def picture_scores(distances: Float[Tensor, "b h w"]) -> tuple[Float[Tensor, " b"], Float[Tensor, " b"]]:
    """The largest distance of each picture, and the mean of its largest 1 %, at least one cell."""
    cells = distances.flatten(1)
    top = cells.topk(max(1, math.ceil(TOP * cells.shape[1])), dim=1).values
    return top[:, 0], top.mean(1)


def auroc(scores: Float[Tensor, " n"], positive: Bool[Tensor, " n"]) -> float:
    """The area under the ROC curve: how likely a positive scores above a negative one, equal scores counting a half.

    Computed from ranks (Mann and Whitney). Raises ValueError where there is no positive or no negative.
    """
    count = int(positive.sum())
    if not 0 < count < len(positive):
        raise ValueError(f"auroc: {count} of {len(positive)} are positive; expected some of both")
    _, place, sizes = scores.double().unique(return_inverse=True, return_counts=True)
    last = sizes.cumsum(0).double()
    ranks = (last - (sizes - 1) / 2)[place]
    above = ranks[positive].sum() - count * (count + 1) / 2
    return float(above / (count * (len(positive) - count)))
