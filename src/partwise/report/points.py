"""Points on pictures, and points alone: landmarks that were found, and maps of embeddings.

Pure functions on arrays, as in `figures.py`. Pictures are uint8 `(H, W, 3)` RGB; points are `(n, 2)` x, y.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from partwise.report import canvas
from partwise.report.canvas import Colour, Pixels
from partwise.report.masks import class_colours, mask_legend

CASING: Colour = (12, 14, 18)
SMOOTH = 4
"""Drawn so many times too large and made smaller: PIL's circles have steps."""


def draw_points(
    image: NDArray[np.uint8], points: ArrayLike, colours: Sequence[Colour], *, away: ArrayLike | None = None
) -> Pixels:
    """The picture with a dot at every point, in pixels; `away`: a line from each dot to its point there, in a ring.

    Points that are not finite are left out, and with them their line.
    """
    picture = canvas.rgb(image)
    height, width = picture.shape[:2]
    large = Image.fromarray(picture).resize((width * SMOOTH, height * SMOOTH), Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(large)
    radius = max(1.6, max(height, width) / 70) * SMOOTH
    dots = np.asarray(points, np.float64).reshape(-1, 2) * SMOOTH
    ends = np.full_like(dots, np.nan) if away is None else np.asarray(away, np.float64).reshape(-1, 2) * SMOOTH
    shown = [place for place in range(len(dots)) if np.isfinite(dots[place]).all()]
    linked = [place for place in shown if np.isfinite(ends[place]).all()]
    for place in linked:
        pen.line([*dots[place], *ends[place]], fill=colours[place % len(colours)], width=max(2, round(radius / 3)))
    for place in linked:
        _circle(pen, ends[place], radius + SMOOTH / 2, outline=CASING, width=round(radius / 2 + SMOOTH))
        _circle(pen, ends[place], radius, outline=colours[place % len(colours)], width=round(radius / 2))
    for place in shown:
        _circle(pen, dots[place], radius, fill=CASING)
        _circle(pen, dots[place], radius - SMOOTH / 2, fill=colours[place % len(colours)])
    return np.asarray(large.resize((width, height), Image.Resampling.BOX))


def _circle(
    pen: ImageDraw.ImageDraw,
    centre: NDArray[np.float64],
    radius: float,
    *,
    fill: Colour | None = None,
    outline: Colour | None = None,
    width: int = 1,
) -> None:
    x, y = centre.tolist()
    pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill, outline=outline, width=width)


def scatter(groups: Mapping[str, ArrayLike], *, side: int = 560, colours: Sequence[Colour] | None = None) -> Pixels:
    """Points of several groups on one square plane, each group in a colour, with a legend below; axes mean nothing.

    The plane shows all finite points with one scale for both directions. A legend of more than 40 groups is left out.
    """
    chosen = class_colours(len(groups)) if colours is None else list(colours)
    each = [np.asarray(points, np.float64).reshape(-1, 2) for points in groups.values()]
    each = [points[np.isfinite(points).all(axis=1)] for points in each]
    every = np.concatenate(each) if each else np.zeros((0, 2))
    if not len(every):
        return canvas.margin(canvas.write([canvas.Line("No points to show.", colour=canvas.FAINT)], 320))
    low, high = every.min(axis=0), every.max(axis=0)
    reach = max(float((high - low).max()), 1e-12)
    plane = Image.new("RGB", (side * SMOOTH, side * SMOOTH), canvas.WHITE)
    pen = ImageDraw.Draw(plane)
    edge, radius = 0.04, (2.0 if len(every) > 600 else 3.0) * SMOOTH
    labels = np.concatenate([np.full(len(points), number) for number, points in enumerate(each)])
    # One group after the other would bury the first below the last.
    for place in np.random.default_rng(0).permutation(len(every)):
        where = (every[place] - (low + high) / 2) / reach * (1 - 2 * edge) + 0.5
        _circle(pen, where * side * SMOOTH, radius, fill=chosen[int(labels[place]) % len(chosen)])
    picture = np.asarray(plane.resize((side, side), Image.Resampling.BOX))
    if 1 < len(groups) <= 40:
        named = {name: chosen[number % len(chosen)] for number, name in enumerate(groups)}
        picture = canvas.above([picture, mask_legend(named, side)], gap=8)
    return canvas.margin(picture)
