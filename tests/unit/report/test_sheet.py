import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from partwise.config import UserError
from partwise.report import canvas, sheet
from partwise.report.sheet import Pasted, Stroke, new_sheet, plain, wrap

RED = (200, 10, 20)


def test_a_page_holds_what_was_put_on_it_and_nothing_else() -> None:
    page = new_sheet(600, "a4")
    image = np.random.default_rng(5).integers(0, 256, (30, 20), dtype=np.uint8)
    page.pictures.append(Pasted(image, (40, 50, 60, 80)))
    page.strokes += [Stroke((35, 45, 65, 85), RED, 2), Stroke((100, 100, 110, 105), RED)]
    expected = np.full((page.height, 600, 3), 255, np.uint8)
    for y in range(30):
        for x in range(20):
            expected[50 + y, 40 + x] = image[y, x]
    for y in range(page.height):
        for x in range(200):
            ring = 35 <= x < 65 and 45 <= y < 85 and not (37 <= x < 63 and 47 <= y < 83)
            if ring or (100 <= x < 110 and 100 <= y < 105):
                expected[y, x] = RED
    np.testing.assert_array_equal(np.asarray(sheet.draw(page)), expected)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(sheet.encode(page)))), expected)


def test_words_take_the_room_that_is_said() -> None:
    page = new_sheet(800, "letter")
    took = page.write(300, 200, "a line of words", 60, anchor="m", colour=RED)
    short = page.write(300, 400, "a line of words" * 9, 60, room=150)
    assert short <= 150 and page.words[1].text.endswith("…")
    page.words.pop()
    columns = np.flatnonzero((np.asarray(sheet.draw(page)) != 255).any((0, 2)))
    assert abs(columns[0] - (300 - took / 2)) <= 3 and abs(columns[-1] - (300 + took / 2)) <= 3
    lines = page.lines("one two three four five " * 9, 40, 200, 3)
    assert len(lines) == 3 and lines[-1].endswith("…")


def test_papers_have_their_shape() -> None:
    assert new_sheet(2339, "a4").height == 1654 and new_sheet(2200, "letter").height == 1700
    assert new_sheet(2339, "a4").dots == pytest.approx(200, abs=0.1)
    with pytest.raises(UserError, match=r"paper 'A4': expected one of a4, letter; did you mean 'a4'"):
        new_sheet(800, "A4")


def naive_wrap(text: str, width: int, face) -> list[str]:
    """Letter by letter: a line takes words as long as they fit, and letters of a word that fits no line."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        if line and face.getlength(line + " " + word) <= width:
            line += " " + word
            continue
        if line:
            lines.append(line)
            line = ""
        left = word
        for letter in word:
            if line and face.getlength(left) > width and face.getlength(line + letter) > width:
                lines.append(line)
                line, left = "", left[len(line) :]
            line += letter
    return [*lines, line] if line else lines


@given(st.text("abc iW.", max_size=90), st.integers(12, 300))
@settings(max_examples=60, deadline=None)
def test_wrapped_lines_agree_with_letter_by_letter(text: str, width: int) -> None:
    face = canvas.font(18)
    lines = wrap(text, width, face)
    assert lines == naive_wrap(text, width, face)
    assert all(face.getlength(line) <= width or len(line) == 1 for line in lines)
    assert "".join(lines).replace(" ", "") == "".join(text.split())


def test_a_long_karyotype_is_broken_after_commas() -> None:
    face = canvas.font(18)
    lines = wrap("45,X" + ",+21" * 30, 200, face)
    assert "".join(lines) == "45,X" + ",+21" * 30 and len(lines) > 3
    assert all(line.endswith(",") for line in lines[:-1]) and all(face.getlength(line) <= 200 for line in lines)


def test_plain_text_is_one_printable_line() -> None:
    assert plain(" a\n\tb\x00c\udcffd ") == "a b c d"
