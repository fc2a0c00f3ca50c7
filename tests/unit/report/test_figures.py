import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from partwise.report import figures

RNG = np.random.default_rng(7)
COLOUR = (9, 200, 77)


def pictures(count: int, height: int = 32, width: int = 32) -> np.ndarray:
    return RNG.integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def naive_overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    from matplotlib import colormaps

    out = np.zeros_like(image)
    for row in range(image.shape[0]):
        for column in range(image.shape[1]):
            value = heat[row, column]
            value = 0.0 if math.isnan(value) else min(max(value, 0.0), 1.0)
            red, green, blue = (float(v) for v in image[row, column])
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
            place = 0.25 + 0.72 * round(value * 255) / 255
            colour = [255 * v for v in colormaps["inferno"](place)[:3]]
            cover = 0.82 * value**0.7
            for channel, plain in enumerate((red, green, blue)):
                base = 0.35 * plain + 0.65 * grey
                out[row, column, channel] = round(base * (1 - cover) + colour[channel] * cover)
    return out


def test_overlay_agrees_with_a_loop_over_pixels() -> None:
    image = pictures(1, 9, 7)[0]
    heat = RNG.uniform(-0.2, 1.2, (9, 7)).astype(np.float32)
    heat[0, 0] = np.nan
    difference = np.abs(figures.overlay(image, heat).astype(int) - naive_overlay(image, heat))
    assert difference.max() <= 1


def test_overlay_takes_coarser_maps_and_leaves_its_input_alone() -> None:
    image = pictures(1, 20, 30)[0]
    before = image.copy()
    heat = np.array([[0, 0, 1], [0, 0, 1]], np.float32)
    shown = figures.overlay(image, heat)
    assert shown.shape == image.shape
    np.testing.assert_array_equal(shown, figures.overlay(image, heat))
    np.testing.assert_array_equal(image, before)
    shift = np.abs(shown.astype(int) - figures.overlay(image, np.zeros((20, 30), np.float32)).astype(int)).sum(-1)
    assert shift[:, :8].max() == 0 and shift[:, -8:].min() > 0


def test_heat_colours_get_lighter_step_by_step() -> None:
    grey = np.full((1, 256, 3), 0, np.uint8)
    ramp = figures.overlay(grey, np.linspace(0, 1, 256, dtype=np.float32)[None]).astype(float)
    lightness = ramp[0] @ [0.299, 0.587, 0.114]
    assert (np.diff(lightness) >= -1).all() and lightness[-1] > 150


@given(st.tuples(*[st.floats(-12, 40) for _ in range(4)]), st.integers(1, 3), st.booleans())
@settings(max_examples=60, deadline=None)
def test_boxes_colour_their_inner_edge_and_nothing_else(box: tuple[float, ...], line: int, dashed: bool) -> None:
    image = np.full((24, 20, 3), 120, np.uint8)
    drawn = figures.draw_boxes(image, [box], COLOUR, thickness=line, dashed=dashed)
    x1, y1, x2, y2 = (round(value) for value in box)
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    for y in range(24):
        for x in range(20):
            inside = x1 <= x < x2 and y1 <= y < y2
            edge = inside and not (x1 + line <= x < x2 - line and y1 + line <= y < y2 - line)
            if box[2] <= box[0] or box[3] <= box[1]:
                edge = inside = False
            coloured = tuple(drawn[y, x]) == COLOUR
            assert coloured <= edge
            if not dashed:
                assert coloured == edge
            if not edge and not (x1 - 1 <= x <= x2 and y1 - 1 <= y <= y2):
                assert tuple(drawn[y, x]) == (120, 120, 120)
    assert (image == 120).all()


def test_dashes_leave_gaps_and_odd_boxes_are_left_out() -> None:
    image = np.full((40, 40, 3), 120, np.uint8)
    solid, dashed = (figures.draw_boxes(image, [[4, 4, 36, 36]], COLOUR, thickness=1, dashed=d) for d in (False, True))
    counts = [(drawn == COLOUR).all(-1).sum() for drawn in (solid, dashed)]
    assert counts[0] == 124 and 0.3 < counts[1] / counts[0] < 0.7
    odd = [[5, 5, 5, 9], [9, 9, 3, 12], [np.nan, 0, 4, 4], [0, 0, np.inf, 4]]
    np.testing.assert_array_equal(figures.draw_boxes(image, odd, COLOUR), image)
    np.testing.assert_array_equal(figures.draw_boxes(image, np.zeros((0, 4)), COLOUR), image)


