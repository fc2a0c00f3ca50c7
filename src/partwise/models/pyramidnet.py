"""Pyramidal residual networks (Han et al., 2017) for 32 px pictures: every block is a little wider than the last.

The bottleneck variant alone, as the CutMix experiments use it: PyramidNet-110 (alpha 64) and PyramidNet-200 (alpha
240).
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.cifar_resnet import Channels, Depth, Stride, Width, blocks_per_stage, zero_pad_channels
from partwise.models.contract import Backbone, initialise, stage_strides

EXPANSION = 4


def block_widths(blocks: int, *, alpha: float, stem: int = 16) -> list[int]:
    """The inner width of each block: `stem` grows by alpha / blocks a block as a float, then is rounded (half to even).

    The sum is accumulated, not multiplied out, since published parameter counts depend on where a half falls.
    """
    step, exact, widths = alpha / blocks, float(stem), []
    for _ in range(blocks):
        exact += step
        widths.append(round(exact))
    return widths


class PyramidBlock(nn.Module):
    """BN - 1x1 - BN - ReLU - 3x3 - BN - ReLU - 1x1 (four times as wide) - BN, added to the shortcut without a ReLU.

    The shortcut averages 2x2 pixels (rounding the size up) where the stride is 2, and pads new channels with zeros.
    """

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.outputs, self.stride = width * EXPANSION, stride
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, self.outputs, 1, bias=False)
        self.bn4 = nn.BatchNorm2d(self.outputs)
        self.drop_path = nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = self.conv1(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(out), inplace=True))
        out = self.conv3(F.relu(self.bn3(out), inplace=True))
        out = self.drop_path(self.bn4(out))
        shortcut = F.avg_pool2d(x, 2, 2, ceil_mode=True) if self.stride == 2 else x
        out += zero_pad_channels(shortcut, self.outputs)
        return out


class PyramidNet(Backbone):
    """PyramidNet-`depth` with bottleneck blocks, widened by `alpha` in all; strides 1, 2, 4.

    The stem is a 3x3 convolution and batch norm without ReLU. Inner stages are returned as they are summed; the last
    one after the closing BN - ReLU.
    """

    @validate_call
    def __init__(
        self,
        *,
        depth: Depth,
        alpha: Annotated[float, Field(ge=0, le=8192)],
        stem: Width = 16,
        in_chans: Channels = 3,
        last_stride: Stride = 2,
    ) -> None:
        super().__init__()
        count = blocks_per_stage(depth, convolutions=3)
        widths = block_widths(3 * count, alpha=alpha, stem=stem)
        self.conv1 = nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.stages = nn.ModuleList()
        inputs = stem
        for first, stride in zip(range(0, 3 * count, count), (1, 2, last_stride), strict=True):
            layers = []
            for position in range(count):
                layers.append(PyramidBlock(inputs, widths[first + position], stride if position == 0 else 1))
                inputs = layers[-1].outputs
            self.stages.append(nn.Sequential(*layers))
        self.bn_final = nn.BatchNorm2d(inputs)
        self.stage_channels = tuple(EXPANSION * widths[end - 1] for end in (count, 2 * count, 3 * count))
        self.stage_strides = stage_strides(last_stride)
        self.num_features, self.stride = inputs, self.stage_strides[-1]
        initialise(self)

    def block(self, number: int, x: Tensor) -> Tensor:
        x = self.stages[number](x if number else self.bn1(self.conv1(x)))
        return F.relu(self.bn_final(x), inplace=True) if number + 1 == len(self.stages) else x

    def block_modules(self, number: int) -> list[nn.Module]:
        first = [] if number else [self.conv1, self.bn1]
        last = [self.bn_final] if number + 1 == len(self.stages) else []
        return [*first, self.stages[number], *last]
