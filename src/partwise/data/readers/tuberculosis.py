"""`montgomery:DIR` and `shenzhen:DIR`: the two tuberculosis sets of the US National Library of Medicine.

The name of a picture says who has tuberculosis: `MCUCXR_0294_1.png` has, `CHNCXR_0001_0.png` has not. Every picture is of
another person, and neither set has an official split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from partwise.config import UserError
from partwise.data.readers.areas import Area, AreaSource, Size, read_area
from partwise.data.readers.files import FileSource, is_picture, visible
from partwise.data.sample import Record

PICTURES = "CXR_png"
FINDINGS = ("normal", "tuberculosis")
MASKS = {"right lung": "ManualMask/rightMask", "left lung": "ManualMask/leftMask"}
"""Classes -> folders of Montgomery's masks; right and left are the patient's."""


class Montgomery(AreaSource):
    """Masks of both lungs, or with `labels=tuberculosis` who has it. Not verified."""

    kind = "montgomery"
    layout = "MontgomerySet/ with CXR_png/MCUCXR_0001_0.png and so on, ManualMask/leftMask/ and ManualMask/rightMask/"
    home = "the Montgomery set is to be had from the US National Library of Medicine"

    def __init__(self, path: Path, *, labels: Literal["lungs", "tuberculosis"] = "lungs") -> None:
        root = self.locate(path, lambda folder: bool(_pictures(folder, "MCUCXR")))
        pictures = _pictures(root, "MCUCXR")
        self.multi_label = labels == "lungs"
        for folder in MASKS.values() if self.multi_label else ():
            if not (root / folder).is_dir():
                raise self.not_found(root, f"{folder}/ is not there; labels=tuberculosis needs no masks")
        records = [
            Record(
                id=file,
                label=None if self.multi_label else found,
                labels=tuple(range(len(MASKS))) if self.multi_label else None,
                group=Path(file).stem,
                file=file,
                has_mask=self.multi_label,
            )
            for file, found in pictures.items()
        ]
        super().__init__(path, root, records, tuple(MASKS) if self.multi_label else FINDINGS)
        self.area_files = {
            i: [f"{folder}/{Path(record.file).name}" for folder in MASKS.values()]
            for i, record in enumerate(records)
            if record.has_mask
        }

    def areas(self, index: int, size: Size) -> Iterator[Area]:
        for value, file in enumerate(self.area_files[index], start=1):
            yield value, read_area(self.root / file, size, name=file)


class Shenzhen(FileSource):
    """Who has tuberculosis. Not verified."""

    kind = "shenzhen"
    layout = "ChinaSet_AllFiles/ with CXR_png/CHNCXR_0001_0.png and so on"
    home = "the Shenzhen set is to be had from the US National Library of Medicine"

    def __init__(self, path: Path) -> None:
        root = self.locate(path, lambda folder: bool(_pictures(folder, "CHNCXR")))
        records = [
            Record(id=file, label=found, group=Path(file).stem, file=file)
            for file, found in _pictures(root, "CHNCXR").items()
        ]
        super().__init__(path, root, records, FINDINGS)


def _pictures(root: Path, prefix: str) -> dict[str, int]:
    """Path below the root -> 1 for tuberculosis. Raises UserError for a picture that does not end in _0 or _1."""
    found: dict[str, int] = {}
    folder = root / PICTURES
    for entry in visible(folder) if folder.is_dir() else ():
        if not (is_picture(entry.name) and entry.name.startswith(f"{prefix}_")):
            continue
        match = re.fullmatch(rf"{prefix}_\d+_([01])", entry.stem)
        if match is None:
            raise UserError(f"{entry}: expected a name such as {prefix}_0001_0, 1 for tuberculosis at the end")
        found[f"{PICTURES}/{entry.name}"] = int(match[1])
    return found
