"""Organs from few pictures with the encoder fine-tuned too: what transfer does, where fewshot.py asks what is already there.

Not a suite: a suite never changes the model that it measures. Starts from the linear layer on the frozen encoder, so that the
first steps do not destroy what the encoder knows.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from partwise.ops import draws
from partwise.ops.linear_decoder import fit_decoder, linear_scores, segmentation_loss

STEPS = 200
BATCH = 6
RATE, LAYER_RATE = 1e-4, 1e-3
DECAY = 1e-4


class TunedSegmenter(nn.Module):
    """An encoder of its own with a linear layer on all stages: pictures `(B, C, H, W)` in [0, 1] -> scores `(B, V, H, W)`."""

    def __init__(self, encoder: nn.Module, weights: Sequence[Tensor], bias: Tensor) -> None:
        super().__init__()
        self.encoder: Any = encoder
        self.weights = nn.ParameterList([nn.Parameter(weight.clone()) for weight in weights])
        self.bias = nn.Parameter(bias.clone())

    def forward(self, images: Tensor) -> Tensor:
        size = (images.shape[-2], images.shape[-1])
        return linear_scores(self.encoder.stage_maps(images), list(self.weights), size) + self.bias[:, None, None]


def fine_tune(
    encoder: nn.Module,
    images: Tensor,
    areas: Tensor,
    counted: Tensor | None = None,
    *,
    steps: int = STEPS,
    seed: int = 0,
) -> TunedSegmenter:
    """A copy of an encoder (with `stages`), fitted to n pictures with their areas `(n, V, H, W)` at the pictures' size.

    AdamW at RATE, the linear layer at LAYER_RATE, both falling to zero by half a cosine; norms keep the statistics that they
    have. `counted` `(n, H, W)`: the pixels that count. In evaluation mode; `encoder` stays as it is.
    """
    own: Any = copy.deepcopy(encoder).eval()
    with torch.no_grad():
        stages = [maps.float() for maps in own.stage_maps(images)]
    start = fit_decoder(stages, areas.float(), None if counted is None else counted.float())
    network = TunedSegmenter(own, start.weights, start.bias).eval()
    own.requires_grad_(True)
    groups = [
        {"params": list(own.parameters()), "lr": RATE},
        {"params": [*network.weights, network.bias], "lr": LAYER_RATE},
    ]
    solver = torch.optim.AdamW(groups, weight_decay=DECAY)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(solver, max(steps, 1))
    size = min(BATCH, len(images))
    with torch.enable_grad():
        for step in range(steps):
            rows = draws.order(len(images), seed, "fine-tune", step)[:size].to(images.device)
            share = None if counted is None else counted[rows].float()
            loss = segmentation_loss(network(images[rows]).float(), areas[rows].float(), share)
            solver.zero_grad()
            loss.backward()
            solver.step()
            schedule.step()
    return network.requires_grad_(False)
