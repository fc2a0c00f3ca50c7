import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from partwise.report.page import write_page
from partwise.report.reading import read_run
from partwise.report.study_page import arms_of_runs, arms_of_study, read_study, runs_of, spread_of, write_study_page

MakeRun = Callable[..., Path]


def seeds(make_run: MakeRun, p: float, values: list[float]) -> list[Path]:
    changes = {} if p == 0.5 else {"method.p": (0.5, p)}
    return [
        make_run(
            f"p-{p}_seed-{seed}",
            seed=seed,
            metrics={"classification/top1": value},
            changes=changes | ({"train.seed": (0, seed)} if seed else {}),
        )
        for seed, value in enumerate(values)
    ]


def summary_of(values: list[float], settings: object) -> dict:
    spread = {"mean": sum(values) / len(values), "std": 0.1, "values": values}
    cell = {"name": "p-0.5", "settings": settings, "runs": ["p-0.5_seed-0"], "metrics": {"classification/top1": spread}}
    return {"recipe": "cutmix/demo", "grid": {"method.p": ["0.5"]}, "cells": [cell]}


def test_runs_that_differ_in_their_seed_are_one_arm(make_run: MakeRun) -> None:
    paths = seeds(make_run, 0.5, [0.8, 0.9]) + seeds(make_run, 1.0, [0.7])
    arms = arms_of_runs([read_run(path) for path in paths])
    assert [(arm.name, arm.metrics) for arm in arms] == [
        ("method.p=0.5", {"classification/top1": [0.8, 0.9]}),
        ("method.p=1.0", {"classification/top1": [0.7]}),
    ]


def test_runs_of_different_recipes_are_named_by_them(make_run: MakeRun) -> None:
    runs = [read_run(make_run("a")), read_run(make_run("b", recipe="cutmix/other"))]
    assert [arm.name for arm in arms_of_runs(runs)] == ["cutmix/demo", "cutmix/other"]
    assert [arm.name for arm in arms_of_runs(runs[:1])] == ["cutmix/demo"]


@pytest.mark.parametrize("values", [[0.5], [0.1, 0.4], [0.9, 0.91, 0.95], [0.3] * 4])
def test_spread_agrees_with_the_definition(values: list[float]) -> None:
    mean = sum(values) / len(values)
    spread = spread_of(values)
    assert float(spread.mean) == pytest.approx(mean, abs=5e-5) and spread.count == len(values)
    if len(values) == 1:
        assert spread.deviation == ""
    else:
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        assert float(spread.deviation.removeprefix("± ")) == pytest.approx(deviation, abs=5e-5)
    assert spread_of([]).count == 0


@pytest.mark.parametrize("settings", [["method.p=0.5"], {"method.p": 0.5}, None])
def test_a_study_is_read_from_its_summary(make_run: MakeRun, settings: object) -> None:
    runs = [read_run(path) for path in seeds(make_run, 0.5, [0.8, 0.9]) + seeds(make_run, 1.0, [0.7])]
    (arm,) = arms_of_study(summary_of([0.8, 0.9], settings), runs)
    assert arm.metrics == {"classification/top1": [0.8, 0.9]}
    assert arm.settings == ({"method.p": "0.5"} if settings else {})
    assert [run.path.name for run in arm.runs] == ["p-0.5_seed-0", "p-0.5_seed-1"]


def test_a_mean_without_its_values_still_counts() -> None:
    study = summary_of([0.5], [])
    del study["cells"][0]["metrics"]["classification/top1"]["values"]
    assert arms_of_study(study, [])[0].metrics == {"classification/top1": [0.5]}
    assert arms_of_study({"cells": [3, {"name": "a", "metrics": {"m": 1}}]}, [])[0].metrics == {"m": []}


def test_the_page_of_a_study(make_run: MakeRun, tmp_path: Path) -> None:
    cells = seeds(make_run, 0.5, [0.8, 0.9])
    out = write_study_page(
        summary_of([0.8, 0.9], ["method.p=0.5"]), [*cells, tmp_path / "p-1.0_seed-0"], tmp_path / "report.html"
    )
    html = out.read_text()
    assert (
        "Study of cutmix/demo" in html and "0.8500" in html and "± 0.0707" in html and 'title="0.8000, 0.9000"' in html
    )
    assert html.count("Title 0</h3>") == 1 and "<script" not in html


def test_a_studys_folder_stands_for_its_runs(make_run: MakeRun, tmp_path: Path) -> None:
    cells = seeds(make_run, 0.5, [0.8, 0.9])
    (tmp_path / "summary.json").write_text(json.dumps(summary_of([0.8, 0.9], [])))
    assert runs_of(tmp_path) == cells and read_study(tmp_path) is not None and read_study(cells[0]) is None
    assert write_page([tmp_path]) == tmp_path / "report.html"
    (tmp_path / "summary.json").write_text("{")
    assert read_study(tmp_path) is None


def test_unfinished_runs_and_missing_pictures_are_said_so(make_run: MakeRun) -> None:
    runs = [
        make_run("a", changes={"method.p": (0.5, 1.0)}),
        make_run("b", status="running", metrics={}, pictures=0),
    ]
    html = write_page(runs).read_text()
    assert "Some runs are not finished" in html and "No such picture." in html and "unfinished" in html
    assert html.index("method.p=1.0") < html.index("method.p=0.5")
