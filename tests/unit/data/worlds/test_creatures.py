"""The creatures source: options, splits, records, and pictures that depend on nothing but their index."""

import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from partwise.config import UserError
from partwise.data.worlds.creatures import LANDMARKS, Creatures
from partwise.data.worlds.creatures_species import MAX_CLASSES, SPECIES
from partwise.data.worlds.recent import BLOCK


@pytest.fixture(scope="module")
def source() -> Creatures:
    return Creatures(size=48, train=40, val=20, test=20)


@pytest.fixture(scope="module")
def crowd() -> Creatures:
    return Creatures(size=48, train=40, val=0, test=0, objects=3, classes=5)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"size": 8}, ["size=8", "32 to 512"]),
        ({"size": "big"}, ["size=big", "whole number"]),
        ({"size": 64.5}, ["size=64.5", "whole number"]),
        ({"classes": 99}, ["classes=99", f"2 to {MAX_CLASSES}"]),
        ({"train": -1}, ["train=-1", "0 to"]),
        ({"seed": True}, ["seed=True", "whole number"]),
        ({"objects": 4}, ["objects=4", "1 to 3"]),
        ({"objects": 3, "classes": 2}, ["objects=3", "classes=2"]),
        ({"version": 2}, ["version=2", "expected 1"]),
        ({"train": 0, "val": 0, "test": 0}, ["all 0", "at least one"]),
    ],
)
def test_wrong_options_are_named(options: dict[str, int], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Creatures(**options)
    for part in parts:
        assert part in str(error.value)


def test_options_may_be_text() -> None:
    assert Creatures(size="48", train="40", val="20", test="20").fingerprint() == (
        Creatures(size=48, train=40, val=20, test=20).fingerprint()
    )


def test_records(source: Creatures) -> None:
    assert Counter(record.split for record in source.records) == {"train": 40, "val": 20, "test": 20}
    assert len({record.id for record in source.records}) == 80
    assert all(record.has_mask for record in source.records)
    for split in ("train", "val", "test"):
        labels = [record.label for record in source.records if record.split == split]
        assert set(Counter(labels).values()) == {len(labels) // 10}
    assert [record.label for record in source.records][:10] != list(range(10))


def test_all_species_can_be_asked_for() -> None:
    source = Creatures(classes=MAX_CLASSES, train=MAX_CLASSES, val=0, test=0, size=32)
    assert source.classes == tuple(species.name for species in SPECIES)
    assert len(set(source.classes)) == MAX_CLASSES
    assert source.images(range(MAX_CLASSES)).float().std() > 10


def test_a_picture_alone_equals_the_picture_in_any_batch(source: Creatures) -> None:
    whole = source.images(range(len(source)))
    assert whole.dtype == torch.uint8 and whole.shape == (80, 3, 48, 48)
    for index in (0, 17, 41, 79):
        assert torch.equal(source.load_image(index), whole[index])
    assert torch.equal(source.images([50, 3, 3]), whole[[50, 3, 3]])
    assert torch.equal(source.render([7, 60]).images, whole[[7, 60]])


def test_a_crowded_picture_alone_equals_the_picture_in_any_batch(crowd: Creatures) -> None:
    whole, maps = crowd.images(range(40)), crowd.render(range(40))
    for index in (0, 11, 39):
        alone = crowd.render([index])
        assert torch.equal(alone.images[0], whole[index])
        assert torch.equal(alone.masks[0], maps.masks[index])
        assert torch.equal(alone.parts[0], maps.parts[index])
        assert torch.allclose(alone.boxes[0], maps.boxes[index], equal_nan=True)


def test_pictures_differ_between_splits_and_do_not_depend_on_their_sizes(source: Creatures) -> None:
    pictures = source.images(range(80))
    assert len({picture.numpy().tobytes() for picture in pictures}) == 80
    other = Creatures(size=48, train=10, val=30, test=5)
    assert torch.equal(other.images([3, 10, 12, 40]), pictures[[3, 40, 42, 60]])
    assert [other.records[i].label for i in (3, 10, 12, 40)] == [source.records[i].label for i in (3, 40, 42, 60)]


def test_the_seed_changes_pictures_and_labels(source: Creatures) -> None:
    other = Creatures(size=48, train=40, val=20, test=20, seed=1)
    assert not torch.equal(other.load_image(0), source.load_image(0))
    assert [r.label for r in other.records] != [r.label for r in source.records]
    assert other.fingerprint() != source.fingerprint()
    assert Creatures(size=64, train=40, val=20, test=20).fingerprint() != source.fingerprint()


def test_load_gives_what_render_gives(source: Creatures) -> None:
    seen = source.render(range(80))
    for index in (0, 1, BLOCK - 1, BLOCK, 79, 5):
        sample, record = source.load(index), source.records[index]
        assert (sample.id, sample.split, sample.label) == (record.id, record.split, record.label)
        assert torch.equal(sample.image, seen.images[index])
        assert sample.mask is not None and torch.equal(sample.mask, seen.masks[index])
        assert sample.parts is not None and torch.equal(sample.parts, seen.parts[index])
        assert sample.boxes is not None and torch.equal(sample.boxes, seen.boxes[index])
        assert sample.landmarks is not None and sample.landmarks.shape == (len(LANDMARKS), 2)
        assert sample.caption == seen.captions[index]
    assert torch.equal(source.load(-1).image, source.load(79).image)
    with pytest.raises(IndexError):
        source.load(80)


def test_a_sample_may_be_changed_by_its_owner(source: Creatures) -> None:
    first = source.load(0)
    first.image.zero_()
    assert source.load(0).image.any()


def test_load_from_threads(source: Creatures) -> None:
    order = [*range(40, 80), 3, 77, 40, *range(10)]
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(source.load, order))
    whole = source.images(range(80))
    assert all(torch.equal(sample.image, whole[index]) for index, sample in zip(order, loaded, strict=True))


def test_a_source_can_be_pickled(source: Creatures) -> None:
    source.load(0)
    copied = pickle.loads(pickle.dumps(source))
    assert torch.equal(copied.load(33).image, source.load(33).image)


def test_several_labels(crowd: Creatures) -> None:
    assert crowd.multi_label
    seen = crowd.render(range(40))
    counts = Counter()
    for index, record in enumerate(crowd.records):
        assert record.label is None and record.labels is not None
        assert set(record.labels) == {int(k) for k in seen.labels[index] if k >= 0}
        assert len(set(record.labels)) == len(record.labels)
        counts[len(record.labels)] += 1
        sample = crowd.load(index)
        assert sample.labels is not None and sample.labels.nonzero().flatten().tolist() == list(record.labels)
        assert sample.boxes is not None and len(sample.boxes) == len(record.labels)
        assert not sample.boxes.isnan().any()
        shown = set(sample.mask.unique().tolist()) - {0, 255}
        assert shown == {label + 1 for label in record.labels}
    assert set(counts) == {1, 2, 3}


def test_captions_say_what_is_seen(source: Creatures, crowd: Creatures) -> None:
    seen = source.render(range(20))
    for index, caption in enumerate(seen.captions):
        assert source.classes[int(seen.labels[index, 0])] in caption
        assert ("facing right" in caption) == (int(seen.facing[index, 0]) == 1)
        assert caption.startswith(("a ", "an ")) and " on " in caption
    three = [
        c
        for c, labels in zip(crowd.render(range(40)).captions, crowd.scene(range(40)).labels, strict=True)
        if (labels >= 0).all()
    ]
    assert three and all(c.count("creature") == 3 and ", " in c and " and " in c for c in three)
