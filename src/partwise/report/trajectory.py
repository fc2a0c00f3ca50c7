"""What a run logged over its steps, sorted into charts: losses, rates, and each suite's metrics on its split."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from partwise.report import wording

PLACE_KEYS = frozenset({"kind", "stage", "step", "epoch", "seconds", "time", "split", "images_per_second"})
"""What a line says of itself, and the rate, whose mean stands in the table of stages."""
MOST_POINTS = 240
MOST_LINES = 7


@dataclass
class Chart:
    """One chart to draw: its lines are lists of steps and values; `marks` says where stages begin on a common axis."""

    title: str
    y: str
    lines: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)
    marks: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, step: float, value: float) -> None:
        steps, values = self.lines.setdefault(name, ([], []))
        steps.append(step)
        values.append(value)


def charts(lines: Iterable[Mapping[str, Any]]) -> list[Chart]:
    """The few charts of metrics.jsonl that tell most, in reading order: losses, evaluations, other numbers, rates.

    Losses have a chart a stage, evaluations a chart a suite and rates one, over the steps of all stages together. Of a suite
    with many numbers those are drawn that `wording.DRAWN` names, else the first; all of them are in metrics.jsonl.
    """
    kept = [line for line in lines if wording.as_float(line.get("step")) is not None]
    begins = _begins(kept)
    losses: dict[str, Chart] = {}
    evaluations: dict[str, Chart] = {}
    rates: dict[str, Chart] = {}
    for line in kept:
        if line.get("kind") == "evaluation":
            _add_evaluation(evaluations, line, begins)
        elif line.get("kind") == "step":
            _add_step(losses, rates, line, begins)
    found = [*losses.values(), *evaluations.values(), *rates.values()]
    return [_few(chart) for chart in found]


def _stage(line: Mapping[str, Any]) -> str:
    return str(line.get("stage", "train"))


def _begins(lines: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Stage -> the steps of all stages before it, in the order in which they appear."""
    last: dict[str, float] = {}
    for line in lines:
        step = wording.as_float(line["step"]) or 0.0
        last[_stage(line)] = max(step, last.get(_stage(line), 0.0))
    ends = list(itertools.accumulate(last.values(), initial=0.0))
    return dict(zip(last, ends, strict=False))


def _add_step(
    losses: dict[str, Chart], rates: dict[str, Chart], line: Mapping[str, Any], begins: Mapping[str, float]
) -> None:
    """One training line: the loss shares a chart with its parts, rates share one, every other number has its own."""
    stage, step = _stage(line), float(line["step"])
    numbers = {
        key: v for key, raw in line.items() if key not in PLACE_KEYS and (v := wording.as_float(raw)) is not None
    }
    parts = _parts(numbers)
    for key, value in numbers.items():
        if "loss" in key or key in parts:
            if parts != [key]:  # the only part is the loss itself
                losses.setdefault(stage, Chart(f"Loss, {stage}", "loss")).add(key, step, value)
        elif key == "lr" or key.startswith(("lr_", "lr/")):
            name = " ".join(part for part in (stage if len(begins) > 1 else "", key[3:]) if part) or "lr"
            marks = dict(begins) if len(begins) > 1 else {}
            rates.setdefault("lr", Chart("Learning rate", "rate", marks=marks)).add(name, begins[stage] + step, value)
        else:
            name = key.replace("_", " ")
            losses.setdefault(f"{stage} {key}", Chart(f"{name.capitalize()}, {stage}", name)).add(key, step, value)


def _parts(numbers: Mapping[str, float]) -> list[str]:
    """The numbers behind `loss` that add up to it, which the loop logs in this order; empty where none do."""
    names = list(numbers)
    behind = names[names.index("loss") + 1 :] if "loss" in names else []
    total = 0.0
    for count, name in enumerate(behind, 1):
        total += numbers[name]
        if math.isclose(total, numbers["loss"], rel_tol=1e-4, abs_tol=1e-6):
            return behind[:count]
    return []


def _add_evaluation(found: dict[str, Chart], line: Mapping[str, Any], begins: Mapping[str, float]) -> None:
    """One evaluation: shares of a suite share a chart, anything that leaves [0, 1] by nature has its own."""
    split, stage = str(line.get("split", "")), _stage(line)
    metrics = line.get("metrics")
    for metric, raw in metrics.items() if isinstance(metrics, Mapping) else ():
        value = wording.as_float(raw)
        if value is None:
            continue
        suite, _, name = str(metric).partition("/")
        if name not in wording.DRAWN.get(suite, (name,)):
            continue
        alone = wording.lower_is_better(str(metric))
        title = f"{suite.capitalize()}{f' {name}' if alone else ''}, {split or stage}"
        marks = dict(begins) if len(begins) > 1 else {}
        chart = found.setdefault(
            f"{split} {metric if alone else suite}", Chart(title, name if alone else "share", marks=marks)
        )
        chart.add(name, begins[stage] + float(line["step"]), value)


def _few(chart: Chart) -> Chart:
    """The chart with its first seven lines, so that each keeps a colour of its own."""
    kept = list(chart.lines)[:MOST_LINES]
    return replace(chart, lines={name: chart.lines[name] for name in kept})


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
