"""The rival of Adam-v2's claim study: MoCo-v2 from lightly's blocks, on the package's encoder, pictures and views.

Projection head, loss with its queue and momentum update are lightly's. Views are those of Adam-v1 (random crops of a fifth or
more, jitter, blur, rotation, no mirror images, because left and right differ) of anchors at the same levels as the first phase
of Adam-v2; the optimiser is the recipe's. Nothing of it was tuned.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from partwise.data.anatomy_views import contrast_views, draw_views, render, view_blocks
from partwise.data.loading import PictureData
from partwise.engine.loop import Interrupted
from partwise.engine.optim import build_optimizer, parameter_groups, set_rate
from partwise.engine.runtime import Runtime
from partwise.methods.adam_v2.method import AdamMethod
from partwise.ops import draws

QUEUE, DIM, HIDDEN = 256, 128, 512
"""Fewer keys than a pass has pictures, so that hardly a picture meets itself among the negatives."""
MOMENTUM, TEMPERATURE = 0.99, 0.2


def train_moco(
    method: AdamMethod,
    data: PictureData,
    runtime: Runtime,
    *,
    seed: int,
    steps: int,
    level: Callable[[int], int],
    untimed: int = 0,
) -> tuple[float, float]:
    """Train so many steps, each at its `level`, and leave the query's encoder as the method's.

    Returns seconds and pictures a second, the first `untimed` steps aside. Raises Interrupted after a signal.
    """
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
    epochs = steps / data.steps_per_epoch(recipe.train.batch_size)
    optim = recipe.optim.model_copy(update={"warmup": min(method.fields.warmup_epochs / epochs, 0.5)})
    optimizer = build_optimizer(parameter_groups(nn.ModuleList([query, head]), optim), optim)
    each, table = recipe.train.batch_size, replace(contrast_views(method.fields.view_size), anchor="square")
    batches = data.train_batches(0, batch_size=each, parts=1, seed=seed, stage="moco")
    blocks = view_blocks(table, each, device=device)
    begun = time.perf_counter()
    for step in range(steps):
        if step == untimed:
            begun = time.perf_counter()
        set_rate(optimizer, optim, step / steps)
        images = next(batches).images
        size = (images.shape[-2], images.shape[-1])
        generator = draws.generator(seed, "moco", "views", step)
        drawn = draw_views(each, table, size=size, level=level(step), generator=generator)
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
        if runtime.interruption.requested:
            raise Interrupted
    seconds = time.perf_counter() - begun
    method.encoder.load_state_dict(query.state_dict())
    return seconds, (steps - untimed) * each / seconds


def pooled(encoder: nn.Module, views: Tensor) -> Tensor:
    """Embeddings of views."""
    found: Tensor = encoder.backbone.pooled(views)  # type: ignore[operator,union-attr]
    return found
