"""`eyepacs:DIR`: EyePACS as Kaggle's diabetic retinopathy contest gives it: retina photographs in five grades."""

from __future__ import annotations

from pathlib import Path

from partwise.config import UserError
from partwise.data.readers.files import FileSource
from partwise.data.readers.tables import read_table
from partwise.data.sample import Record

GRADES = ("no retinopathy", "mild", "moderate", "severe", "proliferative")
TABLES = {"trainLabels.csv": "train", "retinopathy_solution.csv": "test"}
"""Tables -> splits, whose names are those of the folders of pictures too."""


class EyePacs(FileSource):
    """One grade a picture. The person, of whom there are both eyes, is the group.

    Pictures of `test/` are read where there is the table that the contest published when it was over. Not verified.
    """

    kind = "eyepacs"
    layout = (
        "trainLabels.csv (image, level) and train/10_left.jpeg and so on, if wanted retinopathy_solution.csv and test/"
    )
    home = "EyePACS is to be had from Kaggle's contest Diabetic Retinopathy Detection"

    def __init__(self, path: Path) -> None:
        root = self.locate(path, lambda folder: (folder / "trainLabels.csv").is_file())
        records = [
            record
            for table, split in TABLES.items()
            if (root / table).is_file()
            for record in _read_records(root / table, split)
        ]
        super().__init__(path, root, records, GRADES)


def _read_records(path: Path, split: str) -> list[Record]:
    """The rows of a table. Raises UserError with the line of one that is not as expected."""
    records: dict[str, Record] = {}
    for line, row in read_table(path, ("image", "level")):
        image, level = row["image"], row["level"]
        person, _, eye = image.partition("_")
        if not person or eye not in ("left", "right"):
            raise UserError(f"{path}: line {line}: image {image!r}; expected such as 10_left")
        if level not in map(str, range(len(GRADES))):
            raise UserError(f"{path}: line {line}: level {level!r}; expected 0 to {len(GRADES) - 1}")
        if image in records:
            raise UserError(f"{path}: line {line}: {image} stands there twice")
        file = f"{split}/{image}.jpeg"
        records[image] = Record(id=file, split=split, label=int(level), group=person, file=file)
    return list(records.values())
