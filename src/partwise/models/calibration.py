"""Numbers chosen on validation that a trained network is asked with: temperatures, and the price of the optimal dispatch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from partwise.ops.assignment import PRICE


class Calibrated(NamedTuple):
    """Probabilities of every picture: `type` `(B, 24)` and `polarity` `(B, 2)`, float32."""

    type: Tensor
    polarity: Tensor


class Calibration(nn.Module):
    """Logits of type and polarity -> Calibrated: softmax of the logits divided by their temperature (Guo et al., 2017)."""

    type_temperature: Tensor
    polarity_temperature: Tensor
    price: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, value in {"type_temperature": 1.0, "polarity_temperature": 1.0, "price": PRICE}.items():
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32))

    def forward(self, types: Tensor, polarities: Tensor) -> Calibrated:
        found = (
            logits.float() / temperature
            for logits, temperature in zip(
                (types, polarities), (self.type_temperature, self.polarity_temperature), strict=True
            )
        )
        return Calibrated(*(scores.softmax(1) for scores in found))
