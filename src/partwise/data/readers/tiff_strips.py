"""TIFF files whose directory contradicts itself about where the pixels lie, which common decoders read without a word.

CIR-Net's crops are such files: they name two strips, of which the second lies on the directory itself, or in other copies give
the tag of the strips twice. Decoders take the wrong one and return a nearly black picture. Their pixels are the width x height
bytes from byte 48 on. Files in order are for data/pictures.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from partwise.data.headers import FaultyPicture, limit_pixels

MAGIC = {b"II*\0": "<", b"MM\0*": ">"}
"""How a TIFF begins -> the order of its bytes."""
WIDTH, HEIGHT, BITS, COMPRESSION, PHOTOMETRIC = 256, 257, 258, 259, 262
OFFSETS, SAMPLES, ROWS, COUNTS, PLANES = 273, 277, 278, 279, 284
DEFAULTS = {BITS: (1,), COMPRESSION: (1,), PHOTOMETRIC: (1,), SAMPLES: (1,), PLANES: (1,)}
TAGS = {WIDTH, HEIGHT, OFFSETS, ROWS, COUNTS, *DEFAULTS}
CODES = {1: "B", 3: "H", 4: "I"}
"""The types of whole numbers, by TIFF's number."""
FIRST_PIXEL = 48


@dataclass(frozen=True)
class Directory:
    """Where it lies in the file, and the values of each of TAGS, as often as it is given."""

    at: int
    given: dict[int, list[tuple[int, ...]]]

    def values(self, tag: int) -> tuple[int, ...]:
        """What a tag says the first time, or by default."""
        return (self.given.get(tag) or [DEFAULTS.get(tag, ())])[0]

    def number(self, tag: int) -> int:
        """The first value of a tag, 0 for none."""
        return (self.values(tag) or (0,))[0]


def raw_pixels(data: bytes, *, name: str) -> NDArray[np.uint8] | None:
    """The pixels `(H, W)` of a grey TIFF whose strips are malformed; None for every file that common decoders read rightly.

    Raises FaultyPicture, with `name` for the file, where the directory or a strip ends beyond the file, and where strips are
    malformed in a way that leaves open where the pixels are.
    """
    order = MAGIC.get(data[:4])
    if order is None:
        return None
    directory = _read_directory(data, order, name)
    strips, sizes = directory.values(OFFSETS), directory.values(COUNTS)
    height, width = directory.number(HEIGHT), directory.number(WIDTH)
    if not strips or not height or not width:
        return None
    limit_pixels(name, height, width)
    if _in_order(directory):
        if any(at + size > len(data) for at, size in zip(strips, sizes, strict=False)):
            raise FaultyPicture(name, "truncated", "the file ends before its last strip does")
        return None
    form = [directory.values(tag) for tag in (BITS, SAMPLES, COMPRESSION, PHOTOMETRIC)]
    if form != [(8,), (1,), (1,), (1,)] or strips[0] != FIRST_PIXEL:
        raise FaultyPicture(name, "unreadable", "the TIFF directory contradicts itself about the strips of the picture")
    end = FIRST_PIXEL + height * width
    if end > min(len(data), directory.at):
        raise FaultyPicture(
            name, "truncated", f"no {width} x {height} pixels between byte {FIRST_PIXEL} and the directory"
        )
    return np.frombuffer(data, np.uint8, height * width, FIRST_PIXEL).reshape(height, width)


def _read_directory(data: bytes, order: str, name: str) -> Directory:
    given: dict[int, list[tuple[int, ...]]] = {}
    try:
        (at,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind, number = struct.unpack_from(f"{order}HHI", data, entry)
            if tag in TAGS and kind in CODES:
                code = f"{order}{number}{CODES[kind]}"
                inside = struct.calcsize(code) <= 4
                (place,) = (entry + 8,) if inside else struct.unpack_from(f"{order}I", data, entry + 8)
                given.setdefault(tag, []).append(struct.unpack_from(code, data, place))
    except struct.error as error:
        raise FaultyPicture(name, "truncated", "the file ends before its TIFF directory does") from error
    return Directory(at, given)


def _in_order(directory: Directory) -> bool:
    """Whether the strips are given once, are as many as the picture needs, and hold it where they are not compressed."""
    if any(len(directory.given.get(tag, ())) > 1 for tag in (OFFSETS, COUNTS)):
        return False
    height, samples = directory.number(HEIGHT), directory.number(SAMPLES)
    rows = max(1, min(directory.number(ROWS) or height, height))
    strips = -(-height // rows) * (samples if directory.number(PLANES) == 2 else 1)
    sizes = directory.values(COUNTS)
    if len(directory.values(OFFSETS)) != strips or (sizes and len(sizes) != strips):
        return False
    line = -(-directory.number(WIDTH) * directory.number(BITS) * samples // 8)
    return not sizes or directory.number(COMPRESSION) != 1 or sum(sizes) >= height * line
