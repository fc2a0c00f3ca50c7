"""`vindr:DIR`: VinDr-CXR: radiographs with labels of whole pictures; `vindrribs:DIR`: VinDr-RibCXR: with twenty ribs drawn."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from partwise.config import UserError
from partwise.data.readers.areas import ShapeSource
from partwise.data.readers.coco_shapes import Shape, parse_shape
from partwise.data.readers.dicom import RadiographSource, by_stem, file_of, is_radiograph, require_pydicom
from partwise.data.readers.files import pictures_below, visible
from partwise.data.readers.tables import read_table
from partwise.data.sample import Record

LOCAL = (
    "Aortic enlargement", "Atelectasis", "Calcification", "Cardiomegaly", "Clavicle fracture", "Consolidation", "Edema",
    "Emphysema", "Enlarged PA", "ILD", "Infiltration", "Lung Opacity", "Lung cavity", "Lung cyst", "Mediastinal shift",
    "Nodule/Mass", "Pleural effusion", "Pleural thickening", "Pneumothorax", "Pulmonary fibrosis", "Rib fracture",
    "Other lesion",
)  # fmt: skip
GLOBAL = ("COPD", "Lung tumor", "Pneumonia", "Tuberculosis", "Other diseases", "No finding")
OTHER_NAMES = {"Other disease": "Other diseases"}
"""How a column is called in some of the tables."""
TABLES = {"image_labels_train.csv": "train", "image_labels_test.csv": "test"}
VALUES = {"0": 0, "0.0": 0, "1": 1, "1.0": 1}

RIBS = (*(f"R{number}" for number in range(1, 11)), *(f"L{number}" for number in range(1, 11)))
RIB_FILES = {"vindr_ribcxr_train_mask.json": "train", "vindr_ribcxr_val_mask.json": "test"}
"""In lower case. There are no test pictures: those of val are reported."""
NO_RIB = "None"


class VinDr(RadiographSource):
    """Several labels a picture: the 6 of the whole chest (`labels=global`), the 22 of findings (`local`), or all 28.

    Three people read each training picture: `votes=majority` takes what most of them say, `any` what one of them says. Persons
    are not published, so there are no groups. Not verified.
    """

    kind = "vindr"
    layout = (
        "annotations/ with image_labels_train.csv and image_labels_test.csv (also directly), and the pictures, DICOM or "
        "converted, in train/ and test/ (or train_jpeg/ and test_jpeg/)"
    )
    home = "VinDr-CXR is to be had from PhysioNet"
    multi_label = True

    def __init__(
        self,
        path: Path,
        *,
        labels: Literal["global", "local", "all"] = "global",
        votes: Literal["majority", "any"] = "majority",
    ) -> None:
        root = self.locate(path, lambda folder: bool(_tables(folder)))
        classes = {"global": GLOBAL, "local": LOCAL, "all": (*LOCAL, *GLOBAL)}[labels]
        records = []
        for table in _tables(root):
            split = TABLES[table.name]
            folder, files = _pictures(root, split)
            for image, (count, readers) in _read_votes(table, classes).items():
                enough = 1 if votes == "any" else readers // 2 + 1
                present = tuple(number for number, name in enumerate(classes) if count[name] >= enough)
                file = file_of(image, files, folder=folder, suffix=".dicom")
                records.append(Record(id=image, split=split, labels=present, file=file))
        require_pydicom(self.kind, (record.file for record in records))
        super().__init__(path, root, records, classes)


class VinDrRibs(ShapeSource):
    """Ribs R1 to R10 and L1 to L10 as polygons; where two cross the later in this order covers the other. Not verified."""

    kind = "vindrribs"
    layout = "VinDr_RibCXR_train_mask.json and VinDr_RibCXR_val_mask.json, up to three folders deep, and the pictures they name"
    home = "VinDr-RibCXR is to be had from the VinDr project's page, vindr.ai"
    multi_label = True

    def __init__(self, path: Path) -> None:
        root = self.locate(path, lambda folder: bool(_rib_files(folder)))
        pictures = {PurePosixPath(file).name: file for file in pictures_below(root)}
        records: list[Record] = []
        self.shapes: list[list[tuple[int, Shape]]] = []
        for drawn, split in _rib_files(root):
            for name, ribs in _read_ribs(drawn).items():
                file = pictures.get(PurePosixPath(name).name, name)
                labels = tuple(value - 1 for value, _ in ribs)
                records.append(Record(id=file, split=split, labels=labels, file=file, has_mask=True))
                self.shapes.append(ribs)
        super().__init__(path, root, records, RIBS)


def _tables(folder: Path) -> list[Path]:
    """The tables of labels in a folder or in its `annotations/`, that of training first."""
    places = (folder / "annotations", folder)
    return [place / name for name in TABLES for place in places if (place / name).is_file()][: len(TABLES)]


def _pictures(root: Path, split: str) -> tuple[str, dict[str, str]]:
    """The folder of a split's pictures, `train` or `train_jpeg` and the like, and its files by name without suffix."""
    for entry in visible(root):
        if entry.is_dir() and entry.name.partition("_")[0] == split:
            names = [file.name for file in visible(entry) if is_radiograph(file.name)]
            if names:
                return entry.name, by_stem(root, (f"{entry.name}/{name}" for name in names))
    return split, {}


