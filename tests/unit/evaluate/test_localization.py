"""Every number against a plain loop over pictures, thresholds, regions and boxes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.evaluate.base import Evaluation
from partwise.evaluate.localization import Localization, box_accuracy
from partwise.evaluate.localization_pictures import choose
from partwise.evaluate.runner import run_suite

NAMES = ("cat", "dog", "owl")
SIDE = 20


class Blobs:
    """Maps and logits are read from the picture's channels, so that any map can be given."""

    classes = NAMES

    def logits(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, :3]

    def maps(self, images: Tensor) -> Tensor:
        return images[:, :, :7, :7] * 2 - 0.5


class MapsOnly:
    def maps(self, images: Tensor) -> Tensor:
        return Blobs().maps(images)


def batch(count: int, seed: int, *, masks: bool = True) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, 4, 4, generator=generator)
    images = F.interpolate(images, size=(SIDE, SIDE), mode="bilinear")
    boxes = []
    for row in range(count):
        corner = torch.rand(row % 3, 2, generator=generator) * 10
        boxes.append(torch.cat([corner, corner + 2 + torch.rand(row % 3, 2, generator=generator) * 8], dim=1))
    mask = torch.randint(0, 3, (count, SIDE, SIDE), generator=generator).to(torch.uint8)
    mask[mask == 2] = 255
    return Batch(
        [str(i) for i in range(count)],
        torch.arange(count),
        images,
        torch.randint(3, (count,), generator=generator),
        mask if masks else None,
        boxes,
    )


def overlap(a: list[float], b: list[float], plus: int) -> float:
    w, h = min(a[2], b[2]) - max(a[0], b[0]) + plus, min(a[3], b[3]) - max(a[1], b[1]) + plus
    shared = max(w, 0) * max(h, 0)
    both = sum((c[2] - c[0] + plus) * (c[3] - c[1] + plus) for c in (a, b)) - shared
    return shared / both if both else 0.0


def regions(values: np.ndarray, threshold: float) -> list[tuple[int, list[float]]]:
    """(pixels, box) of every region above the threshold."""
    labels, _ = ndimage.label(values > threshold, np.ones((3, 3)))
    found = ndimage.find_objects(labels)
    return [(int((labels == k + 1).sum()), [x.start, y.start, x.stop, y.stop]) for k, (y, x) in enumerate(found)]


def naive_overlaps(data: Batch, sigma: float, thresholds: list[float]) -> list[dict[str, object]]:
    """For each picture with boxes: overlap at sigma, and per threshold of the largest and of the best region."""
    assert data.targets is not None and data.boxes is not None
    maps = F.interpolate(Blobs().maps(data.images), size=(SIDE, SIDE), mode="bicubic")
    rows = []
    for place, boxes in enumerate(data.boxes):
        if len(boxes) == 0:
            continue
        values = maps[place, data.targets[place]].numpy()
        scaled = (values - values.min()) / (values.max() - values.min())

        def best(box: list[float], true: Tensor = boxes) -> float:
            return max(overlap(box, other, 0) for other in true.tolist())

        def largest(found: list[tuple[int, list[float]]]) -> list[float]:
            return max(found, key=lambda own: own[0])[1] if found else [0, 0, 0, 0]

        at = [regions(scaled, np.float32(t)) for t in thresholds]
        rows.append(
            {
                "place": place,
                "sigma": best(largest(regions(values, np.float32(sigma) * values.max()))),
                "largest": [best(largest(found)) for found in at],
                "any": [max([best(box) for _, box in found], default=0.0) for found in at],
            }
        )
    return rows


def naive(data: Batch, validation: Batch) -> dict[str, float]:
    thresholds = [k / 10 for k in range(10)]
    test, val = (naive_overlaps(some, 0.15, thresholds) for some in (data, validation))

    def chosen(name: str, level: float) -> float:
        def accuracy(rows: list[dict[str, object]], t: int) -> float:
            return float(np.mean([row[name][t] >= level for row in rows]))

        best = max(range(10), key=lambda t: (accuracy(val, t), -t))
        return accuracy(test, best)

    assert data.targets is not None and data.masks is not None
    right = Blobs().logits(data.images).argmax(1) == data.targets
    located = {row["place"]: row["sigma"] > 0.5 for row in test}
    return {
        "localization/max_box_acc_50": chosen("largest", 0.5),
        "localization/max_box_acc_v2": sum(chosen("any", level) for level in (0.3, 0.5, 0.7)) / 3,
        "localization/gt_known": float(np.mean(list(located.values()))),
        "localization/top1_loc": float(np.mean([bool(right[p]) and hit for p, hit in located.items()])),
        "localization/pxap": naive_pxap(data),
    }


