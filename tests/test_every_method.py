"""What every method of the table must keep: its recipes, its paper, and the whole life of its smoke run.

Finds its own subjects: a sixth method needs one line in the table, and no line here.
"""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors import safe_open

import partwise
from partwise import api, cli
from partwise.config import Recipe, build, to_yaml
from partwise.data.sources import open_source
from partwise.engine.runtime import Interruption
from partwise.evaluate.base import Classifier, Mapper, find_evaluator
from partwise.evaluate.embedding import Embedder
from partwise.evaluate.karyotype import CaseClassifier
from partwise.methods.base import CaseNamer, DataFacts, Method
from partwise.methods.recipes import all_books, find_recipe, resolve
from partwise.methods.table import METHODS, find_method, find_recipes, known_methods
from partwise.run import RunFolder
from tests.miniatures import write_picture

RECIPES = [(method, name) for method, book in all_books().items() for name in book.makers]
SETTINGS = ("data.train_limit=32", "train.epochs=2", "train.batch_size=16", "train.threads=1", "train.log_every=1")
FACTS = {name: DataFacts.of(open_source(find_recipe(f"{name}/smoke")[0].data.source)) for name in known_methods()}
"""What the networks of a method may be built for."""
METRIC = re.compile(r"[a-z_]+(@[a-z0-9_]+)?(/[a-z0-9_@-]+)+")


# -- recipes and papers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", known_methods())
def test_the_table_leads_to_a_method_and_its_book(name: str) -> None:
    method, book = find_method(name), find_recipes(name)
    assert issubclass(method, Method) and method.name == name
    assert method.paper is book.paper
    assert issubclass(book.model, Recipe)
    assert f"{name}/smoke" in book.makers and f"{name}/demo" in book.makers
    assert len((sys.modules[method.__module__].__doc__ or "").strip()) > 20


def test_configurations_import_no_torch() -> None:
    modules = [f"{target.partition(':')[0].rpartition('.')[0]}.config" for target in METHODS.values()]
    program = (
        f"import sys, importlib; [importlib.import_module(m) for m in {modules}]; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


@pytest.mark.parametrize(("method", "name"), RECIPES)
def test_a_recipe_keeps_its_contract(method: str, name: str) -> None:
    recipe, book = find_recipe(name)
    assert name.startswith(f"{method}/") and recipe.recipe == name and recipe.method_name == method
    assert isinstance(recipe, book.model)
    first, *rest = book.contract(name).splitlines()
    assert re.fullmatch(r"[A-Z].{20,}\.", first), first
    commands = [line.strip() for line in rest if line.strip().startswith("partwise train ")]
    assert commands and commands[0].split()[2] == name, "the docstring gives the command"
    assert resolve(name)[0] == recipe  # suites, source and fields go together
    assert build(book.model, yaml.safe_load(to_yaml(recipe)), name) == recipe
    assert recipe.evaluate.best_by.split("/")[0] in recipe.evaluate.during


@pytest.mark.parametrize("method", known_methods())
def test_every_field_of_a_method_says_what_it_is(method: str) -> None:
    section = find_recipes(method).model.model_fields["method"].annotation
    assert section is not None
    for name, field in section.model_fields.items():
        assert field.description, f"method.{name}"


@pytest.mark.parametrize(("method", "name"), RECIPES)
def test_a_recipe_builds_its_networks(method: str, name: str) -> None:
    """On the meta device: shapes without memory, so that the largest costs nothing."""
    recipe, _ = find_recipe(name)
    with torch.device("meta"):
        made = find_method(method)(recipe, FACTS[method])
    assert made.networks().keys() == made.specs().keys() != set()
    sizes = [sum(parameter.numel() for parameter in network.parameters()) for network in made.networks().values()]
    assert max(sizes) > 1000
    for suite in recipe.evaluate.suites:
        assert isinstance(made, find_evaluator(suite).needs)


@pytest.mark.parametrize("name", known_methods())
def test_claims_name_a_recipe_and_a_number_that_it_measures(name: str) -> None:
    book = find_recipes(name)
    assert book.paper.title and 2010 < book.paper.year < 2100 and book.paper.link.startswith("https://")
    assert book.paper.claims
    for claim in book.paper.claims:
        assert claim.recipe in book.makers, claim
        suites = [find_evaluator(suite) for suite in book.makers[claim.recipe]().evaluate.suites]
        measured = {f"{suite.family or suite.suite}/{metric}" for suite in suites for metric in suite.metrics}
        assert METRIC.fullmatch(claim.metric) and claim.metric in measured, claim
        assert 0 <= claim.value <= 1 and claim.data and claim.table, claim
    assert len({(claim.metric, claim.data, claim.recipe) for claim in book.paper.claims}) == len(book.paper.claims)


# -- the life of a smoke run ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Smoke:
    """A finished smoke run, and the method as it was when its training ended."""

    method: Method
    path: Path

    @property
    def recipe(self) -> str:
        return f"{self.method.name}/smoke"

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.path)


