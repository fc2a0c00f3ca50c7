"""Networks that tell which cells of a picture belong together: IRN's boundary and displacement heads, AffinityNet.

Both read several stages of a backbone. Losses and affinities of pairs are ops/affinity.py's, walks along them
ops/random_walk.py's. Widths, norms and starting weights are those of the published codes (Ahn et al. 2019; Ahn and
Kwak 2018); for other backbones than theirs the same rules are applied to the stages there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Annotated, Any, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from partwise.models.backbones import build_backbone
from partwise.models.contract import Backbone
from partwise.models.pictures import PictureNetwork

BOUNDARY_WIDTH = 32
DISPLACEMENT_WIDTHS = ((64, 8), (128, 16), (256, 16))
"""Channels and norm groups of the first taps; the last row is that of all further ones and of the merges."""
AFFINITY_WIDTHS = (64, 128, 256)


class Fields(NamedTuple):
    """What IrnNetwork says of every cell."""

    boundary: Tensor
    """Logits `(B, 1, h, w)` of a boundary between objects."""
    displacement: Tensor | None
    """`(B, 2, h, w)`: rows and columns from the cell to the centre of its object; None where that head is left out."""


class TapNetwork(PictureNetwork):
    """A backbone that takes float images `(B, C, H, W)` in [0, 1]; `mean` and `std` are those it was trained with."""

    def __init__(self, backbone: Backbone, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__(mean=mean, std=std)
        self.backbone = backbone


class BoundaryHead(nn.Module):
    """Each tap 1x1 to 32 channels, GroupNorm(4), upsampled to the finest tap, ReLU; joined and 1x1 to one logit."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        self.factors = [stride / min(strides) for stride in strides]
        self.reduce = nn.ModuleList(normed_projection(inputs, BOUNDARY_WIDTH, 4) for inputs in channels)
        self.join = nn.Conv2d(BOUNDARY_WIDTH * len(channels), 1, 1)

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        size = finest_size(taps, self.factors)
        rows = zip(self.reduce, taps, self.factors, strict=True)
        logits: Tensor = self.join(torch.cat([F.relu(resize(layer(tap), by, size)) for layer, tap, by in rows], dim=1))
        return logits


class DisplacementHead(nn.Module):
    """A small pyramid: coarse taps merge at the finest of them, then with the fine ones; 1x1 to two channels.

    Fine are the taps at the finest stride. A tap gets 64, 128 or 256 channels (the first, the second, all further
    ones) and GroupNorm of 8, 16 or 16 groups; a merge has 256 and 16. The last layer has no bias: outside of training
    `mean` is taken off instead, which is to be measured after training.
    """

    mean: Tensor

    def __init__(self, channels: Sequence[int], strides: Sequence[int]) -> None:
        super().__init__()
        widths = [DISPLACEMENT_WIDTHS[min(place, len(DISPLACEMENT_WIDTHS) - 1)] for place in range(len(channels))]
        self.reduce = nn.ModuleList(normed_projection(c, *width) for c, width in zip(channels, widths, strict=True))
        self.factors = [stride / min(strides) for stride in strides]
        self.coarse = [place for place, factor in enumerate(self.factors) if factor > 1]
        self.fine = [place for place, factor in enumerate(self.factors) if factor == 1]
        merged, groups = DISPLACEMENT_WIDTHS[-1]
        inputs = sum(widths[place][0] for place in self.fine)
        self.merge: nn.Module | None = None
        if self.coarse:
            self.merge = normed_projection(sum(widths[place][0] for place in self.coarse), merged, groups)
            inputs += merged
        self.join = nn.Sequential(
            normed_projection(inputs, merged, groups), nn.ReLU(inplace=True), nn.Conv2d(merged, 2, 1, bias=False)
        )
        self.register_buffer("mean", torch.zeros(2))

    def forward(self, taps: Sequence[Tensor]) -> Tensor:
        reduced = [layer(tap) for layer, tap in zip(self.reduce, taps, strict=True)]
        parts = [F.relu(reduced[place]) for place in self.fine]
        if self.merge is not None:
            middle = min(self.factors[place] for place in self.coarse)
            size = finest_size([taps[place] for place in self.coarse], [self.factors[place] for place in self.coarse])
            coarse = [F.relu(resize(reduced[place], self.factors[place] / middle, size)) for place in self.coarse]
            parts.append(F.relu(resize(self.merge(torch.cat(coarse, dim=1)), middle, finest_size(taps, self.factors))))
        field: Tensor = self.join(torch.cat(parts, dim=1))
        return field if self.training else field - self.mean[:, None, None]


