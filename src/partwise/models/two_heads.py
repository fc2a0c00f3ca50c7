"""Type and polarity of a chromosome from one feature vector of any backbone: the plain rival of Varifocal-Net.

Not for Varifocal-Net itself (varifocal.py), which shares nothing with it but the tuple of two answers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.models.backbones import build_backbone
from partwise.models.contract import Backbone
from partwise.ops.varifocal import standardise

NUM_TYPES = 24
"""1 to 22, X and Y."""
NUM_POLARITIES = 2
"""q-arm up, q-arm down."""

NumTypes = Annotated[int, Field(ge=1, le=1_000_000)]


class TypeAndPolarity(NamedTuple):
    """Two logits for every picture."""

    type: Tensor
    """`(B, K)`, K types."""
    polarity: Tensor
    """`(B, 2)`; 1 is q-arm down."""


def check_grey(images: Tensor, *, side: int | None = None) -> None:
    """Raise ValueError for anything but grey pictures `(B, 1, H, W)`, squares of `side` where one is given."""
    wanted = "(B, 1, H, W)" if side is None else f"(B, 1, {side}, {side})"
    if images.ndim != 4 or images.shape[1] != 1 or (side is not None and images.shape[2:] != (side, side)):
        raise ValueError(f"pictures of shape {tuple(images.shape)}: expected grey ones, {wanted}")


class TwoHeads(nn.Module):
    """Grey float images `(B, 1, H, W)` of any scale -> TypeAndPolarity: backbone, average pool, a linear layer for each.

    Each picture is standardised by its own mean and deviation, as for Varifocal-Net, and repeated into the `stacked` channels
    that the backbone takes: 3 for weights learned on colours.
    """

    def __init__(
        self, backbone: Backbone, *, num_types: int = NUM_TYPES, stacked: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.stacked = stacked
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.type_head = nn.Linear(backbone.num_features, num_types)
        self.polarity_head = nn.Linear(backbone.num_features, NUM_POLARITIES)

    def features(self, images: Tensor) -> Tensor:
        """The last feature map `(B, num_features, h, w)`. Raises ValueError for pictures that are not grey."""
        check_grey(images)
        features: Tensor = self.backbone(standardise(images).expand(-1, self.stacked, -1, -1))
        return features

    def forward(self, images: Tensor) -> TypeAndPolarity:
        pooled = self.dropout(self.features(images).mean((2, 3)))
        return TypeAndPolarity(self.type_head(pooled), self.polarity_head(pooled))


@validate_call
def build_two_heads(
    *,
    backbone: str,
    num_types: NumTypes = NUM_TYPES,
    stacked: Literal[1, 3] = 3,
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0,
    arguments: Mapping[str, Any] | None = None,
) -> TwoHeads:
    """A TwoHeads from plain values, as saved.py keeps them; `arguments` are the backbone's.

    With `stacked=1` the backbone is built for one channel.
    """
    channels = {} if stacked == 3 else {"in_chans": stacked}
    network = build_backbone(backbone, weights=None, **channels, **(arguments or {}))
    return TwoHeads(network, num_types=num_types, stacked=stacked, dropout=dropout)
