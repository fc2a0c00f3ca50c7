"""The classifier's stages as runs: against a training loop written out, and what each leaves alone."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import Tensor

from partwise.engine.loop import Interrupted, Job, run_stages
from partwise.engine.stages import Stage
from partwise.methods.ppl.classifying import LearnPatches, WarmUp
from partwise.methods.ppl.method import PplMethod
from partwise.models.patch_learning import PatchLearning
from partwise.ops import draws
from tests.unit.methods.ppl.small import run

MAPS = ("method.until=maps", "optim.lr=0.1", "method.later_lr=0.5", "optim.weight_decay=0.01")
"""Settings of a run of the classifier's stages alone."""


def soft_margin(logits: Tensor, targets: Tensor) -> Tensor:
    total = torch.zeros(())
    for row, wanted in zip(logits, targets, strict=True):
        for z, y in zip(row, wanted, strict=True):
            total = total - (torch.log(torch.sigmoid(z)) if y else torch.log(torch.sigmoid(-z)))
    return total / logits.numel()


class Sgd:
    """Nesterov momentum with weight decay, one parameter at a time, at rates that fall as (1 - t / T)^0.9."""

    def __init__(self, network: PatchLearning, *, rate: float, steps: int, momentum: float, decay: float) -> None:
        self.parameters = [p for p in network.parameters() if p.requires_grad]
        self.speed = [torch.zeros_like(p) for p in self.parameters]
        self.rate, self.steps, self.momentum, self.decay, self.done = rate, steps, momentum, decay, 0

    def step(self, loss: Tensor) -> None:
        gradients = torch.autograd.grad(loss, self.parameters)
        rate = self.rate * (1 - self.done / self.steps) ** 0.9
        with torch.no_grad():
            for p, v, g in zip(self.parameters, self.speed, gradients, strict=True):
                full = g + self.decay * p
                v.mul_(self.momentum).add_(full)
                p.sub_(rate * (full + self.momentum * v))
        self.done += 1


def by_hand(method: PplMethod, job: Job, stages: Sequence[Stage]) -> PatchLearning:
    """What the stages' rules say, batch by batch; batches are those of data/loading.py, which has tests of its own."""
    network, seed, optim = method.classifier, job.recipe.train.seed, job.recipe.optim
    for stage in stages:
        assert isinstance(stage, LearnPatches | WarmUp)
        patches = isinstance(stage, LearnPatches)
        if patches:
            network.leave_plain()
            network.classifier.requires_grad_(True)
            network.eval()  # no dropout here: evaluation mode means batch norm's running statistics
            for number in range(network.backbone.num_blocks):
                for module in network.backbone.block_modules(number):
                    for p in module.parameters():
                        p.requires_grad_(number > method.fields.freeze_through)
        else:
            torch.manual_seed(draws.derive(seed, stage.name, "prepare"))
            network.begin_plain()
            network.classifier.requires_grad_(False)
            network.train()
        turns = network.num_stages if patches and stage.stage is None else 1
        epochs = method.fields.later_epochs if stage.name == "patches_2" else job.recipe.train.epochs
        batches = 2 * round(epochs)  # sixteen pictures, eight a batch
        rate = optim.lr * (stage.rate if patches else 1.0)
        sgd = Sgd(network, rate=rate, steps=batches * turns, momentum=optim.momentum, decay=optim.weight_decay)
        source = stage.data.train_batches(0, batch_size=8, parts=1, seed=seed, stage=stage.name)
        for batch in islice(source, batches):
            for turn in range(turns):
                if patches:
                    network.stage = turn if stage.stage is None else stage.stage
                assert batch.targets is not None
                sgd.step(soft_margin(network(batch.images.float() / 255), batch.targets))
    return network


