"""`imagenet:DIR`: ImageNet (ILSVRC 2012) as its archives unpack: `train/<wnid>/` and `val/`.

Val is a folder a class, or flat with the development kit's ground truth beside it. Also read: a folder of pictures with a
`labels.csv` of index, wnid, name and file. Boxes are not read.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from partwise.config import UserError, did_you_mean
from partwise.data.readers.files import FileSource, pictures_below, read_lines, unique_names, visible
from partwise.data.sample import Record

VAL_NAME = re.compile(r"ILSVRC2012_val_(\d{8})\.\w+$")
WNID = re.compile(r"n\d{8}")
TRUTH = "ILSVRC2012_validation_ground_truth.txt"
SUBSETS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {
        "nette": (0, 217, 482, 491, 497, 566, 569, 571, 574, 701),
        "woof": (193, 182, 258, 162, 155, 167, 159, 273, 207, 229),
        "meow": (281, 282, 283, 284, 285, 291, 292, 290, 289, 287),
        "squawk": (84, 130, 88, 144, 145, 22, 96, 9, 100, 89),
        "fruit": (953, 954, 949, 950, 951, 957, 952, 945, 943, 948),
        "yellow": (309, 986, 954, 951, 987, 779, 599, 291, 72, 11),
    }
)
"""Ten classes each, as dataset distillation has used them since MTT."""
SAMPLE_COLUMNS = ("index", "wnid", "name", "file")


class ImageNet(FileSource):
    """Classes in the order of their wnids, which is the usual class index; named by the development kit where it is there."""

    kind = "imagenet"
    layout = (
        "train/<wnid>/ and val/<wnid>/, or val/ flat with the development kit (data/"
        + TRUTH
        + " and data/meta.mat) beside it"
    )
    home = "ImageNet is to be had from its project's page after registration"

    def __init__(self, path: Path, *, subset: str = "") -> None:
        root = self.locate(path, _is_layout)
        if _is_samples(root):
            records, wnids, words = _read_samples(root)
        else:
            synsets = _synsets(root)
            wnids = sorted({folder.name for part in ("train", "val") for folder in _class_folders(root / part)})
            wnids = wnids or sorted(wnid for wnid, _ in synsets.values())
            words = dict(synsets.values())
            number = {wnid: index for index, wnid in enumerate(wnids)}
            records = [record for part in ("train", "val") for record in _by_folder(root, part, number)]
            if not _class_folders(root / "val"):
                records += _flat_validation(root, synsets, number)
        if not records:
            raise self.not_found(path, "holds no picture")
        names = unique_names([words.get(wnid, wnid) for wnid in wnids], wnids)
        if subset:
            records, names = _within(subset, records, names)
        super().__init__(path, root, records, names)


def _within(subset: str, records: list[Record], names: tuple[str, ...]) -> tuple[list[Record], tuple[str, ...]]:
    """The records of ten classes, which are numbered anew in the order of the subset."""
    if subset not in SUBSETS:
        raise UserError(
            f"imagenet: subset={subset}: expected one of {', '.join(SUBSETS)}{did_you_mean(subset, SUBSETS)}"
        )
    if len(names) != 1000:
        raise UserError(
            f"imagenet: subset={subset}: is of the 1,000 classes in their usual order; here are {len(names)}"
        )
    number = {label: place for place, label in enumerate(SUBSETS[subset])}
    kept = [replace(record, label=number[record.label]) for record in records if record.label in number]
    return kept, tuple(names[label] for label in SUBSETS[subset])


def _is_layout(folder: Path) -> bool:
    train, val = folder / "train", folder / "val"
    flat = val.is_dir() and _truth_file(folder) is not None
    return bool(_class_folders(train) or _class_folders(val)) or flat or _is_samples(folder)


def _class_folders(folder: Path) -> list[Path]:
    entries = visible(folder) if folder.is_dir() else []
    return [entry for entry in entries if WNID.fullmatch(entry.name) and entry.is_dir()]


def _by_folder(root: Path, part: str, number: dict[str, int]) -> Iterator[Record]:
    for folder in _class_folders(root / part):
        for name in pictures_below(folder):
            file = f"{part}/{folder.name}/{name}"
            yield Record(id=file, split=part, label=number[folder.name], file=file)


def _kit_folders(root: Path) -> list[Path]:
    """Where the development kit may lie: in the root, its `data/`, or a folder `*devkit*` there or beside the root."""
    kits = [kit for place in (root, root.parent) for kit in visible(place) if "devkit" in kit.name and kit.is_dir()]
    return [folder for kit in (root, *kits) for folder in (kit, kit / "data") if folder.is_dir()]


def _truth_file(root: Path) -> Path | None:
    found = [folder / TRUTH for folder in _kit_folders(root) if (folder / TRUTH).is_file()]
    return found[0] if found else None


def _synsets(root: Path) -> dict[int, tuple[str, str]]:
    """The kit's class number -> (wnid, first word), from `meta.mat` or a later kit's `map_clsloc.txt`; empty without."""
    for folder in _kit_folders(root):
        if (folder / "meta.mat").is_file():
            return _read_meta(folder / "meta.mat")
        if (folder / "map_clsloc.txt").is_file():
            rows = [line.split(maxsplit=2) for line in read_lines(folder / "map_clsloc.txt")]
            return {int(number): (wnid, word.replace("_", " ")) for wnid, number, word in rows}
    return {}


def _read_meta(path: Path) -> dict[int, tuple[str, str]]:
    """MATLAB's table of synsets, of which the first 1,000 (those without children) are the classes."""
    from scipy.io import loadmat

    try:
        synsets: Any = loadmat(path, squeeze_me=True, struct_as_record=True)["synsets"]
        rows = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["words"], synsets["num_children"], strict=True)
        return {
            int(number): (str(wnid), str(words).split(",")[0].strip())
            for number, wnid, words, below in rows
            if not below
        }
    except Exception as error:  # a damaged MATLAB file raises many kinds of error
        raise UserError(f"{path}: cannot be read as the development kit's synsets: {error}") from error


