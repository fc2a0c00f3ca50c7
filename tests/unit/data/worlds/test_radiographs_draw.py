"""The painters of the radiographs against loops over pixels in double precision."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import numpy as np
import pytest

from partwise.data.worlds import radiographs_anatomy as anatomy
from partwise.data.worlds import radiographs_draw, radiographs_film
from partwise.data.worlds.draws import Draws, keys
from partwise.data.worlds.radiographs_anatomy import FINDINGS, FRONT_PAIRS, OUTWARD, PAIRS
from partwise.data.worlds.radiographs_draw import AIR, absorb, paint, part_of
from partwise.data.worlds.radiographs_film import HAZE, LEFT_MARKER, NO_MARKER, RIGHT_MARKER, Look, develop
from partwise.data.worlds.radiographs_marks import Marks, ribs
from partwise.data.worlds.radiographs_outline import Pose, lay, outline
from partwise.data.worlds.radiographs_scene import Scene, draw_scene

SIZE = 64


def scene_of(count: int, *, seed: int = 0, size: int = SIZE) -> Scene:
    """Chests with all findings in turn."""
    place = np.arange(count)
    return draw_scene(keys(seed, 1, place), keys(seed, 2, place), place % len(FINDINGS), size)


def in_chest(pose: Pose, n: int, x: float, y: float) -> tuple[float, float]:
    """A place of picture n in the chest's frame, by undoing the pose step by step."""
    across = (x / pose.size - 0.5 - pose.shift[n, 0]) / pose.scale[n]
    down = (y / pose.size - 0.5 - pose.shift[n, 1]) / pose.scale[n]
    return pose.cos[n] * across + pose.sin[n] * down, -pose.sin[n] * across + pose.cos[n] * down


def test_poses_there_and_back() -> None:
    pose = scene_of(5).pose
    points = np.random.default_rng(0).uniform(-0.5, 0.5, (5, 7, 2))
    pixels = pose.points(points)
    for n in range(5):
        for k in range(7):
            assert in_chest(pose, n, *pixels[n, k]) == pytest.approx(points[n, k])
    for row, part in zip(pose.back(), points.transpose(2, 0, 1), strict=True):
        found = pixels @ row[:, :2, None] + row[:, None, 2:]
        assert np.allclose(found[..., 0], part)


def test_lay_interpolates_between_points() -> None:
    rng = np.random.default_rng(1)
    at = np.sort(rng.uniform(2, 30, (3, 9)), axis=1)
    value = rng.uniform(0, 32, (3, 9))
    points = np.stack([value, at], axis=-1)
    found = lay(points, 1, 32)
    turned = lay(points[..., ::-1], 0, 32)
    middle = np.arange(32) + 0.5
    for n in range(3):
        assert np.allclose(found.place[n], np.interp(middle, at[n], value[n]))
    assert np.array_equal(found.place, turned.place)
    line = np.stack([np.linspace(0, 48, 9), np.linspace(0, 32, 9)], axis=-1)[None]
    assert np.allclose(lay(line, 1, 32).cos, 1 / math.hypot(1, 1.5))


# -- organs ------------------------------------------------------------------------------------------------------------


def slope(edge: object, at: float) -> float:
    """The derivative of a function of one number."""
    assert callable(edge)
    return (edge(at + 1e-4) - edge(at - 1e-4)) / 2e-4


