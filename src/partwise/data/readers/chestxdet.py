"""`chestxdet:DIR`: ChestX-Det: 3,578 radiographs of NIH with 13 kinds of findings as boxes and polygons, the official split."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partwise.config import UserError, did_you_mean
from partwise.data.readers.areas import Area, ShapeSource, Size
from partwise.data.readers.coco_shapes import Shape, parse_shape
from partwise.data.sample import Record

FINDINGS = (
    "Atelectasis", "Calcification", "Cardiomegaly", "Consolidation", "Diffuse Nodule", "Effusion", "Emphysema", "Fibrosis",
    "Fracture", "Mass", "Nodule", "Pleural Thickening", "Pneumothorax",
)  # fmt: skip
ANY = "finding"
ANNOTATIONS = {"train": "ChestX_Det_train.json", "test": "ChestX_Det_test.json"}
FOLDERS = ("", "_data")
"""What may follow the split in the name of a folder of pictures."""
Box = tuple[float, float, float, float]


class ChestXDet(ShapeSource):
    """Several findings a picture, none for healthy ones. The largest area is drawn first, so that a small one on it is seen.

    With `binary=true` all findings are one class. Persons are not named, so there are no groups. Not verified.
    """

    kind = "chestxdet"
    layout = f"{' and '.join(ANNOTATIONS.values())} beside train/ and test/ (or train_data/ and test_data/)"
    home = "ChestX-Det is to be had from the repository Deepwise-AILab/ChestX-Det-Dataset"
    multi_label = True

    def __init__(self, path: Path, *, binary: bool = False) -> None:
        root = self.locate(path, lambda folder: any((folder / name).is_file() for name in ANNOTATIONS.values()))
        records: list[Record] = []
        self.shapes: list[list[tuple[int, Shape]]] = []
        for split, name in ANNOTATIONS.items():
            folder = next((split + end for end in FOLDERS if (root / (split + end)).is_dir()), split)
            for entry in _read_entries(root / name) if (root / name).is_file() else ():
                labels = [0 if binary else label for label in entry.labels]
                file = f"{folder}/{entry.file}"
                records.append(
                    Record(file, split, labels=tuple(sorted(set(labels))), boxes=entry.boxes, file=file, has_mask=True)
                )
                self.shapes.append([(label + 1, shape) for label, shape in zip(labels, entry.shapes, strict=True)])
        super().__init__(path, root, records, (ANY,) if binary else FINDINGS)

    def areas(self, index: int, size: Size) -> Iterator[Area]:
        yield from sorted(super().areas(index, size), key=lambda area: -int(area[1].sum()))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A picture of the annotations; boxes without an area are left out."""

    file: str
    labels: tuple[int, ...]
    boxes: tuple[Box, ...]
    shapes: tuple[Shape, ...]


def _read_entries(path: Path) -> list[_Entry]:
    """The pictures of a file of annotations. Raises UserError, with the picture, for what is not as expected."""
    try:
        content = json.loads(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{path}: not JSON: {error}") from error
    if not isinstance(content, list) or not content:
        raise UserError(f"{path}: expected a list of pictures with file_name, syms, boxes and polygons")
    return [_entry(path, place, entry) for place, entry in enumerate(content)]


def _entry(path: Path, place: int, entry: Any) -> _Entry:
    where = f"{path}: entry {place}"
    try:
        where += f" ({entry['file_name']})"
        syms, boxes, polygons = entry["syms"], entry["boxes"], entry["polygons"]
        if not len(syms) == len(boxes) == len(polygons):
            raise ValueError(f"{len(syms)} syms, {len(boxes)} boxes and {len(polygons)} polygons")
        return _Entry(
            file=str(entry["file_name"]),
            labels=tuple(_finding(where, str(name)) for name in syms),
            boxes=tuple(box for box in map(_box, boxes) if box[0] < box[2] and box[1] < box[3]),
            shapes=tuple(
                parse_shape([[float(number) for corner in polygon for number in corner]]) for polygon in polygons
            ),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{where}: {error!r}; expected file_name, and syms, boxes and polygons of one length"
        ) from error


def _box(corners: Any) -> Box:
    x1, y1, x2, y2 = (float(number) for number in corners)
    return x1, y1, x2, y2


def _finding(where: str, name: str) -> int:
    if name not in FINDINGS:
        raise UserError(
            f"{where}: no finding {name!r}; expected one of {', '.join(FINDINGS)}{did_you_mean(name, FINDINGS)}"
        )
    return FINDINGS.index(name)
