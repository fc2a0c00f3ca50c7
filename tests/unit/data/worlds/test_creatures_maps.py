"""Masks, boxes, parts and landmarks against slow second versions and against each other."""

import numpy as np
import pytest
import torch

from partwise.data.sample import VOID
from partwise.data.worlds.creatures import LANDMARKS, PARTS, Creatures, Rendered, class_mask, tight_boxes
from partwise.data.worlds.creatures_anatomy import HEAD, ORNAMENT

COUNT = 120


@pytest.fixture(scope="module")
def seen() -> Rendered:
    return Creatures(size=64, train=COUNT, val=0, test=0).render(range(COUNT))


def random_instances(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    blobs = np.zeros((4, 9, 11), dtype=np.uint8)
    for picture in blobs:
        for number in (1, 2, 3):
            y, x = rng.integers(0, 7), rng.integers(0, 9)
            picture[y : y + rng.integers(1, 5), x : x + rng.integers(1, 5)] = number
    return blobs


@pytest.mark.parametrize("ring", [1, 2])
def test_class_mask(ring: int) -> None:
    instances = random_instances(ring)
    labels = np.array([[4, 0, 2]] * 4)
    found = class_mask(instances, labels, ring)
    for n, y, x in np.ndindex(*instances.shape):
        near = instances[n, max(0, y - ring) : y + ring + 1, max(0, x - ring) : x + ring + 1]
        own = instances[n, y, x]
        expected = VOID if near.max() > own else (0, 5, 1, 3)[own]
        assert found[n, y, x] == expected


def test_tight_boxes() -> None:
    instances = random_instances(7)
    found = tight_boxes(instances, 3)
    for n in range(4):
        for number in (1, 2, 3):
            points = [(x, y) for y, x in zip(*np.nonzero(instances[n] == number), strict=True)]
            if not points:
                assert np.isnan(found[n, number - 1]).all()
                continue
            xs, ys = zip(*points, strict=True)
            assert found[n, number - 1].tolist() == [min(xs), min(ys), max(xs) + 1, max(ys) + 1]


def test_boxes_are_the_extent_of_the_mask(seen: Rendered) -> None:
    for mask, box, label in zip(seen.masks, seen.boxes[:, 0], seen.labels[:, 0], strict=True):
        rows, columns = (mask == label + 1).nonzero(as_tuple=True)
        assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert set(mask.unique().tolist()) == {0, int(label) + 1, VOID}


def test_parts_lie_exactly_on_the_creature(seen: Rendered) -> None:
    creature = (seen.masks > 0) & (seen.masks < VOID)
    assert torch.equal(seen.parts > 0, creature)
    assert int(seen.parts.max()) == len(PARTS) - 1
    for part in range(1, len(PARTS)):
        assert ((seen.parts == part).flatten(1).any(1)).float().mean() > 0.9


def test_the_telling_part_is_always_there_and_small(seen: Rendered) -> None:
    telling = (seen.parts == ORNAMENT).flatten(1).sum(1)
    whole = (seen.parts > 0).flatten(1).sum(1)
    assert int(telling.min()) >= 12
    assert 0.08 < float((telling / whole).mean()) < 0.3


def test_creatures_fill_pictures_without_being_cut(seen: Rendered) -> None:
    box = seen.boxes[:, 0]
    longest = (box[:, 2:] - box[:, :2]).max(1).values / 64
    assert longest.min() > 0.5 and longest.max() <= 1.0
    assert float((seen.masks == VOID).float().mean()) < 0.12


def test_landmarks_lie_where_they_say(seen: Rendered) -> None:
    eye = seen.landmarks[:, 0, LANDMARKS.index("eye")]
    inside = ((eye >= 1) & (eye < 63)).all(1)
    assert inside.float().mean() > 0.9
    for index in inside.nonzero().flatten().tolist():
        x, y = (int(value) for value in eye[index])
        assert int(seen.parts[index, y, x]) in (HEAD, ORNAMENT)
    ahead = seen.landmarks[:, 0, LANDMARKS.index("shoulder"), 0] - seen.landmarks[:, 0, LANDMARKS.index("hip"), 0]
    assert torch.equal(ahead.sign().long(), seen.facing[:, 0])
    assert {1, -1} == set(seen.facing[:, 0].tolist())


def test_nobody_in_a_crowd_is_hidden() -> None:
    crowd = Creatures(size=64, train=COUNT, val=0, test=0, objects=3).render(range(COUNT))
    box = crowd.boxes[crowd.labels >= 0]
    assert not box.isnan().any()
    assert ((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).min() > 60
    assert crowd.boxes[crowd.labels < 0].isnan().all()
    assert torch.isnan(crowd.landmarks[crowd.labels < 0]).all()
