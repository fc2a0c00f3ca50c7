"""FYI as a method: the set that is learned, the stages that learn it, and a network trained on it to ask."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from partwise.config import Recipe, UserError
from partwise.data.loading import PictureData
from partwise.engine.loop import Job
from partwise.engine.stages import Products, Stage
from partwise.evaluate.distilled import Exhibit
from partwise.methods.base import DataFacts, Method
from partwise.methods.fyi.config import PAPER
from partwise.methods.fyi.experts import FitWhitening, TrainExperts, find_experts
from partwise.methods.fyi.features import MatchFeatures
from partwise.methods.fyi.fields import FyiFields, FyiRecipe
from partwise.methods.fyi.formations import MatchFormations
from partwise.methods.fyi.gradients import MatchGradients
from partwise.methods.fyi.learning import Distil
from partwise.methods.fyi.product import WriteSet
from partwise.methods.fyi.real import RealClasses, check_classes
from partwise.methods.fyi.student import TrainStudent
from partwise.methods.fyi.trajectories import MatchTrajectories
from partwise.models.distillation import build_flat_classifier
from partwise.models.saved import NetworkSpec
from partwise.models.synthetic_set import SyntheticSet
from partwise.ops import cam, draws, localize
from partwise.ops.multi_formation import pack_tiles
from partwise.report.values import Picture, Prediction

FOREGROUND = 0.15
"""Share of a map's maximum above which a cell belongs to the box of a prediction."""
MATCHINGS: dict[str, type[Distil]] = {
    "dm": MatchFeatures,
    "dc": MatchGradients,
    "idc": MatchFormations,
    "mtt": MatchTrajectories,
}


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
        if self.fields.trial.lr is None and self.fields.matching != "mtt":
            raise UserError(
                "method.trial.lr = null: only method.matching = 'mtt' learns a step size; expected a number"
            )
        self.set = self._build()
        self.student = build_flat_classifier(**self.student_arguments())

    # -- the contract ----------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        return {"set": self.set, "student": self.student}

    def specs(self) -> dict[str, NetworkSpec]:
        return {
            "set": NetworkSpec("synthetic_set", self._set_arguments()),
            "student": NetworkSpec("flat_classifier", self.student_arguments()),
        }

    def stages(self, data: PictureData, job: Job) -> list[Stage]:
        fields = self.fields
        stages: list[Stage] = []
        if fields.matching == "mtt" and fields.experts.run is None:
            stages += [FitWhitening(self, data)] if fields.whiten else []
            stages.append(TrainExperts(self, data))
        return [*stages, MATCHINGS[fields.matching](self, data, job), WriteSet(self), TrainStudent(self)]

    def check(self, data: PictureData) -> None:
        fields = self.fields
        needed = {} if fields.matching == "mtt" else {"method.real_batch": fields.real_batch}
        if fields.start == "real":
            needed["method.images_per_class"] = fields.images_per_class
        check_classes(data, needed)
        packed = fields.images_per_class * self.set.factor**2
        if fields.start == "real" and self.set.factor > 1:
            check_classes(data, {"method.images_per_class * method.factor^2": packed})
        if fields.matching != "mtt":
            return
        if fields.experts.run is not None:
            find_experts(self, data, Products(Path()))
        elif fields.experts.epochs < (wanted := fields.max_start - 1 + fields.expert_epochs):
            raise UserError(
                f"method.experts.epochs = {fields.experts.epochs}: method.max_start = {fields.max_start} and "
                f"method.expert_epochs = {fields.expert_epochs} need {wanted}"
            )

    def _build(self) -> SyntheticSet:
        try:
            return SyntheticSet(**self._set_arguments())
        except ValueError as error:
            raise UserError(f"method.factor = {self.fields.factor}: {error}") from None

    def _set_arguments(self) -> dict[str, Any]:
        model, channels = self.recipe.model, self.facts.channels
        grey = channels == 1
        return {
            "num_classes": len(self.facts.classes),
            "per_class": self.fields.images_per_class,
            "size": self.recipe.data.size,
            "channels": channels,
            "space": "packed" if self.fields.matching == "idc" else "whitened" if self.whitens else "normalised",
            "factor": self.fields.factor if self.fields.matching == "idc" else 1,
            "learned_rate": self.fields.matching == "mtt",
            "mean": [sum(model.mean) / 3] if grey else list(model.mean),
            "std": [sum(model.std) / 3] if grey else list(model.std),
        }

    def load(self, networks: Mapping[str, nn.Module]) -> None:
        """Take the set, and the network trained on it where it is there: the file of a set holds none."""
        self.set.load_state_dict(networks["set"].state_dict())
        if "student" in networks:
            self.student.load_state_dict(networks["student"].state_dict())

    @property
    def whitens(self) -> bool:
        """Whether set and networks live in whitened space."""
        return self.fields.matching == "mtt" and self.fields.whiten

    def student_arguments(self) -> dict[str, Any]:
        """What builds the network that is matched, and tried."""
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
        fields, seed, synthetic = self.fields, self.recipe.train.seed, self.set
        packed = synthetic.space == "packed"
        if fields.start == "noise":
            noise = torch.randn(synthetic.images.shape, generator=draws.generator(seed, "distil", "noise"))
            return (noise / 4 + 0.5).clamp(0, 1) if packed else noise
        real = RealClasses(data, synthetic)
        classes = range(len(self.classes))
        places = real.draw(fields.images_per_class * synthetic.factor**2, classes, seed, "distil", "beginning")
        if packed:
            return torch.cat([pack_tiles(real.pictures(row[None])[0], factor=synthetic.factor) for row in places])
        return real.seen(places).flatten(0, 1)

    @torch.no_grad()
    def begin(self, data: PictureData) -> None:
        """Put the pictures, and the step size where it is learned, to their beginning."""
        self.set.images.copy_(self.beginning(data))
        if self.set.rate is not None:
            self.set.rate.fill_(self.fields.student_lr)

    def exhibit(self) -> Exhibit:
        """As the protocol DistilledSet says; one short trial while the set is still learned."""
        with torch.no_grad():
            images, labels = self.set()
        trial = self.fields.trial
        if self.in_progress:
            trial = trial.model_copy(update={"networks": 1, "others": ()})
        learned = 0.0 if self.set.rate is None else float(self.set.rate.detach())
        return Exhibit(
            images=images.detach(),
            labels=labels,
            per_class=self.fields.images_per_class,
            arm=self.fields.distil,
            network=self.recipe.model.backbone,
            arguments=dict(self.recipe.model.arguments),
            lr=learned if trial.lr is None else trial.lr,
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
