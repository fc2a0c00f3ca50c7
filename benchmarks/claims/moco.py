"""The rival of Adam-v2's claim study: MoCo-v2 from lightly's blocks, on the package's encoder, pictures and views.

Projection head, loss with its queue and momentum update are lightly's; views are those of Adam-v1 at level 0 (random crops of a
fifth or more, jitter, blur, rotation, no mirror images, because left and right differ).
"""

from __future__ import annotations

import copy
import math
import time

import torch
from torch import Tensor, nn

from partwise.data.anatomy_views import contrast_views, draw_views, render, view_blocks
from partwise.data.loading import PictureData
from partwise.engine.runtime import Runtime
from partwise.methods.adam_v2.method import AdamMethod
from partwise.ops import draws

QUEUE, DIM, HIDDEN = 2048, 128, 512
MOMENTUM, TEMPERATURE = 0.99, 0.2
RATE, WARMUP = 2e-3, 0.05
"""The rate of the recipe's own optimiser, AdamW, over a half cosine after a warm-up."""


def train_moco(
    method: AdamMethod, data: PictureData, runtime: Runtime, *, seed: int, steps: int
) -> tuple[float, float]:
    """Train so many steps and leave the query's encoder as the method's; returns seconds and pictures a second."""
    from lightly.loss import NTXentLoss
    from lightly.models.modules import MoCoProjectionHead
    from lightly.models.utils import batch_shuffle, batch_unshuffle, deactivate_requires_grad, update_momentum

    recipe, device = method.recipe, runtime.device
    torch.manual_seed(draws.derive(seed, "moco"))
    query, width, layout = method.student.train(), method.student.num_features, torch.channels_last
    key = copy.deepcopy(query)
    head = MoCoProjectionHead(width, HIDDEN, DIM).to(device)
    key_head = copy.deepcopy(head)
    deactivate_requires_grad(key), deactivate_requires_grad(key_head)
    query.to(memory_format=layout), key.to(memory_format=layout)
    loss = NTXentLoss(temperature=TEMPERATURE, memory_bank_size=(QUEUE, DIM)).to(device)
    optimizer = torch.optim.AdamW([*query.parameters(), *head.parameters()], lr=RATE, weight_decay=0.04)
    each, table = recipe.train.batch_size, contrast_views(method.fields.view_size)
    batches = data.train_batches(0, batch_size=each, parts=1, seed=seed, stage="moco")
    blocks = view_blocks(table, each, device=device)
    begun, counted = time.perf_counter(), 0
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = RATE * rate(step / steps)
        images = next(batches).images
        size = (images.shape[-2], images.shape[-1])
        drawn = draw_views(each, table, size=size, level=0, generator=draws.generator(seed, "moco", "views", step))
        render(images, drawn, grey=True, out=blocks, pool=data.pool if device.type == "cpu" else None)
        one, other = (view.contiguous(memory_format=layout) for view in blocks[method.fields.view_size])
        update_momentum(query, key, m=MOMENTUM)
        update_momentum(head, key_head, m=MOMENTUM)
        with runtime.fabric.autocast():
            queries = head(pooled(query, one))
            with torch.no_grad():
                shuffled, order = batch_shuffle(other)
                keys = batch_unshuffle(key_head(pooled(key, shuffled)), order)
            value = loss(queries, keys)
        value.backward()
        optimizer.step()
        optimizer.zero_grad()
        counted += each
        if runtime.interruption.requested:
            raise KeyboardInterrupt
    seconds = time.perf_counter() - begun
    method.encoder.load_state_dict(query.state_dict())
    return seconds, counted / seconds


def pooled(encoder: nn.Module, views: Tensor) -> Tensor:
    """Embeddings of views."""
    found: Tensor = encoder.backbone.pooled(views)  # type: ignore[operator,union-attr]
    return found


def rate(progress: float) -> float:
    """A linear rise, then half a cosine to zero."""
    if progress < WARMUP:
        return progress / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress - WARMUP) / (1 - WARMUP)))
