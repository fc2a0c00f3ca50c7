"""Maps of pictures of every size and of every kind of classifier: one patch, one scale, one mirror image, one class at a time.

What test_mapping.py takes from the network (its own `maps`) is written out here too: blocks, cuts and the classifier.
"""

from __future__ import annotations

import math
from collections import Counter
from threading import Lock
from time import sleep
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partwise.config import DataFields
from partwise.data.loading import PictureData
from partwise.methods.ppl import picturewise
from partwise.methods.ppl.config import MapFields
from partwise.methods.ppl.mapping import Maps, ReadMaps, known_classes, maps_of, read_maps, shown_by_some
from partwise.models.patch_learning import PatchLearning
from tests.unit.methods.ppl.small import Sizes, classifier


def borders(length: int, stride: int, count: int) -> list[int]:
    """b_k = r floor(U k / n), b_0 = 0, b_n = L."""
    cells = math.ceil(length / stride)
    count = min(count, cells)
    return [stride * (cells * k // count) for k in range(count)] + [length]


def naive_branches(net: PatchLearning, image: Tensor) -> list[Tensor]:
    """What each branch makes of one picture `(1, 3, H, W)`, patches first, the whole last."""
    x = (image - net.mean) / net.std
    outputs = [x]
    for number in range(net.backbone.num_blocks):
        outputs.append(net.backbone.block(number, outputs[-1]))
    found = []
    for cut in net.active_cuts:
        features = outputs[cut.block + 1]
        left = net.backbone.stage_strides[-1] // net.backbone.stage_strides[cut.block]
        merged = torch.full_like(outputs[-1], float("nan"))
        ys, xs = (borders(side, left, cut.grid) for side in features.shape[-2:])
        for i in range(len(ys) - 1):
            for j in range(len(xs) - 1):
                patch = features[:, :, ys[i] : ys[i + 1], xs[j] : xs[j + 1]].clone()
                for number in range(cut.block + 1, net.backbone.num_blocks):
                    patch = net.backbone.block(number, patch)
                top, beside = ys[i] // left, xs[j] // left
                merged[:, :, top : top + patch.shape[2], beside : beside + patch.shape[3]] = patch
        found.append(merged)
    return [*found, outputs[-1]]


def naive_raw(net: PatchLearning, image: Tensor, half: str, k: int) -> Tensor:
    """The raw map `(h, w)` of class k: every branch by its own share of the classifier's weights."""
    branches = naive_branches(net, image)
    weight, width = net.classifier.weight[k, :, 0, 0], net.backbone.num_features
    total = torch.zeros(branches[-1].shape[-2:])
    for number, features in enumerate(branches):
        last = number + 1 == len(branches)
        if (half == "global" and not last) or (half == "patch" and last and len(branches) > 1):
            continue
        share = weight[number * width : (number + 1) * width]
        for d in range(width):
            total = total + share[d] * features[0, d]
    return total


def naive_maps(net: PatchLearning, image: Tensor, shown: list[bool], fields: MapFields, stride: int) -> list[Tensor]:
    """[strided, full] of one picture `(3, H, W)`."""
    height, width = image.shape[1:]
    grids = [(math.ceil(height / stride), math.ceil(width / stride))]
    grids.append((math.ceil(height / 16) * 16, math.ceil(width / 16) * 16))
    found = [torch.zeros(len(shown), *grids[0]), torch.zeros(len(shown), height, width)]
    for k in range(len(shown)):
        if not shown[k]:
            continue
        for number, grid in enumerate(grids):
            total = torch.zeros(grid)
            for scale in fields.scales:
                size = (max(1, round(height * scale)), max(1, round(width * scale)))
                view = F.interpolate(image[None], size=size, mode="bicubic", align_corners=False)
                plain = naive_raw(net, view, fields.half, k).clamp(min=0)
                if fields.flip:
                    plain = plain + naive_raw(net, view.flip(-1), fields.half, k).clamp(min=0).flip(-1)
                total += F.interpolate(plain[None, None], size=grid, mode="bilinear", align_corners=False)[0, 0]
            total = total[:height, :width] if number else total
            if fields.normalise == "minmax":
                total = total - total.min()
            found[number][k] = total / (total.max() + 1e-5)
    return found


@pytest.mark.parametrize("half", ["full", "global", "patch"])
@pytest.mark.parametrize(("mode", "stage", "grid"), [("ppl", 0, 2), ("ppl", 1, 3), ("epl", 0, 2), ("baseline", 0, 2)])
def test_maps_are_those_of_the_naive_version(mode: str, stage: int, grid: int, half: str) -> None:
    net = classifier(mode, signed=True, grids=(grid,))
    net.stage = stage
    fields = MapFields(scales=(1.0, 0.5, 1.5), half=half, normalise="minmax" if grid == 3 else "max")  # type: ignore[arg-type]
    images, present = torch.rand(2, 3, 21, 34), torch.tensor([[1, 0, 1], [0, 0, 1]])
    with torch.no_grad():
        found = read_maps(net, images, present, fields, stride=2)
        for row in range(2):
            expected = naive_maps(net, images[row], present[row].bool().tolist(), fields, 2)
            torch.testing.assert_close(found.strided[row], expected[0], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(found.full[row], expected[1], rtol=1e-4, atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 48), st.integers(1, 48), st.sampled_from([1, 2, 4, 8]))
def test_every_size_has_maps_that_reach_one(height: int, width: int, stride: int) -> None:
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(height * 100 + width))
    found = read_maps(classifier("epl"), image, torch.tensor([[1, 1, 0]]), MapFields(scales=(0.5, 1.0)), stride=stride)
    assert found.full.shape == (1, 3, height, width)
    assert found.strided.shape == (1, 3, math.ceil(height / stride), math.ceil(width / stride))
    for maps in found:
        top = maps.amax((2, 3))[0]
        assert ((top[:2] > 1 - 1e-3) & (top[:2] <= 1)).all() and top[2] == 0 and maps.min() >= 0


@pytest.mark.parametrize("mode", ["ppl", "epl"])
def test_a_mirrored_picture_has_mirrored_maps(mode: str) -> None:
    """Both go through the network anyway, so this holds whatever the network does; not without `flip`."""
    net, image = classifier(mode), torch.rand(1, 3, 27, 48)
    present = torch.tensor([[1, 1, 1]])
    fields = MapFields(scales=(1.0, 0.5, 1.5))
    ours, theirs = read_maps(net, image, present, fields), read_maps(net, image.flip(-1), present, fields)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.flip(-1), other, rtol=1e-4, atol=1e-5)
    single = MapFields(scales=(1.0,), flip=False)
    ours, theirs = read_maps(net, image, present, single), read_maps(net, image.flip(-1), present, single)
    assert (ours.full.flip(-1) - theirs.full).abs().max() > 1e-2


