"""The heads of Adam-v2 and Adam-v1 on pooled embeddings `(B, D)`; every size is a plain value, as saved.py keeps them.

Used for training and for questions about parts and wholes, not for export: embeddings are taken before any head. The losses
are ops/part_whole.py's and ops/pruned_contrast.py's.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, validate_call
from torch import Tensor, nn

Size = Annotated[int, Field(ge=1, le=1_000_000)]
Parts = Annotated[int, Field(ge=1, le=1024)]


class DinoHead(nn.Module):
    """Embeddings `(..., D)` -> float32 cosines `(..., K)` with K prototypes: DINO's head, the localizability head of Adam-v2.

    Linear - GELU - linear - GELU - linear to `bottleneck`, L2 normalisation, a product with unit prototypes. The published
    last layer is weight-normalised with its gain held at 1; here it has no gain, and `prototypes` `(K, bottleneck)` are used
    at unit length whatever theirs is. Linear layers start truncated normal, 0.02, with biases 0; prototypes as torch's linear
    layers do.
    """

    @validate_call
    def __init__(
        self, *, num_features: Size, num_prototypes: Size = 65_536, hidden: Size = 2048, bottleneck: Size = 256
    ) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(num_features, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.prototypes = nn.Parameter(torch.empty(num_prototypes, bottleneck))
        nn.init.kaiming_uniform_(self.prototypes, a=math.sqrt(5))

    def forward(self, embeddings: Tensor) -> Tensor:
        directions = _unit(self.mlp(embeddings))
        # Divided by a temperature of 0.04, a cosine rounded to bfloat16 is a logit that is off by up to 0.05.
        with torch.autocast(embeddings.device.type, enabled=False):
            return F.linear(directions, _unit(self.prototypes).to(directions.dtype))


class ComposeHead(nn.Module):
    """Embeddings of the parts of each picture, `(B, n, D)` in reading order -> one of its whole, `(B, D)`.

    Concatenation, linear - ReLU - linear. Raises ValueError for another number of parts.
    """

    @validate_call
    def __init__(self, *, num_features: Size, num_parts: Parts = 4) -> None:
        super().__init__()
        self.shape = (num_parts, num_features)
        self.mlp = nn.Sequential(
            nn.Linear(num_parts * num_features, num_features), nn.ReLU(), nn.Linear(num_features, num_features)
        )

    def forward(self, parts: Tensor) -> Tensor:
        if parts.shape[1:] != self.shape:
            raise ValueError(f"parts of shape {tuple(parts.shape)}: expected (B, {self.shape[0]}, {self.shape[1]})")
        whole: Tensor = self.mlp(parts.flatten(1))
        return whole


class DecomposeHead(nn.Module):
    """Embeddings of wholes, `(B, D)` -> those of the parts of each, `(B, n, D)` in reading order: linear - ReLU - linear."""

    @validate_call
    def __init__(self, *, num_features: Size, num_parts: Parts = 4) -> None:
        super().__init__()
        self.shape = (num_parts, num_features)
        self.mlp = nn.Sequential(
            nn.Linear(num_features, num_features), nn.ReLU(), nn.Linear(num_features, num_parts * num_features)
        )

    def forward(self, whole: Tensor) -> Tensor:
        parts: Tensor = self.mlp(whole)
        return parts.unflatten(-1, self.shape)


class PartHeads(nn.Module):
    """`compose`: embeddings of parts -> one of their whole; `decompose`: the reverse."""

    @validate_call
    def __init__(self, *, num_features: Size, num_parts: Parts = 4) -> None:
        super().__init__()
        self.compose = ComposeHead(num_features=num_features, num_parts=num_parts)
        self.decompose = DecomposeHead(num_features=num_features, num_parts=num_parts)


class ContrastHead(nn.Module):
    """Embeddings `(B, D)` -> float32 unit vectors `(B, out)`: linear - ReLU - linear, the projector of MoCo-v2."""

    @validate_call
    def __init__(self, *, num_features: Size, hidden: Size = 2048, out: Size = 128) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(num_features, hidden), nn.ReLU(), nn.Linear(hidden, out))

    def forward(self, embeddings: Tensor) -> Tensor:
        return _unit(self.mlp(embeddings))


def _unit(x: Tensor) -> Tensor:
    """Vectors at unit length, in at least float32."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
