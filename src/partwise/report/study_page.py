"""Several runs on one page: mean and spread over seeds for each arm of a study, bars, and their pictures in columns.

An arm is a set of runs that differ in nothing but their seed (or fold). No verdicts here.
"""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partwise.report import wording
from partwise.report.charts import bars
from partwise.report.reading import RunFacts, ShownPicture, Status, comparable, read_run, status_of
from partwise.report.rendering import Drawn, drawn, render, save
from partwise.run import RunFolder

REPEATS = frozenset({"train.seed", "data.fold"})
MOST_BARS = 6
RUN_METRICS = 4


@dataclass(frozen=True)
class Arm:
    """Runs that share their settings: `metrics[name]` holds one value a run, `runs` those that could be read."""

    name: str
    settings: dict[str, str]
    metrics: dict[str, list[float]]
    runs: list[RunFacts]


@dataclass(frozen=True)
class Spread:
    """Mean and spread of one metric in one arm, as text, with every single value."""

    mean: str
    deviation: str
    count: int
    values: str


@dataclass(frozen=True)
class RunRow:
    """One run in the list of runs: `link` is its own page, relative to this one, or empty."""

    name: str
    arm: str
    seed: str
    status: Status
    values: list[str]
    link: str


def read_study(path: Path) -> dict[str, Any] | None:
    """The summary of a study's folder, or None where the folder is no study."""
    summary = Path(path) / "summary.json"
    if RunFolder(path).exists() or not summary.is_file():
        return None
    try:
        values = json.loads(summary.read_text(encoding="utf-8"))
    except ValueError:
        return None
    return values if isinstance(values, dict) and isinstance(values.get("cells"), list) else None


def runs_of(path: Path) -> list[Path]:
    """Every run folder below a study's folder, in order of name."""
    return sorted(recipe.parent for depth in ("*", "*/*") for recipe in Path(path).glob(f"{depth}/recipe.yaml"))


def write_study_page(summary: Mapping[str, Any], cells: Sequence[Path], out: Path) -> Path:
    """Write the page of a study from its summary; `cells` are the run folders that lend pictures and states;
    those that have not begun are left out.

    `summary` is OUT/summary.json: `recipe`, `grid`, and `cells` with `name`, `settings`, `seeds` and
    `metrics[suite/metric] = {mean, std, values}`.
    """
    runs = [read_run(Path(cell)) for cell in cells if RunFolder(cell).exists()]
    arms = arms_of_study(summary, runs)
    grid = summary.get("grid")
    about = {str(key): wording.text(value) for key, value in grid.items()} if isinstance(grid, Mapping) else {}
    title = f"Study of {wording.text(summary.get('recipe'))}"
    return save(Path(out), render("study.html", _context(title, arms, runs, about, Path(out))))


def write_comparison(runs: Sequence[RunFacts], out: Path) -> Path:
    """Write a page of finished or unfinished runs side by side; runs that differ only in their seed become one arm."""
    names = list(dict.fromkeys(run.name for run in runs))
    title = f"{len(runs)} runs of {names[0]}" if len(names) == 1 else f"{len(runs)} runs side by side"
    return save(Path(out), render("study.html", _context(title, arms_of_runs(runs), list(runs), {}, Path(out))))


def arms_of_runs(runs: Sequence[RunFacts]) -> list[Arm]:
    """Group runs by recipe and by what differs from it, the seed aside; an arm is named by what sets it apart."""
    groups: dict[tuple[str, tuple[tuple[str, str], ...]], list[RunFacts]] = {}
    for run in runs:
        settings = tuple(sorted((key, here) for key, (_, here) in run.changes.items() if key not in REPEATS))
        groups.setdefault((run.name, settings), []).append(run)
    originals = {key: old for run in runs for key, (old, _) in run.changes.items() if key not in REPEATS}
    complete = [originals | dict(settings) for _, settings in groups]
    apart = [key for key in originals if len({settings[key] for settings in complete}) > 1]
    several = len({name for name, _ in groups}) > 1
    arms = []
    for (name, settings), members in groups.items():
        values = originals | dict(settings)
        words = ", ".join(f"{key}={values[key]}" for key in apart)
        label = " ".join(part for part in (name if several or not apart else "", words) if part)
        arms.append(Arm(label, dict(settings), _collect(members), members))
    return arms


def _collect(runs: Sequence[RunFacts]) -> dict[str, list[float]]:
    """Metric -> its finite values, one a run."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for name, raw in run.metrics.items():
            value = wording.as_float(raw)
            if value is not None:
                found.setdefault(name, []).append(value)
    return found


def arms_of_study(summary: Mapping[str, Any], runs: Sequence[RunFacts]) -> list[Arm]:
    """The cells of a study's summary, each with the runs it lists or that are named after it."""
    arms = []
    for cell in summary.get("cells") or []:
        if not isinstance(cell, Mapping):
            continue
        name = str(cell.get("name") or "all")
        metrics = cell.get("metrics")
        listed = [str(run) for run in cell.get("runs") or []]
        members = [run for run in runs if run.path.name in (name, *listed) or run.path.name.startswith(f"{name}_seed-")]
        values = {str(k): _values(v) for k, v in metrics.items()} if isinstance(metrics, Mapping) else {}
        arms.append(Arm(name, _pairs(cell.get("settings")), values, members))
    return arms


