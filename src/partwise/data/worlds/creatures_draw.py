"""Capsules, grounds and light -> pixels, for many pictures at once.

Every shape is evaluated only in a small square window around it; windows of one size are evaluated together. A pixel's value
depends on its own picture alone and is made of exactly rounded operations only, so a batch equals its items bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache

import numpy as np
from numpy.typing import NDArray

from partwise.data.worlds.creatures_anatomy import Shape
from partwise.data.worlds.creatures_species import COATS
from partwise.data.worlds.draws import Draws, Floats, Ints, keys, noise

Singles = NDArray[np.float32]
Bytes = NDArray[np.uint8]

COAT_TEXELS = 128


@dataclass(frozen=True, slots=True)
class Layer:
    """One shape for each of m owners, painted over what is there.

    `owner` `(m,)` is the position of the picture; `coat` indexes COATS and `frame` leads from pixels to its coordinates;
    `instance` and `part` are what the maps get (0 takes the pixel from whatever it showed).
    """

    owner: Ints
    shape: Shape
    colour: Floats
    second: Floats
    coat: Ints
    frame: Floats
    instance: int
    part: int


@dataclass(frozen=True, slots=True)
class Light:
    """Per picture: the direction to the light `(n, 2)`, shade amplitude, ambient, and the strength of outlines."""

    direction: Floats
    amplitude: Floats
    ambient: Floats
    outline: Floats


@dataclass(slots=True)
class Canvas:
    """What is painted on: `pixels` `(3, n, s, s)` about [0, 1]; `instances` and `parts` `(n, s, s)` where they are wanted."""

    pixels: Singles
    instances: Bytes | None
    parts: Bytes | None


@cache
def coat_atlas() -> Singles:
    """How much of the second colour: `(coats * 128 * 128,)`, each coat periodic over one unit of the creature's frame."""
    side = COAT_TEXELS
    place = (np.arange(side) + 0.5) / side
    u, v = np.broadcast_to(place, (side, side)), np.broadcast_to(place[:, None], (side, side))
    wobble = 0.35 * (noise(side, (5, 3), 11) - 0.5)

    def bands(position: Floats) -> Floats:
        """1 in the middle of a band, 0 between, with soft edges; the period is 1."""
        wave = np.abs(position - np.floor(position) - 0.5) * 4.0 - 1.0
        return np.clip(0.5 + 2.2 * wave, 0.0, 1.0)

    rows = np.floor(v * 4.0)
    across = u * 4.0 + 0.5 * (rows % 2.0)
    cell_x, cell_y = across - np.floor(across) - 0.5, v * 4.0 - rows - 0.5
    spots = np.clip((0.33 - np.sqrt(cell_x * cell_x + cell_y * cell_y)) * 9.0 + 0.5, 0.0, 1.0)
    patches = np.clip((noise(side, (3, 3), 12) * 0.75 + noise(side, (6, 6), 13) * 0.25 - 0.5) * 14.0 + 0.5, 0.0, 1.0)
    coats = {
        "plain": np.zeros((side, side)),
        "striped": bands(u * 4.0 + wobble),
        "spotted": spots,
        "patched": patches,
        "lined": bands(v * 5.0 + 0.4 * wobble),
    }
    return np.stack([coats[name] for name in COATS]).astype(np.float32).reshape(-1)


def _windows(size: int) -> Ints:
    """The sides of the windows that shapes are sorted into."""
    return np.array(sorted({min(size, round(size * share / 64)) for share in (7, 11, 16, 22, 30, 40, 64)}))


@dataclass(frozen=True, slots=True)
class _Windows:
    """Rows of a layer whose windows have one size and whose shapes have one number of capsules."""

    rows: Ints
    left: Ints
    top: Ints
    width: int
    height: int
    capsules: int


