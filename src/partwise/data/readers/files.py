"""What readers share: where a layout lies (folder, sub-folder, archive), and sources whose pictures are files or one array.

Knows no layout itself; each of those is a module beside this one.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.archives import is_archive, unpack
from partwise.data.headers import Header, looks_cut, probe
from partwise.data.pictures import SUFFIXES, FaultyPicture, decode, decode_mask
from partwise.data.sample import Record, Sample, Source

SPLITS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


class LayoutSource(Source):
    """A source read from a layout on disk, which can say what it expected and where the data set is to be had."""

    layout: ClassVar[str]
    """The expected files, in words; ends a "not found" message."""
    home: ClassVar[str]
    """Where the data set is officially to be had, in words; empty for layouts of one's own."""

    @classmethod
    def not_found(cls, path: Path, problem: str) -> UserError:
        """The error of a layout that is not there: what is wrong, what was expected, where to get it."""
        home = f"; {cls.home}" if cls.home else ""
        return UserError(f"{cls.kind}: {path}: {problem}; expected {cls.layout}{home}")

    @classmethod
    def locate(cls, path: Path, found: Callable[[Path], bool]) -> Path:
        """The folder of a layout: `path` itself, one below it, or inside the archive that it is or alone holds.

        Folders that hold nothing but one folder are walked through. Raises UserError where there is none, or several.
        """
        if not path.exists():
            raise cls.not_found(path, "not there")
        folder = cls._within(path, found) if path.is_dir() else None
        if folder is not None:
            return folder
        archives = [entry for entry in ([path] if path.is_file() else visible(path)) if is_archive(entry)]
        if not archives:
            raise cls.not_found(path, "another layout" if path.is_dir() else "neither a folder nor an archive")
        if len(archives) > 1:
            raise cls.not_found(path, f"holds {len(archives)} archives; name one of them")
        folder = cls._within(unpack(archives[0]), found)
        if folder is None:
            raise cls.not_found(archives[0], "holds another layout")
        return folder

    @classmethod
    def _within(cls, folder: Path, found: Callable[[Path], bool]) -> Path | None:
        entries = visible(folder)
        while not found(folder) and len(entries) == 1 and entries[0].is_dir():
            folder = entries[0]
            entries = visible(folder)
        if found(folder):
            return folder
        below = [entry for entry in entries if entry.is_dir() and found(entry)]
        if len(below) > 1:
            names = ", ".join(entry.name for entry in below[:5])
            raise cls.not_found(folder, f"holds {len(below)} data sets ({names}); name one of them")
        return below[0] if below else None