def _flat_validation(root: Path, synsets: dict[int, tuple[str, str]], number: dict[str, int]) -> list[Record]:
    """One record for each line of the ground truth, which counts the pictures of a flat `val/` by the number in their names.

    A line without a picture keeps its record: that is a missing file, and checked as such.
    """
    files = pictures_below(root / "val") if (root / "val").is_dir() else []
    if not files:
        return []
    truth = _truth_file(root)
    if truth is None or not synsets:
        what = TRUTH if truth is None else "meta.mat"
        raise UserError(
            f"{root / 'val'}: pictures without class folders need the development kit beside them; no {what}"
        )
    lines = read_lines(truth)
    numbered: dict[int, str] = {}
    for name in files:
        match = VAL_NAME.search(name)
        if match is None or not 1 <= int(match[1]) <= len(lines):
            raise UserError(f"{root / 'val' / name}: expected ILSVRC2012_val_ and a number up to {len(lines):08d}")
        numbered[int(match[1])] = name
    records = []
    for line, text in enumerate(lines, start=1):
        wnid = synsets.get(int(text) if text.strip().isdecimal() else -1, ("", ""))[0]
        if wnid not in number:
            raise UserError(
                f"{truth}: line {line}: {text!r} is no class; expected a number of the kit's table of synsets"
            )
        file = f"val/{numbered.get(line, f'ILSVRC2012_val_{line:08d}.JPEG')}"
        records.append(Record(id=file, split="val", label=number[wnid], file=file))
    return records


def _is_samples(folder: Path) -> bool:
    table = folder / "labels.csv"
    return table.is_file() and read_lines(table)[:1] != [] and set(SAMPLE_COLUMNS) <= set(_header(table))


def _header(table: Path) -> list[str]:
    return next(csv.reader(read_lines(table)[:1]), [])


def _read_samples(root: Path) -> tuple[list[Record], list[str], dict[str, str]]:
    """Records without a split, wnids in order, and their names."""
    table = root / "labels.csv"
    rows = sorted(csv.DictReader(read_lines(table)), key=lambda row: row["file"] or "")
    index = {row["wnid"]: row["index"] for row in rows}
    wnids = sorted(index)
    if sorted(wnids, key=lambda wnid: int(index[wnid]) if index[wnid].isdecimal() else -1) != wnids:
        raise UserError(
            f"{table}: the column index does not follow the order of the wnids, as ImageNet's class index does"
        )
    number = {wnid: position for position, wnid in enumerate(wnids)}
    records = [Record(id=row["file"], label=number[row["wnid"]], file=row["file"]) for row in rows]
    return records, wnids, {row["wnid"]: row["name"].replace("_", " ") for row in rows}
