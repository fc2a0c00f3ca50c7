"""The loop's arithmetic: plain PyTorch's bit for bit in float32, to a tolerance in bfloat16 and compiled."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.sample import Batch
from partwise.engine.loop import Interrupted, Job, run_stages
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Plan, Products
from partwise.methods.cutmix.config import CutMixFields
from partwise.methods.cutmix.training import SoftLabelLoss
from partwise.ops import draws
from tests.unit.engine.toys import Plain, make_job

STEPS, PARTS, SIZE, CLASSES = 6, 2, 8, 3


def convolutional() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, stride=2),
        nn.Flatten(),
        nn.Dropout(0.2),
        nn.Linear(72, CLASSES),
    )


def pictures(step: int, part: int) -> tuple[Tensor, Tensor]:
    generator = draws.generator(0, "pictures", step, part)
    labels = torch.randint(0, CLASSES, (4,), generator=generator)
    images = torch.rand(4, 3, SIZE, SIZE, generator=generator) + 0.3 * labels[:, None, None, None]
    return images, F.one_hot(labels, CLASSES).float()


class Classifying(Plain):
    """Convolutions, batch norm and dropout against soft labels, in parts."""

    def __init__(self, job: Job, *, compile: bool = False, ema: float | None = None, clip: float | None = None) -> None:
        super().__init__(job, "pictures", parts=PARTS, ema=ema)
        self.steps, self.compile, self.clip = STEPS, compile, clip

    def prepare(self, products: Products) -> None:
        self.network = convolutional()

    def plans(self) -> dict[str, Plan]:
        fields = self.job.recipe.optim.model_copy(update={"clip_norm": self.clip})
        return {"network": Plan(build_optimizer(parameter_groups(self.network, fields), fields), fields)}

    def loss_module(self) -> nn.Module:
        return SoftLabelLoss(self.network, CutMixFields(), compile=self.compile)

    def batches(self, first_step: int) -> Iterator[Batch]:
        step = first_step
        while True:
            for part in range(PARTS):
                images, targets = pictures(step, part)
                yield Batch([""] * len(images), torch.arange(len(images)), images, targets)
            step += 1


def trained(path: Path, *, precision: str = "fp32", **options: object) -> tuple[Classifying, list[float]]:
    """The stage after its run, and its losses."""
    job = make_job(path, precision=precision)
    job.recipe = job.recipe.model_copy(update={"train": job.recipe.train.model_copy(update={"log_every": 1})})
    stage = Classifying(job, **options)  # type: ignore[arg-type]
    run_stages([stage], job)
    return stage, [line["loss"] for line in job.folder.read_metrics()]


def plainly(
    *, lr: float, momentum: float, decay: float, clip: float, ema: float
) -> tuple[nn.Module, nn.Module, list[float]]:
    """The same training as anyone would write it: the weights, their moving average, and the losses."""
    torch.manual_seed(draws.derive(0, "pictures", "prepare"))
    network = convolutional().to(memory_format=torch.channels_last)
    average = copy.deepcopy(network)
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=momentum, nesterov=True, weight_decay=decay)
    losses = []
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = lr * 0.5 * (1 + math.cos(math.pi * step / STEPS))
        optimizer.zero_grad()
        total = 0.0
        for part in range(PARTS):
            torch.manual_seed(draws.derive(0, "pictures", "noise", step, part, 0))
            images, targets = pictures(step, part)
            loss = -(targets * network(images).log_softmax(1)).sum(1).mean() / PARTS
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(network.parameters(), clip)
        optimizer.step()
        for mean, weight in zip(average.parameters(), network.parameters(), strict=True):
            mean.data = ema * mean.data + (1 - ema) * weight.data
        for mean, buffer in zip(average.buffers(), network.buffers(), strict=True):
            mean.data.copy_(buffer)
        losses.append(total)
    return network, average, losses


def test_accumulation_clipping_and_schedule_are_plain_pytorchs(tmp_path: Path) -> None:
    """The weights bit for bit; the losses, which are added up in another order, to the last digits."""
    stage, losses = trained(tmp_path, clip=0.5)
    fields = stage.job.recipe.optim
    network, _, expected = plainly(lr=fields.lr, momentum=fields.momentum, decay=fields.weight_decay, clip=0.5, ema=0.8)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, stage.network.state_dict()[name]), name
    assert losses == pytest.approx(expected, rel=1e-5)
    norms = [line["gradient_norm"] for line in stage.job.folder.read_metrics()]
    assert max(norms) > 0.5, "there was something to clip"


def test_the_moving_average_is_the_textbooks(tmp_path: Path) -> None:
    stage, _ = trained(tmp_path, clip=0.5, ema=0.8)
    fields = stage.job.recipe.optim
    network, average, _ = plainly(lr=fields.lr, momentum=fields.momentum, decay=fields.weight_decay, clip=0.5, ema=0.8)
    for name, tensor in average.state_dict().items():  # the stage leaves the average as its networks
        assert torch.allclose(tensor, stage.network.state_dict()[name], rtol=1e-5, atol=1e-7), name
    weights = dict(network.named_parameters())
    assert any(not torch.allclose(weights[n], p, rtol=1e-3) for n, p in stage.network.named_parameters())


def test_bfloat16_agrees_with_float32(tmp_path: Path) -> None:
    exact, losses = trained(tmp_path / "fp32", clip=0.5)
    rough, rounded = trained(tmp_path / "bf16", precision="bf16", clip=0.5)
    assert rounded != losses, "it was not computed in bfloat16"
    assert rounded == pytest.approx(losses, rel=0.02)
    for (name, ours), theirs in zip(rough.network.named_parameters(), exact.network.parameters(), strict=True):
        assert ours.dtype == torch.float32, name
        assert (ours - theirs).norm() <= 0.02 * theirs.norm() + 1e-3, name


def test_bfloat16_goes_on_bit_for_bit(tmp_path: Path) -> None:
    whole, losses = trained(tmp_path / "whole", precision="bf16")
    job = make_job(tmp_path / "broken", precision="bf16")
    stage = Classifying(job)
    stage.after_step = lambda step: setattr(job.runtime.interruption, "requested", step == 2)
    with pytest.raises(Interrupted):
        run_stages([stage], job)
    again, _ = trained(tmp_path / "broken", precision="bf16")
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, again.network.state_dict()[name]), name
    assert len(losses) == STEPS


@pytest.mark.slow
@pytest.mark.filterwarnings("default")  # the compiler's own
def test_compiled_gives_the_same_losses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a compiler")
    small = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 4), nn.ReLU(), nn.Linear(4, CLASSES))
    monkeypatch.setitem(globals(), "convolutional", lambda: copy.deepcopy(small))
    eager, losses = trained(tmp_path / "eager")
    compiled, found = trained(tmp_path / "compiled", compile=True)
    assert found == pytest.approx(losses, rel=1e-4)
    assert found[-1] < found[0], "it learns"
    left = compiled.job.products.read("pictures", "networks")
    assert left.keys() == eager.job.products.read("pictures", "networks").keys(), "nothing is kept twice"
    for name, tensor in eager.network.state_dict().items():
        assert torch.allclose(tensor, compiled.network.state_dict()[name], rtol=1e-3, atol=1e-5), name
