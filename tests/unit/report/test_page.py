from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from partwise.config import UserError
from partwise.report.page import write_page
from partwise.run import RunFolder

MakeRun = Callable[..., Path]
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Reader(HTMLParser):
    """Checks that tags are closed in order, and collects text and addresses."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not any(name.startswith("on") for name, _ in attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def read(path: Path) -> Reader:
    return Reader(path.read_text(encoding="utf-8"))


def test_one_run_is_one_self_contained_page(make_run: MakeRun) -> None:
    run = make_run(paper=[{"metric": "classification/top1", "data": "CIFAR-10", "value": 0.9, "table": "table 7"}])
    out = write_page([run])
    assert out == run / "report.html"
    page = read(out)
    assert "script" not in page.tags
    assert all(address.startswith(("data:", "#")) for address in page.addresses)
    assert "url(" not in out.read_text().replace("url(data:", "")
    for words in (
        "0.9125",
        "paper 0.9000",
        "+0.0125",
        "test · n = 2,000 · last weights",
        "1 min 15 s",
        "640",
        "seed: 0",
    ):
        assert words in page.text, words
    assert "No picture, mask or label had to be set aside." in page.text


def test_what_was_logged_is_drawn(make_run: MakeRun) -> None:
    html = write_page([make_run(logged=True, pictures=0)]).read_text()
    titles = ["Loss, train", "Classification, val", "Classification nll, val", "Learning rate"]
    assert [title for title in titles if f'alt="{title}"' in html] == titles and html.count("<img") == 4


def test_pictures_come_in_their_order_with_their_numbers(make_run: MakeRun) -> None:
    text = read(write_page([make_run(pictures=3)])).text
    places = [text.index(f"Title {number} Caption {number}") for number in range(3)]
    assert places == sorted(places)
    assert "test/0 0.1235" in text and "Save as CSV" in text


def test_the_same_run_gives_the_same_bytes(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run(logged=True)
    pages = [write_page([run], tmp_path / name).read_bytes() for name in ("a.html", "b.html")]
    assert pages[0] == pages[1]


def test_everything_from_files_is_escaped(make_run: MakeRun) -> None:
    evil = "<script>alert(1)</script>\"'&"
    claim = {"metric": evil, "data": evil, "value": 1, "title": evil, "year": evil, "link": "javascript:alert(1)"}
    run = make_run(
        changes={evil: (evil, evil)},
        status=evil,
        recipe=evil,
        error=evil,
        method=evil,
        metrics={evil: 0.5},
        detail={evil: {"split": evil, "n": evil, "weights": evil}},
        stages=[{"name": evil}],
        paper=[claim],
        faults={evil: [evil]},
    )
    folder = RunFolder(run)
    folder.write_environment({evil: evil})
    png = next(folder.pictures.glob("*.png")).read_bytes()
    folder.write_picture("evil", png, title=evil, caption=evil, order=0, rows=[{evil: evil}])
    folder.append_metrics({"kind": "step", "stage": evil, "step": 1, f"loss{evil}": 1.0})
    folder.recipe.write_text(f"a: |\n  {evil}\n")
    for out in (write_page([run]), write_page([run, run], run / "two.html")):
        page = read(out)
        assert "script" not in page.tags and evil in page.text
        assert not any(address.startswith("javascript") for address in page.addresses)


@pytest.mark.parametrize("status", ["running", "stopped", "failed"])
def test_an_unfinished_run_says_so_plainly(make_run: MakeRun, status: str) -> None:
    page = read(write_page([make_run(status=status, metrics={}, pictures=0)]))
    assert "not finish" in page.text or "stopped before its end" in page.text
    assert "No metric has been measured yet." in page.text and "#pictures" not in page.addresses


def test_a_run_that_has_only_begun(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("recipe: cutmix/demo\n")
    page = read(write_page([tmp_path]))
    assert "unfinished" in page.text and "There is no environment.json." in page.text


def test_numbers_that_are_none_become_a_dash(make_run: MakeRun) -> None:
    run = make_run(metrics={"classification/top1": None, "classification/nll": 0.25})
    (run / "summary.json").write_text((run / "summary.json").read_text().replace("0.25", "NaN"))
    page = read(write_page([run]))
    assert "classification/nll –" in page.text and "No metric has been measured yet." in page.text


def test_odd_summaries_still_make_a_page(make_run: MakeRun) -> None:
    run = make_run(metrics=[1], detail="x", stages={"a": 1}, paper={"title": "t"}, faults=3)
    assert "No metric has been measured yet." in read(write_page([run])).text


@pytest.mark.parametrize(
    ("claim", "ours", "tone"),
    [
        ({"metric": "classification/top1", "value": 0.9}, 0.95, "good"),
        ({"metric": "classification/top1", "value": 0.9}, 0.85, ""),
        ({"metric": "classification/nll", "value": 0.9}, 0.85, "good"),
        ({"metric": "made/up", "value": 0.9, "higher_is_better": False}, 0.85, "good"),
    ],
)
def test_the_papers_number_is_judged_by_its_direction(make_run: MakeRun, claim: dict, ours: float, tone: str) -> None:
    html = write_page([make_run(metrics={claim["metric"]: ours}, paper=[claim])]).read_text()
    sign = "+" if ours > 0.9 else "−"
    assert f'<td class="n {tone}">{sign}0.0500</td>' in html


def test_a_claim_about_another_recipe_is_not_compared(make_run: MakeRun) -> None:
    claim = {"metric": "classification/top1", "value": 0.9, "recipe": "cutmix/imagenet-resnet50", "note": "best epoch"}
    text = read(write_page([make_run(paper=[claim])])).text
    assert "recipe cutmix/imagenet-resnet50 best epoch 0.9000 0.9125 –" in text and "paper 0.9" not in text


def test_several_runs_go_side_by_side(make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run(f"s{seed}", seed=seed, changes={"train.seed": (0, seed)}) for seed in (0, 1)]
    write_page(runs[:1])
    out = write_page(runs)
    assert out == tmp_path / "report.html"
    page = read(out)
    assert "1 arm 2 runs" in page.text and "0.9125 ± 0 n = 2" in page.text
    assert "s0/report.html" in page.addresses and "s1/report.html" not in page.addresses


def test_nothing_to_show_or_nowhere_to_write_is_the_users_mistake(make_run: MakeRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one"):
        write_page([])
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write the page"):
        write_page([make_run()], tmp_path / "file" / "report.html")
