"""The networks of Varifocal-Net (Qin et al., 2019): a glance at the whole chromosome, a box, a closer look, and both together.

The parts stand alone (`ViewNet` for either scale, `Locator`, `Ensemble`), so that a method can train them one after the other
or leave one out; `VarifocalNet` holds one of each. Sizes follow from the frame F: pools are F / 32 and F / 64 cells wide,
which keeps what the linear layers see at 4 x 4 and 8 x 8 cells, so F must be a multiple of 64. The paper has F = 256. The
crop and its gradient are ops/varifocal.py's, training is the method's.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.contract import initialise
from partwise.models.two_heads import NUM_POLARITIES, NUM_TYPES, NumTypes, TypeAndPolarity, check_grey
from partwise.models.wide_resnet import WideBlock, WideChain
from partwise.ops.varifocal import Rule, standardise, varifocal_crop

STEM = 16
STRIDE = 8
"""Pixels per cell of the features."""
VIEW_CELLS = 4
"""A side of what the classifiers see."""
BOX_CELLS = 8
"""A side of what the locator sees."""

MIDDLE = (0.5, 0.5, 1.0)
"""The largest box in the middle of the frame, as u."""

Second = Literal["box", "centre", "whole"]
Width = Annotated[int, Field(ge=1, le=64)]
Units = Annotated[int, Field(ge=1, le=64)]
Hidden = Annotated[int, Field(ge=1, le=65_536)]


class VarifocalOutput(NamedTuple):
    """What VarifocalNet says of every picture."""

    whole: TypeAndPolarity
    """From the whole picture alone (G-Net)."""
    u: Tensor | None
    """Boxes `(B, 3)` in [0, 1], which ops/varifocal.py explains; None where the second net sees the whole."""
    local: TypeAndPolarity
    """From the second look alone (L-Net)."""
    ensemble: TypeAndPolarity
    """From both: the answer."""


class VarifocalCnn(WideChain):
    """Standardised grey pictures -> maps of 64 `width` channels, stride 8: what both scales have, with weights of their own.

    A 3x3 convolution to 16 channels, three blocks of `units` pre-activation wide units with 16, 32 and 64 times `width`
    channels, the first unit of each with stride 2, BN - ReLU. Width 10 with 4 units is the paper's, of 28 convolutions.
    """

    @validate_call
    def __init__(self, *, width: Width = 10, units: Units = 4) -> None:
        super().__init__()
        self.stage_channels = tuple(base * width for base in (16, 32, 64))
        self.stage_strides = (2, 4, STRIDE)
        self.num_features, self.stride = self.stage_channels[-1], STRIDE
        self.conv1 = nn.Conv2d(1, STEM, 3, padding=1, bias=False)
        self.stages = nn.ModuleList()
        inputs = STEM
        for outputs in self.stage_channels:
            rest = [WideBlock(outputs, outputs, 1, 0.0) for _ in range(units - 1)]
            self.stages.append(nn.Sequential(WideBlock(inputs, outputs, 2, 0.0), *rest))
            inputs = outputs
        self.bn_final = nn.BatchNorm2d(inputs)
        initialise(self)


class ViewNet(nn.Module):
    """G-Net or L-Net: standardised grey pictures `(B, 1, side, side)` -> TypeAndPolarity.

    CNN, max pool to 4 x 4, one linear layer for each answer. `features`, `pool` and `classify` are its steps. Raises ValueError
    for a side that is no multiple of 32.
    """

    def __init__(self, side: int, *, width: int = 10, units: int = 4, num_types: int = NUM_TYPES) -> None:
        super().__init__()
        self.side = side
        self.window = pool_window(side, VIEW_CELLS)
        self.cnn = VarifocalCnn(width=width, units=units)
        self.num_pooled = self.cnn.num_features * VIEW_CELLS**2
        self.type_head = nn.Linear(self.num_pooled, num_types)
        self.polarity_head = nn.Linear(self.num_pooled, NUM_POLARITIES)

    def features(self, x: Tensor) -> Tensor:
        """The feature map `(B, 64 width, side / 8, side / 8)`. Raises ValueError for pictures of another shape."""
        check_grey(x, side=self.side)
        features: Tensor = self.cnn(x)
        return features

    def pool(self, features: Tensor) -> Tensor:
        """Features -> `(B, 1024 width)`, what this net's classifiers and the ensemble see."""
        return F.max_pool2d(features, self.window).flatten(1)

    def classify(self, pooled: Tensor) -> TypeAndPolarity:
        """Pooled features -> this net's own answers."""
        return TypeAndPolarity(self.type_head(pooled), self.polarity_head(pooled))

    def forward(self, x: Tensor) -> TypeAndPolarity:
        return self.classify(self.pool(self.features(x)))


class Locator(nn.Module):
    """Features of the whole picture -> u `(B, 3)`: max pool to 8 x 8, linear, ReLU, linear, sigmoid.

    Raises ValueError for a frame that is no multiple of 64.
    """

    def __init__(self, frame: int, *, num_features: int = 640, hidden: int = 1024) -> None:
        super().__init__()
        self.window = pool_window(frame, BOX_CELLS)
        self.hidden = hidden_layer(num_features * BOX_CELLS**2, hidden)
        self.out = nn.Linear(hidden, 3)

    def forward(self, features: Tensor) -> Tensor:
        pooled = F.max_pool2d(features, self.window).flatten(1)
        scores = self.out(F.relu(self.hidden(pooled)))
        # Half precision would move boxes by whole pixels.
        return torch.sigmoid(scores.to(torch.promote_types(scores.dtype, torch.float32)))


