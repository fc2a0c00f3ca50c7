"""A distilled set as a run of FYI leaves it, of generated numbers. For tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

from partwise.models.saved import NetworkSpec, save_networks
from partwise.models.synthetic_set import SyntheticSet
from tests.miniatures import Maker, Miniature

CLASSES = ("horned", "crested", "long-eared")


def write_set(file: Path, *, source: str, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> Path:
    """The file of a set of two pictures a class, 16 px."""
    arguments = {"num_classes": len(classes), "per_class": 2, "size": 16}
    made = SyntheticSet(**arguments)  # type: ignore[arg-type]
    nn.init.normal_(made.images, generator=torch.Generator().manual_seed(seed))
    about = {
        "method": "fyi",
        "facts": json.dumps({"classes": classes, "multi_label": False, "channels": 3}),
        "whole_recipe": f"recipe: fyi/smoke\ndata:\n  source: '{source}'\n",
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    save_networks(file, {"set": made}, {"set": NetworkSpec("synthetic_set", arguments)}, about)
    return file


def distilled(root: Path, seed: int = 0) -> Miniature:
    """A run's folder, with the pictures of a world to measure on."""
    source = "creatures:?size=32&classes=3&train=5&val=4&test=3"
    file = write_set(root / "products" / "set" / "set.safetensors", source=source, seed=seed)
    return Miniature(f"distilled:{root}", root, {"train": 6, "val": 4, "test": 3}, 3, file)


def distilled_alone(root: Path, seed: int = 0) -> Miniature:
    """The file in a folder, without real pictures."""
    file = write_set(root / "set.safetensors", source="creatures:", seed=seed)
    return Miniature(f"distilled:{root}?real=none", root, {"train": 6}, 3, file)


MAKERS: dict[str, list[Maker]] = {"distilled": [distilled, distilled_alone]}
