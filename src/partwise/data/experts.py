"""A store of expert trajectories: one safetensors file an expert, and an index once all of them are there.

    FOLDER/expert-00000.safetensors   every parameter by name, float32 (E + 1, ...): before training, after epoch 1, ..., E
    FOLDER/index.json                 {"experts": {"format", "count", "facts"}}: written last

Every file says in its header what network on what pictures it is of, and is written whole or not at all. So an
interrupted store goes on where it was, and experts of two kinds are never mixed. Names and index are those of a stage's
products (engine/stages.py): `encode_expert` is what a stage gives for an item, `index_of` belongs to its facts. How
experts are trained is not here.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from partwise.config import UserError
from partwise.run import to_json, write_atomically

FORMAT = 1
HEADER = "partwise"
INDEX = "index.json"


@dataclass(frozen=True)
class ExpertFacts:
    """What all experts of a store have in common; plain JSON values.

    `network` is what rebuilds it (name and arguments), `data` the fingerprint of the training pictures, `whitening`
    that of their whitening or "" for none, `optimizer` everything about their training that is not said elsewhere.
    """

    network: Mapping[str, Any]
    data: str
    whitening: str
    optimizer: Mapping[str, Any]
    seed: int
    epochs: int

    def plain(self) -> dict[str, Any]:
        """As it comes back from a file: tuples are lists."""
        values: dict[str, Any] = json.loads(to_json(dataclasses.asdict(self)))
        return values


def expert_name(number: int) -> str:
    """The name of an expert's file without its suffix, and of the item of a stage."""
    return f"expert-{number:05d}"


def expert_path(folder: Path, number: int) -> Path:
    """The file of an expert."""
    return folder / f"{expert_name(number)}.safetensors"


def encode_expert(snapshots: Mapping[str, Float[Tensor, " epochs *shape"]], facts: ExpertFacts) -> bytes:
    """The file of one expert: its parameters at the start and after every epoch, stacked, in float32.

    Raises UserError for an expert that is not finite, with the epoch in which it went wrong.
    """
    tensors = {name: stack.detach().to("cpu", torch.float32).contiguous() for name, stack in snapshots.items()}
    for name, stack in tensors.items():
        assert len(stack) == facts.epochs + 1, (name, tuple(stack.shape), facts.epochs)
        if not (sound := stack.reshape(len(stack), -1).isfinite().all(dim=1)).all():
            epoch = int(sound.int().argmin())
            raise UserError(f"expert: {name} is not finite after epoch {epoch}; a lower learning rate may help")
    content = {"format": FORMAT, "expert": facts.plain()}
    return save(tensors, metadata={HEADER: json.dumps(content, sort_keys=True)})


def index_of(facts: ExpertFacts, count: int) -> dict[str, Any]:
    """What the index says of a complete store of `count` experts."""
    return {"experts": {"format": FORMAT, "count": count, "facts": facts.plain()}}


def begin_experts(folder: Path, facts: ExpertFacts) -> list[int]:
    """The experts of a store that are there already and need not be made; none where it is new.

    Raises UserError where one is torn, or of another network, other pictures or another training than `facts`.
    """
    found = (path.stem.removeprefix("expert-") for path in folder.glob("expert-*.safetensors"))
    complete = sorted(int(number) for number in found if number.isdecimal())
    for number in complete:
        with _opened(expert_path(folder, number), facts.plain()):
            continue
    return complete


def write_expert(
    folder: Path, number: int, snapshots: Mapping[str, Float[Tensor, " epochs *shape"]], facts: ExpertFacts
) -> None:
    """Store one expert as `encode_expert` does, whole or not at all."""
    write_atomically(expert_path(folder, number), encode_expert(snapshots, facts))


def finish_experts(folder: Path, facts: ExpertFacts, count: int) -> None:
    """Write the index over experts 0 to count - 1, which must be there."""
    missing = set(range(count)) - set(begin_experts(folder, facts))
    assert not missing, f"experts {sorted(missing)} are not there"
    write_atomically(folder / INDEX, to_json(index_of(facts, count)))


