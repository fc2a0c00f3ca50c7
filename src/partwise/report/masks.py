"""Masks for people: classes as colours over the picture, and the same pictures in rows, a column for each stage.

Pure functions on arrays, as in `figures.py`. Pictures are uint8 `(H, W, 3)` RGB; masks are uint8 `(h, w)`, 0 for the ground,
k + 1 for class k, 255 for void.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from partwise.report import canvas
from partwise.report.canvas import Colour, Line, Pixels
from partwise.report.charts import PALETTE

VOID = 255
WIDTH = 900
"""How wide a figure of rows is at most: what a page shows without making it smaller."""
GAP = 6
WIDEST = 160
TALLEST = 1.5
"""The height of a tile, at most, in its widths."""
VOID_COLOUR: Colour = (236, 236, 214)


@lru_cache(maxsize=1)
def _colours() -> list[Colour]:
    """Okabe and Ito's six, then always the hue and lightness that is farthest from all before, and from void and grey."""
    chosen, other = list(PALETTE[:6]), [VOID_COLOUR, (128, 128, 128)]
    shades = product(range(30), (0.3, 0.45, 0.6, 0.75))
    wheel = np.asarray([colorsys.hls_to_rgb(hue / 30, lightness, 0.8) for hue, lightness in shades])
    left = np.rint(255 * wheel).astype(int)
    while len(left):
        distance = np.abs(left[:, None] - np.asarray(chosen + other)).sum(axis=2).min(axis=1)
        red, green, blue = left[distance.argmax()].tolist()
        chosen.append((red, green, blue))
        left = np.delete(left, distance.argmax(), axis=0)
    return chosen


def class_colours(num_classes: int) -> list[Colour]:
    """A colour for each class, well apart for as long as there are few; they come again after 126."""
    return [_colours()[number % len(_colours())] for number in range(num_classes)]


def overlay_mask(image: NDArray[np.uint8], mask: NDArray[np.uint8], palette: Sequence[Colour]) -> Pixels:
    """A mask over the greyed picture: classes tinted and outlined in `palette[k]`, void hatched, the ground left as it is.

    The mask may be coarser or finer than the picture (nearest by the centres of its cells).
    """
    picture = canvas.rgb(image)
    assert mask.ndim == 2 and mask.size and mask.dtype == np.uint8, f"a mask must be uint8 (H, W), not {mask.shape}"
    height, width = picture.shape[:2]
    values = mask[_centres(mask.shape[0], height)][:, _centres(mask.shape[1], width)]
    table = np.zeros((256, 3), np.float32)
    table[1 : len(palette) + 1] = np.asarray(palette, np.float32).reshape(-1, 3)
    pixels = picture.astype(np.float32)
    grey = pixels @ np.asarray([0.299, 0.587, 0.114], np.float32)
    drawn = 0.35 * pixels + 0.65 * grey[..., None]
    void = values == VOID
    object_ = (values > 0) & ~void
    drawn[object_] = 0.45 * drawn[object_] + 0.55 * table[values[object_]]
    edge = object_ & _borders(values)
    drawn[edge] = table[values[edge]]
    rows, columns = np.ogrid[:height, :width]
    hatched = void & ((rows + columns) % 6 < 2)
    drawn[hatched] = VOID_COLOUR
    return np.rint(drawn).clip(0, 255).astype(np.uint8)


def _centres(size: int, wanted: int) -> NDArray[np.intp]:
    """Which of `size` cells lie under the centres of `wanted` ones."""
    return ((np.arange(wanted) + 0.5) * size / wanted).astype(np.intp)


def _borders(values: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """True where one of the four neighbours holds another value; the picture's own edge is no border."""
    padded = np.pad(values, 1, mode="edge")
    neighbours = (padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:])
    return np.logical_or.reduce([neighbour != values for neighbour in neighbours])


