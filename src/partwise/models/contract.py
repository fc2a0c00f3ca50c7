"""What every network behind a head gives, whoever wrote it: its last feature map, its stages and their sizes.

Not for heads, losses or weights files; see heads.py and weights.py.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Backbone(nn.Module, ABC):
    """Images `(B, in_chans, H, W)`, already normalised, -> feature maps."""

    num_features: int
    """Channels of what `forward` returns."""
    stride: int
    """Image pixels per cell of what `forward` returns."""
    stage_channels: tuple[int, ...]
    stage_strides: tuple[int, ...]

    @property
    def num_blocks(self) -> int:
        """How many blocks `block` runs, one a stage."""
        return len(self.stage_strides)

    @abstractmethod
    def block(self, number: int, x: Tensor) -> Tensor:
        """Block `number` on what the block before it gave (block 0: on images); x stays as it is.

        All blocks in turn are `forward`. Raises UserError for networks that are no chain of blocks.
        """

    @abstractmethod
    def block_modules(self, number: int) -> list[nn.Module]:
        """The modules that `block` runs, for freezing. Raises UserError as `block` does."""

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        """One map a stage, shallow to deep, with `stage_channels` and `stage_strides`."""
        maps = []
        for number in range(self.num_blocks):
            x = self.block(number, x)
            maps.append(x)
        return maps

    def forward(self, x: Tensor) -> Tensor:
        """The last map `(B, num_features, h, w)`, after the final norm and activation: what a head pools."""
        return self.forward_stages(x)[-1]

    def pooled(self, x: Tensor) -> Tensor:
        """One embedding `(B, num_features)` an image: the mean of the last map, unless the network has its own way."""
        return self.forward(x).mean((2, 3))


def initialise(network: nn.Module) -> None:
    """He normal over the fan-out for convolutions, ones and zeros for batch norm, as the CutMix code starts."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def stage_strides(last_stride: int) -> tuple[int, int, int]:
    """Pixels per cell of the three stages of a network for 32 px pictures."""
    return 1, 2, 2 * last_stride
