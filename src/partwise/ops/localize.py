"""Map -> box and map -> mask: the threshold rules of CutMix (section 4.2) and of MaxBoxAcc (Choe et al. 2020).

Maps come in the frame in which the boxes are wanted (see cam.upsample). Boxes follow boxes.py; under
`convention="wsol"` they are those of MaxBoxAcc's reference code: 8-bit maps, the region of the largest contour area
instead of the most pixels, and a second corner that is one beyond the region's last pixel, except at the right and
lower border. That code also counts the outlines of holes as regions and fills holes before it compares areas; here only
outer outlines count, and holes are taken off.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from partwise.ops.boxes import Convention
from partwise.ops.components import Components, components


def threshold_grid(step: float) -> Float[Tensor, " t"]:
    """0, step, 2 step, ... below 1. Raises ValueError for a step outside (0, 0.5]."""
    if not 0 < step <= 0.5:
        raise ValueError(f"threshold step {step}: expected a share above 0, at most 0.5")
    return torch.from_numpy(np.arange(round(1 / step)) * step).float()


def grid_components(
    scores: Float[Tensor, "b h w"], thresholds: Float[Tensor, " t"], *, convention: Convention = "continuous"
) -> Components:
    """Regions of `score > threshold` for maps scaled to [0, 1] (cam.normalise).

    Raises ValueError for maps outside [0, 1] or not finite.
    """
    if not ((scores >= 0) & (scores <= 1)).all():  # NaN compares as false
        raise ValueError("scores must lie in [0, 1] and be finite; scale maps with cam.normalise first")
    if convention == "continuous":
        return components(scores, thresholds)
    _, height, width = scores.shape
    eight_bit, steps = (scores * 255).floor(), (thresholds.double() * 255).floor().float()
    found = components(eight_bit, steps, size="contour")
    return replace(found, boxes=_reference_corners(found.boxes, height, width))


def _reference_corners(found: Float[Tensor, "*n 4"], height: int, width: int) -> Float[Tensor, "*n 4"]:
    """The second corner kept inside the picture, as a pixel that belongs to the box."""
    return torch.minimum(found, found.new_tensor([width, height, width - 1, height - 1]))


def largest_boxes(
    found: Components, num_maps: int, num_thresholds: int, *, convention: Convention = "continuous"
) -> Float[Tensor, "b t 4"]:
    """The box of the largest region of every map at every threshold, `(0, 0, 0, 0)` where there is none.

    Of equally large ones the first in reading order counts; under "wsol" the last.
    """
    place = found.picture * num_thresholds + found.threshold
    order = np.arange(len(place)) * (-1 if convention == "wsol" else 1)
    keys = (order, -found.size.numpy(), place.numpy())
    ranked = torch.from_numpy(np.lexsort(keys))
    first = torch.ones(len(ranked), dtype=torch.bool)
    first[1:] = place[ranked][1:] != place[ranked][:-1]
    chosen = ranked[first]
    boxes = torch.zeros(num_maps * num_thresholds, 4)
    boxes[place[chosen]] = found.boxes[chosen]
    return boxes.reshape(num_maps, num_thresholds, 4)


def relative_boxes(
    maps: Float[Tensor, "b h w"], *, sigma: float = 0.15, convention: Convention = "continuous"
) -> Float[Tensor, "b 4"]:
    """The tightest box of the largest region of `map > sigma * max(map)`, for raw maps: CutMix's rule, sigma 0.15.

    A map without a positive value has no foreground and gives `(0, 0, 0, 0)`.
    """
    count, height, width = maps.shape
    found = components(maps, sigma * maps.flatten(1).amax(dim=1, keepdim=True))
    boxes = largest_boxes(found, count, 1)[:, 0]
    return _reference_corners(boxes, height, width) if convention == "wsol" else boxes


def class_masks(
    scores: Float[Tensor, "b k h w"], *, threshold: float, present: Bool[Tensor, "b k"] | None = None
) -> UInt8[Tensor, "b h w"]:
    """0 where no class's score is above the threshold, else k + 1 of the highest class k.

    `present` admits only some classes of each picture, such as its labels.
    """
    assert scores.shape[1] < 255, "255 is the void value of a mask"
    admitted = scores if present is None else scores.masked_fill(~present[:, :, None, None], -torch.inf)
    best, which = admitted.max(dim=1)
    return torch.where(best > threshold, which + 1, 0).to(torch.uint8)