class IrnNetwork(TapNetwork):
    """IRN: two heads on the stages of a backbone that stays as it is, in evaluation mode and without gradients.

    Stages finer than `stride` are max-pooled to it, 3x3 by 2: with timm's ResNet-50, last_stride=1, and stride 4 the
    taps are the published ones (after the stem's pooling and the four layers; 64 to 2048 channels at 4, 4, 8, 16, 16).
    `self.stride` is the resulting pixels per cell, that of the finest tap. Without `displacement` only the boundary is
    learned, which is all that masks of classes need. Train `boundary` and `displacement` at rates of their own.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        stride: int = 4,
        displacement: bool = True,
    ) -> None:
        super().__init__(backbone, mean=mean, std=std)
        self.poolings = [num_poolings(own, stride) for own in backbone.stage_strides]
        strides = [own * 2**times for own, times in zip(backbone.stage_strides, self.poolings, strict=True)]
        self.stride = min(strides)
        self.boundary = BoundaryHead(backbone.stage_channels, strides)
        self.displacement = DisplacementHead(backbone.stage_channels, strides) if displacement else None
        backbone.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> IrnNetwork:
        """Training mode for the heads only."""
        super().train(mode)
        self.backbone.eval()
        return self

    def taps(self, images: Tensor) -> list[Tensor]:
        """The stages of the backbone without gradients, none finer than asked for."""
        return self._taps_of(self.normalise(images))

    def forward(self, images: Tensor) -> Fields:
        taps = self.taps(images)
        return Fields(self.boundary(taps), None if self.displacement is None else self.displacement(taps))

    @torch.no_grad()
    def edges(self, images: Tensor) -> Tensor:
        """Boundary probabilities `(B, 1, ceil(H / stride), ceil(W / stride))` for any picture size.

        Of the mean logit of a picture and its mirror image, each padded with zeros at the right and the bottom to
        whole cells of the coarsest stage.
        """
        height, width = images.shape[-2:]
        coarsest = max(self.backbone.stage_strides)
        views = self.normalise(torch.cat([images, images.flip(-1)]))
        padded = F.pad(views, (0, -width % coarsest, 0, -height % coarsest))
        logits = self.boundary(self._taps_of(padded))[..., : -(-height // self.stride), : -(-width // self.stride)]
        plain, mirrored = logits.float().chunk(2)
        return torch.sigmoid((plain + mirrored.flip(-1)) / 2)

    def set_displacement_mean(self, mean: Tensor) -> None:
        """Store the mean displacement `(2,)`, measured in training mode over the pictures that will be walked."""
        assert self.displacement is not None, "this network has no displacement head"
        self.displacement.mean.copy_(mean)

    def _taps_of(self, normalised: Tensor) -> list[Tensor]:
        with torch.no_grad():
            stages = self.backbone.forward_stages(normalised)
            for place, times in enumerate(self.poolings):
                for _ in range(times):
                    stages[place] = F.max_pool2d(stages[place], 3, stride=2, padding=1)
        return stages


class AffinityNet(TapNetwork):
    """AffinityNet: three stages, each 1x1 to 64, 128 and 256 channels with ELU, joined by 1x1 448 with ELU.

    `forward` gives the features whose distances are affinities (ops.affinity.feature_affinity), at the finest of the
    three stages; `stride` is its pixels per cell. `stages` counts those of the backbone; the published taps of a
    `resnet38` are (2, 3, 5). The backbone is trained too, but for its batch norms, which keep their statistics and
    weights; the published rate of `head` is ten times the backbone's.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        stages: tuple[int, int, int] = (-3, -2, -1),
    ) -> None:
        super().__init__(backbone, mean=mean, std=std)
        count = len(backbone.stage_channels)
        if any(not -count <= stage < count for stage in stages):
            raise ValueError(f"stages {stages}: the backbone has {count}; expected places from {-count} to {count - 1}")
        self.stages = tuple(stage % count for stage in stages)
        if any(first >= second for first, second in pairwise(self.stages)):
            raise ValueError(f"stages {stages}: expected three different ones, shallow to deep")
        strides = [backbone.stage_strides[stage] for stage in self.stages]
        self.stride = min(strides)
        self.factors = [stride / self.stride for stride in strides]
        self.head = AffinityHead([backbone.stage_channels[stage] for stage in self.stages])
        for module in self._norms():
            module.requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> AffinityNet:
        """Training mode for all but the batch norms of the backbone."""
        super().train(mode)
        for module in self._norms():
            module.eval()
        return self

    def forward(self, images: Tensor) -> Tensor:
        maps = self.backbone.forward_stages(self.normalise(images))
        features: Tensor = self.head([maps[stage] for stage in self.stages], self.factors)
        return features

    def _norms(self) -> list[nn.Module]:
        return [module for module in self.backbone.modules() if isinstance(module, _BatchNorm)]


