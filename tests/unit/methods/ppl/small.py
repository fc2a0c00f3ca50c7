"""The smallest sources, networks and runs on which the method's parts are tried."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.data.sample import FaultySample, Record, Source
from partwise.data.sources import open_source
from partwise.engine.loop import Job
from partwise.engine.runtime import start
from partwise.engine.stages import Stage
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.base import DataFacts
from partwise.methods.ppl.method import PplMethod
from partwise.methods.recipes import resolve
from partwise.models.backbones import build_backbone
from partwise.models.patch_learning import PatchLearning
from partwise.run import RunFolder

CREATURES = "creatures:?size=32&classes=3&objects=2&train=16&val=4&test=4"


class Sizes(Source):
    """Noise of given sizes, with given labels; all but the last two are for training, the last but one for validation."""

    kind = name = "sizes"
    multi_label = True

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        labels: Sequence[tuple[int, ...]],
        *,
        num_classes: int = 3,
        broken: Sequence[int] = (),
    ) -> None:
        self.sizes, self.broken = sizes, broken
        self.classes = tuple(f"c{k}" for k in range(num_classes))
        splits = ["train"] * (len(sizes) - 2) + ["val", "test"]
        self.records = [
            Record(id=f"p/{n}", split=split, labels=own)
            for n, (split, own) in enumerate(zip(splits, labels, strict=True))
        ]

    def load_image(self, index: int) -> Tensor:
        if index in self.broken:
            raise FaultySample(f"p/{index}.png", "torn")
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, *self.sizes[index]), dtype=torch.uint8, generator=generator)


def classifier(mode: str = "ppl", num_classes: int = 3, *, signed: bool = False, **options: object) -> PatchLearning:
    """A patch classifier of three blocks (strides 1, 2, 4), in evaluation mode; its maps are above zero unless `signed`."""
    torch.manual_seed(0)
    backbone = build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8])
    if mode == "single":
        options = {"positions": (0,)} | options
    network = PatchLearning(backbone, num_classes, mode=mode, **options).eval()  # type: ignore[arg-type]
    with torch.no_grad():
        network.classifier.weight.mul_(20)
        if not signed:
            network.classifier.weight.abs_()
    return network


def run(path: Path, *settings: str, source: Source | None = None) -> tuple[PplMethod, list[Stage], Job]:
    """The method of the smoke recipe in float32 on one thread, its stages, and a job that they can be run with."""
    words = ("train.batch_size=8", "train.threads=1", "train.precision=fp32", "evaluate.every=0", *settings)
    recipe, _ = resolve("ppl/smoke", data=CREATURES, settings=words)
    pictures = open_source(CREATURES) if source is None else source
    data = PictureData(pictures, recipe.data)
    torch.manual_seed(0)
    method = PplMethod(recipe, DataFacts.of(pictures))
    path.mkdir(parents=True, exist_ok=True)
    folder, progress = RunFolder(path), Progress(quiet=True)
    job = Job(recipe, folder, start(recipe.train), progress, Tracker(folder, progress, leads=True))
    return method, method.stages(data, job), job