def naive_distances(scene: Scene, n: int, x: float, y: float) -> dict[str, float]:
    """Distances into lung and heart and to their edges in the chest's frame, from the outlines as functions."""
    body = part_of(scene.body, slice(n, n + 1))
    side = int(x >= 0)
    out = OUTWARD[side] * x

    def one(function: object) -> object:
        assert callable(function)
        return lambda at: float(function(body, side, np.array([[at]]))[0, 0])

    def plain(function: object) -> object:
        assert callable(function)
        return lambda at: float(function(body, np.array([[at]]))[0, 0])

    def straight(edge: object, at: float, away: float) -> float:
        return away / math.hypot(1.0, slope(edge, at))

    wall, inner, dome = one(anatomy.wall), one(anatomy.inner), one(anatomy.dome)
    right, left, bottom = (plain(f) for f in (anatomy.heart_right, anatomy.heart_left, anatomy.heart_bottom))
    found = {
        "lateral": straight(wall, y, wall(y) - out),
        "medial": straight(inner, y, out - inner(y)),
        "dome": straight(dome, out, dome(out) - y),
        "top": y - float(body.top[0]),
        "fluid": y - float(one(anatomy.fluid_level)(out)),
    }
    found["heart"] = min(
        straight(right, y, x - right(y)),
        straight(left, y, left(y) - x),
        straight(bottom, x, bottom(x) - y),
        y - float(body.heart[0, 2]),
    )
    found["lung"] = min(found["lateral"], found["medial"], found["dome"], found["top"])
    return found


def absorbed_of(scene: Scene) -> tuple[np.ndarray, radiographs_draw.Regions]:
    return absorb(scene.body, scene.outlines, scene.look, scene.pose.scale * scene.size, scene.size)


def bare(look: Look) -> Look:
    """A film on which neither bones nor vessels show."""
    nothing = np.zeros(len(look.rib))
    return replace(
        look, **{name: nothing for name in ("rib", "clavicle", "spine", "vessel", "texture")}
    )  # fmt: skip


def test_lungs_and_heart_are_where_their_outlines_say() -> None:
    scene = scene_of(8, size=128)
    _, regions = absorbed_of(scene)
    rng = np.random.default_rng(2)
    wrong = 0
    for _ in range(400):
        n, i, j = int(rng.integers(8)), int(rng.integers(128)), int(rng.integers(128))
        wanted = naive_distances(scene, n, *in_chest(scene.pose, n, j + 0.5, i + 0.5))
        unit = scene.pose.scale[n] * 128
        for name in ("lung", "heart"):
            found = float(getattr(regions, name)[n, i, j])
            if abs(wanted[name] * unit) > 0.7:
                wrong += (found > 0) != (wanted[name] > 0)
    assert wrong <= 2


def naive_tissue(scene: Scene, n: int, x: float, y: float) -> float:
    """What the bare body absorbs at a place in the chest's frame."""
    body, look, unit = part_of(scene.body, slice(n, n + 1)), scene.look, scene.pose.scale[n] * scene.size
    d = naive_distances(scene, n, x, y)

    def clip(value: float) -> float:
        return min(1.0, max(0.0, value))

    def ball(value: float) -> float:
        return math.sqrt(clip(value) * (2 - clip(value)))

    def bowl(value: float) -> float:
        return clip(value) * (2 - clip(value))

    air = ball(d["lateral"] / 0.11) * (0.55 + 0.45 * bowl(d["medial"] / 0.05)) * (0.5 + 0.5 * bowl(d["dome"] / 0.06))
    air *= clip(d["lung"] * unit + 0.5) * (1 - look.heart[n] * clip(d["heart"] / 0.012 + 0.5))
    air *= (1 - 0.93 * clip(d["fluid"] / 0.03 + 0.5)) * (0.72 + 0.28 * clip(d["top"] / 0.25))
    chest, waist, armpit = body.trunk[0]
    half = chest + (waist - chest) * min(1.2, max(0.0, (y - armpit) / (0.5 - armpit)))
    half += max(0.0, armpit - y) * (0.15 + 2 * max(0.0, armpit - y))
    flesh = math.sqrt(max(0.0, 1 - (x / half) ** 2)) * (0.6 + 0.4 * clip(d["top"] / 0.3 + 0.25))
    flesh *= ball((y - float(anatomy.skin(body.shoulder, np.array([[abs(x)]]))[0, 0])) / 0.07)
    return float(body.depth[0]) * (flesh - AIR * air)


