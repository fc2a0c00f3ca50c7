"""Landmarks and masks that go with their picture into the frame, and into batches where some pictures lack them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from partwise.config import DataFields
from partwise.data.augment import Placement, fit, place, place_points
from partwise.data.loading import PictureData
from partwise.data.sample import Record, Sample, Source

NAMES = ("left eye", "right eye")


class Faces(Source):
    """Pictures of 12 x 16 with a bright pixel at the first landmark; every third has neither mask nor landmarks."""

    kind = name = "faces"
    classes = ("face",)
    landmark_names = NAMES

    def __init__(self, count: int = 30) -> None:
        splits = ["train"] * (count - 10) + ["val"] * 4 + ["test"] * 6
        self.records = [
            Record(id=f"f{i}", split=splits[i], label=0, has_mask=i % 3 > 0, group=f"g{i}") for i in range(count)
        ]

    def load_image(self, index: int) -> Tensor:
        image = torch.zeros(3, 12, 16, dtype=torch.uint8)
        image[:, 2 + index % 8, 3 + index % 5] = 255
        return image

    def load(self, index: int) -> Sample:
        plain = super().load(index)
        if index % 3 == 0:
            return plain
        points = torch.tensor([[3.5 + index % 5, 2.5 + index % 8], [15.0, 11.0]])
        mask = torch.ones(12, 16, dtype=torch.uint8)
        return Sample(id=plain.id, image=plain.image, label=0, landmarks=points, mask=mask)


@pytest.mark.parametrize("flip", [False, True])
def test_points_move_with_their_pixel(flip: bool) -> None:
    placement = Placement((2, 1, 20, 30), (40, 60), (5, -3), flip)
    image = torch.zeros(1, 30, 40, dtype=torch.uint8)
    image[0, 12, 12] = 255
    framed = place(image, placement, 32)[0].float()
    point = place_points(torch.tensor([[12.5, 12.5]]), placement, 32)[0]
    y, x = torch.meshgrid(torch.arange(32) + 0.5, torch.arange(32) + 0.5, indexing="ij")
    centre = torch.stack([(x * framed).sum(), (y * framed).sum()]) / framed.sum()
    assert torch.allclose(point, centre, atol=0.15)


def test_points_outside_the_frame_are_unknown() -> None:
    placement = fit(40, 80, size=20, resize=20, keep_aspect=True)
    found = place_points(torch.tensor([[40.0, 20.0], [5.0, 20.0], [torch.nan, 3.0]]), placement, 20)
    assert found[0].tolist() == [10, 10] and found[1:].isnan().all()


def test_batches_with_landmarks_and_masks_of_some() -> None:
    data = PictureData(Faces(), DataFields(source="x", size=24))
    assert data.has("landmarks", "test") and not data.has("masks", "test") and data.has("masks", "test", of_some=True)
    batches = list(data.evaluation_batches("test", 4, fields=frozenset({"landmarks", "masks"})))
    index = torch.cat([batch.index for batch in batches])
    landmarks = torch.cat([batch.landmarks for batch in batches if batch.landmarks is not None])
    masks = torch.cat([batch.masks for batch in batches if batch.masks is not None])
    lacking = index % 3 == 0
    assert landmarks.shape == (6, 2, 2) and landmarks.dtype == torch.float32
    assert landmarks[lacking].isnan().all() and not landmarks[~lacking].isnan().any()
    assert masks[lacking].eq(255).all() and masks[~lacking].eq(1).all()
    for own, i in zip(landmarks[~lacking], index[~lacking].tolist(), strict=True):
        assert own[0].tolist() == pytest.approx([(3.5 + i % 5) * 24 / 16, (2.5 + i % 8) * 2])
    bare = next(iter(data.evaluation_batches("test", 4)))
    assert bare.landmarks is None and bare.masks is None


def test_sources_without_any() -> None:
    class Plain(Faces):
        landmark_names = ()

        def __init__(self) -> None:
            super().__init__()
            self.records = [Record(id=r.id, split=r.split, label=0, group=r.group) for r in self.records]

    data = PictureData(Plain(), DataFields(source="x", size=24))
    assert not data.has("landmarks", "test")
    batch = next(iter(data.evaluation_batches("test", 4, fields=frozenset({"masks"}))))
    assert batch.masks is None


def test_some_pictures_of_a_split() -> None:
    data = PictureData(Faces(), DataFields(source="x", size=24))
    chosen = [int(i) for batch in data.evaluation_batches("train", 3, most=7) for i in batch.index]
    assert len(chosen) == 7 and chosen == sorted(set(chosen)) and set(chosen) <= set(data.splits["train"].tolist())
    again = [int(i) for batch in data.evaluation_batches("train", 5, most=7) for i in batch.index]
    assert again == chosen and chosen != data.splits["train"][:7].tolist()
    assert sum(len(batch) for batch in data.evaluation_batches("train", 3, most=100)) == 20
