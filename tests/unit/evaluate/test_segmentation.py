"""Every number against plain loops over pictures, classes and thresholds."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.evaluate.base import Evaluation
from partwise.evaluate.runner import collect, run_suite
from partwise.evaluate.segmentation import Again, PseudoMasks, Segmentation, choose_threshold, multi_hot, part_recall
from partwise.evaluate.segmentation_pictures import worst

NAMES = ("cat", "dog", "owl")
SIDE = 12
GRID = np.arange(100) * 0.01


class Both:
    """Maps and masks are read from the picture's channels: channel k is the map of class k."""

    def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
        return images * labels[:, :, None, None]

    def segment(self, images: Tensor) -> Tensor:
        return (images[:, 0] * 3.99).floor().to(torch.uint8)

    def pseudo_mask(self, id: str) -> Tensor | None:
        generator = torch.Generator().manual_seed(int(id))
        mask = torch.randint(5, (SIDE, SIDE), generator=generator)
        return None if int(id) % 4 == 3 else torch.where(mask == 4, 255, mask).to(torch.uint8)


class MapsOnly:
    def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
        return Both().seeds(images, labels)


class MasksOnly:
    def segment(self, images: Tensor) -> Tensor:
        return Both().segment(images)


def batch(count: int, seed: int, *, several: bool = False, parts: bool = False, size: int = SIDE) -> Batch:
    """Smooth maps, and truth that follows them, with noise and a frame of void."""
    generator = torch.Generator().manual_seed(seed)
    images = F.interpolate(torch.rand(count, 3, 4, 4, generator=generator), size=(size, size), mode="bilinear")
    images = (images * 200).round() / 200
    if several:
        targets = (torch.rand(count, 3, generator=generator) < 0.5).float()
    else:
        targets = torch.randint(3, (count,), generator=generator)
    noisy = images + 0.3 * torch.rand(images.shape, generator=generator)
    shown = targets if several else F.one_hot(targets, 3).float()
    best, which = (noisy * shown[:, :, None, None]).max(dim=1)
    mask = torch.where(best > 0.7, which + 1, 0).to(torch.uint8)
    mask[:, 0] = 255
    part = torch.randint(4, mask.shape, generator=generator).to(torch.uint8) if parts else None
    index = torch.arange(count) * 2 + 1
    return Batch([str(i) for i in index.tolist()], index, images, targets, mask, None, part)


def labels_of(data: Batch, row: int) -> list[int]:
    assert data.targets is not None
    own = data.targets[row]
    return [int(own)] if own.ndim == 0 else own.nonzero()[:, 0].tolist()


def thresholded(data: Batch, row: int, threshold: float) -> np.ndarray:
    """The mask of one picture at one threshold, pixel by pixel."""
    scores = data.images[row].numpy()
    height, width = scores.shape[1:]
    mask = np.zeros((height, width), int)
    for y in range(height):
        for x in range(width):
            best = max(((scores[k, y, x], -k) for k in labels_of(data, row)), default=(0.0, 0))
            if best[0] > np.float32(threshold):
                mask[y, x] = 1 - best[1]
    return mask


