import hashlib
import io
import re
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from partwise.config import UserError
from partwise.ops.iscn import TYPES
from partwise.report import canvas, karyogram_rows
from partwise.report.case import Case, Chromosome, unusual_types
from partwise.report.karyogram import Layout, draw_karyogram, file_stem, lay_out, save_karyogram
from partwise.report.karyogram_rows import DOUBTFUL, MOVED, ROW_GAP, ROWS, WRONG, broken
from partwise.report.sheet import Sheet, Words

RNG = np.random.default_rng(11)
MALE = [name for name in TYPES[:22] for _ in range(2)] + ["X", "Y"]
Box = tuple[int, int, int, int]


def grey(number: int) -> int:
    """A grey that words and strokes, which are coloured, never have."""
    return 4 * number


def chromosome(
    type_: str, image: np.ndarray, *, polarity: int = 1, doubtful: bool = False, moved: bool = False, p: float = 0.97
) -> Chromosome:
    other = "2" if type_ == "1" else "1"
    return Chromosome(
        f"{type_}.png", image, type_, p, (other, 0.02), polarity, 0.9, polarity == 0, doubtful, moved
    )  # fmt: skip


def flat_case(types: Sequence[str], *, doubtful: Sequence[int] = (), moved: Sequence[int] = (), **fields) -> Case:
    """Chromosomes of flat greys, longer the earlier their type, so that each can be found again by its colour."""
    found = []
    for number, name in enumerate(types):
        height = 120 - 4 * TYPES.index(name) + number % 3
        image = np.full((height, 20 + number % 5), grey(number % 50), np.uint8)
        found.append(chromosome(name, image, doubtful=number in doubtful, moved=number in moved))
    return Case(**{"name": "a case", "chromosomes": tuple(found), "warnings": (), "iscn": "46,XY"} | fields)


def inside(inner: Box, outer: Box) -> bool:
    return inner[0] >= outer[0] and inner[1] >= outer[1] and inner[2] <= outer[2] and inner[3] <= outer[3]


def overlap(one: Box, two: Box) -> bool:
    return one[0] < two[2] and two[0] < one[2] and one[1] < two[3] and two[1] < one[3]


def words_box(words: Words) -> Box:
    x1, y1, x2, y2 = canvas.font(words.size, words.bold).getbbox(words.text, anchor=f"{words.anchor}s")
    return int(words.x + x1), int(words.y + y1), int(np.ceil(words.x + x2)), int(np.ceil(words.y + y2))


def page_box(sheet: Sheet) -> Box:
    return 0, 0, sheet.width, sheet.height


def check(case: Case, layout: Layout) -> None:
    """What holds of every karyogram: all on the page, in their cells, apart, at one scale, each drawn once."""
    sheet, places = layout.sheet, layout.places
    assert list(places.cells) == [name for row in ROWS for _, names in row for name in names]
    assert sorted(places.boxes) == list(range(len(case.chromosomes)))
    assert sorted(picture.box for picture in sheet.pictures) == sorted(places.boxes.values())
    page = page_box(sheet)
    assert all(inside(box, page) for box in places.cells.values())
    assert not any(overlap(*pair) for pair in combinations(places.cells.values(), 2))
    assert not any(overlap(*pair) for pair in combinations(places.boxes.values(), 2))
    for number, found in enumerate(case.chromosomes):
        x1, y1, x2, y2 = places.boxes[number]
        assert inside((x1, y1, x2, y2), places.cells[found.type])
        height, width = found.image.shape
        assert (y2 - y1, x2 - x1) == (max(1, round(height * places.scale)), max(1, round(width * places.scale)))
    written = [words_box(words) for words in sheet.words if words.text]
    assert all(inside(box, page) for box in written)
    assert not any(overlap(*pair) for pair in combinations(written, 2))
    for box in [*written, *(stroke.box for stroke in sheet.strokes)]:
        on = [b for b in places.boxes.values() if overlap(box, b)]
        assert not on or (len(on) == 1 and inside(on[0], box)), "only a frame surrounds a chromosome, and its own alone"


# -- layout --------------------------------------------------------------------------------------------------------------


