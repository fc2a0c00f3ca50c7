"""Varifocal-Net as a method: its networks, its trainings in order, and what it says of a chromosome."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from partwise.config import Recipe, UserError
from partwise.data.loading import PictureData
from partwise.engine.loop import Job
from partwise.engine.stages import Stage
from partwise.methods.base import DataFacts, Method
from partwise.methods.varifocal.calibrating import Calibrate
from partwise.methods.varifocal.config import PAPER, VarifocalFields, VarifocalRecipe
from partwise.methods.varifocal.learning import Answerer, LearnBoxes, LearnEnsemble, LearnLocal, LearnWhole
from partwise.methods.varifocal.naming import name_case
from partwise.methods.varifocal.showing import shown
from partwise.models.calibration import Calibration
from partwise.models.saved import NetworkSpec
from partwise.models.two_heads import TwoHeads, TypeAndPolarity, build_two_heads
from partwise.models.varifocal import VarifocalNet
from partwise.ops.iscn import TYPES
from partwise.ops.varifocal import square_boxes, standardise
from partwise.report.case import Case, Read
from partwise.report.values import Cell, ChromosomePrediction, Picture

Box = tuple[float, float, float, float]


class VarifocalMethod(Method):
    """Answers to CaseClassifier. `answerer` says whose answer counts: while it trains, the part that has learned most."""

    name = "varifocal"
    paper = PAPER

    def __init__(self, recipe: Recipe, facts: DataFacts) -> None:
        super().__init__(recipe, facts)
        self.fields: VarifocalFields = cast(VarifocalRecipe, recipe).method
        if facts.classes != TYPES or facts.channels != 1:
            raise UserError(
                f"data.source {recipe.data.source}: {len(facts.classes)} classes and {facts.channels} channels; "
                f"{recipe.recipe} needs grey pictures of the 24 types of chromosomes, as chromosomes:DIR gives them"
            )
        self.network = self._build()
        self.calibration = Calibration()
        self.answerer: Answerer = "ensemble" if self.is_varifocal else "whole"

    @property
    def is_varifocal(self) -> bool:
        """Whether this is the paper's system, or its plain rival."""
        return self.fields.network == "varifocal"

    @property
    def whole(self) -> nn.Module:
        """The network that sees the whole picture."""
        return self.network.global_net if isinstance(self.network, VarifocalNet) else self.network

    def standardised(self, images: Tensor) -> Tensor:
        """What `whole` takes: the rival standardises by itself."""
        return standardise(images) if self.is_varifocal else images

    def _build(self) -> VarifocalNet | TwoHeads:
        try:
            return VarifocalNet(**self._arguments()) if self.is_varifocal else build_two_heads(**self._arguments())
        except ValueError as error:
            raise UserError(f"data.size = {self.recipe.data.size}: {error}") from None

    def _arguments(self) -> dict[str, Any]:
        fields, model = self.fields, self.recipe.model
        if not self.is_varifocal:
            return {"backbone": model.backbone, "dropout": model.dropout, "arguments": dict(model.arguments)}
        return {
            "frame": self.recipe.data.size,
            "width": fields.width,
            "units": fields.units,
            "locator_hidden": fields.locator_hidden,
            "ensemble_hidden": fields.ensemble_hidden,
            "second": fields.second,
            "rule": fields.rule,
            "normalise": fields.normalise,
        }

    # -- the contract --------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        return {"network": self.network, "calibration": self.calibration}

    def specs(self) -> dict[str, NetworkSpec]:
        kind = "varifocal" if self.is_varifocal else "two_heads"
        return {"network": NetworkSpec(kind, self._arguments()), "calibration": NetworkSpec("calibration")}

    def stages(self, data: PictureData, job: Job) -> list[Stage]:
        fields = self.fields
        stages: list[Stage] = [LearnWhole(self, data, job, epochs=job.recipe.train.epochs)]
        if self.is_varifocal:
            if fields.second == "box":
                stages.append(LearnBoxes(self, data, job, epochs=fields.box_epochs))
            stages.append(LearnLocal(self, data, job, epochs=fields.local_epochs))
            stages.append(LearnEnsemble(self, data, job, epochs=fields.ensemble_epochs))
        stages.append(Calibrate(self, data))
        return stages

    # -- answers -------------------------------------------------------------------------------------------------------

    def answers(self, images: Tensor) -> TypeAndPolarity:
        """Logits of type `(B, 24)` and polarity `(B, 2)` of grey float images `(B, 1, S, S)` in [0, 1]."""
        return self._looked(images)[0]

    def chromosome_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """As the protocol CaseClassifier says."""
        return self.answers(images)

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Sequence[ChromosomePrediction]:
        found, boxes = self._looked(images)
        probabilities = self.calibration(found.type.float(), found.polarity.float())
        places = [None] * len(images) if boxes is None else [cast(Box, tuple(box)) for box in boxes.tolist()]
        rows = zip(*(part.cpu().numpy() for part in probabilities), places, strict=True)
        return [ChromosomePrediction(kind, polarity, box) for kind, polarity, box in rows]

    def _looked(self, images: Tensor) -> tuple[TypeAndPolarity, Tensor | None]:
        """The answers, averaged over mirror images where wanted, and the boxes `(B, 4)` of the pictures as they stand."""
        found, boxes = self._once(images)
        if not self.fields.mirror:
            return found, boxes
        # Neither type nor polarity changes left for right. Logs of probabilities, so that both have the same say.
        other, _ = self._once(images.flip(-1))
        pairs = zip(found, other, strict=True)
        return TypeAndPolarity(*((a.float().log_softmax(1) + b.float().log_softmax(1)) / 2 for a, b in pairs)), boxes

    def _once(self, images: Tensor) -> tuple[TypeAndPolarity, Tensor | None]:
        net = self.network
        if not isinstance(net, VarifocalNet):
            return cast(TypeAndPolarity, net(images)), None
        if self.answerer == "whole":
            return cast(TypeAndPolarity, net.global_net(net.standardise(images))), None
        found = net(images)
        boxes = None if found.u is None else square_boxes(found.u, self.recipe.data.size)
        return found.local if self.answerer == "local" else found.ensemble, boxes

    def name_case(self, name: str, reads: Sequence[Read], left_out: Mapping[str, str]) -> tuple[Case, dict[str, Cell]]:
        """As the protocol CaseNamer says."""
        return name_case(name, reads, left_out, price=float(self.calibration.price))

    def pictures(self, data: PictureData) -> list[Picture]:
        """The karyogram of the worst of the first test cells, and what the second network looked at."""
        return shown(self, data)
