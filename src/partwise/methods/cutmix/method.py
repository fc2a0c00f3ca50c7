"""CutMix as a method: one training stage, on pictures mixed with one another, and what the classifier knows of where."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.config import Recipe, UserError
from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.data.sharing import one_thread
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Plan, Stage, StepOutput, TrainStage
from partwise.methods.base import DataFacts, Method
from partwise.methods.cutmix.config import PAPER, CutMixFields, CutMixRecipe
from partwise.models.backbones import build_backbone
from partwise.models.heads import ImageClassifier
from partwise.models.saved import NetworkSpec
from partwise.ops import cam, draws, localize, mixing
from partwise.report import figures
from partwise.report.values import Prediction

FOREGROUND = 0.15
"""Share of the map's maximum above which a cell is foreground (section 4.2: sigma = 0.15 throughout)."""


class CutMixMethod(Method):
    """Answers to the protocols Classifier and Mapper."""

    name = "cutmix"
    paper = PAPER

    def __init__(self, recipe: Recipe, facts: DataFacts) -> None:
        super().__init__(recipe, facts)
        if not facts.classes:
            raise UserError(
                f"data.source {recipe.data.source}: has no labels; {recipe.recipe} needs a label of every picture"
            )
        fields = cast(CutMixRecipe, recipe).method
        if facts.multi_label and fields.loss == "ce":
            raise UserError(f"method.loss = 'ce': {recipe.data.source} has several labels a picture; expected 'bce'")
        model = recipe.model
        backbone = build_backbone(model.backbone, weights=model.weights, **model.arguments)
        self.network = ImageClassifier(
            backbone, len(facts.classes), mean=model.mean, std=model.std, dropout=model.dropout
        )

    def networks(self) -> dict[str, nn.Module]:
        return {"classifier": self.network}

    def specs(self) -> dict[str, NetworkSpec]:
        model = self.recipe.model
        arguments = {
            "backbone": model.backbone,
            "num_classes": len(self.classes),
            "mean": list(model.mean),
            "std": list(model.std),
            "dropout": model.dropout,
            "arguments": dict(model.arguments),
        }
        return {"classifier": NetworkSpec("classifier", arguments)}

    def stages(self, data: PictureData, job: Job) -> list[Stage]:
        return [Train(self, data, job)]

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(B, K)` of float images in [0, 1]."""
        logits: Tensor = self.network(images)
        return logits

    def maps(self, images: Tensor) -> Tensor:
        """Class activation maps `(B, K, h, w)`, float32, of all classes."""
        maps: Tensor = self.network.maps(images)[1]
        return maps

    @torch.inference_mode()
    def predict(self, images: Tensor) -> list[Prediction]:
        logits, maps = self.network.maps(images)
        probabilities = logits.sigmoid() if self.facts.multi_label else logits.softmax(1)
        labels = probabilities.argmax(1)
        own = maps[torch.arange(len(maps), device=maps.device), labels][:, None]
        raised = cam.upsample(own, (images.shape[-2], images.shape[-1]))[:, 0].cpu()
        heat = cam.normalise(raised).numpy()
        boxes = localize.relative_boxes(raised, sigma=FOREGROUND).tolist()
        rows = zip(labels.tolist(), probabilities.cpu().numpy(), heat, boxes, strict=True)
        return [
            Prediction(label, p, h, (x1, y1, x2, y2) if x2 > x1 else None) for label, p, h, (x1, y1, x2, y2) in rows
        ]


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
        logits = self._forward[0](images)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        if self.binary:
            loss = F.binary_cross_entropy_with_logits(logits, batch.targets.to(logits.dtype))
        else:
            loss = F.cross_entropy(logits, batch.targets.to(logits.dtype))
        right = (logits.detach().argmax(1) == batch.targets.argmax(1)).float().mean()
        return {"cross_entropy": loss}, {"train_top1": right}


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
        share = self.job.runtime.share
        total = len(batch) * share.world
        mix = self.draw(total, batch.images.shape[-2:], step, part)
        rows = share.rows(total)
        images, targets = batch.images, batch.targets
        assert targets is not None
        if self.fields.mix == "mixup" and not images.is_floating_point():
            images = images.float() / 255
        pool, pool_targets = (images, targets) if share.world == 1 else (self.gather(images), self.gather(targets))
        own = mix.slice(rows.start, rows.stop)
        with one_thread():
            soft = mixing.mix_targets(
                targets,
                own,
                num_classes=len(self.method.classes),
                smoothing=self.fields.smoothing,
                multi_label=self.method.facts.multi_label,
                source=pool_targets,
            )
            mixed = mixing.apply_mix(images, own, source=pool, out=images)  # nobody else holds the batch
        return Batch(batch.ids, batch.index, mixed, soft)

    def gather(self, tensor: Tensor) -> Tensor:
        return self.job.runtime.gather(tensor)

    def draw(self, batch: int, size: torch.Size, step: int, part: int) -> mixing.Mix:
        """The mix of one part of the global batch: a function of (seed, stage, step, part)."""
        fields, train = self.fields, self.recipe.train
        height, width = size
        rising = fields.p_schedule == "linear"
        p = fields.p * mixing.scheduled_probability(step / self.steps) if rising else fields.p
        key = (self.name, "mix", step, part)
        device = self.job.runtime.device
        if fields.mode == "paper" and fields.mix == "cutmix":
            numbers = np.random.RandomState(draws.derive(train.seed, *key) % 2**32)
            generator = draws.generator(train.seed, *key)
            return mixing.draw_cutmix_paper(
                batch,
                height,
                width,
                alpha=fields.alpha,
                p=p,
                numpy_state=numbers,
                generator=generator,
                correct_lambda=fields.correct_lambda,
            ).to(device)
        generator = draws.generator(train.seed, *key, device=device)
        mode: mixing.Mode = "batch" if fields.mode == "paper" else fields.mode
        shared: dict[str, Any] = {"p": p, "mode": mode, "gate": fields.gate, "generator": generator}
        if fields.mix == "cutout":
            fill = tuple(255 * value for value in self.recipe.model.mean)
            return mixing.draw_cutout(batch, height, width, length=fields.cutout_length, fill=fill, **shared)
        shared["partner"] = fields.partner
        if fields.mix == "mixup":
            return mixing.draw_mixup(batch, height, width, alpha=fields.alpha, **shared)
        if fields.mix == "resizemix":
            return mixing.draw_resizemix(batch, height, width, **shared)
        if fields.mix == "none":
            shared["p"] = 0.0
        return mixing.draw_cutmix(
            batch, height, width, alpha=fields.alpha, correct_lambda=fields.correct_lambda, **shared
        )

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
            caption="After augmentation and mixing, with the shares of the soft label.",
            order=40,
            rows=[{"id": str(row.pop("id")), "label": ", ".join(f"{k} {v}" for k, v in row.items())} for row in rows],
        )
