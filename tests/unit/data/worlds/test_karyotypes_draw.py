"""The painter of the karyotypes against loops over pixels, and what a chromosome is made of."""

from __future__ import annotations

import math

import numpy as np
import pytest

from partwise.data.worlds import karyotypes_draw
from partwise.data.worlds.draws import Draws, keys
from partwise.data.worlds.ideogram import bands_400
from partwise.data.worlds.karyotypes_axis import FULL_BEND, RAMP, STEEPEST, Bend, draw_bends, lay_axes
from partwise.data.worlds.karyotypes_body import DARKNESS, draw_looks, draw_stripes, pattern
from partwise.data.worlds.karyotypes_draw import (
    EDGE,
    PER_PIXEL,
    _averaged,
    _blurred,
    _spread,
    develop,
    make_tables,
    paint,
)
from partwise.data.worlds.karyotypes_scene import AT_EDGE, BESIDE, Bodies, draw_bodies
from partwise.ops.iscn import TYPES

SIZE = 64


def bodies_of(count: int, seed: int = 0, size: int = SIZE) -> list[Bodies]:
    """Chromosomes of all types in turn, two of a type after each other, 48 a cell."""
    place = np.arange(count)
    kinds = place // 2 % 24
    cells = keys(seed, 1, place // 48)
    return draw_bodies(keys(seed, 2, place), cells, keys(seed, 3, place // 96), kinds, size)[0]


# -- along the axis ----------------------------------------------------------------------------------------------------


def test_spread_is_the_mean_over_each_sample() -> None:
    rng = np.random.default_rng(0)
    edges = np.concatenate([np.zeros((3, 1)), rng.uniform(0.1, 3.0, (3, 6)).cumsum(axis=1)], axis=1)
    values = rng.uniform(0, 200, (3, 6))
    margin, samples = 2.0, 100
    found = _spread(edges, values, margin, samples)
    fine = 400
    for row in range(3):
        for sample in range(samples):
            total = 0.0
            for part in range(fine):
                s = (sample + (part + 0.5) / fine) / PER_PIXEL - margin
                band = sum(s >= edge for edge in edges[row, 1:-1])
                total += values[row, band]
            assert found[row, sample] == pytest.approx(total / fine, abs=1.0)


def test_averaged_is_the_integral_over_a_box() -> None:
    values = np.random.default_rng(1).uniform(0, 1, (2, 96))
    half = np.array([1.7, 3.25])
    found = _averaged(values, half)
    fine = 200
    for row in range(2):
        for sample in (0, 1, 40, 41, 94, 95):
            points = sample + 0.5 - half[row] + (np.arange(2 * fine) + 0.5) * half[row] / fine
            seen = [values[row, min(max(math.floor(point), 0), 95)] for point in points]
            assert found[row, sample] == pytest.approx(np.mean(seen), abs=0.01)


def test_blur_has_its_standard_deviation() -> None:
    spike = np.zeros((2, 200))
    spike[:, 100] = 1.0
    blur = np.array([0.6, 1.1])
    found = _blurred(spike, blur).astype(np.float64)
    place = (np.arange(200) - 100) / PER_PIXEL
    assert found.sum(axis=1) == pytest.approx([1.0, 1.0], abs=1e-5)
    spread = np.sqrt((found * place * place).sum(axis=1))
    # The samples' own width is there as well.
    assert spread == pytest.approx(blur, abs=0.04)


def test_what_is_summed_does_not_depend_on_the_batch() -> None:
    values = np.random.default_rng(2).uniform(0, 200, (40, 292))
    half = np.linspace(2.0, 8.0, 40)
    whole = _averaged(values, half)
    for row in range(40):
        assert np.array_equal(_averaged(values[row : row + 1], half[row : row + 1])[0], whole[row])


# -- the axis ----------------------------------------------------------------------------------------------------------


def naive_axis(bend: Bend, row: int, long: float) -> list[tuple[float, float, float]]:
    """(x, y, along) in steps of a fiftieth of a pixel of height, from the middle outwards."""

    def angle(y: float) -> float:
        v = min(max(2 * y / long, -1.1), 1.1)
        t = min(max((v - bend.turning[row]) / RAMP, -1.0), 1.0)
        turn = 1.5 * t - 0.5 * t**3
        return min(max(bend.tilt[row] + bend.arc[row] * v + bend.kink[row] * turn, -STEEPEST), STEEPEST)

    found, step = [], 0.02
    for sign in (1, -1):
        x = y = 0.0
        along = long / 2
        while abs(y) < SIZE / 2:
            found.append((x, y, along))
            slope = math.tan(angle(y + sign * step / 2))
            x, y, along = x + sign * step * slope, y + sign * step, along + sign * step * math.hypot(1, slope)
    return sorted(found, key=lambda point: point[1])


def bends(count: int) -> Bend:
    draws = Draws(keys(5, np.arange(count)))
    return draw_bends(draws, np.ones(count), draws.uniform(-0.6, 0.2))


def test_rows_follow_the_axis() -> None:
    bend, long = bends(12), np.full(12, 34.0)
    rows = lay_axes(bend, np.zeros(12), long, SIZE)
    for row in range(12):
        points = np.array(naive_axis(bend, row, 34.0))
        for line in (10, 20, 31, 32, 45, 55):
            y = line + 0.5 - SIZE / 2 + bend.offset[row]
            nearest = points[np.abs(points[:, 1] - y).argmin()]
            assert rows.x[row, line] == pytest.approx(nearest[0], abs=0.06)
            assert rows.along[row, line] == pytest.approx(nearest[2], abs=0.06)
            assert rows.cos[row, line] ** 2 + rows.sin[row, line] ** 2 == pytest.approx(1.0)


def test_bends_reach_sixty_degrees_and_no_further() -> None:
    count = 4000
    bend = bends(count)
    ends = [bend.arc * v + bend.kink * np.clip((v - bend.turning) / RAMP, -1, 1) for v in (-1.0, 1.0)]
    between = np.abs(ends[1] - ends[0])
    assert math.isclose(math.degrees(FULL_BEND), 60, abs_tol=0.5)
    assert 0.9 * FULL_BEND < between.max() <= FULL_BEND
    assert np.median(between) < 0.6 * FULL_BEND


# -- pixels ------------------------------------------------------------------------------------------------------------


def smooth(t: float) -> float:
    t = min(max(t, 0.0), 1.0)
    return 3 * t * t - 2 * t**3


def naive_darkness(body: Bodies, row: int, points: np.ndarray, x: float, y: float) -> float:
    """The darkness of a pixel from its distance to the nearest point of the axis, in double precision."""
    tables = make_tables(body, SIZE)
    nearest = points[((points[:, 0] - x) ** 2 + (points[:, 1] - y) ** 2).argmin()]
    sin = np.interp(nearest[1], np.arange(SIZE) + 0.5 - SIZE / 2, body.rows.sin[row])
    sign = 1.0 if (x - nearest[0]) * math.sqrt(1 - sin * sin) - (y - nearest[1]) * sin > 0 else -1.0
    across = sign * math.hypot(x - nearest[0], y - nearest[1])
    along = nearest[2] + body.slant[row] * across
    place = (along + 3 * SIZE / 64) * PER_PIXEL - 0.5
    grid = np.arange(tables.ink.shape[1])
    ink, half, gap = (float(np.interp(place, grid, t[row])) for t in (tables.ink, tables.half, tables.gap))
    blur = body.look.blur[row]
    reach = 0.34 * body.look.half[row] + 1.3 * blur
    between = max(0.0, 1 - (across / reach) ** 2) ** 2
    return ink * smooth((half - abs(across)) / (EDGE * blur) + 0.5) * (1 - gap * between)


def test_pixels_against_distances_to_the_axis() -> None:
    main = bodies_of(48)[0]
    canvas = np.zeros((48, SIZE, SIZE), dtype=np.float32)
    paint(canvas, main)
    rng, errors = np.random.default_rng(3), []
    for row in (0, 3, 8, 20, 26, 40, 44):
        # A polyline through the rows: what the painter is given, without its expansion to second order.
        fine = np.linspace(0, SIZE - 1, 3200)
        line = np.arange(SIZE)
        x = np.interp(fine, line, main.rows.x[row])
        along = np.interp(fine, line, main.rows.along[row])
        points = np.stack([x, fine + 0.5 - SIZE / 2, along], axis=1)
        top, bottom, left, right = main.bounds[row]
        for _ in range(40):
            i, j = int(rng.integers(top, bottom)), int(rng.integers(left, right))
            at = (j + 0.5 - main.right[row], i + 0.5 - SIZE / 2 - main.down[row])
            errors.append(canvas[row, i, j] - naive_darkness(main, row, points, *at))
    assert np.abs(errors).mean() < 1.5
    assert np.abs(errors).max() < 16


def test_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    layers = bodies_of(192)
    seen = np.zeros((192, SIZE, SIZE), dtype=np.float32)
    for layer in layers:
        paint(seen, layer)
    monkeypatch.setattr(karyotypes_draw, "WINDOWS", (64,))
    whole = np.zeros_like(seen)
    for layer in layers:
        paint(whole, layer)
    assert np.abs(seen - whole).max() < 0.5
    assert seen.max() <= 255 and seen.min() >= 0


def test_pieces_lie_beside_and_at_the_edge() -> None:
    count = 4800
    main, *pieces = bodies_of(count)
    assert len(pieces) == 2
    assert len(pieces[0].owner) / count == pytest.approx(BESIDE, abs=0.015)
    assert len(pieces[1].owner) / count == pytest.approx(AT_EDGE, abs=0.01)
    beside = pieces[0]
    long = beside.last - beside.first
    assert (long <= 0.5 * main.stripes.length[beside.owner] + 1e-9).all() and (beside.first >= 0).all()
    bounds, own = beside.bounds, main.bounds[beside.owner]
    meet = np.minimum(bounds[:, 1::2], own[:, 1::2]) - np.maximum(bounds[:, ::2], own[:, ::2])
    assert (meet > 0).all(), "their boxes overlap"


def test_pictures_are_centred_and_inside() -> None:
    main = bodies_of(2400)[0]
    middle = 0.5 * (main.bounds[:, ::2] + main.bounds[:, 1::2])
    assert np.abs(middle - SIZE / 2).max() <= 1.5
    assert (main.bounds[:, 0] > 0).mean() > 0.99


def test_the_ground_stays_white() -> None:
    canvas = np.zeros((4, SIZE, SIZE), dtype=np.float32)
    canvas[:, 20:40, 20:40] = 150
    look = draw_looks(keys(0, np.arange(4)), SIZE)
    seen = develop(canvas, look, keys(1, np.arange(4)))
    outside = np.ones((SIZE, SIZE), dtype=bool)
    outside[20:40, 20:40] = False
    assert (seen[:, 0, outside] == 255).all()
    inside = seen[:, 0, 20:40, 20:40].astype(float)
    assert np.abs(inside.mean(axis=(1, 2)) - 105).max() < 12
    assert (inside.std(axis=(1, 2)) > look.grain * 0.8).all()


# -- what a chromosome is made of --------------------------------------------------------------------------------------


def test_the_pattern_against_loops_over_the_tables() -> None:
    table = pattern()
    for place, kind in enumerate(TYPES):
        bands = bands_400()[kind]
        assert table.widths[place, : len(bands)].tolist() == [band.end - band.start for band in bands]
        assert not table.widths[place, len(bands) :].any()
        assert table.widths[place, : table.short[place]].sum() == next(b.start for b in bands if b.arm == "q")
    first = bands_400()["1"].index(next(band for band in bands_400()["1"] if band.name == "p36.2"))
    # p36.2 is printed gpos100; it is p36.23 gpos25, p36.22 gneg and p36.21 gpos50, of 2.0, 3.4 and 3.4 Mb.
    weighed = (2.0 * DARKNESS["gpos25"] + 3.4 * DARKNESS["gneg"] + 3.4 * DARKNESS["gpos50"]) / 8.8
    assert table.darkness[0, first] == pytest.approx(0.5 * (DARKNESS["gpos100"] + weighed))


def stripes_of(kind: str, count: int, persons: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Edges of bands as shares of the length, lengths and centromeres of chromosomes of one type."""
    look = draw_looks(keys(9, np.arange(count)), SIZE)
    kinds = np.full(count, TYPES.index(kind))
    found = draw_stripes(Draws(keys(10, np.arange(count))), kinds, keys(11, persons), look, SIZE)
    return found.edges / found.length[:, None], found.length / look.contraction, found.centromere / found.length


def test_centromeres_and_boundaries_lie_where_the_ideogram_has_them() -> None:
    for kind in ("1", "2", "4", "11", "18", "19", "X"):
        edges, _, middle = stripes_of(kind, 2000, np.arange(2000))
        bands = bands_400()[kind]
        ends = np.array([band.end for band in bands]) / bands[-1].end
        assert middle.mean() == pytest.approx(next(b.start for b in bands if b.arm == "q") / bands[-1].end, abs=0.015)
        assert np.abs(edges[:, 1 : len(bands)].mean(axis=0) - ends[:-1]).max() < 0.02
        assert 0.01 < edges[:, 1 : len(bands)].std(axis=0).mean() < 0.04
        assert (np.diff(edges, axis=1) >= 0).all()


def test_lengths_vary_by_five_to_nine_percent() -> None:
    _, long, _ = stripes_of("5", 4000, np.zeros(4000, dtype=np.int64))
    assert 0.05 < long.std() / long.mean() < 0.09


def test_homologues_share_what_differs_between_people() -> None:
    """q12 of chromosome 1 and the short arm of 15 vary within one person only as any band does."""
    count = 3000
    for kind, column in (("1", "q12"), ("15", "p13"), ("Y", "q12")):
        place = [band.name for band in bands_400()[kind]].index(column)
        alone = np.diff(stripes_of(kind, count, np.zeros(count, dtype=np.int64))[0], axis=1)[:, place]
        people = np.diff(stripes_of(kind, count, np.arange(count))[0], axis=1)[:, place]
        assert people.std() / people.mean() > 1.6 * alone.std() / alone.mean(), kind


def test_waist_stalk_and_gap() -> None:
    main = bodies_of(4800)[0]
    kinds = np.arange(4800) // 2 % 24
    tables = make_tables(main, SIZE)
    margin = 3 * SIZE / 64

    def half_at(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
        sample = ((place + margin) * PER_PIXEL).astype(int)
        return tables.half[rows, sample] / main.look.half[rows]

    one = np.flatnonzero(kinds == TYPES.index("1"))
    centre, long = main.stripes.centromere[one], main.stripes.length[one]
    assert 0.5 < half_at(one, centre).mean() < 0.75
    assert half_at(one, 0.25 * long).mean() == pytest.approx(1.0, abs=0.1)
    sample = ((centre + margin) * PER_PIXEL).astype(int)
    assert (tables.gap[one, sample] == 0).all(), "chromatids are joined at the centromere"
    acrocentric = np.flatnonzero(kinds == TYPES.index("14"))
    arm = main.stripes.centromere[acrocentric]
    assert half_at(acrocentric, 0.4 * arm).mean() < 0.75 * half_at(acrocentric, 2.5 * arm).mean()
