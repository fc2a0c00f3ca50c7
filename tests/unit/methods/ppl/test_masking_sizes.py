"""Pseudo masks where it is not as it should be: odd sizes, nothing to judge by, many classes, no walk, files that are gone."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
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
from partwise.data.palette import voc_palette
from partwise.data.sample import VOID, FaultySample, Record, Sample
from partwise.engine.stages import Products
from partwise.methods.ppl.config import AffinityFields, PplFields, PseudoFields
from partwise.methods.ppl.mapping import empty_maps
from partwise.methods.ppl.masking import FIXED, FIXED_MAPS, WritePseudoMasks, read_pseudo_mask
from partwise.ops.pamr import pamr
from tests.unit.methods.ppl.small import Sizes

SIZES = [(1, 1), (9, 14), (33, 7), (9, 9), (17, 21), (30, 13), (8, 8), (5, 5)]
LABELS: list[tuple[int, ...]] = [(0,), (1, 2), (), (2,), (0, 1), (2,), (), (1,)]
VALIDATION = (4, 5, 6)


class Judged(Sizes):
    """Four training pictures, whose masks must not be decoded, three validation pictures with masks, and one for the test."""

    def __init__(
        self, sizes: Sequence[tuple[int, int]] = SIZES, *, torn: Sequence[int] = (), void: bool = False, **options: Any
    ) -> None:
        super().__init__(sizes, LABELS, **options)
        self.torn, self.void = torn, void
        splits = ["train"] * 4 + ["val"] * 3 + ["test"]
        self.records = [
            Record(id=f"p/{n}", split=split, labels=own, has_mask=True)
            for n, (split, own) in enumerate(zip(splits, LABELS, strict=True))
        ]
        self.decoded: list[int] = []

    def load(self, index: int) -> Sample:
        self.decoded.append(index)
        if index in self.torn:
            raise FaultySample(f"p/{index}-mask.png", "torn")
        record = self.records[index]
        values = torch.tensor([0, *(k + 1 for k in record.labels or ()), VOID], dtype=torch.uint8)
        generator = torch.Generator().manual_seed(100 + index)
        mask = values[torch.randint(len(values), self.sizes[index], generator=generator)]
        if self.void:
            mask.fill_(VOID)
        return Sample(id=record.id, image=self.load_image(index), labels=self.multi_hot(record.labels), mask=mask)


def writer(path: Path, source: Judged, fields: PplFields | None = None, *, stride: int = 4) -> WritePseudoMasks:
    """The stage over products of maps and of a walk at cells of `stride` pixels."""
    data = PictureData(source, DataFields(source="sizes:", size=8, on_fault="skip"))
    products = Products(path)
    for number, (height, width) in enumerate(source.sizes):
        generator = torch.Generator().manual_seed(200 + number)
        classes = torch.tensor(LABELS[number], dtype=torch.int64)
        cells = (len(classes), math.ceil(height / stride), math.ceil(width / stride))
        full = torch.rand(len(classes), height, width, generator=generator).half()
        scores = torch.rand(cells, generator=generator).half()
        maps = {"classes": classes, "strided": scores.float(), "full": full}
        products.write("maps", f"p/{number}", empty_maps() if number in source.broken else maps)
        walk = {"classes": classes, "scores": scores}
        if number in source.broken:
            walk = {"classes": empty_maps()["classes"], "scores": torch.zeros(0, 1, 1).half()}
        products.write("walk", f"p/{number}", walk)
    method: Any = SimpleNamespace(fields=fields or PplFields())
    stage = WritePseudoMasks(method, data)
    stage.prepare(products)
    return stage


def naive_score(cells: Tensor, y: int, x: int, stride: int) -> Tensor:
    """The scores `(k,)` of one pixel, bilinear between the centres of the cells round it."""
    total = torch.zeros(len(cells))
    for row, above in weights(y, cells.shape[1], stride):
        for column, beside in weights(x, cells.shape[2], stride):
            total += above * beside * cells[:, row, column].float()
    return total


def weights(pixel: int, count: int, stride: int) -> list[tuple[int, float]]:
    """The cells along a side that a pixel lies between, with their shares; beyond the outermost centres those alone."""
    at = min(max((pixel + 0.5) / stride - 0.5, 0), count - 1)
    low = int(at)
    return [(low, 1 - (at - low)), (min(low + 1, count - 1), at - low)]


def naive_places(stage: WritePseudoMasks, index: int, *, stride: int = 4) -> list[tuple[int, int, float, int]]:
    """(y, x, best score, its class as a mask value) of every pixel of a picture."""
    stored = stage.products.read("walk" if stage.walks else "maps", f"p/{index}")
    height, width = stage.data.source.sizes[index]  # type: ignore[attr-defined]
    found = []
    for y in range(height):
        for x in range(width):
            own = naive_score(stored["scores"], y, x, stride) if stage.walks else stored["full"][:, y, x].float()
            best = int(own.argmax()) if len(own) else -1
            value = int(stored["classes"][best]) + 1 if len(own) else 0
            found.append((y, x, float(own[best]) if len(own) else 0.0, value))
    return found


def mean_iou_by_hand(stage: WritePseudoMasks, thresholds: list[float]) -> list[float]:
    """One confusion over all validation pictures for each threshold."""
    matrices = np.zeros((len(thresholds), 4, 4))
    for index in VALIDATION:
        mask = stage.data.source.load(index).mask
        assert mask is not None
        for y, x, score, value in naive_places(stage, index):
            truth = int(mask[y, x])
            if truth != VOID:
                for number, threshold in enumerate(thresholds):
                    matrices[number, truth, value if score > threshold else 0] += 1
    return [float(np.mean([m[k, k] / (m[k].sum() + m[:, k].sum() - m[k, k]) for k in range(4)])) for m in matrices]


@pytest.mark.parametrize("kind", ["irn", "none"])
def test_the_threshold_is_the_first_best_of_a_hundred(kind: str, tmp_path: Path) -> None:
    """At odd sizes, with a picture that shows nothing; of validation pictures alone."""
    source = Judged()
    stage = writer(tmp_path, source, PplFields(affinity=AffinityFields(kind=kind)))  # type: ignore[arg-type]
    assert sorted(set(source.decoded)) == list(VALIDATION)
    by_hand = mean_iou_by_hand(stage, [round(0.01 * step, 2) for step in range(100)])
    assert by_hand[round(stage.threshold * 100)] == pytest.approx(max(by_hand), abs=1e-9)
    assert min(by_hand) < max(by_hand) - 0.05
    assert stage.facts()["threshold_from"] == "the best mIoU of 3 validation pictures"


@pytest.mark.parametrize("kind", ["irn", "none"])
@pytest.mark.parametrize("how", ["torn", "void"])
def test_masks_that_cannot_be_judged_by_choose_nothing(how: str, kind: str, tmp_path: Path) -> None:
    source = Judged(torn=VALIDATION) if how == "torn" else Judged(void=True)
    stage = writer(tmp_path, source, PplFields(affinity=AffinityFields(kind=kind)))  # type: ignore[arg-type]
    assert stage.threshold == (FIXED if kind == "irn" else FIXED_MAPS) and (FIXED, FIXED_MAPS) == (0.25, 0.15)
    assert stage.facts()["threshold_from"] == "a fixed value: no validation picture has a mask"


def test_a_torn_mask_is_left_out_or_ends_the_run(tmp_path: Path) -> None:
    stage = writer(tmp_path / "a", Judged(torn=(5,)))
    assert stage.facts()["threshold_from"] == "the best mIoU of 2 validation pictures"
    source = Judged(torn=(5,))
    strict = WritePseudoMasks(stage.method, PictureData(source, DataFields(source="sizes:", size=8)))
    with pytest.raises(UserError, match=r"p/5-mask\.png: torn"):
        strict.prepare(stage.products)


@pytest.mark.parametrize("kind", ["irn", "none"])
def test_every_training_picture_gets_a_palette_file_of_its_own_size(kind: str, tmp_path: Path) -> None:
    source = Judged(broken=(3,))
    fields = PplFields(affinity=AffinityFields(kind=kind), pseudo=PseudoFields(threshold=0.45))  # type: ignore[arg-type]
    stage = writer(tmp_path, source, fields)
    assert stage.items() == [f"p/{n}" for n in range(4)]
    for number, item in enumerate(stage.items()):
        with Image.open(io.BytesIO(stage.compute(item))) as image:  # type: ignore[arg-type]
            assert image.mode == "P" and image.format == "PNG"
            palette = np.array(image.getpalette()).reshape(-1, 3)
            mask = np.array(image)
        assert np.array_equal(palette[: len(voc_palette())], voc_palette()[: len(palette)])
        if number == 3:  # a picture that cannot be read teaches nothing
            assert mask.tolist() == [[VOID]]
            continue
        assert mask.shape == source.sizes[number]
        for y, x, score, value in naive_places(stage, number):
            expected = value if score > 0.45 else 0
            assert mask[y, x] == expected or abs(score - 0.45) < 1e-5
        assert set(np.unique(mask).tolist()) <= {0, *(k + 1 for k in LABELS[number])}
    assert source.decoded == [], "with a threshold from the recipe no mask is looked at"


def test_masks_are_sharpened_by_the_pictures_own_colours(tmp_path: Path) -> None:
    fields = PplFields(pseudo=PseudoFields(threshold=0.5, crf="pamr"))
    stage = writer(tmp_path, Judged(), fields)
    stage.products.write_file("pseudo", "p/1", ".png", stage.compute("p/1"))  # type: ignore[arg-type]
    classes, scores = stage.scores("p/1", SIZES[1])
    hard = torch.where(scores.amax(0) > 0.5, scores.argmax(0) + 1, 0)
    every = torch.stack([(hard == value).float() for value in range(3)])
    image = stage.data.source.load_image(1)[None].float() / 255
    expected = torch.tensor([0, *(classes + 1).tolist()])[pamr(image, every[None])[0].argmax(0)]
    found = read_pseudo_mask(stage.products, "p/1")
    assert found is not None and torch.equal(found.long(), expected)


def test_eighty_classes_take_no_more_memory_than_those_that_are_shown(tmp_path: Path) -> None:
    stage = writer(tmp_path, Judged(num_classes=80))
    classes, scores = stage.scores("p/4", (17, 21))
    assert classes.tolist() == [0, 1] and scores.shape == (2, 17, 21)
    assert 0 <= stage.threshold < 1


def test_a_large_picture_has_a_mask_of_its_size(tmp_path: Path) -> None:
    """Cells of a picture that was reduced for the walk follow from no stride of its own size."""
    source = Judged([(3000, 40), *SIZES[1:]])
    stage = writer(tmp_path, source, PplFields(pseudo=PseudoFields(threshold=0.5, crf="irn")))
    walk = {"classes": torch.tensor([0]), "scores": torch.rand(1, 256, 4).half()}
    stage.products.write("walk", "p/0", walk)
    stage.products.write_file("pseudo", "p/0", ".png", stage.compute("p/0"))  # type: ignore[arg-type]
    found = read_pseudo_mask(stage.products, "p/0")
    assert found is not None and found.shape == (3000, 40) and set(found.unique().tolist()) <= {0, 1}
