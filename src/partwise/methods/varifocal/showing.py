"""Pictures for the report: the karyogram of the test cell with the most mistakes, and what the second network looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.data.sample import FaultySample, Record
from partwise.evaluate.karyotype import coin
from partwise.ops.iscn import TYPES
from partwise.report import canvas, figures
from partwise.report.case import Read
from partwise.report.karyogram import draw_karyogram
from partwise.report.values import Picture

if TYPE_CHECKING:
    from partwise.methods.varifocal.method import VarifocalMethod

CELLS, LOOKS = 24, 24
"""Test cells among which the worst is looked for, and chromosomes whose boxes are shown."""
WIDE = 1600
"""Width of the karyogram, pixels."""
WHITE = 255


def shown(method: VarifocalMethod, data: PictureData) -> list[Picture]:
    """What can be drawn of the test split."""
    cells = _cells(data)
    if not cells:
        return []
    read = {name: _read(method, data, indices) for name, indices in cells.items()}
    worst = max(read, key=lambda name: _mistakes(data, cells[name], read[name]))
    pictures = [_karyogram(method, data, worst, cells[worst], read[worst])]
    boxes = [place for place, one in enumerate(read[worst]) if one.found.box is not None]
    return pictures + ([_looks(method, data, worst, cells[worst], read[worst])] if boxes else [])


def _cells(data: PictureData) -> dict[str, list[int]]:
    """The first test cells, with the places of their chromosomes in the source."""
    found: dict[str, list[int]] = {}
    for index in data.splits["test"].tolist():
        case = data.source.records[index].case
        if case in found or len(found) < CELLS:
            found.setdefault(case, []).append(index)
    return {case: indices for case, indices in found.items() if case}


def _turned(image: Tensor, record: Record) -> Tensor:
    """The chromosome as it is measured: upside down where its coin says so."""
    return image.flip((-2, -1)) if coin(record.id) else image


def _read(method: VarifocalMethod, data: PictureData, indices: list[int]) -> list[Read]:
    """What the network says of a cell, each chromosome after its coin. Those that cannot be read are left out."""
    crops, kept = [], []
    for index in indices:
        try:
            crops.append(_cut(_turned(data.source.load_image(index), data.source.records[index])[0]))
            kept.append(index)
        except FaultySample:
            continue
    images = data.pictures(torch.tensor(kept)).float() / 255
    images = torch.stack([_turned(image, data.source.records[i]) for image, i in zip(images, kept, strict=True)])
    found = method.predict(images)
    return [Read(data.source.records[i].id, crop.numpy(), one) for i, crop, one in zip(kept, crops, found, strict=True)]


def _cut(frame: Tensor) -> Tensor:
    """A chromosome uint8 `(h, w)` without the white around it."""
    dark = frame < WHITE
    rows, columns = dark.any(1).nonzero()[:, 0], dark.any(0).nonzero()[:, 0]
    return frame[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else frame[:1, :1]


def _mistakes(data: PictureData, indices: list[int], read: list[Read]) -> int:
    """Chromosomes of a cell that are named wrong by themselves."""
    labels = {data.source.records[i].id: data.source.records[i].label for i in indices}
    return sum(int(one.found.types.argmax()) != labels[one.file] for one in read)


def _karyogram(method: VarifocalMethod, data: PictureData, name: str, indices: list[int], read: list[Read]) -> Picture:
    case, _ = method.name_case(name, read, {})
    labels = {data.source.records[i].id: data.source.records[i].label for i in indices}
    rows: list[dict[str, str | int | float]] = []
    for one in case.chromosomes:
        label = labels[one.file]
        rows.append(
            {
                "file": one.file,
                "type": one.type,
                "probability": round(one.probability, 6),
                "true": "" if label is None else TYPES[label],
                "polarity": one.polarity,
                "turned": int(one.turned),
            }
        )
    wrong = sum(row["type"] != row["true"] for row in rows)
    return Picture(
        "karyogram",
        f"Karyogram of the worst of {min(CELLS, len(_cells(data)))} test cells",
        f"{name}: {_mistakes(data, indices, read)} chromosomes are named wrong one by one, {wrong} after the optimal dispatch. "
        "Half of the chromosomes came upside down.",
        np.asarray(draw_karyogram(case, width=WIDE)),
        rows,
    )


def _looks(method: VarifocalMethod, data: PictureData, name: str, indices: list[int], read: list[Read]) -> Picture:
    """Chromosomes of a cell in the network's frame, with the box that the second network saw."""
    by_id = {data.source.records[i].id: i for i in indices}
    tiles, titles = [], []
    for one in read[:LOOKS]:
        index = by_id[one.file]
        frame = _turned(data.pictures(torch.tensor([index]))[0], data.source.records[index]).cpu()
        tile, scale = canvas.enlarge(canvas.rgb(np.ascontiguousarray(frame.expand(3, -1, -1).permute(1, 2, 0).numpy())))
        assert one.found.box is not None
        tiles.append(figures.draw_boxes(tile, np.array(one.found.box) * scale, figures.FOUND_BOX))
        titles.append(TYPES[int(one.found.types.argmax())])
    return Picture(
        "boxes",
        "What the second network looks at",
        f"Chromosomes of {name} as the first network sees them; the box is cut out and looked at again.",
        figures.gallery(tiles, titles),
    )
