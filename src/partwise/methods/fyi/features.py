"""Distribution matching (DM: Zhao and Bilen 2023): the mean features of fresh random networks, real against synthetic.

For each class c, with A_c the synthetic pictures (FYI: and their mirror images), under one siamese augmentation w,

    L = sum_c | mean f(w(real_c)) - mean f(w(A_c)) |^2,    f the flattened last map of a random network.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from partwise.data.siamese import augment
from partwise.engine.stages import Losses
from partwise.methods.fyi.learning import Distil
from partwise.models.distillation import FlatClassifier
from partwise.ops.matching import mean_feature_distance
from partwise.ops.per_class import class_features


class MatchFeatures(Distil):
    """A step: one network, all classes at once on the synthetic side."""

    def match(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        network = self.fresh(step).requires_grad_(False).train()
        draws = self.draw(step)
        target = self.real_means(network, augment(self.drawn_real(step), draws))
        features = class_features(network.embed, augment(self.synthetic(), draws))
        loss = mean_feature_distance(features, target[:, None]).sum()
        loss.backward()
        return {"loss": self.apply(optimizers["pictures"], loss) / self.num_classes}

    @torch.no_grad()
    def real_means(self, network: FlatClassifier, images: Tensor) -> Tensor:
        """Mean features `(C, d)` of real pictures `(C, n, ch, S, S)`, float32.

        On a CPU class by class: maps of one class stay in its caches. Batch norm sees all classes at once.
        """
        device = images.device.type
        whole = device != "cpu" or any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
        parts = [images] if whole else images.split(1)
        with torch.autocast(device, torch.bfloat16, enabled=self.fields.real_precision == "bf16"):
            return torch.cat([class_features(network.embed, part).float().mean(1) for part in parts])
