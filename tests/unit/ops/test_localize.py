"""Map -> box and map -> mask against naive versions and the reference code's facts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from partwise.ops.cam import normalise
from partwise.ops.localize import class_masks, grid_components, largest_boxes, relative_boxes, threshold_grid

ONE_PEAK = torch.tensor(
    [[0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.3, 0.5, 0.5, 0.5], [0.0, 0.3, 1.0, 0.7, 0.7], [0.0, 0.3, 0.5, 0.5, 0.5]]
)


def smooth(count: int, side: int, seed: int = 0) -> Tensor:
    coarse = torch.randn(count, 1, 5, 5, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=(side, side), mode="bicubic")[:, 0]


def boxes_at(scores: Tensor, thresholds: Tensor, convention: str) -> Tensor:
    found = grid_components(scores, thresholds, convention=convention)
    return largest_boxes(found, len(scores), len(thresholds), convention=convention)


def test_reference_boxes_of_a_single_peak() -> None:
    """A 4 x 5 map at thresholds 0, 0.2, ... 0.8 in both conventions."""
    reference = boxes_at(ONE_PEAK[None], threshold_grid(0.2), "wsol")[0]
    assert reference.tolist() == [[1, 1, 4, 3], [1, 1, 4, 3], [2, 1, 4, 3], [2, 2, 4, 3], [2, 2, 3, 3]]
    half_open = boxes_at(ONE_PEAK[None], threshold_grid(0.2), "continuous")[0]
    assert half_open.tolist() == [[1, 1, 5, 4], [1, 1, 5, 4], [2, 1, 5, 4], [2, 2, 5, 3], [2, 2, 3, 3]]


def test_largest_by_contour_area_in_the_reference() -> None:
    """A line of five pixels encloses nothing: the reference prefers a corner of three, we the line."""
    scores = torch.zeros(1, 5, 6)
    scores[0, 0, 0] = scores[0, 1, 0] = scores[0, 1, 1] = 1
    scores[0, 4, 0:5] = 1
    assert boxes_at(scores, torch.tensor([0.5]), "wsol")[0, 0].tolist() == [0, 0, 2, 2]
    assert boxes_at(scores, torch.tensor([0.5]), "continuous")[0, 0].tolist() == [0, 4, 5, 5]


@pytest.mark.parametrize("convention", ["continuous", "wsol"])
def test_a_map_of_zeros_has_no_box(convention: str) -> None:
    assert boxes_at(torch.zeros(2, 3, 3), threshold_grid(0.2), convention).eq(0).all()


@pytest.mark.parametrize("value", [float("nan"), -0.1, 1.1])
def test_scores_outside_the_unit_interval_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        grid_components(torch.full((1, 3, 3), value), threshold_grid(0.2))


@pytest.mark.parametrize("step", [0.0, -0.1, 0.6])
def test_bad_steps_are_refused(step: float) -> None:
    with pytest.raises(ValueError, match="step"):
        threshold_grid(step)


def test_grid_of_thresholds() -> None:
    assert torch.equal(threshold_grid(0.25), torch.tensor([0, 0.25, 0.5, 0.75]))
    assert len(threshold_grid(0.001)) == 1000 and threshold_grid(0.01)[-1] == torch.tensor(0.99)


def naive_largest(values: np.ndarray, threshold: float) -> list[int]:
    labels, count = ndimage.label(values > threshold, np.ones((3, 3)))
    if count == 0:
        return [0, 0, 0, 0]
    y, x = np.nonzero(labels == 1 + np.argmax([(labels == k + 1).sum() for k in range(count)]))
    return [x.min(), y.min(), x.max() + 1, y.max() + 1]


def test_largest_boxes_one_threshold_at_a_time() -> None:
    scores, thresholds = normalise(smooth(8, 14)), threshold_grid(0.1)
    found = boxes_at(scores, thresholds, "continuous")
    for picture in range(8):
        for place, threshold in enumerate(thresholds.tolist()):
            expected = naive_largest(scores[picture].numpy(), np.float32(threshold))
            assert found[picture, place].tolist() == expected


def test_relative_boxes_one_map_at_a_time() -> None:
    maps = smooth(12, 14) * 3
    for sigma in (0.15, 0.5):
        found = relative_boxes(maps, sigma=sigma)
        for picture in range(12):
            threshold = (sigma * maps[picture].max()).item()
            assert found[picture].tolist() == naive_largest(maps[picture].numpy(), threshold)


def test_relative_boxes_of_maps_without_positive_values() -> None:
    assert relative_boxes(torch.stack([torch.zeros(4, 4), -torch.rand(4, 4) - 0.1])).eq(0).all()
    assert relative_boxes(torch.ones(1, 4, 6)).tolist() == [[0, 0, 6, 4]]
    assert relative_boxes(torch.ones(1, 4, 6), convention="wsol").tolist() == [[0, 0, 5, 3]]


@pytest.mark.oracle
def test_reference_boxes_of_opencv() -> None:
    """Nearly always the box of OpenCV's largest outer contour; the exceptions are maps with holes."""
    cv2 = pytest.importorskip("cv2")
    scores, thresholds = normalise(smooth(60, 28, seed=5)), threshold_grid(0.05)
    mine = boxes_at(scores, thresholds, "wsol")
    same = []
    for picture, values in enumerate(scores.numpy()):
        eight_bit = (values * 255).astype(np.uint8)
        for place, threshold in enumerate(thresholds.tolist()):
            solid = (eight_bit > int(threshold * 255 + 1e-4)).astype(np.uint8)
            outlines, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
            x, y, w, h = cv2.boundingRect(max(outlines, key=cv2.contourArea))
            same.append(mine[picture, place].tolist() == [x, y, min(x + w, 27), min(y + h, 27)])
    assert np.mean(same) > 0.995


def test_class_masks_pixel_by_pixel() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(2, 3, 4, 5, generator=generator)
    present = torch.tensor([[True, False, True], [False, False, False]])
    for admitted in (None, present):
        found = class_masks(scores, threshold=0.5, present=admitted)
        assert found.dtype == torch.uint8
        for b, y, x in np.ndindex(2, 4, 5):
            own = {k: scores[b, k, y, x].item() for k in range(3) if admitted is None or admitted[b, k]}
            best = max(own, key=own.__getitem__, default=-1)
            assert found[b, y, x] == (best + 1 if own and own[best] > 0.5 else 0)
