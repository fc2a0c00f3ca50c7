"""`tinyimagenet:DIR`: Tiny ImageNet (64 x 64, one box a picture) as Stanford's CS231N gives it.

The 10,000 unlabelled test pictures are left out: the labelled splits are train and val.
"""

from __future__ import annotations

from pathlib import Path

from partwise.config import UserError
from partwise.data.readers.files import FileSource, read_lines, unique_names, visible
from partwise.data.sample import Record

Boxes = tuple[tuple[float, float, float, float], ...]


class TinyImageNet(FileSource):
    """Classes in the order of their wnids, named by the first of their words. The lists' inclusive boxes become half-open."""

    kind = "tinyimagenet"
    layout = (
        "tiny-imagenet-200/ with wnids.txt, words.txt, train/<wnid>/images/ and val/val_annotations.txt, val/images/"
    )
    home = "Tiny ImageNet is to be had from the page of Stanford's course CS231N"
    image_size = (64, 64)

    def __init__(self, path: Path) -> None:
        root = self.locate(path, lambda folder: (folder / "wnids.txt").is_file() and (folder / "train").is_dir())
        wnids = sorted(line.strip() for line in read_lines(root / "wnids.txt"))
        number = {wnid: index for index, wnid in enumerate(wnids)}
        records = [record for wnid in wnids for record in _training(root, wnid, number[wnid])]
        records += _validation(root, number)
        super().__init__(path, root, records, _names(root, wnids))


def _names(root: Path, wnids: list[str]) -> tuple[str, ...]:
    words = dict(line.split("\t", 1) for line in read_lines(root / "words.txt") if "\t" in line)
    return unique_names([words.get(wnid, wnid).split(",")[0].strip() for wnid in wnids], wnids)


def _training(root: Path, wnid: str, label: int) -> list[Record]:
    """Pictures that the folder holds or the list of boxes names: a picture that is only listed is a missing file, not none."""
    folder = root / "train" / wnid
    if not folder.is_dir():
        raise UserError(f"{folder}: not there, but wnids.txt names this class")
    boxes: dict[str, Boxes] = {}
    listing = folder / f"{wnid}_boxes.txt"
    for line in read_lines(listing) if listing.is_file() else []:
        name, *corners = line.split()
        boxes[name] = _box(listing, line, corners)
    pictures = folder / "images"
    names = {entry.name for entry in visible(pictures)} if pictures.is_dir() else set()
    files = {name: f"train/{wnid}/images/{name}" for name in sorted(names | set(boxes))}
    return [
        Record(id=file, split="train", label=label, boxes=boxes.get(name, ()), file=file)
        for name, file in files.items()
    ]


def _validation(root: Path, number: dict[str, int]) -> list[Record]:
    listing = root / "val" / "val_annotations.txt"
    if not (root / "val").is_dir():
        return []
    records = []
    for line in read_lines(listing):
        words = line.split()
        if len(words) != 6 or words[1] not in number:
            raise UserError(f"{listing}: {line!r}; expected file, wnid (of wnids.txt), x1, y1, x2, y2")
        name, wnid, *corners = words
        file = f"val/images/{name}"
        records.append(Record(file, "val", number[wnid], boxes=_box(listing, line, corners), file=file))
    return sorted(records, key=lambda record: record.id)


def _box(listing: Path, line: str, corners: list[str]) -> Boxes:
    """Inclusive corners 0..63 as the lists have them -> one half-open box. Raises UserError for a torn line."""
    try:
        x1, y1, x2, y2 = (int(word) for word in corners)
    except ValueError as error:
        raise UserError(f"{listing}: {line!r} has no box; expected four whole numbers at its end") from error
    return ((x1, y1, x2 + 1, y2 + 1),)
