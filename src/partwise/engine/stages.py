"""What the loop runs: stages that train and stages that compute, and the products that pass between them.

A stage is cheap to make; `prepare` does the work when its turn comes, from what earlier stages left. A method (methods/) writes
stages; engine/loop.py runs them.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import quote, unquote

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from partwise.config import OptimFields, UserError
from partwise.data.sample import Batch
from partwise.run import to_json, write_atomically

Losses = dict[str, Tensor]
StepOutput = tuple[Losses, Losses]
"""Named losses, whose sum is differentiated, and what else to log. All scalar tensors."""


class Products:
    """What finished stages left in `RUN/products/<stage>/`: one safetensors file an item, and an index when complete."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def folder(self, stage: str) -> Path:
        return self.root / stage

    def complete(self, stage: str) -> bool:
        """Whether the stage finished."""
        return (self.folder(stage) / "index.json").exists()

    def finish(self, stage: str, facts: Mapping[str, Any]) -> None:
        """Mark a stage as finished, with facts about it."""
        write_atomically(self.folder(stage) / "index.json", to_json(facts))

    def facts(self, stage: str) -> dict[str, Any]:
        """What `finish` noted. Raises UserError where the file is torn."""
        path = self.folder(stage) / "index.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{path}: is not JSON ({error}); --fresh starts the run anew") from None

    def path(self, stage: str, item: str, suffix: str = ".safetensors") -> Path:
        """The file of one item; any text may name an item."""
        return self.folder(stage) / f"{quote(item, safe='')}{suffix}"

    def write(self, stage: str, item: str, tensors: Mapping[str, Tensor]) -> None:
        """Store one item's tensors, whole or not at all."""
        write_atomically(self.path(stage, item), save({n: t.detach().cpu().contiguous() for n, t in tensors.items()}))

    def write_file(self, stage: str, item: str, suffix: str, data: bytes) -> None:
        """Store one item as a file of another kind, such as a PNG, whole or not at all."""
        write_atomically(self.path(stage, item, suffix), data)

    def read(self, stage: str, item: str) -> dict[str, Tensor]:
        """One item's tensors. Raises UserError where the file is torn."""
        path = self.path(stage, item)
        try:
            return dict(load_file(path))
        except (SafetensorError, ValueError) as error:
            raise UserError(f"{path}: is not a whole safetensors file ({error}); --fresh starts the run anew") from None

    def items(self, stage: str) -> list[str]:
        """The items stored so far."""
        return sorted(unquote(path.stem) for path in self.folder(stage).glob("*.safetensors"))


@dataclass(frozen=True)
class Plan:
    """An optimiser with the fields its schedule follows."""

    optimizer: torch.optim.Optimizer
    fields: OptimFields


class Stage(ABC):
    """A named part of a run."""

    name: str

    def prepare(self, products: Products) -> None:
        """Build what the stage needs from what earlier ones left; called once, when its turn has come."""
        return

    @abstractmethod
    def restore(self, products: Products) -> None:
        """Take up what this stage left when it finished, instead of running it."""


class TrainStage(Stage):
    """A stage that optimises.

    `strategy = "wrapped"`: `loss_module()` is what Fabric wraps; one `forward(batch)` a part gives the losses.
    `strategy = "manual"`: `step` does everything between two counts of the step with the optimisers handed to it, splits
    its work over processes and reduces by hand: for alternating optimisers, and for gradients through gradients.
    """

    strategy: Literal["wrapped", "manual"] = "wrapped"
    steps: int
    steps_per_epoch: int
    parts: int = 1
    ema: float | None = None
    measured: bool = True
    """Whether the suites of `evaluate.during` say something about what it trains."""
    batch_size: int | None = None
    """Pictures a step, where it is not `train.batch_size`: rates are told by it."""

    @abstractmethod
    def networks(self) -> dict[str, nn.Module]:
        """Every network of the stage under its prefix: what checkpoints hold and the stage leaves."""

    @abstractmethod
    def plans(self) -> dict[str, Plan]:
        """The optimisers by name."""

    def loss_module(self) -> nn.Module:
        """A module whose `forward(batch) -> (losses, logs)`; for strategy wrapped."""
        raise AssertionError(f"stage {self.name}: strategy 'wrapped' needs a loss module")

    def batches(self, first_step: int) -> Iterator[Batch]:
        """This process's slice of each part of each step from `first_step` on; for strategy wrapped."""
        raise AssertionError(f"stage {self.name}: strategy 'wrapped' needs batches")

    def step(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        """One whole step, for strategy manual: gradients, reduction over processes and `optimizer.step()`; what to log."""
        raise AssertionError(f"stage {self.name}: strategy 'manual' needs a step")

    def after_backward(self, step: int) -> None:
        """Look at or change gradients before they are clipped and applied."""

    def after_step(self, step: int) -> None:
        """Follow the weights: a teacher's average, a centre."""

    def extra_state(self) -> dict[str, Tensor]:
        """Tensors beside the networks that the next step depends on (an image being learned, a centre)."""
        return {}

    def load_extra_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Take back `extra_state`, in place."""
        for name, tensor in self.extra_state().items():
            tensor.data.copy_(tensors[name])

    def first_pictures(self, batch: Batch) -> None:
        """See the first batch of the run as the loss sees it, to keep a picture of it."""

    def restore(self, products: Products) -> None:
        stored = products.read(self.name, "networks")
        for prefix, network in self.networks().items():
            own = {name[len(prefix) + 1 :]: t for name, t in stored.items() if name.startswith(prefix + ".")}
            network.load_state_dict(own)
        extra = {name[6:]: tensor for name, tensor in stored.items() if name.startswith("extra.")}
        if extra:
            self.load_extra_state(extra)

    def leave(self) -> dict[str, Tensor]:
        """The tensors of `networks` and `extra_state` under their prefixes."""
        left = {f"{p}.{n}": t for p, network in self.networks().items() for n, t in network.state_dict().items()}
        return left | {f"extra.{name}": tensor for name, tensor in self.extra_state().items()}


class ComputeStage(Stage):
    """A stage that makes products item by item, resumable at any item."""

    suffix: ClassVar[str] = ".safetensors"
    """Of the files of its products; another one where `compute` gives bytes."""
    chunk: int = 1
    """Items that are computed together."""

    @abstractmethod
    def items(self) -> Sequence[str]:
        """The names of all items, in order."""

    def compute(self, item: str) -> Mapping[str, Tensor] | bytes:
        """One item's tensors, or its file: a function of the item and of earlier products alone."""
        raise AssertionError(f"stage {self.name}: needs compute or compute_all")

    def compute_all(self, items: Sequence[str]) -> Sequence[Mapping[str, Tensor] | bytes]:
        """Up to `chunk` items' products; what one gives must not depend on the others."""
        return [self.compute(item) for item in items]

    def facts(self) -> Mapping[str, Any]:
        """What else the index of the stage's products says."""
        return {}

    def restore(self, products: Products) -> None:
        return
