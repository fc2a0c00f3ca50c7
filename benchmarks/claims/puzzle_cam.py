"""Puzzle-CAM (Jo and Yu 2021) as a rival: a classifier that must find in the tiles of a picture what it finds in the whole.

The picture is cut into 2 x 2 tiles, which go through the network apart from one another and from the whole; the tiles'
features are put together again. Loss: soft margin of the whole, soft margin of the tiles put together, and alpha times the
mean absolute difference of the two class maps, of the classes that the picture shows (others count as zero). alpha rises
from 0 to 4 over the first half of the training and stays. Maps are read from the whole, so they cost what plain ones do.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.engine.loop import Job
from partwise.engine.stages import Stage, StepOutput
from partwise.methods.ppl.classifying import LearnClasses, shown
from partwise.methods.ppl.method import PplMethod
from partwise.models.patch_learning import PatchLearning
from partwise.ops.patches import patchwise

ALPHA, RISE = 4.0, 0.5
"""Weight of the difference between the maps, and the share of the training over which it rises."""
TILES = (2, 2)


class PuzzleLoss(nn.Module):
    """The three losses of a network in mode `baseline`; `alpha` follows the step."""

    def __init__(self, network: PatchLearning) -> None:
        super().__init__()
        self.network = network
        self.alpha = 0.0

    def forward(self, batch: Batch) -> StepOutput:
        assert batch.targets is not None
        whole, tiled = self.maps(batch.pictures)
        present = shown(batch.targets, whole.shape[1])
        apart = ((whole - tiled).abs() * present[:, :, None, None]).mean()
        losses = {
            "whole": F.binary_cross_entropy_with_logits(whole.mean((2, 3)), present),
            "tiled": F.binary_cross_entropy_with_logits(tiled.mean((2, 3)), present),
            "apart": self.alpha * apart,
        }
        return losses, {}

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Raw class maps `(B, K, h, w)` of the whole and of the tiles put together, float32.

        The whole comes last, so that batch norm's running statistics lean towards what evaluation sees.
        """
        network = self.network
        backbone, pictures = network.backbone, network.normalise(images)
        tiled = patchwise(backbone, pictures, stride=backbone.stride, grid=TILES)
        whole = backbone(pictures)
        weight = network.weight().float()[:, :, None, None]
        with torch.autocast(images.device.type, enabled=False):
            return F.conv2d(whole.float(), weight), F.conv2d(tiled.float(), weight)


class LearnPuzzle(LearnClasses):
    """The one stage of the rival, with batch norm at work."""

    loss: PuzzleLoss

    def enter(self) -> None:
        self.network.freeze_norm(False)

    def loss_module(self) -> nn.Module:
        self.loss = PuzzleLoss(self.network)
        return self.loss

    def batches(self, first_step: int) -> Iterator[Batch]:
        self.loss.alpha = self.alpha(first_step)
        return super().batches(first_step)

    def after_step(self, step: int) -> None:
        self.loss.alpha = self.alpha(step + 1)

    def alpha(self, step: int) -> float:
        """The weight at a step: a function of the step alone, so that resuming is exact."""
        return ALPHA * min(1.0, step / (RISE * self.steps))


class PuzzleCam(PplMethod):
    """The method `ppl` in mode `baseline` up to its maps, trained as a puzzle."""

    def stages(self, data: PictureData, job: Job) -> list[Stage]:
        assert self.fields.mode == "baseline" and not self.makes_masks
        return [LearnPuzzle(self, data, job, name="puzzle", epochs=job.recipe.train.epochs)]
