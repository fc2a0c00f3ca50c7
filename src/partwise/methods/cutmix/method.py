"""CutMix as a method: one training stage, on pictures mixed with one another, and what the classifier knows of where."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from partwise.config import Recipe, UserError
from partwise.data.loading import PictureData
from partwise.engine.loop import Job
from partwise.engine.stages import Stage
from partwise.methods.base import DataFacts, Method
from partwise.methods.cutmix.config import PAPER, CutMixRecipe
from partwise.methods.cutmix.drawing import check_together, layer_sizes
from partwise.methods.cutmix.training import Train
from partwise.models.backbones import build_backbone
from partwise.models.branches import regularise
from partwise.models.heads import ImageClassifier
from partwise.models.saved import NetworkSpec
from partwise.ops import cam, localize
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
        self.branches = fields.branch_arguments()
        if self.branches:
            regularise(backbone, **self.branches)
        self.network = ImageClassifier(
            backbone, len(facts.classes), mean=model.mean, std=model.std, dropout=model.dropout
        )
        check_together(fields, world=1)
        self.layers = layer_sizes(self.network, recipe.data.size, fields)

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
        if self.branches:  # what is used later is scaled by what was drawn in training
            arguments["branches"] = dict(self.branches)
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
