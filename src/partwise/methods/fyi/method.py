"""FYI as a method: the set that is learned, the stages that learn it, and a network trained on it to ask."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from partwise.config import Recipe, UserError
from partwise.data.loading import PictureData
from partwise.engine.loop import Job
from partwise.engine.stages import Stage
from partwise.evaluate.distilled import Exhibit
from partwise.methods.base import DataFacts, Method
from partwise.methods.fyi.config import PAPER, FyiFields, FyiRecipe
from partwise.methods.fyi.features import MatchFeatures
from partwise.methods.fyi.learning import Distil
from partwise.methods.fyi.real import RealClasses, check_classes
from partwise.methods.fyi.student import TrainStudent
from partwise.models.distillation import build_flat_classifier
from partwise.models.saved import NetworkSpec
from partwise.models.synthetic_set import SyntheticSet
from partwise.ops import cam, draws, localize
from partwise.report.values import Picture, Prediction

FOREGROUND = 0.15
"""Share of a map's maximum above which a cell belongs to the box of a prediction."""
MATCHINGS: dict[str, type[Distil]] = {"dm": MatchFeatures}


class FyiMethod(Method):
    """Answers to DistilledSet and Classifier. `in_progress`: the set is still learned, and trials are short."""

    name = "fyi"
    paper = PAPER
    in_progress = False

    def __init__(self, recipe: Recipe, facts: DataFacts) -> None:
        super().__init__(recipe, facts)
        if not facts.classes or facts.multi_label:
            raise UserError(
                f"data.source {recipe.data.source}: {recipe.recipe} needs pictures with exactly one class each"
            )
        if recipe.model.weights is not None:
            raise UserError(
                f"model.weights = {recipe.model.weights!r}: {recipe.recipe} begins with random weights only"
            )
        self.fields: FyiFields = cast(FyiRecipe, recipe).method
        self.set = SyntheticSet(**self._set_arguments())
        self.student = build_flat_classifier(**self._student_arguments())

    # -- the contract ----------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        return {"set": self.set, "student": self.student}

    def specs(self) -> dict[str, NetworkSpec]:
        return {
            "set": NetworkSpec("synthetic_set", self._set_arguments()),
            "student": NetworkSpec("flat_classifier", self._student_arguments()),
        }

    def stages(self, data: PictureData, job: Job) -> list[Stage]:
        return [MATCHINGS[self.fields.matching](self, data, job), TrainStudent(self)]

    def check(self, data: PictureData) -> None:
        fields = self.fields
        needed = {"method.real_batch": fields.real_batch}
        if fields.start == "real":
            needed["method.images_per_class"] = fields.images_per_class
        check_classes(data, needed)

    def _set_arguments(self) -> dict[str, Any]:
        model, channels = self.recipe.model, self.facts.channels
        grey = channels == 1
        return {
            "num_classes": len(self.facts.classes),
            "per_class": self.fields.images_per_class,
            "size": self.recipe.data.size,
            "channels": channels,
            "mean": [sum(model.mean) / 3] if grey else list(model.mean),
            "std": [sum(model.std) / 3] if grey else list(model.std),
        }

    def _student_arguments(self) -> dict[str, Any]:
        model = self.recipe.model
        return {
            "architecture": model.backbone,
            "num_classes": len(self.facts.classes),
            "size": self.recipe.data.size,
            "in_chans": self.facts.channels,
            "arguments": dict(model.arguments),
        }

    # -- the set ---------------------------------------------------------------------------------------------------------

    def beginning(self, data: PictureData) -> Tensor:
        """The pictures before the first step, `(N, ch, S, S)` in the set's own space: a function of seed and data."""
        fields, seed = self.fields, self.recipe.train.seed
        if fields.start == "noise":
            generator = draws.generator(seed, "distil", "noise")
            return torch.randn(self.set.images.shape, generator=generator)
        real = RealClasses(data, self.set)
        classes = range(len(self.classes))
        places = real.draw(fields.images_per_class, classes, seed, "distil", "beginning")
        return real.seen(places).flatten(0, 1)

    @torch.no_grad()
    def begin(self, data: PictureData) -> None:
        """Put the pictures to their beginning."""
        self.set.images.copy_(self.beginning(data))

    def exhibit(self) -> Exhibit:
        """As the protocol DistilledSet says; one short trial while the set is still learned."""
        with torch.no_grad():
            images, labels = self.set()
        trial = self.fields.trial
        if self.in_progress:
            trial = trial.model_copy(update={"networks": 1, "others": ()})
        assert trial.lr is not None
        return Exhibit(
            images=images.detach(),
            labels=labels,
            per_class=self.fields.images_per_class,
            arm=self.fields.distil,
            network=self.recipe.model.backbone,
            arguments=dict(self.recipe.model.arguments),
            lr=trial.lr,
            fields=trial,
            seed=self.recipe.train.seed,
        )

    def seen(self, images: Tensor) -> Tensor:
        """Pictures in [0, 1] as networks that learn from the set see them."""
        with torch.no_grad():
            return self.set.seen(images)

    # -- answers ---------------------------------------------------------------------------------------------------------

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(B, K)` of float images in [0, 1], by the network that was trained on the set."""
        logits: Tensor = self.student(self.seen(images))
        return logits

    @torch.inference_mode()
    def predict(self, images: Tensor) -> list[Prediction]:
        seen = self.seen(images)
        probabilities = self.student(seen).softmax(1)
        labels = probabilities.argmax(1)
        raised = cam.upsample(self._maps(seen, labels), (images.shape[-2], images.shape[-1]))[:, 0].cpu()
        heat = cam.normalise(raised).numpy()
        boxes = localize.relative_boxes(raised, sigma=FOREGROUND).tolist()
        rows = zip(labels.tolist(), probabilities.cpu().numpy(), heat, boxes, strict=True)
        return [
            Prediction(label, p, h, (x1, y1, x2, y2) if x2 > x1 else None) for label, p, h, (x1, y1, x2, y2) in rows
        ]

    def _maps(self, seen: Tensor, labels: Tensor) -> Tensor:
        """What each place of the last map adds to the logit of the named class, `(B, 1, h, w)`; flat without a map."""
        features = self.student.features(seen)
        weight = self.student.fc.weight[labels]
        if features.ndim != 4:
            return torch.zeros(len(seen), 1, 1, 1, device=seen.device)
        averaged = weight.shape[1] == features.shape[1]
        weight = weight[:, :, None, None] if averaged else weight.view(features.shape)
        return (features * weight).sum(1, keepdim=True)

    # -- the report ------------------------------------------------------------------------------------------------------

    def pictures(self, data: PictureData) -> list[Picture]:
        """The set beside its beginnings."""
        from partwise.methods.fyi.showing import shown

        return shown(self, data)
