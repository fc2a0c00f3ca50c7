"""Residual networks for 32 px pictures (He et al., 2016, section 4.2): three stages of n blocks on a 3x3 stem.

Not for ImageNet-size residual networks: those come from timm.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.contract import Backbone, initialise, stage_strides

Depth = Annotated[int, Field(ge=1, le=2000)]
Width = Annotated[int, Field(ge=1, le=8192)]
Channels = Annotated[int, Field(ge=1, le=64)]
Stride = Literal[1, 2]


def blocks_per_stage(depth: int, *, convolutions: int) -> int:
    """How many blocks each of the three stages has: depth = 3 n convolutions + 2 (the stem and the linear layer).

    Raises ValueError where no whole n fits.
    """
    blocks, rest = divmod(depth - 2, 3 * convolutions)
    if rest or blocks < 1:
        step = 3 * convolutions
        fits = max(step + 2, depth - rest)
        raise ValueError(f"depth {depth}: three stages of these blocks need a depth of {step} n + 2; {fits} is near")
    return blocks


def zero_pad_channels(x: Tensor, channels: int) -> Tensor:
    """`x` with zero channels behind its own, up to `channels`; dtype, device and memory format stay."""
    missing = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x


class PadShortcut(nn.Module):
    """Option A of the paper: every `stride`-th pixel, zeros for the new channels, nothing to learn."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.channels, self.stride = channels, stride

    def forward(self, x: Tensor) -> Tensor:
        # a pool of one pixel picks what x[:, :, ::stride, ::stride] would, and keeps channels_last, which slicing loses
        picked = F.avg_pool2d(x, 1, self.stride) if self.stride > 1 else x
        return zero_pad_channels(picked, self.channels)


def make_shortcut(kind: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    """Identity where the shapes agree, else zero padding (option A) or a 1x1 convolution with batch norm (option B)."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(outputs, stride)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """3x3 - BN - ReLU - 3x3 - BN, added to the shortcut, ReLU."""

    expansion = 1
    convolutions = 2

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.drop_path = nn.Identity()
        self.shortcut = make_shortcut(shortcut, inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.drop_path(self.bn2(self.conv2(out)))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class BottleneckBlock(nn.Module):
    """1x1 - BN - ReLU - 3x3 - BN - ReLU - 1x1 (four times as wide) - BN, added to the shortcut, ReLU."""

    expansion = 4
    convolutions = 3

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.drop_path = nn.Identity()
        self.shortcut = make_shortcut(shortcut, inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.drop_path(self.bn3(self.conv3(out)))
        out += self.shortcut(x)
        return F.relu(out, inplace=True)


class CifarResNet(Backbone):
    """ResNet-`depth` for small pictures; strides 1, 2, 4.

    `shortcut="pad"` is the paper's option A (no parameters) and the published ResNet-20/56/110; `"projection"` is
    option B, which the bottleneck ResNet-110 of the CutMix experiments uses. `last_stride=1` keeps the last map twice
    as fine; `stem_stride=2` makes the network for 64 px pictures, at the cost of 32 px ones.
    """

    @validate_call
    def __init__(
        self,
        *,
        depth: Depth,
        block: Literal["basic", "bottleneck"] = "basic",
        widths: tuple[Width, Width, Width] = (16, 32, 64),
        shortcut: Literal["pad", "projection"] = "pad",
        in_chans: Channels = 3,
        last_stride: Stride = 2,
        stem_stride: Stride = 1,
    ) -> None:
        super().__init__()
        kind = BasicBlock if block == "basic" else BottleneckBlock
        count = blocks_per_stage(depth, convolutions=kind.convolutions)
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, stem_stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for width, stride in zip(widths, (1, 2, last_stride), strict=True):
            layers = []
            for position in range(count):
                layers.append(kind(inputs, width, stride if position == 0 else 1, shortcut))
                inputs = width * kind.expansion
            self.stages.append(nn.Sequential(*layers))
        self.stage_channels = tuple(width * kind.expansion for width in widths)
        self.stage_strides = tuple(stem_stride * stride for stride in stage_strides(last_stride))
        self.num_features, self.stride = self.stage_channels[-1], self.stage_strides[-1]
        initialise(self)

    def block(self, number: int, x: Tensor) -> Tensor:
        if number == 0:
            x = F.relu(self.bn1(self.conv1(x)), inplace=True)
        x = self.stages[number](x)
        return x

    def block_modules(self, number: int) -> list[nn.Module]:
        return [self.stages[number]] if number else [self.conv1, self.bn1, self.stages[0]]
