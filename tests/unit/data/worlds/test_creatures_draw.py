"""The painter against one that loops over every pixel of every picture in double precision."""

import math

import numpy as np
import pytest

from partwise.data.worlds.creatures_anatomy import Shape
from partwise.data.worlds.creatures_draw import (
    COAT_TEXELS,
    Canvas,
    Finish,
    Layer,
    Light,
    coat_atlas,
    finish,
    ground_atlas,
    paint,
)

SIZE = 32


def random_layer(seed: int, count: int, capsules: int) -> tuple[Layer, Light]:
    rng = np.random.default_rng(seed)
    bones = np.concatenate(
        [rng.uniform(-8, SIZE + 8, (count, capsules, 4)), rng.uniform(0.7, 6, (count, capsules, 2))], axis=2
    )
    used = rng.integers(0, capsules + 1, count)
    for row, number in enumerate(used):
        bones[row, number:] = bones[row, 0]
    layer = Layer(
        owner=np.arange(count),
        shape=Shape(bones, used),
        colour=rng.uniform(0, 1, (count, 3)),
        second=rng.uniform(0, 1, (count, 3)),
        coat=rng.integers(0, 5, count),
        frame=np.concatenate(
            [rng.uniform(-0.05, 0.05, (count, 2, 2)), rng.uniform(-1, 1, (count, 2, 1))], axis=2
        ).reshape(count, 6),
        instance=2,
        part=3,
    )
    turn = rng.uniform(0, math.tau, count)
    light = Light(
        direction=np.stack([np.cos(turn), np.sin(turn)], axis=1),
        amplitude=rng.uniform(0.1, 0.4, count),
        ambient=rng.uniform(0.8, 1, count),
        outline=rng.uniform(0.2, 0.8, count),
    )
    return layer, light


def naive_pixel(layer: Layer, light: Light, n: int, x: float, y: float) -> tuple[float, float, tuple[int, int]]:
    """Cover, brightness and texel of one pixel."""
    distance, lit = math.inf, 0.0
    for ax, ay, bx, by, ra, rb in layer.shape.capsules[n, : layer.shape.count[n]]:
        dx, dy = bx - ax, by - ay
        along = min(1.0, max(0.0, ((x - ax) * dx + (y - ay) * dy) / max(dx * dx + dy * dy, 1e-6)))
        qx, qy, radius = x - ax - along * dx, y - ay - along * dy, ra + along * (rb - ra)
        if math.hypot(qx, qy) - radius < distance:
            distance = math.hypot(qx, qy) - radius
            lit = (qx * light.direction[n, 0] + qy * light.direction[n, 1]) / radius
    cover = min(1.0, max(0.0, 0.5 - distance))
    edge = min(1.0, max(0.0, distance * 64 / SIZE + 1.35))
    brightness = (light.ambient[n] + light.amplitude[n] * lit) * (1 - light.outline[n] * edge)
    f = layer.frame[n]
    u, v = f[0] * x + f[1] * y + f[2], f[3] * x + f[4] * y + f[5]
    return cover, brightness, (math.floor(u * COAT_TEXELS) % COAT_TEXELS, math.floor(v * COAT_TEXELS) % COAT_TEXELS)


@pytest.mark.parametrize(("seed", "coats"), [(0, False), (1, True)])
def test_paint(seed: int, coats: bool) -> None:
    count = 6
    layer, light = random_layer(seed, count, 3)
    if not coats:
        layer.coat[:] = 0
    atlas = coat_atlas().reshape(-1, COAT_TEXELS, COAT_TEXELS)
    before = np.random.default_rng(9).uniform(0, 1, (3, count, SIZE, SIZE)).astype(np.float32)
    maps = np.full((2, count, SIZE, SIZE), 7, dtype=np.uint8)
    canvas = Canvas(before.copy(), maps[0], maps[1])
    paint(canvas, layer, light)
    wrong = painted = 0
    for n, row, column in np.ndindex(count, SIZE, SIZE):
        cover, brightness, (u, v) = (
            naive_pixel(layer, light, n, column + 0.5, row + 0.5) if layer.shape.count[n] else (0.0, 0.0, (0, 0))
        )
        share = atlas[layer.coat[n], v, u]
        colour = brightness * (layer.colour[n] + share * (layer.second[n] - layer.colour[n]))
        expected = before[:, n, row, column] + cover * (colour - before[:, n, row, column])
        painted += cover > 0
        # A texel's edge, or two capsules equally near, may fall either way in single precision.
        wrong += not np.allclose(canvas.pixels[:, n, row, column], expected, atol=2e-3)
        if abs(cover - 0.5) > 1e-3:
            assert tuple(maps[:, n, row, column]) == ((2, 3) if cover >= 0.5 else (7, 7))
    assert painted > 400
    assert wrong <= 0.01 * painted


def test_painting_does_not_depend_on_the_others() -> None:
    layer, light = random_layer(3, 30, 4)
    whole = Canvas(np.zeros((3, 30, SIZE, SIZE), dtype=np.float32), None, None)
    paint(whole, layer, light)
    for n in (0, 13, 29):
        one = Layer(
            np.zeros(1, dtype=np.int64),
            Shape(layer.shape.capsules[n : n + 1], layer.shape.count[n : n + 1]),
            *(values[n : n + 1] for values in (layer.colour, layer.second, layer.coat, layer.frame)),
            instance=1,
            part=1,
        )
        lit = Light(*(v[n : n + 1] for v in (light.direction, light.amplitude, light.ambient, light.outline)))
        alone = Canvas(np.zeros((3, 1, SIZE, SIZE), dtype=np.float32), None, None)
        paint(alone, one, lit)
        assert np.array_equal(alone.pixels[:, 0], whole.pixels[:, n])


def test_finish_exposes_tints_and_clips() -> None:
    pixels = np.full((3, 1, SIZE, SIZE), 0.5, dtype=np.float32)
    settings = Finish(
        gain=np.array([[1.0, 1.2, 4.0]]),
        slope=np.array([[0.4, 0.0]]),
        lift=np.array([0.1]),
        grain=np.zeros(1),
        corner=np.zeros((1, 2), dtype=np.int64),
    )
    found = finish(pixels, settings)
    for column in (0, 20, SIZE - 1):
        shade = 1 + 0.4 * ((column + 0.5) / SIZE - 0.5)
        for channel, gain in enumerate((1.0, 1.2, 4.0)):
            expected = min(255.0, (0.5 * shade * gain + 0.1) * 255)
            assert abs(float(found[0, channel, 5, column]) - expected) <= 0.51


def test_atlases_are_within_bounds_and_not_flat() -> None:
    for atlas in (ground_atlas(32), coat_atlas().reshape(-1, COAT_TEXELS * COAT_TEXELS)[1:]):
        assert atlas.min() >= 0 and atlas.max() <= 1
        assert atlas.reshape(len(atlas), -1).std(axis=1).min() > 0.05
