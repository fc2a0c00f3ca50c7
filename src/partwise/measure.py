"""Suites on a method: which apply to the data at hand, what they find, and how that enters a run's summary."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from partwise.config import Recipe, UserError, did_you_mean
from partwise.data.foreign import ForeignData
from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.data.sources import parse_source
from partwise.engine.runtime import Runtime
from partwise.engine.tracking import Progress
from partwise.evaluate.base import Evaluation, Evaluator, find_evaluator
from partwise.evaluate.embedding import Embedder
from partwise.evaluate.runner import run_suite
from partwise.methods.base import Method
from partwise.report import figures
from partwise.report.values import Picture
from partwise.run import RunFolder

METHOD_PICTURES = 5
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
        store_pictures(folder, self.pictures, first=PICTURE_ORDER)


def store_pictures(folder: RunFolder, pictures: Sequence[Picture], *, first: int) -> None:
    """Write pictures of the report into a run folder, in places from `first` on."""
    for number, picture in enumerate(pictures):
        folder.write_picture(
            picture.name,
            figures.encode_png(picture.image),
            title=picture.title,
            caption=picture.caption,
            order=first + number,
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
        # An encoder knows no classes: those of the pictures it is asked about count.
        classes = data.source.classes if isinstance(method, Embedder) else method.classes
        evaluator = build_evaluator(name, method, recipe, classes)
        evaluator.attend(data.source)
        if evaluator.one_class and method.facts.multi_label:
            if progress is not None:
                progress.say(f"{name}: left out, it needs pictures of one class")
            continue
        own = evaluator.split or split
        if missing := [f for f in evaluator.wants if not data.has(f, own, of_some=True)]:
            if progress is not None:
                progress.say(f"{name}: left out, the {own} pictures have no {' and no '.join(sorted(missing))}")
            continue
        found = _run_one(evaluator, method, data, recipe, own, runtime=runtime, final=split == "test")
        count = len(data.splits[own])
        metrics |= found.metrics
        weights = "last (moving average)" if recipe.train.ema is not None else "last"
        for metric, facts in found.detail.items():
            detail[metric] = {"split": own, "n": count, "weights": weights} | facts
        pictures += found.pictures
    return Measured(metrics, detail, pictures)


def check_measurable(method: Method, recipe: Recipe) -> None:
    """Raise UserError for a suite that this method cannot answer, a `best_by` that nothing measures, and for what is no source
    among foreign ones."""
    for text in recipe.evaluate.foreign:
        parse_source(text)
    for name in recipe.evaluate.suites:
        build_evaluator(name, method, recipe)
    during = [build_evaluator(name, method, recipe) for name in recipe.evaluate.during]
    known = [f"{evaluator.family or evaluator.suite}/{metric}" for evaluator in during for metric in evaluator.metrics]
    wanted = recipe.evaluate.best_by
    if known and wanted not in known:
        raise UserError(
            f"evaluate.best_by = {wanted!r}: evaluate.during measures no such number{did_you_mean(wanted, known)} "
            f"(it measures {', '.join(known)})"
        )


def build_evaluator(name: str, method: Method, recipe: Recipe, classes: Sequence[str] | None = None) -> Evaluator:
    """The suite for this method, and its classes or others.

    Raises UserError where the method does not answer to the protocol that the suite needs.
    """
    kind = find_evaluator(name)
    if not isinstance(method, kind.needs):
        raise UserError(f"evaluate.suites: {name} needs a {kind.needs.__name__}, which {method.name} is not")
    options: dict[str, Any] = {}
    if name == "localization":
        options["box_convention"] = recipe.evaluate.box_convention
    if name == "robustness":
        options["fill"] = recipe.model.mean
    return kind(method.classes if classes is None else classes, **options)


def _run_one(
    evaluator: Evaluator,
    method: Method,
    data: PictureData,
    recipe: Recipe,
    split: str,
    *,
    runtime: Runtime,
    final: bool,
) -> Evaluation:
    size, native = recipe.evaluate.batch_size, evaluator.native
    fields = frozenset(
        evaluator.wants
        | {field for field in evaluator.optional if data.has(field, split, of_some="masks" in evaluator.wants)}
    )
    batches = data.native_batches if native else data.evaluation_batches
    other, most = evaluator.learns_on, evaluator.learns_most
    usable = len(data.splits[other]) > 0 and all(data.has(f, other, of_some=True) for f in evaluator.wants)
    validation = batches(other, size, fields=fields, most=most) if final and usable else None

    def images(indices: Sequence[int]) -> Tensor:
        return data.pictures(torch.as_tensor(list(indices))).float() / 255

    def again(index: int) -> Batch | None:
        return data.native_batch(index, fields) if native else data.evaluation_batch(torch.tensor([index]), fields)

    texts = recipe.evaluate.foreign if final and evaluator.compares else ()
    with closing(ForeignData(texts, data, quality=recipe.evaluate.foreign_quality)) as others:
        return run_suite(
            evaluator,
            method,
            batches(split, size, fields=fields, most=evaluator.measures_most),
            validation=validation,
            foreign=others.batches(size, most=evaluator.measures_most),
            images=images if final else None,
            again=again if final else None,
            gather=runtime.gather_rows if runtime.share.world > 1 else None,
        )
