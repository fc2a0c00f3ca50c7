"""Organs from the frozen maps of an encoder by one linear layer, fitted to few pictures with L-BFGS.

The layer is a 1x1 convolution on all stages, each resized to the size of the masks and side by side. Resizing bilinearly and a
1x1 convolution can change places, so each stage is convolved at its own size and its scores are resized: the same numbers for
a fraction of the work. Channels are brought to mean 0 and deviation 1 over the few pictures.

    loss = mean binary cross entropy + 1 - mean over organs of soft Dice + decay / 2 |W|^2
    soft Dice = (2 sum p g + 1) / (sum p + sum g + 1), over all pictures together
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from partwise.ops.cam import upsample

DECAY = 1e-3
ITERATIONS = 60


@dataclass(frozen=True)
class LinearDecoder:
    """Scores of V organs: the sum over stages of `weights` `(V, C)` times the maps, plus `bias` `(V,)`; above 0 is organ."""

    weights: tuple[Tensor, ...]
    bias: Tensor

    def __call__(self, stages: Sequence[Float[Tensor, "n c h w"]], size: tuple[int, int]) -> Float[Tensor, "n v oh ow"]:
        """Scores at `size` (height, width)."""
        return linear_scores(stages, self.weights, size) + self.bias[:, None, None]


def linear_scores(stages: Sequence[Tensor], weights: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """The sum over stages of 1x1 convolutions, each resized to `size`."""
    scores = [
        upsample(F.conv2d(maps, weight[:, :, None, None]), size) for maps, weight in zip(stages, weights, strict=True)
    ]
    return torch.stack(scores).sum(0)


def fit_decoder(
    stages: Sequence[Float[Tensor, "n c h w"]],
    areas: Float[Tensor, "n v h w"],
    counted: Float[Tensor, "n h w"] | None = None,
    *,
    decay: float = DECAY,
    iterations: int = ITERATIONS,
) -> LinearDecoder:
    """The decoder with the least loss on n pictures; `areas` in [0, 1], `counted` the share of each pixel that counts.

    Starts from zero and draws nothing, so that the same pictures give the same decoder.
    """
    with torch.inference_mode(False), torch.enable_grad():
        means = [maps.float().mean((0, 2, 3), keepdim=True) for maps in stages]
        scales = [
            1 / maps.float().std((0, 2, 3), correction=0, keepdim=True).clamp(min=1e-6 + 1e-5 * mean.abs())
            for maps, mean in zip(stages, means, strict=True)
        ]
        inputs = [(maps.float() - mean) * scale for maps, mean, scale in zip(stages, means, scales, strict=True)]
        areas, counted = areas.clone(), None if counted is None else counted.clone()
        size = (areas.shape[-2], areas.shape[-1])
        weights = [
            torch.zeros(areas.shape[1], maps.shape[1], device=maps.device, requires_grad=True) for maps in inputs
        ]
        bias = torch.zeros(areas.shape[1], device=areas.device, requires_grad=True)
        solver = torch.optim.LBFGS(
            [*weights, bias], max_iter=iterations, history_size=10, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            solver.zero_grad()
            scores = linear_scores(inputs, weights, size) + bias[:, None, None]
            value = segmentation_loss(scores, areas, counted)
            value = value + decay / 2 * torch.stack([weight.square().sum() for weight in weights]).sum()
            value.backward()
            return value

        solver.step(loss)
    found = [weight.detach() * scale[0, :, 0, 0] for weight, scale in zip(weights, scales, strict=True)]
    shift = torch.stack([w @ mean[0, :, 0, 0] for w, mean in zip(found, means, strict=True)]).sum(0)
    return LinearDecoder(tuple(found), bias.detach() - shift)


def segmentation_loss(
    scores: Float[Tensor, "n v h w"], areas: Float[Tensor, "n v h w"], counted: Float[Tensor, "n h w"] | None = None
) -> Float[Tensor, ""]:
    """Mean binary cross entropy plus 1 - soft Dice, over the pixels that count."""
    share = torch.ones_like(scores) if counted is None else counted[:, None].expand_as(scores)
    cross = (F.binary_cross_entropy_with_logits(scores, areas, reduction="none") * share).sum()
    p, g = scores.sigmoid() * share, areas * share
    both, sizes = (p * g).sum((0, 2, 3)), (p + g).sum((0, 2, 3))
    return cross / share.sum().clamp(min=1) + 1 - ((2 * both + 1) / (sizes + 1)).mean()
