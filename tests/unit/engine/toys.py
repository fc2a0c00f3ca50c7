"""Toy stages that exercise each kind of training the engine carries."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.config import DataFields, EvaluateFields, OptimFields, Recipe, TrainFields
from partwise.data.sample import Batch
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.runtime import start
from partwise.engine.stages import ComputeStage, Losses, Plan, Products, Stage, StepOutput, TrainStage
from partwise.engine.tracking import Progress, Tracker
from partwise.models.averaging import lerp_into
from partwise.ops import draws
from partwise.run import RunFolder

STEPS, BATCH, FEATURES = 24, 8, 5


def make_job(path: Path, **train: object) -> Job:
    """A job with a quiet progress line, on one thread of the CPU, in float32 also where bfloat16 is fast."""
    recipe = Recipe(
        recipe="toy/toy",
        data=DataFields(source="toy:"),
        optim=OptimFields(lr=0.05, momentum=0.9, schedule="cosine"),
        train=TrainFields(
            **{"threads": 1, "log_every": 3, "checkpoint_seconds": 0, "batch_size": BATCH, "precision": "fp32"} | train
        ),
        evaluate=EvaluateFields(every=0),
    )
    folder = RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    progress = Progress(quiet=True)
    return Job(recipe, folder, start(recipe.train), progress, Tracker(folder, progress, leads=True))


def toy_batches(name: str, first_step: int, parts: int = 1) -> Iterator[Batch]:
    """Regression batches, each a function of its step and part."""
    step = first_step
    while True:
        for part in range(parts):
            generator = draws.generator(0, name, step, part)
            images = torch.randn(BATCH // parts, FEATURES, generator=generator)
            targets = images.sin().sum(1, keepdim=True)
            yield Batch([f"{step}-{i}" for i in range(len(images))], torch.arange(len(images)), images, targets)
        step += 1


def small_network() -> nn.Module:
    return nn.Sequential(nn.Linear(FEATURES, 16), nn.BatchNorm1d(16), nn.Tanh(), nn.Dropout(0.2), nn.Linear(16, 1))


class Regression(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> StepOutput:
        error = F.mse_loss(self.network(batch.images), batch.targets)
        return {"mse": error}, {"double": 2 * error.detach()}


class Plain(TrainStage):
    """One loss a batch, dropout and batch norm included."""

    def __init__(
        self, job: Job, name: str = "plain", *, parts: int = 1, ema: float | None = None, poison: int = -1
    ) -> None:
        self.name, self.job, self.parts, self.ema, self.poison = name, job, parts, ema, poison
        self.steps, self.steps_per_epoch = STEPS, 8
        self.network = nn.Identity()

    def prepare(self, products: Products) -> None:
        self.network = small_network()

    def restore(self, products: Products) -> None:
        self.network = small_network()
        super().restore(products)

    def networks(self) -> dict[str, nn.Module]:
        return {"network": self.network}

    def plans(self) -> dict[str, Plan]:
        fields = self.job.recipe.optim
        return {"network": Plan(build_optimizer(parameter_groups(self.network, fields), fields), fields)}

    def loss_module(self) -> nn.Module:
        return Regression(self.network)

    def batches(self, first_step: int) -> Iterator[Batch]:
        for number, batch in enumerate(toy_batches(self.name, first_step, self.parts)):
            if first_step + number // self.parts == self.poison:
                batch.images[0, 0] = float("nan")
            yield batch


class TeacherLoss(nn.Module):
    def __init__(self, student: nn.Module, teacher: nn.Module) -> None:
        super().__init__()
        self.student = student
        self._teacher = [teacher]  # beside the module: the strategy must not see its parameters

    def forward(self, batch: Batch) -> StepOutput:
        with torch.no_grad():
            wanted = self._teacher[0](batch.images)
        guess = self.student(batch.images)
        return {"task": F.mse_loss(guess, batch.targets), "agree": F.mse_loss(guess, wanted)}, {}


class Teacher(Plain):
    """A student beside a teacher that follows it, with a centre that is state but no network."""

    def prepare(self, products: Products) -> None:
        self.network = small_network()
        self.teacher = copy.deepcopy(self.network).requires_grad_(False)
        self.centre = torch.zeros(1)

    def networks(self) -> dict[str, nn.Module]:
        return {"student": self.network, "teacher": self.teacher}

    def loss_module(self) -> nn.Module:
        return TeacherLoss(self.network, self.teacher)

    def after_backward(self, step: int) -> None:
        last = next(reversed(list(self.network.parameters())))
        if step < 3 and last.grad is not None:  # a last layer that is frozen at first
            last.grad.zero_()

    def after_step(self, step: int) -> None:
        lerp_into(list(self.teacher.parameters()), list(self.network.parameters()), decay=0.9)
        self.centre.mul_(0.9).add_(0.1 * next(self.network.parameters()).detach().mean())

    def extra_state(self) -> dict[str, Tensor]:
        return {"centre": self.centre}


class Alternating(Plain):
    """Two optimisers in turn, by hand."""

    strategy = "manual"

    def prepare(self, products: Products) -> None:
        self.network, self.other = small_network(), small_network()

    def networks(self) -> dict[str, nn.Module]:
        return {"first": self.network, "second": self.other}

    def plans(self) -> dict[str, Plan]:
        fields = self.job.recipe.optim
        adam = fields.model_copy(update={"name": "adamw", "lr": 0.01})
        return {
            "first": Plan(build_optimizer(parameter_groups(self.network, fields), fields), fields),
            "second": Plan(build_optimizer(parameter_groups(self.other, adam), adam), adam),
        }

    def step(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        batch = next(toy_batches(self.name, step))
        turn = "first" if step % 2 == 0 else "second"
        network = self.networks()[turn]
        rival = self.networks()["second" if turn == "first" else "first"]
        loss = F.mse_loss(network(batch.images), batch.targets + 0.1 * rival(batch.images).detach())
        optimizers[turn].zero_grad()
        loss.backward()
        optimizers[turn].step()
        return {"loss": loss.detach()}


class Distilling(Plain):
    """Learns its pictures through the gradient of a network's gradient."""

    strategy = "manual"

    def prepare(self, products: Products) -> None:
        self.network = nn.Linear(FEATURES, 1)
        generator = draws.generator(0, "pictures")
        self.pictures = torch.randn(4, FEATURES, generator=generator).requires_grad_()

    def restore(self, products: Products) -> None:
        self.prepare(products)
        TrainStage.restore(self, products)

    def plans(self) -> dict[str, Plan]:
        fields = self.job.recipe.optim
        return {"pictures": Plan(build_optimizer([{"params": [self.pictures], "lr_factor": 1.0}], fields), fields)}

    def extra_state(self) -> dict[str, Tensor]:
        return {"pictures": self.pictures}

    def step(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        batch = next(toy_batches(self.name, step))
        weights = list(self.network.parameters())
        real = torch.autograd.grad(F.mse_loss(self.network(batch.images), batch.targets), weights)
        made = F.mse_loss(self.network(self.pictures), torch.ones(4, 1))
        synthetic = torch.autograd.grad(made, weights, create_graph=True)
        loss = sum(((a - b) ** 2).sum() for a, b in zip(real, synthetic, strict=True))
        optimizers["pictures"].zero_grad()
        loss.backward()
        optimizers["pictures"].step()
        return {"loss": loss.detach()}


class Squares(ComputeStage):
    """Products from the weights that an earlier stage left."""

    name = "squares"

    def __init__(self) -> None:
        self.computed: list[str] = []
        self.scale = 0.0

    def prepare(self, products: Products) -> None:
        self.scale = float(products.read("plain", "networks")["network.4.bias"].sum())

    def items(self) -> Sequence[str]:
        return [f"folder/{i}" for i in range(6)]

    def compute(self, item: str) -> Mapping[str, Tensor]:
        self.computed.append(item)
        return {"square": torch.tensor(int(item.split("/")[1]) ** 2 + self.scale)}


class FromSquares(Plain):
    """A last stage that begins from the products of the one before it."""

    def __init__(self, job: Job) -> None:
        super().__init__(job, "last")
        self.steps = 3

    def prepare(self, products: Products) -> None:
        super().prepare(products)
        total = sum(float(products.read("squares", item)["square"]) for item in products.items("squares"))
        with torch.no_grad():
            next(self.network.parameters()).mul_(1 + 1e-3 * total)


def all_kinds(job: Job) -> dict[str, Stage]:
    """One of each kind of training stage."""
    return {
        "plain": Plain(job),
        "parts": Plain(job, "parts", parts=2),
        "ema": Plain(job, "ema", ema=0.8),
        "teacher": Teacher(job, "teacher"),
        "alternating": Alternating(job, "alternating"),
        "distilling": Distilling(job, "distilling"),
    }
