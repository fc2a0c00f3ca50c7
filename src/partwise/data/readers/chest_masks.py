"""`cxrmasks:DIR`: the pack of chest radiographs of JSRT and Wingspan with masks of lungs and heart, and contours beside it.

The contours (pack `chest_xray_landmarks`, of JSRT alone) are 166 points that lie at the same place in every person. Filled,
those of the clavicles give their masks. Their numbers are pixels of a picture of 1024 x 1024, counted by their centres; half a
pixel is added, so that they count from the picture's corner as boxes do. (On lungs and heart that agrees best with the masks:
IoU 0.990 on average, 0.987 without.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partwise.config import UserError
from partwise.data.archives import SUFFIXES, unpack
from partwise.data.headers import FaultyPicture
from partwise.data.readers.areas import Size, read_area
from partwise.data.readers.coco_shapes import fill_polygon
from partwise.data.readers.files import visible
from partwise.data.readers.jsrt import ORGANS, OrganSource, choose_organs, fixed_split
from partwise.data.readers.tables import read_table
from partwise.data.sample import Record, Sample

PARTS = ("jsrt", "wingspan")
FILE = re.compile(rf"({'|'.join(PARTS)})/img/((?:JPCLN|JPCNN|wingspan_)(\d{{3}}))\.jpg")
CONTOURS = {"RL": 44, "LL": 50, "H": 26, "RCLA": 23, "LCLA": 23}
"""Folder of a contour -> its points: right lung, left lung, heart, right clavicle, left clavicle (of the patient)."""
CLAVICLES = ("RCLA", "LCLA")
NAMED = {"RCLA": "right clavicle", "LCLA": "left clavicle"}
"""Contours whose points mirror each other, one by one; those of the lungs, 44 and 50, do not."""
LANDMARKS = tuple(
    f"{NAMED.get(folder, folder)} {place}" for folder, count in CONTOURS.items() for place in range(count)
)
"""The names of a sample's landmarks, in their order."""
CONTOUR_SIDE = 1024
PACK = "chest_xray_landmarks"


@dataclass(frozen=True)
class _Contours:
    """The pack of contours: where it is, and which cases it holds."""

    root: Path
    cases: frozenset[str]

    def points(self, folder: str, case: str, size: Size) -> NDArray[np.float32]:
        """A contour `(n, 2)` in pixels of a picture of `size`, from its corner. Raises FaultyPicture."""
        file = f"{folder}/{case}.npy"
        try:
            with (self.root / file).open("rb") as stream:
                points = np.load(stream, allow_pickle=False)
        except OSError as error:
            raise FaultyPicture(file, "missing", error.strerror or "cannot be opened") from error
        except (ValueError, EOFError) as error:
            raise FaultyPicture(file, "truncated", "no whole array") from error
        if points.shape != (CONTOURS[folder], 2) or points.dtype.kind not in "fiu" or not np.isfinite(points).all():
            raise FaultyPicture(
                file, "unreadable", f"{points.shape} {points.dtype}; expected {CONTOURS[folder]} points"
            )
        scale = np.array([size[1], size[0]]) / CONTOUR_SIDE
        return ((points + 0.5) * scale).clip(0, (size[1], size[0])).astype(np.float32)


