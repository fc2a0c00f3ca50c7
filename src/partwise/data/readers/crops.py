"""Crops of single chromosomes: read as grey, laid on a white square of one side for the whole set.

One side a set keeps the sizes of chromosomes to one another, by which types are told apart. Where the crops come from is known
by the readers that build on this.
"""

from __future__ import annotations

import hashlib
import statistics
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from partwise.config import UserError
from partwise.data.headers import FaultyPicture, Header, probe
from partwise.data.pictures import decode
from partwise.data.readers.files import FileSource
from partwise.data.readers.tiff_strips import raw_pixels
from partwise.data.sample import Record

WHITE = 255
SHARE = 0.5625
"""Of the frame's side, spanned by a chromosome 1 of median height: as in the pictures of the paper (Qin et al., 2019)."""
LUMA = (19595, 38470, 7471)
"""Weights of red, green and blue in 2^16 parts (ITU-R BT.601)."""


class CropSource(FileSource):
    """A source of grey chromosomes, dark on white: what `crop` gives, padded to `pad` x `pad`.

    `pad` 0: the side at which the median height of chromosome 1 is SHARE of it, from sizes alone (see `paper_side`); 1 where
    no crop can be read. `karyotypes`: the karyotype of a case in words, where the data lists it.
    """

    channels = 1
    pad: int
    karyotypes: Mapping[str, str] = MappingProxyType({})

    def __init__(self, path: Path, root: Path, records: Sequence[Record], classes: Sequence[str], *, pad: int) -> None:
        if pad < 0:
            raise UserError(
                f"{self.kind}: {path}: pad={pad}; expected a side in pixels, or 0 to choose it from the data"
            )
        super().__init__(path, root, records, classes)
        self.pad = pad or paper_side(records, self.crop_height) or 1
        self.image_size = (self.pad, self.pad)

    @abstractmethod
    def crop(self, index: int) -> Tensor:
        """The chromosome alone, dark on white, unpadded: uint8 `(1, h, w)`. Raises FaultyPicture."""

    @abstractmethod
    def crop_height(self, index: int) -> int | None:
        """The height of a crop without decoding it; None where it cannot be had."""

    @abstractmethod
    def file_header(self, index: int) -> Header:
        """The header of a record's file. Raises FaultyPicture."""

    def load_image(self, index: int) -> Tensor:
        """The chromosome on its frame: uint8 `(1, pad, pad)`. Raises FaultyPicture, naming the file."""
        return pad_white(self.crop(index), self.pad)

    def header(self, index: int) -> Header:
        """The header of a record's file, with the size that `load_image` gives. Raises FaultyPicture.

        The crop is decoded: it is so small that this costs what its header costs, and finds every fault.
        """
        self.crop(index)
        return replace(self.file_header(index), size=(self.pad, self.pad))

    def fingerprint(self) -> str:
        """As of other files, and over the side of the frame."""
        return hashlib.sha256(f"{super().fingerprint()}/{self.pad}".encode()).hexdigest()[:16]


def paper_side(records: Sequence[Record], height: Callable[[int], int | None]) -> int:
    """The side of the frame at which chromosome 1 spans as much of it as in the paper; 0 where no height is known.

    median height of chromosome 1 / SHARE, rounded. Where nothing is labelled as such (or cannot be read) the second tallest
    crop of each case stands for it: of 46 the two of type 1 are about the tallest, and the tallest is often a bent or stretched
    one. On two real sets of 312 and 65 cells both medians are the same pixel.
    """
    found = [height(index) for index, record in enumerate(records) if record.label == 0]
    tall = [one for one in found if one is not None]
    if not tall:
        cases: dict[str, list[int]] = defaultdict(list)
        for index, record in enumerate(records):
            if (one := height(index)) is not None:
                cases[record.case].append(one)
        tall = [sorted(heights)[-2:][0] for heights in cases.values()]
    return max(1, round(statistics.median(tall) / SHARE)) if tall else 0


def pad_white(crop: Tensor, side: int) -> Tensor:
    """uint8 `(1, h, w)` -> `(1, side, side)`: centred on white; a larger one is first shrunk to fit, antialiased.

    Where the margin is odd the smaller half is above and to the left.
    """
    height, width = crop.shape[1:]
    if max(height, width) > side:
        scale = side / max(height, width)
        height, width = max(1, round(height * scale)), max(1, round(width * scale))
        crop = tv.resize(crop, [height, width], interpolation=tv.InterpolationMode.BILINEAR, antialias=True)
    top, left = (side - height) // 2, (side - width) // 2
    frame = crop.new_full((1, side, side), WHITE)
    frame[:, top : top + height, left : left + width] = crop
    return frame


def to_grey(image: Tensor) -> Tensor:
    """uint8 RGB `(3, H, W)` -> `(1, H, W)` by LUMA, rounded; what is grey already keeps its values."""
    red, green, blue = image.int()
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue + (1 << 15) >> 16).to(torch.uint8)[None]


def read_crop(path: Path, *, name: str = "") -> Tensor:
    """A picture file -> uint8 `(1, H, W)`; colours become grey, transparency white, malformed TIFFs give their raw bytes.

    Raises FaultyPicture, with `name` for the file.
    """
    name = name or str(path)
    data = _read(path, name)
    pixels = raw_pixels(data, name=name)
    return to_grey(decode(data, name=name)) if pixels is None else torch.from_numpy(pixels.copy())[None]


def probe_crop(path: Path, *, name: str = "") -> Header:
    """The header of a picture file, of malformed TIFFs too. Raises FaultyPicture, with `name` for the file."""
    name = name or str(path)
    data = _read(path, name)
    pixels = raw_pixels(data, name=name)
    if pixels is None:
        return probe(path, name=name)
    return Header("TIFF", "L", (pixels.shape[0], pixels.shape[1]), exif_rotated=False, bytes=len(data))


def _read(path: Path, name: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise FaultyPicture(name, "missing", error.strerror or "cannot be opened") from error
