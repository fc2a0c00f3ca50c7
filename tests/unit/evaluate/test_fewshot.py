"""The suite on an encoder that shows organs in its channels, and on others, against loops over pictures and organs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.sample import Batch, Record, Source
from partwise.evaluate.base import Evaluation
from partwise.evaluate.fewshot import SHOTS, SUBSETS, FewShot, StagedOrDense, kept_map, organ_name, stages_of
from partwise.evaluate.fewshot_pictures import topmost
from partwise.evaluate.fewshot_tuning import fine_tune
from partwise.evaluate.runner import collect, run_suite
from partwise.ops.few_shot import dice

SIDE = 20
CLASSES = ("Left lung", "heart")


class Seeing:
    """Two stages, and in the shallow one what the picture shows."""

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        return [torch.cat([images, images[:, :1] * images[:, 1:2]], dim=1), F.avg_pool2d(images, 4)]


class Blind:
    """One dense map that says nothing."""

    def dense(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), 3, 5, 5)


class Bodies(Source):
    kind = name = "bodies"

    def __init__(self, count: int, *, covers: bool = False) -> None:
        self.records = [Record(id=f"body {i}", group=f"patient {i // 2}") for i in range(count)]
        self.gives_covered = covers

    def load_image(self, index: int) -> Tensor:
        raise NotImplementedError


def batch(count: int, seed: int = 0, *, first: int = 0) -> Batch:
    """Two ellipses at places of their own, bright in a channel each; a frame of void."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    images = 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    masks = torch.zeros(count, SIDE, SIDE, dtype=torch.uint8)
    for i in range(count):
        for k, centre in enumerate(((6.0, 9.0), (13.0, 12.0))):
            dx, dy = (6 * torch.rand(2, generator=generator) - 3).tolist()
            inside = ((x - centre[0] - dx) / 3) ** 2 + ((y - centre[1] - dy) / 5) ** 2 < 1
            images[i, k][inside] += 0.7
            masks[i][inside] = k + 1
    masks[:, 0] = 255
    index = first + torch.arange(count)
    return Batch([f"body {i}" for i in index.tolist()], index, images, None, masks)


def suite(source: Source | None = None) -> FewShot:
    evaluator = FewShot(CLASSES)
    evaluator.attend(source or Bodies(80))
    return evaluator


def measured(data: Batch, learned: Batch | None, model: object, evaluator: FewShot | None = None) -> Evaluation:
    given = None if learned is None else [learned]
    return run_suite(evaluator or suite(), model, [data], validation=given)


def test_the_protocols() -> None:
    assert isinstance(Seeing(), StagedOrDense) and isinstance(Blind(), StagedOrDense)
    assert not isinstance(object(), StagedOrDense)
    assert "fewshot_dice_heart_3" in FewShot.metrics and "fewshot_dice_24" in FewShot.metrics


def test_what_an_encoder_shows_is_read_off_it() -> None:
    found = measured(batch(6), batch(7, 1, first=20), Seeing())
    for organ in ("left_lung", "heart"):
        for shots in (3, 6):
            name = f"embedding/fewshot_dice_{organ}_{shots}"
            facts = found.detail[name]
            assert found.metrics[name] > 0.93 > facts["atlas"] and facts["mean_mask"] < 0.85
            assert found.metrics[name] == pytest.approx(sum(facts["each"]) / SUBSETS) and facts["n"] == 6
    both = [found.metrics[f"embedding/fewshot_dice_{organ}_3"] for organ in ("left_lung", "heart")]
    assert found.metrics["embedding/fewshot_dice_3"] == pytest.approx(sum(both) / 2)
    for name in ("fewshot_dice_12", "fewshot_dice_heart_24"):
        assert "there are 7" in found.detail[f"embedding/{name}"]["left_out"]


def test_dice_picture_by_picture() -> None:
    """One subset of three pictures, decoded and measured by hand."""
    data, learned, evaluator = batch(5), batch(8, 1, first=20), suite()
    rows, _ = collect(evaluator, Seeing(), [data])
    base, _ = collect(evaluator, Seeing(), [learned])
    found = evaluator.conclude(rows, base)
    chosen = evaluator.subsets(rows, base)[2][:3]
    decoder = evaluator.decoder(base, chosen)
    scores: list[list[float]] = [[], []]
    assert data.masks is not None
    for i in range(5):
        areas = decoder(stages_of(rows, [i]), (SIDE, SIDE))[0] > 0
        for k in range(2):
            a = {(y, x) for y, x in areas[k].nonzero().tolist() if data.masks[i, y, x] != 255}
            b = {(y, x) for y, x in (data.masks[i] == k + 1).nonzero().tolist()}
            scores[k].append(2 * len(a & b) / (len(a) + len(b)))
    assert found.detail["embedding/fewshot_dice_heart_3"]["each"][2] == pytest.approx(sum(scores[1]) / 5)
    assert found.detail["embedding/fewshot_dice_3"]["each"][2] == pytest.approx(sum(scores[0] + scores[1]) / 10)


