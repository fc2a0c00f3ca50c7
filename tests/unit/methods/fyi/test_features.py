"""Distribution matching against the published loop, written class by class."""

from pathlib import Path

import pytest
import torch

from partwise.config import UserError
from partwise.data.siamese import augment
from tests.unit.methods.fyi.runs import pictures_before, setting


@pytest.mark.parametrize("arm", ["plain", "flip", "fyi"])
def test_a_step_is_that_of_the_loop_over_classes(arm: str, tmp_path: Path) -> None:
    stage = setting(tmp_path, [f"method.distil={arm}"]).distil
    before = pictures_before(stage)
    network, draws = stage.fresh(0), stage.draw(0)
    real = stage.drawn_real(0)
    images = before.clone().requires_grad_()
    total = torch.zeros(())
    for k in range(4):
        own = images[2 * k : 2 * k + 2]
        own = torch.cat([own, own.flip(3)]) if arm == "fyi" else own
        with torch.no_grad():
            wanted = network.embed(augment(real[k], draws.slice(k, k + 1))).mean(0)
        found = network.embed(augment(own, draws.slice(k, k + 1))).mean(0)
        total = total + ((found - wanted) ** 2).sum()
    (slope,) = torch.autograd.grad(total, images)

    optimizers = {name: plan.optimizer for name, plan in stage.plans().items()}
    losses = stage.step(0, optimizers)
    torch.testing.assert_close(4 * losses["loss"], total.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(stage.set.images.detach(), before - slope, rtol=1e-4, atol=1e-5)


def test_an_iteration_is_a_function_of_its_number(tmp_path: Path) -> None:
    first, second = (setting(tmp_path).distil for _ in range(2))
    torch.rand(7)  # what was drawn elsewhere does not matter
    assert torch.equal(first.drawn_real(3), second.drawn_real(3))
    assert torch.equal(first.draw(3).uniforms, second.draw(3).uniforms)
    for ours, theirs in zip(first.fresh(3).parameters(), second.fresh(3).parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not torch.equal(first.drawn_real(3), first.drawn_real(4))


def test_the_set_begins_as_real_pictures_of_its_classes(tmp_path: Path) -> None:
    made = setting(tmp_path)
    stage = made.distil
    frames = made.data.pictures(made.data.splits["train"]).float() / 255
    labels = torch.tensor([made.data.source.records[i].label or 0 for i in made.data.splits["train"].tolist()])
    for image, label in zip(stage.set.shown(pictures_before(stage)), stage.set.labels, strict=True):
        distance = (frames - image).abs().flatten(1).amax(1)
        assert distance.min() < 1e-5 and labels[distance.argmin()] == label


def test_the_drawn_flip_is_part_of_every_step_but_plain_ones(tmp_path: Path) -> None:
    assert [setting(tmp_path, [f"method.distil={arm}"]).distil.rule.before for arm in ("plain", "flip", "fyi")] == [
        (),
        ("flip",),
        ("flip",),
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("method.real_batch=40", "method.real_batch = 40: class 'horned' has"),
        ("method.images_per_class=40", "method.images_per_class = 40: class"),
        ("data.source=creatures:?size=32&classes=4&train=64&val=16&test=2", "the test split has no picture of class"),
        ("data.source=creatures:?size=32&classes=4&train=64&val=16&test=16&objects=2", "exactly one class"),
        ("model.weights=x.pth", "begins with random weights"),
    ],
)
def test_what_cannot_be_distilled_is_named_before_the_run(change: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=told):
        setting(tmp_path, [change])


def test_grey_pictures_of_mixed_sizes_are_brought_to_the_frame(tmp_path: Path) -> None:
    from tests.miniatures import write_picture

    for split, count in (("train", 6), ("test", 2)):
        for k, name in enumerate(("a", "b")):
            for i in range(count):
                write_picture(tmp_path / "data" / split / name / f"{i}.png", 10 * i + k, height=20 + i, width=30 - k)
    made = setting(tmp_path / "run", [f"data.source=imagefolder:{tmp_path / 'data'}"])
    stage = made.distil
    stage.step(0, {name: plan.optimizer for name, plan in stage.plans().items()})
    assert stage.set.images.shape == (4, 3, 16, 16) and bool(stage.set.images.isfinite().all())
