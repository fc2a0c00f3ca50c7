"""The classifier every method shares: normalise, backbone, average pool, one linear layer, and the maps it implies.

Because pooling is an average and the last layer linear, the logit of a class is the mean of its class activation map
plus a bias (Zhou et al., 2016): `maps` gives both in one pass. Segmentation heads are segmentation.py's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.backbones import build_backbone
from partwise.models.branches import regularise
from partwise.models.contract import Backbone
from partwise.models.pictures import PictureNetwork


class ImageClassifier(PictureNetwork):
    """Float images `(B, C, H, W)` in [0, 1] -> logits `(B, K)`; `mean` and `std` are those of the training pictures."""

    def __init__(
        self,
        backbone: Backbone,
        num_classes: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        dropout: float = 0.0,
    ) -> None:
        super().__init__(mean=mean, std=std)
        self.backbone = backbone
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.fc = nn.Linear(backbone.num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """The last feature map `(B, num_features, h, w)`."""
        features: Tensor = self.backbone(self.normalise(images))
        return features

    def classify(self, features: Tensor) -> Tensor:
        """A last feature map -> logits `(B, K)`."""
        logits: Tensor = self.fc(self.dropout(features.mean((2, 3))))
        return logits

    def forward(self, images: Tensor) -> Tensor:
        return self.classify(self.features(images))

    def maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(B, K)` and float32 class activation maps `(B, K, h, w)`: sum_k w[c, k] F_k, without the bias."""
        features = self.features(images)
        with torch.autocast(features.device.type, enabled=False):
            weight = self.fc.weight.float()[:, :, None, None]
            maps = F.conv2d(features.float(), weight)
        return self.classify(features), maps


@validate_call
def build_classifier(
    *,
    backbone: str,
    num_classes: Annotated[int, Field(ge=1, le=1_000_000)],
    mean: tuple[float, ...],
    std: tuple[float, ...],
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    arguments: Mapping[str, Any] | None = None,
    branches: Mapping[str, Any] | None = None,
) -> ImageClassifier:
    """An ImageClassifier from plain values, as saved.py keeps them; `arguments` are the backbone's.

    `branches` are those of `branches.regularise`, for a network that was trained with noise on its residual branches.
    """
    network = build_backbone(backbone, weights=None, **(arguments or {}))
    if branches:
        regularise(network, **branches)
    return ImageClassifier(network, num_classes, mean=mean, std=std, dropout=dropout)
