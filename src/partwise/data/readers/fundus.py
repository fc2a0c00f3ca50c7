"""`fundus:DIR`: retina photographs with their vessels drawn: DRIVE, CHASE_DB1, STARE and HRF, one or several in a folder.

Where a field of view comes with a photograph, what is outside is void: it is counted nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partwise.config import UserError
from partwise.data.readers.areas import Area, AreaSource, Size, read_area
from partwise.data.readers.files import is_picture, visible
from partwise.data.sample import VOID, Record

CLASSES = ("vessel",)
CHASE = re.compile(r"Image_(\d{2})[LR]\.jpg")
CHASE_TRAINING = 10
"""Persons of CHASE_DB1 for training: of 28 pictures the first 20."""

Observer = Literal["first", "second"]


@dataclass(frozen=True, slots=True)
class _Photo:
    """Paths below the root; `vessels` and `view` are empty where there are none."""

    file: str
    vessels: str = ""
    view: str = ""
    split: str = ""
    group: str = ""


class Fundus(AreaSource):
    """One class, vessel. DRIVE has its own split; of CHASE_DB1 the first ten persons are for training, as is usual.

    STARE and HRF have none. A person of CHASE_DB1, of whom there are both eyes, is a group. `set` reads one of several sets;
    `observer=second` takes the drawings of the second observer, which CHASE_DB1, STARE and DRIVE's test pictures have; other
    pictures then have no mask. STARE and HRF: not verified.
    """

    kind = "fundus"
    layout = (
        "DRIVE/ (training/ and test/ with images/, 1st_manual/, mask/), CHASEDB1/ (Image_01L.jpg, Image_01L_1stHO.png), "
        "STARE/ (stare-images/im0001.ppm, labels-ah/im0001.ah.ppm) or HRF/ (images/01_dr.JPG, manual1/, mask/)"
    )
    home = "DRIVE, CHASE_DB1, STARE and HRF are each to be had from their authors"

    def __init__(
        self,
        path: Path,
        *,
        set: Literal["all", "drive", "chase", "stare", "hrf"] = "all",
        observer: Observer = "first",
    ) -> None:
        root = self.locate(path, lambda folder: bool(_photos(folder, set, observer)))
        photos = _photos(root, set, observer)
        records = [
            Record(p.file, p.split, label=0, group=p.group, file=p.file, has_mask=bool(p.vessels)) for p in photos
        ]
        super().__init__(path, root, records, CLASSES)
        self._photos = photos
        self.area_files = {i: [p.vessels, *filter(None, [p.view])] for i, p in enumerate(photos) if p.vessels}

    def areas(self, index: int, size: Size) -> Iterator[Area]:
        photo = self._photos[index]
        yield 1, read_area(self.root / photo.vessels, size, name=photo.vessels)
        if photo.view:
            yield VOID, ~read_area(self.root / photo.view, size, name=photo.view)


def _photos(root: Path, wanted: str, observer: Observer) -> list[_Photo]:
    """The photographs of every set that is wanted, in a folder or in several in it; nothing where there is none."""
    found: list[_Photo] = []
    entries = visible(root)
    for folder in (root, *(entry for entry in entries if entry.is_dir() and len(entries) > 1)):
        for name, read in READERS.items():
            if wanted in ("all", name):
                found += read(_Files(root, folder), observer)
    return found


class _Files:
    """The files of a set in a folder, as paths below the root."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.folder = folder
        self._before = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"

    def pictures(self, place: str = "") -> Iterator[tuple[str, str]]:
        """(name, path) of the pictures in a place below the folder; nothing where it is not there."""
        folder = self.folder / place if place else self.folder
        for entry in visible(folder) if folder.is_dir() else ():
            if is_picture(entry.name):
                yield entry.name, self.path(f"{place}/{entry.name}" if place else entry.name)

    def find(self, place: str, stem: str) -> str:
        """The path of the picture in a place with this name, whatever its suffix; empty for none."""
        return next((path for name, path in self.pictures(place) if name.rpartition(".")[0] == stem), "")

    def path(self, name: str) -> str:
        """A path below the folder as one below the root."""
        return self._before + name


def _drive(files: _Files, observer: Observer) -> Iterator[_Photo]:
    """`21_training.tif` with `21_manual1.gif` and `21_training_mask.gif`, and the same of test."""
    ordinal, number = {"first": ("1st", 1), "second": ("2nd", 2)}[observer]
    for part, split in (("training", "train"), ("test", "test")):
        for name, file in files.pictures(f"{part}/images"):
            stem = name.rpartition(".")[0]
            vessels = files.find(f"{part}/{ordinal}_manual", f"{name.partition('_')[0]}_manual{number}")
            yield _Photo(file, vessels, files.find(f"{part}/mask", f"{stem}_mask"), split)


def _chase(files: _Files, observer: Observer) -> Iterator[_Photo]:
    """`Image_01L.jpg` with `Image_01L_1stHO.png` and `Image_01L_2ndHO.png` beside it."""
    order = {"first": "1st", "second": "2nd"}[observer]
    for name, file in files.pictures():
        match = CHASE.fullmatch(name)
        if match is not None:
            split = "train" if int(match[1]) <= CHASE_TRAINING else "test"
            vessels = files.find("", f"{name.rpartition('.')[0]}_{order}HO")
            yield _Photo(file, vessels, split=split, group=f"chase {match[1]}")


def _stare(files: _Files, observer: Observer) -> Iterator[_Photo]:
    """`stare-images/im0001.ppm` with `labels-ah/im0001.ah.ppm` and `labels-vk/im0001.vk.ppm`."""
    initials = {"first": "ah", "second": "vk"}[observer]
    folder = files.folder / "stare-images"
    if folder.is_dir() and any(entry.name.endswith(".ppm.gz") for entry in visible(folder)):
        raise UserError(f"fundus: {folder}: holds .ppm.gz; unpack pictures and labels with gunzip first")
    for name, file in files.pictures("stare-images"):
        yield _Photo(file, files.find(f"labels-{initials}", f"{name.rpartition('.')[0]}.{initials}"))


def _hrf(files: _Files, observer: Observer) -> Iterator[_Photo]:
    """`images/01_dr.JPG` with `manual1/01_dr.tif` and `mask/01_dr_mask.tif`; there is no second observer."""
    if not (files.folder / "manual1").is_dir():
        return
    for name, file in files.pictures("images"):
        stem = name.rpartition(".")[0]
        vessels = files.find("manual1", stem) if observer == "first" else ""
        yield _Photo(file, vessels, files.find("mask", f"{stem}_mask"))


READERS: dict[str, Callable[[_Files, Observer], Iterator[_Photo]]] = {
    "drive": _drive,
    "chase": _chase,
    "stare": _stare,
    "hrf": _hrf,
}
"""Set -> what it makes of a folder."""