def test_flesh_and_air_against_loops() -> None:
    """Of chests that stand straight: of leaning ones a row is taken for a level, which is nearly right."""
    scene = scene_of(8, size=128)
    pose = replace(scene.pose, cos=np.ones(8), sin=np.zeros(8))
    scene = replace(scene, look=bare(scene.look), pose=pose, outlines=outline(scene.body, pose))
    tissue, _ = absorbed_of(scene)
    rng, errors = np.random.default_rng(3), []
    while len(errors) < 400:
        n, i, j = int(rng.integers(8)), int(rng.integers(128)), int(rng.integers(128))
        x, y = in_chest(scene.pose, n, j + 0.5, i + 0.5)
        if abs(x) > 0.06:  # beside the trachea
            errors.append(tissue[n, i, j] - naive_tissue(scene, n, x, y))
    assert np.abs(errors).mean() < 0.0008
    assert np.quantile(np.abs(errors), 0.97) < 0.01


def test_vessels_and_bones_add_what_they_are() -> None:
    scene = scene_of(4)
    plain = absorbed_of(replace(scene, look=bare(scene.look)))[0]
    for name, least in (("vessel", 0.02), ("spine", 0.03), ("clavicle", 0.05), ("rib", 0.02)):
        own = replace(bare(scene.look), **{name: getattr(scene.look, name)})
        more = absorbed_of(replace(scene, look=own))[0] - plain
        assert more.min() > -1e-5 and (more.max(axis=(1, 2)) > least).all(), name
        assert (more > 1e-6).mean() < 0.5, name


def test_spine_and_clavicles_stay_in_their_windows() -> None:
    scene = scene_of(3000)
    across = scene.outlines.spine.place
    reach = 1.1 * scene.body.spine[:, 0] * scene.pose.scale * SIZE
    low, high = (int(share * SIZE) for share in radiographs_draw.SPINE_COLUMNS)
    assert (across - reach[:, None]).min() > low and (across + reach[:, None]).max() < high
    lowest = (scene.outlines.clavicle.place + scene.outlines.clavicle_half)[scene.outlines.clavicle_half > 0].max()
    assert lowest + 1 < int(radiographs_draw.CLAVICLE_ROWS * SIZE)


# -- marks -------------------------------------------------------------------------------------------------------------


def naive_mark(marks: Marks, m: int, x: float, y: float) -> float:
    """What mark m adds to a pixel."""

    def of(terms: np.ndarray) -> float:
        return float(terms[0] * x + terms[1] * y + terms[2])

    u, v = of(marks.u[m]), of(marks.v[m])
    if marks.half[m] > 0:
        v = max(v, 0.0)
        du, dv = marks.u[m], marks.v[m]
        gradient = math.hypot(2 * (u * du[0] + v * dv[0]), 2 * (u * du[1] + v * dv[1]))
        distance = abs(u * u + v * v - 1) / max(gradient, 2e-3)
        distance = max(distance, (u - 1) / math.hypot(du[0], du[1]))
        share = min(1.0, distance / marks.half[m])
        value = min(1.0, max(0.0, marks.half[m] - distance + 0.5)) * (0.7 + 0.5 * share * share)
    else:
        value = min(1.0, max(0.0, marks.edge[m] * (1 - u * u - v * v)))
    for k in (0, 1):
        value *= min(1.0, max(0.0, of(marks.cuts[m, k])))
    return float(value * marks.strength[m])


@pytest.mark.parametrize("kind", ["shadows", "ribs", "nodules"])
def test_marks_against_loops(kind: str) -> None:
    scene = scene_of(8)
    marks = getattr(scene, kind)
    canvas = np.zeros((8, SIZE, SIZE), dtype=np.float32)
    shown = np.zeros((8, SIZE, SIZE), dtype=bool)
    paint(canvas, marks, shown)
    rng = np.random.default_rng(4)
    for _ in range(150):
        n = int(rng.choice(marks.owner))
        i, j = int(rng.integers(SIZE)), int(rng.integers(SIZE))
        wanted = sum(naive_mark(marks, m, j + 0.5, i + 0.5) for m in np.flatnonzero(marks.owner == n))
        assert canvas[n, i, j] == pytest.approx(wanted, abs=2e-5)
    assert shown.any() and (np.abs(canvas[shown]) > 0).mean() > 0.95


