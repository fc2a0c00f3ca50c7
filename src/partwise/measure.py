"""Suites on a method: which apply to the data at hand, what they find, and how that enters a run's summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from partwise.config import Recipe, UserError, did_you_mean
from partwise.data.loading import PictureData
from partwise.engine.runtime import Runtime
from partwise.engine.tracking import Progress
from partwise.evaluate.base import Evaluation, Evaluator, find_evaluator
from partwise.evaluate.runner import run_suite
from partwise.methods.base import Method
from partwise.report import figures
from partwise.report.values import Picture
from partwise.run import RunFolder

PICTURE_ORDER = 10
"""Pictures of evaluations come before those of training; failures first among them."""


@dataclass(frozen=True)
class Measured:
    """What suites found: `metrics` and `detail` by `suite/metric`, and pictures."""

    metrics: dict[str, float] = field(default_factory=dict)
    detail: dict[str, dict[str, Any]] = field(default_factory=dict)
    pictures: list[Picture] = field(default_factory=list)

    def renamed(self, source: str) -> Measured:
        """The same under `suite@source/metric`."""

        def rename(name: str) -> str:
            suite, _, metric = name.partition("/")
            return f"{suite}@{source}/{metric}"

        return Measured(
            {rename(name): value for name, value in self.metrics.items()},
            {rename(name): facts for name, facts in self.detail.items()},
            [replace(p, name=f"{p.name}_{source}", title=f"{p.title} ({source})") for p in self.pictures],
        )

    def store_pictures(self, folder: RunFolder) -> None:
        """Write the pictures into the run folder."""
        for number, picture in enumerate(self.pictures):
            folder.write_picture(
                picture.name,
                figures.encode_png(picture.image),
                title=picture.title,
                caption=picture.caption,
                order=PICTURE_ORDER + number,
                rows=picture.rows,
            )


def merge_metrics(summary: dict[str, Any], measured: Measured) -> dict[str, Any]:
    """A run's summary with new findings added."""
    return summary | {
        "metrics": summary.get("metrics", {}) | measured.metrics,
        "detail": summary.get("detail", {}) | measured.detail,
    }


def measure(
    method: Method,
    data: PictureData,
    recipe: Recipe,
    split: str,
    suites: Sequence[str],
    *,
    runtime: Runtime,
    progress: Progress | None,
) -> Measured:
    """Run suites on a split; thresholds are chosen on the validation split. Pictures only for the test split."""
    metrics: dict[str, float] = {}
    detail: dict[str, dict[str, Any]] = {}
    pictures: list[Picture] = []
    for name in suites:
        evaluator = build_evaluator(name, method, recipe)
        if evaluator.one_class and method.facts.multi_label:
            if progress is not None:
                progress.say(f"{name}: left out, it needs pictures of one class")
            continue
        if missing := [f for f in evaluator.wants if not data.has(f, split)]:
            if progress is not None:
                progress.say(f"{name}: left out, the {split} pictures have no {' and no '.join(sorted(missing))}")
            continue
        found = _run_one(evaluator, method, data, recipe, split, runtime=runtime)
        count = len(data.splits[split])
        metrics |= found.metrics
        weights = "last (moving average)" if recipe.train.ema is not None else "last"
        for metric, facts in found.detail.items():
            detail[metric] = {"split": split, "n": count, "weights": weights} | facts
        pictures += found.pictures
    return Measured(metrics, detail, pictures)


def check_measurable(method: Method, recipe: Recipe) -> None:
    """Raise UserError for a suite that this method cannot answer, and for a `best_by` that nothing measures."""
    for name in recipe.evaluate.suites:
        build_evaluator(name, method, recipe)
    during = [build_evaluator(name, method, recipe) for name in recipe.evaluate.during]
    known = [f"{evaluator.suite}/{metric}" for evaluator in during for metric in evaluator.metrics]
    wanted = recipe.evaluate.best_by
    if known and wanted not in known:
        raise UserError(
            f"evaluate.best_by = {wanted!r}: evaluate.during measures no such number{did_you_mean(wanted, known)} "
            f"(it measures {', '.join(known)})"
        )


def build_evaluator(name: str, method: Method, recipe: Recipe) -> Evaluator:
    """The suite for this method. Raises UserError where the method does not answer to the protocol it needs."""
    kind = find_evaluator(name)
    if not isinstance(method, kind.needs):
        raise UserError(f"evaluate.suites: {name} needs a {kind.needs.__name__}, which {method.name} is not")
    options = {"box_convention": recipe.evaluate.box_convention} if name == "localization" else {}
    return kind(method.classes, **options)


def _run_one(
    evaluator: Evaluator, method: Method, data: PictureData, recipe: Recipe, split: str, *, runtime: Runtime
) -> Evaluation:
    size = recipe.evaluate.batch_size
    fields = frozenset(evaluator.wants | {field for field in evaluator.optional if data.has(field, split)})
    final = split == "test"
    usable = len(data.splits["val"]) > 0 and all(data.has(field, "val") for field in evaluator.wants)
    validation = data.evaluation_batches("val", size, fields=fields) if final and usable else None

    def images(indices: Sequence[int]) -> Tensor:
        return data.pictures(torch.as_tensor(list(indices))).float() / 255

    return run_suite(
        evaluator,
        method,
        data.evaluation_batches(split, size, fields=fields),
        validation=validation,
        images=images if final else None,
        gather=runtime.gather_rows if runtime.share.world > 1 else None,
    )
