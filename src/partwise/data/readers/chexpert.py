"""`chexpert:DIR`: CheXpert: radiographs with 14 observations drawn from reports, some of them uncertain, the official split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Literal

from partwise.config import UserError
from partwise.data.readers.files import FileSource
from partwise.data.readers.tables import read_table
from partwise.data.sample import Record

OBSERVATIONS = (
    "No Finding", "Enlarged Cardiomediastinum", "Cardiomegaly", "Lung Opacity", "Lung Lesion", "Edema", "Consolidation",
    "Pneumonia", "Atelectasis", "Pneumothorax", "Pleural Effusion", "Pleural Other", "Fracture", "Support Devices",
)  # fmt: skip
COMPETITION = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Pleural Effusion")
TABLES = {"train.csv": "train", "valid.csv": "val"}
PATH, VIEW = "Path", "Frontal/Lateral"
PRESENT, UNCERTAIN, VALUES = 1.0, -1.0, (1.0, 0.0, -1.0)

Uncertain = Literal["zeros", "ones", "left_out"]


class CheXpert(FileSource):
    """Several observations a picture; blank means absent. The patient is the group.

    `uncertain`: what a label of -1 becomes: absent (zeros), present (ones), or the picture is left out. `labels`: all 14, or
    the 5 of the competition. `view`: frontal pictures alone, or all. `valid` is what is reported. Not verified.
    """

    kind = "chexpert"
    layout = "CheXpert-v1.0-small/ (or CheXpert-v1.0/) with train.csv and valid.csv, train/ and valid/"
    home = "CheXpert is to be had from the Stanford ML Group"
    multi_label = True

    def __init__(
        self,
        path: Path,
        *,
        uncertain: Uncertain = "zeros",
        labels: Literal["all", "competition"] = "all",
        view: Literal["frontal", "all"] = "frontal",
    ) -> None:
        root = self.locate(path, lambda folder: any((folder / name).is_file() for name in TABLES))
        classes = OBSERVATIONS if labels == "all" else COMPETITION
        tables = [root / table for table in TABLES if (root / table).is_file()]
        left_out: dict[str, str] = {}
        records = [
            record
            for table in tables
            for record in _read_records(table, classes, uncertain, frontal=view == "frontal", left_out=left_out)
        ]
        if not records:
            raise self.not_found(
                root, f"all {len(left_out)} pictures are left out by view={view}, uncertain={uncertain}"
            )
        super().__init__(path, root, records, classes)
        self.left_out = left_out


def _read_records(
    path: Path, classes: Sequence[str], uncertain: Uncertain, *, frontal: bool, left_out: dict[str, str]
) -> list[Record]:
    """The rows that are wanted; the others go to `left_out`. Raises UserError with the line of one that is not as expected."""
    records: dict[str, Record] = {}
    for line, row in read_table(path, (PATH, VIEW, *OBSERVATIONS)):
        file, patient = _below_root(path, line, row[PATH])
        if file in records or file in left_out:
            raise UserError(f"{path}: line {line}: {row[PATH]} stands there twice")
        if row[VIEW] not in ("Frontal", "Lateral"):
            raise UserError(f"{path}: line {line}: {VIEW} {row[VIEW]!r}; expected Frontal or Lateral")
        values = [_value(path, line, name, row[name]) for name in classes]
        if frontal and row[VIEW] != "Frontal":
            left_out[file] = "a lateral view"
            continue
        if uncertain == "left_out" and UNCERTAIN in values:
            left_out[file] = f"uncertain: {classes[values.index(UNCERTAIN)]}"
            continue
        present = (PRESENT, UNCERTAIN) if uncertain == "ones" else (PRESENT,)
        labels = tuple(number for number, value in enumerate(values) if value in present)
        records[file] = Record(id=file, split=TABLES[path.name], labels=labels, group=patient, file=file)
    return list(records.values())


def _below_root(path: Path, line: int, text: str) -> tuple[str, str]:
    """(file below the root, patient): what comes before `train/` or `valid/` depends on the edition."""
    parts = PurePosixPath(text).parts
    start = next((place for place, part in enumerate(parts) if part in ("train", "valid")), len(parts))
    patient = next((part for part in parts[start:] if part.startswith("patient")), "")
    if not patient:
        raise UserError(
            f"{path}: line {line}: {PATH} {text!r}; expected .../train/patient00001/study1/view1_frontal.jpg or of valid"
        )
    return "/".join(parts[start:]), patient


def _value(path: Path, line: int, name: str, cell: str) -> float:
    """1 present, 0 or blank absent, -1 uncertain."""
    try:
        value = float(cell or 0)
    except ValueError:
        value = float("nan")
    if value not in VALUES:
        raise UserError(f"{path}: line {line}: {name} {cell!r}; expected 1, 0, -1 or nothing")
    return value
