"""Any backbone as an encoder: pictures in, one embedding each out, or one for every cell; ours, timm's, or from a local file.

`build_encoder(backbone="resnet50", weights=FILE, ...)` takes foreign weights, `load_encoder` a file of our own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor

from partwise.config import UserError, did_you_mean
from partwise.models.backbones import build_backbone
from partwise.models.contract import Backbone
from partwise.models.pictures import PictureNetwork
from partwise.models.saved import load_networks

InputSize = Annotated[int, Field(ge=8, le=8192)]


class Encoder(PictureNetwork):
    """Float images `(B, C, H, W)` in [0, 1] -> embeddings. Nothing is learned here beside the backbone.

    With `input_size` pictures of another size are resized to that square, as networks that were trained on one size want;
    without, they are taken as they are. A grey picture stands for all channels of a network that takes colour.
    """

    def __init__(
        self, backbone: Backbone, *, mean: Sequence[float], std: Sequence[float], input_size: int | None = None
    ) -> None:
        super().__init__(mean=mean, std=std)
        self.backbone = backbone
        self.input_size = input_size
        self.num_features = backbone.num_features

    def embed(self, images: Tensor) -> Tensor:
        """`(B, num_features)`: the pooled output; of transformers the mean of their patches."""
        return self.backbone.pooled(self.prepare(images))

    def dense(self, images: Tensor, *, resize: bool = True) -> Tensor:
        """`(B, num_features, h, w)`: the last map; without `resize` of the pictures at their own size."""
        maps: Tensor = self.backbone(self.prepare(images, resize=resize))
        return maps

    def stage_maps(self, images: Tensor, *, resize: bool = True) -> list[Tensor]:
        """The map of every stage, shallow to deep; without `resize` of the pictures at their own size."""
        return self.backbone.forward_stages(self.prepare(images, resize=resize))

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(images)

    def prepare(self, images: Tensor, *, resize: bool = True) -> Tensor:
        """What the backbone is given of pictures."""
        size, channels = self.input_size if resize else None, self.mean.shape[1]
        if images.shape[1] == 1 != channels:
            images = images.expand(-1, channels, -1, -1)
        if size is not None and images.shape[-2:] != (size, size):
            images = F.interpolate(images, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
        return self.normalise(images)


@validate_call
def build_encoder(
    *,
    backbone: str,
    mean: tuple[float, ...],
    std: tuple[float, ...],
    input_size: InputSize | None = None,
    weights: str | None = None,
    arguments: Mapping[str, Any] | None = None,
) -> Encoder:
    """An Encoder from plain values, as saved.py keeps them; `weights` names a local file, `arguments` are the backbone's.

    Raises UserError as `build_backbone`.
    """
    network = build_backbone(backbone, weights=weights, **(arguments or {}))
    return Encoder(network, mean=mean, std=std, input_size=input_size)


def load_encoder(path: Path, *, network: str = "", input_size: int | None = None) -> Encoder:
    """The encoder inside a network of a file of ours, in evaluation mode: its backbone, behind its own mean and deviation.

    Pictures are resized to `input_size`, or to what an encoder of ours was trained on. Without `network`, the one named
    `encoder`, or the only one of the file that has a backbone. Raises UserError where there is no such, or several.
    """
    held = load_networks(path).networks
    usable = {
        name: own
        for name, own in held.items()
        if isinstance(own, PictureNetwork) and isinstance(getattr(own, "backbone", None), Backbone)
    }
    if network and network not in usable:
        known = ", ".join(usable) or "none"
        raise UserError(
            f"{path}: no encoder {network!r}; those with a backbone: {known}{did_you_mean(network, usable)}"
        )
    if not network and "encoder" in usable:
        network = "encoder"
    if not network and len(usable) != 1:
        raise UserError(f"{path}: holds {len(usable)} networks with a backbone ({', '.join(usable)}); name one of them")
    chosen = usable[network or next(iter(usable))]
    backbone: Any = chosen.backbone
    own_size = chosen.input_size if isinstance(chosen, Encoder) else None
    encoder = Encoder(
        backbone,
        mean=chosen.mean.flatten().tolist(),
        std=chosen.std.flatten().tolist(),
        input_size=input_size or own_size,
    )
    return encoder.eval()