def naive(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """mIoU with ground, precision and recall without, of (truth, found) masks put together."""
    truth = np.concatenate([t.ravel() for t, _ in pairs])
    found = np.concatenate([f.ravel() for _, f in pairs])
    truth, found = truth[truth != 255], np.where(found == 255, 0, found)[truth != 255]
    ious, precisions, recalls = [], [], []
    for value in range(4):
        true, own = truth == value, found == value
        if not (true | own).any():
            continue
        both = (true & own).sum()
        ious.append(both / (true | own).sum())
        if value:
            precisions.append(both / own.sum() if own.any() else 0.0)
            recalls.append(both / true.sum() if true.any() else 0.0)
    return {"miou": float(np.mean(ious)), "precision": float(np.mean(precisions)), "recall": float(np.mean(recalls))}


def truths(data: Batch) -> list[np.ndarray]:
    assert data.masks is not None
    return list(data.masks.numpy())


def at(data: Batch, threshold: float) -> dict[str, float]:
    return naive([(true, thresholded(data, row, threshold)) for row, true in enumerate(truths(data))])


def measured(data: Batch, validation: Batch | None, model: object | None = None) -> Evaluation:
    given = None if validation is None else [validation]
    return run_suite(Segmentation(NAMES), model or Both(), [data], validation=given)


@pytest.mark.parametrize("several", [False, True])
def test_numbers_pixel_by_pixel(several: bool) -> None:
    data, validation = batch(7, 0, several=several), batch(5, 1, several=several)
    found = measured(data, validation)
    scores = [at(validation, threshold)["miou"] for threshold in GRID]
    chosen = int(np.argmax(scores))
    assert 5 < chosen < 95, "the case must have a best threshold inside"
    expected = at(data, GRID[chosen])
    segmented = naive(list(zip(truths(data), Both().segment(data.images).numpy(), strict=True)))
    assert found.metrics == pytest.approx(
        {
            "segmentation/cam_miou": expected["miou"],
            "segmentation/cam_precision": expected["precision"],
            "segmentation/cam_recall": expected["recall"],
            "segmentation/miou": segmented["miou"],
        }
    )
    for name in ("cam_miou", "cam_precision", "cam_recall"):
        detail = found.detail[f"segmentation/{name}"]
        assert detail["threshold"] == pytest.approx(GRID[chosen]) and detail["chosen_on"] == "validation"
        assert detail["n"] == 7 and detail["n_validation"] == 5 and set(detail["each"]) <= set(NAMES)


def test_detail_holds_every_class_and_the_ground() -> None:
    found = measured(batch(7, 0), batch(5, 1))
    for name in ("cam_miou", "miou"):
        detail = found.detail[f"segmentation/{name}"]
        mean = (detail["ground"] + sum(detail["each"].values())) / (1 + len(detail["each"]))
        assert mean == pytest.approx(found.metrics[f"segmentation/{name}"])


def test_without_validation_the_threshold_is_fixed_and_says_so() -> None:
    data = batch(6, 2)
    found = measured(data, None)
    assert found.metrics["segmentation/cam_miou"] == pytest.approx(at(data, 0.15)["miou"])
    detail = found.detail["segmentation/cam_miou"]
    assert detail["threshold"] == 0.15 and "fixed" in detail["chosen_on"] and "n_validation" not in detail


def test_validation_of_nothing_but_void_chooses_nothing() -> None:
    empty = batch(3, 1)
    empty.masks = torch.full_like(empty.masks, 255)
    assert measured(batch(4, 2), empty).detail["segmentation/cam_miou"]["threshold"] == 0.15
    assert choose_threshold(None)[0] == 15


def test_the_lowest_of_equally_good_thresholds() -> None:
    """Maps of 0.5 inside the object and 0.1 outside: 0.10 to 0.49 are perfect."""
    data = batch(2, 3)
    data.masks[:] = 0
    data.masks[:, 3:8, 2:9] = (data.targets + 1)[:, None, None].to(torch.uint8)
    data.images = torch.where(data.masks > 0, 0.5, 0.1)[:, None].expand(-1, 3, -1, -1)
    found = measured(data, data)
    assert found.detail["segmentation/cam_miou"]["threshold"] == pytest.approx(0.1)
    assert found.metrics["segmentation/cam_miou"] == 1


def test_a_model_of_one_kind_gives_its_own_numbers() -> None:
    data = batch(4, 0)
    maps, network = measured(data, data, MapsOnly()), measured(data, data, MasksOnly())
    assert set(maps.metrics) == {f"segmentation/cam_{name}" for name in ("miou", "precision", "recall")}
    assert set(network.metrics) == {"segmentation/miou"}
    assert maps.detail["segmentation/miou"] == {"left_out": "the model segments no pictures"}
    assert network.detail["segmentation/cam_recall"] == {"left_out": "the model gives no maps"}
    with pytest.raises(UserError, match="needs a SeederOrSegmenter, and object is none"):
        measured(data, None, object())


def test_batches_of_other_sizes() -> None:
    """Pictures of native size: rows do not know it."""
    small, large = batch(3, 0), batch(2, 1, size=17)
    large = replace(large, index=large.index + 100)
    found = run_suite(Segmentation(NAMES), Both(), [small, large], validation=None)
    pairs = [(t, thresholded(data, r, 0.15)) for data in (small, large) for r, t in enumerate(truths(data))]
    assert found.metrics["segmentation/cam_miou"] == pytest.approx(naive(pairs)["miou"])


def test_void_everywhere_is_left_out() -> None:
    data = batch(2, 0)
    data.masks = torch.full_like(data.masks, 255)
    found = measured(data, None)
    assert found.metrics == {}
    assert all("left_out" in found.detail[f"segmentation/{name}"] for name in Segmentation.metrics)


def test_classes_that_are_not_shown_are_never_found() -> None:
    """A model that answers for all classes is held to those of the picture."""

    class Loud:
        def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
            return images

    data, validation = batch(5, 4), batch(5, 5)
    assert measured(data, validation, Loud()).metrics == measured(data, validation, MapsOnly()).metrics


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_maps_outside_the_unit_interval_are_refused(value: float) -> None:
    data = batch(2, 0)
    data.images[:, 1, 2, 2] = value
    data.targets[:] = 1
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        measured(data, None, MapsOnly())


def test_maps_of_another_size_are_refused() -> None:
    class Coarse:
        def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
            return images[:, :, ::2, ::2]

    with pytest.raises(ValueError, match=r"maps are \(2, 3, 6, 6\); expected \(2, 3, 12, 12\)"):
        measured(batch(2, 0), None, Coarse())


def test_more_classes_a_picture_than_are_counted_are_refused() -> None:
    names = tuple(str(k) for k in range(40))
    data = batch(2, 0)
    data.targets = torch.zeros(2, 40)
    data.targets[1, :33] = 1
    with pytest.raises(UserError, match="at most 32 classes, and one shows 33"):
        run_suite(Segmentation(names), Both(), [data], validation=None)
    data.targets[1, 5] = 0
    assert Segmentation(names).why_not(Both(), data) is None


def test_labels_of_both_kinds() -> None:
    expected = [[False, True, False], [False] * 3, [True, False, False]]
    assert multi_hot(torch.tensor([1, -1, 0]), 3).tolist() == expected
    assert multi_hot(torch.tensor(expected).float(), 3).tolist() == expected


def test_recall_of_parts() -> None:
    data = batch(6, 6, parts=True)
    found = measured(data, None)
    right, whole = np.zeros(4), np.zeros(4)
    assert data.parts is not None
    for row, true in enumerate(truths(data)):
        mask = thresholded(data, row, 0.15)
        for part in range(4):
            own = (data.parts[row].numpy() == part) & (true > 0) & (true != 255)
            right[part] += (own & (mask == true)).sum()
            whole[part] += own.sum()
    expected = {str(part): right[part] / whole[part] for part in (1, 2, 3)}
    assert found.detail["segmentation/cam_recall"]["parts"] == pytest.approx(expected)
    assert "parts" not in found.detail["segmentation/cam_miou"]
    assert part_recall(torch.zeros(2, 3, 101, dtype=torch.int32), 5) == {}


# -- pseudo masks --------------------------------------------------------------------------------------------------------


def test_pseudo_masks_pixel_by_pixel() -> None:
    data = batch(8, 0)
    found = run_suite(PseudoMasks(NAMES), Both(), [data], validation=None)
    made = [(true, Both().pseudo_mask(data.ids[row])) for row, true in enumerate(truths(data))]
    pairs = [(true, mask.numpy()) for true, mask in made if mask is not None]
    assert found.metrics == pytest.approx({"segmentation/pseudo_miou": naive(pairs)["miou"]})
    detail = found.detail["segmentation/pseudo_miou"]
    assert detail["n"] == len(pairs) == 4 and detail["without"] == 4


def test_pseudo_masks_that_nobody_made() -> None:
    class Idle:
        def pseudo_mask(self, id: str) -> Tensor | None:
            return None

    found = run_suite(PseudoMasks(NAMES), Idle(), [batch(3, 0)], validation=None)
    assert found.metrics == {}
    assert found.detail["segmentation/pseudo_miou"] == {"left_out": "no picture has a pseudo mask"}


def test_pseudo_masks_in_another_frame_are_refused() -> None:
    with pytest.raises(ValueError, match=r"1: the pseudo mask is \(12, 12\), the true one \(9, 9\)"):
        run_suite(PseudoMasks(NAMES), Both(), [batch(2, 0, size=9)], validation=None)


# -- pictures ------------------------------------------------------------------------------------------------------------


def again(data: Batch, *, without: int | None = None) -> Again:
    def take(index: int) -> Batch | None:
        rows = (data.index == index).nonzero()[:, 0]
        assert len(rows) == 1 and data.targets is not None and data.masks is not None
        if index == without:
            return None
        ids = [data.ids[row] for row in rows]
        return Batch(ids, data.index[rows], data.images[rows], data.targets[rows], data.masks[rows])

    return take


def test_the_curve_holds_every_threshold() -> None:
    data, validation = batch(5, 0), batch(4, 1)
    found = run_suite(Segmentation(NAMES), Both(), [data], validation=[validation], images=lambda indices: data.images)
    (curve,) = found.pictures
    assert [row["threshold"] for row in curve.rows] == pytest.approx(GRID.tolist())
    place = round(found.detail["segmentation/cam_miou"]["threshold"] * 100)
    assert curve.rows[place]["mean IoU"] == pytest.approx(found.metrics["segmentation/cam_miou"])
    assert curve.rows[place]["precision"] == pytest.approx(found.metrics["segmentation/cam_precision"])
    assert curve.rows[place]["recall"] == pytest.approx(found.metrics["segmentation/cam_recall"])
    assert f"{place / 100:.2f}" in curve.caption


def test_the_worst_are_shown_first_with_their_own_numbers() -> None:
    data = batch(30, 0)
    evaluator, model = Segmentation(NAMES), Both()
    rows, _ = collect(evaluator, model, [data])
    found = evaluator.conclude(rows, None)
    (picture,) = evaluator.show(model, rows, found, again(data))
    assert picture.image.dtype == np.uint8 and picture.image.shape[1] <= 900
    own = {}
    for row, true in enumerate(truths(data)):
        network = naive([(true, model.segment(data.images[row : row + 1])[0].numpy())])["miou"]
        own[int(data.index[row])] = (network, naive([(true, thresholded(data, row, 0.15))])["miou"])
    lowest = sorted(value for value, _ in own.values())[:6]
    assert [row["iou network"] for row in picture.rows] == pytest.approx(lowest, abs=1e-4)
    for row in picture.rows:
        assert (row["iou network"], row["iou maps > 0.15"]) == pytest.approx(own[int(row["index"])], abs=1e-4)
        assert row["id"] == str(row["index"])


def test_pictures_that_cannot_be_read_again_are_passed_over() -> None:
    data = batch(5, 0)
    evaluator, model = Segmentation(NAMES), MapsOnly()
    rows, _ = collect(evaluator, model, [data])
    found = evaluator.conclude(rows, None)
    (whole,) = evaluator.show(model, rows, found, again(data))
    (less,) = evaluator.show(model, rows, found, again(data, without=int(whole.rows[1]["index"])))
    assert less.rows == [whole.rows[0], *whole.rows[2:]] and less.image.shape[0] < whole.image.shape[0]


def test_worst_pseudo_masks() -> None:
    data = batch(8, 0)
    evaluator, model = PseudoMasks(NAMES), Both()
    rows, _ = collect(evaluator, model, [data])
    found = evaluator.conclude(rows, None)
    (picture,) = evaluator.show(model, rows, found, again(data))
    scores = [row["iou pseudo mask"] for row in picture.rows]
    assert len(scores) == 4 and scores == sorted(scores)
    assert all(Both().pseudo_mask(str(row["id"])) is not None for row in picture.rows)


def test_nothing_measured_is_nothing_shown() -> None:
    data = batch(2, 0)
    data.masks = torch.full_like(data.masks, 255)
    evaluator = Segmentation(NAMES)
    rows, _ = collect(evaluator, Both(), [data])
    assert evaluator.show(Both(), rows, evaluator.conclude(rows, None), again(data)) == []
    assert worst(torch.tensor([0.5, torch.nan, 0.25])).tolist() == [2, 0]