def test_ribs_run_from_heads_to_bends_to_tips() -> None:
    """The middle of each stroke is the curve of its definition, and the distance to it is right near the stroke."""
    scene = scene_of(2, size=256)
    marks = ribs(scene.body, scene.pose, np.ones(2))
    heads, bends, tips = anatomy.rib_points(scene.body)
    for n, side, k, rear in ((0, 0, 4, True), (1, 1, 8, True), (0, 1, 2, False), (1, 0, 5, False)):
        pairs = PAIRS if rear else FRONT_PAIRS
        m = (0 if rear else 2 * 2 * PAIRS) + (n * 2 + side) * pairs + k
        assert marks.owner[m] == n
        near, bend = (heads if rear else tips)[n, side, k], bends[n, side, k]
        share = np.linspace(0, 1, 400)
        fall = 0.45 * share + 0.55 * (1 - np.sqrt(1 - share**2))
        curve = np.stack([near[0] + (bend[0] - near[0]) * share, near[1] + (bend[1] - near[1]) * fall], axis=1)
        pixels = scene.pose.points((curve * [OUTWARD[side], 1.0])[None].repeat(2, axis=0))[n]
        u, v = (pixels @ terms[m, :2] + terms[m, 2] for terms in (marks.u, marks.v))
        assert np.allclose(u * u + v * v, 1, atol=1e-9)
        canvas = np.zeros((2, 256, 256), dtype=np.float32)
        paint(canvas, marks.taken(np.array([m])))
        drawn = np.argwhere(canvas[n] > 0.45)
        away = np.sqrt(((drawn[:, None, ::-1] + 0.5 - pixels[None]) ** 2).sum(-1)).min(axis=1)
        assert len(drawn) > 100 and away.max() < marks.half[m] + 1


def test_windows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = scene_of(40)

    def painted() -> np.ndarray:
        canvas = np.zeros((40, SIZE, SIZE), dtype=np.float32)
        for marks in (scene.shadows, scene.ribs, scene.nodules):
            paint(canvas, marks)
        return canvas

    seen = painted()
    monkeypatch.setattr(radiographs_draw, "WINDOWS", (64,))
    assert np.abs(painted() - seen).max() < 1e-5


# -- film --------------------------------------------------------------------------------------------------------------


