"""Pictures for the report: the set beside what it began as."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.methods.fyi.symmetry import symmetry_picture
from partwise.ops.flips import picture_unequalness, symmetry_energy
from partwise.report import figures
from partwise.report.values import Cell, Picture

if TYPE_CHECKING:
    from partwise.methods.fyi.method import FyiMethod

CLASSES, EACH = 10, 4
"""Classes and pictures of a class that are shown at most."""


def as_bytes(pictures: Tensor) -> NDArray[np.uint8]:
    """Pictures `(B, ch, S, S)` in [0, 1] -> uint8 `(B, S, S, 3)`."""
    pixels = (pictures * 255).round().to(torch.uint8).cpu()
    return np.ascontiguousarray(pixels.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).numpy())


@torch.no_grad()
def shown(method: FyiMethod, data: PictureData) -> list[Picture]:
    """What can be drawn of a finished set."""
    synthetic = method.set
    before = method.beginning(data).to(synthetic.images.device)
    pictures = [_beside(method, before)]
    if method.fields.symmetry_networks:
        pictures.append(symmetry_picture(method, data, before))
    return pictures


def _beside(method: FyiMethod, before: Tensor) -> Picture:
    """Of each class the beginnings and what became of them, in two rows."""
    synthetic = method.set
    each = min(EACH, synthetic.per_class)
    tiles, titles, rows = [], [], []
    for k in range(min(CLASSES, len(method.classes))):
        places = torch.arange(k * synthetic.per_class, k * synthetic.per_class + each)
        for name, images in (("begun as", before[places]), ("learned", synthetic.images[places])):
            tiles += list(as_bytes(synthetic.shown(images)))
            titles += [f"{method.classes[k]}\n{name}"] * each
        rows += [_row(method, int(place), before) for place in places]
    began = {"real": "real pictures", "noise": "noise"}[method.fields.start]
    return Picture(
        "set",
        "The set, and what it began as",
        f"The first {each} of each class's {synthetic.per_class} pictures: what they began as ({began}) and what they are now.",
        figures.gallery(tiles, titles, columns=2 * each),
        rows,
    )


def _row(method: FyiMethod, place: int, before: Tensor) -> dict[str, Cell]:
    now = method.set.images[place : place + 1]
    row: dict[str, Cell] = {"class": method.classes[int(method.set.labels[place])], "picture": place}
    for name, images in (("before", before[place : place + 1]), ("after", now)):
        row[f"unequalness {name}"] = round(float(picture_unequalness(images)), 6)
        row[f"symmetry {name}"] = round(float(symmetry_energy(images)), 6)
    return row
