"""Whole steps of Adam-v2: ours beside a straightforward re-creation, and of its first phase beside lightly's DINO blocks.

    python benchmarks/pretraining.py [--threads 2] [--backbone resnet10t] [--quick]      (writes results/pretraining.json)

`published` is what the published code does in a step, written plainly: 14 views picture by picture through PIL (in as many
processes as we have threads, as its loader does), the student's parts and whole each in a call of their own, the teacher's
whole twice, an average tensor by tensor, a clip that reads the norm of every tensor. `lightly` is its DINOLoss,
DINOProjectionHead and update_momentum in a plain loop on our views (needs lightly, in any environment). All sides have the same
networks, precision and batch. The three losses of one batch are compared first, in float32 on the same views. Sides take turns,
numbers are medians.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from multiprocessing.pool import Pool
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import pretraining_views as chains
from partwise.data.loading import PictureData
from partwise.data.sample import Record, Source
from partwise.engine.loop import Job, first_steps
from partwise.engine.runtime import start
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.adam_v2.learning import LearnPlaces
from partwise.methods.adam_v2.method import AdamMethod
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.ops.schedules import cosine_schedule
from partwise.run import RunFolder
from record import write_result

ASKED = {"cpu": 1.0, "cuda": 2.0}
"""Least ratio of our whole step over the published one."""
COMMAND = "python benchmarks/pretraining.py"


class Chests(Source):
    """Grey pictures of 512 px, the same that benchmarks/pretraining_views.py has."""

    kind = name = "chests"
    channels = 1
    image_size = (chains.SIDE, chains.SIDE)

    def __init__(self, count: int) -> None:
        self.pixels = chains.pictures(count)
        self.records = [Record(id=str(n), split="train") for n in range(count)]

    def load_image(self, index: int) -> Tensor:
        return self.pixels[index]


class Ours:
    """A phase of the package, step by step through its own loop."""

    def __init__(self, batch: int, backbone: str, threads: int, phase: str, *more: str) -> None:
        other = "localize_epochs" if phase == "parts" else "part_whole_epochs"
        words = [
            f"train.batch_size={batch}",
            f"train.threads={threads}",
            f"data.threads={threads}",
            f"model.backbone={backbone}",
            "data.size=512",
            f"method.{other}=[]",
            "method.num_prototypes=4096",
            "train.log_every=50",
            *more,
        ]
        recipe = resolve("adam_v2/folder", data="images:none", settings=words)[0]
        source = Chests(batch)
        self.runtime = start(recipe.train)
        self.data = PictureData(source, recipe.data, device=self.runtime.device)
        torch.manual_seed(0)
        self.method = AdamMethod(recipe, DataFacts.of(source))
        self.method.to(self.runtime.device)
        self.folder = tempfile.TemporaryDirectory()
        folder, progress = RunFolder(Path(self.folder.name)), Progress(quiet=True)
        self.job = Job(recipe, folder, self.runtime, progress, Tracker(folder, progress, leads=True))
        (stage,) = self.method.stages(self.data, self.job)
        assert isinstance(stage, LearnPlaces)
        self.stage = stage
        self.steps: Iterator[int] = first_steps(stage, self.job, 10_000)

    def step(self) -> None:
        """One step of the loop."""
        next(self.steps)
        settle(self.runtime.device)


def settle(device: torch.device) -> None:
    """Wait until the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize()