def _sorted_windows(shape: Shape, size: int) -> Iterator[_Windows]:
    """The windows of a layer, those of one kind together, in pieces that stay in the second-level cache."""
    capsules, radii = shape.capsules, shape.capsules[:, :, 4:]
    low = np.minimum(capsules[:, :, 0:2] - radii[:, :, :1], capsules[:, :, 2:4] - radii[:, :, 1:]).min(axis=1)
    high = np.maximum(capsules[:, :, 0:2] + radii[:, :, :1], capsules[:, :, 2:4] + radii[:, :, 1:]).max(axis=1)
    # A pixel is touched from half a pixel outside the shape on, and its centre lies half a pixel inside it.
    first = np.clip(np.floor(low - 0.5), 0, size).astype(np.int64)
    last = np.clip(np.ceil(high + 0.5), 0, size).astype(np.int64)
    sides = _windows(size)
    kind = np.searchsorted(sides, last - first)
    visible = ((last - first).min(axis=1) > 0) & (shape.count > 0)
    codes = (kind[:, 0] * 16 + kind[:, 1]) * 16 + shape.count
    for code in np.unique(codes[visible]):
        rows = np.flatnonzero((codes == code) & visible)
        width, height = int(sides[code // 256]), int(sides[code // 16 % 16])
        left, top = np.minimum(first[rows, 0], size - width), np.minimum(first[rows, 1], size - height)
        step = max(1, 12288 // (width * height))
        for start in range(0, len(rows), step):
            piece = slice(start, start + step)
            yield _Windows(rows[piece], left[piece], top[piece], width, height, int(code % 16))


def paint(canvas: Canvas, layer: Layer, light: Light) -> None:
    """Paint one shape into every picture that has it, with coat, roundness and outline."""
    for windows in _sorted_windows(layer.shape, canvas.pixels.shape[-1]):
        _paint_windows(canvas, layer, light, windows)


def _column(values: Floats) -> Singles:
    """One value a window, to broadcast over its pixels."""
    return values.astype(np.float32)[:, None, None]


def _paint_windows(canvas: Canvas, layer: Layer, light: Light, windows: _Windows) -> None:
    size, rows = canvas.pixels.shape[-1], windows.rows
    owner = layer.owner[rows]
    columns = windows.left[:, None, None] + np.arange(windows.width)
    lines = windows.top[:, None, None] + np.arange(windows.height)[:, None]
    xs, ys = (columns + 0.5).astype(np.float32), (lines + 0.5).astype(np.float32)
    distance, lit = _signed_distance(layer.shape.capsules[rows, : windows.capsules], light.direction[owner], xs, ys)
    cover = np.float32(0.5) - distance
    np.minimum(np.maximum(cover, np.float32(0), out=cover), np.float32(1), out=cover)
    lit *= _column(light.amplitude[owner])
    lit += _column(light.ambient[owner])
    lit *= _outline(distance, light.outline[owner], size)
    coat = layer.coat[rows]
    share = _coat(coat, layer.frame[rows], xs, ys) if coat.any() else None

    place = lines * size + columns + (owner * size * size)[:, None, None]
    for channel, pixels in enumerate(canvas.pixels.reshape(3, -1)):
        first = layer.colour[rows, channel]
        if share is None:
            value = lit * _column(first)
        else:
            value = share * _column(layer.second[rows, channel] - first)
            value += _column(first)
            value *= lit
        behind = pixels.take(place)
        value -= behind
        value *= cover
        value += behind
        pixels[place] = value
    if canvas.instances is not None and canvas.parts is not None:
        shown = place[cover >= 0.5]
        canvas.instances.reshape(-1)[shown] = layer.instance
        canvas.parts.reshape(-1)[shown] = layer.part


def _outline(distance: Singles, strength: Floats, size: int) -> Singles:
    """What the line around a shape leaves of its light; overwrites `distance`."""
    distance *= np.float32(64.0 / size)
    distance += np.float32(1.35)
    np.minimum(np.maximum(distance, np.float32(0), out=distance), np.float32(1), out=distance)
    distance *= _column(-strength)
    distance += np.float32(1)
    return distance


def _signed_distance(capsules: Floats, direction: Floats, xs: Singles, ys: Singles) -> tuple[Singles, Singles]:
    """Distance to the union of capsules `(m, k, 6)` in pixels, negative inside, and how much its surface faces the light."""
    ax, ay, bx, by, ra, rb = (capsules[:, :, i] for i in range(6))
    dx, dy = bx - ax, by - ay
    inverse = 1.0 / np.maximum(dx * dx + dy * dy, 1e-6)
    terms = np.stack([ax, ay, dx, dy, dx * inverse, dy * inverse, ra, rb - ra]).astype(np.float32)[..., None, None]
    lx, ly = _column(direction[:, 0]), _column(direction[:, 1])
    best: Singles | None = None
    facing: Singles | None = None
    for k in range(capsules.shape[1]):
        x, y, to_x, to_y, unit_x, unit_y, thick, thicker = terms[:, :, k]
        px, py = xs - x, ys - y
        along = px * unit_x + py * unit_y
        np.minimum(np.maximum(along, np.float32(0), out=along), np.float32(1), out=along)
        qx, qy = along * to_x, along * to_y
        np.subtract(px, qx, out=qx)
        np.subtract(py, qy, out=qy)
        radius = along
        radius *= thicker
        radius += thick
        lit = qx * lx
        shade = qy * ly
        lit += shade
        lit /= radius
        qx *= qx
        qy *= qy
        qx += qy
        distance = np.sqrt(qx, out=qx)
        distance -= radius
        if best is None or facing is None:
            best, facing = distance, lit
        else:
            np.copyto(facing, lit, where=distance < best)
            np.minimum(best, distance, out=best)
    assert best is not None and facing is not None
    return best, facing


def _coat(coat: Ints, frame: Floats, xs: Singles, ys: Singles) -> Singles:
    """The share of the second colour in every pixel of the windows."""
    f = (frame * COAT_TEXELS).astype(np.float32)[:, :, None, None]
    base = (coat * COAT_TEXELS * COAT_TEXELS)[:, None, None].astype(np.int32)
    texel_u = np.floor(xs * f[:, 0] + (ys * f[:, 1] + f[:, 2])).astype(np.int32) & (COAT_TEXELS - 1)
    texel_v = np.floor(xs * f[:, 3] + (ys * f[:, 4] + f[:, 5])).astype(np.int32) & (COAT_TEXELS - 1)
    texel_v *= COAT_TEXELS
    texel_v += texel_u
    texel_v += base
    return coat_atlas().take(texel_v)


@dataclass(frozen=True, slots=True)
class Ground:
    """Per picture: kind of ground, two window corners in its atlas with a mirror each, its two colours and the backdrop.

    Above the horizon (`horizon` + `slope` x + hills, in picture heights) the `sky` shows, darker towards its top.
    """

    kind: Ints
    corner: Ints
    mirror: NDArray[np.bool_]
    dark: Floats
    light: Floats
    horizon: Floats
    slope: Floats
    hills: Floats
    sky: Floats
    shadow: Floats
    """`(n, 3, 5)`: centre x, y, half-widths a, b in pixels and strength of soft shadows on the ground."""


GROUNDS = ("sand", "grass", "snow", "water", "rock", "soil", "moss", "leaves")


@cache
def ground_atlas(size: int) -> Singles:
    """`(kinds, 4 size, 4 size)` in [0, 1], periodic; a picture shows a window of it."""
    side = 4 * size

    def layers(seed: int, *terms: tuple[float, int, int]) -> Floats:
        total = np.zeros((side, side))
        for n, (weight, rows, columns) in enumerate(terms):
            total = total + weight * noise(side, (rows, columns), 100 * seed + n)
        return total

    rows = (np.arange(side) + 0.5)[:, None] / side
    ripple = rows * 36.0 + 1.6 * layers(1, (1.0, 14, 10))
    ripple = np.abs(ripple - np.floor(ripple) - 0.5) * 2.0
    facets = np.floor(layers(5, (0.6, 18, 22), (0.4, 46, 40)) * 7.0) / 6.0
    litter = np.floor(layers(8, (0.6, 44, 40), (0.4, 70, 74)) * 5.0)
    fields = {
        "sand": 0.55 * ripple + layers(21, (0.25, 20, 16), (0.2, 120, 120)),
        "grass": layers(2, (0.5, 34, 110), (0.35, 60, 180), (0.4, 10, 12)),
        "snow": layers(3, (0.8, 14, 12), (0.15, 90, 90)),
        "water": layers(4, (0.6, 70, 18), (0.4, 110, 36), (0.2, 12, 8)),
        "rock": 0.6 * facets + layers(51, (0.3, 18, 18), (0.2, 130, 130)),
        "soil": layers(6, (0.5, 22, 22), (0.35, 64, 64), (0.2, 140, 140)),
        "moss": np.minimum(layers(7, (0.9, 46, 46)) * 1.6, 1.0) * 0.6 + layers(71, (0.4, 14, 14), (0.15, 120, 120)),
        "leaves": litter / 4.0 + layers(81, (0.25, 16, 16)),
    }
    stack = np.stack([fields[name] for name in GROUNDS])
    low, high = stack.min(axis=(1, 2), keepdims=True), stack.max(axis=(1, 2), keepdims=True)
    return ((stack - low) / (high - low)).astype(np.float32)


def _window(atlas: Singles, corner: Ints, mirror: NDArray[np.bool_], size: int) -> Singles:
    """A `(size, size)` view of one ground."""
    y, x = int(corner[0]), int(corner[1])
    view = atlas[y : y + size, x : x + size]
    return view[:, ::-1] if mirror else view


def lay_ground(ground: Ground, size: int) -> Singles:
    """The pictures without anything on them, `(3, n, size, size)`."""
    pixels = np.empty((3, len(ground.kind), size, size), dtype=np.float32)
    step = max(1, 65536 // (size * size))
    for start in range(0, len(ground.kind), step):
        piece = slice(start, start + step)
        _lay_piece(Ground(*(getattr(ground, field.name)[piece] for field in fields(Ground))), pixels[:, piece])
    return pixels


def _lay_piece(ground: Ground, pixels: Singles) -> None:
    """The ground of a few pictures, into `pixels` `(3, n, size, size)`."""
    _, count, size, _ = pixels.shape
    atlas = ground_atlas(size)
    fine = np.empty((count, size, size), dtype=np.float32)
    coarse = np.empty_like(fine)
    for i in range(count):
        kind = atlas[ground.kind[i]]
        fine[i] = _window(kind, ground.corner[i, 0], ground.mirror[i, 0], size)
        coarse[i] = _window(kind, ground.corner[i, 1], ground.mirror[i, 1], size)
    # The product of two windows never repeats itself, although the atlas does.
    fine *= np.float32(0.7)
    coarse *= np.float32(0.3)
    fine += coarse
    ridge = (
        atlas[GROUNDS.index("snow"), ground.corner[:, 0, 0, None], ground.corner[:, 1, 1, None] + np.arange(size)] - 0.5
    )
    across = (np.arange(size) + 0.5) / size

    down = across.astype(np.float32)[None, :, None]
    fine *= _shadows(ground.shadow, size)
    line = ground.horizon[:, None] + ground.slope[:, None] * (across - 0.5) + ground.hills[:, None] * ridge
    above = (line.astype(np.float32)[:, None, :] - down) * np.float32(size) + np.float32(0.5)
    np.minimum(np.maximum(above, np.float32(0), out=above), np.float32(1), out=above)
    fade = np.minimum(np.maximum(down / np.float32(0.5), np.float32(0)), np.float32(1)) * np.float32(0.25) + np.float32(
        0.8
    )
    for channel in range(3):
        dark, light, sky = ground.dark[:, channel], ground.light[:, channel], ground.sky[:, channel]
        value = fine * _column(light - dark)
        value += _column(dark)
        backdrop = fade * _column(sky)
        backdrop = backdrop - value
        backdrop *= above
        np.add(value, backdrop, out=pixels[channel])


def _shadows(shadow: Floats, size: int) -> Singles:
    """What is left of the light on the ground under the creatures, `(n, size, size)`."""
    place = (np.arange(size) + 0.5).astype(np.float32)
    left = np.ones((len(shadow), size, size), dtype=np.float32)
    for k in range(shadow.shape[1]):
        x, y, a, b, strength = (shadow[:, k, i][:, None, None].astype(np.float32) for i in range(5))
        across, down = (place[None, None, :] - x) / a, (place[None, :, None] - y) / b
        inside = np.float32(1) - across * across - down * down
        np.maximum(inside, np.float32(0), out=inside)
        inside *= -strength
        inside += np.float32(1)
        left *= inside
    return left


@cache
def grain_atlas(size: int) -> Singles:
    """Sensor noise with mean 0 in [-1, 1], `(2 size + 64, 2 size + 64)`."""
    side = 2 * size + 64
    draws = Draws(keys(991, np.arange(side * side)))
    return (draws.unit() + draws.unit() - 1.0).reshape(side, side).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Finish:
    """Per picture: a gain for each channel `(n, 3)`, a slope of light `(n, 2)`, a lift, and the strength of the grain."""

    gain: Floats
    slope: Floats
    lift: Floats
    grain: Floats
    corner: Ints


def finish(pixels: Singles, settings: Finish) -> Bytes:
    """Exposure, tint, a slope of light and grain; `(3, n, s, s)` -> eight bits `(n, 3, s, s)`."""
    _, count, size, _ = pixels.shape
    place = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    across, down = (
        settings.slope[:, 0, None].astype(np.float32) * place,
        settings.slope[:, 1, None].astype(np.float32) * place,
    )
    gain, lift = (settings.gain * 255.0).astype(np.float32), (settings.lift * 255.0 + 0.5).astype(np.float32)
    strength = (settings.grain * 255.0).astype(np.float32)
    atlas = grain_atlas(size)
    result = np.empty((count, 3, size, size), dtype=np.uint8)
    for i in range(count):
        y, x = settings.corner[i]
        grain = atlas[y : y + size, x : x + size] * strength[i] + lift[i]
        shade = across[i] + (down[i][:, None] + np.float32(1))
        value = pixels[:, i] * shade
        value *= gain[i][:, None, None]
        value += grain
        np.minimum(np.maximum(value, np.float32(0), out=value), np.float32(255), out=value)
        result[i] = value
    return result
