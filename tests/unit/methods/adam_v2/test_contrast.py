"""Adam-v1: its loss against a plain re-creation, its queue, its levels."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from partwise.engine.loop import first_steps, run_stages
from partwise.methods.adam_v2.contrasting import LearnContrast
from partwise.models.part_whole_heads import ContrastHead
from tests.unit.methods.adam_v2.small import run

V1 = (
    "method.version=v1",
    "method.clip_each=null",
    "method.queue=12",
    "method.contrast_epochs=1.0",
    "method.contrast_dim=8",
)


def test_one_step_is_pruned_info_nce_picture_by_picture(tmp_path: Path) -> None:
    method, stages, _, data = run(tmp_path, *V1, "method.contrast_levels=[2]", "method.prune=0.3")
    (stage,) = stages
    assert isinstance(stage, LearnContrast)
    batch, module = next(stage.batches(0)), stage.loss_module().train()
    reference = copy.deepcopy(method)
    losses, logs = module(batch)
    one, other = batch.views[method.fields.view_size]
    queries = F.normalize(reference.student_head.mlp(reference.student.backbone.pooled(one)), dim=1)
    keys = F.normalize(reference.head.mlp(reference.key.backbone.pooled(other)), dim=1)
    terms, pruned = [], 0
    for q, k in zip(queries, keys, strict=True):
        negatives = [n for n in reference.queue.keys if float(q.detach() @ n) < 0.3]
        pruned += len(reference.queue.keys) - len(negatives)
        logits = torch.stack([q @ k, *(q @ n for n in negatives)]) / 0.2
        terms.append(-logits.log_softmax(0)[0])
    torch.testing.assert_close(losses["contrast"], torch.stack(terms).mean(), rtol=1e-5, atol=1e-6)
    assert float(logs["pruned"]) == pytest.approx(pruned / (4 * 12)) and pruned
    data.close()


def test_keys_take_their_turn_in_the_queue(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, *V1, "method.contrast_levels=[0]")
    before = method.queue.keys.clone()
    for step in first_steps(stages[0], job, 2):  # type: ignore[arg-type]
        changed = (method.queue.keys != before).any(dim=1)
        assert changed.tolist() == [place < 4 * (step + 1) for place in range(12)]
        assert int(method.queue.position) == 4 * (step + 1)
    data.close()


def test_levels_are_phases_of_their_own_and_only_fine_ones_prune(tmp_path: Path) -> None:
    method, stages, job, data = run(tmp_path, *V1, "method.prune=0.001")
    assert [stage.name for stage in stages] == ["contrast0", "contrast2", "contrast4"]
    run_stages(stages, job)
    lines = [line for line in job.folder.read_metrics() if line["kind"] == "step"]
    assert all((line["pruned"] > 0) == (line["stage"] != "contrast0") for line in lines)
    assert method.networks().keys() == {"encoder", "key", "student_head", "head"}
    assert method.encoder is method.student and isinstance(method.head, ContrastHead)
    data.close()