def naive_pxap(data: Batch) -> float:
    assert data.targets is not None and data.masks is not None
    maps = F.interpolate(Blobs().maps(data.images), size=(SIDE, SIDE), mode="bicubic")
    scores, hits = [], []
    for place, label in enumerate(data.targets.tolist()):
        values = maps[place, label]
        scaled = (values - values.min()) / (values.max() - values.min())
        kept = data.masks[place] != 255
        scores += scaled[kept].tolist()
        hits += (data.masks[place][kept] > 0).tolist()
    order = np.argsort(scores)[::-1]
    ranked = np.asarray(hits)[order]
    return float((np.cumsum(ranked) / np.arange(1, len(ranked) + 1))[ranked].sum() / ranked.sum())


def measured(data: Batch, validation: Batch | None, **options: object) -> Evaluation:
    evaluator = Localization(NAMES, **options)
    return run_suite(evaluator, Blobs(), [data], validation=None if validation is None else [validation])


@pytest.mark.parametrize("seed", [0, 1])
def test_numbers_picture_by_picture(seed: int) -> None:
    data, validation = batch(25, seed), batch(20, seed + 10)
    found = measured(data, validation, step=0.1)
    assert found.metrics == pytest.approx(naive(data, validation), abs=1e-3)
    assert found.detail["localization/gt_known"]["n"] == sum(len(boxes) > 0 for boxes in data.boxes or [])


def test_the_threshold_is_chosen_on_the_validation_split() -> None:
    """A map whose best threshold differs between the splits: the reported number is not the best of the test split."""
    evaluator = Localization(NAMES, step=0.25)
    rows = {"index": torch.arange(2), "has_box": torch.ones(2, dtype=torch.bool)}
    test = {**rows, "iou": torch.zeros(2), "iou_largest": torch.tensor([[0.9, 0, 0, 0.5], [0.9, 0, 0, 0.4]])}
    test["iou_any"] = torch.tensor([[0.9, 0, 0.6, 0.35], [0.9, 0.0, 0.6, 0]])
    val = {**rows, "iou_largest": torch.tensor([[0.0, 0, 0, 0.5], [0.0, 0, 0.4, 0.6]])}
    val["iou_any"] = torch.tensor([[0.0, 0, 0.5, 0.3], [0.0, 0, 0.5, 0.3]])
    found = evaluator.conclude(test, val)
    assert found.metrics["localization/max_box_acc_50"] == 0.5
    assert found.detail["localization/max_box_acc_50"] == {"n": 2, "n_validation": 2, "threshold": 0.75}
    detail = found.detail["localization/max_box_acc_v2"]
    assert detail["thresholds"] == {"0.3": 0.5, "0.5": 0.5, "0.7": 0.0}
    assert detail["accuracies"] == {"0.3": 1.0, "0.5": 1.0, "0.7": 1.0}
    assert found.metrics["localization/max_box_acc_v2"] == 1.0


def test_half_an_overlap_is_not_above_a_half() -> None:
    """At sigma the overlap must exceed 0.5; the MaxBoxAcc numbers must reach it."""
    rows = {
        "index": torch.arange(2),
        "has_box": torch.tensor([True, True]),
        "iou": torch.tensor([0.5, 0.51]),
        "iou_largest": torch.full((2, 100), 0.5),
        "iou_any": torch.full((2, 100), 0.5),
        "target": torch.tensor([1, 1]),
        "predicted": torch.tensor([1, 0]),
    }
    found = Localization(NAMES).conclude(rows, rows).metrics
    assert found["localization/gt_known"] == 0.5 and found["localization/top1_loc"] == 0
    assert found["localization/max_box_acc_50"] == 1
    assert found["localization/max_box_acc_v2"] == pytest.approx(2 / 3)


def test_without_validation_nothing_is_chosen() -> None:
    found = measured(batch(6, 0), None)
    assert set(found.metrics) == {f"localization/{name}" for name in ("gt_known", "top1_loc", "pxap")}
    for name in ("max_box_acc_50", "max_box_acc_v2"):
        assert "validation" in found.detail[f"localization/{name}"]["left_out"]


def test_without_masks_classes_or_boxes() -> None:
    data = batch(6, 0, masks=False)
    found = run_suite(Localization(NAMES), MapsOnly(), [data], validation=[data])
    assert found.detail["localization/pxap"] == {"left_out": "there are no masks"}
    assert found.detail["localization/top1_loc"] == {"left_out": "the model names no class"}
    data.boxes = [torch.zeros(0, 4) for _ in range(6)]
    found = run_suite(Localization(NAMES), Blobs(), [data], validation=[data])
    assert found.metrics == {}
    assert found.detail["localization/max_box_acc_50"] == {"left_out": "no picture has a box"}


