"""`--dry-run`: what a recipe would take, from a few real steps in memory; nothing is written."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job, first_steps
from partwise.engine.runtime import start
from partwise.engine.stages import TrainStage
from partwise.engine.tracking import Progress, Tracker, duration, memory
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.methods.table import find_method
from partwise.run import RunFolder

STEPS = 6
"""Steps that are timed; the first, with its warm-up, is left out."""


def estimate(recipe: str, *, data: str | None = None, settings: Sequence[str] = ()) -> dict[str, str]:
    """Parameters, pictures, steps, rate, time and memory of the recipe's training, as lines of name and finding."""
    found, _ = resolve(recipe, data=data, settings=settings)
    source = open_source(found.data.source)
    runtime = start(found.train)
    pictures = PictureData(source, found.data, device=runtime.device, share=runtime.share)
    method = find_method(found.method_name)(found, DataFacts.of(source))
    lines = {"recipe": found.recipe, "precision": f"{runtime.precision} ({runtime.reason})"}
    for name, network in method.networks().items():
        lines[f"parameters of {name}"] = f"{sum(p.numel() for p in network.parameters()):,}"
    lines |= {f"{name} pictures": f"{len(indices):,}" for name, indices in pictures.splits.items()}
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(Path(scratch))
        progress = Progress(quiet=True)
        job = Job(found, folder, runtime, progress, Tracker(folder, progress, leads=False))
        stages = method.stages(pictures, job)
        for stage in stages:
            if isinstance(stage, TrainStage):
                epochs = stage.steps / stage.steps_per_epoch
                lines[f"steps of {stage.name}"] = f"{stage.steps:,} ({epochs:g} epochs)"
        if isinstance(first := stages[0], TrainStage):  # later ones need what this one leaves
            times = [time.monotonic() for _ in first_steps(first, job, STEPS)]
            step = sorted(after - before for before, after in pairwise(times))[(STEPS - 1) // 2]
            lines["rate"] = f"{(first.batch_size or found.train.batch_size) / step:,.0f} pictures/s"
            lines[f"time of {first.name}"] = duration(step * first.steps)
    pictures.close()
    lines["memory"] = memory()
    return lines
