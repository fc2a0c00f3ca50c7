"""The suite `robustness`: rows against the attacks themselves, curves, pairs between classes, and its pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partwise.data.sample import Batch
from partwise.evaluate.base import Evaluation
from partwise.evaluate.robustness import EPS, SHARES, Robustness, pairs
from partwise.evaluate.runner import run_suite
from partwise.ops import draws
from partwise.ops.attacks import between, fgsm, occluded, pgd
from partwise.ops.corruptions import corrupted

CLASSES = ("red", "green", "blue")
FEW = ("gaussian_noise", "contrast", "jpeg_compression")


class Brightest:
    """Names the channel with the highest mean, by a linear rule with a gradient; blind where pictures are flat."""

    classes = CLASSES
    training = False

    def logits(self, images: Tensor) -> Tensor:
        return 40 * images.mean((2, 3))


def scene(count: int = 24, seed: int = 0) -> Batch:
    """Pictures whose own channel is brighter by a hair or by much."""
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(3, (count,), generator=generator)
    images = 0.4 + 0.2 * torch.rand(count, 3, 16, 16, generator=generator)
    lead = 0.1 * torch.rand(count, generator=generator)
    images[torch.arange(count), targets] += lead[:, None, None]
    index = torch.arange(count) + 7
    return Batch([str(i) for i in index.tolist()], index, images, targets)


def suite() -> Robustness:
    return Robustness(CLASSES, steps=3, restarts=2, corruptions=FEW, fill=(0.5, 0.5, 0.5))


def test_every_number_against_its_definition() -> None:
    batch, model = scene(), Brightest()
    assert batch.targets is not None
    found = run_suite(suite(), model, [batch], validation=None)
    images, targets = batch.images, batch.targets

    def top1(changed: Tensor) -> float:
        return float((model.logits(changed).argmax(1) == targets).double().mean())

    plain = top1(images)
    assert found.metrics["robustness/fgsm_top1"] == pytest.approx(top1(fgsm(model.logits, images, targets, eps=EPS)))
    right = model.logits(images).argmax(1) == targets
    for number in range(2):
        drawn = [torch.rand(3, 16, 16, generator=draws.generator(0, "pgd", number, name)) for name in batch.ids]
        attacked = pgd(model.logits, images, targets, eps=EPS, start=2 * torch.stack(drawn) - 1, steps=3)
        right &= model.logits(attacked).argmax(1) == targets
    assert found.metrics["robustness/pgd_top1"] == pytest.approx(float(right.double().mean()))
    assert 0 < found.metrics["robustness/pgd_top1"] < plain
    assert found.detail["robustness/pgd_top1"] == {"n": 24, "unchanged": plain, "eps": EPS, "steps": 3, "restarts": 2}
    for kind, outside in (("centre", False), ("boundary", True)):
        curve = [top1(occluded(images, s, torch.full((3,), 0.5), outside=outside)) for s in SHARES]
        assert found.metrics[f"robustness/occlusion_{kind}_top1"] == pytest.approx(sum(curve) / 9)
        assert found.detail[f"robustness/occlusion_{kind}_top1"]["curve"] == pytest.approx(curve)
    everything = []
    for name in FEW:
        levels = []
        for severity in range(1, 6):
            generators = [draws.generator(0, "corruption", name, severity, i) for i in batch.ids]
            levels.append(top1(corrupted(images, name, severity, generators)))
        assert found.metrics[f"robustness/{name}_top1"] == pytest.approx(sum(levels) / 5)
        everything += levels
    assert found.metrics["robustness/corruption_top1"] == pytest.approx(sum(everything) / 15)
    assert not found.pictures and not any("between" in name for name in found.metrics)


def test_between_two_classes_by_hand() -> None:
    batch, model = scene(seed=3), Brightest()
    assert batch.targets is not None
    rows = {int(i): row for row, i in enumerate(batch.index.tolist())}

    def again(index: int) -> Batch | None:
        row = rows[index]
        return (
            None
            if row == 5
            else Batch(["x"], batch.index[row : row + 1], batch.images[row : row + 1], batch.targets[row : row + 1])
        )  # type: ignore[index]

    evaluator, found = suite(), Evaluation()
    kept = {"index": batch.index, "target": batch.targets}
    (picture,) = evaluator.show(model, kept, found, again)
    chosen = [
        (rows[a], rows[b])
        for a, b in pairs(batch.index.tolist(), batch.targets.tolist())
        if 5 not in (rows[a], rows[b])
    ]
    assert len(chosen) > 5
    for kind, boxes in (("mixup", False), ("cutmix", True)):
        neither = []
        for share in SHARES:
            named = [
                int(model.logits(between(batch.images[a, None], batch.images[b, None], share, boxes=boxes)).argmax())
                for a, b in chosen
            ]
            own = [{int(batch.targets[a]), int(batch.targets[b])} for a, b in chosen]
            neither.append(sum(n not in both for n, both in zip(named, own, strict=True)) / len(chosen))
        name = f"robustness/between_{kind}_neither"
        assert found.metrics[name] == pytest.approx(sum(neither) / 9)
        assert found.detail[name]["curve"] == pytest.approx(neither) and found.detail[name]["n"] == len(chosen)
    assert picture.name == "between" and len(picture.rows) == 9


def test_pairs_are_of_two_classes_and_each_picture_is_in_one() -> None:
    targets = [0] * 10 + [1] * 4 + [2] * 3
    index = [100 + i for i in range(17)]
    found = pairs(index, targets)
    flat = [i for pair in found for i in pair]
    assert len(flat) == len(set(flat)) and len(found) >= 7
    assert all(targets[a - 100] != targets[b - 100] for a, b in found)
    assert pairs(index, targets, most=3) == found[:3] and pairs([1, 2], [0, 0]) == []


def test_one_class_leaves_what_lies_between_out() -> None:
    batch, found = scene(4), Evaluation()
    kept = {"index": batch.index, "target": torch.zeros(4, dtype=torch.int64)}
    assert suite().show(Brightest(), kept, found, lambda index: batch) == []
    assert "no two pictures" in found.detail["robustness/between_mixup_neither"]["left_out"] and not found.metrics


def test_curves_are_drawn_with_their_numbers() -> None:
    batch = scene()
    found = run_suite(suite(), Brightest(), [batch], validation=None, images=lambda index: batch.images[: len(index)])
    assert [picture.name for picture in found.pictures] == ["occlusion", "corruptions"]
    assert len(found.pictures[0].rows) == 9 and len(found.pictures[1].rows) == len(FEW)
    assert found.pictures[0].image.ndim == 3


def test_grey_pictures_are_covered_with_the_mean_of_the_colours() -> None:
    class Grey(Brightest):
        def logits(self, images: Tensor) -> Tensor:
            return torch.cat((images, 1 - images, images * 0), dim=1).mean((2, 3))

    batch = scene(6)
    grey = Batch(batch.ids, batch.index, batch.images[:, :1], batch.targets)
    found = run_suite(suite(), Grey(), [grey], validation=None)
    assert 0 <= found.metrics["robustness/occlusion_centre_top1"] <= 1
