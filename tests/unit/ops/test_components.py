"""Regions at all thresholds at once against one labelling for each threshold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from torch import Tensor

from partwise.ops import components as module
from partwise.ops.components import components

Region = tuple[int, int, list[float], float]


def naive(maps: Tensor, thresholds: Tensor) -> list[Region]:
    """Threshold, label, measure; every picture and threshold by itself."""
    found: list[Region] = []
    for picture, values in enumerate(maps.numpy()):
        for place, threshold in enumerate(thresholds[picture] if thresholds.ndim == 2 else thresholds):
            labels, _ = ndimage.label(values > threshold.item(), np.ones((3, 3)))
            for number, (y, x) in enumerate(ndimage.find_objects(labels), start=1):
                box = [float(x.start), float(y.start), float(x.stop), float(y.stop)]
                found.append((picture, place, box, float((labels == number).sum())))
    return found


def listed(maps: Tensor, thresholds: Tensor) -> list[Region]:
    found = components(maps, thresholds)
    columns = (found.picture.tolist(), found.threshold.tolist(), found.boxes.tolist(), found.size.tolist())
    return list(zip(*columns, strict=True))


def smooth(count: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    coarse = torch.randn(count, 1, 5, 6, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(coarse, size=size, mode="bicubic")[:, 0]


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (13, 17)])
def test_smooth_maps_and_noise(size: tuple[int, int]) -> None:
    thresholds = torch.linspace(-1, 1, 9)
    noise = torch.randn(3, *size, generator=torch.Generator().manual_seed(1))
    for maps in (smooth(3, size), noise):
        assert listed(maps, thresholds) == naive(maps, thresholds)


@settings(max_examples=60, deadline=None)
@given(arrays.arrays(np.float32, (2, 7, 6), elements=st.integers(0, 4).map(float)))
def test_plateaus(values: np.ndarray) -> None:
    """Few different values: ties everywhere, holes, diagonals, regions inside others' holes."""
    maps, thresholds = torch.from_numpy(values), torch.tensor([-1.0, 0, 0.5, 1, 1, 2, 3, 4])
    assert listed(maps, thresholds) == naive(maps, thresholds)


def test_thresholds_of_each_picture() -> None:
    maps = smooth(4, (8, 8))
    own = torch.tensor([[-0.5, 0.2], [0.0, 0.0], [5.0, 6.0], [-9.0, 0.3]])
    assert listed(maps, own) == naive(maps, own)


def test_groups_of_pictures_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    maps, thresholds = smooth(5, (8, 8)), torch.linspace(-1, 1, 5)
    together = listed(maps, thresholds)
    monkeypatch.setattr(module, "PIXELS_AT_ONCE", 130)
    assert listed(maps, thresholds) == together


@pytest.mark.parametrize(
    ("rows", "area"),
    [
        (["###", "###", "###"], 4.0),
        (["####"], 0.0),
        (["#", "#", "#"], 0.0),
        (["##", "#."], 0.5),
        (["#.#", ".#.", "#.#"], 0.0),
        ([".#.", "###", ".#."], 2.0),
        (["#..", "##.", "###"], 2.0),
    ],
)
def test_contour_areas_by_hand(rows: list[str], area: float) -> None:
    """The polygon through the centres of the border pixels, as image libraries measure contours."""
    values = torch.tensor([[cell == "#" for cell in row] for row in rows]).float()
    found = components(F.pad(values, (1, 1, 1, 1))[None], torch.tensor([0.5]), size="contour")
    assert found.size.tolist() == [area]


@pytest.mark.oracle
def test_contour_areas_of_opencv() -> None:
    cv2 = pytest.importorskip("cv2")
    maps, thresholds = smooth(6, (15, 15), seed=3), torch.linspace(-1.2, 1.2, 7)
    found = components(maps, thresholds, size="contour")
    for picture, values in enumerate(maps.numpy()):
        for place, threshold in enumerate(thresholds.tolist()):
            solid = ndimage.binary_fill_holes(values > threshold)
            if (solid != (values > threshold)).any():
                continue  # holes are taken off here, filled there
            outlines, _ = cv2.findContours(solid.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            mine = found.size[(found.picture == picture) & (found.threshold == place)]
            assert sorted(mine.tolist()) == sorted(cv2.contourArea(outline) for outline in outlines)


def test_empty_batch_and_nothing_above() -> None:
    for maps in (torch.zeros(0, 4, 4), torch.zeros(2, 4, 4)):
        found = components(maps, torch.tensor([0.0, 1.0]))
        assert found.picture.shape == (0,) and found.boxes.shape == (0, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused(value: float) -> None:
    maps = torch.zeros(1, 3, 3)
    maps[0, 1, 1] = value
    with pytest.raises(ValueError, match="not finite"):
        components(maps, torch.tensor([0.5]))


def test_falling_thresholds_are_refused() -> None:
    with pytest.raises(ValueError, match="must not fall"):
        components(torch.zeros(1, 3, 3), torch.tensor([0.5, 0.4]))
