"""Counting pixels against loops over them, and the sweep against thresholding again and again."""

import math

import pytest
import torch
from torch import Tensor

from partwise.ops.confusion import (
    best_class,
    class_counts,
    confusion,
    iou,
    mean_iou,
    part_histogram,
    picture_counts,
    precision_recall,
    shown_classes,
    sweep_counts,
    sweep_histogram,
)
from partwise.ops.localize import class_masks, threshold_grid

GRID = threshold_grid(0.05)


def masks(seed: int, count: int = 3, num_classes: int = 4, size: tuple[int, int] = (6, 5)) -> Tensor:
    """Masks with some void."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(num_classes + 1, (count, *size), generator=generator)
    return torch.where(mask == num_classes, 255, mask).to(torch.uint8)


def naive_confusion(truth: Tensor, predicted: Tensor, num_classes: int) -> list[list[int]]:
    table = [[0] * num_classes for _ in range(num_classes)]
    for true, found in zip(truth.flatten().tolist(), predicted.flatten().tolist(), strict=True):
        if true != 255:
            table[true][0 if found == 255 else found] += 1
    return table


# -- confusion -----------------------------------------------------------------------------------------------------------


def test_by_hand_with_void() -> None:
    """Two classes and the ground: void of the truth is dropped, void in the prediction is ground."""
    truth = torch.tensor([[[0, 0, 255], [1, 1, 2]]], dtype=torch.uint8)
    found = torch.tensor([[[0, 1, 1], [1, 255, 2]]], dtype=torch.uint8)
    matrix = confusion(truth, found, 3)
    assert matrix.tolist() == [[[1, 1, 0], [1, 1, 0], [0, 0, 1]]] and matrix.dtype == torch.int64
    counts = class_counts(matrix)
    assert counts.tolist() == [[[1, 1, 1], [2, 2, 1], [2, 2, 1]]]
    assert iou(counts)[0].tolist() == pytest.approx([1 / 3, 1 / 3, 1])
    assert mean_iou(counts)[0].item() == pytest.approx(5 / 9)
    precision, recall = precision_recall(counts)
    assert precision[0].tolist() == [0.5, 0.5, 1] and recall[0].tolist() == [0.5, 0.5, 1]


def test_two_by_two() -> None:
    """One class: TP 2, FP 1, FN 1, TN 3, and two void pixels."""
    truth = torch.tensor([[1, 1, 0, 1, 0, 0, 0, 255, 255]], dtype=torch.uint8).reshape(1, 3, 3)
    found = torch.tensor([[1, 1, 1, 0, 0, 0, 0, 1, 0]], dtype=torch.uint8).reshape(1, 3, 3)
    matrix = confusion(truth, found, 2)
    assert matrix.tolist() == [[[3, 1], [1, 2]]]
    assert iou(class_counts(matrix))[0].tolist() == pytest.approx([3 / 5, 2 / 4])
    assert [share[0, 1].item() for share in precision_recall(class_counts(matrix))] == pytest.approx([2 / 3, 2 / 3])


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_pixel_by_pixel(seed: int) -> None:
    truth, found = masks(seed), masks(seed + 10)
    matrix = confusion(truth, found, 4)
    for picture in range(3):
        assert matrix[picture].tolist() == naive_confusion(truth[picture], found[picture], 4)
    assert matrix.sum() == (truth != 255).sum()


@pytest.mark.oracle
def test_scikit_learn_agrees() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    truth, found = masks(3, size=(40, 40)), masks(4, size=(40, 40)).clamp(max=3)
    kept = truth != 255
    counts = class_counts(confusion(truth, found, 4)).sum(dim=0)
    true, predicted = truth[kept].numpy(), found[kept].numpy()
    assert iou(counts).tolist() == pytest.approx(list(metrics.jaccard_score(true, predicted, average=None)))
    for name, share in zip(("precision", "recall"), precision_recall(counts), strict=True):
        expected = getattr(metrics, f"{name}_score")(true, predicted, average=None)
        assert share.tolist() == pytest.approx(list(expected))


def test_counts_of_pictures_add_up() -> None:
    truth, found = masks(5), masks(6)
    apart = class_counts(confusion(truth, found, 4)).sum(dim=0)
    together = class_counts(confusion(truth.reshape(1, -1, 5), found.reshape(1, -1, 5), 4))[0]
    assert torch.equal(apart, together)


def test_perfect_and_empty_predictions() -> None:
    truth = masks(7)
    perfect = class_counts(confusion(truth, truth, 4)).sum(dim=0)
    assert iou(perfect).eq(1).all() and mean_iou(perfect) == 1
    assert all(share.eq(1).all() for share in precision_recall(perfect))
    empty = class_counts(confusion(truth, torch.zeros_like(truth), 4)).sum(dim=0)
    ground = ((truth == 0).sum() / (truth != 255).sum()).item()
    assert iou(empty).tolist() == pytest.approx([ground, 0, 0, 0])
    precision, recall = precision_recall(empty)
    assert precision.tolist() == pytest.approx([ground, 0, 0, 0]) and recall.tolist() == [1, 0, 0, 0]


def test_absent_classes_are_left_out_but_invented_ones_are_not() -> None:
    """Of 5 values the truth shows 0 and 1; the prediction adds 3. So 2 and 4 are in neither."""
    truth = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    found = torch.tensor([[[0, 3, 1, 1]]], dtype=torch.uint8)
    counts = class_counts(confusion(truth, found, 5))[0]
    shares = (iou(counts), *precision_recall(counts))
    for share, expected in zip(shares, ([0.5, 1, 0], [1, 1, 0], [0.5, 1, 0]), strict=True):
        assert share.isnan().tolist() == [False, False, True, False, True]
        assert share[[0, 1, 3]].tolist() == expected
    assert mean_iou(counts).item() == 0.5


def test_nothing_but_void_has_no_mean() -> None:
    void = torch.full((1, 2, 2), 255, dtype=torch.uint8)
    assert math.isnan(mean_iou(class_counts(confusion(void, torch.ones_like(void), 3))).item())


def test_values_beyond_the_classes_are_refused() -> None:
    fine, wrong = torch.zeros(1, 2, 2, dtype=torch.uint8), torch.full((1, 2, 2), 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="truth holds 3; expected below 3"):
        confusion(wrong, fine, 3)
    with pytest.raises(ValueError, match="prediction holds 3; expected below 3"):
        confusion(fine, wrong, 3)
    with pytest.raises(ValueError, match=r"truth is \(1, 2, 2\), the prediction \(1, 2, 3\)"):
        confusion(fine, torch.zeros(1, 2, 3, dtype=torch.uint8), 3)


# -- the sweep -----------------------------------------------------------------------------------------------------------


def maps(seed: int, count: int = 4, num_classes: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Scores of few values, so that many equal a threshold or one another; which classes are shown; truth of any class."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(0, 21, (count, num_classes, 7, 6), generator=generator) / 20
    scores = torch.where(torch.rand(scores.shape, generator=generator) < 0.3, GRID[3], scores)
    present = torch.rand(count, num_classes, generator=generator) < 0.5
    present[0] = False
    return scores, present, masks(seed + 1, count, num_classes + 1, (7, 6))


def true_pixels(truth: Tensor, num_classes: int) -> Tensor:
    return torch.stack([(truth == value).sum(dim=(1, 2)) for value in range(num_classes)], dim=1).int()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_pass_equals_thresholding_at_every_threshold(seed: int) -> None:
    scores, present, truth = maps(seed)
    best, which = best_class(scores, present)
    classes = shown_classes(present, 5)
    histogram = sweep_histogram(best, which, truth, GRID, classes)
    assert histogram.shape == (4, 6, 2, 21) and histogram.dtype == torch.int32
    true = true_pixels(truth, 6)
    swept = sweep_counts(histogram, classes, true)
    assert swept.shape == (20, 3, 6)
    for place, threshold in enumerate(GRID.tolist()):
        found = class_masks(scores, threshold=float(torch.tensor(threshold)), present=present)
        expected = class_counts(confusion(truth, found, 6))
        assert torch.equal(picture_counts(histogram, classes, true, place), expected)
        assert torch.equal(swept[place], expected.sum(dim=0))


def test_a_score_that_equals_the_threshold_is_ground() -> None:
    scores = torch.tensor([0.0, 0.25, 0.26, 1.0]).reshape(1, 1, 1, 4)
    truth = torch.tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    present = torch.ones(1, 1, dtype=torch.bool)
    histogram = sweep_histogram(*best_class(scores, present), truth, torch.tensor([0.0, 0.25]), torch.tensor([[1]]))
    predicted = sweep_counts(histogram, torch.tensor([[1]]), true_pixels(truth, 2))[:, 2]
    assert predicted.tolist() == [[1, 3], [2, 2]]


def test_the_highest_class_that_is_shown() -> None:
    """Class 2 scores highest but is not shown; of equal ones the first counts; a score of 0 is no class."""
    scores = torch.tensor([[0.2, 0.4, 0.0], [0.3, 0.4, 0.0], [0.9, 0.9, 0.9]]).reshape(1, 3, 1, 3)
    best, which = best_class(scores, torch.tensor([[True, True, False]]))
    assert best.flatten().tolist() == pytest.approx([0.3, 0.4, 0])
    assert which.flatten().tolist() == [2, 1, 0] and which.dtype == torch.uint8
    best, which = best_class(scores - 1, torch.ones(1, 3, dtype=torch.bool))
    assert best.eq(0).all() and which.eq(0).all()
    best, which = best_class(scores, torch.zeros(1, 3, dtype=torch.bool))
    assert best.eq(0).all() and which.eq(0).all()


def test_shown_classes_rise_and_fill_up() -> None:
    present = torch.tensor([[False, True, False, True], [False] * 4, [True, False, False, False]])
    assert shown_classes(present, 3).tolist() == [[2, 4, 0], [0, 0, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match="shows 2 classes; expected at most 1"):
        shown_classes(present, 1)
    assert shown_classes(present[:0], 2).shape == (0, 2)


def test_one_slot_is_enough_for_one_class() -> None:
    scores, _, truth = maps(4)
    present = torch.eye(5, dtype=torch.bool)[[4, 0, 2, 2]]
    wide, narrow = shown_classes(present, 5), shown_classes(present, 1)
    best, which = best_class(scores, present)
    true = true_pixels(truth, 6)
    assert torch.equal(
        sweep_counts(sweep_histogram(best, which, truth, GRID, narrow), narrow, true),
        sweep_counts(sweep_histogram(best, which, truth, GRID, wide), wide, true),
    )


def test_parts_pixel_by_pixel() -> None:
    scores, present, truth = maps(5)
    parts = torch.randint(3, truth.shape, generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    best, which = best_class(scores, present)
    histogram = part_histogram(best, which, truth, parts, GRID, num_parts=4)
    assert histogram.shape == (4, 4, 21)
    for place, threshold in enumerate(GRID):
        found = class_masks(scores, threshold=float(threshold), present=present)
        for picture in range(4):
            for part in range(4):
                own = (parts[picture] == part) & (truth[picture] != 0) & (truth[picture] != 255)
                right = own & (found[picture] == truth[picture])
                assert histogram[picture, part].sum() == own.sum()
                assert histogram[picture, part, place + 1 :].sum() == right.sum()
    with pytest.raises(ValueError, match="part 2; expected below 2"):
        part_histogram(best, which, truth, parts, GRID, num_parts=2)


@pytest.mark.gpu
def test_an_accelerator_counts_the_same() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    scores, present, truth = maps(6)

    def counted(device: str) -> list[Tensor]:
        own = present.to(device)
        best, which = best_class(scores.to(device), own)
        classes = shown_classes(own, 5)
        histogram = sweep_histogram(best, which, truth.to(device), GRID.to(device), classes)
        return [histogram, sweep_counts(histogram, classes, true_pixels(truth, 6).to(device))]

    for here, there in zip(counted("cpu"), counted("cuda"), strict=True):
        assert torch.equal(here, there.cpu())
