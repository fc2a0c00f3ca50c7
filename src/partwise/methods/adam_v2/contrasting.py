"""Adam-v1: one phase a level, contrast of two views of a patch with a queue, less what looks the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from partwise.data.anatomy_views import contrast_views
from partwise.data.loading import PictureData
from partwise.engine.loop import Job
from partwise.engine.stages import StepOutput
from partwise.methods.adam_v2.viewing import LearnViews, ViewBatch, follow
from partwise.ops.part_whole import spread
from partwise.ops.pruned_contrast import Queue, contrast_logits, enqueue, pruned_share

if TYPE_CHECKING:
    from partwise.methods.adam_v2.method import AdamMethod


class LearnContrast(LearnViews):
    """Level n: InfoNCE of each patch with its own second view; from level 1 on without negatives that look like it.

    The published code averages the key network before it looks, ours after each step: the same but for the last one.
    """

    def __init__(self, method: AdamMethod, data: PictureData, job: Job, level: int) -> None:
        fields = method.fields
        table = contrast_views(fields.view_size, fields.decomposer)
        super().__init__(
            method, data, job, name=f"contrast{level}", table=table, passes={level: fields.contrast_epochs}
        )

    def networks(self) -> dict[str, nn.Module]:
        return self.method.contrasting()

    def loss_module(self) -> nn.Module:
        self.loss = ContrastLoss(self.method, prunes=self.levels[0] > 0)
        return self.loss

    def after_step(self, step: int) -> None:
        method = self.method
        follow([method.key, method.head], [method.student, method.student_head], momentum=self.fields.key_momentum)
        for keys in self.loss.keys:
            method.queue.take(self.job.runtime.gather(keys))
        self.loss.keys.clear()


class ContrastLoss(nn.Module):
    """Pruned InfoNCE of queries, the student's, with keys, those of the network that follows it."""

    def __init__(self, method: AdamMethod, *, prunes: bool) -> None:
        super().__init__()
        self.fields = method.fields
        self.student, self.head = method.student, method.student_head
        self._key = (method.key, method.head)
        self._queue = (method.queue,)
        self.threshold = method.fields.prune if prunes else None
        self.channels_last = method.recipe.train.channels_last
        self.keys: list[Tensor] = []

    def train(self, mode: bool = True) -> ContrastLoss:
        """The key network too."""
        for network in self._key:
            network.train(mode)
        super().train(mode)
        return self

    def forward(self, batch: ViewBatch) -> StepOutput:
        one, other = batch.views[self.fields.view_size]
        if self.channels_last:
            one, other = (view.contiguous(memory_format=torch.channels_last) for view in (one, other))
        queries = self.head(self.student.backbone.pooled(one))
        (network, head), (queue,) = self._key, self._queue
        with torch.no_grad():
            embeddings = network.backbone.pooled(other)
            keys = head(embeddings)
        logits = contrast_logits(
            queries, keys, queue.keys, temperature=self.fields.contrast_temperature, threshold=self.threshold
        )
        self.keys.append(keys.detach())
        target = torch.zeros(len(logits), dtype=torch.int64, device=logits.device)
        loss = nn.functional.cross_entropy(logits, target)
        return {"contrast": loss}, {"pruned": pruned_share(logits), "embedding_spread": spread(embeddings)}


class KeyQueue(nn.Module):
    """The queue as buffers, so that checkpoints and the next level have it."""

    keys: Tensor
    position: Tensor

    def __init__(self, queue: Queue) -> None:
        super().__init__()
        self.register_buffer("keys", queue.keys)
        self.register_buffer("position", queue.position)

    def take(self, keys: Tensor) -> None:
        """Put keys in place of the oldest."""
        found = enqueue(Queue(self.keys, self.position), keys)
        self.keys.copy_(found.keys)
        self.position.copy_(found.position)
