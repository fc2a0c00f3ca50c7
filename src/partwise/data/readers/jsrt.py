"""`jsrt:DIR`: JSRT's 247 chest radiographs with SCR's masks of heart, lungs and clavicles; and what is true of JSRT anywhere.

The published pictures are raw: 2048 x 2048 big-endian numbers of 12 bits, air bright. SCR's masks are 1024 x 1024, so pictures
of 2048 x 2048 are halved.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partwise.config import UserError, did_you_mean
from partwise.data.headers import FaultyPicture, Header, file_size, probe
from partwise.data.readers.areas import Area, AreaSource, Size, read_area
from partwise.data.readers.files import is_picture, visible
from partwise.data.sample import Record

ORGANS = ("heart", "right lung", "left lung", "clavicles")
"""The classes, right and left being the patient's."""
DRAWN = ("right lung", "left lung", "heart", "clavicles")
"""In which order they are drawn: clavicles cover the heart, which covers the lungs."""
CASE = re.compile(r"(JPC(?:LN|NN)(\d{3}))(\.IMG)?(\.\w+)?", re.IGNORECASE)
"""JPCLN001 to JPCLN154 have a nodule, JPCNN001 to JPCNN093 none."""
FOLDERS = {
    "heart": "heart",
    "right lung": "right lung",
    "left lung": "left lung",
    "right clavicle": "clavicles",
    "left clavicle": "clavicles",
}
"""SCR's folders of masks -> classes."""
RAW_SIDE, RAW_BITS = 2048, 12


class OrganSource(AreaSource):
    """Pictures with masks of some of ORGANS, in their order; every picture shows every organ, and these are its labels.

    The mask gives a pixel to the last organ of DRAWN that it belongs to, `parts` the organ that this one covers.
    """

    multi_label = True
    gives_covered = True

    @abstractmethod
    def organ_areas(self, index: int, organ: str, size: Size) -> Iterator[Tensor]:
        """Where an organ is, in one or several pieces, bool `(H, W)` each. Raises FaultyPicture."""

    def areas(self, index: int, size: Size) -> Iterator[Area]:
        for organ in DRAWN:
            if organ in self.classes:
                value = self.classes.index(organ) + 1
                yield from ((value, inside) for inside in self.organ_areas(index, organ, size))


