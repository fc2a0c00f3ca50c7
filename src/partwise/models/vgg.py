"""VGG-GAP: VGG-16 as weakly supervised localization uses it, its last pool and its dense layers replaced by a convolution."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.cifar_resnet import Channels, Width
from partwise.models.contract import Backbone, initialise

CONVOLUTIONS = (2, 2, 3, 3, 3)
"""3x3 convolutions of each stage; all but the first stage begin with a 2x2 pool."""


class VggGap(Backbone):
    """VGG-16 without its last pool, then a 3x3 convolution to `added` channels and a ReLU; strides 1, 2, 4, 8, 16.

    Layers carry torchvision's names (`features.0`, ...), so that its ImageNet weights fit; the added convolution, which those
    do not have, then starts at random.
    """

    fresh = ("conv6",)
    """What a weights file may lack."""

    @validate_call
    def __init__(
        self,
        *,
        widths: tuple[Width, Width, Width, Width, Width] = (64, 128, 256, 512, 512),
        added: Annotated[int, Field(ge=1, le=8192)] = 1024,
        in_chans: Channels = 3,
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        self.ends: list[int] = []
        inputs = in_chans
        for number, (width, count) in enumerate(zip(widths, CONVOLUTIONS, strict=True)):
            layers += [nn.MaxPool2d(2)] if number else []
            for _ in range(count):
                layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU(inplace=True)]
                inputs = width
            self.ends.append(len(layers))
        self.features = nn.Sequential(*layers)
        self.conv6 = nn.Conv2d(inputs, added, 3, padding=1)
        self.stage_channels = (*widths[:-1], added)
        self.stage_strides = (1, 2, 4, 8, 16)
        self.num_features, self.stride = added, 16
        initialise(self)

    def _layers(self, number: int) -> nn.Sequential:
        return self.features[self.ends[number - 1] if number else 0 : self.ends[number]]

    def block(self, number: int, x: Tensor) -> Tensor:
        x = self._layers(number)(x)
        return F.relu(self.conv6(x), inplace=True) if number + 1 == len(self.ends) else x

    def block_modules(self, number: int) -> list[nn.Module]:
        last = [self.conv6] if number + 1 == len(self.ends) else []
        return [*self._layers(number), *last]
