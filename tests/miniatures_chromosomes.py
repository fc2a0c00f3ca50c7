"""A small set of chromosomes in each layout that their readers know, drawn by a few numbers. Nothing here is real data."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from partwise.ops.iscn import TYPES
from tests.miniatures import Maker, Miniature

Pixels = NDArray[np.uint8]


def chromosome(seed: int, height: int = 20, width: int = 9, *, black: bool = False) -> Pixels:
    """A banded bar of its own for every seed, uint8 `(H, W)`: dark on white, or bright on black; darker below the middle."""
    bands = np.random.default_rng(seed).integers(40, 160, height)
    bands[height // 2 :] -= 30
    picture = np.full((height, width), 255, np.uint8)
    picture[1:-1, 2:-2] = bands[1:-1, None]
    return 255 - picture if black else picture


def heights() -> Iterator[tuple[int, int]]:
    """(number of a type, height of its crop): the first is the tallest."""
    return ((number, 44 - number) for number in range(1, len(TYPES) + 1))


def write_crop(path: Path, pixels: Pixels, *, mode: str = "L", compression: str | None = None) -> Path:
    """A crop in the format of its suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels).convert(mode)
    if compression:
        image.save(path, compression=compression)
    else:
        image.save(path)
    return path


def tiff(
    pixels: Pixels,
    *,
    offsets: Sequence[Sequence[int]] | None = None,
    counts: Sequence[Sequence[int]] | None = None,
    order: str = "<",
    bits: int = 8,
    compression: int = 1,
) -> bytes:
    """A grey TIFF by hand: pixels from byte 48, then lists of values, then the directory.

    `offsets` and `counts`: the values of each StripOffsets and StripByteCounts entry; by default one strip, in order.
    """
    height, width = pixels.shape
    offsets = [[48]] if offsets is None else offsets
    counts = [[height * width]] if counts is None else counts
    entries: list[tuple[int, str, Sequence[int]]] = [
        (256, "I", [width]), (257, "I", [height]), (258, "H", [bits]), (259, "H", [compression]), (262, "H", [1]),
        *((273, "I", values) for values in offsets),
        (277, "H", [1]), (278, "H", [height]),
        *((279, "I", values) for values in counts),
    ]  # fmt: skip
    body = bytearray(48) + pixels.tobytes()
    directory = b""
    for tag, code, values in entries:
        packed = struct.pack(f"{order}{len(values)}{code}", *values)
        if len(packed) > 4:
            place = struct.pack(f"{order}I", len(body))
            body += packed
            packed = place
        directory += struct.pack(f"{order}HHI", tag, {"H": 3, "I": 4}[code], len(values)) + packed.ljust(4, b"\0")
    body[:8] = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}I", len(body))
    return bytes(body + struct.pack(f"{order}H", len(entries)) + directory + bytes(4))


def malformed(pixels: Pixels) -> bytes:
    """As CIR-Net's: two strips of the whole size for one, the second where the first ends."""
    return tiff(pixels, offsets=[[48, 48 + pixels.size]], counts=[[pixels.size, pixels.size]])


