"""Pictures for people: heatmaps over pictures, boxes, galleries, mixed batches. Charts of numbers are in `charts.py`.

Every function is pure, takes and returns arrays, and gives the same bytes for the same input. Pictures are uint8
`(H, W, 3)` RGB; maps are float32 `(H, W)` in [0, 1]; boxes are `(n, 4)` xyxy, pixels, half-open, in its frame.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from partwise.report import canvas
from partwise.report.canvas import Colour, Line, Pixels
from partwise.report.charts import PALETTE, bars, confusion, curves, reliability

__all__ = [
    "FOUND_BOX",
    "PALETTE",
    "TRUE_BOX",
    "bars",
    "confusion",
    "curves",
    "draw_boxes",
    "encode_png",
    "gallery",
    "heatmap_gallery",
    "mixed_batch",
    "overlay",
    "reliability",
]

# Far apart in lightness as well as in hue, from each other and from the heatmap's purple-orange-yellow.
TRUE_BOX: Colour = (86, 214, 255)
FOUND_BOX: Colour = (255, 255, 255)
CASING: Colour = (12, 14, 18)


def encode_png(image: NDArray[np.uint8]) -> bytes:
    """A picture as PNG bytes, without a time stamp."""
    buffer = io.BytesIO()
    Image.fromarray(canvas.rgb(image)).save(buffer, format="PNG")
    return buffer.getvalue()


@lru_cache(maxsize=1)
def _heat_colours() -> NDArray[np.float32]:
    """Inferno from dark purple to yellow, `(256, 3)` in 0..255: lightness rises evenly."""
    from matplotlib import colormaps

    return (colormaps["inferno"](np.linspace(0.25, 0.97, 256))[:, :3] * 255).astype(np.float32)


def overlay(image: NDArray[np.uint8], map: NDArray[np.floating]) -> Pixels:
    """A heatmap over a picture: where the map is 0 the greyed picture stays, where it is 1 the colour nearly covers it.

    `map` may be coarser than the picture (bilinear between cells); values are cut to [0, 1], NaN counts as 0.
    """
    picture = canvas.rgb(image)
    heat = np.clip(np.nan_to_num(np.asarray(map, np.float32), nan=0.0, posinf=1.0, neginf=0.0), 0.0, 1.0)
    assert heat.ndim == 2 and heat.size, f"a map must be (H, W), not {heat.shape}"
    height, width = picture.shape[:2]
    if heat.shape != (height, width):
        heat = np.asarray(Image.fromarray(heat).resize((width, height), Image.Resampling.BILINEAR))
    pixels = picture.astype(np.float32)
    grey = pixels @ np.asarray([0.299, 0.587, 0.114], np.float32)
    base = 0.35 * pixels + 0.65 * grey[..., None]
    colour = _heat_colours()[np.rint(heat * 255).astype(np.intp)]
    cover = (0.82 * heat**0.7)[..., None]
    return np.rint(base * (1 - cover) + colour * cover).clip(0, 255).astype(np.uint8)


def _band(height: int, width: int, box: tuple[int, int, int, int], thickness: int) -> NDArray[np.bool_]:
    """True on the inner edge, `thickness` pixels wide, of a half-open box; parts outside the picture are cut off."""
    x1, y1, x2, y2 = box
    rows, columns = np.ogrid[:height, :width]
    within = (rows >= y1) & (rows < y2) & (columns >= x1) & (columns < x2)
    inside = (
        (rows >= y1 + thickness) & (rows < y2 - thickness) & (columns >= x1 + thickness) & (columns < x2 - thickness)
    )
    return within & ~inside


def draw_boxes(
    image: NDArray[np.uint8], boxes: ArrayLike, colour: Colour, *, thickness: int | None = None, dashed: bool = False
) -> Pixels:
    """The picture with every box drawn along its inner edge, on a dark casing one pixel wide on either side.

    `thickness` is in pixels (default: a hundredth of the longer side, at least 1). Boxes without an area are left out.
    """
    drawn = canvas.rgb(image).copy()
    height, width = drawn.shape[:2]
    line = max(1, round(max(height, width) / 100)) if thickness is None else thickness
    for box in np.asarray(boxes, np.float64).reshape(-1, 4):
        if not np.isfinite(box).all() or box[2] <= box[0] or box[3] <= box[1]:
            continue
        x1, y1, x2, y2 = (int(v) for v in np.rint(box))
        x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
        drawn[_band(height, width, (x1 - 1, y1 - 1, x2 + 1, y2 + 1), line + 2)] = CASING
        edge = _band(height, width, (x1, y1, x2, y2), line)
        if dashed:
            rows, columns = np.ogrid[:height, :width]
            edge &= (rows + columns) // (4 * line) % 2 == 0
        drawn[edge] = colour
    return drawn


def gallery(images: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], titles: Sequence[str], columns: int = 8) -> Pixels:
    """Pictures of any sizes in a grid, each at a readable size with its title below (`"\\n"` breaks the line)."""
    tiles = [canvas.enlarge(canvas.rgb(image))[0] for image in images]
    return canvas.margin(canvas.grid(_titled(tiles, titles), columns)) if tiles else _nothing()


def _nothing() -> Pixels:
    return canvas.margin(canvas.write([Line("No pictures to show.", colour=canvas.FAINT)], 320))


def _titled(tiles: Sequence[Pixels], titles: Sequence[str]) -> list[Pixels]:
    """Put each tile's title below it, all tiles with as much room as the longest title needs."""
    lines = [title.split("\n") for title in titles]
    deepest = max(len(text) for text in lines)
    padded = [[*text, *[""] * (deepest - len(text))] for text in lines]
    return [
        canvas.above(
            [
                tile,
                canvas.write(
                    [Line(line, colour=canvas.FAINT if number else canvas.INK) for number, line in enumerate(text)],
                    tile.shape[1],
                ),
            ]
        )
        for tile, text in zip(tiles, padded, strict=True)
    ]


