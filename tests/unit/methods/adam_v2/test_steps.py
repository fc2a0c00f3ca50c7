"""One step of either phase against a plain re-creation: every view by itself, losses pair by pair, the average by recursion."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.data.anatomy_views import part_whole_views
from partwise.engine.loop import first_steps, run_stages
from partwise.methods.adam_v2.learning import LearnPartsAndWholes, LearnPlaces, PartWholeLoss, needed_views
from partwise.methods.adam_v2.method import AdamMethod
from partwise.methods.adam_v2.viewing import ViewBatch
from tests.unit.methods.adam_v2.small import INSTANCE, doubled, run

STUDENT, TEACHER = 0.1, 0.04


def stage_of(stages: list[object], name: str) -> LearnPlaces:
    (found,) = [stage for stage in stages if isinstance(stage, LearnPlaces) and stage.name == name]
    return found


def views_of(stage: LearnPlaces) -> ViewBatch:
    batch = next(stage.batches(0))
    stage.data.close()
    return batch


def plain_cross_entropy(student: Tensor, teacher: Tensor, centre: Tensor) -> Tensor:
    """Of one pair of views, from logits."""
    q = ((teacher - centre) / TEACHER).softmax(dim=1).detach()
    return -(q * (student / STUDENT).log_softmax(dim=1)).sum(dim=1).mean()


def plain_localize(method: AdamMethod, batch: ViewBatch) -> Tensor:
    """The first phase: two teacher views against ten student views, less the two that are the same."""
    fields = method.fields
    large, small = batch.views[fields.view_size], batch.views[fields.local_size]
    answers = []
    for group in (large, small):  # one call a size: batch norm sees the views of a size together
        flat = method.student_head(method.student.backbone.pooled(torch.cat(list(group))))
        answers += list(flat.chunk(len(group)))
    taught = method.head(method.encoder.backbone.pooled(torch.cat(list(large)))).chunk(2)
    losses = [
        plain_cross_entropy(student, teacher, method.centre.value)
        for t, teacher in enumerate(taught)
        for s, student in enumerate(answers)
        if s != t
    ]
    assert len(losses) == 18
    return torch.stack(losses).mean()


def plain_parts(method: AdamMethod, batch: ViewBatch) -> dict[str, Tensor]:
    """The second phase as published: parts one after the other, the whole of the teacher twice."""
    fields, table = method.fields, needed_views(method.fields)
    places = {
        kind.name: place for own in table.groups().values() for place, kind in enumerate(table.views[i] for i in own)
    }
    large = {k.name: batch.views[fields.view_size][places[k.name]] for k in table.views if k.size == fields.view_size}
    small = batch.views[fields.local_size]
    student, teacher = method.student.backbone.pooled, method.encoder.backbone.pooled
    answers = [method.student_head(student(large["g"]))]
    answers += list(method.student_head(student(torch.cat(list(small)))).chunk(len(small)))
    with torch.no_grad():
        whole = teacher(large["w0"])
        logits = method.head(teacher(large["w0"]))
        parts = [teacher(large[f"p{n + 1}"]) for n in range(4)]
    localize = torch.stack([plain_cross_entropy(a, logits, method.centre.value) for a in answers]).mean()
    composed = method.parts.compose(torch.stack([student(large[f"p{n + 1}"]) for n in range(4)], dim=1))
    apart = method.parts.decompose(student(large["w0"]))
    compose = F.mse_loss(F.normalize(composed, dim=1), F.normalize(whole, dim=1))
    if fields.decompose_norm == "joint":
        units = F.normalize(apart.flatten(1), dim=1).view_as(apart)
    else:
        units = F.normalize(apart, dim=2)
    terms = [F.mse_loss(units[:, n], F.normalize(parts[n], dim=1)) for n in range(4)]
    decompose = torch.stack(terms).mean()
    if fields.reduction == "sum_dim":
        compose, decompose = compose * whole.shape[1], decompose * whole.shape[1]
    return {"localize": localize, "compose": compose, "decompose": decompose}


def gradients(method: AdamMethod) -> Tensor:
    parameters = [p for network in method.networks().values() for p in network.parameters() if p.requires_grad]
    return torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])


def test_the_first_phase_is_the_plain_one(tmp_path: Path) -> None:
    method, stages, _, _ = run(tmp_path)
    stage = stage_of(stages, "localize")
    batch, module = doubled(method, views_of(stage)), stage.loss_module().train()
    method.centre.value.normal_(std=0.01)
    reference = copy.deepcopy(method)
    losses, logs = module(batch)
    losses["localize"].backward()
    expected = plain_localize(reference, batch)
    expected.backward()
    torch.testing.assert_close(losses["localize"], expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients(method), gradients(reference), rtol=1e-6, atol=1e-9)
    assert set(logs) == {"teacher_entropy", "teacher_information", "divergence", "embedding_spread", "centre_norm"}
    # Student and teacher are copies and views alike: training starts below ln K.
    assert float(expected.detach()) < math.log(method.fields.num_prototypes) + 0.2


@pytest.mark.parametrize("settings", [("method.passes=separate",), (*INSTANCE, "method.passes=together")])
@pytest.mark.parametrize("quirks", [("joint", "mean"), ("per_part", "sum_dim")])
def test_the_second_phase_is_the_plain_one(settings: tuple[str, ...], quirks: tuple[str, str], tmp_path: Path) -> None:
    """With batch norm view by view as published; in one pass for an encoder to which that makes no difference."""
    more = (f"method.decompose_norm={quirks[0]}", f"method.reduction={quirks[1]}")
    method, stages, _, _ = run(tmp_path, *settings, *more)
    stage = stage_of(stages, "parts")
    batch, module = doubled(method, views_of(stage)), stage.loss_module().train()
    reference = copy.deepcopy(method)
    losses, _ = module(batch)
    torch.stack(list(losses.values())).sum().backward()
    expected = plain_parts(reference, batch)
    torch.stack(list(expected.values())).sum().backward()
    assert losses.keys() == expected.keys()
    for name, value in losses.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(gradients(method), gradients(reference), rtol=1e-6, atol=1e-9)
    for network in (method.encoder, method.head):
        assert all(p.grad is None for p in network.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in stage.learners())


@pytest.mark.parametrize(
    ("weights", "views", "terms"),
    [
        ((1, 0, 0), 10, {"localize"}),
        ((0, 1, 0), 5, {"compose"}),
        ((0, 0, 1), 5, {"decompose"}),
        ((1, 1, 0), 14, {"localize", "compose"}),
        ((1, 1, 1), 14, {"localize", "compose", "decompose"}),
    ],
)
def test_a_branch_without_weight_costs_nothing(
    weights: tuple[int, int, int], views: int, terms: set[str], tmp_path: Path
) -> None:
    names = ("localize_weight", "compose_weight", "decompose_weight")
    settings = [f"method.{name}={value}" for name, value in zip(names, weights, strict=True)]
    method, stages, job, _ = run(tmp_path, *settings)
    stage = stage_of(stages, "parts")
    assert len(stage.table.views) == views
    losses, _ = stage.loss_module().train()(views_of(stage))
    assert set(losses) == terms
    torch.stack(list(losses.values())).sum().backward()
    heads = {"localize": method.student_head, "compose": method.parts.compose, "decompose": method.parts.decompose}
    for name, head in heads.items():
        assert any(p.grad is not None for p in head.parameters()) == (name in terms)
    run_stages([stage], job)  # and trains to its end


def test_weights_scale_their_branches(tmp_path: Path) -> None:
    method, stages, _, _ = run(tmp_path, "method.compose_weight=3", "method.decompose_weight=0.5", *INSTANCE)
    stage = stage_of(stages, "parts")
    batch = views_of(stage)
    losses, _ = stage.loss_module().train()(batch)
    expected = plain_parts(method, batch)
    torch.testing.assert_close(losses["compose"], 3 * expected["compose"])
    torch.testing.assert_close(losses["decompose"], 0.5 * expected["decompose"])


def test_the_order_of_parts_matters(tmp_path: Path) -> None:
    method, stages, _, _ = run(tmp_path, *INSTANCE)
    stage = stage_of(stages, "parts")
    assert isinstance(stage, LearnPartsAndWholes)
    batch, module = views_of(stage), PartWholeLoss(method)
    before = float(module(batch)[0]["compose"].detach())
    large = batch.views[method.fields.view_size]
    large[2:] = large[2:].flip(0).clone()
    assert float(module(batch)[0]["compose"].detach()) != pytest.approx(before, rel=1e-6)


# -- between the steps ---------------------------------------------------------------------------------------------------


def test_levels_follow_the_passes(tmp_path: Path) -> None:
    _, stages, _, _ = run(tmp_path, "method.localize_epochs=[1.0, 2.0, 0.5]", "method.part_whole_epochs=[2.0]")
    first, second = stage_of(stages, "localize"), stage_of(stages, "parts")
    assert first.steps_per_epoch == 4 and first.steps == 14 and second.steps == 8
    assert [first.level(step) for step in range(14)] == [0] * 4 + [1] * 8 + [2] * 2
    assert {second.level(step) for step in range(8)} == {0}


@pytest.mark.parametrize("momentum", [0.0, 0.9, 1.0])
def test_the_teacher_is_the_average_of_the_students(momentum: float, tmp_path: Path) -> None:
    """By an explicit recursion with the published cosine; statistics of batches stay each network's own."""
    method, stages, job, data = run(tmp_path, f"method.momentum={momentum}", "method.localize_epochs=[2.0]")
    stage = stage_of(stages, "localize")
    expected = [p.detach().clone().double() for p in method.encoder.parameters()]
    for step in first_steps(stage, job, 6):
        share = 1 + 0.5 * (momentum - 1) * (1 + math.cos(math.pi * step / stage.steps))
        students = [p.detach().double() for p in method.student.parameters()]
        expected = [share * e + (1 - share) * s for e, s in zip(expected, students, strict=True)]
        for found, wanted in zip(method.encoder.parameters(), expected, strict=True):
            torch.testing.assert_close(found.double(), wanted, rtol=1e-4, atol=1e-6)
    data.close()
    buffers = [dict(network.named_buffers()) for network in (method.encoder, method.student)]
    assert any(not torch.equal(tensor, buffers[1][name]) for name, tensor in buffers[0].items() if "running" in name)


