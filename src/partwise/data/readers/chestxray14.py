"""`chestxray14:DIR`: NIH's ChestX-ray14: 112,120 radiographs of 30,805 patients with 14 findings, the official lists."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from partwise.config import UserError
from partwise.data.readers.files import FileSource, read_lines, visible
from partwise.data.readers.tables import Row, read_table
from partwise.data.sample import Record

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
NOTHING = "No Finding"
TABLE = "Data_Entry_2017"
LISTS = {"train_val_list.txt": "train", "val_list.txt": "val", "test_list.txt": "test"}
"""val_list.txt is not official: names of train_val_list.txt that are for validation, such as a paper's."""


class ChestXray14(FileSource):
    """Several findings a picture, none for most. The patient is the group.

    The lists say which pictures are read, and in which split; without any all of the table are, in no split. Of a line of a
    list the first word counts; pictures in none are `left_out`. Where there are two tables the later one is read. Not verified.
    """

    kind = "chestxray14"
    layout = (
        f"{TABLE}.csv or {TABLE}_v2020.csv, {', '.join(LISTS)}, and the pictures in images/ or "
        "images_001/images/ to images_012/images/"
    )
    home = "ChestX-ray14 is to be had from the NIH Clinical Center"
    multi_label = True

    def __init__(self, path: Path) -> None:
        root = self.locate(path, lambda folder: bool(_tables(folder)))
        rows = _read_rows(_tables(root)[-1])
        splits = _read_lists(root, rows)
        place = {name: folder for folder in _picture_folders(root) for name in _names(root / folder)}
        records = [
            Record(
                id=name,
                split=splits.get(name, ""),
                labels=labels,
                group=patient,
                file=f"{place.get(name, 'images')}/{name}",
            )
            for name, (labels, patient) in rows.items()
            if not splits or name in splits
        ]
        super().__init__(path, root, records, FINDINGS)
        self.left_out = {name: "in no list" for name in rows if splits and name not in splits}


def _tables(folder: Path) -> list[Path]:
    return [file for file in visible(folder) if file.name.startswith(TABLE) and file.suffix == ".csv"]


def _picture_folders(root: Path) -> list[str]:
    """`images`, or the folders of the twelve archives, below the root."""
    places = ["images", *(f"{entry.name}/images" for entry in visible(root) if entry.name.startswith("images_"))]
    return [place for place in places if (root / place).is_dir()]


def _names(folder: Path) -> list[str]:
    return [entry.name for entry in visible(folder)]


def _read_rows(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Picture -> (findings, patient). Raises UserError with the line of a row that is not as expected."""
    number = {name: index for index, name in enumerate(FINDINGS)}
    found: dict[str, tuple[tuple[int, ...], str]] = {}
    for line, row in read_table(path, ("Image Index", "Finding Labels", "Patient ID")):
        name = row["Image Index"]
        if not name or name in found or not row["Patient ID"]:
            problem = f"{name} stands there twice" if name in found else "no picture or no patient"
            raise UserError(f"{path}: line {line}: {problem}")
        found[name] = (_findings(path, (line, row), number), row["Patient ID"])
    return found


def _findings(path: Path, row: Row, number: Mapping[str, int]) -> tuple[int, ...]:
    line, cells = row
    names = cells["Finding Labels"].split("|")
    unknown = [name for name in names if name not in number and (name != NOTHING or len(names) > 1)]
    if unknown:
        raise UserError(
            f"{path}: line {line}: finding {unknown[0]!r} in {cells['Finding Labels']!r}; expected {NOTHING}, or with | "
            f"between {', '.join(FINDINGS)}"
        )
    return tuple(sorted({number[name] for name in names if name != NOTHING}))


def _read_lists(root: Path, known: Mapping[str, object]) -> dict[str, str]:
    """Picture -> split, from the lists that are there. Raises UserError for a name that is not `known` or in two lists."""
    splits: dict[str, str] = {}
    for listing, split in LISTS.items():
        lines = read_lines(root / listing) if (root / listing).is_file() else []
        for name in (line.split()[0] for line in lines):
            if name not in known:
                raise UserError(f"{root / listing}: {name!r} is not in the table")
            if split == "test" and name in splits:
                raise UserError(f"{root / listing}: {name!r} is in the list of {splits[name]} too")
            splits[name] = split
    return splits