def test_several_classes_a_picture_are_refused() -> None:
    data = batch(4, 0)
    data.targets = torch.zeros(4, 3)
    with pytest.raises(UserError, match="one class a picture"):
        measured(data, None)


def test_maps_that_are_not_finite_are_refused() -> None:
    data = batch(4, 0)
    data.images[1] = float("nan")
    with pytest.raises(ValueError, match="finite"):
        measured(data, None)


def test_the_best_of_several_boxes_counts() -> None:
    data = batch(1, 0)
    data.images[:] = 0
    data.images[:, :, 2:5, 1:4] = 1
    data.boxes = [torch.tensor([[0.0, 0, 2, 2], [3, 6, 11, 14], [18, 18, 20, 20]])]
    rows = Localization(NAMES).measure(Blobs(), data)
    assert rows["true_box"].tolist() == [[3, 6, 11, 14]]
    assert rows["iou"].item() == pytest.approx(overlap(rows["box"][0].tolist(), [3, 6, 11, 14], 0))
    assert rows["iou_any"].max() >= rows["iou_largest"].max() > 0.5


def test_inclusive_boxes_of_the_reference() -> None:
    """A square of 4 pixels, found exactly: the reference's second corner lies one further, its IoU counts both ends."""

    class Exact(Blobs):
        def maps(self, images: Tensor) -> Tensor:
            return images

    data = batch(1, 0)
    data.images[:] = 0
    data.images[:, :, 5:9, 3:7] = 1
    data.boxes = [torch.tensor([[3.0, 5, 7, 9]])]
    plain = Localization(NAMES).measure(Exact(), data)
    wsol = Localization(NAMES, box_convention="wsol").measure(Exact(), data)
    assert plain["box"].tolist() == wsol["box"].tolist() == [[3, 5, 7, 9]]
    assert plain["iou"].item() == wsol["iou"].item() == 1
    data.boxes = [torch.tensor([[3.0, 5, 7, 6]])]
    assert Localization(NAMES).measure(Exact(), data)["iou"].item() == pytest.approx(4 / 16)
    assert Localization(NAMES, box_convention="wsol").measure(Exact(), data)["iou"].item() == pytest.approx(10 / 25)


def test_pictures_with_fewer_boxes_match_nothing_else() -> None:
    """An empty map's box is one pixel large in the reference's convention, and must not meet the filling of a table."""
    data = batch(2, 0)
    data.images[:] = 0.25  # maps of zeros
    data.boxes = [torch.tensor([[8.0, 8, 12, 12]]), torch.tensor([[6.0, 6, 9, 9], [1, 1, 4, 4]])]
    rows = Localization(NAMES, box_convention="wsol").measure(Blobs(), data)
    assert rows["box"].eq(0).all() and rows["iou"].eq(0).all() and rows["iou_largest"].eq(0).all()


def test_a_finer_grid_is_an_option() -> None:
    assert Localization(NAMES, step=0.001).measure(Blobs(), batch(2, 0))["iou_any"].shape == (2, 1000)


def test_box_accuracy_reaches_the_level() -> None:
    overlaps = torch.tensor([[0.5, 0.4], [0.6, 0.7]])
    assert box_accuracy(overlaps, 0.5).tolist() == [1.0, 0.5]


def test_failures_are_shown_first_and_nothing_twice() -> None:
    overlaps = torch.tensor([0.9, 0.1, 0.5, 0.3, 0.7, 0.2, 0.8])
    shown = choose(overlaps, 2)
    assert list(shown)[:2] == [1, 5] and list(shown)[-2:] == [0, 6] and len(shown) == 6
    assert list(shown.values()) == ["worst"] * 2 + ["random"] * 2 + ["best"] * 2
    assert choose(overlaps[:3], 2) == {1: "worst", 2: "worst", 0: "best"}
    assert choose(overlaps[:1], 2) == {0: "worst"}


def test_pictures_carry_their_numbers() -> None:
    data = batch(40, 3)

    def images(indices: list[int]) -> Tensor:
        return data.images[indices]

    found = run_suite(Localization(NAMES, step=0.1), Blobs(), [data], validation=None, images=images)
    curve, gallery = found.pictures
    assert [row["threshold"] for row in curve.rows] == pytest.approx([k / 10 for k in range(10)])
    assert len(curve.rows[0]) == 5
    overlaps = [float(row["iou"]) for row in gallery.rows]
    assert overlaps[:6] == sorted(overlaps)[:6] and max(overlaps) == overlaps[12]
    assert {row["label"] for row in gallery.rows} <= set(NAMES)
    assert all(picture.image.dtype == np.uint8 and picture.image.shape[2] == 3 for picture in found.pictures)
