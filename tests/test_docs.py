"""What README, docs and examples say is true: code runs, commands parse, names exist, links lead on, numbers are ours."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import urlparse

import pytest
import typer
from typer.core import TyperGroup

from partwise import api, cli
from partwise.config import Recipe, _fields_below
from partwise.data.sources import SOURCES, parse_source
from partwise.engine.study import plan
from partwise.evaluate.base import SUITES, find_evaluator
from partwise.methods.recipes import all_books, check_suites, resolve
from tests.conftest import REPOSITORY
from tests.miniatures import write_picture

PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")])
NAMES = [page.relative_to(REPOSITORY).as_posix() for page in PAGES]
EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
FIELD = re.compile(r"((?:data|model|optim|train|evaluate|method)\.[a-z_0-9.]+)(?:=(\S+))?")
FILE_NAMES = (".md", ".py", ".csv", ".html", ".safetensors")
METRIC = re.compile(rf"(?:{'|'.join(SUITES)})(?:/[a-z_0-9-]+)+")


def read(name: str) -> str:
    return (REPOSITORY / name).read_text()


def blocks(name: str, *languages: str) -> Iterator[tuple[int, str]]:
    """(line, text) of the fenced blocks of a page in one of these languages."""
    text = read(name)
    for match in FENCE.finditer(text):
        if match[2] in languages:
            indent = len(match[1])
            yield text[: match.start()].count("\n") + 2, "".join(f"{row[indent:]}\n" for row in match[3].splitlines())


def prose(name: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", read(name))


# -- python --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder with the pictures that the pages speak of."""
    for number, name in enumerate(("cat", "dog")):
        for i in range(8):
            write_picture(tmp_path / "pictures" / name / f"{i}.jpg", 10 * i + number)
            write_picture(tmp_path / "photos" / f"{name}{i}.png", 100 + 10 * i + number)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in NAMES if any(blocks(name, "python"))])
def test_python_blocks_run_one_after_the_other(name: str, place: Path) -> None:
    namespace: dict[str, Any] = {}
    for line, text in blocks(name, "python"):
        exec(compile("\n" * (line - 1) + text, str(REPOSITORY / name), "exec"), namespace)


