"""CutMix's one stage: pictures are mixed with one another, on the pictures or on maps inside the network."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.data.sharing import one_thread
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Plan, StepOutput, TrainStage
from partwise.methods.cutmix.config import CutMixFields, CutMixRecipe
from partwise.methods.cutmix.drawing import INSIDE, Drawing, check_together
from partwise.models.heads import ImageClassifier
from partwise.ops import mixing
from partwise.report import figures

if TYPE_CHECKING:
    from partwise.methods.cutmix.method import CutMixMethod


class Inside:
    """A mix that is applied behind a stage of the network; no dataclass, which what wraps the module would walk through."""

    def __init__(self, layer: int, mix: mixing.Mix) -> None:
        self.layer, self.mix = layer, mix


@dataclass
class LayeredBatch(Batch):
    """Pictures that are mixed inside the network; the targets are mixed already."""

    inside: Inside | None = None


class SoftLabelLoss(nn.Module):
    """Cross entropy of a classifier against soft labels: `forward(batch)` of mixed pictures and targets `(B, K)`."""

    def __init__(self, network: nn.Module, fields: CutMixFields, *, compile: bool) -> None:
        super().__init__()
        self.network = network
        self.binary = fields.loss == "bce"
        # Beside the module, not inside it: the compiled form shares the network's parameters and must not be saved twice.
        self._forward = [torch.compile(network, dynamic=False) if compile else network]

    def forward(self, batch: Batch) -> StepOutput:
        assert batch.targets is not None
        images = batch.images.to(next(self.network.parameters()).dtype)
        if not batch.images.is_floating_point():
            images.mul_(1 / 255)
        inside = batch.inside if isinstance(batch, LayeredBatch) else None
        logits = self._forward[0](images) if inside is None else self._mixed_inside(images, inside)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.binary:
            loss = F.binary_cross_entropy_with_logits(logits, batch.targets.to(logits.dtype))
        else:
            loss = F.cross_entropy(logits, batch.targets.to(logits.dtype))
        right = (logits.detach().argmax(1) == batch.targets.argmax(1)).float().mean()
        return {"cross_entropy": loss}, {"train_top1": right}

    def _mixed_inside(self, images: Tensor, inside: Inside) -> Tensor:
        """Logits of pictures whose maps are mixed behind a stage."""
        network = cast(ImageClassifier, self.network)
        x = network.normalise(images)
        for number in range(network.backbone.num_blocks):
            x = network.backbone.block(number, x)
            if number + 1 == inside.layer:
                x = mixing.apply_mix(x, inside.mix)
        return network.classify(x)


class Train(TrainStage):
    """The classifier's training."""

    name = "train"

    def __init__(self, method: CutMixMethod, data: PictureData, job: Job) -> None:
        recipe = cast(CutMixRecipe, job.recipe)
        self.method, self.data, self.job = method, data, job
        self.recipe, self.fields = recipe, recipe.method
        self.steps_per_epoch = data.steps_per_epoch(recipe.train.batch_size)
        self.steps = max(1, round(recipe.train.epochs * self.steps_per_epoch))
        self.parts = recipe.train.accumulate
        self.ema = recipe.train.ema
        self.device = job.runtime.device
        check_together(self.fields, world=job.runtime.share.world)

    def networks(self) -> dict[str, nn.Module]:
        return self.method.networks()

    def plans(self) -> dict[str, Plan]:
        optim = self.recipe.optim
        groups = parameter_groups(self.method.network, optim, head=self.method.network.fc.parameters())
        return {"network": Plan(build_optimizer(groups, optim), optim)}

    def loss_module(self) -> nn.Module:
        return SoftLabelLoss(self.method.network, self.fields, compile=self.recipe.train.compile)

    def batches(self, first_step: int) -> Iterator[Batch]:
        train = self.recipe.train
        batches = self.data.train_batches(
            first_step, batch_size=train.batch_size, parts=self.parts, seed=train.seed, stage=self.name
        )
        for number, batch in enumerate(batches):
            step, part = divmod(number, self.parts)
            yield self.mixed(batch, first_step + step, part)

    def mixed(self, batch: Batch, step: int, part: int) -> Batch:
        """This process's slice of a part, mixed with partners from the whole part; targets become soft rows."""
        share, fields = self.job.runtime.share, self.fields
        total = len(batch) * share.world
        rows = share.rows(total)
        images, targets = batch.images, batch.targets
        assert targets is not None
        pool, pool_targets = (images, targets) if share.world == 1 else (self.gather(images), self.gather(targets))
        draw = self.drawing(total, step, part)
        if fields.cutout:
            pool = mixing.apply_mix(pool, draw.cutout(pool))
            images = pool[rows.start : rows.stop]
        layer, mix = self.draw(draw, pool)
        if mix.rule == "mixup" and layer == 0 and not images.is_floating_point():
            images = images.float() / 255
            pool = images if share.world == 1 else pool.float() / 255
        own = mix.slice(rows.start, rows.stop)
        with one_thread():
            soft = mixing.mix_targets(
                targets,
                own,
                num_classes=len(self.method.classes),
                smoothing=fields.smoothing,
                multi_label=self.method.facts.multi_label,
                source=pool_targets,
            )
            if layer:
                return LayeredBatch(batch.ids, batch.index, images, soft, inside=Inside(layer, own))
            mixed = mixing.apply_mix(images, own, source=pool, out=images)  # nobody else holds the batch
        return Batch(batch.ids, batch.index, mixed, soft)

    def gather(self, tensor: Tensor) -> Tensor:
        return self.job.runtime.gather(tensor)

    def drawing(self, batch: int, step: int, part: int) -> Drawing:
        """The draws of one part of the global batch: functions of (seed, stage, step, part)."""
        key = (self.recipe.train.seed, self.name, step, part)
        return Drawing(self.fields, self.recipe.model.mean, batch, key, step / self.steps, self.device)

    def draw(self, draw: Drawing, pool: Tensor) -> tuple[int, mixing.Mix]:
        """Where a part is mixed (0: the pictures) and how."""
        if self.fields.mix not in INSIDE:
            return 0, draw.pictures(pool)
        layer = draw.layer(len(self.method.layers)) if self.fields.layer is None else self.fields.layer
        return layer, draw.maps(*self.method.layers[layer])

    def first_pictures(self, batch: Batch) -> None:
        """Keep the first mixed pictures with their soft labels for the report."""
        if not self.job.runtime.leads:
            return
        count = min(16, len(batch))
        images = batch.images[:count].cpu()
        if images.is_floating_point():
            images = (images.clamp(0, 1) * 255).round().to(torch.uint8)
        assert batch.targets is not None
        soft = batch.targets[:count].cpu()
        inside = "; maps of them are mixed inside the network" if isinstance(batch, LayeredBatch) else " and mixing"
        names = self.method.classes
        shares = [[(names[k], float(row[k])) for k in row.argsort(descending=True)[:2] if row[k] > 0] for row in soft]
        picture = figures.mixed_batch(images.permute(0, 2, 3, 1).numpy(), shares, columns=8)
        rows = [
            {"id": i, **{name: round(share, 4) for name, share in s}} for i, s in zip(batch.ids, shares, strict=False)
        ]
        self.job.folder.write_picture(
            "first_batch",
            figures.encode_png(picture),
            title="The first batch as the network sees it",
            caption=f"After augmentation{inside}, with the shares of the soft label.",
            order=40,
            rows=[{"id": str(row.pop("id")), "label": ", ".join(f"{k} {v}" for k, v in row.items())} for row in rows],
        )
