"""What every network that takes pictures shares: the mean and deviation of the pictures it was trained on."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class PictureNetwork(nn.Module):
    """Takes float images `(B, C, H, W)` in [0, 1]; `mean` and `std` of each channel are those of the training pictures.

    Raises ValueError where they are not as many, or a deviation is not above zero.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, *, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        if len(mean) != len(std) or not all(value > 0 for value in std):
            raise ValueError(f"mean {tuple(mean)} and std {tuple(std)}: as many of each, and every std above zero")
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).reshape(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).reshape(1, -1, 1, 1))

    def normalise(self, images: Tensor) -> Tensor:
        """(images - mean) / std in one fused pass over the pictures."""
        scale = self.std.reciprocal()
        return torch.addcmul(-self.mean * scale, images, scale)
