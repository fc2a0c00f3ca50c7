"""Residual networks of four stages for small pictures, as dataset distillation transfers to: ResNet-18, its AP form, ResNet-10.

Unlike those of cifar_resnet.py they have the widths of ImageNet's, any norm, and may halve maps by averaging.
"""

from __future__ import annotations

from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.cifar_resnet import Channels, Width
from partwise.models.contract import Backbone
from partwise.models.convnet import Norm, make_norm

Blocks = Annotated[int, Field(ge=1, le=100)]
Halving = Literal["stride", "average"]


def _convolve(inputs: int, outputs: int, kernel: int, norm: Norm, *, halving: Halving | None) -> nn.Sequential:
    """Convolution without bias, the halving of the map, and the norm."""
    stride = 2 if halving == "stride" else 1
    pool = [nn.AvgPool2d(2)] if halving == "average" else []
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)
    return nn.Sequential(convolution, *pool, *make_norm(norm, outputs))


class SmallBlock(nn.Module):
    """3x3 - norm - ReLU - 3x3 - norm, added to the shortcut, ReLU.

    Where shapes change the shortcut is a 1x1 convolution and a norm. A map is halved by the stride of the first and of the
    shortcut's convolution, or by averages of 2x2 pixels: behind the first ReLU, and between the shortcut's convolution and
    its norm.
    """

    def __init__(self, inputs: int, width: int, norm: Norm, *, halving: Halving | None) -> None:
        super().__init__()
        self.first = _convolve(inputs, width, 3, norm, halving="stride" if halving == "stride" else None)
        self.pool = nn.AvgPool2d(2) if halving == "average" else nn.Identity()
        self.second = _convolve(width, width, 3, norm, halving=None)
        self.drop_path = nn.Identity()
        same = inputs == width and halving is None
        self.shortcut = nn.Identity() if same else _convolve(inputs, width, 1, norm, halving=halving)

    def forward(self, x: Tensor) -> Tensor:
        out = self.drop_path(self.second(self.pool(F.relu(self.first(x), inplace=True))))
        return F.relu(out + self.shortcut(x), inplace=True)


class SmallResNet(Backbone):
    """A 3x3 stem and four stages of `blocks` blocks, `width` channels and twice as many each stage; strides 1, 2, 4, 8.

    `halving="average"` is the AP form (DSA's code), which replaces strides by pools.
    """

    @validate_call
    def __init__(
        self,
        *,
        blocks: tuple[Blocks, Blocks, Blocks, Blocks] = (2, 2, 2, 2),
        width: Width = 64,
        norm: Norm = "instance",
        halving: Halving = "stride",
        in_chans: Channels = 3,
    ) -> None:
        super().__init__()
        self.stem = _convolve(in_chans, width, 3, norm, halving=None)
        self.stages = nn.ModuleList()
        self.stage_channels = tuple(width * 2**number for number in range(4))
        self.stage_strides = (1, 2, 4, 8)
        self.num_features, self.stride = self.stage_channels[-1], self.stage_strides[-1]
        inputs = width
        for number, (count, outputs) in enumerate(zip(blocks, self.stage_channels, strict=True)):
            layers = [SmallBlock(inputs, outputs, norm, halving=halving if number else None)]
            layers += [SmallBlock(outputs, outputs, norm, halving=None) for _ in range(count - 1)]
            self.stages.append(nn.Sequential(*layers))
            inputs = outputs

    def block(self, number: int, x: Tensor) -> Tensor:
        if number == 0:
            x = F.relu(self.stem(x), inplace=True)
        x = self.stages[number](x)
        return x

    def block_modules(self, number: int) -> list[nn.Module]:
        return [self.stages[number]] if number else [self.stem, self.stages[0]]