CASES = {
    "ppl": ("method.freeze_through=0",),
    "ppl without a warm-up": ("method.warmup_epochs=0", "method.later_epochs=2"),
    "interleaved": ("method.schedule=interleaved", "method.warmup_epochs=0"),
    "epl": ("method.mode=epl",),
    "single": ("method.mode=single", "method.positions=[1]", "method.grids=[3]"),
    "baseline": ("method.mode=baseline", "method.warmup_epochs=0"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_loop_written_out(case: str, tmp_path: Path) -> None:
    method, stages, job = run(tmp_path / "run", *MAPS, *CASES[case])
    run_stages(stages, job)
    again, planned, other = run(tmp_path / "hand", *MAPS, *CASES[case])
    expected = by_hand(again, other, planned)
    ours, theirs = method.classifier.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-3, atol=1e-5, msg=lambda text, name=name: name + text)


def left(job: Job, stage: str) -> dict[str, Tensor]:
    return job.products.read(stage, "networks")


def test_what_each_stage_changes_and_what_it_leaves_alone(tmp_path: Path) -> None:
    method, stages, job = run(tmp_path, *MAPS, "method.freeze_through=0")
    fresh = {f"classifier.{name}": tensor.clone() for name, tensor in method.classifier.state_dict().items()}
    run_stages(stages, job)
    warm, first, second = (left(job, name) for name in ("warm_up", "patches_1", "patches_2"))
    statistics = [name for name in first if "running" in name or "num_batches" in name]
    assert statistics and all(not torch.equal(warm[name], fresh[name]) for name in statistics)
    for name in statistics:  # patches would change them
        assert torch.equal(first[name], warm[name]) and torch.equal(second[name], warm[name])
    prefixes = ("classifier.backbone.conv1.", "classifier.backbone.bn1.", "classifier.backbone.stages.0.")
    for name in first:
        if name.startswith(prefixes):
            assert torch.equal(second[name], warm[name]), f"{name} is frozen"
        elif name.endswith("weight") and name in warm and name != "classifier.classifier.weight":
            assert not torch.equal(first[name], warm[name]) and not torch.equal(second[name], first[name]), name
    assert "classifier.plain_classifier.weight" in warm and "classifier.plain_classifier.weight" not in first
    assert torch.equal(warm["classifier.classifier.weight"], fresh["classifier.classifier.weight"])


def test_a_stage_begins_where_the_one_before_it_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    method, stages, job = run(tmp_path, *MAPS)
    begun: dict[str, dict[str, Tensor]] = {}

    def note(stage: LearnPatches, _: object) -> None:
        state = method.classifier.state_dict()
        begun[stage.name] = {f"classifier.{name}": tensor.clone() for name, tensor in state.items()}

    monkeypatch.setattr(LearnPatches, "first_pictures", note)
    run_stages(stages, job)
    warm, first = left(job, "warm_up"), left(job, "patches_1")
    assert all(torch.equal(begun["patches_2"][name], tensor) for name, tensor in first.items())
    shared = warm["classifier.plain_classifier.weight"].repeat(1, 2, 1, 1) / 2
    assert torch.equal(begun["patches_1"]["classifier.classifier.weight"], shared)
    assert all(torch.equal(begun["patches_1"][n], t) for n, t in warm.items() if ".backbone." in n)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    rates = {(line["stage"], line["step"]): line["lr"] for line in lines if line["kind"] == "step"}
    assert rates["warm_up", 1] == pytest.approx(0.1)
    for stage in ("patches_1", "patches_2"):
        assert rates[stage, 1] == pytest.approx(0.05) and rates[stage, 2] == pytest.approx(0.05 * 0.5**0.9)


@pytest.mark.parametrize(
    "settings", [("method.schedule=interleaved", "train.accumulate=2"), ("method.mode=epl",), ("train.ema=0.7",)]
)
def test_a_run_that_is_cut_after_every_step_leaves_the_same_weights(
    settings: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interleaved, that is in the middle of a batch's turns too."""
    method, stages, job = run(tmp_path / "whole", *MAPS, *settings)
    run_stages(stages, job)
    lives = 0
    for life in range(30):
        again, planned, cut = run(tmp_path / "cut", *MAPS, "train.checkpoint_seconds=0", *settings)
        for stage in planned:
            stage.after_step = lambda _, job=cut: setattr(job.runtime.interruption, "requested", True)  # type: ignore[method-assign]
        try:
            run_stages(planned, cut)
            lives = life
            break
        except Interrupted:
            continue
    assert lives >= 4
    ours, theirs = method.classifier.state_dict(), again.classifier.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert method.classifier.stage == again.classifier.stage == method.classifier.num_stages - 1
    assert [p.requires_grad for p in method.classifier.parameters()] == [
        p.requires_grad for p in again.classifier.parameters()
    ]
