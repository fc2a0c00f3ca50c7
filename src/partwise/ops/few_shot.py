"""Organs from a few pictures: areas out of masks, the Dice coefficient, and what can be said without any network.

Two rivals of every encoder: the mean mask of the few pictures, and an atlas, their masks moved onto each new picture. Both give
votes in [0, 1], cut at the threshold that would have been best among the few pictures themselves, each left out in turn.
Areas are `(n, V, h, w)`, one map an organ, which may overlap; pictures are grey, small and square.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from partwise.ops.part_whole_probes import cut

VOID = 255
SHIFTS = tuple(k / 32 for k in range(-5, 6))
"""Shifts of the atlas that are tried along both axes, in sides of the picture."""
SCALES = (0.85, 0.9, 0.95, 1.0, 1.05, 1.1, 1.15)
THRESHOLDS = tuple(k / 20 for k in range(1, 20))


def organ_areas(
    masks: UInt8[Tensor, "n h w"], num_organs: int, covered: UInt8[Tensor, "n h w"] | None = None
) -> Bool[Tensor, "n v h w"]:
    """Where each organ is: organ k where the mask, or the map of what it covers, holds k + 1."""
    values = torch.arange(1, num_organs + 1, dtype=torch.uint8, device=masks.device)[:, None, None]
    areas = masks[:, None] == values
    return areas if covered is None else areas | (covered[:, None] == values)


def dice(
    found: Bool[Tensor, "n v h w"], true: Bool[Tensor, "n v h w"], counted: Bool[Tensor, "n h w"] | None = None
) -> Float[Tensor, "n v"]:
    """2 |A and B| / (|A| + |B|) over the counted pixels of each picture, float64; NaN where both are empty."""
    if counted is not None:
        found, true = found & counted[:, None], true & counted[:, None]
    both = (found & true).sum((2, 3)).double()
    sizes = found.sum((2, 3)).double() + true.sum((2, 3)).double()
    return torch.where(sizes > 0, 2 * both / sizes.clamp(min=1), math.nan)


def best_thresholds(votes: Float[Tensor, "n v h w"], areas: Bool[Tensor, "n v h w"]) -> Float[Tensor, " v"]:
    """For each organ the one of THRESHOLDS above which votes have the best mean Dice; the middle of equally good ones."""
    scores = torch.stack([dice(votes > t, areas).nanmean(0).nan_to_num(nan=0.0) for t in THRESHOLDS])
    best = scores >= scores.amax(0) - 1e-9
    grid = torch.tensor(THRESHOLDS, dtype=torch.float64, device=votes.device)[:, None]
    return (grid * best).sum(0) / best.sum(0)


def mean_masks(areas: Float[Tensor, "n v h w"]) -> tuple[Float[Tensor, "v h w"], Float[Tensor, " v"]]:
    """The mean of the areas of n pictures, and where to cut it: the threshold at which the mean of the others fits each best.

    A single picture is cut in the middle.
    """
    count = len(areas)
    if count < 2:
        return areas.mean(0), torch.full((areas.shape[1],), 0.5, dtype=torch.float64)
    others = (areas.sum(0) - areas) / (count - 1)
    return areas.mean(0), best_thresholds(others, areas > 0.5)


def register(targets: Float[Tensor, "m s s"], atlases: Float[Tensor, "n s s"]) -> Float[Tensor, "m n 4"]:
    """For every target and atlas the window of the atlas that looks most like the target, in sides of the picture.

    That is the atlas moved by one of SHIFTS each way and made larger by one of SCALES, with the highest normalised cross
    correlation of the pixels: translation and scale, all tried. Chests stand upright, so that little is left to rotation.
    """
    windows, pixels = _candidates().to(atlases), _standardised(targets.flatten(1))
    found = []
    for atlas in atlases:  # one after the other: all windows of all atlases would fill the memory
        warped = cut(atlas[None, None], windows, len(atlas))[0, :, 0]
        found.append(windows[(pixels @ _standardised(warped.flatten(1)).T).argmax(1)])
    return torch.stack(found, dim=1)


def _candidates() -> Tensor:
    """The windows of all shifts and scales; the plain one first, so that it counts where nothing is better."""
    grid = torch.cartesian_prod(torch.tensor(SCALES), torch.tensor(SHIFTS), torch.tensor(SHIFTS))
    grid = grid[((grid[:, 0] - 1).abs() + grid[:, 1:].abs().sum(1)).argsort(stable=True)]
    scale, shift = grid[:, :1], grid[:, 1:]
    centre = 0.5 - shift / scale
    return torch.cat([centre - 0.5 / scale, centre + 0.5 / scale], dim=1)


def _standardised(pixels: Tensor) -> Tensor:
    centred = pixels - pixels.mean(-1, keepdim=True)
    return F.normalize(centred, dim=-1)


def atlas_votes(
    windows: Float[Tensor, "m n 4"], areas: Float[Tensor, "n v h h"], *, leave_out: Int64[Tensor, " m"] | None = None
) -> Float[Tensor, "m v h h"]:
    """The mean of the areas of n atlases, each moved onto m targets by the windows that `register` gives.

    `leave_out` names an atlas that a target does without.
    """
    total = areas.new_zeros(len(windows), *areas.shape[1:])
    count = areas.new_zeros(len(windows))
    for number in range(len(areas)):
        own = torch.arange(len(windows)) if leave_out is None else (leave_out != number).nonzero()[:, 0]
        total[own] += cut(areas[number : number + 1], windows[own, number], areas.shape[-1])[0]
        count[own] += 1
    return total / count.clamp(min=1)[:, None, None, None]


def registered_atlas(
    windows: Float[Tensor, "m n 4"], among: Float[Tensor, "n n 4"], areas: Float[Tensor, "n v h h"]
) -> tuple[Float[Tensor, "m v h h"], Float[Tensor, " v"]]:
    """Votes for every target, and where to cut them: the threshold at which the other atlases fit each atlas best.

    `windows` move atlases onto targets, `among` onto one another. A single atlas is cut in the middle.
    """
    votes = atlas_votes(windows, areas)
    if len(areas) < 2:
        return votes, torch.full((areas.shape[1],), 0.5, dtype=torch.float64)
    others = atlas_votes(among, areas, leave_out=torch.arange(len(areas)))
    return votes, best_thresholds(others, areas > 0.5)
