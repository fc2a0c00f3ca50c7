"""What the trainings of both versions share: pictures in, views out, level by level, and a network that follows another."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from partwise.config import OptimFields
from partwise.data.anatomy_views import ViewTable, draw_views, render, view_blocks
from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Plan, Products, TrainStage
from partwise.methods.adam_v2.showing import keep_views
from partwise.models.averaging import lerp_into
from partwise.ops import draws

if TYPE_CHECKING:
    from partwise.methods.adam_v2.method import AdamMethod

GREY = {"auto": None, "always": True, "colour": False}
"""What `render` is told, by `method.grey`."""


@dataclass(slots=True)
class ViewBatch(Batch):
    """Pictures with their views: side in pixels -> float32 `(V, B, 3, side, side)`, normalised, in the order of the table."""

    views: dict[int, Tensor] = field(default_factory=dict)


class LearnViews(TrainStage):
    """A phase: views of anchors at levels that change after so many passes each, and one optimiser for all that learns."""

    def __init__(
        self,
        method: AdamMethod,
        data: PictureData,
        job: Job,
        *,
        name: str,
        table: ViewTable,
        passes: Mapping[int, float] | Sequence[float],
    ) -> None:
        """`passes`: level -> passes at it, in order."""
        self.method, self.data, self.job, self.name, self.table = method, data, job, name, table
        self.fields, self.recipe = method.fields, job.recipe
        self.parts, self.ema = self.recipe.train.accumulate, None
        self.steps_per_epoch = data.steps_per_epoch(self.recipe.train.batch_size)
        levels = passes if isinstance(passes, Mapping) else dict(enumerate(passes))
        ends = itertools.accumulate(levels.values())
        self.levels = list(levels)
        self.ends = [round(end * self.steps_per_epoch) for end in ends]
        self.steps = max(1, self.ends[-1])
        self.rows = data.share.rows(self.recipe.train.batch_size // self.parts)
        self._blocks: dict[int, Tensor] = {}

    def prepare(self, products: Products) -> None:
        """Those that follow compute in the training's arithmetic too, and with statistics of their own batches."""
        for network in self.networks().values():
            network.train()
            if self.job.runtime.precision == "64-true":
                network.double()

    def level(self, step: int) -> int:
        """How fine the anchors of a step are."""
        return next((level for level, end in zip(self.levels, self.ends, strict=True) if step < end), self.levels[-1])

    def learners(self) -> list[nn.Parameter]:
        """All parameters that learn."""
        parameters = (p for network in self.networks().values() for p in network.parameters())
        return [parameter for parameter in parameters if parameter.requires_grad]

    def plans(self) -> dict[str, Plan]:
        """One optimiser over everything, whose rate rises over the first passes."""
        epochs = self.steps / self.steps_per_epoch
        warmup = min(self.fields.warmup_epochs / epochs, 0.5)
        optim: OptimFields = self.recipe.optim.model_copy(update={"warmup": warmup})
        groups = parameter_groups(nn.ModuleList(self.networks().values()), optim)
        return {"encoder": Plan(build_optimizer(groups, optim), optim)}

    def batches(self, first_step: int) -> Iterator[ViewBatch]:
        """Pictures with all views, drawn for the whole part of the global batch; a batch is overwritten by the next."""
        train, mean, std = self.recipe.train, self.recipe.model.mean, self.recipe.model.std
        each, number = train.batch_size // self.parts, first_step * self.parts
        pictures = self.data.train_batches(
            first_step, batch_size=train.batch_size, parts=self.parts, seed=train.seed, stage=self.name
        )
        for batch in pictures:
            step, part = divmod(number, self.parts)
            size = (batch.images.shape[-2], batch.images.shape[-1])
            generator = draws.generator(train.seed, self.name, "anatomy", step, part)
            drawn = draw_views(each, self.table, size=size, level=self.level(step), generator=generator).rows(self.rows)
            blocks = self._room(len(batch), batch.images.device)
            grey = GREY[self.fields.grey]
            pool = self.data.pool if batch.images.device.type == "cpu" else None
            render(batch.images, drawn, grey=grey, mean=mean, std=std, out=blocks, pool=pool)
            exact = self.job.runtime.precision == "64-true"
            views = {side: block.double() for side, block in blocks.items()} if exact else blocks
            yield ViewBatch(batch.ids, batch.index, batch.images, views=views)
            number += 1

    def _room(self, count: int, device: torch.device) -> dict[int, Tensor]:
        """Memory for the views, the same from step to step."""
        held = next(iter(self._blocks.values()), None)
        if held is None or held.shape[1] != count or held.device != device:
            self._blocks = view_blocks(self.table, count, device=device)
        return self._blocks

    def first_pictures(self, batch: Batch) -> None:
        """Keep the views of a few pictures for the report."""
        assert isinstance(batch, ViewBatch)
        if self.job.runtime.leads:
            keep_views(
                self.job.folder, self.name, self.table, batch.views, self.recipe.model.mean, self.recipe.model.std
            )


@torch.no_grad()
def follow(followers: Sequence[nn.Module], leaders: Sequence[nn.Module], *, momentum: float) -> None:
    """theta <- momentum theta + (1 - momentum) theta of the leader, parameters alone: buffers are each network's own."""
    ours = [parameter for network in followers for parameter in network.parameters()]
    theirs = [parameter for network in leaders for parameter in network.parameters()]
    lerp_into(ours, theirs, decay=momentum)
