"""`siim:DIR`: SIIM-ACR: radiographs with the pneumothorax drawn as run lengths, DICOM or converted pictures.

The runs go down the columns from the left, each start counted from the end of the run before, over 1024 x 1024 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from partwise.config import UserError
from partwise.data.readers.areas import ShapeSource, Size
from partwise.data.readers.coco_shapes import Shape
from partwise.data.readers.dicom import RadiographSource, by_stem, file_of, radiographs_below, require_pydicom
from partwise.data.readers.tables import read_table
from partwise.data.sample import Record

IMAGE, RUNS = "ImageId", "EncodedPixels"
TABLES = ("stage_2_train.csv", "stage_1_train.csv", "train-rle.csv")
"""Which table is read where there are several: the first of these."""
NOTHING = "-1"
SIZE: Size = (1024, 1024)
CLASSES = ("pneumothorax",)


class Siim(RadiographSource, ShapeSource):
    """One label a picture or none: pneumothorax. Its parts may stand in several rows; a picture without has an empty mask.

    Pictures are looked for by their id below DIR at any depth, but not in folders of masks. Where they lie in folders for
    training and for test, these are the splits; else there is none. Not verified.
    """

    kind = "siim"
    layout = (
        f"one of {', '.join(TABLES)} ({IMAGE}, {RUNS}) and the pictures, of 1024 x 1024, called after {IMAGE}: DICOM in "
        "dicom-images-train/ or converted, at any depth"
    )
    home = "SIIM-ACR is to be had from Kaggle's contest SIIM-ACR Pneumothorax Segmentation"
    multi_label = True

    def __init__(self, path: Path) -> None:
        root = self.locate(path, lambda folder: _table(folder) is not None)
        table = _table(root)
        assert table is not None, "locate gives a folder with a table"
        drawn = _read_runs(table)
        files = by_stem(
            root, (file for file in radiographs_below(root) if "mask" not in file.rpartition("/")[0].lower())
        )
        if not files:
            raise self.not_found(root, "holds no picture")
        places = {image: file_of(image, files, folder="dicom-images-train", suffix=".dcm") for image in drawn}
        splits = _splits(places)
        records = [
            Record(id=image, split=splits[image], labels=(0,) if runs else (), file=places[image], has_mask=True)
            for image, runs in drawn.items()
        ]
        require_pydicom(self.kind, places.values())
        super().__init__(path, root, records, CLASSES)
        self.shapes = [[(1, Shape(runs=each, size=SIZE)) for each in runs] for runs in drawn.values()]


def relative_runs(numbers: Sequence[int], size: Size) -> NDArray[np.int64]:
    """(gap, length, gap, length, ...) -> lengths of runs that fill `size`, alternately outside and inside.

    A gap counts from the end of the run before, and the first from the first pixel: that is what runs outside are, and only the
    last is missing. Raises ValueError for an odd number of numbers, one below 0, and runs beyond the size.
    """
    runs = np.asarray(numbers, np.int64)
    left = size[0] * size[1] - int(runs.sum())
    if runs.ndim != 1 or len(runs) % 2 or (runs < 0).any():
        raise ValueError("expected pairs of a gap and a length, none below 0")
    if left < 0:
        raise ValueError(f"the runs end {-left} pixels beyond {size[1]} x {size[0]}")
    return np.append(runs, left)


def _table(folder: Path) -> Path | None:
    return next((folder / name for name in TABLES if (folder / name).is_file()), None)


def _read_runs(path: Path) -> dict[str, list[NDArray[np.int64]]]:
    """Picture -> its run lengths, row by row. Raises UserError with the line of a row that is not as expected."""
    found: dict[str, list[NDArray[np.int64]]] = {}
    empty: dict[str, int] = {}
    for line, row in read_table(path, (IMAGE, RUNS)):
        image, text = row[IMAGE], row[RUNS]
        if not image:
            raise UserError(f"{path}: line {line}: column {IMAGE!r} is empty")
        runs = found.setdefault(image, [])
        if text == NOTHING:
            empty[image] = line
        else:
            runs.append(_parse(path, line, text))
        if image in empty and runs:
            raise UserError(f"{path}: line {line}: {image} has run lengths in one row and none ({NOTHING}) in another")
    return found


def _parse(path: Path, line: int, text: str) -> NDArray[np.int64]:
    try:
        numbers = [int(word) for word in text.split()]
        if not numbers:
            raise ValueError("the cell is empty")
        return relative_runs(numbers, SIZE)
    except ValueError as error:
        raise UserError(
            f"{path}: line {line}: {RUNS} {text[:24]!r}: {error}; {NOTHING} says that there is none"
        ) from error


def _splits(files: dict[str, str]) -> dict[str, str]:
    """Id -> split, where the top folders of the pictures are for training and for test; else no split."""
    tops = {image: file.partition("/")[0].lower() for image, file in files.items()}
    found = {image: next((split for split in ("train", "test") if split in top), "") for image, top in tops.items()}
    return found if set(found.values()) == {"train", "test"} else dict.fromkeys(found, "")
