"""The state of an unfinished stage <-> one safetensors file with JSON in its header: atomic, and never a pickle.

Networks, averaged networks, optimisers, and the counters from which all randomness and the data position follow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from partwise.config import UserError
from partwise.run import write_atomically


@dataclass
class State:
    """What a checkpoint holds: `tensors` by dotted name, and `facts` (counters and settings) that JSON can carry."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    def add(self, prefix: str, tensors: Mapping[str, Tensor]) -> None:
        """Take in the tensors of a state dict under a prefix."""
        for name, tensor in tensors.items():
            self.tensors[f"{prefix}.{name}"] = tensor.detach()

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors of one prefix, without it."""
        return {name[len(prefix) + 1 :]: t for name, t in self.tensors.items() if name.startswith(prefix + ".")}

    def add_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Take in an optimiser: its tensors by parameter number, everything else as facts."""
        whole = optimizer.state_dict()
        plain: dict[str, dict[str, Any]] = {}
        for number, entries in whole["state"].items():
            for key, value in entries.items():
                if isinstance(value, Tensor):
                    self.tensors[f"optimizer.{name}.{number}.{key}"] = value.detach()
                else:
                    plain.setdefault(str(number), {})[key] = value
        self.facts[f"optimizer.{name}"] = {"groups": whole["param_groups"], "plain": plain}

    def load_optimizer(self, name: str, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimiser back what `add_optimizer` took."""
        facts = self.facts[f"optimizer.{name}"]
        state: dict[int, dict[str, Any]] = {int(number): dict(v) for number, v in facts["plain"].items()}
        for key, tensor in self.under(f"optimizer.{name}").items():
            number, entry = key.split(".", 1)
            state.setdefault(int(number), {})[entry] = tensor
        groups = [{k: tuple(v) if k == "betas" else v for k, v in group.items()} for group in facts["groups"]]
        optimizer.load_state_dict({"state": state, "param_groups": groups})


def write_state(path: Path, state: State) -> None:
    """Write a checkpoint whole or not at all."""
    tensors = {name: tensor.cpu().contiguous() for name, tensor in state.tensors.items()}
    write_atomically(path, save(tensors, metadata={"partwise": json.dumps(state.facts)}))


def read_state(path: Path) -> State | None:
    """Read a checkpoint; None where there is none. Raises UserError where it is torn or foreign."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            facts = json.loads((file.metadata() or {})["partwise"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # not a mapping
        if not isinstance(facts, dict) or "stage" not in facts:
            raise ValueError("it names no stage")
    except (SafetensorError, KeyError, ValueError, OSError) as error:
        raise UserError(f"{path}: is no whole checkpoint of partwise ({error}); --fresh starts the run anew") from None
    return State(tensors, facts)