@pytest.mark.slow
@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(
    example: Path, place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["data.size=32", "data.resize=36", "train.epochs=1", "train.threads=1", "model.backbone=resnet20"]
    if example.stem == "heatmaps":
        api.train("cutmix/imagefolder", data="imagefolder:pictures", out="run", settings=small, quiet=True)
    words = {
        "plain_loop": ["--pictures", "40", "--epochs", "1"],
        "own_folder": ["pictures", "photos", "--out", "run", *(w for setting in small for w in ("--set", setting))],
        "heatmaps": ["run", "photos/cat0.png", "--classes", "2"],
    }[example.stem]
    monkeypatch.setattr(sys, "argv", [example.name, *words])
    load(example).main()
    assert capsys.readouterr().out
    made = {"own_folder": "run/predictions/predictions.csv", "heatmaps": "heatmaps/cat0.png"}.get(example.stem)
    assert made is None or (place / made).is_file()


def load(path: Path) -> ModuleType:
    """A script as a module, which finds those beside it."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(path.parent))
    return module


# -- commands ------------------------------------------------------------------------------------------------------------


def commands() -> list[Any]:
    """Every command of a console block, and every inline one that names a verb."""
    found = []
    for name in NAMES:
        for line, text in blocks(name, "console"):
            for offset, row in enumerate(text.splitlines()):
                assert row.startswith("$ "), f"{name}, line {line + offset}: a console block holds commands only"
                found.append(pytest.param(row[2:], id=f"{name}:{line + offset}"))
        found += [
            pytest.param(code, id=f"{name}:{code}")
            for code in dict.fromkeys(INLINE.findall(prose(name)))
            if re.match(r"(partwise [a-z]|make [a-z]|python \S+\.py)", code)
        ]
    return found


@pytest.mark.parametrize("command", commands())
def test_commands_can_be_typed(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("mine.yaml", "RUN/recipe.yaml"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("recipe: cutmix/demo\n")
    program, *words = shlex.split(command, comments=True)
    if program == "partwise":
        check_partwise(words)
    elif program == "make":
        targets = re.findall(r"^([a-z]+):", read("Makefile"), re.MULTILINE)
        assert words and set(words) <= set(targets)
    elif program == "python":
        assert words[0] == "-c" or (REPOSITORY / words[0]).is_file() or words[0] == "benchmarks/training.py"
    else:
        assert program in ("pip", "source"), f"unknown program {program!r}"


def check_partwise(words: list[str]) -> None:
    """Parse a command as the program would, without doing it; recipes, settings, suites and kinds of source must exist."""
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    with group.make_context("partwise", list(words)) as context:
        verb, command, rest = group.resolve_command(context, words)
        assert verb is not None and command is not None
        if not rest:  # the verb alone, as prose names it
            return
        with command.make_context(verb, rest, parent=context) as inner:
            given = inner.params
    if verb == "train":
        recipe, _ = resolve(given["recipe"], data=given["data"], settings=given["settings"] or [])
        plan(recipe, given["grid"] or [], seeds=given["seeds"], folds=given["folds"])
    elif verb == "evaluate":
        check_suites(given["suite"] or [])
        if given["on"]:
            parse_source(given["on"])
    elif verb == "data":
        parse_source(given["source"])
    elif verb == "recipes" and given["name"] and given["name"] != "NAME":
        resolve(given["name"])


def test_every_verb_is_documented() -> None:
    group = typer.main.get_command(cli.app)
    assert isinstance(group, TyperGroup)
    text = "".join(map(read, NAMES))
    assert [verb for verb in group.commands if f"$ partwise {verb}" not in text] == []


def test_yaml_blocks_are_recipes(tmp_path: Path) -> None:
    for name in NAMES:
        for number, (_, text) in enumerate(blocks(name, "yaml")):
            path = tmp_path / f"{number}.yaml"
            path.write_text(text)
            resolve(str(path))


# -- names ---------------------------------------------------------------------------------------------------------------


def recipe_fields() -> dict[str, type[Recipe]]:
    return {field: book.model for book in all_books().values() for field in _fields_below(book.model)}


@pytest.mark.parametrize("name", NAMES)
def test_fields_exist_and_take_their_values(name: str) -> None:
    fields = recipe_fields()
    for code in INLINE.findall(prose(name)):
        match = FIELD.fullmatch(code.removeprefix("--set "))
        if match is None or code.endswith(FILE_NAMES) or code.endswith(".*"):
            continue
        group = match[2] is None and any(field.startswith(f"{match[1]}.") for field in fields)
        assert match[1] in fields or group, f"{name}: there is no field {match[1]}"
        if match[2] is not None:
            owner = next((m for m, book in all_books().items() if name == f"docs/methods/{m}.md"), "cutmix")
            resolve(f"{owner}/smoke", settings=[f"{match[1]}={match[2]}"])


def test_metrics_exist_and_are_all_explained() -> None:
    suites = {suite: find_evaluator(suite) for suite in SUITES}
    known = {f"{found.family or suite}/{metric}" for suite, found in suites.items() for metric in found.metrics}
    for name in NAMES:
        mentioned = set(METRIC.findall(" ".join(INLINE.findall(prose(name)))))
        assert mentioned <= known, name
    assert known == set(METRIC.findall(read("docs/metrics.md")))


def test_every_source_has_a_section_and_a_verdict() -> None:
    sections = {part.split("\n")[0]: part for part in read("docs/data.md").split("\n## ")[1:]}
    for kind in SOURCES:
        assert kind in sections, f"docs/data.md has no section {kind}"
        generated = ".worlds." in SOURCES[kind]
        assert generated or re.search(r"[Vv]erified", sections[kind]), f"{kind}: verified or not?"


@pytest.mark.parametrize("method", all_books())
def test_a_method_has_a_page_with_its_recipes_fields_and_paper(method: str) -> None:
    page, book = read(f"docs/methods/{method}.md"), all_books()[method]
    rows = {cells[0].strip("` "): cells for cells in table_rows(page)}
    for recipe in book.makers:
        assert recipe in rows, recipe
        claims = [c for c in book.paper.claims if c.recipe == recipe and c.metric == "classification/top1"]
        shown = [cell for cell in rows[recipe] if re.fullmatch(r"0\.\d+", cell)]
        assert shown == [f"{claim.value:.4f}" for claim in claims], recipe
    annotation = book.model.model_fields["method"].annotation
    assert isinstance(annotation, type)
    fields = [f"method.{field}" for field in annotation.model_fields]
    assert [field for field in fields if field not in rows] == []
    assert book.paper.link in page


def table_rows(text: str) -> list[list[str]]:
    """The cells of every row of every table."""
    rows = [row for row in text.splitlines() if row.startswith("| ") and not row.startswith("| ---")]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


# -- links ---------------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """What `#...` may follow a page: its headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", path.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page.relative_to(REPOSITORY).as_posix())):
        if urlparse(target).scheme:
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        found = (page.parent / path).resolve() if path else page
        assert found.is_relative_to(REPOSITORY) and found.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(found), f"{page.name}: {target}"


def test_no_page_names_a_machine() -> None:
    for file in [*PAGES, *EXAMPLES]:
        assert not re.search(r"/work/|/root/|/tmp/|localhost", file.read_text()), file.name


# -- numbers -------------------------------------------------------------------------------------------------------------


def leaves(values: Any) -> Iterator[float]:
    """Every number in a JSON."""
    if isinstance(values, dict):
        values = list(values.values())
    if isinstance(values, list):
        for inner in values:
            yield from leaves(inner)
    elif isinstance(values, (int, float)) and not isinstance(values, bool):
        yield float(values)


@pytest.mark.parametrize("page", ["README.md", "docs/results.md"])
def test_numbers_of_the_results_stand_in_their_files(page: str) -> None:
    """Read apart from benchmarks/tables.py: every measured number is a leaf of a linked file, or the median of its row."""
    rows = [
        cells for cells in table_rows(read(page)) if len(cells) == 5 and "results/" in cells[4] and cells[1][:1] != "`"
    ]
    assert rows
    for _, measured, asked, met, files in rows:
        linked = [(REPOSITORY / page).parent / target for target in re.findall(r"\(([^)]+)\)", files)]
        numbers = [number for file in linked for number in leaves(json.loads(file.read_text())["values"])]
        shown = re.findall(r"\d+(?:\.\d+)?", measured)
        median, *single = shown if len(linked) > 1 else [*shown, *shown]
        for text in single:
            digits = len(text.partition(".")[2])
            assert text in {f"{number:.{digits}f}" for number in numbers}, (page, text, files)
        assert abs(statistics.median(map(float, single)) - float(median)) <= 1.01 * 10 ** -len(median.partition(".")[2])
        if asked:
            least, limit = asked.startswith("at least"), float(asked.split()[-1])
            assert met == ("yes" if (float(median) >= limit if least else float(median) <= limit) else "no"), measured


def test_the_tables_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, "benchmarks/tables.py", "--check"], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{done.stdout}{done.stderr}: run `python benchmarks/tables.py`"


