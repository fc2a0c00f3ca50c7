"""The classifier's stages: what each begins with, what may learn, in which order cuts are used, and the loss by hand."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest
import torch
from torch import nn

from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.data.sources import open_source
from partwise.engine.loop import Job
from partwise.engine.runtime import start
from partwise.engine.stages import Stage
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.base import DataFacts
from partwise.methods.ppl.classifying import LearnPatches, SoftMarginLoss, WarmUp, shown
from partwise.methods.ppl.method import PplMethod
from partwise.methods.recipes import resolve
from partwise.run import RunFolder

SOURCE = "creatures:?size=32&classes=3&objects=2&train=16&val=4&test=4"


def build(path: Path, *settings: str) -> tuple[PplMethod, list[Stage]]:
    """The method of a small recipe, and its stages."""
    words = ("train.batch_size=8", "train.threads=1", "train.precision=fp32", *settings)
    recipe, _ = resolve("ppl/smoke", data=SOURCE, settings=words)
    source = open_source(SOURCE)
    data = PictureData(source, recipe.data)
    torch.manual_seed(0)
    method = PplMethod(recipe, DataFacts.of(source))
    folder = RunFolder(path)
    progress = Progress(quiet=True)
    job = Job(recipe, folder, start(recipe.train), progress, Tracker(folder, progress, leads=False))
    return method, method.stages(data, job)


def names(stages: Sequence[Stage]) -> list[str]:
    return [stage.name for stage in stages]


def test_stages_follow_from_the_mode(tmp_path: Path) -> None:
    tail = ["maps", "labels", "affinity", "walk", "pseudo", "segmentation"]
    assert names(build(tmp_path)[1]) == ["warm_up", "patches_1", "patches_2", *tail]
    assert names(build(tmp_path, "method.mode=epl", "method.until=maps")[1]) == ["warm_up", "classifier"]
    assert names(build(tmp_path, "method.schedule=interleaved", "method.until=maps")[1]) == ["warm_up", "classifier"]
    bare = build(tmp_path, "method.mode=baseline", "method.warmup_epochs=0", "method.until=masks")[1]
    assert names(bare) == ["classifier", "maps", "labels", "affinity", "walk", "pseudo"]
    assert names(build(tmp_path, "method.affinity.kind=none")[1])[3:] == ["maps", "pseudo", "segmentation"]


def test_what_a_run_does_not_make_it_does_not_answer_to(tmp_path: Path) -> None:
    maps, masks, network = (build(tmp_path, f"method.until={u}")[0] for u in ("maps", "masks", "network"))
    assert [hasattr(m, "segment") for m in (maps, masks, network)] == [False, False, True]
    assert [hasattr(m, "pseudo_mask") for m in (maps, masks, network)] == [False, True, True]
    assert [sorted(m.networks()) for m in (maps, masks)] == [["classifier"], ["affinity", "classifier"]]


def test_rates_and_lengths(tmp_path: Path) -> None:
    settings = ("optim.lr=0.2", "method.later_lr=0.1", "train.epochs=3", "method.later_epochs=2")
    _, stages = build(tmp_path, *settings)
    warm, first, second = stages[:3]
    assert isinstance(warm, WarmUp) and isinstance(first, LearnPatches) and isinstance(second, LearnPatches)
    assert [s.steps for s in (warm, first, second)] == [2, 6, 4]
    warm.enter()
    assert warm.plans()["network"].fields.lr == pytest.approx(0.2)
    first.enter()
    assert first.plans()["network"].fields.lr == pytest.approx(0.02)
    bare = build(tmp_path, *settings, "method.warmup_epochs=0")[1]
    assert [s.rate for s in bare[:2] if isinstance(s, LearnPatches)] == [1.0, 0.1]


def test_the_warm_up_is_plain_and_the_patches_begin_with_it(tmp_path: Path) -> None:
    method, stages = build(tmp_path, "method.freeze_through=0")
    warm, first = stages[0], stages[1]
    assert isinstance(warm, WarmUp) and isinstance(first, LearnPatches)
    network = method.classifier
    warm.enter()
    plain = network.plain_classifier
    assert plain is not None and not network.norm_frozen
    assert not network.classifier.weight.requires_grad and plain.weight.requires_grad
    weight = plain.weight.detach().clone()
    first.enter()
    assert network.plain_classifier is None and network.stage == 0 and network.norm_frozen
    torch.testing.assert_close(network.classifier.weight, weight.repeat(1, 2, 1, 1) / 2)
    learning = [
        all(p.requires_grad for m in network.backbone.block_modules(n) for p in m.parameters()) for n in range(3)
    ]
    assert learning == [False, True, True]
    kept = network.classifier.weight.detach().clone()
    second = stages[2]
    assert isinstance(second, LearnPatches)
    second.enter()
    assert network.stage == 1 and torch.equal(network.classifier.weight, kept)


def test_interleaved_cuts_take_turns_on_every_batch_and_resume_between_them(tmp_path: Path) -> None:
    method, stages = build(tmp_path, "method.schedule=interleaved", "method.warmup_epochs=0", "train.accumulate=2")
    stage = stages[0]
    assert isinstance(stage, LearnPatches) and stage.turns == 2
    assert stage.steps == 2 * 2 and stage.steps_per_epoch == 2 * 2  # two batches an epoch, two cuts

    def seen(first: int, count: int) -> list[tuple[int, list[str]]]:
        return [(method.classifier.stage, batch.ids) for batch in islice(stage.batches(first), count * 2)]

    whole = seen(0, 8)
    assert [turn for turn, _ in whole] == [0, 0, 1, 1] * 4
    for start_of in range(0, 16, 4):
        assert [ids for _, ids in whole[start_of : start_of + 2]] == [
            ids for _, ids in whole[start_of + 2 : start_of + 4]
        ]
    for first in range(1, 6):
        assert seen(first, 2) == whole[2 * first : 2 * first + 4]


def test_the_loss_is_the_soft_margin_of_every_class() -> None:
    class Fixed(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.tensor([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])

    targets = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
    batch = Batch(["a", "b"], torch.arange(2), torch.zeros(2, 3, 4, 4, dtype=torch.uint8), targets)
    losses, _ = SoftMarginLoss(Fixed())(batch)  # type: ignore[arg-type]
    total = 0.0
    for row, wanted in zip(Fixed()(batch.images), targets, strict=True):
        for z, y in zip(row, wanted, strict=True):
            chance = 1 / (1 + torch.exp(-z))
            total -= float(torch.log(chance) if y else torch.log(1 - chance))
    assert float(losses["soft_margin"]) == pytest.approx(total / 6, rel=1e-6)


def test_labels_as_rows() -> None:
    assert shown(torch.tensor([2, -1, 0]), 3).tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]
    hot = torch.tensor([[1.0, 0.0]])
    assert torch.equal(shown(hot, 2), hot)