CASES = {
    "whole": MALE,
    "female": [*MALE[:-1], "X"],
    "trisomy and more": [*MALE, "21", "18", "X"],
    "no chromosome": [],
    "one": ["7"],
    "one small": ["Y"],
    "lost two": MALE[4:],
    "twelve of a class": ["16"] * 12 + MALE,
    "all of one class": ["8"] * 50,
}


@pytest.mark.parametrize("types", CASES.values(), ids=CASES)
@pytest.mark.parametrize("paper", ["a4", "letter"])
def test_every_chromosome_stands_in_its_cell(types: list[str], paper: str) -> None:
    case = flat_case(types)
    check(case, lay_out(case, paper=paper))


@given(
    st.lists(st.tuples(st.sampled_from(TYPES), st.integers(1, 160), st.integers(1, 90), st.booleans()), max_size=70),
    st.sampled_from([600, 1180, 2339]),
)
@settings(max_examples=25, deadline=None)
def test_any_case_keeps_the_rules(drawn: list[tuple[str, int, int, bool]], width: int) -> None:
    found = [
        chromosome(name, np.full((high, wide), 90, np.uint8), doubtful=flag, moved=not flag, polarity=int(flag))
        for name, high, wide, flag in drawn
    ]
    case = Case("any", tuple(found), ("first " * 20, "second"), "46,XX", (("file", "torn"),))
    layout = lay_out(case, width=width)
    assert sorted(layout.places.boxes) == list(range(len(found)))
    for number, one in enumerate(found):
        assert inside(layout.places.boxes[number], layout.places.cells[one.type])
        assert inside(layout.places.cells[one.type], page_box(layout.sheet))
    assert not any(overlap(*pair) for pair in combinations(layout.places.boxes.values(), 2))


@pytest.mark.parametrize("types", [MALE, [*MALE, "21", "X", "X"], ["3"]], ids=["46", "49", "1"])
def test_pixels_of_each_chromosome_are_there_once(types: list[str]) -> None:
    case = flat_case(types)
    layout = lay_out(case, width=1180)
    pixels = np.asarray(draw_karyogram(case, width=1180))
    assert pixels.shape == (layout.sheet.height, layout.sheet.width, 3)
    for number in range(len(types)):
        x1, y1, x2, y2 = layout.places.boxes[number]
        there = (pixels == grey(number)).all(-1)
        assert there[y1:y2, x1:x2].all() and there.sum() == (y2 - y1) * (x2 - x1)


def test_chromosomes_are_as_large_as_the_page_allows() -> None:
    """One percent larger, and the tallest of the four rows together would leave less than the least gaps between them."""
    case = flat_case(MALE)
    layout = lay_out(case)
    tops = [layout.places.cells[row[0][1][0]] for row in ROWS]
    gap = max(below[1] - above[3] for above, below in pairwise(tops))
    heights = [
        max(c.image.shape[0] for c in case.chromosomes if any(c.type in names for _, names in row)) for row in ROWS
    ]
    assert layout.places.scale < karyogram_rows.MOST_MAGNIFIED
    growth = sum(heights) * layout.places.scale * 0.0102
    assert 0 <= 5 * (gap - ROW_GAP) <= growth + 10


def test_a_lone_chromosome_is_not_blown_up() -> None:
    assert lay_out(flat_case(["Y"])).places.scale == karyogram_rows.MOST_MAGNIFIED
    assert lay_out(flat_case(["Y"]), width=1180).places.scale == pytest.approx(
        karyogram_rows.MOST_MAGNIFIED / 2, rel=0.02
    )


def test_classes_follow_one_another_as_karyograms_have_them() -> None:
    cells = lay_out(flat_case(MALE)).places.cells
    rows = [["1", "2", "3", "4", "5"], [*"6789", "10", "11", "12"], [*map(str, range(13, 19))]]
    rows.append(["19", "20", "21", "22", "X", "Y"])
    for row in rows:
        assert len({(cells[name][1], cells[name][3]) for name in row}) == 1
        assert all(cells[a][2] < cells[b][0] for a, b in pairwise(row))
    assert [cells[row[0]][3] for row in rows] == sorted(cells[row[0]][3] for row in rows)
    # Groups stand farther apart than the classes within them.
    assert cells["4"][0] - cells["3"][2] > cells["3"][0] - cells["2"][2]
    assert cells["X"][0] - cells["22"][2] > cells["Y"][0] - cells["X"][2]


