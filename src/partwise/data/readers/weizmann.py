"""`weizmann:DIR`: Weizmann horses: a horse a picture with its mask, split by the lists beside them."""

from __future__ import annotations

from pathlib import Path

from partwise.data.readers.files import read_lines
from partwise.data.readers.masked import MaskedSource
from partwise.data.sample import Record

LISTS = {"train.txt": "train", "val.txt": "test"}
"""There is no list of test pictures: that of val is reported."""


class Weizmann(MaskedSource):
    """One class, horse; masks hold 0 for the ground and 1 for the horse, whose extent is the box."""

    kind = "weizmann"
    layout = "weizmann_horse_db/ with horse/, mask/ and annotation/ (train.txt, val.txt: a name a line)"
    home = "the horses are to be had from Eran Borenstein's page at the Weizmann Institute"

    def __init__(self, path: Path) -> None:
        root = self.locate(path, _is_layout)
        records = [
            Record(name, split, label=0, file=f"horse/{name}.jpg", has_mask=True)
            for listing, split in LISTS.items()
            if (root / "annotation" / listing).is_file()
            for name in (line.strip() for line in read_lines(root / "annotation" / listing))
        ]
        masks = {i: f"mask/{record.id}.png" for i, record in enumerate(records)}
        super().__init__(path, root, records, ("horse",), masks=masks)


def _is_layout(folder: Path) -> bool:
    lists = any((folder / "annotation" / name).is_file() for name in LISTS)
    return lists and (folder / "horse").is_dir() and (folder / "mask").is_dir()
