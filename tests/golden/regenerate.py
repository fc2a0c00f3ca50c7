"""The first ten losses of small CutMix runs, one a way of mixing: what a change of the code must not change by accident.

python tests/golden/regenerate.py     writes losses.json anew; say in the commit why they moved
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch

from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job, run_stages
from partwise.engine.runtime import start
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.methods.table import find_method
from partwise.ops import draws
from partwise.run import RunFolder

FILE = Path(__file__).with_name("losses.json")
STEPS = 10
SETTINGS = (
    "data.source=creatures:?size=32&classes=4&train=80&val=16&test=16",
    "train.epochs=2",  # of five steps: the order of a second epoch is in it
    "train.batch_size=16",
    "train.threads=1",
    "train.precision=fp32",
    "train.log_every=1",
    "optim.lr=0.003",  # so low that rounding stays at 1e-5; at 0.01 other threads or layouts move it by 1e-4
    "evaluate.every=0",
    "model.backbone=cifar-resnet",
    "model.arguments.depth=8",
)
RUNS: dict[str, tuple[str, ...]] = {
    "none": ("method.mix=none",),
    "sample": ("method.p=1",),
    "sample, half mixed": (),
    "pair": ("method.mode=pair",),
    "batch": ("method.mode=batch", "method.gate=batch"),
    "paper": ("method.mode=paper", "method.gate=batch"),
    "paper, before August 2019": ("method.mode=paper", "method.gate=batch", "method.correct_lambda=false"),
    "mixup": ("method.mix=mixup",),
    "cutout": ("method.mix=cutout",),
    "resizemix": ("method.mix=resizemix",),
    "accumulated, averaged, clipped": ("train.accumulate=2", "train.ema=0.9", "optim.clip_norm=0.5"),
    "saliencymix": ("method.mix=saliencymix",),
    "fmix": ("method.mix=fmix",),
    "manifold mixup": ("method.mix=manifold", "method.p=1"),
    "feature cutmix, stage 1": ("method.mix=feature_cutmix", "method.layer=1"),
    "cutout, then mixup, shakedrop": ("method.mix=mixup", "method.cutout=true", "method.branches=shakedrop"),
    "gaussian centres, hard labels": ("method.centre=gaussian", "method.label=one_hot"),
    "fixed boxes, half labels": ("method.box_length=16", "method.label=complete"),
    "yes or no, smoothed": ("method.loss=bce", "method.smoothing=0.1", "method.p_schedule=linear"),
}


def losses(name: str) -> list[float]:
    """The losses of a run's steps, on one thread of the CPU in float32."""
    recipe, _ = resolve("cutmix/smoke", settings=[*SETTINGS, *RUNS[name]])
    source = open_source(recipe.data.source)
    runtime = start(recipe.train)
    pictures = PictureData(source, recipe.data)
    torch.manual_seed(draws.derive(recipe.train.seed, "networks"))  # as a run begins
    method = find_method("cutmix")(recipe, DataFacts.of(source))
    with tempfile.TemporaryDirectory() as scratch:
        folder = RunFolder(scratch)
        progress = Progress(quiet=True)
        job = Job(recipe, folder, runtime, progress, Tracker(folder, progress, leads=True))
        run_stages(method.stages(pictures, job), job)
        found = [line["loss"] for line in folder.read_metrics()]
    pictures.close()
    assert len(found) == STEPS
    return found


if __name__ == "__main__":
    FILE.write_text(json.dumps({name: [round(loss, 6) for loss in losses(name)] for name in RUNS}, indent=1) + "\n")
