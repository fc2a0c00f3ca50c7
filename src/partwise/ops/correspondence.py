"""Finding the place in one picture that belongs to a place in another, by the embeddings of a dense map.

Points are `(x, y)` and distances in sides of the picture; a map's cells divide it evenly, and a cell stands for its centre.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

CELLS = 32
"""Cells a side of the grid that places are found on; coarser maps are resized to it, between centres."""


def sample_map(maps: Float[Tensor, "b d h w"], points: Float[Tensor, "b l 2"]) -> Float[Tensor, "b l d"]:
    """The map's values at points, bilinear between the centres of its cells; beyond the outermost centres those of the edge."""
    grid = points.to(maps)[:, :, None] * 2 - 1
    sampled = F.grid_sample(maps, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled[..., 0].transpose(1, 2)


def match(queries: Float[Tensor, "q d"], map: Float[Tensor, "d h w"], *, cells: int = CELLS) -> Float[Tensor, "q 2"]:
    """For every query the centre of the cell with the highest cosine, the first of equal ones in reading order.

    A map of fewer than `cells` a side is resized first.
    """
    height, width = max(cells, map.shape[-2]), max(cells, map.shape[-1])
    if map.shape[-2:] != (height, width):
        map = F.interpolate(map[None], size=(height, width), mode="bilinear", align_corners=False)[0]
    best = (F.normalize(queries, dim=1) @ F.normalize(map, dim=0).flatten(1)).argmax(1)
    x = (best % width + 0.5) / width
    y = (best.div(width, rounding_mode="floor") + 0.5) / height
    return torch.stack([x, y], dim=1)


def distances(found: Float[Tensor, "*n 2"], true: Float[Tensor, "*n 2"]) -> Float[Tensor, "*n"]:
    """Euclidean distances in sides of the picture; NaN where a point is."""
    length: Tensor = torch.linalg.vector_norm(found.double() - true.double(), dim=-1)
    return length


def share_within(errors: Float[Tensor, "*n"], reach: float) -> Float[Tensor, ""]:
    """The percentage of correct keypoints as a share: errors of at most `reach`, NaN left out."""
    known = ~errors.isnan()
    return ((errors <= reach) & known).sum() / known.sum().double()


def mean_shape(points: Float[Tensor, "n l 2"], groups: Int64[Tensor, " n"]) -> Float[Tensor, "n l 2"]:
    """What position alone says: for every picture the mean of each landmark over the pictures of all other groups.

    Float64; NaN where no other group has the landmark.
    """
    known = ~points.isnan().any(-1, keepdim=True)
    values = torch.where(known, points.double(), 0.0)
    _, group = groups.unique(return_inverse=True)
    num = int(group.max()) + 1 if len(group) else 0

    def strangers(own: Tensor) -> Tensor:
        return own.sum(0) - own.new_zeros(num, *own.shape[1:]).index_add_(0, group, own)[group]

    count = strangers(known.double())
    return torch.where(count > 0, strangers(values) / count.clamp(min=1), math.nan)
