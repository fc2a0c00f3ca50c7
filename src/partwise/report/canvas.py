"""Laying out pictures and words on a canvas: sizes, text that fits, tiles in a grid. No meaning here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
Pixels = NDArray[np.uint8]

WHITE: Colour = (255, 255, 255)
INK: Colour = (31, 36, 43)
FAINT: Colour = (110, 118, 129)
GAP = 18
READABLE = 144
SMALLEST = 13


@lru_cache(maxsize=32)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans as matplotlib ships it: the same glyphs on every machine, most of Unicode's scripts among them."""
    import matplotlib as mpl

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(mpl.get_data_path()) / "fonts" / "ttf" / name), size)


def fit_text(text: str, width: int, face: ImageFont.FreeTypeFont) -> str:
    """The text, or its beginning and an ellipsis, so that it takes at most `width` pixels on one line."""
    line = " ".join(text.split())
    if face.getlength(line) <= width:
        return line
    low, high = 0, len(line)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if face.getlength(line[:middle].rstrip() + "…") <= width else (low, middle - 1)
    return line[:low].rstrip() + "…"


def rgb(image: NDArray[np.generic]) -> Pixels:
    """Check that a picture is uint8 `(H, W, 3)` with at least one pixel, and hand it on contiguous."""
    assert image.dtype == np.uint8, f"a picture must be uint8, not {image.dtype}"
    assert image.ndim == 3 and image.shape[2] == 3 and image.size, f"a picture must be (H, W, 3), not {image.shape}"
    return np.ascontiguousarray(image, dtype=np.uint8)


def readable_scale(height: int, width: int, target: int = READABLE) -> float:
    """Factor that brings the longer side near `target`: a whole number where it enlarges, so that pixels stay even."""
    longer = max(height, width)
    return float(max(1, round(target / longer))) if longer < 1.25 * target else target / longer


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """Resample a picture to `(height, width)`: bicubic upwards, area-weighted downwards."""
    if image.shape[:2] == (height, width):
        return image
    way = Image.Resampling.BICUBIC if height >= image.shape[0] else Image.Resampling.LANCZOS
    return np.asarray(Image.fromarray(image).resize((width, height), way))


def enlarge(image: Pixels, target: int = READABLE) -> tuple[Pixels, float]:
    """A picture at a size that people can read, and the factor."""
    height, width = image.shape[:2]
    scale = readable_scale(height, width, target)
    return resize(image, max(1, round(height * scale)), max(1, round(width * scale))), scale


def blank(height: int, width: int) -> Pixels:
    """A white canvas."""
    return np.full((height, width, 3), 255, np.uint8)


def beside(pictures: Sequence[Pixels], gap: int = 4) -> Pixels:
    """Pictures side by side, top-aligned."""
    canvas = blank(max(p.shape[0] for p in pictures), sum(p.shape[1] for p in pictures) + gap * (len(pictures) - 1))
    left = 0
    for picture in pictures:
        canvas[: picture.shape[0], left : left + picture.shape[1]] = picture
        left += picture.shape[1] + gap
    return canvas


def above(pictures: Sequence[Pixels], gap: int = 0) -> Pixels:
    """Pictures one above the other, left-aligned."""
    canvas = blank(sum(p.shape[0] for p in pictures) + gap * (len(pictures) - 1), max(p.shape[1] for p in pictures))
    top = 0
    for picture in pictures:
        canvas[top : top + picture.shape[0], : picture.shape[1]] = picture
        top += picture.shape[0] + gap
    return canvas


def grid(tiles: Sequence[Pixels], columns: int, gap: int = GAP) -> Pixels:
    """Tiles row by row, each centred in a cell as large as the largest tile."""
    columns = max(1, min(columns, len(tiles)))
    cell_h, cell_w = max(t.shape[0] for t in tiles), max(t.shape[1] for t in tiles)
    rows = -(-len(tiles) // columns)
    canvas = blank(rows * cell_h + (rows - 1) * gap, columns * cell_w + (columns - 1) * gap)
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        top = row * (cell_h + gap)
        left = column * (cell_w + gap) + (cell_w - tile.shape[1]) // 2
        canvas[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return canvas


@dataclass(frozen=True)
class Line:
    """One line of text, cut with an ellipsis where it does not fit; `chip` puts a square of that colour before it."""

    text: str
    size: int = 17
    bold: bool = False
    colour: Colour = INK
    chip: Colour | None = None


def write(lines: Sequence[Line], width: int) -> Pixels:
    """Lines of text on a white strip `width` pixels wide; a long line is set smaller before it is cut."""
    steps = [round(line.size * 1.4) for line in lines]
    strip = Image.new("RGB", (width, sum(steps) + 6), WHITE)
    pen = ImageDraw.Draw(strip)
    top = 4
    for line, step in zip(lines, steps, strict=True):
        left = 0
        if line.chip is not None:
            side = round(line.size * 0.72)
            pen.rectangle((0, top + (step - side) // 2, side - 1, top + (step - side) // 2 + side - 1), fill=line.chip)
            left = side + 6
        face = _face(line, width - left)
        words = fit_text(line.text, width - left, face)
        pen.text((left, top + step / 2), words, fill=line.colour, font=face, anchor="lm")
        top += step
    return np.asarray(strip)


def _face(line: Line, width: int) -> ImageFont.FreeTypeFont:
    """The line's own size, or the largest down to `SMALLEST` at which it fits."""
    sizes = range(line.size, min(line.size, SMALLEST) - 1, -1)
    return next(
        (font(s, line.bold) for s in sizes if font(s, line.bold).getlength(line.text) <= width), font(sizes[-1])
    )


def margin(image: Pixels, width: int = GAP) -> Pixels:
    """A white border all round."""
    return np.pad(image, ((width, width), (width, width), (0, 0)), constant_values=255)
