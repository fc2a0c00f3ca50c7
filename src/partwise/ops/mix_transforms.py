"""`CutMix`, `Mixup`, `Cutout` and `ResizeMix` as objects for loaders and loops that are not ours.

    loader = DataLoader(dataset, batch_size=128, collate_fn=CutMix(num_classes=10, p=0.5))
    images, targets = CutMix(num_classes=10)(images, targets)

Objects only hold settings; `dataclasses.replace(mixer, p=scheduled_probability(epoch / epochs))` changes one. They draw
from torch's global generator (seeded for each worker by the loader) unless given one of their own, which is for plain
loops: workers would each start from a copy of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor
from torch.utils.data import default_collate

from partwise.config import UserError
from partwise.ops.mixing import (
    Gate,
    Mix,
    Mode,
    PartnerRule,
    apply_mix,
    draw_cutmix,
    draw_cutout,
    draw_mixup,
    draw_resizemix,
    mix_targets,
)


@dataclass(frozen=True, kw_only=True)
class Mixer(ABC):
    """Settings of a mix, callable on `(images, targets, ...)`, on that as one argument, or on a list of samples.

    Anything after the targets passes through unchanged. Returns a tuple.
    """

    p: float = 1.0
    mode: Mode = "sample"
    gate: Gate = "sample"
    generator: torch.Generator | None = None

    @abstractmethod
    def draw(self, images: Shaped[Tensor, "b c h w"]) -> Mix:
        """The mix for these pictures, on their device."""

    @abstractmethod
    def mix(self, targets: Tensor, drawn: Mix) -> Tensor:
        """The targets after the mix."""

    def __call__(self, *batch: Any) -> tuple[Any, ...]:
        """The mixed batch; a list of samples is collated first, so the object serves as a `collate_fn`."""
        images, targets, *rest = self._opened(batch)
        drawn = self.draw(images)
        return apply_mix(images, drawn), self.mix(targets, drawn), *rest

    def _opened(self, batch: tuple[Any, ...]) -> Sequence[Any]:
        fields: Any = batch[0] if len(batch) == 1 else batch
        if isinstance(fields, Sequence) and len(fields) > 0 and isinstance(fields[0], Sequence):
            fields = default_collate(list(fields))
        if not isinstance(fields, Sequence) or len(fields) < 2 or not all(isinstance(f, Tensor) for f in fields[:2]):
            raise UserError(f"{type(self).__name__}: expected images and targets, or a list of (image, target) samples")
        if fields[0].ndim != 4:
            shape = tuple(fields[0].shape)
            raise UserError(f"{type(self).__name__}: expected a batch of pictures (B, C, H, W), got shape {shape}")
        return fields


@dataclass(frozen=True, kw_only=True)
class TargetMixer(Mixer, ABC):
    """A mix of two pictures and so of two targets; returns soft targets, see `mix_targets`."""

    num_classes: int
    partner: PartnerRule = "permutation"
    smoothing: float = 0.0
    multi_label: bool = False

    def mix(self, targets: Tensor, drawn: Mix) -> Tensor:
        """Soft targets, float32 `(B, K)`."""
        return mix_targets(
            targets, drawn, num_classes=self.num_classes, smoothing=self.smoothing, multi_label=self.multi_label
        )

    def _shared_options(self, images: Tensor) -> dict[str, Any]:
        return {
            "p": self.p,
            "mode": self.mode,
            "partner": self.partner,
            "gate": self.gate,
            "generator": self.generator,
            "device": images.device,
        }


@dataclass(frozen=True, kw_only=True)
class CutMix(TargetMixer):
    """CutMix; see `draw_cutmix`."""

    alpha: float = 1.0
    correct_lambda: bool = True

    def draw(self, images: Shaped[Tensor, "b c h w"]) -> Mix:
        """A box of the partner for each picture."""
        options = self._shared_options(images)
        return draw_cutmix(*_frame(images), alpha=self.alpha, correct_lambda=self.correct_lambda, **options)


@dataclass(frozen=True, kw_only=True)
class Mixup(TargetMixer):
    """Mixup; see `draw_mixup`."""

    alpha: float = 1.0

    def draw(self, images: Shaped[Tensor, "b c h w"]) -> Mix:
        """A weight for each picture."""
        return draw_mixup(*_frame(images), alpha=self.alpha, **self._shared_options(images))


@dataclass(frozen=True, kw_only=True)
class ResizeMix(TargetMixer):
    """ResizeMix; see `draw_resizemix`."""

    scale: tuple[float, float] = (0.1, 0.8)

    def draw(self, images: Shaped[Tensor, "b c h w"]) -> Mix:
        """A place and size for the whole partner in each picture."""
        return draw_resizemix(*_frame(images), scale=self.scale, **self._shared_options(images))


@dataclass(frozen=True, kw_only=True)
class Cutout(Mixer):
    """Cutout; see `draw_cutout`. Targets come back as they were."""

    length: int = 16
    fill: tuple[float, ...] = (0.0,)

    def draw(self, images: Shaped[Tensor, "b c h w"]) -> Mix:
        """A hole for each picture."""
        return draw_cutout(
            *_frame(images),
            length=self.length,
            fill=self.fill,
            p=self.p,
            mode=self.mode,
            gate=self.gate,
            generator=self.generator,
            device=images.device,
        )

    def mix(self, targets: Tensor, drawn: Mix) -> Tensor:
        """The same targets: a hole says nothing about the class."""
        return targets


def _frame(images: Tensor) -> tuple[int, int, int]:
    batch, _, height, width = images.shape
    return batch, height, width
