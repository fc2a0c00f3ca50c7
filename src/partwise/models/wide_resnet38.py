"""ResNet-38, model A1 of Wu et al. (2016, "Wider or deeper"), as weakly supervised segmentation uses it: stride 8.

Modules are named as in the code of AffinityNet and SEAM, so that their weights files load as they are.
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.cifar_resnet import Channels
from partwise.models.contract import Backbone, initialise

STAGES: tuple[tuple[str, ...], ...] = (
    ("b2", "b2_1", "b2_2"),
    ("b3", "b3_1", "b3_2"),
    ("b4", "b4_1", "b4_2", "b4_3", "b4_4", "b4_5"),
    ("b5", "b5_1", "b5_2"),
    ("b6",),
    ("b7",),
)
WIDTHS = (128, 256, 512, 1024, 2048, 4096)
STRIDES = (2, 4, 8, 8, 8, 8)


class PreActivatedUnit(nn.Module):
    """BN - ReLU before everything; where shapes change, the shortcut is a 1x1 convolution of the activated input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(inputs)
        same = inputs == outputs and stride == 1
        self.conv_branch1 = None if same else nn.Conv2d(inputs, outputs, 1, stride, bias=False)

    def activate(self, x: Tensor) -> Tensor:
        """What the unit's convolutions see of the sum `x` before it."""
        return F.relu(self.bn_branch2a(x), inplace=True)

    def branch(self, active: Tensor) -> Tensor:
        """The convolutions beside the shortcut."""
        raise NotImplementedError

    def forward(self, x: Tensor, active: Tensor) -> Tensor:
        out = self.branch(active)
        out += x if self.conv_branch1 is None else self.conv_branch1(active)
        return out


class Unit(PreActivatedUnit):
    """3x3 - BN - ReLU - 3x3, each with its own dilation."""

    def __init__(
        self, inputs: int, middle: int, outputs: int, *, stride: int = 1, dilations: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__(inputs, outputs, stride)
        first, second = dilations
        self.conv_branch2a = nn.Conv2d(inputs, middle, 3, stride, padding=first, dilation=first, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = nn.Conv2d(middle, outputs, 3, padding=second, dilation=second, bias=False)

    def branch(self, active: Tensor) -> Tensor:
        out = F.relu(self.bn_branch2b1(self.conv_branch2a(active)), inplace=True)
        return self.conv_branch2b1(out)


class BottleneckUnit(PreActivatedUnit):
    """1x1 to a quarter - BN - ReLU - dropout - dilated 3x3 to a half - BN - ReLU - dropout - 1x1; whole channels drop."""

    def __init__(self, inputs: int, outputs: int, *, dilation: int, dropout: float) -> None:
        super().__init__(inputs, outputs, 1)
        quarter, half = outputs // 4, outputs // 2
        self.conv_branch2a = nn.Conv2d(inputs, quarter, 1, bias=False)
        self.bn_branch2b1 = nn.BatchNorm2d(quarter)
        self.dropout_2b1 = nn.Dropout2d(dropout)
        self.conv_branch2b1 = nn.Conv2d(quarter, half, 3, padding=dilation, dilation=dilation, bias=False)
        self.bn_branch2b2 = nn.BatchNorm2d(half)
        self.dropout_2b2 = nn.Dropout2d(dropout)
        self.conv_branch2b2 = nn.Conv2d(half, outputs, 1, bias=False)

    def branch(self, active: Tensor) -> Tensor:
        out = F.relu(self.bn_branch2b1(self.conv_branch2a(active)), inplace=True)
        out = self.conv_branch2b1(self.dropout_2b1(out))
        out = F.relu(self.bn_branch2b2(out), inplace=True)
        return self.conv_branch2b2(self.dropout_2b2(out))


class WideResNet38(Backbone):
    """Six stages at strides 2, 4, 8, 8, 8, 8, the last three dilated (2, 4, 4); 4096 channels at the end.

    Every stage is returned after the BN - ReLU that follows it: the last after its own, the others after that of the
    next stage's first unit, which uses nothing else of them. So stages are a chain of blocks, and the published taps
    of AffinityNet are stages 2, 3 and 5. `width` multiplies all channels, rounded to multiples of 4; from 1/64 on the
    stages still differ. Dropout acts in training only: 0.3 in b6, 0.5 in b7.
    """

    @validate_call
    def __init__(self, *, width: Annotated[float, Field(ge=1 / 64, le=4)] = 1.0, in_chans: Channels = 3) -> None:
        super().__init__()
        stem, *widths = (4 * max(1, round(channels * width / 4)) for channels in (64, *WIDTHS))
        self.conv1a = nn.Conv2d(in_chans, stem, 3, padding=1, bias=False)
        inputs = stem
        for names, outputs in zip(STAGES[:3], widths[:3], strict=True):
            for place, name in enumerate(names):
                self.add_module(name, Unit(inputs, outputs, outputs, stride=1 if place else 2))
                inputs = outputs
        self.b5 = Unit(widths[2], widths[2], widths[3], dilations=(1, 2))
        self.b5_1 = Unit(widths[3], widths[2], widths[3], dilations=(2, 2))
        self.b5_2 = Unit(widths[3], widths[2], widths[3], dilations=(2, 2))
        self.b6 = BottleneckUnit(widths[3], widths[4], dilation=4, dropout=0.3)
        self.b7 = BottleneckUnit(widths[4], widths[5], dilation=4, dropout=0.5)
        self.bn7 = nn.BatchNorm2d(widths[5])
        self.stage_channels, self.stage_strides = tuple(widths), STRIDES
        self.num_features, self.stride = widths[-1], STRIDES[-1]
        initialise(self)

    def block(self, number: int, x: Tensor) -> Tensor:
        first, *others = self._units(number)
        active = x if number else first.activate(self.conv1a(x))
        # The first unit of every stage changes the shape, so its shortcut too starts from the activated map.
        x = first(active, active)
        for unit in others:
            x = unit(x, unit.activate(x))
        if number + 1 == self.num_blocks:
            return F.relu(self.bn7(x), inplace=True)
        return self._units(number + 1)[0].activate(x)

    def block_modules(self, number: int) -> list[nn.Module]:
        first, *others = self._units(number)
        start: list[nn.Module] = [self.conv1a, first]
        if number:  # the norm of its first unit closes the block before
            start = [module for module in first.children() if module is not first.bn_branch2a]
        last = number + 1 == self.num_blocks
        return [*start, *others, self.bn7 if last else self._units(number + 1)[0].bn_branch2a]

    def _units(self, stage: int) -> list[PreActivatedUnit]:
        return [self.get_submodule(name) for name in STAGES[stage]]  # type: ignore[misc]
