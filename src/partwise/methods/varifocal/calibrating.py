"""Temperatures and the price of the optimal dispatch, chosen on the validation split and kept with the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.engine.stages import ComputeStage, Products
from partwise.evaluate.karyotype import coin, fit_temperature, turn
from partwise.ops.assignment import choose_price

if TYPE_CHECKING:
    from partwise.methods.varifocal.method import VarifocalMethod

BATCH = 256


class Calibrate(ComputeStage):
    """One product: what `models.calibration.Calibration` keeps. Without validation pictures it keeps its defaults."""

    name = "calibration"

    def __init__(self, method: VarifocalMethod, data: PictureData) -> None:
        self.method, self.data = method, data

    def items(self) -> Sequence[str]:
        return [self.name]

    def prepare(self, products: Products) -> None:
        if products.path(self.name, self.name).exists():  # killed between the product and the index
            self.restore(products)

    def restore(self, products: Products) -> None:
        self.method.calibration.load_state_dict(products.read(self.name, self.name))

    @torch.inference_mode()
    def compute(self, item: str) -> Mapping[str, Tensor]:
        places = self.data.splits["val"]
        if len(places):
            self._choose(places)
        return dict(self.method.calibration.state_dict())

    def _choose(self, places: Tensor) -> None:
        records = [self.data.source.records[i] for i in places.tolist()]
        types, polarities = self._logits(places, torch.tensor([coin(record.id) for record in records]))
        target = torch.tensor([-1 if record.label is None else record.label for record in records])
        upright = torch.tensor(
            [-1 if record.polarity is None else record.polarity ^ coin(record.id) for record in records]
        )
        calibration = self.method.calibration
        if (known := target >= 0).any():
            calibration.type_temperature.fill_(fit_temperature(types[known], target[known]))
            calibration.price.fill_(self._price(types, target, [record.case for record in records]))
        if (known := upright >= 0).any():
            calibration.polarity_temperature.fill_(fit_temperature(polarities[known], upright[known]))

    def _logits(self, places: Tensor, turned: Tensor) -> tuple[Tensor, Tensor]:
        """What the networks say of pictures, each after its coin, on the host."""
        self.method.eval()
        parts = []
        for start in range(0, len(places), BATCH):
            images = self.data.pictures(places[start : start + BATCH]).float() / 255
            parts.append(self.method.answers(turn(images, turned[start : start + BATCH].to(images.device))))
        return torch.cat([p.type.float().cpu() for p in parts]), torch.cat([p.polarity.float().cpu() for p in parts])

    def _price(self, types: Tensor, target: Tensor, cases: Sequence[str]) -> float:
        """The best price of whole validation cells; what it was where there are none."""
        temperature = float(self.method.calibration.type_temperature)
        probabilities = (types.double() / temperature).softmax(1)
        cells = [
            torch.tensor([place for place, own in enumerate(cases) if own == case])
            for case in dict.fromkeys(cases)
            if case
        ]
        cells = [places for places in cells if bool((target[places] >= 0).all())]
        if not cells:
            return float(self.method.calibration.price)
        return choose_price([probabilities[p] for p in cells], [target[p] for p in cells])