@dataclass(frozen=True)
class ExpertStore:
    """A finished store, as `open_experts` found it: `facts` as of ExpertFacts, experts 0 to `count` - 1."""

    folder: Path
    facts: Mapping[str, Any]
    count: int

    @property
    def epochs(self) -> int:
        """The last epoch that experts have; the first is 0, before training."""
        return int(self.facts["epochs"])

    def snapshots(self, number: int, epochs: Sequence[int]) -> list[dict[str, Tensor]]:
        """An expert's parameters after each of `epochs`, on the CPU; the rest is not read.

        Raises UserError for an epoch that it has not, and where its file is torn.
        """
        if outside := [epoch for epoch in epochs if not 0 <= epoch <= self.epochs]:
            raise UserError(f"{self.folder}: epoch {outside[0]} of an expert: they have epochs 0 to {self.epochs}")
        with _opened(expert_path(self.folder, number), self.facts) as file:
            stacks = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118 - no mapping
            return [{name: stack[epoch : epoch + 1][0] for name, stack in stacks.items()} for epoch in epochs]


def open_experts(
    folder: Path, *, network: Mapping[str, Any], data: str, whitening: str, parameters: Mapping[str, Tensor]
) -> ExpertStore:
    """A finished store to match with. Reads the headers of all of its files.

    `network`, `data` and `whitening` (as in ExpertFacts) and `parameters` by name are those of the student. How experts
    were trained may differ. Raises UserError where one of these is another, where a file is absent or torn, and for a
    folder that holds no finished store.
    """
    store = _read_index(folder)
    wanted = json.loads(to_json({"network": network, "whitening": whitening, "data": data}))
    kinds = {"network": "another network", "whitening": "pictures whitened in another way", "data": "other pictures"}
    for name, kind in kinds.items():
        if odd := _difference({name: store.facts[name]}, {name: wanted[name]}):
            raise UserError(f"{folder}: holds experts of {kind}: {odd}")
    own = {name: [store.epochs + 1, *value.shape] for name, value in parameters.items()}
    for number in range(store.count):
        path = expert_path(folder, number)
        with _opened(path, store.facts) as file:
            shapes = {name: list(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
        if odd := _difference(shapes, own):
            raise UserError(f"{path}: its parameters are not the student's, epochs first: {odd}")
    return store


@contextmanager
def _opened(path: Path, facts: Mapping[str, Any]) -> Iterator[Any]:
    """An expert's file, of which no more than the header is read yet, and which is of the kind that `facts` says."""
    if not path.is_file():
        raise UserError(f"{path}: no such file, but the index counts it; train the experts again to have it made")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            content = json.loads((file.metadata() or {}).get(HEADER, "{}"))
            if not isinstance(content, dict) or content.get("format") != FORMAT or "expert" not in content:
                raise UserError(f"{path}: is no expert that this version of partwise reads")
            if odd := _difference(content["expert"], facts):
                raise UserError(f"{path}: is an expert of another kind: {odd}")
            yield file
    except (SafetensorError, OSError, json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{path}: is not a whole file of an expert ({error}); delete it to train it again") from None


def _read_index(folder: Path) -> ExpertStore:
    """What the index of a finished store says."""
    path = folder / INDEX
    if not path.is_file():
        begun = sum(1 for _ in folder.glob("expert-*.safetensors"))
        state = f"{begun} experts, whose training did not finish," if begun else "no experts"
        raise UserError(f"{folder}: holds {state} (there is no {INDEX})")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))["experts"]
        version, count, facts = index["format"], index["count"], dict(index["facts"])
        fields = {field.name for field in dataclasses.fields(ExpertFacts)}
        sound = facts.keys() == fields and all(isinstance(n, int) and n > 0 for n in (count, facts["epochs"]))
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        raise UserError(f"{path}: is no whole index of a store of experts ({error!r})") from None
    if version != FORMAT or not sound:
        raise UserError(f"{path}: is no index of experts that this version of partwise reads")
    return ExpertStore(folder, facts, count)


def _difference(there: Any, here: Any, name: str = "") -> str:
    """The first place where two plain values differ, in words; empty where they do not."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for key in {**there, **here}:
            if odd := _difference(there.get(key), here.get(key), f"{name}.{key}" if name else str(key)):
                return odd
        return ""
    return "" if there == here else f"{name} is {_shown(there)} there and {_shown(here)} here"


def _shown(value: Any) -> str:
    return "none" if value is None or value == "" else str(value)