class Ensemble(nn.Module):
    """Pooled features of both nets, side by side -> TypeAndPolarity by two independent MLPs with one hidden layer."""

    def __init__(self, inputs: int, *, num_types: int = NUM_TYPES, hidden: int = 512) -> None:
        super().__init__()
        self.type_head = nn.Sequential(hidden_layer(inputs, hidden), nn.ReLU(), nn.Linear(hidden, num_types))
        self.polarity_head = nn.Sequential(hidden_layer(inputs, hidden), nn.ReLU(), nn.Linear(hidden, NUM_POLARITIES))

    def forward(self, whole: Tensor, local: Tensor) -> TypeAndPolarity:
        pooled = torch.cat([whole, local], dim=1)
        return TypeAndPolarity(self.type_head(pooled), self.polarity_head(pooled))


class VarifocalNet(nn.Module):
    """Grey float images `(B, 1, F, F)` of any scale -> VarifocalOutput.

    `global_net`, `locator`, `local_net` and `ensemble` are its parts. Each picture is standardised here, once: the box is cut
    from the standardised picture. `second` says what the local net sees, to measure what a box is good for: "box" that of
    the locator, "centre" the largest box in the middle, "whole" the picture itself; the last two have no locator.

    Losses on boxes and on the local answers reach the locator, by `rule`, and never the CNN that it reads; those on the
    ensemble's reach all that is not frozen. `sharpness`, `band` and `normalise` are `varifocal_crop`'s. All arguments are
    plain values, as saved.py keeps them. Raises ValueError for a frame that is no multiple of 64.
    """

    @validate_call
    def __init__(
        self,
        *,
        frame: int = 256,
        width: Width = 10,
        units: Units = 4,
        num_types: NumTypes = NUM_TYPES,
        locator_hidden: Hidden = 1024,
        ensemble_hidden: Hidden = 512,
        second: Second = "box",
        rule: Rule = "boxcar",
        sharpness: Annotated[float, Field(gt=0)] = 10.0,
        band: Annotated[float, Field(gt=0, le=0.5)] = 1 / 3,
        normalise: bool = True,
    ) -> None:
        super().__init__()
        pool_window(frame, BOX_CELLS)
        self.frame, self.second, self.rule = frame, second, rule
        self.sharpness, self.band, self.normalise = sharpness, band, normalise
        self.global_net = ViewNet(frame, width=width, units=units, num_types=num_types)
        if second == "box":
            self.locator = Locator(frame, num_features=self.global_net.cnn.num_features, hidden=locator_hidden)
        side = frame if second == "whole" else frame // 2
        self.local_net = ViewNet(side, width=width, units=units, num_types=num_types)
        inputs = self.global_net.num_pooled + self.local_net.num_pooled
        self.ensemble = Ensemble(inputs, num_types=num_types, hidden=ensemble_hidden)

    def standardise(self, images: Tensor) -> Tensor:
        """What both nets see, x. Raises ValueError for pictures that are not grey and of this frame."""
        check_grey(images, side=self.frame)
        return standardise(images)

    def locate(self, features: Tensor) -> Tensor | None:
        """Features of the whole picture -> u, without a way back into them; None where there are no boxes."""
        if self.second == "box":
            u: Tensor = self.locator(features.detach())
            return u
        return features.new_tensor(MIDDLE).expand(len(features), 3) if self.second == "centre" else None

    def crop(self, x: Tensor, u: Tensor | None) -> Tensor:
        """The boxes of standardised pictures, `(B, 1, F / 2, F / 2)`; without boxes the pictures themselves."""
        if u is None:
            return x
        return varifocal_crop(
            x,
            u,
            out=self.frame // 2,
            rule=self.rule,
            sharpness=self.sharpness,
            band=self.band,
            normalise=self.normalise,
        )

    def second_look(self, x: Tensor, features: Tensor) -> Tensor:
        """What the local net sees of standardised pictures whose features the global net gave."""
        return self.crop(x, self.locate(features))

    def pooled(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Standardised pictures -> pooled features of the global and of the local net: what the ensemble takes."""
        features = self.global_net.features(x)
        return self.global_net.pool(features), self._pool_local(x, self.locate(features))

    def _pool_local(self, x: Tensor, u: Tensor | None) -> Tensor:
        return self.local_net.pool(self.local_net.features(self.crop(x, u)))

    def forward(self, images: Tensor) -> VarifocalOutput:
        x = self.standardise(images)
        features = self.global_net.features(x)
        u = self.locate(features)
        whole, local = self.global_net.pool(features), self._pool_local(x, u)
        return VarifocalOutput(
            self.global_net.classify(whole), u, self.local_net.classify(local), self.ensemble(whole, local)
        )


def pool_window(side: int, cells: int) -> int:
    """How wide a max pool is that leaves `cells` x `cells` of the features of a picture; ValueError where none does."""
    unit = STRIDE * cells
    if side < unit or side % unit:
        lower = max(0, side // unit * unit)
        near = [str(multiple) for multiple in (lower, lower + unit) if multiple]
        raise ValueError(f"frame {side}: expected a multiple of {unit} pixels; {' or '.join(near)} is near")
    return side // unit


def hidden_layer(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer in front of a ReLU: He normal, biases zero."""
    layer = nn.Linear(inputs, outputs)
    nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
    nn.init.zeros_(layer.bias)
    return layer
