import numpy as np
import pytest

from partwise.report import canvas
from partwise.report.masks import (
    VOID_COLOUR,
    WIDTH,
    class_colours,
    fit_tile,
    mask_legend,
    overlay_mask,
    rows_figure,
)

RNG = np.random.default_rng(3)
RED, BLUE = (200, 10, 20), (10, 20, 200)


def picture(height: int = 32, width: int = 32) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def naive_overlay(image: np.ndarray, mask: np.ndarray, palette: list[tuple[int, int, int]]) -> np.ndarray:
    """Pixel by pixel, for a mask of the picture's size."""
    height, width = mask.shape
    out = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            red, green, blue = (float(v) for v in image[y, x])
            grey = 0.299 * red + 0.587 * green + 0.114 * blue
            base = [0.35 * v + 0.65 * grey for v in (red, green, blue)]
            value = int(mask[y, x])
            around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            edge = any(0 <= r < height and 0 <= c < width and mask[r, c] != value for r, c in around)
            if value == 255:
                base = list(VOID_COLOUR) if (y + x) % 6 < 2 else base
            elif value and edge:
                base = list(palette[value - 1])
            elif value:
                base = [0.45 * b + 0.55 * c for b, c in zip(base, palette[value - 1], strict=True)]
            out[y, x] = [round(v) for v in base]
    return out


def test_overlay_agrees_with_a_loop_over_pixels() -> None:
    image = picture(12, 10)
    mask = np.zeros((12, 10), np.uint8)
    mask[2:8, 1:7], mask[5:11, 5:9], mask[0] = 1, 2, 255
    before = image.copy()
    drawn = overlay_mask(image, mask, [RED, BLUE])
    assert np.abs(drawn.astype(int) - naive_overlay(image, mask, [RED, BLUE])).max() <= 1
    np.testing.assert_array_equal(image, before)
    assert tuple(drawn[2, 1]) == RED and tuple(drawn[10, 8]) == BLUE


def test_masks_of_another_size_keep_their_place() -> None:
    image = np.full((20, 30, 3), 100, np.uint8)
    coarse = np.array([[0, 0, 1], [0, 0, 1]], np.uint8)
    fine = np.kron(coarse, np.ones((30, 30), np.uint8))
    drawn = overlay_mask(image, coarse, [RED])
    np.testing.assert_array_equal(drawn, overlay_mask(image, fine, [RED]))
    coloured = (drawn != 100).any(-1)
    assert not coloured[:, :20].any() and coloured[:, 20:].all()


def test_a_pixel_takes_the_cell_under_its_centre() -> None:
    """Three cells under four pixels: centres lie at 3/8, 9/8, 15/8 and 21/8 of a cell."""
    drawn = overlay_mask(np.full((4, 4, 3), 100, np.uint8), np.array([[1, 0, 2]], np.uint8), [RED, BLUE])
    assert [tuple(pixel) for pixel in drawn[0]] == [RED, (100, 100, 100), (100, 100, 100), BLUE]


@pytest.mark.parametrize("wrong", [np.zeros((4, 4)), np.zeros((1, 4, 4), np.uint8), np.zeros((0, 4), np.uint8)])
def test_what_is_no_mask_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="mask must be"):
        overlay_mask(picture(), wrong, [RED])


def test_colours_differ() -> None:
    colours = class_colours(80)
    assert len(set(colours)) == 80 and class_colours(3) == colours[:3] and class_colours(0) == []
    apart = np.abs(np.asarray(colours[:20], int)[:, None] - np.asarray(colours[:20], int)).sum(-1)
    assert apart[~np.eye(20, dtype=bool)].min() > 80
    assert min(np.abs(np.subtract(colour, VOID_COLOUR)).sum() for colour in colours[:20]) > 80
    assert len(class_colours(200)) == 200


def test_the_legend_shows_every_colour_and_keeps_to_its_width() -> None:
    colours = {f"class number {n}": colour for n, colour in enumerate(class_colours(12))}
    legend = mask_legend(colours, 400, void=True)
    assert legend.shape[1] <= 400
    for colour in colours.values():
        assert (legend == colour).all(-1).sum() >= 256
    assert (legend == VOID_COLOUR).all(-1).any()
    assert mask_legend(colours, 1200).shape[0] < mask_legend(colours, 300).shape[0]
    assert mask_legend({"a very long name of a class" * 9: RED}, 120).shape[1] <= 120


@pytest.mark.parametrize("size", [(32, 32), (375, 500), (500, 333), (20, 200), (300, 30)])
@pytest.mark.parametrize("columns", [1, 3, 7])
def test_tiles_fit_and_fit_again(size: tuple[int, int], columns: int) -> None:
    tile = fit_tile(picture(*size), columns)
    wide = (WIDTH - 2 * canvas.GAP) / columns
    assert tile.shape[1] <= wide and tile.shape[0] <= 1.5 * wide
    np.testing.assert_array_equal(fit_tile(tile, columns), tile)
    assert tile.shape[0] / tile.shape[1] == pytest.approx(size[0] / size[1], rel=0.1)


def test_rows_hold_every_tile_in_its_column() -> None:
    names = ["picture", "plain CAM", "PPL", "after the walk", "after CRF", "network", "truth"]
    columns = {
        name: [np.full((40, 40, 3), 10 + 30 * c + 5 * r, np.uint8) for r in range(3)] for c, name in enumerate(names)
    }
    captions = {name: [f"IoU 0.{r}" for r in range(3)] for name in names[1:-1]}
    figure = rows_figure(columns, captions, legend={"cat": RED})
    assert figure.shape[1] <= WIDTH and figure.dtype == np.uint8
    side = fit_tile(columns["picture"][0], 7).shape[0]
    lefts, tops = [], []
    for c in range(7):
        places = [np.argwhere((figure == 10 + 30 * c + 5 * r).all(-1)) for r in range(3)]
        for place in places:
            top, left = place.min(0)
            inside = (figure[top : top + side, left : left + side] == figure[top, left]).all()
            assert inside
            lefts.append(left)
            tops.append(top)
    assert lefts == sorted(lefts) and len(set(lefts)) == 7
    assert tops[:3] * 7 == tops and tops[0] < tops[1] < tops[2]
    np.testing.assert_array_equal(figure, rows_figure(columns, captions, legend={"cat": RED}))


def test_captions_change_what_stands_below_their_own_column() -> None:
    columns = {name: [np.full((64, 64, 3), 128, np.uint8)] for name in ("picture", "found")}
    one, two = (rows_figure(columns, {"picture": ["owl"], "found": [words]}) for words in ("IoU 0.11", "IoU 0.99"))
    changed = np.argwhere((one != two).any(-1))
    assert changed[:, 1].min() > one.shape[1] // 2 and changed[:, 0].min() > one.shape[0] // 2
    bare = rows_figure(columns, {})
    assert bare.shape[0] < one.shape[0]


def test_no_pictures_say_so() -> None:
    assert rows_figure({}, {}).shape[2] == 3
    assert rows_figure({"picture": []}, {}).shape[2] == 3
