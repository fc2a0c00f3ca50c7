"""The smallest cells, networks and runs on which the method's parts are tried."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.data.sample import Record, Source
from partwise.engine.loop import Job
from partwise.engine.runtime import start
from partwise.engine.stages import Stage
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.methods.varifocal.method import VarifocalMethod
from partwise.ops.iscn import TYPES
from partwise.run import RunFolder

SIDE = 64


class Bars(Source):
    """Dark bars on white, as long as their type is low, with a mark near the upper end; two of each autosome a cell, XX."""

    kind = name = "bars"
    classes = TYPES
    channels = 1
    image_size = (SIDE, SIDE)

    def __init__(self, cells: tuple[str, ...] = ("train", "val", "test"), *, polarity: int | None = 1) -> None:
        labels = [k for k in range(23) for _ in range(2)]
        self.records = [
            Record(
                id=f"{cell}{number}/{place}",
                split=cell,
                label=label,
                group=f"{cell}{number}",
                case=f"{cell}{number}",
                polarity=polarity,
            )
            for number, cell in enumerate(cells)
            for place, label in enumerate(labels)
        ]

    def load_image(self, index: int) -> Tensor:
        label = self.records[index].label
        assert label is not None
        image = torch.full((1, SIDE, SIDE), 255, dtype=torch.uint8)
        length, shift = 44 - label, index % 3 - 1
        top, left = (SIDE - length) // 2, SIDE // 2 - 4 + shift
        image[:, top : top + length, left : left + 8] = 90
        image[:, top + 3 : top + 6, left : left + 8] = 30
        return image


def run(
    path: Path, *settings: str, source: Source | None = None
) -> tuple[VarifocalMethod, list[Stage], Job, PictureData]:
    """The method of the smoke recipe in float32 on one thread, its stages, a job that they can be run with, its pictures."""
    words = ("train.batch_size=23", "train.threads=1", "train.precision=fp32", "evaluate.every=0", *settings)
    recipe, _ = resolve("varifocal/smoke", settings=words)
    pictures = Bars() if source is None else source
    data = PictureData(pictures, recipe.data)
    torch.manual_seed(0)
    method = VarifocalMethod(recipe, DataFacts.of(pictures))
    path.mkdir(parents=True, exist_ok=True)
    folder, progress = RunFolder(path), Progress(quiet=True)
    job = Job(recipe, folder, start(recipe.train), progress, Tracker(folder, progress, leads=True))
    return method, method.stages(data, job), job, data
