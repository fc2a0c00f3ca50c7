"""Experts and the students that follow them: against a loop written out, and what does not belong together."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from partwise.config import UserError
from partwise.data.siamese import augment, draw_per_sample
from partwise.engine.loop import run_stages
from partwise.engine.stages import ComputeStage
from partwise.methods.fyi.trajectories import MatchTrajectories
from partwise.ops import draws
from tests.unit.methods.fyi.runs import Setting, pictures_before, setting

MTT = (
    "method.matching=mtt",
    "method.whiten=true",
    "method.student_steps=3",
    "method.expert_epochs=1",
    "method.max_start=2",
    "method.synthetic_batch=4",
    "method.experts.count=2",
    "method.experts.epochs=2",
    "method.experts.batch_size=16",
    "method.trial.lr=null",
    "data.size=8",
    "optim.lr=10",
)


def made_experts(folder: Path, *changes: str) -> Setting:
    """A setting whose experts are there."""
    made = setting(folder, [*MTT, *changes])
    run_stages([s for s in made.method.stages(made.data, made.job)[:-1] if isinstance(s, ComputeStage)], made.job)
    return made


@pytest.mark.parametrize("arm", ["plain", "fyi"])
def test_an_iteration_is_the_student_written_out(arm: str, tmp_path: Path) -> None:
    made = made_experts(tmp_path, f"method.distil={arm}")
    stage = made.distil
    assert isinstance(stage, MatchTrajectories) and stage.set.rate is not None
    before, rate = pictures_before(stage), torch.tensor(0.01, requires_grad=True)
    expert = draws.order(2, 0, "distil", "experts", 0)[0]
    epoch = draws.derive(0, "distil", "epoch", 0) % 2
    stacks = load_file(tmp_path / "products" / "experts" / f"expert-{expert:05d}.safetensors")
    names = [name for name, _ in stage.network.named_parameters()]
    theta = [stacks[name][epoch].clone().requires_grad_() for name in names]
    start, target = [t.detach() for t in theta], [stacks[name][epoch + 1] for name in names]
    images = before.clone().requires_grad_()
    each = 2 if arm == "fyi" else 4  # mirror images double it again; a permutation is named by the pieces before it
    batches = [
        piece for made in (0, 8 // each) for piece in draws.order(8, 0, "distil", "student", 0, made).split(each)
    ]
    batches = batches[:3]
    for number, places in enumerate(batches):
        seen, labels = images[places], stage.set.labels[places]
        if arm == "fyi":
            seen, labels = torch.cat([seen, seen.flip(3)]), torch.cat([labels, labels])
        own = draw_per_sample(stage.rule, len(seen), draws.generator(0, "distil", "augment", 0, number))
        logits = torch.func.functional_call(stage.network, dict(zip(names, theta, strict=True)), (augment(seen, own),))
        slopes = torch.autograd.grad(F.cross_entropy(logits, labels), theta, create_graph=True)
        theta = [t - rate * g for t, g in zip(theta, slopes, strict=True)]
    far = sum(((t - w) ** 2).sum() for t, w in zip(theta, target, strict=True))
    span = sum(((s - w) ** 2).sum() for s, w in zip(start, target, strict=True))
    loss = torch.as_tensor(far) / span
    by_images, by_rate = torch.autograd.grad(loss, (images, rate))

    losses = stage.step(0, {name: plan.optimizer for name, plan in stage.plans().items()})
    assert float(losses["loss"]) == pytest.approx(float(loss.detach()), rel=1e-4) and float(losses["passed_over"]) == 0
    torch.testing.assert_close(stage.set.images.detach(), before - 10 * by_images, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(stage.set.rate.detach(), (rate - 1e-5 * by_rate).detach(), rtol=1e-5, atol=1e-7)


def test_experts_and_set_share_one_whitening(tmp_path: Path) -> None:
    made = made_experts(tmp_path)
    stage = made.distil
    pictures = made.data.pictures(made.data.splits["train"]).float() / 255
    seen = made.method.seen(pictures)
    torch.testing.assert_close(seen.mean(0), torch.zeros_like(seen[0]), rtol=0, atol=1e-3)
    assert torch.equal(stage.real.seen(made.data.splits["train"][None])[0], seen)


def test_a_step_size_stays_above_zero_and_bad_iterations_are_passed_over(tmp_path: Path) -> None:
    made = made_experts(tmp_path, "method.rate_optim.lr=1000")
    stage = made.distil
    optimizers = {name: plan.optimizer for name, plan in stage.plans().items()}
    stage.step(0, optimizers)
    assert stage.set.rate is not None and float(stage.set.rate.detach()) > 0
    with torch.no_grad():
        stage.set.rate.fill_(float("inf"))
    before = pictures_before(stage)
    assert float(stage.step(1, optimizers)["passed_over"]) == 1
    assert torch.equal(stage.set.images.detach(), before)


def test_flat_experts_are_others(tmp_path: Path) -> None:
    """FTD: the same batches, GSAM's steps."""
    plain, flat = (
        made_experts(tmp_path / name, *changes)
        for name, changes in (("plain", ()), ("flat", ("method.experts.rho=0.01", "method.experts.alpha=0.3")))
    )
    first, second = (load_file(m.job.products.path("experts", "expert-00000")) for m in (plain, flat))
    assert all(torch.equal(first[name][0], second[name][0]) for name in first)
    assert any(not torch.equal(first[name][2], second[name][2]) for name in first)


def test_experts_of_another_run_are_followed_or_named(tmp_path: Path) -> None:
    made_experts(tmp_path / "first")
    run = f"method.experts.run={tmp_path / 'first'}"
    later = setting(tmp_path / "second", [*MTT, run])
    assert [stage.name for stage in later.method.stages(later.data, later.job)] == ["distil", "set", "student"]
    stage = later.distil
    stage.step(0, {name: plan.optimizer for name, plan in stage.plans().items()})
    for change, told in (
        ("model.arguments.width=8", "experts of another network"),
        ("data.train_limit=32", "experts of other pictures"),
        ("method.whiten=false", "pictures whitened in another way"),
        ("method.max_start=3", "need 3"),
    ):
        with pytest.raises(UserError, match=told):
            setting(tmp_path / "third", [*MTT, run, change])
    made_experts(tmp_path / "bare", "method.whiten=false")
    with pytest.raises(UserError, match="were not whitened"):
        setting(tmp_path / "third", [*MTT, f"method.experts.run={tmp_path / 'bare'}"])
    with pytest.raises(UserError, match="no experts"):
        setting(tmp_path / "third", [*MTT, "method.whiten=false", f"method.experts.run={tmp_path}"])


def test_too_few_epochs_are_named_before_the_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need 4"):
        setting(tmp_path, [*MTT, "method.max_start=4"])
