import base64
import csv
import io
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image

from partwise.report.case import NO_DEVICE, Case, Chromosome
from partwise.report.karyogram import save_karyogram
from partwise.report.karyogram_page import (
    LARGE,
    MOST_LARGE,
    SMALL,
    cases_page,
    karyogram_table,
    most_doubtful_first,
    write_cases_page,
)
from partwise.report.predictions import write_rows

WEIRD = "<script>alert('1')</script>&\"x\".png"


def case(name: str, *, doubtful: int = 0, moved: int = 0, warnings: int = 0, left_out: int = 0, p: float = 0.9) -> Case:
    image = np.full((40, 12), 90, np.uint8)
    found = [
        Chromosome(f"{name}/{n}.png", image, "21", p, ("22", 0.0123456789), n % 2, 0.75, n % 2 == 0, n < doubtful, n < moved)
        for n in range(4)
    ]  # fmt: skip
    texts = tuple(f"warning {n} of {name}" for n in range(warnings))
    return Case(name, tuple(found), texts, "46,XX", tuple((f"torn-{n}.png", "is torn") for n in range(left_out)))


class Reader(HTMLParser):
    """Tags, their attributes and the text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def every(self, tag: str, attribute: str) -> list[str]:
        return [str(found[attribute]) for name, found in self.tags if name == tag and attribute in found]


def test_the_table_has_a_row_a_chromosome(tmp_path: Path) -> None:
    cases = [case("a", doubtful=1, p=0.123456789), case("b", moved=2), Case("empty", (), (), "")]
    rows = karyogram_table(cases)
    write_rows(tmp_path / "table.csv", rows)
    with (tmp_path / "table.csv").open(newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file))
    assert list(read[0]) == [
        "case", "file", "type", "probability", "second_type", "second_probability", "polarity", "polarity_probability",
        "turned", "doubtful", "moved",
    ]  # fmt: skip
    flat = [(one.name, found) for one in cases for found in one.chromosomes]
    assert len(read) == len(flat) == 8
    for row, (name, found) in zip(read, flat, strict=True):
        assert (row["case"], row["file"], row["type"], row["second_type"]) == (name, found.file, "21", "22")
        assert float(row["probability"]) == pytest.approx(found.probability, abs=1e-6)
        assert float(row["second_probability"]) == 0.012346 and float(row["polarity_probability"]) == 0.75
        assert int(row["polarity"]) == found.polarity
        flags = [row[name] == "1" for name in ("turned", "doubtful", "moved")]
        assert flags == [found.turned, found.doubtful, found.moved]
    assert karyogram_table([]) == []


def test_the_most_doubtful_case_comes_first() -> None:
    right = [
        case("many marks", doubtful=3, moved=1),
        case("one mark and a warning", doubtful=1, warnings=1),
        case("one mark", moved=1),
        case("two warnings", warnings=2),
        case("one warning", warnings=1),
        case("left out", left_out=1),
        case("unsure", p=0.5),
        case("a"),
        case("b"),
    ]
    for shuffled in (right[::-1], right[3:] + right[:3]):
        assert [one.name for one in most_doubtful_first(shuffled)] == [one.name for one in right]
    page = cases_page(right[::-1])
    places = [page.index(f'">{one.name}</a>') for one in right]
    assert places == sorted(places)


def test_the_page_says_everything_and_needs_nothing(tmp_path: Path) -> None:
    cases = [case("calm"), case("cell 5/x", doubtful=2, moved=1, warnings=2, left_out=1)]
    target = write_cases_page(cases, tmp_path / "report.html", title="My cases", folder="karyo grams")
    page = target.read_text(encoding="utf-8")
    reader = Reader(page)
    text = " ".join(" ".join(reader.text).split())
    for words in (
        "My cases",
        NO_DEVICE,
        "structural analysis not performed",
        "warning 1 of cell 5/x",
        "torn-0.png: is torn",
    ):
        assert words in text
    assert "2 cases" in text and "8 chromosomes" in text and "Chromosomes to look at (2)" in text
    assert not [tag for tag, _ in reader.tags if tag in ("script", "iframe", "object", "form")]
    assert all(source.startswith("data:image/png;base64,") for source in reader.every("img", "src"))
    assert len(reader.every("img", "src")) == 2
    for one in cases:
        saved = save_karyogram(one, tmp_path / "karyo grams", width=600)
        links = [link for link in reader.every("a", "href") if not link.startswith("#")]
        assert {path.relative_to(tmp_path).as_posix() for path in saved} <= {unquote(link) for link in links}
        assert not any(" " in link or ":" in link for link in links)
    anchors = [link[1:] for link in reader.every("a", "href") if link.startswith("#")]
    assert set(anchors) <= set(reader.every("section", "id")) | set(reader.every("h2", "id"))


def test_cells_of_one_specimen_are_counted_together() -> None:
    def cell(name: str, iscn: str, specimen: str) -> Case:
        return replace(case(name), iscn=iscn, specimen=specimen)

    cells = [cell("7.1", "46,XX", "7"), cell("8.1", "45,X", "8"), cell("7.2", "47,XX,+21", "7"), case("alone")]
    page = cases_page([*cells, Case("7.3", (), (), "0,?", specimen="7")])
    text = " ".join(" ".join(Reader(page).text).split())
    assert "7 7.1, 7.2 mos 47,XX,+21[1]/46,XX[1]" in text and "45,X[1]" not in text
    assert 'href="#specimens"' in page and 'id="specimens"' in page
    assert "specimens" not in cases_page([cell("8.1", "45,X", "8"), case("alone")])


def test_names_are_text_and_never_markup() -> None:
    weird = case(WEIRD, doubtful=1, warnings=1, left_out=1)
    weird = Case(WEIRD, weird.chromosomes, (WEIRD,), WEIRD, ((WEIRD, WEIRD),))
    page = cases_page([weird], title=WEIRD)
    assert "<script" not in page
    reader = Reader(page)
    assert WEIRD in "".join(reader.text) and "script" not in [tag for tag, _ in reader.tags]


def test_pictures_are_the_karyograms_and_small_after_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("partwise.report.karyogram_page.MOST_LARGE", 1)
    assert MOST_LARGE > 1
    reader = Reader(cases_page([case("b"), case("a")]))
    sizes = []
    for source in reader.every("img", "src"):
        image = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        sizes.append(image.width)
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        assert (pixels == 255).all(-1).mean() > 0.5 and (np.abs(pixels.astype(int) - 90).max(-1) <= 8).any()
    assert sizes == [LARGE, SMALL]


def test_no_cases_say_so_and_pages_repeat() -> None:
    assert "There are no cases to show" in cases_page([])
    cases = [case("a", doubtful=1), Case("empty", (), ("no chromosome",), "", ())]
    assert cases_page(cases) == cases_page(cases)