def heatmap_gallery(
    images: NDArray[np.uint8],
    maps: NDArray[np.floating],
    true_boxes: Sequence[ArrayLike],
    found_boxes: Sequence[ArrayLike],
    titles: Sequence[str],
    columns: int = 6,
) -> Pixels:
    """Each picture with its true boxes, and beside it the heatmap with true and found boxes; a legend on top.

    `images` uint8 `(N, H, W, 3)`, `maps` float `(N, h, w)` in [0, 1], `(n, 4)` boxes a picture (n may be 0).
    """
    tiles = []
    for image, map, true, found in zip(images, maps, true_boxes, found_boxes, strict=True):
        picture, scale = canvas.enlarge(canvas.rgb(image))
        known, ours = (np.asarray(boxes, np.float64).reshape(-1, 4) * scale for boxes in (true, found))
        plain = draw_boxes(picture, known, TRUE_BOX, thickness=2)
        heat = draw_boxes(overlay(picture, map), known, TRUE_BOX, thickness=2)
        tiles.append(canvas.beside([plain, draw_boxes(heat, ours, FOUND_BOX, thickness=2, dashed=True)]))
    if not tiles:
        return _nothing()
    body = canvas.grid(_titled(tiles, titles), columns)
    return canvas.margin(canvas.above([_legend(), body], gap=10))


def _legend() -> Pixels:
    """What the two kinds of box and the colours mean, drawn with the same strokes as in the tiles."""
    swatch = np.full((24, 34, 3), 90, np.uint8)
    ramp = np.tile(np.linspace(0, 1, 120, dtype=np.float32), (16, 1))
    keys = [
        (draw_boxes(swatch, [[3, 3, 31, 21]], TRUE_BOX, thickness=2), "true box"),
        (draw_boxes(swatch, [[3, 3, 31, 21]], FOUND_BOX, thickness=2, dashed=True), "found box"),
        (
            np.pad(overlay(np.full((16, 120, 3), 150, np.uint8), ramp), ((4, 4), (0, 0), (0, 0)), constant_values=255),
            "evidence, low to high",
        ),
    ]
    parts = []
    for picture, words in keys:
        room = round(canvas.font(17).getlength(words)) + 24
        parts.append(canvas.beside([picture, canvas.write([Line(words)], room)[2:]], gap=8))
    return canvas.beside(parts, gap=8)


def mixed_batch(
    images: NDArray[np.uint8], rows_of: Sequence[Sequence[tuple[str, float]]], columns: int = 8, *, most: int = 3
) -> Pixels:
    """A mixed batch with its soft labels: below each picture its shares as a bar and the largest `most` by name."""
    if not len(images):
        return _nothing()
    deepest = max(1, min(most, max(len(rows) for rows in rows_of)))
    tiles = []
    for image, rows in zip(images, rows_of, strict=True):
        picture = canvas.enlarge(canvas.rgb(image))[0]
        ranked = sorted(rows, key=lambda row: -row[1])
        lines = [
            Line(f"{share:.2f}  {name}", colour=canvas.INK, chip=PALETTE[number % len(PALETTE)])
            for number, (name, share) in enumerate(ranked[:deepest])
        ]
        lines += [Line("")] * (deepest - len(lines))
        strip = _share_bar([share for _, share in ranked], picture.shape[1])
        tiles.append(canvas.above([picture, strip, canvas.write(lines, picture.shape[1])], gap=3))
    return canvas.margin(canvas.grid(tiles, columns))


def _share_bar(shares: Sequence[float], width: int, height: int = 10) -> Pixels:
    """A bar as wide as the picture, cut by the shares (what they lack to 1 stays light grey)."""
    bar = np.full((height, width, 3), 225, np.uint8)
    edges = np.rint(np.clip(np.cumsum([0.0, *shares]), 0, 1) * width).astype(int)
    for number, (left, right) in enumerate(pairwise(edges)):
        bar[:, left:right] = PALETTE[number % len(PALETTE)]
    return bar