def test_the_centre_is_the_mean_of_the_teachers_answers(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, "method.centre_momentum=0.7", "train.accumulate=2")
    stage = stage_of(stages, "localize")
    seen: list[Tensor] = []
    steps = first_steps(stage, job, 3)
    expected = torch.zeros_like(method.centre.value)
    next(steps)
    head = method.head.register_forward_hook(lambda _m, _i, answers: seen.append(answers.detach().float()))
    expected = method.centre.value.clone()
    for _ in steps:
        rows = torch.cat(seen)
        assert len(rows) == 2 * 4  # two large views of four pictures, in two parts
        expected = 0.7 * expected + 0.3 * rows.mean(dim=0)
        torch.testing.assert_close(method.centre.value, expected)
        seen.clear()
    head.remove()
    data.close()


def test_prototypes_stay_in_the_first_passes_and_gradients_are_short(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, "method.clip_each=0.01", "method.freeze_epochs=1.0")
    stage = stage_of(stages, "localize")
    norms: list[list[float]] = []
    apply = stage.after_backward

    def look(step: int) -> None:
        apply(step)
        norms.append([float(p.grad.norm()) for p in stage.learners() if p.grad is not None])

    stage.after_backward = look  # type: ignore[method-assign]
    before = method.student_head.prototypes.detach().clone()
    for step in first_steps(stage, job, 6):
        assert torch.equal(before, method.student_head.prototypes) == (step < 4)
    assert all(norm <= 0.01 * (1 + 1e-4) for step in norms for norm in step)
    assert max(norms[-1]) == pytest.approx(0.01, rel=1e-3)
    assert len(norms[0]) == len(norms[-1]) - 1
    data.close()


