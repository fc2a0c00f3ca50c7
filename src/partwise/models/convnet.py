"""Plain chains of convolutions for small pictures, as dataset distillation trains them: ConvNet-D, AlexNet and VGG-11.

Weights start as torch's layers do, which is what distilled sets are made for. The linear layer on top, and networks
without maps, are distillation.py's; residual networks are small_resnet.py's.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from operator import mul
from typing import Annotated, Literal

from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.cifar_resnet import Channels, Width
from partwise.models.contract import Backbone

Norm = Literal["none", "instance", "batch", "layer", "group"]
Activation = Literal["relu", "leaky_relu", "sigmoid", "swish"]
Pooling = Literal["average", "max", "none"]

GROUPS = 4


def make_norm(norm: Norm, channels: int) -> list[nn.Module]:
    """The norm of a map with `channels`, or nothing; all have a scale and a shift for each channel.

    `"instance"` is a group norm with a group for each channel, `"layer"` one with a single group, `"group"` one with 4.
    Raises ValueError where 4 groups do not fit.
    """
    if norm == "none":
        return []
    if norm == "batch":
        return [nn.BatchNorm2d(channels)]
    groups = {"instance": channels, "layer": 1, "group": GROUPS}[norm]
    if channels % groups:
        raise ValueError(f"group norm: {channels} channels are no multiple of {groups}")
    return [nn.GroupNorm(groups, channels)]


def make_activation(activation: Activation) -> nn.Module:
    """A fresh module for an activation's name; swish is x sigmoid(x), and the leak 0.01."""
    makers = {
        "relu": lambda: nn.ReLU(inplace=True),
        "leaky_relu": lambda: nn.LeakyReLU(0.01, inplace=True),
        "sigmoid": nn.Sigmoid,
        "swish": nn.SiLU,
    }
    return makers[activation]()


def make_pooling(pooling: Pooling) -> list[nn.Module]:
    """A pool of 2x2 pixels, or nothing."""
    if pooling == "none":
        return []
    return [nn.AvgPool2d(2) if pooling == "average" else nn.MaxPool2d(2)]


class PlainChain(Backbone):
    """Stages of layers, one after the other and nothing else: `stages` holds them in the order in which they run."""

    def __init__(self, stages: Sequence[Sequence[nn.Module]], channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.Sequential(*layers) for layers in stages])
        self.stage_channels = tuple(channels)
        self.stage_strides = tuple(accumulate(strides, mul))
        self.num_features, self.stride = self.stage_channels[-1], self.stage_strides[-1]

    def block(self, number: int, x: Tensor) -> Tensor:
        out: Tensor = self.stages[number](x)
        return out

    def block_modules(self, number: int) -> list[nn.Module]:
        return [self.stages[number]]


class ConvNet(PlainChain):
    """ConvNet-`depth`: blocks of 3x3 convolution, norm, activation and 2x2 pool, all of one `width`; strides 2, 4, 8...

    Published depths: 3 for 32 px, 4 for 64, 5 for 128.
    """

    @validate_call
    def __init__(
        self,
        *,
        depth: Annotated[int, Field(ge=1, le=8)] = 3,
        width: Width = 128,
        norm: Norm = "instance",
        activation: Activation = "relu",
        pooling: Pooling = "average",
        in_chans: Channels = 3,
    ) -> None:
        stages = [
            [
                nn.Conv2d(width if number else in_chans, width, 3, padding=1),
                *make_norm(norm, width),
                make_activation(activation),
                *make_pooling(pooling),
            ]
            for number in range(depth)
        ]
        super().__init__(stages, [width] * depth, [1 if pooling == "none" else 2] * depth)


class SmallAlexNet(PlainChain):
    """AlexNet for 32 px pictures: five convolutions, three 2x2 pools, no norm unless asked for; strides 2, 4, 8."""

    @validate_call
    def __init__(self, *, norm: Norm = "none", in_chans: Channels = 3) -> None:
        def convolve(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
            return _convolve(inputs, outputs, kernel, norm)

        stages = [
            [*convolve(in_chans, 128, 5), nn.MaxPool2d(2)],
            [*convolve(128, 192, 5), nn.MaxPool2d(2)],
            [*convolve(192, 256, 3), *convolve(256, 192, 3), *convolve(192, 192, 3), nn.MaxPool2d(2)],
        ]
        super().__init__(stages, (128, 192, 192), (2, 2, 2))


class SmallVgg11(PlainChain):
    """VGG-11 for 32 px pictures: eight 3x3 convolutions and five 2x2 pools; strides 2 to 32."""

    @validate_call
    def __init__(self, *, norm: Norm = "instance", in_chans: Channels = 3) -> None:
        stages, inputs = [], in_chans
        for widths in ((64,), (128,), (256, 256), (512, 512), (512, 512)):
            layers: list[nn.Module] = []
            for width in widths:
                layers += _convolve(inputs, width, 3, norm)
                inputs = width
            stages.append([*layers, nn.MaxPool2d(2)])
        super().__init__(stages, (64, 128, 256, 512, 512), (2, 2, 2, 2, 2))


def _convolve(inputs: int, outputs: int, kernel: int, norm: Norm) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
    return [convolution, *make_norm(norm, outputs), make_activation("relu")]