class ChestMasks(OrganSource):
    """Organs of 506 pictures: `part` is jsrt, wingspan, or all; every picture is of another person, its group.

    Without `organs` the classes are those that all pictures of the part have: heart and lungs, for jsrt with contours beside it
    clavicles too. Where clavicles are asked for, pictures without contours (JPCLN016 and all of Wingspan) have no mask. The
    landmarks of the others are LANDMARKS. The split is `fixed_split` of a picture's number in its part, and the same as that
    of `jsrt`.
    """

    kind = "cxrmasks"
    layout = (
        "chest_xray/ with labels.csv (file, source), jsrt/ and wingspan/, in each img/ and "
        f"mask/{{heart,left_lung,right_lung}}/; if wanted {PACK}/ beside it, or an archive of it"
    )
    home = "the pictures are to be had from the repository eveningdong/cardiothoracic_ratio_estimation_dataset"

    def __init__(self, path: Path, *, organs: str = "", part: Literal["all", "jsrt", "wingspan"] = "all") -> None:
        root = self.locate(path, lambda folder: (folder / "labels.csv").is_file() and _parts_in(folder))
        self._contours = _find_contours(path, root)
        default = ORGANS if part == "jsrt" and self._contours is not None else ORGANS[:-1]
        chosen = choose_organs(organs, where=f"cxrmasks: {root}", default=default)
        if "clavicles" in chosen and self._contours is None:
            raise UserError(f"cxrmasks: {root}: organs={organs}: clavicles need the pack {PACK} beside it or in it")
        cases = self._contours.cases if self._contours is not None else frozenset()
        records = [
            Record(
                id=file,
                split=fixed_split(number),
                labels=tuple(range(len(chosen))),
                group=case,
                file=file,
                has_mask="clavicles" not in chosen or case in cases,
            )
            for file, case, number in _read_labels(root / "labels.csv", part)
        ]
        super().__init__(path, root, records, chosen)
        self.landmark_names = LANDMARKS if cases else ()
        self.area_files = {
            i: [_mask_file(record, organ) for organ in chosen if organ != "clavicles"]
            for i, record in enumerate(records)
            if record.has_mask
        }

    def organ_areas(self, index: int, organ: str, size: Size) -> Iterator[Tensor]:
        record = self.records[index]
        if organ != "clavicles":
            file = _mask_file(record, organ)
            yield read_area(self.root / file, size, name=file)
            return
        assert self._contours is not None
        for folder in CLAVICLES:
            inside = np.zeros(size, np.bool_)
            window, pixels = fill_polygon(size, self._contours.points(folder, record.group, size))
            inside[window] = pixels
            yield torch.from_numpy(inside)

    def has_landmarks(self, index: int) -> bool:
        """Whether a picture has contours."""
        return self._contours is not None and self.records[index].group in self._contours.cases

    def load(self, index: int) -> Sample:
        """The picture with its masks and, where it has contours, its landmarks `(166, 2)`. Raises FaultyPicture."""
        sample = super().load(index)
        if not self.has_landmarks(index):
            return sample
        assert self._contours is not None
        size, case = (sample.image.shape[1], sample.image.shape[2]), self.records[index].group
        points = np.concatenate([self._contours.points(folder, case, size) for folder in CONTOURS])
        return replace(sample, landmarks=torch.from_numpy(points))

    def fingerprint(self) -> str:
        """As of other masks, and over which pictures have contours."""
        cases = sorted(self._contours.cases) if self._contours is not None else ()
        return hashlib.sha256(f"{super().fingerprint()}/{cases}".encode()).hexdigest()[:16]


def _parts_in(folder: Path) -> bool:
    return any((folder / part / "img").is_dir() for part in PARTS)


def _mask_file(record: Record, organ: str) -> str:
    return f"{record.file.partition('/')[0]}/mask/{organ.replace(' ', '_')}/{record.group}.png"


def _read_labels(path: Path, part: str) -> list[tuple[str, str, int]]:
    """(file, case, number) of every row of a part. Raises UserError with the line of a row that is not as expected."""
    found: dict[str, tuple[str, str, int]] = {}
    for line, row in read_table(path, ("file", "source")):
        match = FILE.fullmatch(row["file"])
        if match is None or row["source"] != match[1]:
            raise UserError(
                f"{path}: line {line}: file {row['file']!r} of source {row['source']!r}; expected such as "
                "jsrt/img/JPCLN001.jpg of jsrt"
            )
        if row["file"] in found:
            raise UserError(f"{path}: line {line}: {row['file']} stands there twice")
        found[row["file"]] = (row["file"], match[2], int(match[3]))
    chosen = [each for each in found.values() if part in ("all", each[0].partition("/")[0])]
    if not chosen:
        raise UserError(f"{path}: no picture of part={part}")
    return chosen


def _find_contours(path: Path, root: Path) -> _Contours | None:
    """The pack of contours in the folder that was named, beside it or beside the pictures; None where there is none."""
    beside = path.parent.parent if path.is_file() else path.parent
    for place in dict.fromkeys((path, path.parent, beside, root, root.parent)):
        folder = place / PACK
        packed = [place / f"{PACK}{suffix}" for suffix in SUFFIXES]
        if folder.is_dir():
            packed += [entry for entry in visible(folder) if entry.name.startswith(PACK) and entry.is_file()]
        for candidate in [folder, *(unpack(archive) for archive in packed if archive.is_file())]:
            inside = _contour_folder(candidate)
            if inside is not None:
                return _Contours(inside, _complete_cases(inside))
    return None


def _contour_folder(folder: Path) -> Path | None:
    return next((at for at in (folder, folder / PACK) if all((at / name).is_dir() for name in CONTOURS)), None)


def _complete_cases(root: Path) -> frozenset[str]:
    """The cases that have all contours. Raises UserError for one that has some."""
    found = {name: {file.stem for file in visible(root / name) if file.suffix == ".npy"} for name in CONTOURS}
    whole = frozenset(set.intersection(*found.values()))
    for case in sorted(set.union(*found.values()) - whole):
        missing = next(name for name in CONTOURS if case not in found[name])
        raise UserError(f"{root / missing / f'{case}.npy'}: not there, but {case} has other contours")
    return whole