def test_png_holds_the_very_pixels() -> None:
    image = pictures(1, 11, 13)[0]
    data = figures.encode_png(image)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), image)
    assert data == figures.encode_png(image)


def test_gallery_shows_every_picture_whatever_its_size() -> None:
    flat = [np.full((h, w, 3), 10 + 40 * n, np.uint8) for n, (h, w) in enumerate([(32, 32), (300, 200), (48, 96)])]
    sheet = figures.gallery(flat, ["one", "two\nlines", "three"], columns=2)
    assert [(sheet == 10 + 40 * n).all(-1).sum() for n in range(3)] >= [128 * 128, 144 * 90, 72 * 144]
    assert sheet.dtype == np.uint8 and sheet.shape[2] == 3


def heat_parts(count: int, height: int = 32, width: int = 32) -> tuple:
    maps = RNG.uniform(0, 1, (count, height, width)).astype(np.float32)
    boxes = [np.array([[4, 4, 20, 24]], np.float32)] * count
    return pictures(count, height, width) // 8, maps, boxes, boxes, [f"cat → dog {n}" for n in range(count)]


def test_heatmap_gallery_draws_true_and_found_boxes_in_place() -> None:
    images, maps, true, _, titles = heat_parts(1)
    none = [np.zeros((0, 4), np.float32)]
    sheets = [
        figures.heatmap_gallery(images, maps, t, f, titles) for t, f in ((none, none), (true, none), (none, true))
    ]
    marked = [np.argwhere((sheets[n] != sheets[0]).any(-1)) for n in (1, 2)]
    # 32 pixels are shown at 128: the box with its casing covers 4 * (24 - 4) + 2 rows; the true one stands on both panels.
    assert np.ptp(marked[0][:, 0]) + 1 == np.ptp(marked[1][:, 0]) + 1 == 4 * 20 + 2
    assert np.ptp(marked[1][:, 1]) + 1 == 4 * 16 + 2
    assert np.ptp(marked[0][:, 1]) + 1 == 4 * 16 + 2 + 128 + 4


@pytest.mark.parametrize(("count", "size"), [(0, (32, 32)), (1, (32, 32)), (7, (20, 48)), (3, (400, 120))])
def test_heatmap_gallery_is_deterministic_for_any_number_and_shape(count: int, size: tuple[int, int]) -> None:
    parts = heat_parts(count, *size)
    sheet = figures.heatmap_gallery(*parts)
    assert sheet.dtype == np.uint8 and sheet.ndim == 3 and sheet.shape[2] == 3
    np.testing.assert_array_equal(sheet, figures.heatmap_gallery(*parts))


def test_mixed_batch_draws_shares_to_scale() -> None:
    images = np.full((1, 32, 32, 3), 128, np.uint8)
    sheet = figures.mixed_batch(images, [[("dog", 0.25), ("cat", 0.75)]])
    first, second = ((sheet == figures.PALETTE[n]).all(-1) for n in (0, 1))
    bar = [int(found.sum(1).max()) for found in (first, second)]
    assert bar == [96, 32]
    assert figures.mixed_batch(images[:0], []).shape[2] == 3
    assert figures.mixed_batch(images, [[]]).shape[1] == sheet.shape[1]


def test_mixed_batch_names_at_most_three_classes() -> None:
    images = np.full((1, 32, 32, 3), 128, np.uint8)
    five = [(f"c{n}", 0.2) for n in range(5)]
    sheet, fourth = figures.mixed_batch(images, [five]), figures.PALETTE[3]
    # The bar shows all five; the fourth has no line of its own below it, so its colour fills the bar's rows alone.
    assert (sheet == fourth).all(-1).any(1).sum() == 10
