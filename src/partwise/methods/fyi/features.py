"""Distribution matching (DM: Zhao and Bilen 2023): the mean features of fresh random networks, real against synthetic.

For each class c, with A_c the synthetic pictures (FYI: and their mirror images), under one siamese augmentation w,

    L = sum_c | mean f(w(real_c)) - mean f(w(A_c)) |^2,    f the flattened last map of a random network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from partwise.data.siamese import augment
from partwise.engine.stages import Losses
from partwise.methods.fyi.learning import Distil
from partwise.models.distillation import FlatClassifier
from partwise.ops.matching import mean_feature_distance


class MatchFeatures(Distil):
    """A step: one network, all classes at once on the synthetic side."""

    _embed: Callable[[Tensor], Tensor] | None = None

    def match(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        loss = self.distance(self.fresh(step), step)
        return {"loss": self.apply(optimizers["pictures"], loss) / self.num_classes}

    def distance(self, network: FlatClassifier, step: int) -> Tensor:
        """The sum of L over this process's classes; its gradient is added to that of the pictures."""
        network.requires_grad_(False).train()
        if self._embed is None:  # of one module, whose weights change
            self._embed = self.compiled(network.embed)
        draws = self.draw(step)
        target = self.real_means(network, augment(self.drawn_real(step), draws))
        images = augment(self.synthetic(), draws)
        features = self._embed(images.flatten(0, 1).contiguous(memory_format=self.layout)).unflatten(
            0, images.shape[:2]
        )
        loss = mean_feature_distance(features, target[:, None]).sum()
        loss.backward()
        return loss.detach()

    @torch.no_grad()
    def real_means(self, network: FlatClassifier, images: Tensor) -> Tensor:
        """Mean features `(C, d)` of real pictures `(C, n, ch, S, S)`, float32.

        On a CPU class by class: maps of one class stay in its caches. Batch norm sees all classes at once.
        """
        device = images.device.type
        whole = device != "cpu" or any(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())
        parts = [images] if whole else images.split(1)
        with torch.autocast(device, torch.bfloat16, enabled=self.fields.real_precision == "bf16"):
            return torch.cat([self._mean_features(part) for part in parts])

    def _mean_features(self, images: Tensor) -> Tensor:
        """`(C, n, ch, S, S)` -> mean features `(C, d)`, float32."""
        assert self._embed is not None
        flat = images.flatten(0, 1).contiguous(memory_format=self.layout)
        return self._embed(flat).unflatten(0, images.shape[:2]).float().mean(1)
