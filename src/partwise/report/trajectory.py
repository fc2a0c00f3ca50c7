"""What a run logged over its steps, sorted into charts: losses, rates, and each suite's metrics on its split."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from partwise.report import wording

PLACE_KEYS = frozenset({"kind", "stage", "step", "epoch", "seconds", "time", "split"})
MOST_POINTS = 240
MOST_LINES = 7


@dataclass
class Chart:
    """One chart to draw: its lines are lists of steps and values."""

    title: str
    y: str
    lines: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)

    def add(self, name: str, step: float, value: float) -> None:
        steps, values = self.lines.setdefault(name, ([], []))
        steps.append(step)
        values.append(value)


def charts(lines: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """Charts of metrics.jsonl in reading order: losses, evaluations, then rates."""
    losses: dict[str, Chart] = {}
    rates: dict[str, Chart] = {}
    evaluations: dict[str, Chart] = {}
    for line in lines:
        step = wording.as_float(line.get("step"))
        if step is None:
            continue
        stage = str(line.get("stage", "train"))
        if line.get("kind") == "evaluation":
            _add_evaluation(evaluations, line, stage, step)
        elif line.get("kind") == "step":
            _add_step(losses, rates, line, stage, step)
    found = [*losses.values(), *evaluations.values(), *rates.values()]
    return [part for chart in found for part in _split(chart)]


def _add_step(
    losses: dict[str, Chart], rates: dict[str, Chart], line: Mapping[str, Any], stage: str, step: float
) -> None:
    """One training line: everything called a loss shares a chart, every other number has its own."""
    for key, raw in line.items():
        value = wording.as_float(raw)
        if key in PLACE_KEYS or value is None:
            continue
        if "loss" in key:
            losses.setdefault(stage, Chart(f"Loss, {stage}", "loss")).add(key, step, value)
        elif key == "lr" or key.startswith(("lr_", "lr/")):
            rates.setdefault(f"{stage} lr", Chart(f"Learning rate, {stage}", "rate")).add(key, step, value)
        else:
            name = key.replace("_", " ")
            rates.setdefault(f"{stage} {key}", Chart(f"{name.capitalize()}, {stage}", name)).add(key, step, value)


def _add_evaluation(found: dict[str, Chart], line: Mapping[str, Any], stage: str, step: float) -> None:
    """One evaluation: shares of a suite share a chart, anything that leaves [0, 1] by nature has its own."""
    split = str(line.get("split", ""))
    metrics = line.get("metrics")
    for metric, raw in metrics.items() if isinstance(metrics, Mapping) else ():
        value = wording.as_float(raw)
        if value is None:
            continue
        suite, _, name = str(metric).partition("/")
        alone = wording.lower_is_better(str(metric))
        key = f"{stage} {split} {metric if alone else suite}"
        title = f"{suite.capitalize()}{f' {name}' if alone else ''}, {split or stage}"
        found.setdefault(key, Chart(title, name if alone else "share")).add(name, step, value)


def _split(chart: Chart) -> list[Chart]:
    """Charts of at most seven lines, so that each keeps a colour of its own."""
    names = list(chart.lines)
    return [
        Chart(chart.title, chart.y, {name: chart.lines[name] for name in names[start : start + MOST_LINES]})
        for start in range(0, len(names), MOST_LINES)
    ]


def thin(steps: Sequence[float], values: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """At most `most` points: means over equal runs of consecutive ones, so that noise is averaged and not sampled."""
    size = -(-len(steps) // most)
    if size <= 1:
        return list(steps), list(values)
    cuts = range(0, len(steps), size)
    return (
        [float(np.mean(steps[cut : cut + size])) for cut in cuts],
        [float(np.mean(values[cut : cut + size])) for cut in cuts],
    )
