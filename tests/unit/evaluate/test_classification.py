"""Every number against a plain loop over pictures."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.evaluate.classification import Classification, calibration_error, confusion_matrix
from partwise.evaluate.runner import run_suite

NAMES = tuple("abcdefgh")


class Fixed:
    """Gives the logits that were put into the pictures' first row."""

    def __init__(self, classes: tuple[str, ...] = NAMES) -> None:
        self.classes = classes

    def logits(self, images: Tensor) -> Tensor:
        return images[:, 0, 0, : len(self.classes)] * 8


def batch(count: int, classes: int = len(NAMES), targets: Tensor | None = None) -> Batch:
    generator = torch.Generator().manual_seed(count)
    images = torch.rand(count, 3, 9, 9, generator=generator)
    if targets is None:
        targets = torch.randint(classes, (count,), generator=generator)
    return Batch([str(i) for i in range(count)], torch.arange(count), images, targets)


def naive(logits: np.ndarray, targets: list[int]) -> dict[str, float]:
    right, five, loss = [], [], []
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(15)]
    for row, target in zip(logits.astype(float), targets, strict=True):
        p = np.exp(row - row.max())
        p /= p.sum()
        order = sorted(range(len(row)), key=lambda k: (-row[k], k))
        right.append(order[0] == target)
        five.append(target in order[:5])
        loss.append(-math.log(p[target]))
        for k in range(15):
            if k / 15 < p.max() <= (k + 1) / 15:
                bins[k].append((p.max(), right[-1]))
    gaps = [abs(sum(hit for _, hit in own) - sum(sure for sure, _ in own)) for own in bins]
    return {
        "classification/top1": float(np.mean(right)),
        "classification/top5": float(np.mean(five)),
        "classification/nll": float(np.mean(loss)),
        "classification/ece": sum(gaps) / len(targets),
    }


def test_numbers_picture_by_picture() -> None:
    data, model = batch(97), Fixed()
    found = run_suite(Classification(NAMES), model, [data], validation=None)
    assert data.targets is not None
    assert found.metrics == pytest.approx(naive(model.logits(data.images).numpy(), data.targets.tolist()), rel=1e-5)


def test_top5_says_nothing_below_six_classes() -> None:
    found = run_suite(Classification(NAMES[:5]), Fixed(NAMES[:5]), [batch(9, 5)], validation=None)
    assert "classification/top5" not in found.metrics
    assert found.detail["classification/top5"]["left_out"] == "there are only 5 classes"


def test_calibration_by_hand() -> None:
    """Two bins: 0.9 and 0.9 with one right, 0.35 right."""
    confidence, correct = torch.tensor([0.9, 0.9, 0.35]), torch.tensor([True, False, True])
    assert calibration_error(confidence, correct) == pytest.approx((abs(1 - 1.8) + abs(1 - 0.35)) / 3)
    assert calibration_error(torch.tensor([1.0]), torch.tensor([True])) == 0
    # A bin holds its upper end, so 0.2 and 0.1 lie apart with five bins.
    assert calibration_error(torch.tensor([0.2, 0.25]), torch.tensor([True, False]), num_bins=5) == pytest.approx(
        (0.8 + 0.25) / 2
    )


def test_confusion_counts_pairs() -> None:
    true, predicted = torch.tensor([0, 0, 2, 1, 2]), torch.tensor([0, 1, 2, 1, 0])
    assert confusion_matrix(true, predicted, 3).tolist() == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]


def test_several_labels_are_ranked_class_by_class() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = (torch.rand(30, 4, generator=generator) < 0.3).float()
    labels[:, 2] = 0
    data, model = batch(30, 4, labels), Fixed(NAMES[:4])
    found = run_suite(Classification(NAMES[:4]), model, [data], validation=None)
    each = []
    for k in (0, 1, 3):
        order = model.logits(data.images)[:, k].argsort(descending=True)
        hits = labels[order, k].numpy()
        each.append(np.mean([hits[: n + 1].mean() for n in range(30) if hits[n]]))
    assert found.metrics == pytest.approx({"classification/map": float(np.mean(each))})
    assert found.detail["classification/map"]["classes"] == 3
    assert set(found.detail["classification/map"]["each"]) == {"a", "b", "d"}


def test_no_label_at_all() -> None:
    data = batch(5, 4, torch.zeros(5, 4))
    found = run_suite(Classification(NAMES[:4]), Fixed(NAMES[:4]), [data], validation=None)
    assert found.metrics == {} and "left_out" in found.detail["classification/map"]


def test_a_model_of_other_classes_is_refused() -> None:
    with pytest.raises(UserError, match="names 8 classes, the data 3"):
        run_suite(Classification(NAMES[:3]), Fixed(), [batch(4)], validation=None)


def test_logits_that_are_not_finite_are_refused() -> None:
    data = batch(4)
    data.images[2, 0, 0, 1] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        run_suite(Classification(NAMES), Fixed(), [data], validation=None)


def test_pictures_show_the_surest_mistakes_first() -> None:
    data, model = batch(60), Fixed()

    def images(indices: list[int]) -> Tensor:
        return data.images[indices]

    found = run_suite(Classification(NAMES), model, [data], validation=None, images=images)
    confusion, worst = found.pictures
    assert sum(int(row["pictures"]) for row in confusion.rows) == 60
    probabilities = [row["probability"] for row in worst.rows]
    assert probabilities == sorted(probabilities, reverse=True) and len(probabilities) == 24
    assert data.targets is not None
    predicted = model.logits(data.images).argmax(1)
    for row in worst.rows:
        place = int(row["index"])
        assert row["label"] == NAMES[data.targets[place]] != row["prediction"] == NAMES[predicted[place]]
    assert all(picture.image.dtype == np.uint8 and picture.image.ndim == 3 for picture in found.pictures)
