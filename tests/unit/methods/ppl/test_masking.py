"""Pseudo masks: the ground's threshold against a brute-force search on validation, and files that say what was meant."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from partwise.config import DataFields, UserError
from partwise.data.loading import PictureData
from partwise.data.sample import Record, Sample, Source
from partwise.engine.stages import Products
from partwise.methods.ppl.config import AffinityFields, PplFields, PseudoFields
from partwise.methods.ppl.masking import FIXED, WritePseudoMasks, read_pseudo_mask, require_pseudo_mask
from partwise.ops.cam import upsample

SIDE = 16


class Judged(Source):
    """Training pictures whose masks must not be looked at, validation pictures with masks, one test picture."""

    kind = name = "judged"
    classes = ("a", "b", "c")
    multi_label = True

    def __init__(self, *, judged: bool = True) -> None:
        labels = [(0,), (1, 2), (), (0, 2), (1,), (0, 1), (2,)]
        splits = ["train"] * 3 + ["val"] * 3 + ["test"]
        self.records = [
            Record(id=f"p/{n}", split=split, labels=own, has_mask=judged or split == "train")
            for n, (own, split) in enumerate(zip(labels, splits, strict=True))
        ]

    def load_image(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, SIDE, SIDE), dtype=torch.uint8, generator=generator)

    def load(self, index: int) -> Sample:
        record = self.records[index]
        assert record.split == "val", "only validation masks may be looked at"
        generator = torch.Generator().manual_seed(100 + index)
        choices = torch.tensor([0, *(label + 1 for label in record.labels or ()), 255], dtype=torch.uint8)
        mask = choices[torch.randint(len(choices), (SIDE, SIDE), generator=generator)]
        return Sample(id=record.id, image=self.load_image(index), labels=self.multi_hot(record.labels), mask=mask)


def writer(path: Path, fields: PplFields | None = None, *, judged: bool = True) -> WritePseudoMasks:
    """The stage over products that look like a walk's: half-resolution scores of each picture's classes."""
    source = Judged(judged=judged)
    data = PictureData(source, DataFields(source="judged:", size=SIDE))
    products = Products(path)
    for index, record in enumerate(source.records):
        generator = torch.Generator().manual_seed(200 + index)
        classes = torch.tensor(record.labels or (), dtype=torch.int64)
        scores = torch.rand(len(classes), SIDE // 2, SIDE // 2, generator=generator)
        products.write("walk", record.id, {"classes": classes, "scores": scores.half()})
    method: Any = SimpleNamespace(fields=fields or PplFields())
    stage = WritePseudoMasks(method, data)
    stage.prepare(products)
    return stage


def mean_iou_by_hand(stage: WritePseudoMasks, threshold: float) -> float:
    """One confusion over the validation pictures, pixel by pixel."""
    matrix = np.zeros((4, 4))
    for index in (3, 4, 5):
        sample = stage.data.source.load(index)
        stored = stage.products.read("walk", sample.id)
        scores = upsample(stored["scores"].float()[None], (SIDE, SIDE))[0]
        assert sample.mask is not None
        for y in range(SIDE):
            for x in range(SIDE):
                truth = int(sample.mask[y, x])
                if truth == 255:
                    continue
                best = int(scores[:, y, x].argmax())
                value = float(scores[best, y, x])
                matrix[truth, int(stored["classes"][best]) + 1 if value > threshold else 0] += 1
    ious = [matrix[k, k] / (matrix[k].sum() + matrix[:, k].sum() - matrix[k, k]) for k in range(4)]
    return float(np.mean(ious))


def test_the_threshold_is_the_best_of_validation_and_training_masks_are_never_read(tmp_path: Path) -> None:
    stage = writer(tmp_path)
    by_hand = [mean_iou_by_hand(stage, round(0.01 * step, 2)) for step in range(0, 100, 1)]
    assert by_hand[round(stage.threshold * 100)] == pytest.approx(max(by_hand), abs=1e-9)
    assert stage.facts() == {
        "threshold": stage.threshold,
        "threshold_from": "the best mIoU of 3 validation pictures",
    }


def test_without_validation_masks_or_with_a_number_nothing_is_chosen(tmp_path: Path) -> None:
    stage = writer(tmp_path / "a", judged=False)
    assert stage.threshold == FIXED and stage.facts()["threshold_from"].startswith("a fixed value")
    stage = writer(tmp_path / "b", PplFields(pseudo=PseudoFields(threshold=0.4)))
    assert (stage.threshold, stage.facts()["threshold_from"]) == (0.4, "the recipe")
    stage = writer(tmp_path / "c", PplFields(affinity=AffinityFields(kind="affinitynet")))
    assert "a row for the ground" in stage.facts()["threshold_from"]


def test_masks_are_palette_pngs_of_the_pictures_own_classes(tmp_path: Path) -> None:
    stage = writer(tmp_path, PplFields(pseudo=PseudoFields(threshold=0.5)))
    assert stage.items() == ["p/0", "p/1", "p/2"]
    for item in stage.items():
        assert read_pseudo_mask(stage.products, item) is None
        stage.products.write_file("pseudo", item, ".png", stage.compute(item))
    with Image.open(stage.products.path("pseudo", "p/1", ".png")) as image:
        assert image.mode == "P" and image.size == (SIDE, SIDE)
    stored = stage.products.read("walk", "p/1")
    scores = upsample(stored["scores"].float()[None], (SIDE, SIDE))[0]
    expected = torch.where(scores.amax(0) > 0.5, scores.argmax(0) + 2, 0)  # its classes are 1 and 2, masks 2 and 3
    mask = require_pseudo_mask(stage.products, "p/1")
    assert torch.equal(mask.long(), expected)
    empty = require_pseudo_mask(stage.products, "p/2")
    assert empty.shape == (SIDE, SIDE) and not empty.any()
    with pytest.raises(UserError, match="is gone"):
        require_pseudo_mask(stage.products, "p/3")


def test_a_walk_with_a_row_for_the_ground_needs_no_threshold(tmp_path: Path) -> None:
    stage = writer(tmp_path, PplFields(affinity=AffinityFields(kind="affinitynet")))
    scores = torch.tensor([[[0.5, 0.2]], [[0.4, 0.7]], [[0.1, 0.1]]])
    assert stage.places(scores, 2).tolist() == [[0, 1]]