def _pairs(settings: Any) -> dict[str, str]:
    """Settings as a mapping, or as a list of `field=value`."""
    if isinstance(settings, Mapping):
        return {str(key): wording.text(value) for key, value in settings.items()}
    parts = [str(item).partition("=") for item in settings] if isinstance(settings, list) else []
    return {key: value for key, _, value in parts}


def _values(spread: Any) -> list[float]:
    """The single values of a metric's entry, or its mean where they were not kept."""
    if not isinstance(spread, Mapping):
        return []
    kept = spread.get("values")
    raw = kept if isinstance(kept, list) else [spread.get("mean")]
    return [value for value in map(wording.as_float, raw) if value is not None]


def spread_of(values: Sequence[float]) -> Spread:
    """Mean, standard deviation (n - 1) and count."""
    if not values:
        return Spread(wording.NOTHING, "", 0, "")
    deviation = f"± {wording.number(statistics.stdev(values))}" if len(values) > 1 else ""
    return Spread(
        wording.number(statistics.fmean(values)), deviation, len(values), ", ".join(map(wording.number, values))
    )


def _context(
    title: str, arms: Sequence[Arm], runs: Sequence[RunFacts], about: Mapping[str, str], out: Path
) -> dict[str, Any]:
    """Everything `study.html` shows."""
    present = list(dict.fromkeys(name for arm in arms for name in arm.metrics))
    order = [name for name in wording.HEADLINES if name in present]
    metrics = [*order, *(name for name in present if name not in order)]
    listed = metrics[:RUN_METRICS]
    papers = {str(claim["metric"]): claim for run in runs for claim in run.claims if comparable(claim, run)}
    return {
        "title": title,
        "about": about,
        "arms": arms,
        "metrics": [
            {
                "name": name,
                "meaning": wording.meaning(name),
                "paper": wording.number(papers[name].get("value")) if name in papers else wording.NOTHING,
                "where": ", ".join(wording.text(papers[name][k]) for k in ("data", "table") if papers[name].get(k))
                if name in papers
                else "",
                "cells": [spread_of(arm.metrics.get(name, [])) for arm in arms],
            }
            for name in metrics
        ],
        "has_paper": bool(papers),
        "settings": _settings(arms),
        "bars": _draw_bars(arms, metrics),
        "listed": listed,
        "rows": [_run_row(run, arms, listed, out) for run in runs],
        "pictures": _columns(arms),
        "problems": [problem for run in runs for problem in run.problems],
    }


def _settings(arms: Sequence[Arm]) -> list[tuple[str, list[str]]]:
    """Field -> its value in each arm; a field that an arm leaves as the recipe has it shows the recipe's value."""
    fields = list(dict.fromkeys(key for arm in arms for key in arm.settings))
    ours = {key: old for arm in arms for run in arm.runs for key, (old, _) in run.changes.items()}
    return [(key, [arm.settings.get(key, ours.get(key, wording.NOTHING)) for arm in arms]) for key in fields]


def _draw_bars(arms: Sequence[Arm], metrics: Sequence[str]) -> Drawn | None:
    shown = [name for name in metrics if any(arm.metrics.get(name) for arm in arms)][:MOST_BARS]
    if not shown:
        return None
    groups = {name: {arm.name: arm.metrics.get(name, []) for arm in arms} for name in shown}
    return drawn("Mean and spread", bars(groups))


def _run_row(run: RunFacts, arms: Sequence[Arm], listed: Sequence[str], out: Path) -> RunRow:
    arm = next((arm.name for arm in arms if any(member is run for member in arm.runs)), wording.NOTHING)
    page = run.path / "report.html"
    link = Path(os.path.relpath(page.absolute(), out.absolute().parent)).as_posix() if page.is_file() else ""
    values = [wording.number(run.metrics.get(name)) for name in listed]
    return RunRow(run.path.name, arm, wording.text(run.seed), status_of(run), values, link)


def _columns(arms: Sequence[Arm]) -> list[tuple[str, list[tuple[str, ShownPicture | None]]]]:
    """Picture by picture, one column an arm: that of the arm's first run which has it."""
    names: dict[str, str] = {}
    for arm in arms:
        for run in arm.runs:
            for picture in run.pictures:
                names.setdefault(picture.name, picture.title)
    found = []
    for name, title in names.items():
        columns = []
        for arm in arms:
            candidates = (picture for run in arm.runs for picture in run.pictures if picture.name == name)
            columns.append((arm.name, next(candidates, None)))
        found.append((title, columns))
    return found
