"""The radiographs source: options, splits, records, organs, landmarks, and pictures that depend on their index alone."""

from __future__ import annotations

import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.worlds.radiographs import FINDINGS, LANDMARKS, LAYERS, ORGANS, PARTS, Radiographs, Rendered
from partwise.data.worlds.recent import BLOCK

LAYER = {name: k for k, name in enumerate(LAYERS)}
AT = {name: k for k, name in enumerate(LANDMARKS)}


@pytest.fixture(scope="module")
def source() -> Radiographs:
    return Radiographs(size=48, train=40, val=20, test=20)


@pytest.fixture(scope="module")
def seen(source: Radiographs) -> Rendered:
    return source.render(range(80))


@pytest.fixture(scope="module")
def many() -> Rendered:
    """Five hundred chests, large enough to look at."""
    return Radiographs(size=64, train=500, val=0, test=0, seed=5).render(range(500))


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"size": 8}, ["size=8", "32 to 512"]),
        ({"size": "big"}, ["size=big", "whole number"]),
        ({"train": -1}, ["train=-1", "0 to"]),
        ({"pictures": 3}, ["pictures=3", "1 to 2"]),
        ({"seed": True}, ["seed=True", "whole number"]),
        ({"classes": "organ"}, ["classes=organ", "findings or organs", "nearest: organs"]),
        ({"version": 2}, ["version=2", "expected 1"]),
        ({"train": 0, "val": 0, "test": 0}, ["all 0", "at least one"]),
    ],
)
def test_wrong_options_are_named(options: dict[str, int], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Radiographs(**options)
    for part in parts:
        assert part in str(error.value)


def test_options_may_be_text(source: Radiographs) -> None:
    text = Radiographs(size="48", train="40", val="20", test="20", pictures="1", classes="findings")
    assert text.fingerprint() == source.fingerprint()


def test_records(source: Radiographs) -> None:
    assert (source.classes, source.channels, source.image_size) == (FINDINGS, 1, (48, 48))
    assert source.landmark_names == LANDMARKS
    assert Counter(record.split for record in source.records) == {"train": 40, "val": 20, "test": 20}
    assert len({record.id for record in source.records}) == len({record.group for record in source.records}) == 80
    assert all(record.has_mask for record in source.records)
    for split in ("train", "val", "test"):
        labels = Counter(record.label for record in source.records if record.split == split)
        assert set(labels) == set(range(4)) and len(set(labels.values())) == 1
    assert [record.label for record in source.records][:8] != [0, 1, 2, 3] * 2


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_picture_alone_equals_the_picture_in_any_batch(source: Radiographs, seen: Rendered) -> None:
    whole = source.images(range(len(source)))
    assert whole.dtype == torch.uint8 and whole.shape == (80, 1, 48, 48)
    for index in (0, 17, 41, 79):
        assert torch.equal(source.load_image(index), whole[index])
        alone = source.render([index])
        for name in ("images", "layers", "organs", "parts", "landmarks", "labels", "sides"):
            assert torch.equal(getattr(alone, name)[0], getattr(seen, name)[index]), name
        assert torch.equal(alone.boxes[0].nan_to_num(-1), seen.boxes[index].nan_to_num(-1))
    assert torch.equal(source.images([50, 3, 3]), whole[[50, 3, 3]])
    assert torch.equal(seen.images, whole)
    assert source.images([]).shape == (0, 1, 48, 48)


def test_pieces_change_nothing(source: Radiographs, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = source.images(range(30))
    monkeypatch.setattr("partwise.data.worlds.radiographs.CHUNK", 4)
    monkeypatch.setattr("partwise.data.worlds.radiographs_scene.PIECE", 1)
    assert torch.equal(source.images(range(30)), whole)


@pytest.mark.parametrize("size", [32, 45, 100, 256])
def test_every_size(size: int) -> None:
    source = Radiographs(size=size, train=3, val=0, test=0)
    found = source.render(range(3))
    assert found.images.shape == (3, 1, size, size)
    assert found.layers.shape == (3, len(LAYERS), size, size)
    assert torch.equal(source.images([2])[0], found.images[2])
    points = Radiographs(size=64, train=3, val=0, test=0).render(range(3)).landmarks
    assert torch.allclose(found.landmarks / size, points / 64, atol=1e-6), "the same patients at every size"


def test_pictures_differ_between_splits_and_do_not_depend_on_their_sizes(source: Radiographs, seen: Rendered) -> None:
    assert len({picture.numpy().tobytes() for picture in seen.images}) == 80
    other = Radiographs(size=48, train=10, val=30, test=5)
    assert torch.equal(other.images([3, 10, 12, 40]), seen.images[[3, 40, 42, 60]])
    assert [other.records[i].label for i in (3, 10, 12, 40)] == [source.records[i].label for i in (3, 40, 42, 60)]
    assert [other.records[i].id for i in (3, 10, 40)] == [source.records[i].id for i in (3, 40, 60)]


def test_the_seed_changes_pictures_and_labels(source: Radiographs) -> None:
    other = Radiographs(size=48, train=40, val=20, test=20, seed=1)
    assert not torch.equal(other.load_image(0), source.load_image(0))
    assert [r.label for r in other.records] != [r.label for r in source.records]
    kinds = [source, other, Radiographs(size=64, train=40, val=20, test=20)]
    kinds += [Radiographs(size=48, train=40, val=20, test=20, classes="organs")]
    assert len({kind.fingerprint() for kind in kinds}) == 4


def test_two_pictures_of_a_patient(source: Radiographs, seen: Rendered) -> None:
    twice = Radiographs(size=48, train=40, val=20, test=20, pictures=2)
    found = twice.render(range(160))
    assert torch.equal(found.images[::2], seen.images), "the first picture is the only one where there is one"
    assert (found.images[1::2] != found.images[::2]).flatten(1).any(dim=1).all()
    assert torch.equal(found.labels[1::2], found.labels[::2]) and torch.equal(found.sides[1::2], found.sides[::2])
    groups = [record.group for record in twice.records]
    assert groups[::2] == groups[1::2] and len(set(groups)) == 80

    def built(number: int) -> Tensor:
        """Proportions that neither pose nor breath changes much."""
        points = found.landmarks[number::2]
        wide = points[:, AT["left costophrenic angle"], 0] - points[:, AT["right costophrenic angle"], 0]
        high = points[:, AT["vertebra T10"], 1] - points[:, AT["vertebra T2"], 1]
        return high / wide

    same, strangers = (built(0) - built(1)).abs().mean(), (built(0) - built(1).roll(1)).abs().mean()
    assert same < 0.2 * strangers


# -- samples -----------------------------------------------------------------------------------------------------------


def test_load_gives_what_render_gives(source: Radiographs, seen: Rendered) -> None:
    for index in (0, 1, BLOCK - 1, BLOCK, 79, 5, 6, 7, 8):
        sample, record = source.load(index), source.records[index]
        assert (sample.id, sample.split, sample.label, sample.group) == (
            record.id,
            record.split,
            record.label,
            record.group,
        )
        assert torch.equal(sample.image, seen.images[index])
        assert sample.landmarks is not None and torch.equal(sample.landmarks, seen.landmarks[index])
        assert sample.parts is not None and torch.equal(sample.parts, seen.parts[index])
        there, label = seen.layers[index, LAYER["finding"]], int(seen.labels[index])
        assert label == sample.label and there.any() == (label > 0)
        assert sample.mask is not None and sample.mask.dtype == torch.uint8
        assert torch.equal(sample.mask, there * (label + 1))
        assert sample.boxes is not None and len(sample.boxes) == (label > 0)
        if label > 0:
            assert torch.equal(sample.boxes[0], seen.boxes[index, LAYER["finding"]])
    assert torch.equal(source.load(-1).image, source.load(79).image)
    with pytest.raises(IndexError):
        source.load(80)


def test_organs_as_classes(source: Radiographs, seen: Rendered) -> None:
    organs = Radiographs(size=48, train=40, val=20, test=20, classes="organs")
    assert organs.multi_label and organs.classes == ORGANS
    for index in (0, 7, 70):
        sample = organs.load(index)
        assert torch.equal(sample.image, seen.images[index]), "the same pictures"
        assert sample.label is None and sample.labels is not None and sample.labels.tolist() == [1.0] * 5
        assert sample.mask is not None and torch.equal(sample.mask, seen.organs[index])
        assert sample.boxes is not None and torch.equal(sample.boxes, seen.boxes[index, :5])
        assert set(sample.mask.unique().tolist()) == set(range(6))


def test_a_sample_may_be_changed_by_its_owner(source: Radiographs) -> None:
    for kind in (source, Radiographs(size=48, train=40, val=20, test=20, classes="organs")):
        first = kind.load(0)
        kept = first.image.clone(), first.mask.clone(), first.landmarks.clone(), first.boxes.clone()
        for changed in (first.image, first.mask, first.landmarks, first.boxes):
            changed.zero_()
        again = kind.load(0)
        for before, after in zip(kept, (again.image, again.mask, again.landmarks, again.boxes), strict=True):
            assert torch.equal(before, after)


def test_load_from_threads_and_pickle(source: Radiographs, seen: Rendered) -> None:
    order = [*range(40, 80), 3, 77, 40, *range(10)]
    with ThreadPoolExecutor(4) as pool:
        loaded = list(pool.map(source.load, order))
    assert all(torch.equal(sample.image, seen.images[index]) for index, sample in zip(order, loaded, strict=True))
    copied = pickle.loads(pickle.dumps(source))
    assert torch.equal(copied.load(33).image, seen.images[33])


# -- anatomy -----------------------------------------------------------------------------------------------------------


def test_landmarks_are_named_once_and_lie_in_the_picture(many: Rendered) -> None:
    assert len(LANDMARKS) == len(set(LANDMARKS)) == many.landmarks.shape[1] >= 30
    right = [name.removeprefix("right ") for name in LANDMARKS if name.startswith("right ")]
    assert right == [name.removeprefix("left ") for name in LANDMARKS if name.startswith("left ")]
    crowd = torch.from_numpy(Radiographs(size=64, train=6000, val=0, test=0).scene(range(6000)).landmarks)
    assert crowd.min() > 0 and crowd.max() < 64


def test_the_patients_left_is_on_the_right(many: Rendered) -> None:
    points, boxes = many.landmarks, many.boxes
    for name in LANDMARKS:
        if name.startswith("right "):
            other = AT["left " + name.removeprefix("right ")]
            assert (points[:, AT[name], 0] < points[:, other, 0]).all(), name
    middle = 0.5 * (points[:, AT["right costophrenic angle"], 0] + points[:, AT["left costophrenic angle"], 0])
    assert (points[:, AT["heart apex"], 0] > middle + 3).all()
    heart = boxes[:, LAYER["heart"]]
    assert (heart[:, 2] - middle > 1.2 * (middle - heart[:, 0])).all(), "the heart reaches further to the left"
    assert (points[:, AT["aortic knob"], 0] > middle).all()
    lower = points[:, AT["left dome top"], 1] - points[:, AT["right dome top"], 1]
    assert (lower > -1.5).all() and lower.mean() > 1.5
    higher = points[:, AT["right hilum"], 1] - points[:, AT["left hilum"], 1]
    assert higher.mean() > 0.5


def test_ribs_descend_outwards_and_follow_each_other(many: Rendered) -> None:
    for side in ("right", "left"):
        heads = many.landmarks[:, [AT[f"{side} rib {k} head"] for k in range(1, 11)]]
        bends = many.landmarks[:, [AT[f"{side} rib {k} bend"] for k in range(1, 11)]]
        tips = many.landmarks[:, [AT[f"{side} rib {k} tip"] for k in range(1, 8)]]
        assert (heads[:, 1:, 1] > heads[:, :-1, 1]).all() and (bends[:, 1:, 1] > bends[:, :-1, 1]).all()
        outward = (bends[:, :, 0] - heads[:, :, 0]) * (-1 if side == "right" else 1)
        assert (outward > 5).all()
        assert ((bends[:, :, 1] - heads[:, :, 1]).mean(0) > 1.5).all()
        assert ((tips[:, :, 1] - bends[:, :7, 1]).mean(0) > 3).all()


def test_landmarks_lie_on_their_organs(many: Rendered) -> None:
    rows = torch.arange(len(many.images))

    def near(name: str, layer: str, reach: int) -> float:
        """The share of pictures in which the layer comes within some pixels of the landmark."""
        grown = torch.nn.functional.max_pool2d(many.layers[:, [LAYER[layer]]].float(), 2 * reach + 1, 1, reach)
        x, y = many.landmarks[:, AT[name]].long().clamp(0, 63).unbind(1)
        return grown[rows, 0, y, x].mean().item()

    for side in ("right", "left"):
        assert near(f"{side} clavicle inner end", f"{side} clavicle", 1) == 1
        assert near(f"{side} clavicle outer end", f"{side} clavicle", 1) == 1
        # The angle is sharp: its tip may pass between pixels.
        for name, least in (("lung apex", 0.99), ("costophrenic angle", 0.92), ("dome top", 0.99)):
            assert near(f"{side} {name}", f"{side} lung", 2) > least, name
        for k in (2, 5, 9):
            assert near(f"{side} rib {k} bend", "ribs", 1) == 1
            assert near(f"{side} rib {k} head", "ribs", 2) > 0.95
    for name in ("heart right border", "heart left border", "heart apex", "heart base"):
        assert near(name, "heart", 1) > 0.99, name
    assert near("vertebra T6", "spine", 0) == 1
    heart = many.boxes[:, LAYER["heart"]]
    assert (heart[:, 0] - many.landmarks[:, AT["heart right border"], 0]).abs().max() < 1.5
    assert (heart[:, 2] - many.landmarks[:, AT["heart left border"], 0]).abs().max() < 1.5


def test_organs_and_parts_are_the_uppermost_layers(seen: Rendered) -> None:
    for names, shown in ((ORGANS, seen.organs), (PARTS[1:], seen.parts)):
        wanted = torch.zeros_like(shown)
        for picture in range(3):
            for y in range(48):
                for x in range(48):
                    for value, name in enumerate(names, start=1):
                        if seen.layers[picture, LAYER[name], y, x]:
                            wanted[picture, y, x] = value
        assert torch.equal(shown[:3], wanted[:3])
    assert (seen.layers[:, LAYER["left lung"]] & seen.layers[:, LAYER["heart"]]).any(), "lungs go on behind the heart"
    assert not (seen.layers[:, LAYER["left lung"]] & seen.layers[:, LAYER["right lung"]]).any()


def test_boxes_are_tight(seen: Rendered) -> None:
    for picture in range(0, 80, 7):
        for k in range(len(LAYERS)):
            rows, columns = torch.nonzero(seen.layers[picture, k], as_tuple=True)
            box = seen.boxes[picture, k]
            if len(rows) == 0:
                assert box.isnan().all()
                continue
            wanted = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            assert box.tolist() == [float(edge) for edge in wanted]


def test_lungs_are_darker_than_what_surrounds_them(many: Rendered) -> None:
    images = many.images[:, 0].float()
    lungs = many.layers[:, 0] | many.layers[:, 1]
    clear = lungs & ~many.layers[:, LAYER["heart"]] & ~many.layers[:, LAYER["finding"]]

    def mean(where: Tensor) -> Tensor:
        return (images * where).sum((1, 2)) / where.sum((1, 2))

    assert (mean(clear) + 15 < mean(many.layers[:, LAYER["heart"]])).all()
    field = clear & ~many.layers[:, LAYER["right clavicle"]] & ~many.layers[:, LAYER["left clavicle"]]
    ribs = many.layers[:, LAYER["ribs"]]
    assert (mean(field & ribs) > mean(field & ~ribs)).float().mean() > 0.9


# -- findings ----------------------------------------------------------------------------------------------------------


def test_findings_are_what_they_say(many: Rendered) -> None:
    there = many.layers[:, LAYER["finding"]]
    lungs = many.layers[:, :2]
    chest = many.landmarks[:, AT["left costophrenic angle"], 0] - many.landmarks[:, AT["right costophrenic angle"], 0]
    heart = many.landmarks[:, AT["heart left border"], 0] - many.landmarks[:, AT["heart right border"], 0]
    wide = heart / chest
    for label, name in enumerate(FINDINGS):
        own = many.labels == label
        assert own.sum() == 125
        area = there[own].flatten(1).sum(1)
        assert (area == 0).all() if name == "none" else (area >= 2).all()
        assert (wide[own] > 0.51).all() == (name == "cardiomegaly")
        assert (wide[own] < 0.51).all() == (name != "cardiomegaly")
        if name in ("nodule", "effusion"):
            sides = many.sides[own]
            assert set(sides.tolist()) == {0, 1}
            inside = (there[own] & lungs[own][torch.arange(len(sides)), sides]).flatten(1).sum(1)
            assert (inside >= 0.9 * area).all(), "on the side that is told"
        else:
            assert (many.sides[own] == -1).all()
    swollen = many.labels == FINDINGS.index("cardiomegaly")
    assert torch.equal(there[swollen], many.layers[swollen, LAYER["heart"]])
    fluid = many.labels == FINDINGS.index("effusion")
    low = many.boxes[fluid, LAYER["finding"]]
    rows, side = torch.arange(len(low)), many.sides[fluid]
    angle = many.landmarks[fluid][rows, AT["right costophrenic angle"] + side]
    assert ((low[:, 3] - angle[:, 1]).abs() < 3).all(), "down to the costophrenic angle"


def test_findings_are_seen(many: Rendered) -> None:
    """A nodule is brighter than the lung about it, a fluid brighter than the lung above it."""
    images = many.images[:, 0].float()
    for name, reach in (("nodule", 3), ("effusion", 5)):
        own = many.labels == FINDINGS.index(name)
        there = many.layers[own, LAYER["finding"]]
        near = torch.nn.functional.max_pool2d(there[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0
        lung = many.layers[own, :2].any(1) & ~many.layers[own, LAYER["heart"]]
        about = near & lung & ~there
        inside = (images[own] * there).sum((1, 2)) / there.sum((1, 2))
        outside = (images[own] * about).sum((1, 2)) / about.sum((1, 2))
        assert (inside > outside).float().mean() > 0.93, name
        assert (inside - outside).mean() > 12, name
