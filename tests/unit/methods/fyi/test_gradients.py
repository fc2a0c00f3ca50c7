"""Gradient matching against the published loop: one class after the other, one parameter after the other."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.data.siamese import augment, draw_per_sample
from partwise.methods.fyi.gradients import MatchGradients, outer_and_inner
from partwise.methods.fyi.learning import Distil
from partwise.ops import draws
from tests.unit.methods.fyi.runs import pictures_before, setting

DC = ("method.matching=dc", "optim.lr=0.1")


def naive_distance(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """DC's distance, written row by row."""
    total = torch.zeros(())
    for own, other in zip(found, wanted, strict=True):
        if own.ndim < 2:
            continue
        for a, b in zip(own.flatten(1), other.flatten(1), strict=True):
            total = total + 1 - (a * b).sum() / (a.norm() * b.norm() + 1e-6)
    return total


def optimizers(stage: Distil) -> dict[str, torch.optim.Optimizer]:
    return {name: plan.optimizer for name, plan in stage.plans().items()}


@pytest.mark.parametrize(("arm", "strategy"), [("plain", "none"), ("fyi", "color_crop_cutout_flip_scale_rotate")])
def test_an_iteration_is_that_of_the_published_loop(arm: str, strategy: str, tmp_path: Path) -> None:
    """Two steps of the pictures with one pass of the network between them."""
    made = setting(
        tmp_path, [*DC, f"method.distil={arm}", f"method.strategy={strategy}", "method.outer=2", "method.inner=1"]
    )
    stage = made.distil
    assert isinstance(stage, MatchGradients)
    network, images = stage.fresh(0).train(), pictures_before(stage)
    momentum, total = torch.zeros_like(images), 0.0
    for turn in range(2):
        pixels = images.clone().requires_grad_()
        loss = torch.zeros(())
        for k in range(4):
            own = pixels[2 * k : 2 * k + 2]
            own = torch.cat([own, own.flip(3)]) if arm == "fyi" else own
            row = stage.draw(0, turn).slice(k, k + 1)
            both = [augment(stage.drawn_real(0, turn)[k], row), augment(own, row)]
            grads = [
                torch.autograd.grad(
                    F.cross_entropy(network(x), torch.full((len(x),), k)), list(network.parameters()), create_graph=True
                )
                for x in both
            ]
            loss = loss + naive_distance(list(grads[1]), [g.detach() for g in grads[0]])
        (slope,) = torch.autograd.grad(loss, pixels)
        momentum = 0.5 * momentum + slope
        images = images - 0.1 * momentum
        total += float(loss.detach())
        if turn == 0:
            generator = draws.generator(0, "distil", "inner", 0, 0)
            order = torch.randperm(8, generator=generator)
            batch, labels = images[order], stage.set.labels[order]
            if arm == "fyi":
                batch, labels = torch.cat([batch, batch.flip(3)]), torch.cat([labels, labels])
            batch = augment(batch, draw_per_sample(stage.rule, len(batch), generator))
            slopes = torch.autograd.grad(F.cross_entropy(network(batch), labels), list(network.parameters()))
            with torch.no_grad():
                for parameter, g in zip(network.parameters(), slopes, strict=True):
                    parameter.sub_(0.01 * g)
    losses = stage.step(0, optimizers(stage))
    assert float(losses["loss"]) * 8 == pytest.approx(total, rel=1e-5)
    torch.testing.assert_close(stage.set.images.detach(), images, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("how", ["loop", "grouped", "vmap"])
def test_every_way_to_the_gradients_gives_the_same(how: str, tmp_path: Path) -> None:
    found = []
    for way in ("loop", how):
        stage = setting(tmp_path, [*DC, f"method.gradients={way}", "method.outer=1"]).distil
        stage.step(0, optimizers(stage))
        found.append(stage.set.images.detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_pictures_is_that_of_finite_differences(tmp_path: Path) -> None:
    """In float64, with mirror images and the siamese augmentation."""
    stage = setting(tmp_path, [*DC, "method.outer=1", "model.arguments.activation=swish"]).distil
    assert isinstance(stage, MatchGradients)
    stage.set.double()
    network = stage.fresh(0).double()
    stage.distance(network, 0, 0)
    assert stage.set.images.grad is not None
    slope = stage.set.images.grad.clone()
    direction = torch.randn(stage.set.images.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            stage.set.images.add_(sign * 1e-6 * direction)
        values.append(float(stage.distance(network, 0, 0)))
        with torch.no_grad():
            stage.set.images.sub_(sign * 1e-6 * direction)
    assert (values[0] - values[1]) / 2e-6 == pytest.approx(float((slope * direction).sum()), rel=1e-4)


def test_turns_are_the_published_ones() -> None:
    assert [outer_and_inner(n) for n in (1, 2, 10, 15, 50, 99)] == [
        (1, 1),
        (1, 1),
        (10, 50),
        (10, 50),
        (50, 10),
        (50, 10),
    ]


def test_batch_norm_settles_on_real_pictures(tmp_path: Path) -> None:
    changes = [*DC, "method.outer=1", "model.arguments.norm=batch", "method.real_batch=8"]
    made = setting(tmp_path, [*changes, "data.source=creatures:?size=32&classes=2&train=64&val=16&test=16"])
    stage = made.distil
    assert isinstance(stage, MatchGradients) and stage.how(stage.fresh(0)) == "loop"
    before = pictures_before(stage)
    assert bool(stage.step(0, optimizers(stage))["loss"].isfinite())
    assert not torch.equal(stage.set.images.detach(), before)
