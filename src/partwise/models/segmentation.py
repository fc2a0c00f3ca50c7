"""Segmentation networks: a head of the DeepLab family on any backbone, pictures in, class scores of every cell out.

Three heads: the four summed atrous convolutions of DeepLab-v2 (Chen et al., 2018, TPAMI), the wide-view convolution of
DeepLab-v1 as SEAM retrains it (Wang et al., 2020), and the pyramid and decoder of DeepLab-v3+ (Chen et al., 2018, ECCV).
All resize bilinearly by cell centres (align_corners=False), in training as in use; the code published for the other two
heads mixes that with align_corners=True. Losses and averages over scales are those of ops/segmentation_losses.py and
ops/multi_scale.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any, Literal

import torch
from pydantic import ConfigDict, Field, ValidationError, validate_call
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from partwise.config import UserError, nearest
from partwise.models.backbones import build_backbone, explain
from partwise.models.contract import Backbone, initialise
from partwise.models.pictures import PictureNetwork
from partwise.ops.cam import upsample

Norm = Literal["batch", "group"]
NumClasses = Annotated[int, Field(ge=1, le=65_536)]
RateScale = Annotated[float, Field(gt=0, le=64)]
Width = Annotated[int, Field(ge=4, le=8192, multiple_of=4)]
Dropout = Annotated[float, Field(ge=0, lt=1)]

V2_RATES = (6, 12, 18, 24)
V1_RATE = 12
V3_RATES = (6, 12, 18)
SHALLOW_STRIDE = 4
"""The coarsest map that DeepLab-v3+ takes its outlines from."""
GROUP_CHANNELS = 16
"""Channels that group norm takes together: 16 groups of a map of 256."""

checked = validate_call(config=ConfigDict(arbitrary_types_allowed=True))


class SegmentationHead(nn.Module, ABC):
    """Feature maps of a backbone, shallow to deep -> class scores `(B, K, h, w)` at `stride`."""

    stride: int
    """Image pixels per cell of the scores."""
    reads_stages: bool = False
    """Whether it takes every stage, or the last map alone."""

    @abstractmethod
    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """One map a stage, or only the last; scores without softmax."""


class DeepLabV2Head(SegmentationHead):
    """The sum of 3x3 convolutions with atrous rates 6, 12, 18 and 24, each with a bias; weights begin normal, std 0.01.

    `rate_scale` multiplies the rates (rounded, at least 1): those of the paper are for pictures of 321 px at stride 8.
    """

    @checked
    def __init__(self, backbone: Backbone, *, num_classes: NumClasses, rate_scale: RateScale = 1.0) -> None:
        super().__init__()
        self.stride = backbone.stride
        self.branches = nn.ModuleList(
            nn.Conv2d(backbone.num_features, num_classes, 3, padding=rate, dilation=rate)
            for rate in scaled_rates(V2_RATES, rate_scale)
        )
        for branch in self.branches:
            start_classifier(branch)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.branches[0](maps[-1])
        for branch in self.branches[1:]:
            scores = scores + branch(maps[-1])
        return scores


class DeepLabV1Head(SegmentationHead):
    """3x3 at rate 12 to `width` - BN - ReLU - 1x1 - BN - ReLU - dropout - 1x1 to the classes."""

    @checked
    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: NumClasses,
        rate_scale: RateScale = 1.0,
        width: Width = 512,
        norm: Norm = "batch",
        dropout: Dropout = 0.5,
    ) -> None:
        super().__init__()
        self.stride = backbone.stride
        (rate,) = scaled_rates((V1_RATE,), rate_scale)
        self.view = conv_norm(backbone.num_features, width, kernel=3, rate=rate, norm=norm)
        self.mix = conv_norm(width, width, norm=norm)
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self)
        start_classifier(self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        scores: Tensor = self.classifier(self.dropout(self.mix(self.view(maps[-1]))))
        return scores


class AtrousPyramid(nn.Module):
    """ASPP of DeepLab-v3: 1x1, three atrous 3x3 and the picture's mean side by side, then 1x1 to `width` channels.

    With batch norm the mean of the picture needs at least two pictures a training batch.
    """

    def __init__(self, inputs: int, width: int, *, rates: Sequence[int], norm: Norm, dropout: float) -> None:
        super().__init__()
        self.point = conv_norm(inputs, width, norm=norm)
        self.atrous = nn.ModuleList(conv_norm(inputs, width, kernel=3, rate=rate, norm=norm) for rate in rates)
        self.pooled = conv_norm(inputs, width, norm=norm)
        self.project = conv_norm(width * (len(rates) + 2), width, norm=norm)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        local = [self.point(x), *(branch(x) for branch in self.atrous)]
        # one value a channel, so that resizing it is repeating it
        whole = self.pooled(x.mean((2, 3), keepdim=True)).expand_as(local[0])
        mixed: Tensor = self.dropout(self.project(torch.cat([*local, whole], dim=1)))
        return mixed


class DeepLabV3PlusHead(SegmentationHead):
    """An atrous pyramid on the last stage, sharpened by a shallow one: 1x1 to 48, concatenation, two 3x3, 1x1.

    The shallow stage is the deepest that is finer than the last and has a stride of at most 4. The rates 6, 12 and 18
    are for a backbone of stride 16; the paper doubles them at stride 8 (`rate_scale=2`). `norm="group"` also trains on
    batches too small for batch norm. Raises UserError for a backbone without such a stage.
    """

    reads_stages = True

    @checked
    def __init__(
        self,
        backbone: Backbone,
        *,
        num_classes: NumClasses,
        rate_scale: RateScale = 1.0,
        width: Width = 256,
        shallow_width: Width = 48,
        norm: Norm = "batch",
        dropout: Dropout = 0.5,
    ) -> None:
        super().__init__()
        self.shallow = shallow_stage(backbone)
        self.stride = backbone.stage_strides[self.shallow]
        rates = scaled_rates(V3_RATES, rate_scale)
        self.pyramid = AtrousPyramid(backbone.stage_channels[-1], width, rates=rates, norm=norm, dropout=dropout)
        self.outlines = conv_norm(backbone.stage_channels[self.shallow], shallow_width, norm=norm)
        self.decoder = nn.Sequential(
            conv_norm(width + shallow_width, width, kernel=3, norm=norm),
            conv_norm(width, width, kernel=3, norm=norm),
        )
        self.classifier = nn.Conv2d(width, num_classes, 1)
        initialise(self)
        start_classifier(self.classifier)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        fine = self.outlines(maps[self.shallow])
        coarse = upsample(self.pyramid(maps[-1]), (fine.shape[-2], fine.shape[-1]))
        scores: Tensor = self.classifier(self.decoder(torch.cat([coarse, fine], dim=1)))
        return scores


HEADS: Mapping[str, Callable[..., SegmentationHead]] = MappingProxyType(
    {"deeplab-v1": DeepLabV1Head, "deeplab-v2": DeepLabV2Head, "deeplab-v3+": DeepLabV3PlusHead}
)


def scaled_rates(rates: Sequence[int], scale: float) -> tuple[int, ...]:
    """Atrous rates times `scale`, rounded, at least 1."""
    return tuple(max(1, round(rate * scale)) for rate in rates)


def conv_norm(inputs: int, outputs: int, *, norm: Norm, kernel: int = 1, rate: int = 1) -> nn.Sequential:
    """Convolution that keeps the size, norm, ReLU; no bias, which the norm has."""
    padding = rate * (kernel // 2)
    convolution = nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False)
    return nn.Sequential(convolution, make_norm(norm, outputs), nn.ReLU(inplace=True))


def make_norm(norm: Norm, channels: int) -> nn.Module:
    """Batch norm, or group norm over groups of 16 channels (of fewer where 16 does not divide them)."""
    if norm == "batch":
        return nn.BatchNorm2d(channels)
    return nn.GroupNorm(channels // math.gcd(channels, GROUP_CHANNELS), channels)


def start_classifier(layer: nn.Module) -> None:
    """Weights normal with a deviation of 0.01, biases zero: every class begins about equally likely."""
    assert isinstance(layer, nn.Conv2d) and layer.bias is not None
    nn.init.normal_(layer.weight, std=0.01)
    nn.init.zeros_(layer.bias)


def shallow_stage(backbone: Backbone) -> int:
    """Which stage gives DeepLab-v3+ its outlines: the deepest of stride 4 or less that is finer than the last.

    Raises UserError where there is none, as in networks of one resolution.
    """
    strides = backbone.stage_strides
    fine = [at for at, stride in enumerate(strides) if stride <= SHALLOW_STRIDE and stride < strides[-1]]
    if not fine:
        raise UserError(
            f"head 'deeplab-v3+' needs a stage of stride {SHALLOW_STRIDE} or less that is finer than the last, and the "
            f"strides of this network are {', '.join(map(str, strides))}; use 'deeplab-v2'"
        )
    return fine[-1]


class SegmentationNetwork(PictureNetwork):
    """Float images `(B, C, H, W)` in [0, 1] -> class scores `(B, K, h, w)`, one cell for `stride` pixels.

    `mean` and `std` are those of the training pictures. `frozen_batchnorm` keeps the backbone's batch norms at their
    running statistics also in training, as the DeepLab recipes do; whether their weights learn is the optimiser's matter.
    """

    def __init__(
        self,
        backbone: Backbone,
        head: SegmentationHead,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        frozen_batchnorm: bool = False,
    ) -> None:
        super().__init__(mean=mean, std=std)
        self.backbone = backbone
        self.head = head
        self.stride = head.stride
        self.frozen_batchnorm = frozen_batchnorm
        self.train(self.training)

    def forward(self, images: Tensor) -> Tensor:
        x = self.normalise(images)
        maps = self.backbone.forward_stages(x) if self.head.reads_stages else [self.backbone(x)]
        scores: Tensor = self.head(maps)
        return scores

    def logits_at(self, images: Tensor, size: tuple[int, int]) -> Tensor:
        """Class scores at `size` (height, width), bilinear between the centres of the cells."""
        return upsample(self(images), size)

    def head_parameters(self) -> Iterator[nn.Parameter]:
        """What the head learns, for a rate of its own; biases are the vectors that belong to a convolution."""
        return self.head.parameters()

    def train(self, mode: bool = True) -> SegmentationNetwork:
        super().train(mode)
        if self.frozen_batchnorm:
            for layer in self.backbone.modules():
                if isinstance(layer, _BatchNorm):
                    layer.eval()
        return self


@validate_call
def build_segmenter(
    *,
    backbone: str,
    num_classes: NumClasses,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    head: str = "deeplab-v2",
    frozen_batchnorm: bool = False,
    arguments: Mapping[str, Any] | None = None,
    head_arguments: Mapping[str, Any] | None = None,
) -> SegmentationNetwork:
    """A SegmentationNetwork from plain values, as saved.py keeps them; `num_classes` counts the background.

    `arguments` are the backbone's, `head_arguments` the head's. Raises UserError for what either does not take.
    """
    network = build_backbone(backbone, weights=None, **(arguments or {}))
    top = build_head(head, network, num_classes=num_classes, **(head_arguments or {}))
    return SegmentationNetwork(network, top, mean=mean, std=std, frozen_batchnorm=frozen_batchnorm)


def build_head(name: str, backbone: Backbone, *, num_classes: int, **arguments: Any) -> SegmentationHead:
    """The head called `name` on `backbone`; UserError for an unknown name or argument, with the nearest."""
    if name not in HEADS:
        close = nearest(name, HEADS)
        raise UserError(f"unknown head {name!r}; " + (f"nearest: {close!r}" if close else f"known: {', '.join(HEADS)}"))
    kind: Any = HEADS[name]
    try:
        return kind(backbone, num_classes=num_classes, **arguments)
    except ValidationError as error:
        raise UserError(f"head {name!r}: {explain(kind, error)}") from error
