"""A distilled set as a module: its pictures are parameters, so that they are trained, kept and resumed as a network is.

The pictures lie in the space they are matched in: normalised by mean and standard deviation, whitened (ops/whitening.py), or
between 0 and 1 with several small ones in each (ops/multi_formation.py). How they are learned is not here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, get_args

import torch
from pydantic import Field, validate_call
from torch import Tensor, nn

from partwise.ops.multi_formation import decode_tiles
from partwise.ops.whitening import Whitening, unwhiten, whiten

Space = Literal["normalised", "whitened", "packed"]


class SyntheticSet(nn.Module):
    """`per_class` pictures `images` of each of `num_classes` classes, class by class, with `labels` int64 `(N,)`.

    `space` says what the numbers of `images` are: "normalised", "whitened", or "packed": between 0 and 1, `factor`^2 small
    pictures in each, which are normalised once they are unpacked. `rate` is the learned step size of networks that train on the
    set, where `learned_rate` says that there is one.
    """

    labels: Tensor
    mean: Tensor
    std: Tensor

    @validate_call
    def __init__(
        self,
        *,
        num_classes: Annotated[int, Field(ge=1, le=1_000_000)],
        per_class: Annotated[int, Field(ge=1, le=1_000_000)],
        size: Annotated[int, Field(ge=1, le=4096)],
        channels: Annotated[int, Field(ge=1, le=64)] = 3,
        space: Space = "normalised",
        factor: Annotated[int, Field(ge=1, le=16)] = 1,
        learned_rate: bool = False,
        mean: Sequence[float] = (0.485, 0.456, 0.406),
        std: Sequence[float] = (0.229, 0.224, 0.225),
    ) -> None:
        super().__init__()
        if space not in get_args(Space) or (factor > 1 and space != "packed"):
            raise ValueError(f"factor {factor} in space {space!r}: several small pictures need space 'packed'")
        if len(mean) not in (1, channels) or len(std) not in (1, channels):
            raise ValueError(f"mean of {len(mean)} and std of {len(std)} values for {channels} channels")
        self.space, self.factor, self.per_class = space, factor, per_class
        self.images = nn.Parameter(torch.zeros(num_classes * per_class, channels, size, size))
        self.rate = nn.Parameter(torch.tensor(0.01)) if learned_rate else None
        self.register_buffer("labels", torch.arange(num_classes).repeat_interleave(per_class))
        self.register_buffer("mean", torch.tensor(list(mean)).view(-1, 1, 1))
        self.register_buffer("std", torch.tensor(list(std)).view(-1, 1, 1))
        if space == "whitened":
            values = channels * size**2
            self.register_buffer("centre", torch.zeros(values))
            self.register_buffer("matrix", torch.eye(values))

    def forward(self) -> tuple[Tensor, Tensor]:
        """What networks train on: pictures `(M, ch, S, S)` as they see them, M = factor^2 N, and labels `(M,)`."""
        if self.space != "packed":
            return self.images, self.labels
        return self.normalise(decode_tiles(self.images, factor=self.factor)), self.labels.repeat(self.factor**2)

    def pictures(self) -> tuple[Tensor, Tensor]:
        """The pictures of `forward` between 0 and 1, to look at or to keep as bytes, and their labels."""
        if self.space != "packed":
            return self.shown(self.images), self.labels
        return decode_tiles(self.images.clamp(0, 1), factor=self.factor), self.labels.repeat(self.factor**2)

    def by_class(self) -> Tensor:
        """`images` as `(C, n, ch, S, S)`."""
        return self.images.unflatten(0, (-1, self.per_class))

    def seen(self, pictures: Tensor) -> Tensor:
        """Float pictures `(B, ch, S, S)` in [0, 1] as networks see them."""
        return whiten(pictures, self.whitening()) if self.space == "whitened" else self.normalise(pictures)

    def shown(self, images: Tensor) -> Tensor:
        """Pictures in the space of `images` as pictures to look at, cut to [0, 1]."""
        if self.space == "packed":
            return images.clamp(0, 1)
        if self.space == "normalised":
            return (images * self.std + self.mean).clamp(0, 1)
        return unwhiten(images, self.whitening(both=True)).clamp(0, 1)

    def normalise(self, pictures: Tensor) -> Tensor:
        """`(x - mean) / std` of each channel."""
        return (pictures - self.mean) / self.std

    def whitening(self, *, both: bool = False) -> Whitening:
        """The whitening that the set keeps; its inverse, which is for looking at pictures, only where `both` are asked for."""
        matrix = self.get_buffer("matrix")
        inverse = torch.linalg.inv(matrix.double()).to(matrix) if both else matrix
        return Whitening(self.get_buffer("centre"), matrix, inverse)

    def take_whitening(self, whitening: Whitening) -> None:
        """Keep a fitted whitening."""
        self.get_buffer("centre").copy_(whitening.mean)
        self.get_buffer("matrix").copy_(whitening.matrix)