def test_a_row_of_several_seeds_is_their_median_and_only_what_was_asked_is_judged() -> None:
    tables = load(REPOSITORY / "benchmarks" / "tables.py")

    def unit(arm: str, epochs: str, seed: int, top1: float) -> dict[str, Any]:
        values = {"metrics": {"classification/top1": top1}, "train_seconds": 900.0}
        return {f"cifar10_resnet20_{arm}_{epochs}ep_seed{seed}": {"values": values}}

    asked = tables.CIFAR10_EPOCHS
    results = unit("none", asked, 0, 0.85)
    for seed, top1 in enumerate((0.853, 0.879, 0.871)):
        results |= unit("cutmix", asked, seed, top1) | unit("cutmix", "999", seed, top1)
    results |= {"training": {"values": {"cifar": {"share": 0.9, "asked": 0.93}, "note": "text"}}}
    made = {(line.title, line.measured, line.asked, line.met) for line in tables.lines(results)}
    title = "CIFAR-10, ResNet-20, mix {}, {} epochs: `classification/top1`, last weights"
    assert (title.format("cutmix", asked), "median 0.8710 of 0.8530, 0.8790, 0.8710", "at least 0.86", "yes") in made
    assert (title.format("cutmix", "999"), "median 0.8710 of 0.8530, 0.8790, 0.8710", "", "") in made
    assert (title.format("none", asked), "0.8500", "", "") in made
    assert ("Training, cifar: share", "0.90", "at least 0.93", "no") in made