class Jsrt(OrganSource):
    """Organs, or with `labels=nodule` whether a nodule is there. Every case is another person; the split is `fixed_split`.

    `organs`: some of them, such as `organs=heart;clavicles`. Not verified.
    """

    kind = "jsrt"
    layout = (
        "JPCLN001.IMG (or .IMG.png) and so on, in a folder or below one, and SCR's masks in folders called heart, left lung, "
        "right lung, left clavicle and right clavicle"
    )
    home = "JSRT is to be had from the Japanese Society of Radiological Technology, SCR's masks from its authors' page"

    def __init__(self, path: Path, *, organs: str = "", labels: Literal["organs", "nodule"] = "organs") -> None:
        root = self.locate(path, _is_layout)
        pictures, masks = _sort_files(root)
        chosen = choose_organs(organs, where=f"jsrt: {root}") if labels == "organs" else []
        for organ in chosen:
            if organ not in masks:
                raise self.not_found(root, f"no masks of {organ}; organs= leaves it out, labels=nodule needs no masks")
        self._masks = {organ: masks[organ] for organ in chosen}
        records = [
            Record(
                id=case,
                split=fixed_split(int(case[-3:])),
                label=int(case.startswith("JPCLN")) if labels == "nodule" else None,
                labels=tuple(range(len(chosen))) if labels == "organs" else None,
                group=case,
                file=file,
                has_mask=bool(chosen),
            )
            for case, file in sorted(pictures.items())
        ]
        self.multi_label = labels == "organs"
        super().__init__(path, root, records, chosen or ("no nodule", "nodule"))
        self.area_files = {i: self._files(record.id) for i, record in enumerate(records) if record.has_mask}

    def load_image(self, index: int) -> Tensor:
        """uint8 `(3, H, W)`, halved where it is 2048 x 2048. Raises FaultyPicture, naming the file below the root."""
        file = self.records[index].file
        if is_raw(file):
            grey = torch.from_numpy(halve(read_raw(self.root / file, name=file)) >> (RAW_BITS - 8)).to(torch.uint8)
            return grey[None].repeat(3, 1, 1)
        image = super().load_image(index)
        if image.shape[1:] != (RAW_SIDE, RAW_SIDE):
            return image
        return torch.from_numpy(halve(image.numpy().astype(np.int32))).to(torch.uint8)

    def file_header(self, index: int) -> Header:
        """The header of a picture with the size that it is given in. Raises FaultyPicture."""
        file = self.records[index].file
        header = _raw_header(self.root / file, file) if is_raw(file) else probe(self.root / file, name=file)
        return replace(header, size=(RAW_SIDE // 2, RAW_SIDE // 2)) if header.size == (RAW_SIDE, RAW_SIDE) else header

    def organ_areas(self, index: int, organ: str, size: Size) -> Iterator[Tensor]:
        for file in self._masks[organ].get(self.records[index].id, ()):
            yield read_area(self.root / file, size, name=file)

    def _files(self, case: str) -> list[str]:
        """The masks of a case. Raises UserError where one of an organ is missing."""
        for organ, files in self._masks.items():
            wanted = 2 if organ == "clavicles" else 1
            if len(files.get(case, ())) != wanted:
                found = ", ".join(files.get(case, ())) or "none"
                raise UserError(f"jsrt: {self.root}: {case}: masks of {organ}: {found}; expected {wanted} of the case")
        return [file for files in self._masks.values() for file in files[case]]


def choose_organs(text: str, *, where: str, default: Sequence[str] = ORGANS) -> list[str]:
    """The organs of an option's `text`, `;` between, `_` for a space, in the order of ORGANS; `default` for an empty one.

    Raises UserError, beginning with `where`, for a name that is no organ.
    """
    wanted = [name.strip().replace("_", " ") for name in text.split(";") if name.strip()] or default
    for name in wanted:
        if name not in ORGANS:
            raise UserError(
                f"{where}: organs={text}: no organ {name!r}; expected some of {';'.join(ORGANS)}"
                f"{did_you_mean(name, ORGANS)}"
            )
    return [organ for organ in ORGANS if organ in wanted]


def fixed_split(number: int) -> str:
    """The split of a numbered case: test where 5 divides its number, val where the last digit is 1, else train.

    Of JSRT's 247 cases 173, 26 and 48, with the same share of nodules in each. No split of JSRT is official.
    """
    return "test" if number % 5 == 0 else "val" if number % 10 == 1 else "train"


def is_raw(name: str) -> bool:
    """Whether a file is named like one of JSRT's raw pictures."""
    return name.lower().endswith(".img")


def read_raw(path: Path, *, name: str = "") -> NDArray[np.int32]:
    """A raw picture of JSRT -> int32 `(2048, 2048)` of 12 bits, turned round so that air is dark: 4095 - value.

    Raises FaultyPicture, with `name` for the file, for another number of bytes or values of more than 12 bits.
    """
    name = name or str(path)
    _raw_header(path, name)
    values = np.frombuffer(path.read_bytes(), ">u2").reshape(RAW_SIDE, RAW_SIDE).astype(np.int32)
    if int(values.max()) >= 1 << RAW_BITS:
        raise FaultyPicture(
            name, "unreadable", f"values reach {int(values.max())}; expected {RAW_BITS} bits, big-endian"
        )
    return (1 << RAW_BITS) - 1 - values


def halve(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """`(..., H, W)` of even sides -> half of each: the mean of each four, rounded down."""
    return (values[..., ::2, ::2] + values[..., 1::2, ::2] + values[..., ::2, 1::2] + values[..., 1::2, 1::2]) // 4


def _raw_header(path: Path, name: str) -> Header:
    size, wanted = file_size(path, name), 2 * RAW_SIDE * RAW_SIDE
    if size != wanted:
        problem = f"{size:,} bytes; expected {RAW_SIDE} x {RAW_SIDE} numbers of 16 bits"
        raise FaultyPicture(name, "truncated" if size < wanted else "unreadable", problem)
    return Header("JSRT", "I;16B", (RAW_SIDE, RAW_SIDE), exif_rotated=False, bytes=size)


def _is_layout(folder: Path) -> bool:
    """Whether there are pictures of JSRT in a folder, or beside other things in one in it."""
    entries = visible(folder)
    places = [entry for entry in entries if entry.is_dir() and _role(entry.name) is None] if len(entries) > 1 else []
    files = [file for file in [*entries, *(file for place in places for file in visible(place))] if file.is_file()]
    return any(CASE.fullmatch(file.name) for file in files)


def _role(folder: str) -> str | None:
    """The class of the masks in a folder of this name; None for another folder."""
    return FOLDERS.get(folder.lower().replace("_", " "))


def _sort_files(root: Path) -> tuple[dict[str, str], dict[str, dict[str, list[str]]]]:
    """Pictures by case, and masks by organ and case, as paths below the root. Raises UserError for two pictures of a case."""
    pictures: dict[str, str] = {}
    masks: dict[str, dict[str, list[str]]] = {}
    for parent, folders, files in os.walk(root):
        folders.sort()
        here = Path(parent)
        organ = _role(here.name) if here != root else None
        for name in sorted(files):
            match = CASE.fullmatch(name)
            if match is None or not (is_raw(name) or is_picture(name)):
                continue
            case, file = match[1].upper(), (here / name).relative_to(root).as_posix()
            if organ is not None:
                masks.setdefault(organ, {}).setdefault(case, []).append(file)
            elif case in pictures:
                raise UserError(f"jsrt: {root}: {pictures[case]} and {file}; expected one picture of {case}")
            else:
                pictures[case] = file
    return pictures, masks
