"""One safetensors file <-> the networks in it: the header says what rebuilds each, the tensors stand under its name.

Never a pickle, and nothing a file says is executed: a header can only name a row of BUILDERS, and gives it plain
values. Foreign weights files, which do not say what they are, are weights.py's.
"""

from __future__ import annotations

import importlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from partwise.config import UserError, nearest

BUILDERS: Mapping[str, str] = MappingProxyType(
    {
        "classifier": "partwise.models.heads:build_classifier",
        "patch_learning": "partwise.models.patch_learning:build_patch_learning",
        "irn": "partwise.models.affinity:build_irn",
        "affinity_net": "partwise.models.affinity:build_affinity_net",
        "segmenter": "partwise.models.segmentation:build_segmenter",
        "varifocal": "partwise.models.varifocal:VarifocalNet",
        "two_heads": "partwise.models.two_heads:build_two_heads",
        "calibration": "partwise.models.calibration:Calibration",
        "flat_classifier": "partwise.models.distillation:build_flat_classifier",
        "encoder": "partwise.models.encoders:build_encoder",
        "dino_head": "partwise.models.part_whole_heads:DinoHead",
        "part_heads": "partwise.models.part_whole_heads:PartHeads",
        "contrast_head": "partwise.models.part_whole_heads:ContrastHead",
        "synthetic_set": "partwise.models.synthetic_set:SyntheticSet",
    }
)
"""What a header may name -> the function, inside partwise.models, that is called with the header's arguments."""

HEADER = "partwise"
FORMAT = 1
LARGEST = 1_000_000
"""No size of a network is beyond this; a header that says so is hostile or torn."""
DEEPEST = 8


@dataclass(frozen=True)
class NetworkSpec:
    """What rebuilds a network: a row of BUILDERS and plain JSON values for it (checked when it is built or saved)."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SavedNetworks:
    """What a file held: the networks in evaluation mode on the CPU, what rebuilt them, and the text beside them."""

    networks: dict[str, nn.Module]
    specs: dict[str, NetworkSpec]
    metadata: dict[str, str]


def build_network(spec: NetworkSpec) -> nn.Module:
    """A fresh network as `spec` says.

    Raises UserError for an unknown builder (with the nearest) and for arguments that are no plain values or do not fit
    it.
    """
    if spec.name not in BUILDERS:
        close = nearest(spec.name, BUILDERS)
        raise UserError(
            f"unknown kind of network {spec.name!r}; "
            + (f"nearest: {close!r}" if close else f"known: {', '.join(BUILDERS)}")
        )
    check_plain(spec.arguments, where=spec.name)
    module, function = BUILDERS[spec.name].split(":")
    assert module.startswith("partwise.models."), module
    builder = getattr(importlib.import_module(module), function)
    try:
        network: nn.Module = builder(**spec.arguments)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise UserError(f"{spec.name}: arguments do not fit: {first_line(error)}") from error
    return network


def check_plain(value: Any, *, where: str, depth: int = 0) -> None:
    """Nothing but JSON values of sane size, or UserError."""
    if depth > DEEPEST:
        raise UserError(f"{where}: arguments are nested too deep")
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(key, str) or not key.isidentifier():
                raise UserError(f"{where}: {key!r} is no argument's name")
            check_plain(inner, where=f"{where}.{key}", depth=depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_plain(inner, where=where, depth=depth + 1)
    elif isinstance(value, bool | str) or value is None:
        return
    elif not isinstance(value, int | float) or not math.isfinite(value) or abs(value) > LARGEST:
        raise UserError(f"{where}: {value!r} is not a plain value of a sane size")


def save_networks(
    path: Path, networks: Mapping[str, nn.Module], specs: Mapping[str, NetworkSpec], metadata: Mapping[str, str]
) -> None:
    """Write all networks into one file, whole or not at all; `metadata` is kept beside them as text.

    A name in `networks` becomes the prefix of its tensors and needs a spec of the same name.
    """
    assert networks.keys() == specs.keys(), (sorted(networks), sorted(specs))
    assert not any("." in name or not name for name in networks)
    for name, spec in specs.items():
        check_plain(spec.arguments, where=name)
    rows = {name: {"name": spec.name, "arguments": spec.arguments} for name, spec in specs.items()}
    # One entry: safetensors writes several in an order of its own each time, and equal networks shall be equal files.
    content = {"format": FORMAT, "networks": rows, "about": dict(metadata)}
    header = {HEADER: json.dumps(content, sort_keys=True)}
    with replacing(path) as temporary:
        save_file(gather_tensors(networks), temporary, metadata=header)


def gather_tensors(networks: Mapping[str, nn.Module]) -> dict[str, Tensor]:
    """Every parameter and buffer on the CPU under `network.name`; tensors that share memory become copies."""
    tensors: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            tensor = value.detach().cpu().contiguous()
            storage = tensor.untyped_storage().data_ptr()
            tensors[f"{name}.{key}"] = tensor.clone() if storage in seen else tensor
            seen.add(storage)
    return tensors


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place, flushed to the disk, if the block ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        temporary.unlink(missing_ok=True)


def load_networks(path: Path) -> SavedNetworks:
    """Every network of a file, rebuilt and filled. Leaves the global random state as it was.

    Raises UserError, naming the file and the reason, for one that is absent, torn, foreign, or does not fit what it
    says it is.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            header = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - no mapping
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({first_line(error)})") from error
    specs, about = read_header(path, header)
    networks = {}
    for name, spec in specs.items():
        prefix = f"{name}."
        own = {key.removeprefix(prefix): tensors.pop(key) for key in list(tensors) if key.startswith(prefix)}
        networks[name] = rebuild(path, name, spec, own)
    if tensors:
        raise UserError(f"{path}: holds {len(tensors)} tensors of no network, first {next(iter(tensors))!r}")
    return SavedNetworks(networks, specs, about)