def test_the_second_phase_goes_on_from_the_first(tmp_path: Path) -> None:
    """Student, teacher and centre; also where the first phase was finished in an earlier process."""
    method, stages, job, data = run(tmp_path)
    run_stages(stages[:1], job)
    left = {name: t.clone() for network in method.teaching().values() for name, t in network.state_dict().items()}
    other, again, later, more = run(tmp_path)
    run_stages(again[:1], later)
    found = {name: t for network in other.teaching().values() for name, t in network.state_dict().items()}
    assert left.keys() == found.keys() and all(torch.equal(left[name], found[name]) for name in left)
    assert float(other.centre.value.norm()) > 0
    data.close(), more.close()


@pytest.mark.slow
def test_parts_and_wholes_are_learned(tmp_path: Path) -> None:
    """On 16 pictures both losses fall, and wholes are told from their parts better than before."""
    settings = ("method.localize_epochs=[]", "method.part_whole_epochs=[40.0]", "optim.lr=0.002", "train.log_every=4")
    _, stages, job, data = run(tmp_path, *settings)
    run_stages(stages, job)
    lines = [line for line in job.folder.read_metrics() if line["kind"] == "step"]
    for name in ("compose", "decompose"):
        assert lines[-1][name] < 0.5 * lines[0][name], name
    data.close()


def test_which_views_the_second_phase_has() -> None:
    table = part_whole_views()
    assert [kind.name for kind in table.views] == ["w0", "g", *(f"l{n}" for n in range(1, 9)), "p1", "p2", "p3", "p4"]
