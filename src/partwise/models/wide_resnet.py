"""Wide residual networks (Zagoruyko and Komodakis, 2016) for 32 px pictures: few blocks, many channels."""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.cifar_resnet import Channels, Depth, Stride, Width
from partwise.models.contract import Backbone, initialise, stage_strides


class WideBlock(nn.Module):
    """BN - ReLU - 3x3 - BN - ReLU - dropout - 3x3, added to the shortcut.

    Where the shapes change, the shortcut is a 1x1 convolution of the activated input, else the input itself.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.drop_path = nn.Identity()
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x), inplace=True)
        out = F.relu(self.bn2(self.conv1(active)), inplace=True)
        out = self.drop_path(self.conv2(self.dropout(out)))
        out += x if self.shortcut is None else self.shortcut(active)
        return out


class WideChain(Backbone):
    """Stages of wide blocks between a first convolution and a closing BN - ReLU, which belong to the first and last block."""

    conv1: nn.Conv2d
    stages: nn.ModuleList
    bn_final: nn.BatchNorm2d

    def block(self, number: int, x: Tensor) -> Tensor:
        x = self.stages[number](x if number else self.conv1(x))
        return F.relu(self.bn_final(x), inplace=True) if number + 1 == len(self.stages) else x

    def block_modules(self, number: int) -> list[nn.Module]:
        first = [] if number else [self.conv1]
        last = [self.bn_final] if number + 1 == len(self.stages) else []
        return [*first, self.stages[number], *last]


class WideResNet(WideChain):
    """WRN-`depth`-`widen`: depth = 6 n + 4, widths 16, then 16, 32, 64 times `widen`; strides 1, 2, 4.

    Inner stages are returned as they are summed; the last one after the closing BN - ReLU.
    """

    @validate_call
    def __init__(
        self,
        *,
        depth: Depth,
        widen: Annotated[float, Field(gt=0, le=128)],
        widths: tuple[Width, Width, Width] = (16, 32, 64),
        dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
        in_chans: Channels = 3,
        last_stride: Stride = 2,
    ) -> None:
        super().__init__()
        count, rest = divmod(depth - 4, 6)
        if rest or count < 1:
            raise ValueError(f"depth {depth}: a wide residual network needs 6 n + 4; {max(10, depth - rest)} is near")
        self.stage_channels = tuple(max(1, round(width * widen)) for width in widths)
        self.stage_strides = stage_strides(last_stride)
        self.num_features, self.stride = self.stage_channels[-1], self.stage_strides[-1]
        self.conv1 = nn.Conv2d(in_chans, widths[0], 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        inputs = widths[0]
        for outputs, stride in zip(self.stage_channels, (1, 2, last_stride), strict=True):
            layers = [WideBlock(inputs, outputs, stride, dropout)]
            layers += [WideBlock(outputs, outputs, 1, dropout) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*layers))
            inputs = outputs
        self.bn_final = nn.BatchNorm2d(inputs)
        initialise(self)