def read_header(path: Path, header: Mapping[str, str]) -> tuple[dict[str, NetworkSpec], dict[str, str]]:
    """What rebuilds each network, and the text beside them; UserError where the header is not one of ours."""
    if HEADER not in header:
        raise UserError(f"{path}: not written by partwise (its header does not say which networks it holds)")
    try:
        content = json.loads(header[HEADER])
        version, rows = content["format"], content["networks"]
        specs = {str(name): NetworkSpec(row["name"], row["arguments"]) for name, row in rows.items()}
        about = {str(key): str(value) for key, value in content.get("about", {}).items()}
        sound = all(isinstance(spec.name, str) and isinstance(spec.arguments, dict) for spec in specs.values())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its header is damaged ({first_line(error)})") from error
    if version != FORMAT:
        raise UserError(
            f"{path}: format {version!r}, but this version reads {FORMAT}; a newer partwise may have written it"
        )
    if not sound:
        raise UserError(f"{path}: its header is damaged (a network without name or arguments)")
    return specs, about


def rebuild(path: Path, name: str, spec: NetworkSpec, tensors: Mapping[str, Tensor]) -> nn.Module:
    """The network that `spec` describes with exactly these tensors in it."""
    try:
        with torch.random.fork_rng(devices=[]):
            network = build_network(spec)
    except UserError as error:
        raise UserError(f"{path}: network {name!r}: {error}") from error
    wanted = network.state_dict()
    problems = [f"{key} is missing" for key in wanted if key not in tensors]
    problems += [f"{key} is unknown" for key in tensors if key not in wanted]
    for key, value in wanted.items():
        if key in tensors and (tensors[key].shape, tensors[key].dtype) != (value.shape, value.dtype):
            problems.append(f"{key} is {describe(tensors[key])}, not {describe(value)}")
    if problems:
        raise UserError(
            f"{path}: network {name!r} does not fit its header: {problems[0]} ({len(problems)} such tensors)"
        )
    network.load_state_dict(tensors)
    return network.eval()


def describe(tensor: Tensor) -> str:
    """Data type and shape, for messages."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def first_line(error: BaseException) -> str:
    """The shortest useful form of somebody else's message."""
    lines = str(error).splitlines()
    return lines[0] if lines else type(error).__name__