@pytest.fixture(scope="module", params=known_methods())
def smoke(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Smoke]:
    """One run for all tests of a method; those that would change it take a copy."""
    seen: list[Method] = []
    save = api.save_trained
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(api, "save_trained", lambda folder, method: (seen.append(method), save(folder, method)))
        out = tmp_path_factory.mktemp(request.param) / "run"
        made = partwise.train(f"{request.param}/smoke", out=out, settings=SETTINGS, quiet=True)
    assert made == out
    yield Smoke(seen[0], out)


def again(smoke: Smoke, out: Path, *more: str) -> RunFolder:
    """The same recipe into another folder."""
    return RunFolder(partwise.train(smoke.recipe, out=out, settings=(*SETTINGS, *more), quiet=True))


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    return [{name: v for name, v in line.items() if name != "images_per_second"} for line in folder.read_metrics()]


def test_the_run_folder_is_as_designed(smoke: Smoke) -> None:
    wanted = {"recipe.yaml", "changes.yaml", "environment.json", "metrics.jsonl", "summary.json", "model.safetensors"}
    wanted |= {"products", "checkpoints", "pictures", "report.html", ".lock"}
    assert {path.name for path in smoke.path.iterdir()} == wanted
    assert {path.name for path in smoke.folder.checkpoints.iterdir()} == {"last.safetensors", "best.safetensors"}
    summary = smoke.folder.read_summary()
    assert {path.name for path in smoke.folder.products.iterdir()} == {stage["name"] for stage in summary["stages"]}
    pictures = {path.name for path in smoke.folder.pictures.iterdir()}
    assert pictures
    for name in pictures:
        stem, _, suffix = name.rpartition(".")
        assert suffix in ("png", "json", "csv") and {f"{stem}.png", f"{stem}.json"} <= pictures, name


def test_the_summary_is_complete(smoke: Smoke) -> None:
    summary = json.loads(smoke.folder.summary.read_text())
    wanted = {"recipe", "method", "status", "seed", "metrics", "detail", "stages", "paper", "faults"}
    assert set(summary) == wanted
    assert (summary["recipe"], summary["method"], summary["status"]) == (smoke.recipe, smoke.method.name, "finished")
    for stage in summary["stages"]:
        assert set(stage) == {"name", "steps", "seconds", "images_per_second"} and stage["steps"] > 0
    suites = [find_evaluator(suite) for suite in smoke.method.recipe.evaluate.suites]
    splits = {
        f"{suite.family or suite.suite}/{metric}": suite.split or "test" for suite in suites for metric in suite.metrics
    }
    assert all(
        any(splits.keys() & {f"{s.family or s.suite}/{m}" for m in s.metrics} & set(summary["metrics"])) for s in suites
    )
    for name, value in summary["metrics"].items():
        assert METRIC.fullmatch(name) and isinstance(value, float), name
        assert {"split", "n", "weights"} <= set(summary["detail"][name]), name
        assert summary["detail"][name]["split"] == splits[name]


