"""Every rival and ablation by its one field: trains, is saved as it answers, and is cut off and continued the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import partwise
from partwise import api
from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.data.sources import open_source
from partwise.engine.loop import Interrupted
from partwise.engine.runtime import Interruption
from partwise.methods.base import DataFacts
from partwise.methods.cutmix.config import BRANCH_RATES, CutMixFields
from partwise.methods.cutmix.drawing import Drawing, check_together
from partwise.methods.cutmix.method import CutMixMethod
from partwise.methods.cutmix.training import Inside, LayeredBatch, SoftLabelLoss
from partwise.methods.recipes import resolve
from partwise.models.branches import ShakeDrop
from partwise.ops import mixing
from partwise.run import RunFolder

TINY = (
    "data.source=creatures:?size=32&classes=4&train=48&val=16&test=16",
    "train.epochs=2",
    "train.batch_size=16",
    "train.threads=1",
    "train.log_every=1",
    "evaluate.every=0",
    "evaluate.suites=[]",
    "model.backbone=cifar-resnet",
    "model.arguments.depth=8",
)
FIELDS = {
    "none": ("method.mix=none",),
    "mixup": ("method.mix=mixup",),
    "cutout": ("method.mix=cutout",),
    "resizemix": ("method.mix=resizemix",),
    "saliencymix": ("method.mix=saliencymix",),
    "fmix": ("method.mix=fmix",),
    "manifold": ("method.mix=manifold",),
    "feature_cutmix": ("method.mix=feature_cutmix",),
    "smoothing": ("method.smoothing=0.1",),
    "stochastic depth": ("method.branches=stochastic_depth",),
    "dropblock": ("method.branches=dropblock",),
    "shakedrop": ("method.branches=shakedrop",),
    "cutout, then mixup": ("method.mix=mixup", "method.cutout=true"),
    "gaussian": ("method.centre=gaussian",),
    "fixed": ("method.box_length=16",),
    "one hot": ("method.label=one_hot",),
    "complete": ("method.label=complete",),
    "scheduled": ("method.p_schedule=linear", "method.p=1"),
    "first layer": ("method.mix=feature_cutmix", "method.layer=1"),
    "as released": ("method.correct_lambda=false",),
}


def train(out: Path, *more: str) -> RunFolder:
    return RunFolder(partwise.train("cutmix/smoke", out=out, settings=[*TINY, *more], quiet=True))


def test_every_choice_of_a_rule_is_among_them() -> None:
    fields = CutMixFields.model_fields
    given = {setting for settings in FIELDS.values() for setting in settings}
    for name, default in (("mix", "cutmix"), ("branches", "none"), ("label", "share"), ("centre", "uniform")):
        choices = set(fields[name].annotation.__args__) - {default}  # type: ignore[union-attr]
        assert {f"method.{name}={choice}" for choice in choices} <= given
    assert set(BRANCH_RATES) == set(fields["branches"].annotation.__args__) - {"none"}  # type: ignore[union-attr]


@pytest.mark.parametrize("name", list(FIELDS))
def test_every_rival_trains_and_answers_as_it_was_saved(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[CutMixMethod] = []
    save = api.save_trained
    monkeypatch.setattr(api, "save_trained", lambda folder, method: (seen.append(method), save(folder, method)))
    monkeypatch.setattr(api, "write_page", lambda paths: None)
    folder = train(tmp_path / "run", *FIELDS[name])
    losses = [line["loss"] for line in folder.read_metrics() if line["kind"] == "step"]
    assert len(losses) == 6 and all(torch.tensor(losses).isfinite())
    images = torch.rand(5, 3, 32, 32)
    loaded = partwise.load(folder.path).method
    with torch.inference_mode():
        torch.testing.assert_close(loaded.logits(images), seen[0].logits(images))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["manifold", "fmix", "shakedrop"])
def test_one_that_is_cut_off_ends_the_same(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api, "write_page", lambda paths: None)
    whole = train(tmp_path / "whole", *FIELDS[name]).model.read_bytes()
    monkeypatch.setattr(Interruption, "requested", property(lambda self: True, lambda self, value: None))
    stops = 0
    while stops < 10:
        try:
            train(tmp_path / "cut", *FIELDS[name])
            break
        except Interrupted:
            stops += 1
    assert stops > 3 and (tmp_path / "cut" / "model.safetensors").read_bytes() == whole


# -- what the fields draw ------------------------------------------------------------------------------------------------


def drawing(step: int = 0, batch: int = 64, **fields: Any) -> Drawing:
    return Drawing(CutMixFields(**fields), (0.5, 0.4, 0.3), batch, (0, "train", step, 0), 0.25, torch.device("cpu"))


def test_ablations_draw_what_their_fields_say() -> None:
    images = torch.zeros(64, 3, 32, 32, dtype=torch.uint8)
    plain, hard, half = (drawing(p=1, label=label).pictures(images) for label in ("share", "one_hot", "complete"))
    assert torch.equal(plain.boxes, hard.boxes) and torch.equal(plain.boxes, half.boxes)
    assert torch.equal(hard.lam, (plain.lam >= 0.5).float())
    assert torch.equal(half.lam, torch.where(plain.lam < 1, 0.5, 1.0))
    fixed = drawing(p=1, box_length=16).pictures(images).boxes
    assert int((fixed[:, 2:] - fixed[:, :2]).max()) == 16
    rising = drawing(p=1, p_schedule="linear")
    assert rising.p == 0.25 and drawing(mix="none").pictures(images).lam.eq(1).all()
    holes = drawing(cutout=True).cutout(images)
    assert holes.fill == (127.5, 102.0, 76.5) and drawing().cutout(images.float()).fill == (0.5, 0.4, 0.3)
    assert (holes.boxes[:, 2] > holes.boxes[:, 0]).all(), "whatever p is"


def test_layers_are_drawn_for_each_batch_and_each_as_likely() -> None:
    drawn = [drawing(step, mix="manifold").layer(3) for step in range(600)]
    assert all(160 < drawn.count(layer) < 240 for layer in range(3))
    assert drawn[:5] == [drawing(step, mix="manifold").layer(3) for step in range(5)]


def test_maps_are_mixed_behind_the_stage_and_labels_by_the_map_s_box() -> None:
    """Against the network taken apart by hand."""
    recipe, _ = resolve("cutmix/smoke", settings=[*TINY, "method.mix=feature_cutmix", "method.layer=2", "method.p=1"])
    method = CutMixMethod(recipe, DataFacts.of(open_source(recipe.data.source)))
    assert method.layers == {2: (16, 16)}
    mix = drawing(batch=6, mix="feature_cutmix", p=1).maps(16, 16)
    assert mix.size == (16, 16)
    images, targets = torch.rand(6, 3, 32, 32), torch.eye(4)[torch.arange(6) % 4]
    method.network.eval()
    loss = SoftLabelLoss(method.network, method.recipe.method, compile=False)
    batch = LayeredBatch([], torch.arange(6), images, targets, inside=Inside(2, mix))
    found = loss(batch)[0]["cross_entropy"]
    net = method.network.backbone
    maps = net.block(1, net.block(0, method.network.normalise(images)))
    mixed = maps.clone()
    for row, (x1, y1, x2, y2) in enumerate(mix.boxes.tolist()):
        mixed[row, :, y1:y2, x1:x2] = maps[mix.partner[row], :, y1:y2, x1:x2]
    expected = -(method.network.classify(net.block(2, mixed)).log_softmax(1) * targets).sum(1).mean()
    torch.testing.assert_close(found, expected)
    found.backward()
    assert all(p.grad is not None for p in method.network.parameters())
    plain: Tensor = loss(Batch([], torch.arange(6), images, targets))[0]["cross_entropy"]
    assert abs(float(plain.detach()) - float(found.detach())) > 1e-6


def test_what_contradicts_itself_is_refused() -> None:
    for fields, words in (
        ({"mode": "paper", "box_length": 16}, "no other boxes"),
        ({"mode": "paper", "centre": "gaussian"}, "no other boxes"),
        ({"centre": "gaussian", "box_length": 16}, "two ablations"),
    ):
        with pytest.raises(UserError, match=words):
            check_together(CutMixFields(**fields), world=1)  # type: ignore[arg-type]
    check_together(CutMixFields(mix="manifold"), world=1)
    with pytest.raises(UserError, match="one process"):
        check_together(CutMixFields(mix="manifold"), world=2)
    facts = DataFacts.of(open_source(resolve("cutmix/smoke", settings=TINY)[0].data.source))
    for settings, words in (
        (["method.mix=manifold", "method.layer=3"], "stages 1 to 2"),
        (["method.branches=shakedrop", "model.backbone=convnet", "model.arguments={}"], "no residual branches"),
    ):
        recipe, _ = resolve("cutmix/smoke", settings=[*TINY, *settings])
        with pytest.raises(UserError, match=words):
            CutMixMethod(recipe, facts)


def test_saved_networks_keep_what_scales_their_branches() -> None:
    recipe, _ = resolve("cutmix/smoke", settings=[*TINY, "method.branches=shakedrop", "method.branch_ramp=constant"])
    method = CutMixMethod(recipe, DataFacts.of(open_source(recipe.data.source)))
    assert method.specs()["classifier"].arguments["branches"]["rate"] == 0.5
    assert [m.rate for m in method.network.modules() if isinstance(m, ShakeDrop)] == [0.5] * 3
    assert mixing.weighed(mixing.draw_cutmix(4, 8, 8), "share").lam.shape == (4,)
