"""Adam-v2 and Adam-v1 as a method: an encoder and its heads, the phases that train them, and the embeddings of a picture."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from partwise.config import Recipe, UserError
from partwise.data.anatomy_views import ViewTable, contrast_views, draw_views, localizability_views
from partwise.data.loading import PictureData
from partwise.engine.loop import Job
from partwise.engine.stages import Stage
from partwise.methods.adam_v2.config import PAPER, AdamFields, AdamRecipe
from partwise.methods.adam_v2.contrasting import KeyQueue, LearnContrast
from partwise.methods.adam_v2.learning import LearnLocalizability, LearnPartsAndWholes, needed_views
from partwise.methods.base import DataFacts, Method
from partwise.models.encoders import build_encoder
from partwise.models.part_whole_heads import ContrastHead, DinoHead, PartHeads
from partwise.models.saved import NetworkSpec
from partwise.ops import draws
from partwise.ops.pruned_contrast import random_queue
from partwise.report.values import EmbeddingPrediction


class Centre(nn.Module):
    """The running mean of the teacher's logits, float32 `(K,)`, which both phases share."""

    value: Tensor

    def __init__(self, size: int) -> None:
        super().__init__()
        self.register_buffer("value", torch.zeros(size))


class AdamMethod(Method):
    """Answers to Embedder, DenseEmbedder, StagedEmbedder and PartWhole, with the network that was averaged: the teacher.

    Of Adam-v1 that is the query's network, which learned by gradients, as its authors have it.
    """

    name = "adam_v2"
    paper = PAPER

    def __init__(self, recipe: Recipe, facts: DataFacts) -> None:
        super().__init__(recipe, facts)
        self.fields: AdamFields = cast(AdamRecipe, recipe).method
        self._check()
        self.input_size = self.fields.view_size
        self.num_parts = self.fields.num_parts if self.is_v2 and any(self.fields.part_whole_epochs) else 0
        self.student = build_encoder(**self._encoder_arguments(), weights=recipe.model.weights)
        width = self.student.num_features
        self.student_head = DinoHead(**self._head(width)) if self.is_v2 else ContrastHead(**self._head(width))
        follower = copy.deepcopy(self.student).requires_grad_(False)
        self.head = copy.deepcopy(self.student_head).requires_grad_(False)
        self.centre = Centre(self.fields.num_prototypes if self.is_v2 else 1)
        if self.is_v2:
            self.encoder = follower
            self.parts = PartHeads(num_features=width, num_parts=self.fields.num_parts)
        else:
            self.encoder, self.key = self.student, follower
            generator = draws.generator(recipe.train.seed, "queue")
            self.queue = KeyQueue(random_queue(self.fields.queue, self.fields.contrast_dim, generator=generator))

    @property
    def is_v2(self) -> bool:
        """Whether this is the paper's system, or the one before it."""
        return self.fields.version == "v2"

    def _check(self) -> None:
        """What would fail later is said now."""
        fields = self.fields
        weights = (fields.localize_weight, fields.compose_weight, fields.decompose_weight)
        if any(fields.part_whole_epochs) and not any(weights):
            raise UserError("method.localize_weight, compose_weight and decompose_weight: all 0; expected one above 0")
        if fields.local_size == fields.view_size:
            raise UserError(f"method.local_size = {fields.local_size}: expected another than method.view_size")

    def _encoder_arguments(self) -> dict[str, Any]:
        model = self.recipe.model
        return {
            "backbone": model.backbone,
            "mean": list(model.mean),
            "std": list(model.std),
            "input_size": self.fields.view_size,
            "arguments": dict(model.arguments),
        }

    def _head(self, width: int) -> dict[str, Any]:
        fields = self.fields
        if not self.is_v2:
            return {"num_features": width, "hidden": fields.hidden, "out": fields.contrast_dim}
        return {
            "num_features": width,
            "num_prototypes": fields.num_prototypes,
            "hidden": fields.hidden,
            "bottleneck": fields.bottleneck,
        }

    def check(self, data: PictureData) -> None:
        """Anchors and parts of every level that is trained, drawn once: what is too small is refused before the run begins."""
        fields, size = self.fields, (data.fields.size, data.fields.size)
        phases: list[tuple[ViewTable, Iterable[int]]] = [
            (localizability_views(fields.view_size, fields.local_size), trained_levels(fields.localize_epochs)),
            (needed_views(fields), trained_levels(fields.part_whole_epochs)),
        ]
        if not self.is_v2:
            phases = [(contrast_views(fields.view_size, fields.decomposer), fields.contrast_levels)]
        for table, levels in phases:
            for level in levels:
                draw_views(1, table, size=size, level=level, generator=torch.Generator())

    def to(self, device: torch.device) -> None:
        super().to(device)
        for network in (self.centre, *([] if self.is_v2 else [self.queue])):
            network.to(device)

    # -- the contract --------------------------------------------------------------------------------------------------

    def networks(self) -> dict[str, nn.Module]:
        """`encoder` is the one to take away; the others are there to train on."""
        if not self.is_v2:
            return {"encoder": self.encoder, "key": self.key, "student_head": self.student_head, "head": self.head}
        return self._taught() | {"parts": self.parts}

    def specs(self) -> dict[str, NetworkSpec]:
        encoder = NetworkSpec("encoder", self._encoder_arguments())
        head = NetworkSpec("dino_head" if self.is_v2 else "contrast_head", self._head(self.student.num_features))
        if not self.is_v2:
            return {"encoder": encoder, "key": encoder, "student_head": head, "head": head}
        parts = {"num_features": self.student.num_features, "num_parts": self.fields.num_parts}
        found = {"encoder": encoder, "head": head, "student": encoder, "student_head": head}
        return found | {"parts": NetworkSpec("part_heads", parts)}

    def _taught(self) -> dict[str, nn.Module]:
        """Student and teacher, with their heads."""
        return {
            "encoder": self.encoder,
            "head": self.head,
            "student": self.student,
            "student_head": self.student_head,
        }

    def teaching(self) -> dict[str, nn.Module]:
        """What both phases of v2 change."""
        return self._taught() | {"centre": self.centre}

    def contrasting(self) -> dict[str, nn.Module]:
        """What every level of v1 changes."""
        return {
            "student": self.student,
            "student_head": self.student_head,
            "key": self.key,
            "head": self.head,
            "queue": self.queue,
        }

    def stages(self, data: PictureData, job: Job) -> list[Stage]:
        fields = self.fields
        if job.runtime.precision == "16-mixed" and fields.clip_each is not None and self.is_v2:
            raise UserError(
                "train.precision: fp16 scales gradients, which method.clip_each would shorten; expected bf16 or fp32, or "
                "method.clip_each=null"
            )
        if not self.is_v2:
            return [LearnContrast(self, data, job, level) for level in fields.contrast_levels]
        stages: list[Stage] = []
        if any(fields.localize_epochs):
            stages.append(LearnLocalizability(self, data, job))
        if any(fields.part_whole_epochs):
            stages.append(LearnPartsAndWholes(self, data, job))
        return stages

    # -- answers -------------------------------------------------------------------------------------------------------

    def embed(self, images: Tensor) -> Tensor:
        """Pictures `(B, C, H, W)` in [0, 1], resized to the large views -> embeddings `(B, D)`."""
        return self.encoder.embed(images)

    def dense(self, images: Tensor) -> Tensor:
        """Pictures at their own size -> one embedding a cell, `(B, D, h, w)`."""
        return self.encoder.dense(images, resize=False)

    def stage_maps(self, images: Tensor) -> Sequence[Tensor]:
        """Pictures at their own size -> the maps of all stages of the encoder, shallow to deep."""
        return self.encoder.stage_maps(images, resize=False)

    def compose(self, parts: Tensor) -> Tensor:
        """Embeddings of parts `(B, n, D)` -> what the student's head makes of them, `(B, D)`."""
        whole: Tensor = self.parts.compose(parts)
        return whole

    def decompose(self, embeddings: Tensor) -> Tensor:
        """Embeddings of wholes `(B, D)` -> of their parts `(B, n, D)`."""
        parts: Tensor = self.parts.decompose(embeddings)
        return parts

    @torch.inference_mode()
    def predict(self, images: Tensor) -> Sequence[EmbeddingPrediction]:
        embeddings, maps = self.embed(images).float(), self.dense(images).float().movedim(1, -1)
        rows = zip(embeddings.cpu().numpy(), maps.cpu().numpy(), strict=True)
        return [EmbeddingPrediction(embedding, found) for embedding, found in rows]


def trained_levels(epochs: Sequence[float]) -> list[int]:
    """The levels at which a phase has passes."""
    return [level for level, passes in enumerate(epochs) if passes]
