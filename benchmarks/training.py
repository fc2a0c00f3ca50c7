"""Pictures a second of the whole training loop, beside the bare step and beside timm's loader and mixing.

    python benchmarks/training.py --cifar cifar10:PATH --jpegs imagenet:PATH [--quick]

Four comparisons, each side in turns, medians of the turns, same network and precision (that of the recipe on this machine),
torch's default threads:
the loop over the bare step on CIFAR; the loop against timm's loader and Mixup(mode="elem") on CIFAR; the loader alone on
JPEGs at 224 px; the loop with a ResNet-18 there. timm gets two worker processes, we get two threads.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from PIL import Image
from timm.data import Mixup, create_loader
from torch import Tensor, nn
from torch.utils.data import Dataset

from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job, first_steps
from partwise.engine.runtime import start
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.base import DataFacts
from partwise.methods.cutmix.method import CutMixMethod
from partwise.methods.recipes import resolve
from partwise.run import RunFolder
from record import write_result

Turn = Callable[[], float]
"""Does a number of steps and returns pictures a second."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar", default="cifar10:../shared/data/cifar10")
    parser.add_argument("--jpegs", default="imagenet:../shared/data/imagenet_samples/imagenet_samples.tar")
    parser.add_argument("--quick", action="store_true", help="a few steps of each, nothing written")
    options = parser.parse_args()
    turns, scale = (2, 1) if options.quick else (5, 4)
    load = os.getloadavg()[0]
    values: dict[str, Any] = {"load_average_before": load}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        cifar = ["data.storage=auto", "evaluate.every=0"]
        ours = Ours("cutmix/cifar10-resnet20", options.cifar, cifar, folder)
        theirs = timm_loop(ours, batch=128, resized=False)
        sides = {"loop": ours.turn(5 * scale), "bare step": bare(ours, 5 * scale), "timm": theirs(5 * scale)}
        values["cifar"] = compare(sides, turns, [("loop", "bare step", 0.93), ("loop", "timm", 1.5)])
        jpeg = ["model.backbone=resnet18", "train.batch_size=32", "data.resize=null", "data.augment.scale=0.08,1.0"]
        jpeg += ["train.ema=null", "optim.clip_norm=null", "optim.name=sgd", "optim.lr=0.01", "data.threads=2"]
        large = Ours("cutmix/imagefolder", options.jpegs, jpeg, folder)
        loaders = {"our loader": large.loader_turn(3 * scale), "timm's loader": timm_loader(large, 32)(3 * scale)}
        values["jpeg_loader"] = compare(loaders, turns, [("our loader", "timm's loader", 1.5)])
        both = {"loop": large.turn(2 * scale), "timm": timm_loop(large, batch=32, resized=True)(2 * scale)}
        values["jpeg_loop"] = compare(both, 2 if options.quick else 5, [("loop", "timm", 1.0)])
    if not options.quick:
        command = "python benchmarks/training.py --cifar cifar10:PATH --jpegs imagenet:PATH"
        print(write_result("training", command, values))


SETTLE = 2.0
"""Seconds of rest after a turn: loaders that read ahead fill up then, and not in the turn of the other side."""
LEAD = 6
"""Steps before a turn is timed: more than the batches that lie ready, so that each is loaded in the time it is counted in."""


def compare(sides: dict[str, Turn], turns: int, asked: list[tuple[str, str, float]]) -> dict[str, Any]:
    """Each side once to warm up, then in turns with rests between; the median rates and what was asked of their ratios."""
    for turn in sides.values():
        turn()
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, turn in sides.items():
            time.sleep(SETTLE)
            rates[name].append(round(turn(), 1))
    medians = {name: statistics.median(found) for name, found in rates.items()}
    compared = {}
    for first, second, least in asked:
        ratio = round(medians[first] / medians[second], 3)
        compared[f"{first} over {second}"] = {"ratio": ratio, "asked": least, "met": ratio >= least}
        print(f"{first:12} {medians[first]:8.1f}  {second:14} {medians[second]:8.1f}  ratio {ratio:.3f}  asked {least}")
    return {"pictures_per_second": rates, "median": medians, "compared": compared}


class Ours:
    """The real loop of a recipe, without evaluation and checkpoints."""

    def __init__(self, recipe: str, source: str, settings: list[str], folder: Path) -> None:
        self.recipe, _ = resolve(recipe, data=source, settings=settings)
        self.source = open_source(source)
        self.runtime = start(self.recipe.train)
        self.pictures = PictureData(self.source, self.recipe.data, device=self.runtime.device)
        torch.manual_seed(0)
        self.method = CutMixMethod(self.recipe, DataFacts.of(self.source))
        progress = Progress(quiet=True)
        run = RunFolder(folder)
        self.job = Job(self.recipe, run, self.runtime, progress, Tracker(run, progress, leads=False))
        self.batch = self.recipe.train.batch_size
        self._steps: Iterator[int] | None = None

    def turn(self, steps: int) -> Turn:
        def run() -> float:
            if self._steps is None:
                stage = self.method.stages(self.pictures, self.job)[0]
                self._steps = first_steps(stage, self.job, 10**9)
                next(self._steps)
            for _ in islice(self._steps, LEAD):
                pass
            begun = time.perf_counter()
            for _ in islice(self._steps, steps):
                pass
            return steps * self.batch / (time.perf_counter() - begun)

        return run

    def loader_turn(self, steps: int) -> Turn:
        """Decoded, cropped, flipped and mixed batches alone, as the network's float pictures."""
        stage = self.method.stages(self.pictures, self.job)[0]
        batches = stage.batches(0)
        next(batches)

        def run() -> float:
            for _ in islice(batches, LEAD):
                pass
            begun = time.perf_counter()
            for batch in islice(batches, steps):
                batch.images.float().mul_(1 / 255)
            return steps * self.batch / (time.perf_counter() - begun)

        return run