def _read_votes(path: Path, classes: tuple[str, ...]) -> dict[str, tuple[dict[str, int], int]]:
    """Picture -> (votes for each class, readers). Raises UserError with the line of a row that is not as expected."""
    count: dict[str, dict[str, int]] = defaultdict(lambda: dict.fromkeys(classes, 0))
    readers: dict[str, set[str]] = defaultdict(set)
    for line, row in _read_named(path, classes):
        image, reader = row["image_id"], row.get("rad_id", "")
        if not image or reader in readers[image]:
            problem = f"{image} by reader {reader!r} stands there twice" if image else "no picture"
            raise UserError(f"{path}: line {line}: {problem}")
        readers[image].add(reader)
        for name in classes:
            if row[name] not in VALUES:
                raise UserError(f"{path}: line {line}: {name} {row[name]!r}; expected 0 or 1")
            count[image][name] += VALUES[row[name]]
    return {image: (count[image], len(readers[image])) for image in readers}


def _read_named(path: Path, classes: tuple[str, ...]) -> list[tuple[int, dict[str, str]]]:
    """The rows, with the columns of other names called as in `classes`. Raises UserError for a column that is not there."""
    rows = [
        (line, {OTHER_NAMES.get(column, column): cell for column, cell in row.items()})
        for line, row in read_table(path, ("image_id",))
    ]
    for name in classes:
        if name not in rows[0][1]:
            raise UserError(f"{path}: no column {name!r}; expected image_id, rad_id, {', '.join(classes)}")
    return rows


def _rib_files(root: Path) -> list[tuple[Path, str]]:
    """(annotations, split) in a folder or, where it holds several things, up to three folders deeper; training first."""
    deepest = 3 if len(visible(root)) > 1 else 0
    files = [file for depth in range(deepest + 1) for file in root.glob("*/" * depth + "*_mask.json")]
    found = [(file, RIB_FILES[file.name.lower()]) for file in files if file.name.lower() in RIB_FILES]
    return sorted(found, key=lambda pair: (pair[1] != "train", pair[0]))


def _read_ribs(path: Path) -> dict[str, list[tuple[int, Shape]]]:
    """Picture -> its ribs in the order of RIBS, as (value, polygon). Raises UserError naming picture and rib."""
    try:
        content = json.loads(path.read_bytes())
        names: Mapping[str, str] = content["img"]
        drawn = {rib: content[rib] for rib in RIBS}
        return {str(name): _ribs(path, str(name), key, drawn) for key, name in names.items()}
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UserError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not annotations of ribs (img and {RIBS[0]} to {RIBS[-1]}): {error!r}") from error


def _ribs(path: Path, name: str, key: str, drawn: Mapping[str, Any]) -> list[tuple[int, Shape]]:
    found = []
    for value, rib in enumerate(RIBS, start=1):
        corners = drawn[rib].get(key, NO_RIB)
        if corners in (NO_RIB, None, []):
            continue
        try:
            found.append(
                (value, parse_shape([[number for corner in corners for number in (corner["x"], corner["y"])]]))
            )
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path}: {name}: {rib} is no list of x and y: {error!r}") from error
    return found