class Published:
    """The second phase as published, on networks that are copies of ours."""

    def __init__(self, ours: Ours, processes: Pool | None, threads: int) -> None:
        self.method = copy.deepcopy(ours.method)
        self.method.encoder.train(), self.method.student.train()
        self.runtime, self.processes, self.threads = ours.runtime, processes, threads
        self.batch = ours.job.recipe.train.batch_size
        self.networks = [self.method.student, self.method.student_head, self.method.parts]
        for network in (*self.networks, self.method.encoder, self.method.head):
            network.to(memory_format=torch.channels_last)
        decayed = [p for n in self.networks for p in n.parameters() if p.ndim > 1]
        spared = [p for n in self.networks for p in n.parameters() if p.ndim <= 1]
        groups = [{"params": decayed, "weight_decay": 0.04}, {"params": spared, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, lr=1e-6, foreach=False)

    def views(self) -> list[Tensor]:
        """14 batches, made picture by picture in the loader's processes."""
        assert self.processes is not None
        shares = [range(first, self.batch, self.threads) for first in range(self.threads)]
        parts = self.processes.map(whole_share, shares, chunksize=1)
        return [torch.cat(own).to(self.runtime.device) for own in zip(*parts, strict=True)]

    def losses(self, views: list[Tensor]) -> dict[str, Tensor]:
        """L_loc, L_comp and L_dec of views in the table's order, each in the plainest way."""
        method, fields = self.method, self.method.fields
        views = [view.contiguous(memory_format=torch.channels_last) for view in views]
        whole, centre, local, parts = views[0], views[1], views[2:10], views[10:]
        student, teacher = method.student.backbone.pooled, method.encoder.backbone.pooled
        with self.runtime.fabric.autocast():
            answers = [method.student_head(student(centre))]
            answers += list(method.student_head(student(torch.cat(local))).chunk(8))
            with torch.no_grad():
                logits = method.head(teacher(whole))
                target = teacher(whole)
                targets = [teacher(part) for part in parts]
            q = ((logits - method.centre.value) / fields.teacher_temperature).softmax(1)
            localize = torch.zeros((), device=whole.device)
            for answer in answers:
                localize = localize - (q * (answer / fields.student_temperature).log_softmax(1)).sum(1).mean()
            embedded = [student(part) for part in parts]
            composed = method.parts.compose(torch.stack(embedded, 1))
            apart = method.parts.decompose(student(whole))
            size = target.shape[1]
            compose = size * F.mse_loss(unit(composed), unit(target))
            terms = [size * F.mse_loss(unit(apart[:, n]), unit(own)) for n, own in enumerate(targets)]
        self.logits = logits
        return {"localize": localize / len(answers), "compose": compose, "decompose": sum(terms) / len(terms)}

    def step(self) -> None:
        """Views, losses, a clip tensor by tensor, and averages tensor by tensor."""
        method = self.method
        total = sum(self.losses(self.views()).values())
        assert isinstance(total, Tensor)
        self.optimizer.zero_grad()
        total.backward()
        for network in self.networks:
            for parameter in network.parameters():
                if parameter.grad is not None:
                    norm = parameter.grad.norm(2).item()
                    if norm > 3.0:
                        parameter.grad.mul_(3.0 / (norm + 1e-6))
        self.optimizer.step()
        with torch.no_grad():
            for follower, leader in ((method.encoder, method.student), (method.head, method.student_head)):
                for ours, theirs in zip(follower.parameters(), leader.parameters(), strict=True):
                    ours.mul_(0.996).add_(0.004 * theirs)
            method.centre.value.mul_(0.9).add_(0.1 * self.logits.float().mean(0))
        settle(self.runtime.device)
        total.item()


def unit(x: Tensor) -> Tensor:
    """Rows at unit length, in float32."""
    return F.normalize(x.float(), dim=1)


def whole_share(rows: range) -> list[Tensor]:
    """One process's pictures as 14 batches, which travel to the trainer."""
    held = chains.HELD
    draws = held["draws"]
    views = range(len(draws.table.views))
    return [torch.stack([chains.one_view(held["pictures"][row], draws, row, view) for row in rows]) for view in views]


class Lightly:
    """The first phase with lightly's blocks: student, teacher, head, loss and average are its own, views and encoder ours."""

    def __init__(self, ours: Ours) -> None:
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead

        fields, device = ours.method.fields, ours.runtime.device
        self.ours, self.fields, self.runtime = ours, fields, ours.runtime
        self.student = copy.deepcopy(ours.method.student).train()
        width = self.student.num_features
        heads = [
            DINOProjectionHead(width, fields.hidden, fields.bottleneck, fields.num_prototypes, freeze_last_layer=1)
            for _ in range(2)
        ]
        self.student_head, self.head = (head.to(device) for head in heads)
        self.encoder = copy.deepcopy(ours.method.encoder).train()
        self.head.load_state_dict(self.student_head.state_dict())
        for network in (self.student, self.encoder):
            network.to(device).to(memory_format=torch.channels_last)
        for network in (self.encoder, self.head):
            network.requires_grad_(False)
        self.loss = DINOLoss(
            output_dim=fields.num_prototypes,
            warmup_teacher_temp=fields.teacher_temperature,
            teacher_temp=fields.teacher_temperature,
            student_temp=fields.student_temperature,
        ).to(device)
        learning = [*self.student.parameters(), *self.student_head.parameters()]
        self.optimizer = torch.optim.AdamW(learning, lr=1e-6, weight_decay=0.04)
        self.batches = ours.stage.batches(0)

    def step(self) -> None:
        """Views as ours makes them, then a step as lightly's examples write it."""
        from lightly.models.utils import update_momentum

        views = next(self.batches).views
        large, small = views[self.fields.view_size], views[self.fields.local_size]
        momentum = cosine_schedule(0, 100, start=0.996, end=1.0)
        update_momentum(self.student, self.encoder, m=momentum)
        update_momentum(self.student_head, self.head, m=momentum)
        with self.runtime.fabric.autocast():
            with torch.no_grad():
                teacher = [self.head(self._pooled(self.encoder, view)) for view in large]
            student = [self.student_head(self._pooled(self.student, view)) for view in (*large, *small)]
            loss = self.loss(teacher, student, epoch=0)
        loss.backward()
        self.student_head.cancel_last_layer_gradients(current_epoch=0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        settle(self.runtime.device)

    @staticmethod
    def _pooled(encoder: nn.Module, view: Tensor) -> Tensor:
        pooled: Tensor = encoder.backbone.pooled(view.contiguous(memory_format=torch.channels_last))  # type: ignore[operator,union-attr]
        return pooled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--backbone", default="resnet10t")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="one turn of a small batch, nothing written")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    turns, batch = (1, 2 * options.threads) if options.quick else (options.turns, options.batch)
    torch.set_num_threads(options.threads)
    values = second_phase(batch, options.backbone, options.threads, turns)
    values |= first_phase(batch, options.backbone, options.threads, turns)
    values |= {"batch": batch, "backbone": options.backbone, "threads": options.threads, "load_average_before": load}
    for name, value in values.items():
        print(name, value)
    if not options.quick:
        print(write_result("pretraining", f"{COMMAND} --threads {options.threads}", values))


def second_phase(batch: int, backbone: str, threads: int, turns: int) -> dict[str, Any]:
    """Whole steps, views included."""
    ours = Ours(batch, backbone, threads, "parts")
    spawning = multiprocessing.get_context("spawn")
    with spawning.Pool(threads, initializer=chains.prepare, initargs=(batch,)) as processes:
        plain = Published(ours, processes, threads)
        agreement = compare(batch, backbone, threads)
        seconds = timed({"ours": ours.step, "published": plain.step}, turns)
    rates = {name: round(batch / statistics.median(own), 2) for name, own in seconds.items()}
    ratio = round(rates["ours"] / rates["published"], 3)
    device = ours.runtime.device.type
    return {
        "second phase, pictures_per_second": rates,
        "second phase, seconds a step": {name: [round(s, 4) for s in own] for name, own in seconds.items()},
        "ours over published": ratio,
        "asked": ASKED.get(device, 1.0),
        "met": ratio >= ASKED.get(device, 1.0),
        "largest relative difference of losses": agreement,
        "precision": ours.runtime.precision,
    }


def compare(batch: int, backbone: str, threads: int) -> float:
    """Largest relative difference of the three losses in float32, view by view on both sides."""
    ours = Ours(batch, backbone, threads, "parts", "train.precision=fp32", "method.passes=separate")
    plain = Published(ours, None, threads)
    blocks = next(ours.stage.batches(0)).views
    fields = ours.method.fields
    large, small = blocks[fields.view_size], blocks[fields.local_size]
    views = [large[0], large[1], *small, *large[2:]]
    found, _ = ours.stage.loss_module().train()(next(ours.stage.batches(0)))
    expected = plain.losses(views)
    return max(abs(float((found[name] / expected[name]).detach()) - 1) for name in expected)


def first_phase(batch: int, backbone: str, threads: int, turns: int) -> dict[str, Any]:
    """Whole steps beside lightly's, on the same views made the same way; nothing where lightly is not installed."""
    ours = Ours(batch, backbone, threads, "localize")
    try:
        rival = Lightly(Ours(batch, backbone, threads, "localize"))
    except ImportError:
        return {}
    seconds = timed({"ours": ours.step, "lightly": rival.step}, turns)
    rates = {name: round(batch / statistics.median(own), 2) for name, own in seconds.items()}
    ratio = round(rates["ours"] / rates["lightly"], 3)
    return {
        "first phase, pictures_per_second": rates,
        "ours over lightly": ratio,
        "met lightly": ratio >= 1,
    }


def timed(sides: dict[str, Callable[[], None]], turns: int, steps: int = 3) -> dict[str, list[float]]:
    """Seconds a step of every side, in turns of a few steps each, after two that do not count."""
    for side in sides.values():
        side(), side()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(turns):
        for name, side in sides.items():
            for _ in range(steps):
                begun = time.perf_counter()
                side()
                seconds[name].append(time.perf_counter() - begun)
    return seconds


if __name__ == "__main__":
    main()
