"""Foreign weights from a local file into a network: `.safetensors`, or `.pth` read with `weights_only=True`.

Finds the network inside whatever the file wraps around it, and refuses a file that belongs to another one. Nothing is
ever downloaded. Files of our own that also say which network they hold are saved.py's.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from partwise.config import UserError, nearest

CLASSIFIERS = ("fc", "head", "heads", "head_dist", "classifier", "linear", "last_linear")
"""What libraries call the layer behind the features: the tensors of a file that a backbone may leave alone."""

OPTIONAL = "num_batches_tracked"
"""A counter that older files do not have and that batch norm with a momentum never reads."""

SHOWN = 3


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a weights file by dotted name; the dictionaries of a `.pth` are flattened.

    Raises UserError with the file and the reason where it is absent, of another kind, torn or holds more than tensors.
    """
    if not path.is_file():
        raise UserError(f"weights {path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError, ValueError) as error:
            raise UserError(f"weights {path}: not a readable safetensors file ({error})") from error
    if path.suffix not in {".pth", ".pt", ".bin"}:
        raise UserError(f"weights {path}: expected a .safetensors or .pth file")
    try:
        with warnings.catch_warnings(action="ignore"):  # torch's remarks on the pickle inside are no news to the user
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a stranger's bytes break the reader in any way they like
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"weights {path}: not readable as plain tensors ({reason})") from error
    return flatten_tensors(content)


def flatten_tensors(content: Any, prefix: str = "") -> dict[str, Tensor]:
    """Nested dictionaries -> one, with dotted names; whatever is no tensor is left out."""
    if isinstance(content, Tensor):
        return {prefix.removesuffix("."): content}
    found: dict[str, Tensor] = {}
    if isinstance(content, Mapping):
        for key, value in content.items():
            found |= flatten_tensors(value, f"{prefix}{key}.")
    return found


def find_prefixes(names: list[str], wanted: list[str]) -> list[str]:
    """What stands before the network's own names in a file, as `module.` does: all prefixes that match most names.

    An empty list where nothing matches.
    """
    known = set(wanted)
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        for cut in range(len(parts)):
            if ".".join(parts[cut:]) in known:
                counts[".".join([*parts[:cut], ""])] += 1
    best = max(counts.values(), default=0)
    return [prefix for prefix, count in counts.items() if count == best]


def load_weights(network: nn.Module, path: Path, *, name: str) -> None:
    """Copy the tensors of a file into `network`, all or none; `name` is what messages call the network.

    A classifier behind the features is ignored, and the children that the network names in `fresh` may be missing. Raises
    UserError, with how many tensors match and the first that do not, where one is missing or has another shape, or where the
    file holds more of the same modules (a deeper network).
    """
    wanted = network.state_dict()
    tensors = read_tensors(path)
    prefixes = find_prefixes(list(tensors), list(wanted))
    if len(prefixes) > 1:
        listed = ", ".join(repr(prefix) for prefix in prefixes[:SHOWN])
        raise UserError(f"weights {path}: holds {name} more than once, under {listed}; save the one you want alone")
    prefix = prefixes[0] if prefixes else ""
    found = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    fresh = getattr(network, "fresh", ())
    wanted = {key: value for key, value in wanted.items() if key in found or key.split(".")[0] not in fresh}
    problems = misfits(network, wanted, found)
    if problems:
        good = sum(key in found and found[key].shape == value.shape for key, value in wanted.items())
        more = f" and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"weights {path} do not fit {name}: {good} of {len(wanted)} tensors match; "
            + "; ".join(problems[:SHOWN])
            + more
        )
    # OPTIONAL alone may be absent: misfits() has seen to all the others
    network.load_state_dict({key: found[key] for key in wanted if key in found}, strict=False)


def misfits(network: nn.Module, wanted: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> list[str]:
    """What is missing, what has another shape and what is left over, in words and in this order."""
    problems: list[str] = []
    for key in wanted:
        if key not in found and not key.endswith(OPTIONAL):
            # the search is slow and only the first problems are shown
            close = nearest(key, found) if len(problems) < SHOWN else None
            problems.append(f"{key} is missing" + (f" (nearest in the file: {close})" if close else ""))
    for key, value in wanted.items():
        if key in found and found[key].shape != value.shape:
            problems.append(f"{key} is {tuple(found[key].shape)} in the file, {tuple(value.shape)} in the network")
    # a deeper sibling holds every tensor of this network and more beside them
    own = {child for child, module in network.named_children() if any(True for _ in module.parameters())}
    for key in found:
        parts = key.split(".")
        if key not in wanted and parts[0] in own and not set(parts[:2]) & set(CLASSIFIERS):
            problems.append(f"{key} is in the file only")
    return problems
