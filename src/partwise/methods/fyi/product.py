"""What a run hands over: the pictures in a folder a class, and one file from which the set and its trial can be had again.

The folder is an `imagefolder:`, of bytes cut to [0, 1]. The file keeps every number; its header holds the recipe, the classes
and, in the recipe, all that a trial needs, so that `partwise evaluate FILE` measures it anew.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import torch

from partwise.engine.stages import ComputeStage, Products
from partwise.methods.fyi.showing import as_bytes
from partwise.methods.trained import save_whole
from partwise.report import figures
from partwise.run import write_atomically

if TYPE_CHECKING:
    from partwise.methods.fyi.method import FyiMethod

NAME = "set"
FOLDER = "pictures"


class WriteSet(ComputeStage):
    """`products/set/pictures/<class>/<number>.png`, and `products/set/set.safetensors`."""

    name = NAME

    def __init__(self, method: FyiMethod) -> None:
        self.method = method
        self.folder = Path()

    def items(self) -> Sequence[str]:
        return [NAME]

    def prepare(self, products: Products) -> None:
        self.method.in_progress = False
        self.folder = products.folder(self.name)

    def compute(self, item: str) -> bytes:
        write_pictures(self.method, self.folder / FOLDER)
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "set.safetensors"
            save_whole(path, self.method, ("set",))
            return path.read_bytes()


@torch.no_grad()
def write_pictures(method: FyiMethod, folder: Path) -> None:
    """A PNG of each picture that networks train on, packed ones unpacked, in a folder of its class."""
    pictures, labels = method.set.pictures()
    counts = [0] * len(method.classes)
    for pixels, label in zip(as_bytes(pictures), labels.tolist(), strict=True):
        place = folder / (quote(method.classes[label], safe=" ()") or "_") / f"{counts[label]:04d}.png"
        write_atomically(place, figures.encode_png(pixels))
        counts[label] += 1