def write_bytes(path: Path, data: bytes) -> Path:
    """A file of these bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def chromosomes_table(root: Path) -> Miniature:
    """`labels.csv` with `cases.csv`: a cell a split, of 24 crops."""
    rows = ["file,type,polarity,case,specimen,split"]
    for place, split in enumerate(("train", "val", "test")):
        for number, height in heights():
            file = f"cells/{place}.1/{number}_0.png"
            write_crop(root / file, chromosome(100 * place + number, height))
            rows.append(f"{file},{TYPES[number - 1]},{number % 2},{place}.1,{place},{split}")
    (root / "labels.csv").write_text("\n".join(rows))
    (root / "cases.csv").write_text('case,specimen,karyotype_by_count\n0.1,0,"47,XY,+21"\n2.1,2,\n')
    cells = root / "cells"
    splits = {"train": 24, "val": 24, "test": 24}
    return Miniature(f"chromosomes:{root}", root, splits, 24, cells / "1.1" / "3_0.png", cells / "2.1" / "7_0.png")


def chromosomes_cir_net(root: Path) -> Miniature:
    """`DataNew/<k>/` with malformed TIFFs, one in order, and one PNG."""
    for number, height in heights():
        for copy, suffix in ((1, "tiff"), (2, "png" if number == 2 else "tiff")):
            pixels = chromosome(10 * number + copy, height)
            path = root / "DataNew" / str(number) / f"{number}_{copy}_56131_115966_1341591.{suffix}"
            if suffix == "png" or number == 3:
                write_crop(path, pixels)
            else:
                write_bytes(path, malformed(pixels))
    torn = root / "DataNew" / "5" / "5_1_56131_115966_1341591.tiff"
    return Miniature(f"chromosomes:{root}", root, {"": 48}, 24, torn)


def chromosomes_bioimlab(root: Path) -> Miniature:
    """A folder a cell, bright on black: a female, and a male whose sex chromosomes have no letter."""
    for seed, (cell, sexes) in enumerate({"12": ("23a", "23b"), "male 3": ("23", "24")}.items()):
        keys = [f"{number}{copy}" for number in range(1, 23) for copy in "ab"]
        for place, key in enumerate([*keys, *sexes]):
            height = 44 - int(key.rstrip("ab"))
            write_crop(root / cell / f"{cell} {key}.bmp", chromosome(100 * seed + place, height, black=True))
    return Miniature(f"chromosomes:{root}", root, {"": 92}, 24, root / "male 3" / "male 3 23.bmp")


def chromosomes_cells(root: Path) -> Miniature:
    """A folder a cell and in it a folder a type: LZW, RGBA, and a marker that is no chromosome."""
    for seed, cell in enumerate(("97002194.14", "97002569.11")):
        folder = root / f"{cell}.tiff"
        for number, height in heights():
            pixels = chromosome(100 * seed + number, height)
            mode = "RGBA" if number == 4 else "L"
            name = folder / f"clase{number}" / f"clase{number}_0_{cell}.tiff"
            write_crop(name, pixels, mode=mode, compression="tiff_lzw")
    write_crop(folder / "clase25" / f"clase25_0_{cell}.tiff", chromosome(1), compression="tiff_lzw")
    torn = root / "97002194.14.tiff" / "clase9" / "clase9_0_97002194.14.tiff"
    return Miniature(f"chromosomes:{root}", root, {"": 48}, 24, torn)


def chromosomes_plain(root: Path) -> Miniature:
    """Unlabelled: a folder for each of two cases."""
    for seed, case in enumerate(("a", "b")):
        for number, height in heights():
            write_crop(root / case / f"crop{number:02}.png", chromosome(100 * seed + number, height))
    return Miniature(f"chromosomes:{root}", root, {"": 48}, 0, root / "b" / "crop03.png")


def chromosomes_one_case(root: Path) -> Miniature:
    """Unlabelled: the crops of one case."""
    for number, height in heights():
        write_crop(root / f"crop{number:02}.png", chromosome(number, height))
    return Miniature(f"chromosomes:{root}", root, {"": 24}, 0, root / "crop03.png")


def karyogram(seed: int, boxes: Sequence[tuple[int, int, int, int]], *, ground: int = 0, height: int = 60) -> Pixels:
    """Bright bars in their boxes on a dark ground, with a frame brighter than any of them, uint8 `(H, 120)`."""
    picture = np.full((height, 120), ground, np.uint8)
    picture[0], picture[:, 0] = 255, 255
    for i, (x1, y1, x2, y2) in enumerate(boxes):
        bar = chromosome(seed + i, y2 - y1, x2 - x1, black=True).astype(np.int64)
        picture[y1:y2, x1:x2] = ground + bar * (200 - ground) // 255
    return picture


def karyograms(root: Path) -> Miniature:
    """`boxes.csv` with three karyograms, the last of one chromosome."""
    placed = [(5, 10, 16, 45), (20, 12, 31, 46), (40, 20, 51, 40), (60, 25, 71, 38)]
    rows = ["file,class_name,class,x1,y1,x2,y2"]
    for number, count in enumerate((4, 4, 1)):
        file = write_crop(root / f"karyotype_{number}.png", karyogram(10 * number, placed[:count], ground=30 * number))
        for place, name in list(enumerate(("1", "1", "8", "Y")))[:count]:
            x1, y1, x2, y2 = placed[place]
            box = f"{x1 + 0.5},{y1},{x2},{y2 - 0.5}" if place == 1 else f"{x1},{y1},{x2},{y2}"
            rows.append(f"{file.name},{name},{TYPES.index(name) + 1},{box}")
    (root / "boxes.csv").write_text("\n".join(rows))
    last = root / "karyotype_2.png"
    return Miniature(f"karyograms:{root}", root, {"": 9}, 24, last, last)


MAKERS: dict[str, list[Maker]] = {
    "chromosomes": [
        chromosomes_table,
        chromosomes_cir_net,
        chromosomes_bioimlab,
        chromosomes_cells,
        chromosomes_plain,
        chromosomes_one_case,
    ],
    "karyograms": [karyograms],
}
"""Kind -> the layouts it reads."""