def mask_legend(colours: Mapping[str, Colour], width: int, *, void: bool = False) -> Pixels:
    """The names of classes behind squares of their colour, in as many lines as `width` asks for; with `void` its hatching."""
    entries = [_entry(np.full((16, 16, 3), colour, np.uint8), name, width) for name, colour in colours.items()]
    if void:
        swatch = overlay_mask(np.full((16, 16, 3), 110, np.uint8), np.full((1, 1), VOID, np.uint8), [])
        entries.append(_entry(swatch, "not counted", width))
    lines: list[list[Pixels]] = []
    for entry in entries:
        taken = sum(other.shape[1] + canvas.GAP for other in lines[-1]) if lines else width
        if taken + entry.shape[1] > width:
            lines.append([])
        lines[-1].append(entry)
    return canvas.above([canvas.beside(line, gap=canvas.GAP) for line in lines], gap=2) if lines else canvas.blank(1, 1)


def _entry(swatch: Pixels, name: str, width: int) -> Pixels:
    """A square and a name, at most `width` wide."""
    room = min(round(canvas.font(15).getlength(name)) + 4, width - swatch.shape[1] - 6)
    words = canvas.write([Line(name, size=15)], room)
    above = (words.shape[0] - swatch.shape[0] + 2) // 2
    return canvas.beside([np.pad(swatch, ((above, 0), (0, 0), (0, 0)), constant_values=255), words], gap=6)


def _tile_width(num_columns: int) -> int:
    return min(WIDEST, (WIDTH - 2 * canvas.GAP - GAP * (num_columns - 1)) // num_columns)


def fit_tile(image: NDArray[np.uint8], num_columns: int) -> Pixels:
    """A picture as large as a row of so many columns has room for. Draw on it afterwards, and lines stay sharp."""
    picture, wide = canvas.rgb(image), _tile_width(num_columns)
    height, width = picture.shape[:2]
    scale = min(wide / width, TALLEST * wide / height)
    return canvas.resize(picture, max(1, round(height * scale)), max(1, round(width * scale)))


def rows_figure(
    columns: Mapping[str, Sequence[NDArray[np.uint8]]],
    captions: Mapping[str, Sequence[str]],
    *,
    legend: Mapping[str, Colour] | None = None,
    void: bool = False,
) -> Pixels:
    """The same pictures in rows, a named column for each way of looking at them, at most WIDTH wide.

    `columns` name -> a picture a row, of any sizes (`fit_tile` beforehand keeps them as they are); `captions` name -> a line
    below each, for any of the columns; `legend` name -> colour goes on top, with `void` that of void.
    """
    wide = _tile_width(max(1, len(columns)))
    depth = max((len(own) for own in columns.values()), default=0)
    if depth == 0:
        return canvas.margin(canvas.write([Line("No pictures to show.", colour=canvas.FAINT)], 320))
    heads = [canvas.write([Line(name, size=15, bold=True)], wide) for name in columns]
    rows = [canvas.beside(heads, gap=GAP)]
    for number in range(depth):
        tiles = [
            _captioned(fit_tile(own[number], len(columns)), captions.get(name, ()), number, wide)
            for name, own in columns.items()
        ]
        rows.append(canvas.beside(tiles, gap=GAP))
    body = canvas.above(rows, gap=GAP)
    if legend or void:
        body = canvas.above([mask_legend(legend or {}, body.shape[1], void=void), body], gap=10)
    return canvas.margin(body)


def _captioned(tile: Pixels, captions: Sequence[str], number: int, wide: int) -> Pixels:
    """A tile in the middle of its column, with its line below where the column has one."""
    spare = wide - tile.shape[1]
    centred = np.pad(tile, ((0, 0), (spare // 2, spare - spare // 2), (0, 0)), constant_values=255)
    if not captions:
        return centred
    return canvas.above([centred, canvas.write([Line(captions[number], size=14, colour=canvas.FAINT)], wide)])
