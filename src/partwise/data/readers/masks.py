"""`masks:DIR`: pictures in `images/` and a mask of the same name (whatever the suffix) in `masks/`, several labels a picture.

A layout of one's own: below `train/`, `val/` and `test/`, or directly. Labels are the classes in the mask, so all masks are
read when the source is opened, in threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from partwise.config import UserError
from partwise.data.readers.files import SPLITS, pictures_below, read_lines, visible
from partwise.data.readers.masked import MaskedSource, MaskValues, Table, plain_table, read_values
from partwise.data.sample import VOID, Record

GROUNDS = ("background", "_background_", "__background__")
"""A first line of classes.txt that names the ground, value 0, and no class."""


class Masks(MaskedSource):
    """Line k of `classes.txt` names value k of the masks; without it the values that occur are the classes, in their order.

    0 is the ground and 255 void. With `binary=true` every other value than 0 is one class, 255 too.
    """

    kind = "masks"
    layout = (
        "images/ beside masks/ with the same names, directly or below train/, val/ and test/; if wanted classes.txt"
    )
    home = ""
    multi_label = True

    def __init__(self, path: Path, *, binary: bool = False) -> None:
        root = self.locate(path, lambda folder: bool(_part_folders(folder)))
        pictures = [picture for split, folder in _part_folders(root) for picture in _pictures(root, folder, split)]
        if not pictures:
            raise self.not_found(root, "holds no picture")
        masks = {i: picture.mask for i, picture in enumerate(pictures) if picture.mask}
        read = read_values(root, masks)
        names = _class_names(root / "classes.txt")
        names, self._table = _binary(root, names) if binary else _by_value(root, names, read)
        labels = read.labels(self._table)
        records = [
            Record(picture.file, picture.split, labels=labels.get(i), file=picture.file, has_mask=i in masks)
            for i, picture in enumerate(pictures)
        ]
        super().__init__(path, root, records, names, masks=masks, faulty=read.faults)

    def table(self, index: int) -> Table:
        return self._table


@dataclass(frozen=True, slots=True)
class _Picture:
    """Files relative to the root; `mask` is empty where there is none."""

    file: str
    mask: str
    split: str


def _part_folders(folder: Path) -> list[tuple[str, Path]]:
    """(split, folder) of each folder with `images/` and `masks/`: the one given, or those in it that are named like splits."""
    if _is_part(folder):
        return [("", folder)]
    found = [(SPLITS[entry.name.lower()], entry) for entry in visible(folder) if entry.name.lower() in SPLITS]
    order = ("train", "val", "test")
    return sorted((pair for pair in found if _is_part(pair[1])), key=lambda pair: order.index(pair[0]))


def _is_part(folder: Path) -> bool:
    return (folder / "images").is_dir() and (folder / "masks").is_dir()


def _pictures(root: Path, folder: Path, split: str) -> Iterator[_Picture]:
    """The pictures of a part in the order of their paths, each with its mask. Raises UserError for a mask without picture."""
    images, masks = _by_stem(folder / "images"), _by_stem(folder / "masks")
    stray = sorted(set(masks).difference(images))
    if stray:
        raise UserError(
            f"{folder / 'masks' / masks[stray[0]]}: no picture for it ({len(stray)} such masks); expected "
            f"{folder / 'images' / stray[0]} with the suffix of a picture"
        )
    place = "" if folder == root else f"{folder.name}/"
    for stem, name in images.items():
        mask = f"{place}masks/{masks[stem]}" if stem in masks else ""
        yield _Picture(f"{place}images/{name}", mask, split)


def _by_stem(folder: Path) -> dict[str, str]:
    """Path below `folder` without suffix -> path. Raises UserError for two files that differ in their suffix alone."""
    found: dict[str, str] = {}
    for name in pictures_below(folder):
        stem = name.rpartition(".")[0]
        if stem in found:
            raise UserError(
                f"{folder}: {found[stem]} and {name}; expected one file of a name, which joins picture and mask"
            )
        found[stem] = name
    return found


def _class_names(path: Path) -> list[str]:
    """The lines of classes.txt less one for the ground; empty where there is no such file."""
    names = [line.strip() for line in read_lines(path)] if path.is_file() else []
    names = names[1:] if names and names[0].lower() in GROUNDS else names
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: {twice[0]!r} stands there twice; expected a name of its own for each class")
    if len(names) >= VOID:
        raise UserError(f"{path}: {len(names)} classes; a mask has room for {VOID - 1}")
    return names


def _binary(root: Path, names: list[str]) -> tuple[list[str], Table]:
    if len(names) > 1:
        raise UserError(f"{root / 'classes.txt'}: {len(names)} classes, but binary=true makes one of all values")
    return names or ["foreground"], {0: 0} | dict.fromkeys(range(1, 256), 1)


def _by_value(root: Path, names: list[str], read: MaskValues) -> tuple[list[str], Table]:
    """Names and table where masks hold one value a class. Raises UserError where the masks name no class."""
    if names:
        return names, plain_table(len(names))
    present = frozenset().union(*read.values.values())
    values = sorted(present.difference((0, VOID)))
    if not values and read.faults:
        fault = read.faults[min(read.faults)]
        raise UserError(f"masks: {root}: no mask holds a class, and {len(read.faults)} cannot be used, such as {fault}")
    if not values:
        hint = "; where 255 is the object say ?binary=true" if VOID in present else ""
        raise UserError(f"masks: {root}: no mask holds a class, only 0 (ground) and 255 (void) at the most{hint}")
    return [str(value) for value in values], {0: 0, VOID: VOID} | {v: k for k, v in enumerate(values, start=1)}
