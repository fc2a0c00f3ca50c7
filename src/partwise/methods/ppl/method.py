"""Progressive patch learning as a method: its networks, its stages in order, and what a run can answer.

classifier (classifying.py) -> maps (mapping.py) -> confident labels, affinity network, walk (growing.py) -> pseudo masks
(masking.py) -> segmentation network (segmenting.py). The report's rows of pictures are showing.py's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.config import Recipe, UserError
from partwise.data.loading import PictureData
from partwise.engine.loop import Job
from partwise.engine.stages import Stage
from partwise.methods.base import DataFacts, Method
from partwise.methods.ppl.classifying import LearnPatches, WarmUp
from partwise.methods.ppl.config import PAPER, PplFields, PplRecipe
from partwise.methods.ppl.growing import ConfidentLabels, LearnAffinity, Walk, named, thresholded
from partwise.methods.ppl.mapping import ReadMaps, read_maps
from partwise.methods.ppl.masking import FIXED_MAPS, WritePseudoMasks, read_pseudo_mask
from partwise.methods.ppl.segmenting import LearnMasks, probabilities
from partwise.methods.ppl.showing import step_by_step
from partwise.methods.ppl.sizing import within
from partwise.models.affinity import AffinityNet, IrnNetwork, build_affinity_net, build_irn
from partwise.models.backbones import build_backbone
from partwise.models.patch_learning import PatchLearning
from partwise.models.saved import NetworkSpec
from partwise.models.segmentation import SegmentationNetwork, build_head
from partwise.ops.segmentation_losses import resize_labels
from partwise.report.values import MaskPrediction, Picture

SHOWS = 0.5
"""Probability above which a picture is taken to show a class, where nobody says what it shows."""


class PplMethod(Method):
    """Answers to Classifier and Mapper; as a Seeder gives maps of known classes, as a PseudoLabeller and Segmenter masks."""

    name = "ppl"
    paper = PAPER
    native = True
    segmenter: SegmentationNetwork
    affinity: IrnNetwork | AffinityNet

    def __init__(self, recipe: Recipe, facts: DataFacts) -> None:
        super().__init__(recipe, facts)
        if not facts.classes:
            raise UserError(
                f"data.source {recipe.data.source}: has no labels; {recipe.recipe} needs to know what each picture shows"
            )
        self.fields: PplFields = cast(PplRecipe, recipe).method
        model = recipe.model
        self.classifier = PatchLearning(
            build_backbone(model.backbone, weights=model.weights, **model.arguments),
            len(facts.classes),
            mode=self.fields.mode,
            positions=self.fields.positions,
            grids=self.fields.grids,
            detach=self.fields.detach,
            mean=model.mean,
            std=model.std,
        )
        self.classifier.stage = self.classifier.num_stages - 1
        # Protocols are recognised by their functions: a run that makes no masks must not be taken for one that does.
        if self.makes_masks:
            self.pseudo_mask: Callable[[str], Tensor | None] = self._pseudo_mask
            if self.fields.affinity.kind != "none":
                self.affinity = self._build_affinity()
        if self.makes_network:
            self.segment: Callable[[Tensor], Tensor] = self._segment
            self.segmenter = self._build_segmenter()

    @property
    def makes_masks(self) -> bool:
        """Whether the run makes pseudo masks."""
        return self.fields.until in ("masks", "network")

    @property
    def makes_network(self) -> bool:
        """Whether the run trains a segmentation network."""
        return self.fields.until == "network"

    @property
    def walks(self) -> bool:
        """Whether the run has an affinity network."""
        return self.makes_masks and self.fields.affinity.kind != "none"

    def _build_affinity(self) -> IrnNetwork | AffinityNet:
        spec, fields = self._affinity_spec(), self.fields.affinity
        network = (build_irn if fields.kind == "irn" else build_affinity_net)(**spec.arguments)
        cells, wanted = -(-self.recipe.data.size // network.stride), 2 * fields.radius - 1
        if cells < wanted:
            raise UserError(
                f"method.affinity.radius = {fields.radius}: such pairs need {wanted} cells a side, and data.size = "
                f"{self.recipe.data.size} has {cells} of {network.stride} pixels; expected "
                + (f"at most {(cells + 1) // 2}" if cells >= 3 else "method.affinity.kind=none for pictures so small")
            )
        return network

    def _affinity_spec(self) -> NetworkSpec:
        shared = self._shared() | {"arguments": dict(self.recipe.model.arguments)}
        if self.fields.affinity.kind == "irn":
            fields = self.fields.affinity
            return NetworkSpec("irn", shared | {"stride": fields.stride, "displacement": fields.displacement})
        return NetworkSpec("affinity_net", shared)

    def _shared(self) -> dict[str, Any]:
        model = self.recipe.model
        return {"backbone": model.backbone, "mean": list(model.mean), "std": list(model.std)}

    def _segmenter_arguments(self) -> dict[str, Any]:
        """The backbone's arguments: its own where the recipe gives some, else the classifier's."""
        own = self.fields.segmentation.arguments
        return dict(self.recipe.model.arguments if own is None else own)

    def _build_segmenter(self) -> SegmentationNetwork:
        model, fields = self.recipe.model, self.fields.segmentation
        weights = model.weights if fields.start == "weights" else None
        backbone = build_backbone(model.backbone, weights=weights, **self._segmenter_arguments())
        head = build_head(fields.head, backbone, num_classes=len(self.classes) + 1, rate_scale=fields.rate_scale)
        return SegmentationNetwork(backbone, head, mean=model.mean, std=model.std, frozen_batchnorm=fields.freeze_norm)

    # -- the contract --------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {"classifier": self.classifier}
        if self.walks:
            found["affinity"] = self.affinity
        if self.makes_network:
            found["segmenter"] = self.segmenter
        return found

    def specs(self) -> dict[str, NetworkSpec]:
        fields, shared = self.fields, self._shared()
        arguments = shared | {
            "num_classes": len(self.classes),
            "mode": fields.mode,
            "positions": list(fields.positions),
            "grids": list(fields.grids),
            "detach": fields.detach,
            "arguments": dict(self.recipe.model.arguments),
        }
        found = {"classifier": NetworkSpec("patch_learning", arguments)}
        if self.walks:
            found["affinity"] = self._affinity_spec()
        if self.makes_network:
            segmentation = fields.segmentation
            arguments = shared | {
                "num_classes": len(self.classes) + 1,
                "head": segmentation.head,
                "frozen_batchnorm": segmentation.freeze_norm,
                "arguments": self._segmenter_arguments(),
                "head_arguments": {"rate_scale": segmentation.rate_scale},
            }
            found["segmenter"] = NetworkSpec("segmenter", arguments)
        return found

    def stages(self, data: PictureData, job: Job) -> list[Stage]:
        fields = self.fields
        stages: list[Stage] = []
        if fields.warmup_epochs:
            stages.append(WarmUp(self, data, job, name="warm_up", epochs=fields.warmup_epochs))
        stages += self._patch_stages(data, job)
        # Maps of training and validation pictures are what pseudo masks are made of; the report's test maps are read anew.
        if self.makes_masks:
            stride = self.affinity.stride if self.walks else 4
            stages.append(ReadMaps("maps", self.classifier, data, fields.maps, stride=stride))
            if self.walks:
                stages += [
                    ConfidentLabels(data, fields.affinity),
                    LearnAffinity(self, data, job),
                    Walk(self, data),
                ]
            stages.append(WritePseudoMasks(self, data))
        if self.makes_network:
            stages.append(LearnMasks(self, data, job))
        return stages

    def _patch_stages(self, data: PictureData, job: Job) -> list[Stage]:
        fields, epochs = self.fields, job.recipe.train.epochs
        later = fields.later_lr if fields.warmup_epochs else 1.0
        if self.classifier.num_stages == 1:
            return [LearnPatches(self, data, job, name="classifier", epochs=epochs, stage=0, rate=later)]
        if fields.schedule == "interleaved":
            return [LearnPatches(self, data, job, name="classifier", epochs=epochs, stage=None, rate=later)]
        rates = [later, *[fields.later_lr] * (self.classifier.num_stages - 1)]
        lengths = [epochs, *[fields.later_epochs] * (self.classifier.num_stages - 1)]
        return [
            LearnPatches(self, data, job, name=f"patches_{number + 1}", epochs=length, stage=number, rate=rate)
            for number, (length, rate) in enumerate(zip(lengths, rates, strict=True))
        ]

    # -- answers -------------------------------------------------------------------------------------------------------

    def logits(self, images: Tensor) -> Tensor:
        """Class scores `(B, K)` of float images in [0, 1]; each class is a yes or no of its own."""
        logits: Tensor = self.classifier(images)
        return logits

    def maps(self, images: Tensor) -> Tensor:
        """Raw class activation maps `(B, K, h, w)`, float32, at one scale."""
        return self.classifier.maps(images, self.fields.maps.half)[1]

    def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
        """Maps `(B, K, H, W)` in [0, 1] of the classes that `labels` `(B, K)` name, over scales and mirror images."""
        return read_maps(self.classifier, images, labels, self.fields.maps).full

    def _segment(self, images: Tensor) -> Tensor:
        """Masks uint8 `(B, H, W)` of the segmentation network: 0 ground, k + 1 class k. Large pictures are reduced for it."""
        found = probabilities(self.segmenter, within(images), self.fields.segmentation).argmax(1).to(torch.uint8)
        return resize_labels(found, (images.shape[-2], images.shape[-1]))

    def _pseudo_mask(self, id: str) -> Tensor | None:
        """The pseudo mask of a training picture of this run."""
        return None if self.products is None else read_pseudo_mask(self.products, id)

    def pictures(self, data: PictureData) -> list[Picture]:
        """The same pictures after every step of the way."""
        with torch.inference_mode():
            return step_by_step(self, data)

    @torch.inference_mode()
    def predict(self, images: Tensor) -> list[MaskPrediction]:
        chances = self.logits(within(images, self.fields.maps.longest)).sigmoid()
        if self.makes_network:
            masks = self._segment(images)
        else:
            likely = chances > SHOWS
            likely |= F.one_hot(chances.argmax(1), chances.shape[1]).bool() & ~likely.any(1, keepdim=True)
            threshold = self.fields.maps.threshold
            level = FIXED_MAPS if threshold is None else threshold
            every = torch.arange(len(self.classes))
            maps = self.seeds(images, likely.float())
            masks = torch.stack([named(thresholded(own, level), every) for own in maps])
        counts = torch.stack([(masks == k + 1).flatten(1).float().mean(1) for k in range(len(self.classes))], 1)
        rows = zip(masks.cpu().numpy(), counts.cpu().numpy(), chances.float().cpu().numpy(), strict=True)
        return [MaskPrediction(mask, shares, chance) for mask, shares, chance in rows]
