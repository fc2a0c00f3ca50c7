"""The stages as runs: what each changes, what it leaves alone, what it is told, and that a cut one comes out the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.engine.loop import Interrupted, run_stages
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.methods.varifocal.learning import LearnLocal, LearnWhole, answer_losses, known_cross_entropy
from partwise.methods.varifocal.method import VarifocalMethod
from partwise.methods.varifocal.turning import draw_turns, turned
from partwise.models.two_heads import TwoHeads, TypeAndPolarity
from partwise.models.varifocal import VarifocalNet
from partwise.ops import draws
from tests.unit.methods.varifocal.small import Bars, run

FEW = ("train.epochs=2", "method.local_epochs=2", "method.ensemble_epochs=2", "optim.lr=0.01")
PARTS = ("global_net", "locator", "local_net", "ensemble")


def weights(method: VarifocalMethod) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in method.network.state_dict().items()}


def changed(before: dict[str, Tensor], after: dict[str, Tensor]) -> set[str]:
    """The parts of the network that are not what they were."""
    return {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}


def test_losses_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    answers = TypeAndPolarity(torch.randn(3, 24, generator=generator), torch.randn(3, 2, generator=generator))
    batch = Batch(["a", "b", "c"], torch.arange(3), torch.zeros(3), torch.tensor([3, -1, 23]))
    batch.polarities = torch.tensor([0, 1, -1])
    found = answer_losses(answers, batch, 0.5)
    types = [-F.log_softmax(answers.type[row], 0)[label] for row, label in ((0, 3), (2, 23))]
    polarities = [-F.log_softmax(answers.polarity[row], 0)[label] for row, label in ((0, 0), (1, 1))]
    torch.testing.assert_close(found["type"], (types[0] + types[1]) / 2)
    torch.testing.assert_close(found["polarity"], 0.5 * (polarities[0] + polarities[1]) / 2)
    batch.polarities = None
    assert float(answer_losses(answers, batch, 0.5)["polarity"]) == 0
    assert float(known_cross_entropy(answers.type, torch.full((3,), -1))) == 0


def test_each_stage_teaches_its_own_part(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, *FEW)
    assert [stage.name for stage in stages] == ["whole", "boxes", "local", "ensemble", "calibration"]
    expected = [{"global_net"}, {"locator"}, {"local_net", "locator"}, {"ensemble"}, set()]
    for stage, parts in zip(stages, expected, strict=True):
        before = weights(method)
        run_stages([stage], job)
        assert changed(before, weights(method)) == parts, stage.name
    assert method.answerer == "ensemble"
    data.close()


def test_the_locator_has_every_second_pass(tmp_path: Path) -> None:
    _, stages, _, data = run(tmp_path, *FEW)
    local = stages[2]
    assert isinstance(local, LearnLocal) and local.steps_per_epoch == 2 and local.steps == 8
    assert [local.locates(step) for step in range(8)] == [False, False, True, True, False, False, True, True]
    data.close()


def test_boxes_that_do_not_follow_stay_as_taught(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, *FEW, "method.follow=false")
    assert stages[2].steps == 4  # type: ignore[attr-defined]
    run_stages(stages[:2], job)
    before = weights(method)
    run_stages(stages[2:3], job)
    assert changed(before, weights(method)) == {"local_net"}
    data.close()


@pytest.mark.parametrize("second", ["centre", "whole"])
def test_without_a_box_there_is_no_locator_and_no_second_pass(second: str, tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, *FEW, f"method.second={second}")
    assert [stage.name for stage in stages] == ["whole", "local", "ensemble", "calibration"]
    assert stages[1].steps == 4  # type: ignore[attr-defined]
    run_stages(stages, job)
    assert len(method.predict(torch.rand(2, 1, 64, 64))) == 2
    data.close()


def test_the_plain_rival_has_one_training(tmp_path: Path) -> None:
    settings = ("method.network=backbone", "model.backbone=resnet10t")
    method, stages, job, data = run(tmp_path, *FEW, *settings)
    assert isinstance(method.network, TwoHeads) and [stage.name for stage in stages] == ["whole", "calibration"]
    run_stages(stages, job)
    (found,) = method.predict(torch.rand(1, 1, 64, 64))
    assert found.box is None and found.types.sum() == pytest.approx(1, abs=1e-5)
    data.close()


def test_everything_learns_in_the_end_where_asked(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, *FEW, "method.finetune=true")
    run_stages(stages[:3], job)
    before = weights(method)
    run_stages(stages[3:4], job)
    assert changed(before, weights(method)) == set(PARTS)
    data.close()


def test_what_was_trained_answers(tmp_path: Path) -> None:
    """The whole network's answer is the answerer's, standardised once."""
    method, stages, job, data = run(tmp_path, *FEW)
    run_stages(stages, job)
    method.eval()
    images = torch.rand(3, 1, 64, 64)
    net = method.network
    assert isinstance(net, VarifocalNet)
    with torch.no_grad():
        said = net(images)
        for answerer, expected in (("whole", said.whole), ("local", said.local), ("ensemble", said.ensemble)):
            method.answerer = answerer  # type: ignore[assignment]
            torch.testing.assert_close(method.answers(images).type, expected.type)
            torch.testing.assert_close(method.chromosome_logits(images)[1], expected.polarity)
    data.close()


@pytest.mark.parametrize("network", ["varifocal", "backbone"])
def test_answers_to_a_picture_and_its_mirror_image_have_the_same_say(network: str) -> None:
    settings = ["method.mirror=true", f"method.network={network}"]
    method = VarifocalMethod(resolve("varifocal/smoke", settings=settings)[0], DataFacts.of(Bars()))
    method.eval()
    images = torch.rand(3, 1, 64, 64)
    with torch.no_grad():
        found, flipped = method.answers(images), method.answers(images.flip(3))
        for part in range(2):
            torch.testing.assert_close(found[part], flipped[part])
        method.fields = method.fields.model_copy(update={"mirror": False})
        alone = [method.answers(views).type.softmax(1).log() for views in (images, images.flip(3))]
    torch.testing.assert_close(found.type, torch.stack(alone).mean(dim=0))


@pytest.mark.parametrize("settings", [(), ("train.accumulate=23",), ("train.ema=0.7",)])
def test_a_run_that_is_cut_after_every_step_leaves_the_same_weights(settings: tuple[str, ...], tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path / "whole", *settings)
    run_stages(stages, job)
    lives = 0
    for life in range(40):
        again, planned, cut, pictures = run(tmp_path / "cut", "train.checkpoint_seconds=0", *settings)
        for stage in planned:
            stage.after_step = lambda _, job=cut: setattr(job.runtime.interruption, "requested", True)  # type: ignore[attr-defined]
        try:
            run_stages(planned, cut)
            lives = life
            break
        except Interrupted:
            continue
        finally:
            pictures.close()
    assert lives >= 8
    for ours, theirs in zip(method.networks().values(), again.networks().values(), strict=True):
        assert all(torch.equal(tensor, theirs.state_dict()[name]) for name, tensor in ours.state_dict().items())
    data.close()


def test_calibration_is_kept_and_taken_up(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, *FEW)
    run_stages(stages, job)
    kept = {name: float(value) for name, value in method.calibration.state_dict().items()}
    assert kept["type_temperature"] != 1
    again, planned, other, pictures = run(tmp_path, *FEW)
    run_stages(planned, other)
    assert {name: float(value) for name, value in again.calibration.state_dict().items()} == kept
    data.close(), pictures.close()


def test_other_pictures_than_chromosomes_are_refused() -> None:
    recipe, _ = resolve("varifocal/smoke")
    with pytest.raises(UserError, match="24 types of chromosomes"):
        VarifocalMethod(recipe, DataFacts(("cat", "dog"), channels=3))
    with pytest.raises(UserError, match=r"data.size = 96: .*multiple of 64"):
        VarifocalMethod(resolve("varifocal/smoke", settings=["data.size=96"])[0], DataFacts.of(Bars()))


@pytest.mark.parametrize("parts", [1, 23])
def test_batches_are_turned_by_step_and_part_and_say_so(parts: int, tmp_path: Path) -> None:
    """Against the plain batches of data/loading.py, each turned by draws of its own step and part; from any step."""
    _, stages, job, data = run(tmp_path, f"train.accumulate={parts}", "method.rotation=30")
    whole = stages[0]
    assert isinstance(whole, LearnWhole)
    plain = data.train_batches(1, batch_size=23, parts=parts, seed=job.recipe.train.seed, stage="whole")
    turned_ones = whole.batches(1)
    for part in range(parts):
        before, found = next(plain), next(turned_ones)
        generator = draws.generator(job.recipe.train.seed, "whole", "turns", 1, part)
        turns = draw_turns(23 // parts, rotation=30, upend=True, generator=generator)
        assert torch.equal(found.images, turned(before.images.float() / 255, turns))
        assert before.polarities is not None and found.polarities is not None
        assert before.polarities.tolist() == [1] * (23 // parts)
        assert found.polarities.tolist() == [1 - int(coin) for coin in turns.upended]
    data.close()


def test_chromosomes_without_polarity_teach_types_alone(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, source=Bars(polarity=None))
    head = method.network.global_net.polarity_head  # type: ignore[union-attr]
    before = head.weight.clone()
    run_stages(stages[:1], job)
    assert next(iter(data.evaluation_batches("test", 4))).polarities is None
    # Weight decay alone, which is the same share of every weight.
    torch.testing.assert_close(head.weight / before, (head.weight / before).flatten()[0].expand_as(before))
    data.close()
