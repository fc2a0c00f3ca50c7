import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.report import canvas
from partwise.report.canvas import Line


@given(st.text(max_size=60), st.integers(20, 400))
@settings(max_examples=30, deadline=None)
def test_text_fits_or_ends_in_an_ellipsis(text: str, width: int) -> None:
    face = canvas.font(17)
    fitted = canvas.fit_text(text, width, face)
    whole = " ".join(text.split())
    assert fitted == whole or (fitted.endswith("…") and whole.startswith(fitted[:-1]))
    assert face.getlength(fitted) <= width or fitted == "…"


def test_cut_text_is_the_longest_that_fits() -> None:
    face = canvas.font(17)
    text = "a rather long title of a picture"
    fits = [text[:n].rstrip() + "…" for n in range(len(text)) if face.getlength(text[:n].rstrip() + "…") <= 150]
    assert canvas.fit_text(text, 150, face) == fits[-1]


@given(st.integers(1, 400), st.integers(1, 400))
def test_small_pictures_grow_by_whole_factors_and_large_ones_shrink(height: int, width: int) -> None:
    scale = canvas.readable_scale(height, width)
    longer = max(height, width)
    assert longer * scale <= 1.5 * canvas.READABLE
    assert scale == int(scale) if scale >= 1 else longer * scale == pytest.approx(canvas.READABLE)


def test_grid_puts_each_tile_where_counting_says() -> None:
    tiles = [np.full((3, 4, 3), value, np.uint8) for value in range(1, 6)]
    sheet = canvas.grid(tiles, columns=2, gap=1)
    assert sheet.shape == (3 * 3 + 2, 2 * 4 + 1, 3)
    expected = np.full_like(sheet, 255)
    for number in range(5):
        for row in range(3):
            for column in range(4):
                expected[(number // 2) * 4 + row, (number % 2) * 5 + column] = number + 1
    np.testing.assert_array_equal(sheet, expected)


def test_long_lines_are_set_smaller_before_they_are_cut() -> None:
    def ink(strip: np.ndarray) -> tuple[int, int]:
        return int((strip < 128).any((0, 2)).nonzero()[0].max()), int((strip < 128).any((1, 2)).sum())

    words = "called automobile"
    roomy, tight = (canvas.write([Line(words)], width) for width in (400, 128))
    assert ink(tight)[0] < 128 and ink(tight)[1] < ink(roomy)[1]
    assert canvas.font(canvas.SMALLEST).getlength(words) <= 128


def test_strips_of_text_keep_to_their_width_and_show_their_chip() -> None:
    strip = canvas.write([Line("x" * 200, chip=(200, 10, 10)), Line("")], 90)
    assert strip.shape[1] == 90
    assert (strip == (200, 10, 10)).all(-1).sum() == 144
    assert (strip[-10:] == 255).all()


@pytest.mark.parametrize("wrong", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), np.zeros((0, 4, 3), np.uint8)])
def test_what_is_no_picture_is_refused(wrong: np.ndarray) -> None:
    with pytest.raises(AssertionError, match="picture must be"):
        canvas.rgb(wrong)