def test_recipe_changes_and_environment_are_complete(smoke: Smoke) -> None:
    stored = yaml.safe_load(smoke.folder.recipe.read_text())
    assert stored == yaml.safe_load(to_yaml(smoke.method.recipe))
    changes = yaml.safe_load(smoke.folder.changes.read_text())
    assert set(changes) <= {setting.split("=")[0] for setting in SETTINGS}
    assert changes["data.train_limit"] == {"recipe": None, "here": 32}
    environment = smoke.folder.read_environment()
    wanted = {"versions", "device", "precision", "threads", "command", "commit", "data", "platform"}
    assert set(environment) == wanted
    assert environment["threads"] == 1 and environment["data"]["fingerprint"]


def test_metrics_lines_are_in_order(smoke: Smoke) -> None:
    written = smoke.folder.read_metrics()
    assert {"step", "evaluation"} <= {line["kind"] for line in written}
    for stage in {line["stage"] for line in written}:
        steps = [line["step"] for line in written if line["stage"] == stage and line["kind"] == "step"]
        assert steps == sorted(set(steps))


@pytest.mark.slow
def test_its_own_recipe_file_repeats_it_bit_by_bit(smoke: Smoke, tmp_path: Path) -> None:
    made = RunFolder(partwise.train(str(smoke.folder.recipe), out=tmp_path / "run", quiet=True))
    assert made.model.read_bytes() == smoke.folder.model.read_bytes()
    assert made.recipe.read_bytes() == smoke.folder.recipe.read_bytes()
    assert lines(made) == lines(smoke.folder)
    for name in ("metrics", "detail", "paper", "faults"):
        assert made.read_summary()[name] == smoke.folder.read_summary()[name]


@pytest.mark.slow
def test_another_seed_gives_other_weights(smoke: Smoke, tmp_path: Path) -> None:
    made = again(smoke, tmp_path / "run", "train.seed=1", "evaluate.suites=[]", "evaluate.during=[]")
    assert made.model.read_bytes() != smoke.folder.model.read_bytes()
    assert made.read_summary()["seed"] == 1


