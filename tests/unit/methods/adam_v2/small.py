"""The smallest runs on which the method's parts are tried."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job
from partwise.engine.runtime import start
from partwise.engine.stages import Stage
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.adam_v2.method import AdamMethod
from partwise.methods.adam_v2.viewing import ViewBatch
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.run import RunFolder

WORDS = (
    "data.source=radiographs:?size=64&train=16&val=4&test=4",
    "train.batch_size=4",
    "method.teacher_temperature=0.04",
    "train.threads=1",
    "train.precision=fp32",
    "evaluate.every=0",
    "evaluate.suites=[]",
)
INSTANCE = ("model.backbone=convnet", "model.arguments.width=8", "model.arguments.depth=3")
"""An encoder without batch norm: every picture by itself."""


def run(path: Path, *settings: str) -> tuple[AdamMethod, list[Stage], Job, PictureData]:
    """The method of the smoke recipe in float32 on one thread, its stages, a job that they can be run with, its pictures."""
    recipe, _ = resolve("adam_v2/smoke", settings=[*WORDS, *settings])
    source = open_source(recipe.data.source)
    data = PictureData(source, recipe.data)
    torch.manual_seed(0)
    method = AdamMethod(recipe, DataFacts.of(source))
    path.mkdir(parents=True, exist_ok=True)
    folder, progress = RunFolder(path), Progress(quiet=True)
    job = Job(recipe, folder, start(recipe.train), progress, Tracker(folder, progress, leads=True))
    return method, method.stages(data, job), job, data


def doubled(method: AdamMethod, batch: ViewBatch) -> ViewBatch:
    """Networks and views in double precision, in which two ways of adding up agree; the views of the same batch."""
    for network in (*method.networks().values(), method.centre):
        network.double()
    return replace(batch, views={side: views.double() for side, views in batch.views.items()})