class AffinityHead(nn.Module):
    """The layers AffinityNet adds, none with a bias: He normal for the taps, Xavier uniform of gain 4 for the join."""

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        pairs = zip(channels, AFFINITY_WIDTHS, strict=True)
        layers = [nn.Conv2d(inputs, width, 1, bias=False) for inputs, width in pairs]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight)
        self.reduce = nn.ModuleList(layers)
        self.join = nn.Conv2d(sum(AFFINITY_WIDTHS), sum(AFFINITY_WIDTHS), 1, bias=False)
        nn.init.xavier_uniform_(self.join.weight, gain=4)

    def forward(self, taps: Sequence[Tensor], factors: Sequence[float]) -> Tensor:
        size = finest_size(taps, factors)
        rows = zip(self.reduce, taps, factors, strict=True)
        return F.elu(self.join(torch.cat([resize(F.elu(layer(tap)), by, size) for layer, tap, by in rows], dim=1)))


def normed_projection(inputs: int, outputs: int, groups: int) -> nn.Sequential:
    """A 1x1 convolution without bias and GroupNorm."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.GroupNorm(groups, outputs))


def num_poolings(stride: int, target: int) -> int:
    """How often a map of `stride` can be halved without becoming coarser than `target`."""
    times = 0
    while stride * 2 ** (times + 1) <= target:
        times += 1
    return times


def finest_size(taps: Sequence[Tensor], factors: Sequence[float]) -> tuple[int, int]:
    """Height and width of the first of the finest taps; `factors` says how much coarser each is."""
    height, width = taps[list(factors).index(min(factors))].shape[-2:]
    return height, width


def resize(maps: Tensor, factor: float, size: tuple[int, int]) -> Tensor:
    """Bilinear upsampling by `factor`, then cut to `size`.

    A network that rounds sizes down may leave a map short of it, whose last row or column is then repeated.
    """
    if factor > 1:
        maps = F.interpolate(maps, scale_factor=factor, mode="bilinear", align_corners=False)
    maps = maps[..., : size[0], : size[1]]
    missing = (size[0] - maps.shape[-2], size[1] - maps.shape[-1])
    return F.pad(maps, (0, missing[1], 0, missing[0]), mode="replicate") if any(missing) else maps


@validate_call
def build_irn(
    *,
    backbone: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    stride: Annotated[int, Field(ge=1, le=64)] = 4,
    displacement: bool = True,
    arguments: Mapping[str, Any] | None = None,
) -> IrnNetwork:
    """An IrnNetwork from plain values, as saved.py keeps them; `arguments` are the backbone's."""
    network = build_backbone(backbone, weights=None, **(arguments or {}))
    return IrnNetwork(network, mean=mean, std=std, stride=stride, displacement=displacement)


@validate_call
def build_affinity_net(
    *,
    backbone: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    stages: tuple[int, int, int] = (-3, -2, -1),
    arguments: Mapping[str, Any] | None = None,
) -> AffinityNet:
    """An AffinityNet from plain values, as saved.py keeps them; `arguments` are the backbone's."""
    network = build_backbone(backbone, weights=None, **(arguments or {}))
    return AffinityNet(network, mean=mean, std=std, stages=stages)