def test_group_letters_stand_before_their_groups() -> None:
    layout = lay_out(flat_case(MALE))
    letters = {words.text: words for words in layout.sheet.words if words.text in "ABCDEFG"}
    firsts = dict(zip("ABCDEFG", ["1", "4", "6", "13", "16", "19", "21"], strict=True))
    assert set(letters) == set(firsts)
    for letter, name in firsts.items():
        x1, y1, _, y2 = layout.places.cells[name]
        assert letters[letter].x < x1 and y1 < letters[letter].y < y2


def test_homologues_stand_side_by_side_on_one_level() -> None:
    places = lay_out(flat_case(MALE)).places
    for pair in range(22):
        one, two = places.boxes[2 * pair], places.boxes[2 * pair + 1]
        assert one[3] == two[3] and one[2] <= two[0]
        left, _, right, _ = places.cells[str(pair + 1)]
        assert abs((one[0] + one[2] + two[0] + two[2]) / 4 - (left + right) / 2) <= 3, "in the middle of their cell"


def test_too_many_for_a_page_are_refused() -> None:
    with pytest.raises(UserError, match="case a case: 1,200 chromosomes do not fit one page"):
        lay_out(flat_case(["1"] * 1200))


@pytest.mark.parametrize("lines", [1, 2, 3, 7])
def test_lines_of_a_cell_share_its_tiles(lines: int) -> None:
    tiles = list(range(7))
    found = broken(tiles, lines)  # type: ignore[arg-type]
    expected: list[list[int]] = [[] for _ in range(lines)]
    sizes = [0] * lines
    for turn in range(7):
        sizes[turn % lines] += 1
    for line, size in enumerate(sizes):
        expected[line] = tiles[sum(sizes[:line]) : sum(sizes[:line]) + size]
    assert found == expected


# -- what is drawn -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("polarity", [0, 1])
@pytest.mark.parametrize("size", [(61, 17), (1500, 60)])
def test_polarity_0_is_turned_and_never_mirrored(polarity: int, size: tuple[int, int]) -> None:
    image = RNG.integers(0, 256, size, dtype=np.uint8)
    case = replace(flat_case(MALE), chromosomes=(chromosome("3", image, polarity=polarity),))
    layout = lay_out(case)
    x1, y1, x2, y2 = layout.places.boxes[0]
    drawn = np.asarray(draw_karyogram(case))[y1:y2, x1:x2, 0].astype(int)
    stands = {
        "turned": np.rot90(np.rot90(image)),
        "mirrored": np.flipud(image),
        "as it is": image,
    }
    apart = {name: np.abs(drawn - canvas.resize(way, y2 - y1, x2 - x1)).mean() for name, way in stands.items()}
    best = min(apart, key=lambda name: apart[name])
    assert best == ("as it is" if polarity else "turned") and apart[best] < 1
    assert all(apart[name] > 10 for name in apart if name != best)
    assert any("↻" in words.text and words.size == 20 and "%" in words.text for words in layout.sheet.words) != polarity


def test_every_doubtful_chromosome_has_a_frame_and_no_other() -> None:
    doubtful = [0, 7, 20, 45]
    case = flat_case(MALE, doubtful=doubtful)
    layout = lay_out(case)
    check(case, layout)
    frames = [stroke for stroke in layout.sheet.strokes if stroke.line and stroke.colour == DOUBTFUL]
    pixels = np.asarray(draw_karyogram(case))
    for number, box in layout.places.boxes.items():
        own = [frame for frame in frames if inside(box, frame.box)]
        assert len(own) == (number in doubtful)
        for frame in own:
            x1, y1, x2, y2 = frame.box
            edge = [pixels[y1, x1:x2], pixels[y2 - 1, x1:x2], pixels[y1:y2, x1], pixels[y1:y2, x2 - 1]]
            assert all((side == DOUBTFUL).all() for side in edge)
            assert inside(frame.box, layout.places.cells[case.chromosomes[number].type])
    assert len(frames) == len(doubtful) + 1, "and one in the legend"
    moved = lay_out(flat_case(MALE, moved=[3]))
    colours = [s.colour for s in moved.sheet.strokes if s.line and inside(moved.places.boxes[3], s.box)]
    assert colours == [MOVED]