def network(ours: Ours) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A second network of the recipe, laid out and optimised the same."""
    method = CutMixMethod(ours.recipe, DataFacts.of(ours.source))
    net = method.network.to(memory_format=torch.channels_last).train()
    optim = ours.recipe.optim
    sgd = torch.optim.SGD(
        net.parameters(), lr=1e-3, momentum=optim.momentum, nesterov=True, weight_decay=optim.weight_decay, foreach=True
    )
    return net, sgd


def step(ours: Ours, net: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, targets: Tensor) -> None:
    """One plain step, in the precision that the loop chose on this machine."""
    with torch.autocast("cpu", torch.bfloat16, enabled=ours.runtime.precision.startswith("bf16")):
        logits = net(images)
    F.cross_entropy(logits.float(), targets).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def bare(ours: Ours, steps: int) -> Turn:
    """The network's own step on one batch that lies ready."""
    net, optimizer = network(ours)
    images = torch.rand(ours.batch, 3, ours.recipe.data.size, ours.recipe.data.size)
    images = images.to(memory_format=torch.channels_last)
    targets = torch.full((ours.batch, len(ours.source.classes)), 1 / len(ours.source.classes))

    def run() -> float:
        for _ in range(LEAD):
            step(ours, net, optimizer, images, targets)
        begun = time.perf_counter()
        for _ in range(steps):
            step(ours, net, optimizer, images, targets)
        return steps * ours.batch / (time.perf_counter() - begun)

    return run


class Pictures(Dataset[tuple[Image.Image, int]]):
    """The training split for timm: PIL pictures, decoded by PIL where they are files."""

    transform: Callable[[Image.Image], Any] | None = None

    def __init__(self, ours: Ours) -> None:
        self.source, self.index = ours.source, ours.pictures.splits["train"].tolist()
        self.files = self.source.image_size is None

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, position: int) -> tuple[Any, int]:
        record = self.source.records[self.index[position]]
        if self.files:
            assert self.source.root is not None
            picture = Image.open(self.source.root / record.file).convert("RGB")
        else:
            pixels = self.source.load_image(self.index[position])
            picture = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
        return (self.transform(picture) if self.transform else picture), int(record.label or 0)


def timm_batches(ours: Ours, batch: int, *, resized: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """timm's loader without a GPU prefetcher, two workers, and its per-element CutMix, without end."""
    size, data = ours.recipe.data.size, Pictures(ours)
    crop = {"scale": (0.08, 1.0), "ratio": (0.75, 4 / 3)} if resized else {"train_crop_mode": "rkrc"}
    loader = create_loader(
        data,
        input_size=(3, size, size),
        batch_size=batch,
        is_training=True,
        use_prefetcher=False,
        interpolation="bilinear",
        color_jitter=None,
        num_workers=2,
        persistent_workers=True,
        **crop,
    )
    if not resized:
        from torchvision import transforms as tv

        data.transform = tv.Compose(
            [
                tv.RandomCrop(size, padding=4),
                tv.RandomHorizontalFlip(),
                tv.ToTensor(),
                tv.Normalize(ours.recipe.model.mean, ours.recipe.model.std),
            ]
        )
    mixup = Mixup(
        mixup_alpha=0.0,
        cutmix_alpha=1.0,
        prob=0.5,
        mode="elem",
        label_smoothing=0.0,
        num_classes=len(ours.source.classes),
    )
    while True:
        for images, labels in loader:
            yield mixup(images, labels)


def timm_loader(ours: Ours, batch: int) -> Callable[[int], Turn]:
    batches = timm_batches(ours, batch, resized=True)

    def make(steps: int) -> Turn:
        def run() -> float:
            for _ in islice(batches, LEAD):
                pass
            begun = time.perf_counter()
            for _ in islice(batches, steps):
                pass
            return steps * batch / (time.perf_counter() - begun)

        return run

    return make


def timm_loop(ours: Ours, batch: int, *, resized: bool) -> Callable[[int], Turn]:
    batches = timm_batches(ours, batch, resized=resized)
    net, optimizer = network(ours)

    def make(steps: int) -> Turn:
        def run() -> float:
            begun = 0.0
            for number, (images, targets) in enumerate(islice(batches, LEAD + steps)):
                if number == LEAD:
                    begun = time.perf_counter()
                step(ours, net, optimizer, images.to(memory_format=torch.channels_last), targets)
            return steps * batch / (time.perf_counter() - begun)

        return run

    return make


if __name__ == "__main__":
    assert timm.__version__
    main()