def test_haze_against_loops() -> None:
    size = 40
    value = np.random.default_rng(5).uniform(0, 1, (2, size, size)).astype(np.float32)
    found = radiographs_film._haze(value)
    for n in range(2):
        cells = np.array(
            [
                [float(value[n, (a * size + size // 2) // HAZE, (b * size + size // 2) // HAZE]) for b in range(HAZE)]
                for a in range(HAZE)
            ]
        )
        for _ in range(3):
            for _ in range(2):
                cells = np.array(
                    [
                        [0.5 * row[b] + 0.25 * (row[max(b - 1, 0)] + row[min(b + 1, HAZE - 1)]) for b in range(HAZE)]
                        for row in cells
                    ]
                ).T
        centres = (np.arange(HAZE) + 0.5) * size / HAZE
        for i, j in ((0, 0), (3, 17), (20, 20), (39, 38)):
            across = [np.interp(j + 0.5, centres, row) for row in cells]
            assert found[n, i, j] == pytest.approx(np.interp(i + 0.5, centres, across), abs=1e-5)


def test_blur_spreads_and_keeps_the_sum() -> None:
    value = np.zeros((2, 256, 256), dtype=np.float32)
    value[:, 128, 128] = 1
    radiographs_film._soften(value, np.array([0.0, 1.0]))
    assert value[0, 128, 128] == 1 and value[0].sum() == 1
    place = np.arange(256) - 128
    assert value[1].sum() == pytest.approx(1, abs=1e-5)
    # Each pass moves a share of 0.14 to either side, first by two pixels, then by one.
    assert float((value[1].sum(axis=0) * place**2).sum()) == pytest.approx(2 * 0.14 * (2**2 + 1**2), rel=1e-3)


def film(count: int) -> Look:
    """A film that shows what is there and nothing else."""
    look = radiographs_film.draw_looks(Draws(keys(0, np.arange(count))), SIZE)
    nothing, one = np.zeros(count), np.ones(count)
    return replace(
        look,
        white=one,
        bend=nothing,
        gain=one,
        lift=nothing,
        scatter=nothing,
        blur=nothing,
        grain=nothing,
        marker=np.full(count, NO_MARKER),
        shutter=np.zeros((count, 4)),
    )


def test_the_film_curve() -> None:
    ramp = np.linspace(-0.2, 1.4, SIZE * SIZE, dtype=np.float32).reshape(1, SIZE, SIZE)
    look = replace(film(1), white=np.array([1.2]), bend=np.array([0.7]), gain=np.array([0.8]), lift=np.array([0.1]))
    seen = develop(ramp, look)
    for i, j in ((0, 0), (10, 5), (30, 60), (50, 2), (63, 63)):
        v = min(1.0, max(0.0, float(ramp[0, i, j]) / 1.2))
        wanted = 0.8 * (v + 0.7 * v * (1 - v)) + 0.1
        assert int(seen[0, 0, i, j]) == pytest.approx(255 * wanted, abs=0.51)
    grey = np.full((1, SIZE, SIZE), 0.5, dtype=np.float32)
    noisy = develop(grey, replace(film(1), grain=np.array([0.04]))).astype(float)
    assert noisy.std() == pytest.approx(255 * 0.04 * (0.5 + 0.5), rel=0.06)
    assert noisy.mean() == pytest.approx(127.5, abs=0.6)


def test_marker_and_shutters() -> None:
    dark = np.zeros((2, SIZE, SIZE), dtype=np.float32)
    look = replace(film(2), marker=np.array([RIGHT_MARKER, LEFT_MARKER]), marker_at=np.array([[0.1, 0.1], [0.8, 0.05]]))
    seen = develop(dark, look)[:, 0]
    rows, columns = np.nonzero(seen[0])
    assert rows.min() == 6 and rows.max() <= 10 and columns.min() == 6 and columns.max() <= 8
    rows, columns = np.nonzero(seen[1])
    assert rows.min() == 3 and columns.min() == 51
    small, large = (radiographs_film.letters(size)[RIGHT_MARKER] for size in (64, 512))
    assert small.sum() / 64**2 == pytest.approx(large.sum() / 512**2, rel=0.1)
    assert {letter.shape for letter in radiographs_film.letters(512)[1:]} == {(26, 19)}
    shut = replace(
        film(2), shutter=np.array([[0.05, 0.0, 0.0, 0.1], [0.0, 0.0, 0.03, 0.0]]), covered=np.array([0.9, 0.5])
    )
    seen = develop(dark, shut)[:, 0]
    assert (seen[0, :, :3] == 230).all() and (seen[0, 58:] == 230).all() and (seen[0, :58, 3:] == 0).all()
    assert (seen[1, :, 62:] == 128).all() and (seen[1, :, :62] == 0).all()


def test_looks_stay_in_their_bounds() -> None:
    look = radiographs_film.draw_looks(Draws(keys(3, np.arange(4000))), SIZE)
    for field in fields(look):
        assert np.isfinite(getattr(look, field.name)).all()
    shares = np.bincount(look.marker, minlength=3) / 4000
    assert shares == pytest.approx([0.35, 0.5, 0.15], abs=0.03)
    right, left = (look.marker_at[look.marker == kind, 0] for kind in (RIGHT_MARKER, LEFT_MARKER))
    assert right.max() < 0.2 and left.min() > 0.8, "a marker names the side it lies on"
    assert (look.marker_at + np.array([5 * 0.05 / 7, 0.05])).max() < 1
    assert (look.corner >= 0).all() and (look.corner < SIZE).all()
