"""Distribution matching (DM: Zhao and Bilen 2023): the mean features of fresh random networks, real against synthetic.

For each class c, with A_c the synthetic pictures (FYI: and their mirror images), under one siamese augmentation w,

    L = sum_c | mean f(w(real_c)) - mean f(w(A_c)) |^2,    f the flattened last map of a random network.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from partwise.data.siamese import augment
from partwise.engine.stages import Losses
from partwise.methods.fyi.learning import Distil, has_batch_norm
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
        real = augment(self.drawn_real(step), draws)
        with torch.no_grad(), torch.autocast(real.device.type, torch.bfloat16, enabled=self.halved):
            target = self.features(network, real).mean(1, keepdim=True)
        features = self.features(network, augment(self.synthetic(), draws))
        loss = mean_feature_distance(features, target).sum()
        loss.backward()
        return loss.detach()

    @property
    def halved(self) -> bool:
        """Whether the real pictures are computed in bfloat16."""
        return self.fields.real_precision == "bf16"

    def features(self, network: FlatClassifier, images: Tensor) -> Tensor:
        """Features `(C, n, d)`, float32, of pictures `(C, n, ch, S, S)`; batch norm sees all of them at once."""
        assert self._embed is not None
        flat = images.flatten(0, 1)
        pieces = [flat] if has_batch_norm(network) else self.pieces(flat)
        return torch.cat([self._embed(piece).float() for piece in pieces]).unflatten(0, images.shape[:2])
