"""The last stage: one network trained on the finished set, which is what a run predicts with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from partwise.engine.stages import ComputeStage, Products
from partwise.evaluate.fresh_networks import flip_rule, train_fresh
from partwise.ops import draws

if TYPE_CHECKING:
    from partwise.methods.fyi.method import FyiMethod


class TrainStudent(ComputeStage):
    """One product: the weights of the run's network, trained as the trial says, with the always-drawn flip."""

    name = "student"

    def __init__(self, method: FyiMethod) -> None:
        self.method = method

    def items(self) -> Sequence[str]:
        return [self.name]

    def prepare(self, products: Products) -> None:
        self.method.in_progress = False
        self._lay_out()
        if products.path(self.name, self.name).exists():  # killed between the product and the index
            self.restore(products)

    def restore(self, products: Products) -> None:
        self._lay_out()
        self.method.student.load_state_dict(products.read(self.name, self.name))

    def _lay_out(self) -> None:
        """The layout in which a run is loaded: the same sums in the same order."""
        if self.method.recipe.train.channels_last:
            self.method.student.to(memory_format=torch.channels_last)

    @torch.enable_grad()
    def compute(self, item: str) -> Mapping[str, Tensor]:
        exhibit = self.method.exhibit()
        train_fresh(
            self.method.student,
            exhibit.images,
            exhibit.labels,
            trial=exhibit.fields,
            rule=flip_rule(exhibit.fields.convention, exhibit.fields.strategy, flip=True),
            lr=exhibit.lr,
            epochs=exhibit.fields.epochs,
            seed=draws.derive(exhibit.seed, self.name, "order"),
        )
        return dict(self.method.student.state_dict())
