"""The segmentation network: trained on the pseudo masks, asked at several scales, sharpened by a CRF where wanted."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Plan, Products, StepOutput
from partwise.methods.ppl.config import SegmentationFields
from partwise.methods.ppl.learning import LearnFromLabels
from partwise.methods.ppl.masking import require_pseudo_mask
from partwise.methods.ppl.sharpening import sharpen_probabilities, to_bytes
from partwise.models.segmentation import SegmentationNetwork
from partwise.ops.averages import Average, alone
from partwise.ops.multi_scale import multi_scale_logits
from partwise.ops.segmentation_losses import balanced_cross_entropy, cross_entropy, multi_scale_loss

if TYPE_CHECKING:
    from partwise.methods.ppl.method import PplMethod


class MaskLoss(nn.Module):
    """Cross entropy of a segmentation network against masks, void ignored; DeepLab-v2's at three scales and their maximum."""

    def __init__(self, network: SegmentationNetwork, fields: SegmentationFields, average: Average = alone) -> None:
        super().__init__()
        self.network, self.fields = network, fields
        criterion = balanced_cross_entropy if fields.loss == "balanced_ce" else cross_entropy
        # Void pixels differ between the slices of a batch: counts are averaged, so that processes together give one mean.
        self.criterion = partial(criterion, average=average)

    def forward(self, batch: Batch) -> StepOutput:
        assert batch.masks is not None
        images = batch.pictures
        if self.fields.head == "deeplab-v2":
            return {"masks": multi_scale_loss(self.network, images, batch.masks.long(), criterion=self.criterion)}, {}
        logits = self.network.logits_at(images, (images.shape[-2], images.shape[-1]))
        return {"masks": self.criterion(logits.float(), batch.masks.long())}, {}


class LearnMasks(LearnFromLabels):
    """The segmentation network's training, on the pseudo masks."""

    name = "segmentation"

    def __init__(self, method: PplMethod, data: PictureData, job: Job) -> None:
        super().__init__(method, data, job, method.fields.segmentation)
        self.fields = method.fields.segmentation

    def prepare(self, products: Products) -> None:
        super().prepare(products)
        if self.fields.start == "classifier":
            self.method.segmenter.backbone.load_state_dict(self.method.classifier.backbone.state_dict())

    def labels(self, item: str) -> Tensor:
        return require_pseudo_mask(self.products, item)

    def networks(self) -> dict[str, nn.Module]:
        return {"segmenter": self.method.segmenter}

    def plans(self) -> dict[str, Plan]:
        optim, network = self.fields.optim, self.method.segmenter
        groups = parameter_groups(network, optim, head=network.head_parameters())
        return {"segmenter": Plan(build_optimizer(groups, optim), optim)}

    def loss_module(self) -> nn.Module:
        return MaskLoss(self.method.segmenter, self.fields, self.job.runtime.average)


@torch.no_grad()
def probabilities(network: SegmentationNetwork, images: Tensor, fields: SegmentationFields) -> Tensor:
    """Class probabilities `(B, K + 1, H, W)` of float pictures `(B, 3, H, W)` in [0, 1], ground first."""
    fusion = {"deeplab-v2": "max", "deeplab-v1": "mean", "deeplab-v3+": "probability"}[fields.head]
    logits = multi_scale_logits(network, images, scales=fields.scales, flip=fields.flip, fusion=fusion)  # type: ignore[arg-type]
    found = logits.float().softmax(1)
    if fields.crf == "none":
        return found
    rows = zip(to_bytes(images), found, strict=True)
    return torch.stack([sharpen_probabilities(picture, own, fields.crf) for picture, own in rows])
