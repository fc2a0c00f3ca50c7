"""The loop on toy stages of every kind: learns, resumes bit for bit from any step, and says what happened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from partwise.engine.loop import Interrupted, Job, NonFiniteLoss, _Training, run_stages
from partwise.engine.runtime import Runtime
from partwise.engine.stages import TrainStage
from tests.unit.engine.toys import STEPS, Alternating, FromSquares, Plain, Squares, Teacher, all_kinds, make_job

KINDS = ["plain", "parts", "ema", "teacher", "alternating", "distilling"]


def left(job: Job, stage: str) -> dict[str, torch.Tensor]:
    return job.products.read(stage, "networks")


def interrupt_after(job: Job, stage: TrainStage, step: int) -> None:
    """Ask for an interruption, as a signal would, once `step` steps are done."""
    original = stage.after_step
    manual = stage.strategy == "manual"

    def after_step(done: int) -> None:
        original(done)
        if done + 1 == step:
            job.runtime.interruption.requested = True

    stage.after_step = after_step
    assert manual or stage.strategy == "wrapped"


@pytest.mark.parametrize("kind", KINDS)
def test_resumes_bit_for_bit(kind: str, tmp_path: Path) -> None:
    whole = make_job(tmp_path / "whole")
    run_stages([all_kinds(whole)[kind]], whole)
    for step in (1, 4, STEPS - 1):
        broken = make_job(tmp_path / f"broken{step}")
        stage = all_kinds(broken)[kind]
        interrupt_after(broken, stage, step)
        with pytest.raises(Interrupted):
            run_stages([stage], broken)
        again = make_job(tmp_path / f"broken{step}")
        run_stages([all_kinds(again)[kind]], again)
        for name, tensor in left(whole, kind).items():
            assert torch.equal(tensor, left(again, kind)[name]), (step, name)
        ours = [{k: v for k, v in line.items() if "second" not in k} for line in again.folder.read_metrics()]
        theirs = [{k: v for k, v in line.items() if "second" not in k} for line in whole.folder.read_metrics()]
        assert ours == theirs


@pytest.mark.parametrize("kind", KINDS)
def test_same_seed_same_weights_and_it_learns(kind: str, tmp_path: Path) -> None:
    losses = []
    for number in range(2):
        job = make_job(tmp_path / str(number))
        run_stages([all_kinds(job)[kind]], job)
        losses.append([line["loss"] for line in job.folder.read_metrics()])
    assert losses[0] == losses[1]
    assert min(losses[0][-3:]) < losses[0][0]


def test_accumulated_parts_are_the_mean_of_their_gradients(tmp_path: Path) -> None:
    """Without noise and batch statistics, two parts of a batch give the whole batch's step."""
    weights = []
    for parts in (1, 2):
        job = make_job(tmp_path / str(parts))
        stage = Plain(job, "same", parts=parts)
        stage.prepare = lambda products, s=stage: setattr(s, "network", torch.nn.Linear(5, 1))
        whole = Plain(job, "same")

        def batches(first: int, whole: Plain = whole, parts: int = parts) -> object:
            for batch in Plain.batches(whole, first):
                size = len(batch) // parts
                for part in range(parts):
                    rows = slice(part * size, (part + 1) * size)
                    yield type(batch)(batch.ids[rows], batch.index[rows], batch.images[rows], batch.targets[rows])

        stage.batches = batches
        run_stages([stage], job)
        weights.append(left(job, "same")["network.weight"])
    assert torch.allclose(weights[0], weights[1], rtol=1e-5, atol=1e-7)


