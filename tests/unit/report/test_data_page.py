"""The page of a data set: whole, offline, and with every finding on it."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from tests import miniatures
from tests.miniatures import write_picture

from partwise.config import UserError
from partwise.data.checks import check_source
from partwise.data.sources import open_source
from partwise.report.data_page import MOST_FAULTS, data_page, write_data_page


class Balanced(HTMLParser):
    """Fails where a tag is closed that was not opened."""

    void = frozenset({"meta", "link", "img", "br", "input"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("maker", [maker for makers in miniatures.MAKERS.values() for maker in makers])
def test_a_page_of_every_layout(maker: miniatures.Maker, tmp_path: Path) -> None:
    report = check_source(open_source(maker(tmp_path / "set").source))
    page = write_data_page(report, tmp_path / "page.html").read_text()
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert all(source.startswith(("data:", "#")) for source in parser.sources)
    assert "<script" not in page and f"{report.num_pictures:,}" in page
    assert page.count("<img") == len(report.previews) > 0
    assert all(name in page for name in report.classes[:10])


def test_findings_are_named_and_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "set" / "<b>cat</b>"
    write_picture(tmp_path / "set" / "dog" / "0.png", 1)
    folder.mkdir(parents=True)
    for number in range(MOST_FAULTS + 3):
        (folder / f"{number}.png").write_bytes(b"")
    page = data_page(check_source(open_source(f"imagefolder:{tmp_path / 'set'}")))
    assert "&lt;b&gt;cat&lt;/b&gt;/0.png" in page and "<b>cat" not in page
    assert "3 more of this kind" in page
    assert re.search(r'pill bad">203 unusable', page)


def test_boxes_are_drawn_within_the_picture(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1, height=50, width=100)
    (tmp_path / "t.csv").write_text("file,label,box\na.png,cat,50 25 120 50")
    page = data_page(check_source(open_source(f"csv:{tmp_path / 't.csv'}")))
    assert 'style="left:50.0%;top:50.0%;width:50.0%;height:50.0%"' in page
    assert "box leaves its picture" in page


def test_a_data_set_without_a_readable_picture(tmp_path: Path) -> None:
    (tmp_path / "only.png").write_bytes(b"")
    assert "No picture could be read" in data_page(check_source(open_source(f"images:{tmp_path}")))


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 1)
    report = check_source(open_source(f"images:{tmp_path}"))
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        write_data_page(report, tmp_path / "file" / "page.html")