def test_moved_chromosomes_say_where_from_and_stand_last() -> None:
    case = flat_case(["22", "22", "21"], moved=[0])
    case = replace(
        case, chromosomes=(replace(case.chromosomes[0], second=("21", 0.6), probability=0.35), *case.chromosomes[1:])
    )
    layout = lay_out(case)
    check(case, layout)
    (words,) = [words for words in layout.sheet.words if words.text == "from 21, 60 %"]
    x1, _, x2, y2 = layout.places.boxes[0]
    assert words.colour == MOVED and x1 <= words.x <= x2 and words.y > y2
    assert layout.places.boxes[0][0] > layout.places.boxes[1][2]


def test_probabilities_stand_below_their_chromosomes() -> None:
    case = flat_case(MALE)
    case = replace(
        case, chromosomes=tuple(replace(c, probability=0.30 + 0.01 * n) for n, c in enumerate(case.chromosomes))
    )
    layout = lay_out(case)
    for number, (x1, _, x2, y2) in layout.places.boxes.items():
        (words,) = [w for w in layout.sheet.words if w.text == f"{30 + number} %"]
        assert (
            abs(words.x - (x1 + x2) / 2) <= 1 and y2 < words.y < layout.places.cells[case.chromosomes[number].type][3]
        )


@pytest.mark.parametrize(
    ("types", "marked"),
    [
        (MALE, {}),
        ([*MALE, "21"], {"21": 3}),
        (MALE[1:-1], {"1": 1, "X": 1, "Y": 0}),
        ([*MALE, "X"], {"X": 2, "Y": 1}),
        ([*MALE[:44], "X", "X"], {}),
        ([], {**dict.fromkeys(TYPES, 0)}),
    ],
)
def test_unusual_counts_are_written_at_the_class(types: list[str], marked: dict[str, int]) -> None:
    case = flat_case(types)
    layout = lay_out(case)
    check(case, layout)
    assert unusual_types(case) == set(marked)
    found = {words.text for words in layout.sheet.words if words.colour == WRONG and "×" in words.text} - {"×3"}
    assert found == {f"{name} ×{count}" for name, count in marked.items()}
    plain_ones = {words.text for words in layout.sheet.words if words.size == 30}
    assert {name for name in TYPES if name not in marked} <= plain_ones


def test_header_and_footer_say_what_must_be_said() -> None:
    case = flat_case(
        [*MALE, "21"], doubtful=[1], iscn="47,XY,+21", warnings=("3 of type 21",), left_out=(("bad.png", "is torn"),)
    )
    text = " ".join(words.text for words in lay_out(case).sheet.words)
    for words in (
        "a case",
        "47 chromosomes",
        "1 doubtful",
        "DRAFT",
        "47,XY,+21",
        "structural analysis not performed",
        "One cell never makes a diagnosis",
        "not a medical device",
        "Check: 3 of type 21",
        "Left out: bad.png: is torn",
    ):
        assert words in text
    assert "1 chromosome " in " ".join(words.text for words in lay_out(flat_case(["1"])).sheet.words)


def test_long_warnings_wrap_and_take_room_from_the_chromosomes() -> None:
    short, long = (flat_case(MALE, warnings=("three of type 21",) * n, name="n" * 20 * n) for n in (1, 60))
    layouts = [lay_out(case) for case in (short, long)]
    for case, layout in zip((short, long), layouts, strict=True):
        check(case, layout)
    lines = [[w for w in layout.sheet.words if w.colour == WRONG and "three of" in w.text] for layout in layouts]
    last = max(lines[1], key=lambda words: words.y)
    assert len(lines[0]) == 1 and len(lines[1]) == 4 and last.text.endswith("…")
    assert layouts[1].places.scale < layouts[0].places.scale
    unbroken = flat_case(MALE, warnings=("x" * 900,), left_out=(("y" * 900, "z" * 900),), iscn="46,XY" + ",+1" * 200)
    check(unbroken, lay_out(unbroken))