def test_what_else_is_shown_does_not_change_a_classs_map() -> None:
    net, images = classifier(), torch.rand(1, 3, 24, 24)
    alone = read_maps(net, images, torch.tensor([[0, 1, 0]]), MapFields()).full
    every = read_maps(net, images, torch.tensor([[1, 1, 1]]), MapFields()).full
    torch.testing.assert_close(alone[:, 1], every[:, 1])
    assert not alone[:, [0, 2]].any()


def test_a_picture_without_any_class_has_none_and_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    net = classifier()
    monkeypatch.setattr(net, "maps", lambda *_, **__: pytest.fail("the network was asked"))
    found = read_maps(net, torch.rand(2, 3, 20, 30), torch.zeros(2, 3), MapFields())
    assert found.full.shape == (2, 3, 20, 30) and found.strided.shape == (2, 3, 5, 8)
    assert not found.full.any() and not found.strided.any()


def test_only_the_classes_that_are_shown_are_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a large photograph of one class would take as much memory as there are classes."""
    net, present = classifier(num_classes=7), torch.zeros(2, 7)
    present[0, 2] = present[1, 5] = 1
    used = shown_by_some(present)
    assert used.tolist() == [2, 5]
    images = torch.rand(2, 3, 16, 16)
    found = maps_of(net, images, present, used, MapFields(), stride=4)
    assert found.full.shape == (2, 2, 16, 16)
    whole = read_maps(net, images, present, MapFields())
    assert torch.equal(whole.full[:, [2, 5]], found.full) and whole.full.shape == (2, 7, 16, 16)
    assert found.full[0, 0].any() and not found.full[0, 1].any()


@pytest.mark.parametrize(("height", "width"), [(5000, 5000), (5000, 1), (1, 5000), (1, 1)])
def test_the_largest_and_the_smallest_pictures_have_maps(height: int, width: int) -> None:
    fields = MapFields(scales=(1.0,), longest=64, flip=False)
    found = maps_of(
        classifier("baseline"), torch.rand(1, 3, height, width), torch.ones(1, 3), torch.tensor([1]), fields, stride=4
    )
    assert found.full.shape == (1, 1, height, width) and float(found.full.min()) >= 0 and float(found.full.max()) <= 1
    assert found.strided.shape == (1, 1, math.ceil(height / 4), math.ceil(width / 4))


def test_products_of_faulty_label_less_and_odd_pictures() -> None:
    sizes = [(1, 1), (24, 40), (24, 40), (33, 7), (24, 40), (16, 16), (8, 8)]
    labels: list[tuple[int, ...]] = [(1,), (0, 2), (), (2,), (0,), (0, 1), (1,)]
    source = Sizes(sizes, labels, broken=(4,))
    data = PictureData(source, DataFields(source="sizes:", size=16, on_fault="skip"))
    net, fields = classifier(), MapFields(scales=(1.0, 0.5))
    stage = ReadMaps("maps", net, data, fields, stride=4)
    assert stage.items() == [f"p/{n}" for n in range(6)]
    net.train()
    made = stage.compute_all(stage.items())
    assert not net.training, "maps are read with batch norm's own statistics"
    for number, products in enumerate(made):
        height, width = sizes[number]
        classes = products["classes"].tolist()
        assert {n: t.dtype for n, t in products.items()} == {
            "classes": torch.int64,
            "strided": torch.float32,
            "full": torch.float16,
        }
        if number == 4:  # cannot be read
            assert classes == [] and products["full"].shape == (0, 1, 1)
            continue
        assert tuple(classes) == labels[number]
        assert products["full"].shape == (len(classes), height, width)
        assert products["strided"].shape == (len(classes), math.ceil(height / 4), math.ceil(width / 4))
        image = source.load_image(number)[None].float() / 255
        with torch.no_grad():
            alone: Maps = read_maps(net, image, known_classes(data, [number]), fields, stride=4)
        torch.testing.assert_close(products["strided"], alone.strided[0, classes], rtol=1e-4, atol=1e-5)
    assert set(data.faults) == {"p/4.png"}
    data.close()


def test_small_pictures_are_read_side_by_side_and_large_ones_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen photographs of 5,000 px at once would take all memory."""
    monkeypatch.setattr(picturewise, "MOST_PIXELS", 100)
    source = Sizes([(8, 8), (40, 40)] * 8, [(0,)] * 16)
    data = PictureData(source, DataFields(source="sizes:", size=8, threads=4))
    stage = ReadMaps("maps", classifier(), data, MapFields(scales=(1.0,)), stride=4)
    busy: Counter[bool] = Counter()
    most: Counter[bool] = Counter()
    read, lock = stage._read, Lock()

    def watched(items: list[str], pictures: dict[str, Any]) -> dict[str, Any]:
        big = pictures[items[0]].image.shape[1] == 40
        with lock:
            busy[big] += 1
            most[big] = max(most[big], busy[big])
        sleep(0.02)
        found = read(items, pictures)
        with lock:
            busy[big] -= 1
        return found

    monkeypatch.setattr(stage, "_read", watched)
    assert len(stage.compute_all(stage.items())) == 15
    data.close()
    assert most[True] == 1 and most[False] > 1


def test_a_class_of_its_own_a_picture_counts_as_one_of_several() -> None:
    source = Sizes([(8, 8)] * 4, [(0,), (2,), (), (1,)])
    source.multi_label = False
    source.records = [
        type(r)(id=r.id, split=r.split, label=r.labels[0] if r.labels else None)  # as readers of one label a picture
        for r in source.records
    ]
    data = PictureData(source, DataFields(source="sizes:", size=8))
    assert known_classes(data, [0, 1, 2, 3]).tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]]
