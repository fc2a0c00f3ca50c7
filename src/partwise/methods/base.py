"""The contract of a method: networks, stages, prediction, and the protocols it answers to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from partwise.config import Paper, Recipe
from partwise.data.loading import PictureData
from partwise.data.readers.crops import CropSource
from partwise.data.sample import Source
from partwise.engine.loop import Job
from partwise.engine.stages import Products, Stage
from partwise.models.saved import NetworkSpec
from partwise.report.case import Case, Read
from partwise.report.values import AnyPrediction, Cell, Picture


@dataclass(frozen=True)
class DataFacts:
    """What a network must know of the data it is built for; kept with the weights."""

    classes: tuple[str, ...]
    multi_label: bool = False
    channels: int = 3
    frame: int = 0
    """Side in pixels of the square that all pictures were laid on, which keeps their sizes to one another; 0: none."""

    @classmethod
    def of(cls, source: Source) -> DataFacts:
        frame = source.image_size[0] if isinstance(source, CropSource) and source.image_size else 0
        return cls(source.classes, source.multi_label, source.channels, frame)


@runtime_checkable
class CaseNamer(Protocol):
    """A method whose pictures belong to cases that are looked at as a whole, as the chromosomes of a cell do."""

    def name_case(
        self, name: str, reads: Sequence[Read], left_out: Mapping[str, str], /
    ) -> tuple[Case, dict[str, Cell]]:
        """What a case is made of its pictures, and its row of a table; `left_out`: files with the reasons."""


class Method(ABC):
    """A published system: made for a recipe and the facts of a data set, trained through its stages.

    `networks` exist from the start (random, a function of the torch seed at that moment); stages fill them.
    """

    name: ClassVar[str]
    paper: ClassVar[Paper]
    native: ClassVar[bool] = False
    """Whether `predict` takes pictures at their own size instead of in the network's frame."""
    products: Products | None = None
    """What the stages of the run left; None where there are only weights."""

    def __init__(self, recipe: Recipe, facts: DataFacts) -> None:
        self.recipe = recipe
        self.facts = facts

    @property
    def classes(self) -> Sequence[str]:
        return self.facts.classes

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """What `model.safetensors` keeps, by prefix."""

    @abstractmethod
    def specs(self) -> dict[str, NetworkSpec]:
        """What rebuilds each of `networks`."""

    @abstractmethod
    def stages(self, data: PictureData, job: Job) -> list[Stage]:
        """The stages in order; cheap to make, prepared when their turn comes."""

    @abstractmethod
    def predict(self, images: Tensor) -> Sequence[AnyPrediction]:
        """One typed result a picture, from float images `(B, C, S, S)` in [0, 1] in the network's frame, or of any size
        where the method is `native`."""

    def check(self, data: PictureData) -> None:
        """Raise UserError for data that the stages cannot work with, before the run begins; nothing, unless overridden."""
        return

    def pictures(self, data: PictureData) -> list[Picture]:
        """What the report shows of a finished training beside its measurements: nothing, unless a method says so."""
        return []

    def load(self, networks: Mapping[str, nn.Module]) -> None:
        """Take the weights of saved networks."""
        for name, network in self.networks().items():
            network.load_state_dict(networks[name].state_dict())

    def to(self, device: torch.device) -> None:
        """Move all networks."""
        for network in self.networks().values():
            network.to(device)

    def eval(self) -> None:
        """Put all networks into evaluation mode."""
        for network in self.networks().values():
            network.eval()