@pytest.mark.slow
def test_stopped_after_every_step_it_ends_the_same(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C wherever the loop looks for it, the same command again, until it is done."""

    def look(interruption: Interruption) -> bool:
        if not vars(interruption).get("asked"):
            vars(interruption)["asked"] = True
            os.kill(os.getpid(), signal.SIGINT)
        return bool(vars(interruption).get("requested"))

    def note(interruption: Interruption, value: bool) -> None:
        vars(interruption)["requested"] = value

    monkeypatch.setattr(Interruption, "requested", property(look, note))
    words = ["train", smoke.recipe, "--out", str(tmp_path / "run"), "--quiet"]
    words += [word for setting in SETTINGS for word in ("--set", setting)]
    total = sum(stage["steps"] for stage in smoke.folder.read_summary()["stages"])
    statuses = [cli._status(words, False)]
    while statuses[-1] == 130 and len(statuses) <= total + 2:
        assert capsys.readouterr().err == "partwise: interrupted; the state is saved, the same command continues\n"
        assert RunFolder(tmp_path / "run").status() == "running"
        statuses.append(cli._status(words, False))
    assert statuses[-1] == 0 and len(statuses) > 2
    made = RunFolder(tmp_path / "run")
    assert made.model.read_bytes() == smoke.folder.model.read_bytes()
    assert lines(made) == lines(smoke.folder)
    assert made.read_summary()["metrics"] == smoke.folder.read_summary()["metrics"]


def test_a_finished_run_is_left_alone(smoke: Smoke, capsys: pytest.CaptureFixture[str]) -> None:
    before = {
        path: path.stat().st_mtime_ns for path in smoke.path.rglob("*") if path.is_file() and path.name != ".lock"
    }
    words = ["train", str(smoke.folder.recipe), "--out", str(smoke.path)]
    assert cli._status(words, False) == 0
    assert "is finished; --fresh starts anew" in " ".join(capsys.readouterr().err.split())
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_dry_run_tells_and_writes_nothing(
    smoke: Smoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word for setting in SETTINGS for word in ("--set", setting)]
    assert cli._status(["train", smoke.recipe, "--dry-run", "--out", "run", *words], False) == 0
    said = dict(line.split("  ", 1) for line in capsys.readouterr().out.splitlines())
    assert {"recipe", "train pictures", "memory"} <= set(said) and said["train pictures"].strip() == "32"
    assert list(tmp_path.iterdir()) == []


def test_load_gives_what_was_trained(smoke: Smoke) -> None:
    loaded = partwise.load(smoke.path)
    assert loaded.classes == tuple(smoke.method.classes)
    for prefix, network in smoke.method.networks().items():
        state = loaded.method.networks()[prefix].state_dict()
        assert all(torch.equal(state[name], tensor) for name, tensor in network.state_dict().items())
    size = smoke.method.recipe.data.size
    channels = smoke.method.facts.channels
    images = torch.rand(3, channels, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        if isinstance(smoke.method, Classifier):
            assert torch.equal(loaded.method.logits(images), smoke.method.logits(images))  # type: ignore[attr-defined]
        if isinstance(smoke.method, CaseClassifier):
            for ours, theirs in zip(*(m.chromosome_logits(images) for m in (loaded.method, smoke.method)), strict=True):
                assert torch.equal(ours, theirs)
        if isinstance(smoke.method, Mapper):
            assert torch.equal(loaded.method.maps(images), smoke.method.maps(images))  # type: ignore[attr-defined]
    for ours, theirs in zip(loaded.predict(images), smoke.method.predict(images), strict=True):
        for field in dataclasses.fields(ours):
            np.testing.assert_array_equal(getattr(ours, field.name), getattr(theirs, field.name))


def test_predict_writes_a_table_and_a_picture_of_each(smoke: Smoke, tmp_path: Path) -> None:
    if isinstance(smoke.method, CaseNamer):
        pytest.skip("its pictures are those of cases")
    sizes = {"a.jpg": (40, 56), "deep/b.png": (64, 32), "c.bmp": (9, 9)}
    for seed, (name, (height, width)) in enumerate(sizes.items()):
        write_picture(tmp_path / "mine" / name, seed, height=height, width=width)
    made = partwise.predict(smoke.path, [tmp_path / "mine"], out=tmp_path / "found", quiet=True)
    assert (made.count, made.faults) == (3, {})
    with (made.out / "predictions.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert set(rows) == set(sizes)
    if isinstance(smoke.method, Embedder):
        check_embeddings(made.out / "embeddings.safetensors", rows)
    for name, row in rows.items():
        stem = name.rpartition(".")[0].replace("/", "_")
        with Image.open(made.out / "pictures" / f"{stem}.png") as picture:
            assert (picture.height, picture.width) == sizes[name]
        if isinstance(smoke.method, Embedder):
            continue
        assert {label for label in row["label"].split(";") if label} <= set(smoke.method.classes)
        chances = (
            [row["probability"]] if "probability" in row else [row[f"p({label})"] for label in smoke.method.classes]
        )
        assert all(0 <= float(chance) <= 1 for chance in chances)
        if smoke.method.native:
            check_mask(made.out / "masks" / f"{stem}.png", row, smoke.method.classes)
    if smoke.method.native:
        content = json.loads((made.out / "coco.json").read_text())
        assert {image["file_name"]: (image["height"], image["width"]) for image in content["images"]} == sizes
        assert [category["name"] for category in content["categories"]] == list(smoke.method.classes)


def check_embeddings(path: Path, rows: dict[str, dict[str, str]]) -> None:
    """A vector a file, and the table names the file whose vector points the same way most."""
    with safe_open(path, framework="np") as file:
        names, vectors = json.loads(file.metadata()["files"]), file.get_tensor("embeddings").astype(np.float64)
    assert set(names) == set(rows) and vectors.shape[0] == len(names)
    for place, name in enumerate(names):
        cosines = {
            other: float(vectors[place] @ vectors[k] / np.linalg.norm(vectors[place]) / np.linalg.norm(vectors[k]))
            for k, other in enumerate(names)
            if other != name
        }
        assert rows[name]["nearest"] == max(cosines, key=lambda other: cosines[other])
        assert float(rows[name]["cosine"]) == pytest.approx(max(cosines.values()), abs=1e-5)


def check_mask(path: Path, row: dict[str, str], classes: Sequence[str]) -> None:
    """A palette PNG of the classes' indices, and the shares of the table are those of its pixels."""
    with Image.open(path) as image:
        assert image.mode == "P"
        values = np.array(image)
    for number, name in enumerate(classes, start=1):
        assert float(row[f"share({name})"]) == pytest.approx(float((values == number).mean()), abs=1e-6)
    assert row["label"] == ";".join(name for number, name in enumerate(classes, start=1) if (values == number).any())


class Page(HTMLParser):
    """What a page shows and what it would fetch."""

    VOID = frozenset(
        {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
    )

    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[str] = []
        self.fetched: list[str] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.crossed: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(values.get("src", ""))
        elif tag == "a":
            self.links.append(values.get("href", ""))
        elif tag in ("script", "link", "iframe", "object", "embed", "source"):
            address = values.get("src", values.get("href", values.get("data", "")))
            if not address.startswith("data:"):
                self.fetched.append(f"{tag} {values}")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.crossed.append(tag)


def test_the_report_is_one_whole_page(smoke: Smoke) -> None:
    text = smoke.folder.report.read_text(encoding="utf-8")
    page = Page(text)
    assert text.lower().startswith("<!doctype html>") and page.open == [] and page.crossed == []
    assert page.fetched == [] and "<script" not in text
    assert "@import" not in text and not re.search(r"url\((?!['\"]?(data:|#))", text)
    assert len(page.images) >= len(smoke.folder.read_pictures())
    assert all(source.startswith(("data:image/png;base64,", "data:image/svg+xml")) for source in page.images)
    allowed = (smoke.method.paper.link, "#", "data:")
    assert all(link.startswith(allowed) for link in page.links), page.links
    for picture in smoke.folder.read_pictures():
        assert picture.title in text


@pytest.mark.slow
def test_evaluation_repeats_and_adds_to_the_summary(smoke: Smoke, tmp_path: Path) -> None:
    made = again(smoke, tmp_path / "run", "evaluate.suites=[]", "evaluate.during=[]")
    assert made.read_summary()["metrics"] == {}
    assert made.model.read_bytes() == smoke.folder.model.read_bytes()  # measuring changes no weights
    suites = smoke.method.recipe.evaluate.suites
    measured = api.evaluate(made.path, suites=suites, quiet=True)
    wanted = smoke.folder.read_summary()["metrics"]
    assert measured == made.read_summary()["metrics"] == wanted

    source = smoke.method.recipe.data.source
    foreign = f"{source}{'&' if '?' in source else '?'}seed=5"
    kind = source.partition(":")[0]
    added = api.evaluate(made.path, on=foreign, suites=suites[:1], quiet=True)
    assert added and all(name.startswith(f"{suites[0]}@{kind}/") for name in added)
    summary = made.read_summary()
    assert summary["metrics"] == measured | added
    assert set(added) <= set(summary["detail"]) and summary["status"] == "finished"
    assert all(name in made.report.read_text(encoding="utf-8") for name in added)
