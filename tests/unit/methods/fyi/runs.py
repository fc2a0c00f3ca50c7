"""A method, its data and a stage as a run would have them, small enough for a test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch

from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job
from partwise.engine.runtime import start
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.base import DataFacts
from partwise.methods.fyi.learning import Distil
from partwise.methods.fyi.method import FyiMethod
from partwise.methods.recipes import resolve
from partwise.ops import draws
from partwise.run import RunFolder


@dataclass(frozen=True)
class Setting:
    """What the stages of a run are made of."""

    method: FyiMethod
    data: PictureData
    job: Job

    @property
    def distil(self) -> Distil:
        """The stage that learns the set, prepared."""
        stage = next(s for s in self.method.stages(self.data, self.job) if isinstance(s, Distil))
        stage.prepare(self.job.products)
        return stage


def setting(folder: Path, settings: Sequence[str] = (), recipe: str = "fyi/smoke") -> Setting:
    """A recipe with changes, ready to take a step."""
    found, _ = resolve(recipe, settings=["train.threads=1", *settings])
    source = open_source(found.data.source)
    data = PictureData(source, found.data)
    torch.manual_seed(draws.derive(found.train.seed, "networks"))
    method = FyiMethod(found, DataFacts.of(source))
    data.prepare()
    method.check(data)
    run, progress = RunFolder(folder), Progress(quiet=True)
    return Setting(method, data, Job(found, run, start(found.train), progress, Tracker(run, progress, leads=True)))


def pictures_before(stage: Distil) -> torch.Tensor:
    """A copy of the pictures."""
    return cast(torch.Tensor, stage.set.images.detach().clone())
