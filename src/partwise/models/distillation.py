"""The networks dataset distillation matches, trains and transfers to, by the names papers give them, behind one linear layer.

They take pictures as they are distilled (normalised or whitened) and of one size: the last map is flattened, not averaged,
before the linear layer. Networks without such a layer are backbones.py's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, Any

from pydantic import Field, ValidationError, validate_call
from torch import Tensor, nn

from partwise.config import UserError, nearest
from partwise.models.backbones import explain
from partwise.models.cifar_resnet import Channels, Width
from partwise.models.contract import Backbone
from partwise.models.convnet import ConvNet, PlainChain, SmallAlexNet, SmallVgg11
from partwise.models.small_resnet import SmallResNet

FRAMES: Mapping[int, int] = MappingProxyType({28: 2})
"""Side of a picture -> the border of zeros that convolutional networks put around it: 28 px are treated as 32."""


class FlatClassifier(nn.Module):
    """Float pictures `(B, ch, side, side)` -> logits `(B, K)`: border, body, flattened (or averaged) features, linear layer."""

    def __init__(
        self, body: nn.Module, num_classes: int, *, num_features: int, border: int = 0, averaged: bool = False
    ) -> None:
        super().__init__()
        self.border = nn.ZeroPad2d(border) if border else nn.Identity()
        self.body = body
        self.pool = nn.AdaptiveAvgPool2d(1) if averaged else nn.Identity()
        self.num_features = num_features
        self.fc = nn.Linear(num_features, num_classes)

    def features(self, images: Tensor) -> Tensor:
        """The last map `(B, channels, h, w)`; a vector for networks that end in hidden linear layers."""
        features: Tensor = self.body(self.border(images))
        return features

    def embed(self, images: Tensor) -> Tensor:
        """What the linear layer sees, `(B, num_features)`."""
        features: Tensor = self.pool(self.features(images))
        return features.flatten(1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.embed(images))
        return logits

    def chain(self) -> list[tuple[str, nn.Module]]:
        """Every layer with its name, in the order in which they run (`ops.per_class.LayerChain`).

        Raises ValueError for residual networks, which are no chain.
        """
        if not isinstance(self.body, (PlainChain, nn.Sequential)) or not isinstance(self.pool, nn.Identity):
            raise ValueError(f"{type(self.body).__name__} is no chain of layers; use how='vmap' or how='loop'")
        leaves = [(name, layer) for name, layer in self.named_modules() if not any(True for _ in layer.children())]
        return [(name, layer) for name, layer in leaves if not isinstance(layer, nn.Identity)]


class Mlp(nn.Sequential):
    """Two hidden layers of `width` on the pixels of pictures of `side` px."""

    @validate_call
    def __init__(self, *, width: Width = 128, in_chans: Channels = 3, side: int) -> None:
        inputs = in_chans * side**2
        hidden = [nn.Linear(inputs, width), nn.ReLU(inplace=True), nn.Linear(width, width), nn.ReLU(inplace=True)]
        super().__init__(nn.Flatten(), *hidden)
        self.num_features = width


class LeNet(nn.Sequential):
    """LeNet-5 with ReLU and max pooling, up to its second hidden layer, for pictures of `side` px, at least 16."""

    @validate_call
    def __init__(self, *, in_chans: Channels = 3, side: int) -> None:
        last = ((side - 4) // 2 - 4) // 2
        if last < 1:
            raise ValueError(f"pictures of {side} px are too small; it needs at least 16")
        maps = [nn.Conv2d(in_chans, 6, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        maps += [nn.Conv2d(6, 16, 5), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten()]
        hidden = [nn.Linear(16 * last**2, 120), nn.ReLU(inplace=True), nn.Linear(120, 84), nn.ReLU(inplace=True)]
        super().__init__(*maps, *hidden)
        self.num_features = 84


@dataclass(frozen=True)
class Architecture:
    """A row of ARCHITECTURES: what makes the body, the arguments its name stands for, and how its last map is read."""

    make: Callable[..., Any]
    fixed: Mapping[str, Any] = field(default_factory=dict)
    averaged: bool = False


ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "mlp": Architecture(Mlp),
        "lenet": Architecture(LeNet),
        "convnet": Architecture(ConvNet),
        "convnet-d3": Architecture(ConvNet, {"depth": 3}),
        "convnet-d4": Architecture(ConvNet, {"depth": 4}),
        "convnet-d5": Architecture(ConvNet, {"depth": 5}),
        "convnet-d6": Architecture(ConvNet, {"depth": 6}),
        "alexnet": Architecture(SmallAlexNet),
        "vgg11": Architecture(SmallVgg11),
        "resnet18": Architecture(SmallResNet, {"blocks": (2, 2, 2, 2)}, averaged=True),
        "resnet18-ap": Architecture(SmallResNet, {"blocks": (2, 2, 2, 2), "halving": "average"}),
        "resnet10": Architecture(SmallResNet, {"blocks": (1, 1, 1, 1), "width": 32}, averaged=True),
    }
)
"""DC's, MTT's and IDC's networks in their forms for small pictures; ResNet-10 is IDC's, half as wide."""


@validate_call
def build_flat_classifier(
    *,
    architecture: str,
    num_classes: Annotated[int, Field(ge=1, le=1_000_000)],
    size: Annotated[int, Field(ge=1, le=4096)],
    in_chans: Channels = 3,
    arguments: Mapping[str, Any] | None = None,
) -> FlatClassifier:
    """A FlatClassifier for pictures of `size` px from plain values, as saved.py keeps them.

    `arguments` are the architecture's: `norm="batch"` makes the BN forms, `width`, `activation` and `pooling` are
    ConvNet's. Raises UserError for unknown names (with the nearest), for arguments that do not fit and for pictures that are
    too small.
    """
    if architecture not in ARCHITECTURES:
        close = nearest(architecture, ARCHITECTURES)
        known = f"nearest: {close!r}" if close else f"known: {', '.join(ARCHITECTURES)}"
        raise UserError(f"unknown network {architecture!r}; {known}")
    row = ARCHITECTURES[architecture]
    given = dict(arguments or {})
    for name in given:
        if name in (*row.fixed, "in_chans", "side"):
            raise UserError(f"network {architecture!r} fixes {name}; it cannot be given again")
    border = 0 if architecture == "mlp" else FRAMES.get(size, 0)
    side = size + 2 * border
    frame = {"side": side} if row.make in (Mlp, LeNet) else {}
    try:
        body = row.make(in_chans=in_chans, **frame, **row.fixed, **given)
        num_features = _count_features(body, side, averaged=row.averaged)
    except ValidationError as error:
        raise UserError(f"network {architecture!r}: {explain(row.make, error)}") from error
    except ValueError as error:
        raise UserError(f"network {architecture!r}: {error}") from error
    return FlatClassifier(body, num_classes, num_features=num_features, border=border, averaged=row.averaged)


def _count_features(body: Backbone | Mlp | LeNet, side: int, *, averaged: bool) -> int:
    """How many numbers the linear layer sees of a picture of `side` px. Raises ValueError where no map is left."""
    if not isinstance(body, Backbone):
        return body.num_features
    cells, rest = divmod(side, body.stride)
    # pools drop what is over and strides do not; the last instance norm of a residual network sees the last map
    fits = cells >= 1 if isinstance(body, PlainChain) else cells >= 2 and not rest
    if not fits:
        raise ValueError(f"pictures of {side} px do not make a last map of whole cells of {body.stride} px")
    return body.num_features * (1 if averaged else cells**2)
