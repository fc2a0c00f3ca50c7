"""Mixing pictures as pure functions: CutMix, Mixup, Cutout, ResizeMix, SaliencyMix, FMix. The door to the `mixing_*` modules.

Draw once, apply everywhere:

    mix = draw_cutmix(len(images), *images.shape[2:], p=0.5, generator=generator, device=images.device)
    images = apply_mix(images, mix)
    targets = mix_targets(targets, mix, num_classes=10)

The same as objects for loaders and loops: `partwise.ops.mix_transforms`.
"""

from __future__ import annotations

import torch
from jaxtyping import Float32, Shaped
from torch import Tensor

from partwise.ops.mixing_draws import (
    draw_cutmix,
    draw_cutmix_paper,
    draw_cutout,
    draw_mixup,
    draw_resizemix,
    scheduled_probability,
)
from partwise.ops.mixing_labels import LabelRule, mix_boxes, mix_targets, target_pair, weighed
from partwise.ops.mixing_pixels import apply_mix, mix_masks
from partwise.ops.mixing_rules import Gate, Mix, Mode, PartnerRule
from partwise.ops.mixing_variants import draw_cutmix_fixed, draw_cutmix_gaussian, draw_fmix, draw_saliencymix

__all__ = [
    "Gate",
    "LabelRule",
    "Mix",
    "Mode",
    "PartnerRule",
    "apply_mix",
    "cutmix",
    "draw_cutmix",
    "draw_cutmix_fixed",
    "draw_cutmix_gaussian",
    "draw_cutmix_paper",
    "draw_cutout",
    "draw_fmix",
    "draw_mixup",
    "draw_resizemix",
    "draw_saliencymix",
    "mix_boxes",
    "mix_masks",
    "mix_targets",
    "scheduled_probability",
    "target_pair",
    "weighed",
]


def cutmix(
    images: Shaped[Tensor, "b c h w"],
    targets: Shaped[Tensor, " b *k"],
    *,
    num_classes: int,
    alpha: float = 1.0,
    p: float = 1.0,
    mode: Mode = "sample",
    partner: PartnerRule = "permutation",
    gate: Gate = "sample",
    correct_lambda: bool = True,
    smoothing: float = 0.0,
    multi_label: bool = False,
    generator: torch.Generator | None = None,
    out: Shaped[Tensor, "b c h w"] | None = None,
) -> tuple[Shaped[Tensor, "b c h w"], Float32[Tensor, "b num_classes"]]:
    """CutMix in one line: (mixed images, soft targets); options as in `draw_cutmix`, `apply_mix` and `mix_targets`."""
    height, width = images.shape[-2:]
    mix = draw_cutmix(
        images.shape[0],
        height,
        width,
        alpha=alpha,
        p=p,
        mode=mode,
        partner=partner,
        gate=gate,
        correct_lambda=correct_lambda,
        generator=generator,
        device=images.device,
    )
    soft = mix_targets(targets, mix, num_classes=num_classes, smoothing=smoothing, multi_label=multi_label)
    return apply_mix(images, mix, out=out), soft