def test_subsets_are_nested_fixed_and_of_other_patients() -> None:
    evaluator, rows = suite(), {"index": torch.tensor([0, 3])}
    masks = torch.ones(10, 2, 2, dtype=torch.uint8)
    masks[4] = 0
    learned = {"index": torch.arange(10), "mask": masks}
    subsets = evaluator.subsets(rows, learned)
    assert len(subsets) == SUBSETS and len({tuple(subset) for subset in subsets}) > 1
    assert all(sorted(subset) == [5, 6, 7, 8, 9] for subset in subsets), "0 to 3 are reported patients', 4 has no organ"
    turned = {"index": torch.arange(9, -1, -1), "mask": masks.flip(0)}
    for one, other in zip(subsets, evaluator.subsets(rows, turned), strict=True):
        assert one == [9 - place for place in other], "ids decide, not the order of rows"
    assert evaluator.subsets(rows, None) == [[]] * SUBSETS


def test_an_encoder_that_says_nothing_is_no_better_than_its_rivals() -> None:
    found = measured(batch(6), batch(6, 1, first=20), Blind())
    facts = found.detail["embedding/fewshot_dice_6"]
    assert found.metrics["embedding/fewshot_dice_6"] < min(facts["mean_mask"], facts["atlas"])


def test_what_masks_cover_belongs_to_organs() -> None:
    evaluator = suite(Bodies(80, covers=True))
    data = batch(3)
    assert data.masks is not None
    data.parts = torch.where(data.masks == 2, 1, 0).to(torch.uint8)
    rows, _ = collect(evaluator, Seeing(), [data])
    truth, counted = evaluator.truth(rows, [0, 1, 2])
    assert torch.equal(truth[:, 0], (data.masks == 1) | (data.masks == 2)) and torch.equal(counted, data.masks != 255)
    plain, _ = collect(suite(), Seeing(), [data])
    assert "covered" not in plain
    shares, weights = evaluator.areas(rows, [0])
    assert shares.shape == (1, 2, SIDE, SIDE) and weights.min() == 0 and weights.max() == 1


def test_organs_that_nobody_shows() -> None:
    data = batch(4)
    assert data.masks is not None
    data.masks[data.masks == 2] = 0
    found = measured(data, batch(4, 1, first=20), Seeing())
    detail = found.detail["embedding/fewshot_dice_heart_3"]
    assert "embedding/fewshot_dice_left_lung_3" in found.metrics
    assert "left_out" in detail or found.metrics["embedding/fewshot_dice_heart_3"] == 0
    learned = batch(4, 1, first=20)
    assert learned.masks is not None
    learned.masks[:] = 0
    assert "there are 0" in measured(data, learned, Seeing()).detail["embedding/fewshot_dice_3"]["left_out"]
    assert "there are 0" in measured(data, None, Seeing()).detail["embedding/fewshot_dice_3"]["left_out"]


def test_names_and_kept_maps() -> None:
    assert organ_name(" Left lung") == "left_lung"
    large = torch.full((1, 2, 64, 64), 1e6)
    assert kept_map(large).shape == (1, 2, 32, 32) and kept_map(large).isfinite().all()
    small = torch.rand(1, 2, 8, 8)
    assert torch.equal(kept_map(small), small.half())
    rows = {f"stage_{k}": torch.full((1, 1, 1, 1), float(k)) for k in (10, 2, 0)}
    assert [float(maps) for maps in stages_of(rows, [0])] == [0, 2, 10]
    areas = torch.tensor([[[True, True]], [[False, True]]])
    assert topmost(areas).tolist() == [[1, 2]]


def test_pictures_of_the_report() -> None:
    data, learned = batch(7), batch(8, 1, first=20)

    def images(indices: Sequence[int]) -> Tensor:
        return data.images[torch.as_tensor(list(indices))]

    found = run_suite(suite(), Seeing(), [data], validation=[learned], images=images)
    assert [picture.name for picture in found.pictures] == ["few_shot_curves", "few_shot_outlines"]
    curves, outlines = found.pictures
    assert [row["pictures"] for row in curves.rows if row["organ"] == "mean"] == [3, 6]
    assert {row["organ"] for row in curves.rows} == {"mean", "left_lung", "heart"}
    scores = [float(row["dice"]) for row in outlines.rows]
    assert len(scores) == 6 and scores == sorted(scores)
    none = run_suite(suite(), Seeing(), [data], validation=None, images=images)
    assert none.pictures == [] and SHOTS == (3, 6, 12, 24)


class Tiny(nn.Module):
    """An encoder that does not show organs until it is tuned: a random mixture of the channels, of few colours."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 3, padding=1)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nn.init.normal_(self.layer.weight, std=0.05)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        return [self.layer(images).tanh()]


def test_fine_tuning_improves_on_the_frozen_encoder() -> None:
    data, new = batch(6, 1), batch(4)
    assert data.masks is not None and new.masks is not None
    encoder: Any = Tiny().eval()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    areas = torch.stack([data.masks == 1, data.masks == 2], dim=1)
    truth = torch.stack([new.masks == 1, new.masks == 2], dim=1)
    frozen = fine_tune(encoder, data.images, areas, data.masks != 255, steps=0)
    tuned = fine_tune(encoder, data.images, areas, data.masks != 255, steps=150)
    scores = [float(dice(network(new.images) > 0, truth).mean()) for network in (frozen, tuned)]
    assert scores[1] > scores[0]
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert not tuned.training and not any(p.requires_grad for p in tuned.parameters())
    again = fine_tune(encoder, data.images, areas, data.masks != 255, steps=3)
    same = fine_tune(encoder, data.images, areas, data.masks != 255, steps=3)
    assert torch.equal(again(new.images), same(new.images)) and not math.isnan(float(again(new.images).sum()))
