"""From the fields of CutMix to a drawn mix: which rule, with which options, for which part of which step."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from partwise.config import UserError
from partwise.methods.cutmix.config import CutMixFields
from partwise.models.heads import ImageClassifier
from partwise.ops import draws, mixing
from partwise.ops.saliency import fine_grained_saliency, peaks

INSIDE = {"manifold": "mixup", "feature_cutmix": "cutmix"}
"""Rules that mix inside the network -> what is done to the maps there."""
DRAWN_LAYERS = (0, 1, 2)
"""Where they mix unless one place is named: the picture, and behind the first two stages (Manifold Mixup's code)."""


def check_together(fields: CutMixFields, *, world: int) -> None:
    """Raises UserError for fields that contradict one another, or cannot be had with several processes."""
    variant = fields.centre != "uniform" or fields.box_length > 0
    if fields.mode == "paper" and variant:
        raise UserError("method.mode = 'paper': the published code has no other boxes; expected 'batch' or 'sample'")
    if fields.centre != "uniform" and fields.box_length > 0:
        raise UserError("method.centre, method.box_length: two ablations at once; expected one of them")
    if fields.mix in INSIDE and world > 1:
        raise UserError(
            f"method.mix = {fields.mix!r}: partners' maps are not sent to other processes; expected one process"
        )


def layer_sizes(network: ImageClassifier, size: int, fields: CutMixFields) -> dict[int, tuple[int, int]]:
    """Places where maps may be mixed -> their (height, width), found on a blank picture; 0 is the picture itself.

    Empty for rules that mix no maps. Raises UserError for a place that the network does not have, and for a network that is
    no chain of blocks.
    """
    if fields.mix not in INSIDE:
        return {}
    backbone = network.backbone
    wanted = DRAWN_LAYERS if fields.layer is None else (fields.layer,)
    if max(wanted) >= backbone.num_blocks:
        raise UserError(
            f"method.layer = {max(wanted)}: maps can be mixed behind stages 1 to {backbone.num_blocks - 1} of this network"
        )
    parameter = next(network.parameters())
    x = torch.zeros(1, network.mean.shape[1], size, size, device=parameter.device, dtype=parameter.dtype)
    sizes = [(size, size)]
    training = network.training
    network.eval()
    with torch.no_grad():
        for number in range(max(wanted)):
            x = backbone.block(number, x)
            sizes.append((x.shape[2], x.shape[3]))
    network.train(training)
    return {layer: sizes[layer] for layer in wanted}


class Drawing:
    """The draws of one part of a step's batch: functions of (seed, stage, step, part) and of nothing before.

    `mean` is what Cutout writes, in [0, 1]; `progress` goes from 0 to 1 over the training.
    """

    def __init__(
        self,
        fields: CutMixFields,
        mean: tuple[float, ...],
        batch: int,
        key: tuple[int, str, int, int],
        progress: float,
        device: torch.device,
    ) -> None:
        self.fields, self.mean, self.batch, self.device = fields, mean, batch, device
        self.seed, self.stage = key[:2]
        self.place = key[2:]
        rising = fields.p_schedule == "linear"
        self.p = fields.p * mixing.scheduled_probability(progress) if rising else fields.p

    def generator(self, purpose: str) -> torch.Generator:
        return draws.generator(self.seed, self.stage, purpose, *self.place, device=self.device)

    def options(self, *, partner: bool = True) -> dict[str, Any]:
        """What every draw takes."""
        fields = self.fields
        mode: mixing.Mode = "batch" if fields.mode == "paper" else fields.mode
        p = 0.0 if fields.mix == "none" else self.p
        shared = {"p": p, "mode": mode, "gate": fields.gate, "generator": self.generator("mix")}
        return shared | ({"partner": fields.partner} if partner else {})

    def pictures(self, images: Tensor) -> mixing.Mix:
        """The mix of the pictures `(B, C, H, W)` of a part, with the weights of the labels."""
        return mixing.weighed(self._mix(self.fields.mix, images), self.fields.label)

    def maps(self, height: int, width: int) -> mixing.Mix:
        """The mix of maps of this size."""
        blank = torch.empty(0, 0, height, width, device="meta")
        return mixing.weighed(self._mix(INSIDE[self.fields.mix], blank), self.fields.label)

    def layer(self, places: int) -> int:
        """Where this batch is mixed: one of `places`, each as likely."""
        return draws.derive(self.seed, self.stage, "layer", *self.place) % places

    def cutout(self, images: Tensor, **options: Any) -> mixing.Mix:
        """Cutout's holes, in every picture unless the options say less, with the mean in the units of `images`."""
        unit = 1 if images.is_floating_point() else 255
        fill = tuple(unit * value for value in self.mean)
        options = options or {"generator": self.generator("cutout")}
        return mixing.draw_cutout(self.batch, *images.shape[2:], length=self.fields.cutout_length, fill=fill, **options)

    def _mix(self, rule: str, images: Tensor) -> mixing.Mix:
        fields, (height, width) = self.fields, images.shape[2:]
        size = (self.batch, height, width)
        if rule == "cutout":
            return self.cutout(images, **self.options(partner=False))
        if rule == "mixup":
            return mixing.draw_mixup(*size, alpha=fields.alpha, **self.options())
        if rule == "resizemix":
            return mixing.draw_resizemix(*size, **self.options())
        if rule == "fmix":
            return mixing.draw_fmix(*size, alpha=fields.alpha, **self.options())
        if rule == "saliencymix":
            found = peaks(fine_grained_saliency(images))
            return mixing.draw_saliencymix(*size, peaks=found, alpha=fields.alpha, **self.options())
        return self._cutmix(size)

    def _cutmix(self, size: tuple[int, int, int]) -> mixing.Mix:
        """CutMix or one of its ablations; without mixing too, with p of 0."""
        fields = self.fields
        if fields.mode == "paper" and fields.mix == "cutmix":
            return self._published(size)
        if fields.box_length:
            return mixing.draw_cutmix_fixed(*size, length=fields.box_length, **self.options())
        if fields.centre == "gaussian":
            return mixing.draw_cutmix_gaussian(*size, std=fields.centre_std, alpha=fields.alpha, **self.options())
        return mixing.draw_cutmix(*size, alpha=fields.alpha, correct_lambda=fields.correct_lambda, **self.options())

    def _published(self, size: tuple[int, int, int]) -> mixing.Mix:
        """The published code, draw for draw."""
        key = (self.stage, "mix", *self.place)
        return mixing.draw_cutmix_paper(
            *size,
            alpha=self.fields.alpha,
            p=self.p,
            numpy_state=np.random.RandomState(draws.derive(self.seed, *key) % 2**32),
            generator=draws.generator(self.seed, *key),
            correct_lambda=self.fields.correct_lambda,
        ).to(self.device)