def test_stages_are_lazy_and_products_pass_between_them(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    squares = Squares()
    run_stages([Plain(job), squares, FromSquares(job)], job)
    assert squares.computed == [f"folder/{i}" for i in range(6)]
    assert squares.scale != 0.0
    assert [r["name"] for r in job.reports] == ["plain", "squares", "last"]
    again = make_job(tmp_path)
    second = Squares()
    run_stages([Plain(again), second, FromSquares(again)], again)
    assert second.computed == [] and second.scale == 0.0, "a finished stage is not prepared again"


def test_a_compute_stage_goes_on_at_the_item_it_was_at(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    run_stages([Plain(job)], job)
    broken = Squares()
    compute = broken.compute

    def stop_at_two(item: str) -> object:
        if item.endswith("2"):
            raise KeyboardInterrupt
        return compute(item)

    broken.compute = stop_at_two
    with pytest.raises(KeyboardInterrupt):
        run_stages([Plain(job), broken], make_job(tmp_path))
    rest = Squares()
    run_stages([Plain(job), rest], make_job(tmp_path))
    assert rest.computed == [f"folder/{i}" for i in range(2, 6)]


def test_a_loss_that_is_not_finite_stops_with_its_batch(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    with pytest.raises(NonFiniteLoss, match=r"step 7 .*7-0, 7-1"):
        run_stages([Plain(job, poison=7)], job)
    saved = load_file(job.folder.path / "batch.safetensors")
    assert torch.isnan(saved["images"]).any() and saved["targets"].shape == (8, 1)
    checkpoint = load_file(job.folder.checkpoints / "last.safetensors")
    assert all(torch.isfinite(t).all() for t in checkpoint.values() if t.is_floating_point())


def test_the_average_follows_the_weights(tmp_path: Path) -> None:
    """Naive second version: the average recomputed from the weights after every step."""
    job = make_job(tmp_path)
    stage = Plain(job, "ema", ema=0.8)
    seen: list[torch.Tensor] = []
    stage.after_step = lambda step: seen.append(stage.network[0].weight.detach().clone())
    prepare = stage.prepare

    def remember(products: object) -> None:
        prepare(products)
        seen.append(stage.network[0].weight.detach().clone())

    stage.prepare = remember
    run_stages([stage], job)
    expected = seen[0]
    for weight in seen[1:]:
        expected = 0.8 * expected + 0.2 * weight
    assert torch.allclose(left(job, "ema")["network.0.weight"], expected, atol=1e-6)


def test_evaluation_on_schedule_keeps_the_best(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    job.recipe = job.recipe.model_copy(update={"evaluate": job.recipe.evaluate.model_copy(update={"every": 1.0})})
    values = iter([0.2, 0.9, 0.5])
    job.evaluate = lambda: {"classification/top1": next(values)}
    run_stages([Plain(job)], job)
    lines = [line for line in job.folder.read_metrics() if line["kind"] == "evaluation"]
    assert [(line["step"], line["metrics"]["classification/top1"]) for line in lines] == [
        (8, 0.2),
        (16, 0.9),
        (24, 0.5),
    ]
    assert (job.folder.checkpoints / "best.safetensors").exists()
    from partwise.engine.checkpoint import read_state

    best = read_state(job.folder.checkpoints / "best.safetensors")
    assert best is not None and best.facts["step"] == 16


def test_alternating_optimisers_take_turns(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    stage = Alternating(job, "turns")
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    stage.after_step = lambda step: seen.append(
        (stage.network[0].weight.detach().clone(), stage.other[0].weight.detach().clone())
    )
    run_stages([stage], job)
    for step in range(1, STEPS):
        first, second = (not torch.equal(seen[step][i], seen[step - 1][i]) for i in (0, 1))
        assert (first, second) == (step % 2 == 0, step % 2 == 1)


def test_a_teacher_gets_no_gradient_and_follows(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    stage = Teacher(job, "teacher")
    run_stages([stage], job)
    assert all(p.grad is None for p in stage.teacher.parameters())
    assert not torch.equal(stage.teacher[0].weight, stage.network[0].weight)
    assert "extra.centre" in left(job, "teacher")


def test_checkpoints_hold_json_and_tensors_only(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    stage = Plain(job)
    interrupt_after(job, stage, 5)
    with pytest.raises(Interrupted):
        run_stages([stage], job)
    raw = (job.folder.checkpoints / "last.safetensors").read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    facts = json.loads(header["__metadata__"]["partwise"])
    assert facts["counters"]["step"] == 5 and facts["stage"] == "plain"


def test_a_checkpoint_is_due_for_all_when_one_process_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clocks of processes differ; one that saved alone would wait for the others forever."""
    job, saved = make_job(tmp_path, checkpoint_seconds=1e9), []
    monkeypatch.setattr(Runtime, "agree_on", lambda _self, *flags: [flags[0], True] if flags[1:] else [*flags])
    monkeypatch.setattr(_Training, "save", lambda training: saved.append(training.counters.step))
    run_stages([Plain(job)], job)
    assert saved == list(range(1, STEPS + 1))
