"""Runs a suite over batches: rows from every batch (and process), sorted, without duplicates, then the conclusion.

Not for making batches or writing what was found; the same code serves a schedule during training and a finished run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.evaluate.base import Again, Evaluation, Evaluator, Images, Mapper, Redraw, Rows

Gather = Callable[[Rows], Rows]
"""This process's rows (none: an empty mapping) -> the rows of all processes, in any order."""
Progress = Callable[[int], None]
"""Told the number of pictures that were just measured."""


def run_suite(
    evaluator: Evaluator,
    model: object,
    batches: Iterable[Batch],
    *,
    validation: Iterable[Batch] | None,
    foreign: Mapping[str, Iterable[Batch]] = MappingProxyType({}),
    images: Images | None = None,
    again: Again | None = None,
    gather: Gather | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure `batches` (float pictures in [0, 1], on the model's device) and conclude.

    `validation` is where thresholds are chosen; it is read only if the suite chooses any. `foreign` are pictures of other
    sources, for suites that compare. `model` must be in eval mode.
    Raises UserError where the model or the data lacks what the suite needs, or there are no pictures.
    """
    assert not getattr(model, "training", False), "put the model in eval mode before it is measured"
    chosen = None
    if validation is not None and evaluator.uses_validation:
        learned = evaluator.measure_learned
        chosen, _ = collect(evaluator, model, validation, gather=gather, progress=progress, measure=learned)
    rows, device = collect(evaluator, model, batches, gather=gather, progress=progress)
    measure = evaluator.measure_foreign
    evaluator.foreign = {
        name: collect(evaluator, model, own, gather=gather, progress=progress, measure=measure)[0]
        for name, own in foreign.items()
    }
    redraw = _redrawing(model, images, device) if images is not None and isinstance(model, Mapper) else None
    found = evaluator.conclude(rows, chosen, images=images, redraw=redraw)
    if again is not None:
        with torch.inference_mode():
            found.pictures.extend(evaluator.show(model, rows, found, again))
    return found


def collect(
    evaluator: Evaluator,
    model: object,
    batches: Iterable[Batch],
    *,
    gather: Gather | None = None,
    progress: Progress | None = None,
    measure: Callable[[Any, Batch], Rows] | None = None,
) -> tuple[Rows, torch.device]:
    """The rows of all pictures, and the device that the pictures were on. Raises as `run_suite`.

    `measure`: another than the evaluator's own.
    """
    parts: list[Rows] = []
    device = torch.device("cpu")
    for batch in batches:
        refusal = evaluator.why_not(model, batch)
        if refusal is not None:
            raise UserError(refusal)
        device = batch.images.device
        # Only around the measurement: a loader that runs inside would make tensors that no gradient can pass.
        with torch.enable_grad() if evaluator.needs_gradient else torch.inference_mode():
            measured = (measure or evaluator.measure)(model, batch)
        parts.append(_checked(evaluator, measured, batch))
        if progress is not None:
            progress(len(batch))
    rows = join(parts)
    rows = rows if gather is None else gather(rows)
    if not rows or len(rows["index"]) == 0:
        raise UserError(f"suite {evaluator.suite!r}: there are no pictures to measure")
    return in_order(rows), device


def _checked(evaluator: Evaluator, measured: Rows, batch: Batch) -> Rows:
    """A batch's rows with their `index`, one for each picture, on the host."""
    for name, values in measured.items():
        assert len(values) == len(batch), f"{evaluator.suite}: {len(values)} rows of {name!r} for {len(batch)} pictures"
    rows = {name: values.detach().cpu() for name, values in measured.items()}
    return {"index": batch.index.detach().cpu().long(), **rows}


def join(parts: Sequence[Rows]) -> Rows:
    """Rows of several batches or processes, one after the other; empty ones are passed over.

    Raises ValueError where some have a name that others lack (a batch with masks among batches without).
    """
    filled = [part for part in parts if part]
    if not filled:
        return {}
    names = set(filled[0])
    for part in filled:
        if set(part) != names:
            raise ValueError(f"batches differ in what they measure: {', '.join(sorted(names ^ set(part)))}")
    return {name: torch.cat([part[name] for part in filled]) for name in filled[0]}


def in_order(rows: Rows) -> Rows:
    """Rows sorted by `index`, each index once: samplers repeat pictures to give all processes as many."""
    order = rows["index"].argsort(stable=True)
    index = rows["index"][order]
    first = torch.ones(len(index), dtype=torch.bool)
    first[1:] = index[1:] != index[:-1]
    kept = order[first]
    return {name: values[kept] for name, values in rows.items()}


def _redrawing(model: Mapper, images: Images, device: torch.device) -> Redraw:
    def redraw(indices: Sequence[int]) -> Tensor:
        with torch.inference_mode():
            return model.maps(images(indices).to(device)).float().cpu()

    return redraw
