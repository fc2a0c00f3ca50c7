"""`karyograms:DIR`: whole karyograms, cut into their chromosomes by a table of boxes.

For Q-bands: bright chromosomes on a dark ground, which are stretched and inverted to look as G-bands do, dark on white.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Lock

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partwise.config import UserError
from partwise.data.findings import ROUNDING
from partwise.data.headers import FaultyPicture, Header, probe
from partwise.data.readers.chromosomes_table import type_index
from partwise.data.readers.crops import WHITE, CropSource, read_crop
from partwise.data.readers.tables import read_table
from partwise.data.sample import Record
from partwise.ops.iscn import TYPES

TABLE = "boxes.csv"
CORNERS = ("x1", "y1", "x2", "y2")
COLUMNS = ("file", "class_name", *CORNERS)
GROUND, BRIGHT = 50, 99
"""Percentiles that become white and black: of the whole picture, most of which is ground, and of what lies in its boxes, which
leaves out the frames and numbers round them."""
KEPT = 8
"""Karyograms that are kept decoded: their chromosomes are mostly asked for one after the other."""

Box = tuple[int, int, int, int]


class Karyograms(CropSource):
    """A record for each box, of the case and group that its picture is; chromosomes of a karyogram stand upright, polarity 1.

    Boxes are cut to whole pixels, outwards. Those of neighbours overlap, so that a crop may show a piece of the next
    chromosome. `pad` as of chromosomes; where they lie in their karyogram is in `cuts`.
    """

    kind = "karyograms"
    layout = "boxes.csv (file, class_name, x1, y1, x2, y2 in pixels; if wanted class, 1 to 24) beside the karyograms it names"
    home = "Q-banded karyograms with boxes are to be had from the repository akshan-main/chromosome_karyotyping"

    def __init__(self, path: Path, *, pad: int = 0) -> None:
        root = self.locate(path, lambda folder: (folder / TABLE).is_file())
        records, self.cuts = _read_boxes(root / TABLE)
        self._by_file: dict[str, list[Box]] = defaultdict(list)
        for record, cut in zip(records, self.cuts, strict=True):
            self._by_file[record.file].append(cut)
        self._recent = _Recent()
        super().__init__(path, root, records, TYPES, pad=pad)

    def crop(self, index: int) -> Tensor:
        """What lies in a box, dark on white: uint8 `(1, h, w)`. Raises FaultyPicture, also for a box outside its picture."""
        file = self.records[index].file
        picture = self._recent.find(file, self._read)
        x1, y1, x2, y2 = self.cuts[index]
        height, width = picture.shape[1:]
        if (
            max(-x1, -y1, x2 - width, y2 - height) > ROUNDING
            or min(x2, width) <= max(x1, 0)
            or min(y2, height) <= max(y1, 0)
        ):
            where = f"the box of {self.records[index].id}, ({x1}, {y1}, {x2}, {y2}), leaves the picture of {width} x {height}"
            raise FaultyPicture(file, "unreadable", where)
        return picture[:, max(y1, 0) : y2, max(x1, 0) : x2].clone()

    def crop_height(self, index: int) -> int:
        """The height of a box."""
        return self.cuts[index][3] - self.cuts[index][1]

    def file_header(self, index: int) -> Header:
        """The header of the karyogram. Raises FaultyPicture."""
        file = self.records[index].file
        return probe(self.root / file, name=file)

    def fingerprint(self) -> str:
        """As of other crops, and over the boxes."""
        return hashlib.sha256(f"{super().fingerprint()}/{self.cuts}".encode()).hexdigest()[:16]

    def _read(self, file: str) -> Tensor:
        picture = read_crop(self.root / file, name=file)
        return torch.from_numpy(darken(picture.numpy(), self._by_file[file], name=file))


def darken(picture: NDArray[np.uint8], boxes: Sequence[Box], *, name: str) -> NDArray[np.uint8]:
    """A bright-on-dark karyogram uint8 `(1, H, W)` -> dark on white, stretched.

    v becomes 255 (1 - (v - ground) / (bright - ground)), cut to 0..255. `ground` and `bright` are the percentiles GROUND of the
    picture and BRIGHT of the pixels in its boxes. Raises FaultyPicture, with `name` for the file, where the boxes are not
    brighter than the ground.
    """
    inside = np.zeros(picture.shape[1:], bool)
    for x1, y1, x2, y2 in boxes:
        inside[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = True
    if not inside.any():
        raise FaultyPicture(name, "unreadable", "none of its boxes lies in the picture")
    ground = float(np.percentile(picture, GROUND))
    bright = float(np.percentile(picture[0][inside], BRIGHT))
    if bright <= ground:
        raise FaultyPicture(
            name, "unreadable", "nothing in its boxes is brighter than its ground; expected bright on dark"
        )
    darkness = (picture.astype(np.float32) - ground) / (bright - ground)
    return np.rint(WHITE * (1 - darkness.clip(0, 1))).astype(np.uint8)


def _read_boxes(path: Path) -> tuple[list[Record], list[Box]]:
    """Records and boxes in whole pixels, row by row. Raises UserError, with the line, for a row that is not as expected."""
    records, cuts = [], []
    count: Counter[str] = Counter()
    for line, row in read_table(path, COLUMNS):
        file, label = row["file"], type_index(path, line, row["class_name"])
        if not file:
            raise UserError(f"{path}: line {line}: column 'file' is empty")
        if row.get("class", "") not in ("", str(label + 1)):
            raise UserError(
                f"{path}: line {line}: class {row['class']} is not that of class_name {row['class_name']}, {label + 1}"
            )
        count[file] += 1
        records.append(Record(f"{file}#{count[file]}", label=label, group=file, case=file, polarity=1, file=file))
        cuts.append(_whole_pixels(path, line, row))
    return records, cuts


def _whole_pixels(path: Path, line: int, row: dict[str, str]) -> Box:
    text = " ".join(row[corner] for corner in CORNERS)
    try:
        x1, y1, x2, y2 = (float(word) for word in text.split())
        box = (math.floor(x1), math.floor(y1), math.ceil(x2), math.ceil(y2))
    except (ValueError, OverflowError) as error:
        raise UserError(f"{path}: line {line}: box {text!r}; expected x1, y1, x2, y2 in pixels") from error
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{path}: line {line}: box {text!r} is empty; expected x1 < x2 and y1 < y2")
    return box


class _Recent:
    """The KEPT karyograms that were asked for last. Threads that want the same one wait for it; copies begin empty."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._kept: OrderedDict[str, Tensor] = OrderedDict()

    def __reduce__(self) -> tuple[type[_Recent], tuple[()]]:
        return _Recent, ()

    def find(self, file: str, read: Callable[[str], Tensor]) -> Tensor:
        """A karyogram, read now or kept."""
        with self._lock:
            if file not in self._kept:
                self._kept[file] = read(file)
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(file)
            return self._kept[file]