class FileSource(LayoutSource):
    """A source whose pictures (and masks, by position in `mask_files`) are files below `root`."""

    root: Path
    left_out: Mapping[str, str] = MappingProxyType({})
    """Picture files of the layout that are no samples, with the reason."""

    def __init__(self, path: Path, root: Path, records: Sequence[Record], classes: Sequence[str] = ()) -> None:
        self.name = path.name or path.resolve().name
        self.root = root
        self.records = records
        self.classes = tuple(classes)
        self.mask_files: dict[int, str] = {}

    def load_image(self, index: int) -> Tensor:
        """uint8 `(3, H, W)`. Raises FaultyPicture, naming the file below the root."""
        file = self.records[index].file
        return decode(self.root / file, name=file)

    def file_header(self, index: int) -> Header:
        """The header of a record's file. Raises FaultyPicture."""
        file = self.records[index].file
        return probe(self.root / file, name=file)

    def header(self, index: int) -> Header:
        """The header of what `load_image` gives. A file whose end looks cut off is decoded to be sure. Raises FaultyPicture."""
        header = self.file_header(index)
        if looks_cut(self.root / self.records[index].file, header):
            self.load_image(index)
        return header

    def load(self, index: int) -> Sample:
        """The picture with its labels; boxes are cut to the picture, as annotated they stay in `records`."""
        sample = super().load(index)
        if sample.boxes is not None:
            sample = replace(sample, boxes=clip_boxes(sample.boxes, sample.image))
        if index in self.mask_files:
            file = self.mask_files[index]
            mask = decode_mask(self.root / file, name=file)
            if mask.shape != sample.image.shape[1:]:
                sizes = [f"{width} x {height}" for height, width in (mask.shape, sample.image.shape[1:])]
                raise FaultyPicture(file, "wrong size", f"mask of {sizes[0]} for a picture of {sizes[1]}")
            sample = replace(sample, mask=mask)
        return sample

    def images(self, indices: Sequence[int]) -> Tensor:
        """Pictures of one size as uint8 `(N, C, H, W)`, decoded in threads. Raises FaultyPicture for one of another size."""
        assert self.image_size is not None, "only for sources whose pictures share one size"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            pictures = list(pool.map(self._load_sized, (int(i) for i in indices)))
        return (
            torch.stack(pictures) if pictures else torch.empty((0, self.channels, *self.image_size), dtype=torch.uint8)
        )

    def _load_sized(self, index: int) -> Tensor:
        image = self.load_image(index)
        if image.shape[1:] != self.image_size:
            (height, width), file = image.shape[1:], self.records[index].file
            raise FaultyPicture(file, "wrong size", f"{width} x {height} among pictures of another size")
        return image

    def fingerprint(self) -> str:
        """As every source's, and over boxes, groups and the sizes of mask files."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for index, record in enumerate(self.records):
            mask = self.mask_files.get(index, "")
            size = (self.root / mask).stat().st_size if mask and (self.root / mask).exists() else -1
            digest.update(repr((record.boxes, record.group, record.case, record.polarity, mask, size)).encode())
        return digest.hexdigest()[:16]


class ArraySource(LayoutSource):
    """A source of small pictures of one size that stands in memory as one uint8 tensor `(N, C, H, W)`."""

    broken: dict[int, str]
    """Positions whose pixels could not be read, with the reason."""

    def pixels(self) -> Tensor:
        """All pictures, uint8 `(N, C, H, W)`."""
        raise NotImplementedError

    def load_image(self, index: int) -> Tensor:
        """A view of the array. Raises FaultyPicture where the file held no readable picture."""
        image = self.pixels()[index]
        self._refuse_broken([index])
        return image

    def images(self, indices: Sequence[int]) -> Tensor:
        """Several pictures at once: a view for a plain range, a copy otherwise."""
        pixels = self.pixels()
        if isinstance(indices, range) and indices.step == 1:
            self._refuse_broken(indices)
            return pixels[indices.start : indices.stop]
        positions = torch.as_tensor(indices, dtype=torch.int64)
        self._refuse_broken(positions.tolist() if self.broken else ())
        return pixels[positions]

    def _refuse_broken(self, indices: Iterable[int]) -> None:
        for index in indices if self.broken else ():
            if int(index) in self.broken:
                raise FaultyPicture(self.records[int(index)].id, "unreadable", self.broken[int(index)])


def visible(folder: Path) -> list[Path]:
    """What a folder holds, in the order of its names; hidden entries and a Mac's leavings left out."""
    return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.name != "__MACOSX")


def pictures_below(folder: Path) -> list[str]:
    """Picture files below a folder at any depth, as paths relative to it with "/", in the order of those paths."""
    found: list[str] = []
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        here = Path(parent).relative_to(folder)
        found += [(here / name).as_posix() for name in files if is_picture(name)]
    return sorted(found)


def is_picture(name: str) -> bool:
    """Whether a file name is that of a picture."""
    return not name.startswith(".") and f".{name.rpartition('.')[2].lower()}" in SUFFIXES


def read_lines(path: Path) -> list[str]:
    """The lines of a text file that hold something. Raises UserError where it is missing or not text."""
    try:
        return [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file (byte {error.start} is no UTF-8)") from error


def clip_boxes(boxes: Tensor, image: Tensor) -> Tensor:
    """Boxes `(n, 4)` cut to a picture `(C, H, W)`."""
    height, width = image.shape[1:]
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return boxes.clamp(min=0).minimum(limits)


def unique_names(names: Sequence[str], keys: Sequence[str]) -> tuple[str, ...]:
    """Class names, with their key (a wnid) added to those that several classes share."""
    times = Counter(names)
    return tuple(f"{name} ({key})" if times[name] > 1 else name for name, key in zip(names, keys, strict=True))
