"""Masks put together from areas that may overlap: a file for each organ, polygons, or run lengths.

A mask has one value a pixel, so each area covers those drawn before it. What is covered is not lost: sources of organs give it
as `parts`. Masks that are one file of indices are for readers/masked.py.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from partwise.data.headers import FaultyPicture, Header, looks_cut, probe
from partwise.data.pictures import decode
from partwise.data.readers.coco_shapes import Shape, paint
from partwise.data.readers.files import FileSource
from partwise.data.sample import Sample

Area = tuple[int, Tensor]
"""A mask value, and where it is: bool `(H, W)`."""
Size = tuple[int, int]
"""(height, width) in pixels."""
MID_GREY = 127


class AreaSource(FileSource):
    """Pictures with masks of several areas. `gives_covered`: also as `parts` what other areas cover.

    `area_files`: the mask files of a picture, by position, for checks and fingerprints; nothing for areas drawn from shapes.
    """

    gives_covered = False
    area_files: Mapping[int, Sequence[str]] = MappingProxyType({})

    @abstractmethod
    def areas(self, index: int, size: Size) -> Iterator[Area]:
        """The areas of a picture of `size` in the order in which they are drawn.

        Raises FaultyPicture for a file, ValueError for a shape that cannot be drawn.
        """

    def header(self, index: int) -> Header:
        """The header of what `load_image` gives; those of its mask files are looked at too. Raises FaultyPicture."""
        header = super().header(index)
        for file in self.area_files.get(index, ()):
            found = probe(self.root / file, name=file)
            if looks_cut(self.root / file, found):
                decode(self.root / file, name=file)
            refuse_size(found.size, header.size, name=file)
        return header

    def load(self, index: int) -> Sample:
        """The picture with labels, boxes, mask and what the mask covers. Raises FaultyPicture."""
        sample = super().load(index)
        record = self.records[index]
        if not record.has_mask:
            return sample
        size = (sample.image.shape[1], sample.image.shape[2])
        try:
            mask, covered = stack(size, self.areas(index, size))
        except ValueError as error:
            raise FaultyPicture(record.file, "unreadable", f"its mask: {error}") from error
        return replace(sample, mask=mask, parts=covered if self.gives_covered else None)

    def fingerprint(self) -> str:
        """As of other files, and over the names and sizes of all mask files."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for index, files in sorted(self.area_files.items()):
            paths = [self.root / file for file in files]
            sizes = [path.stat().st_size if path.exists() else -1 for path in paths]
            digest.update(repr((index, [*files], sizes)).encode())
        return digest.hexdigest()[:16]


class ShapeSource(AreaSource):
    """Pictures with masks drawn from polygons or run lengths that an annotation file holds.

    `shapes`: for every record the (value, shape) pairs in the order in which they are drawn.
    """

    shapes: Sequence[Sequence[tuple[int, Shape]]]

    def areas(self, index: int, size: Size) -> Iterator[Area]:
        for value, shape in self.shapes[index]:
            yield value, area_of(size, shape)

    def fingerprint(self) -> str:
        """As of other files, and over all shapes."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for shapes in self.shapes:
            for value, shape in shapes:
                runs = shape.runs.tobytes() if isinstance(shape.runs, np.ndarray) else shape.runs
                digest.update(repr((value, shape.polygons, runs, shape.size)).encode())
        return digest.hexdigest()[:16]


def stack(size: Size, areas: Iterable[Area]) -> tuple[Tensor, Tensor]:
    """Areas in the order in which they are drawn -> what is on top and what that covers, uint8 `(H, W)`, 0 for nothing.

    The second map holds the value that was on top just before. So the whole of area v is where either map is v, but for pixels
    in which three different areas meet, where the lowest is lost.
    """
    top, covered = torch.zeros(size, dtype=torch.uint8), torch.zeros(size, dtype=torch.uint8)
    for value, inside in areas:
        changed = inside & (top != value)
        covered[changed] = top[changed]
        top[changed] = value
    return top, covered


def read_area(path: Path, size: Size, *, name: str = "") -> Tensor:
    """A mask file of one thing, white on black in any mode -> bool `(H, W)`: what is brighter than mid-grey.

    Where nothing is brighter than 1, as in masks of 0 and 1, what is not 0. Raises FaultyPicture, with `name` for the file, for
    one that is not of `size` or cannot be read.
    """
    name = name or str(path)
    pixels = decode(path, name=name).amax(dim=0)
    refuse_size((pixels.shape[0], pixels.shape[1]), size, name=name)
    return pixels > (MID_GREY if int(pixels.max()) > 1 else 0)


def refuse_size(mask: Size, picture: Size, *, name: str) -> None:
    """Raise FaultyPicture, with `name` for the file, for a mask that has not the size of its picture."""
    if mask != picture:
        found, wanted = (f"{width} x {height}" for height, width in (mask, picture))
        raise FaultyPicture(name, "wrong size", f"mask of {found} for a picture of {wanted}")


def area_of(size: Size, shape: Shape) -> Tensor:
    """The pixels of a shape, bool `(H, W)`. Raises ValueError for run lengths that are torn or over another size."""
    return torch.from_numpy(paint(size, [(1, shape)])).bool()