def test_the_same_case_gives_the_same_pixels_at_every_width() -> None:
    case = flat_case(MALE, doubtful=[3])
    assert np.array_equal(np.asarray(draw_karyogram(case)), np.asarray(draw_karyogram(case)))
    small = draw_karyogram(case, width=1180)
    assert small.mode == "RGB" and small.size == (1180, round(1180 * 210 / 297))
    with pytest.raises(UserError, match=r"paper 'a5': expected one of a4, letter; did you mean 'a4'"):
        draw_karyogram(case, paper="a5")


# -- files ---------------------------------------------------------------------------------------------------------------


def test_files_have_the_size_of_the_paper_and_repeat_byte_by_byte(tmp_path: Path) -> None:
    case = flat_case(MALE, name="cell 7", doubtful=[0], iscn="46,XY $x^2$")
    pages = [save_karyogram(case, tmp_path / folder) for folder in "ab"]
    (png, pdf), again = pages
    assert png.stem == pdf.stem == file_stem("cell 7")
    assert png.read_bytes() == again[0].read_bytes() and pdf.read_bytes() == again[1].read_bytes()
    with Image.open(png) as image:
        assert np.array_equal(np.asarray(image), np.asarray(draw_karyogram(case)))
        assert [size / dots * 25.4 for size, dots in zip(image.size, image.info["dpi"], strict=True)] == pytest.approx(
            [297, 210], abs=0.3
        )
    data = pdf.read_bytes()
    boxes = re.findall(rb"/MediaBox \[ ?([\d. ]+?) ?\]", data)
    assert len(boxes) == 1
    assert [float(value) for value in boxes[0].split()] == pytest.approx([0, 0, 297 / 25.4 * 72, 210 / 25.4 * 72])
    fonts = {name.partition(b"+")[2] for name in re.findall(rb"/BaseFont /(\S+)", data)}
    assert fonts == {b"DejaVuSans", b"DejaVuSans-Bold"}, "a dollar in a name is no formula"
    assert b"CreationDate" not in data and len(data) < 2_000_000
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == sorted([png.name, pdf.name])


def test_what_the_font_lacks_disturbs_nothing(tmp_path: Path) -> None:
    case = flat_case(["1"], name="病例 1\n\x00\udcff", warnings=("三体",), left_out=(("\udce4.png", "torn"),))
    for path in save_karyogram(case, tmp_path):
        assert path.stat().st_size > 1000


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("97002558.5", "97002558.5"),
        ("病例-1", "病例-1"),
        ("a/b", "a_b-"),
        ("../x", "x-"),
        ("", "case-"),
        ("/..", "case-"),
    ],
)
def test_names_of_cases_become_names_of_files(name: str, expected: str) -> None:
    mark = hashlib.sha256(name.encode()).hexdigest()[:8]
    assert file_stem(name) == (expected + mark if expected.endswith("-") else expected)


@given(st.text(max_size=300), st.text(max_size=300))
@settings(max_examples=50, deadline=None)
def test_stems_are_safe_and_apart(one: str, two: str) -> None:
    stem = file_stem(one)
    assert stem and "/" not in stem and "\\" not in stem and not stem.startswith(".") and len(stem) < 120
    assert stem == file_stem(one) and (one == two or stem != file_stem(two))


# -- a real cell ---------------------------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize("cell", ["97002558.5", "97002461.12"])
def test_real_cells_stand_on_a_page(cell: str, pack: Callable[[str], Path]) -> None:
    """One with three chromosomes 21, one with XXY: counts at the classes say so."""
    found = []
    with tarfile.open(pack("chromosomes_cells") / "chromosomes_cells.tar.gz") as archive:
        for member in archive:
            if f"/cells/{cell}/" in member.name and (file := archive.extractfile(member)) is not None:
                image = np.array(Image.open(io.BytesIO(file.read())).convert("L"))
                found.append(chromosome(Path(member.name).stem.split("_")[0], image))
    case = Case(cell, tuple(found), (), "47,XX,+21")
    assert len(found) == 47
    layout = lay_out(case)
    check(case, layout)
    assert unusual_types(case) == ({"21"} if cell == "97002558.5" else {"X", "Y"})
    assert layout.places.scale > 1.5
