"""COCO's layout: gaps in the ids, crowds, masks drawn from polygons and run lengths, and every mistake by its file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import miniatures_masks
from tests.miniatures import Miniature, write_picture
from tests.miniatures_masks import block_box, block_mask

from partwise.config import UserError
from partwise.data.checks import check_source
from partwise.data.palette import run_lengths
from partwise.data.readers.coco_shapes import Shape, fill_polygon, fill_runs, paint, parse_shape
from partwise.data.sample import FaultySample
from partwise.data.sources import open_source


@pytest.fixture
def made(tmp_path: Path) -> Miniature:
    return miniatures_masks.coco(tmp_path / "set")


def edit(made: Miniature, change: Callable[[Any], object], part: str = "train") -> None:
    """Change the content of an annotation file."""
    path = made.root / "annotations" / f"instances_{part}2017.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def naive_fill(size: tuple[int, int], corners: np.ndarray) -> np.ndarray:
    """Each pixel's centre against each edge: odd crossings to its left are inside."""
    inside = np.zeros(size, bool)
    for row in range(size[0]):
        for column in range(size[1]):
            for (x1, y1), (x2, y2) in zip(corners.tolist(), np.roll(corners, -1, axis=0).tolist(), strict=True):
                y = row + 0.5
                if (y1 <= y) != (y2 <= y) and x1 + (y - y1) * (x2 - x1) / (y2 - y1) <= column + 0.5:
                    inside[row, column] = not inside[row, column]
    return inside


def fill(size: tuple[int, int], corners: np.ndarray) -> np.ndarray:
    mask = np.zeros(size, bool)
    window, inside = fill_polygon(size, corners)
    mask[window] = inside
    return mask


def test_classes_labels_and_boxes(made: Miniature) -> None:
    source = open_source(made.source)
    assert source.multi_label and source.classes == ("person", "stop sign", "toothbrush")  # ids 1, 13, 90
    assert [(record.id, record.labels) for record in source.records] == [
        ("train2017/000000000009.jpg", (0, 2)),
        ("train2017/000000000025.jpg", (1,)),  # the crowd of persons does not count
        ("train2017/000000000030.jpg", ()),
        ("val2017/000000000042.jpg", (2,)),
        ("val2017/000000000073.jpg", (0,)),
    ]
    assert [record.split for record in source.records] == ["train"] * 3 + ["test"] * 2
    assert source.records[0].boxes == (block_box(0), block_box(1)) and source.records[1].boxes == (block_box(0),)


def test_masks_are_drawn(made: Miniature) -> None:
    source = open_source(made.source)
    masks = [source.load(index).mask for index in range(3)]
    # block 1 covers a corner of block 0: both have the same area, and the later one is drawn over the earlier
    crowded = block_mask(2)
    crowded[12:20, 15:24] = 255  # block 2
    for mask, wanted in zip(masks, (block_mask(1, 3), crowded, block_mask()), strict=True):
        assert mask is not None and mask.dtype == torch.uint8
        assert (mask.numpy() == wanted).all()


def test_the_smaller_of_two_objects_is_seen(made: Miniature) -> None:
    small = {
        "id": 7,
        "image_id": 9,
        "category_id": 13,
        "bbox": [4, 3, 2, 2],
        "area": 4,
        "iscrowd": 0,
        "segmentation": [[4, 3, 6, 3, 6, 5, 4, 5]],
    }
    edit(made, lambda content: content["annotations"].insert(0, small))
    mask = open_source(made.source).load(0).mask
    assert mask is not None and (mask.numpy()[3:5, 4:6] == 2).all() and (mask == 2).sum() == 4


def test_an_object_on_a_crowd_is_seen(made: Miniature) -> None:
    edit(made, lambda content: content["annotations"][3].update(segmentation=[[0, 0, 32, 0, 32, 24, 0, 24]], area=1))
    mask = open_source(made.source).load(1).mask
    assert mask is not None and (mask.numpy() == block_mask(2, ground=255)).all()


def test_2014(tmp_path: Path) -> None:
    source = open_source(miniatures_masks.coco_2014(tmp_path / "set").source)
    assert source.records[0].file == "images/train2014/COCO_train2014_000000000009.jpg"


def test_two_years_are_not_guessed_between(made: Miniature) -> None:
    miniatures_masks.coco(made.root, "2014")
    with pytest.raises(UserError, match="annotations of 2 years; expected year=YEAR with one of 2014, 2017"):
        open_source(made.source)
    assert open_source(f"{made.source}?year=2014").records[0].file == "train2014/000000000009.jpg"
    with pytest.raises(UserError, match="no annotations of 2015"):
        open_source(f"{made.source}?year=2015")


def test_objects_without_area_and_without_shape(made: Miniature) -> None:
    def change(content: Any) -> None:
        content["annotations"][0].update(bbox=[3.0, 2.0, 1.0, 0.0])
        content["annotations"][2].update(segmentation=[])

    edit(made, change)
    source = open_source(made.source)
    assert source.records[0].boxes == (block_box(1),) and source.records[0].labels == (0, 2)
    assert [record.has_mask for record in source.records] == [True, False, True, True, True]
    assert source.load(1).mask is None


def test_detections_alone_have_no_masks(made: Miniature) -> None:
    for part in ("train", "val"):
        edit(made, lambda content: [entry.pop("segmentation") for entry in content["annotations"]], part)
    source = open_source(made.source)
    assert not any(record.has_mask for record in source.records) and source.load(0).boxes is not None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("categories"), "'categories'"),
        (lambda c: c["images"][0].pop("file_name"), "'file_name'"),
        (lambda c: c["annotations"][0].pop("bbox"), "without image_id, category_id and bbox"),
        (lambda c: c["annotations"][0].update(bbox=[1, 2, 3]), "annotation 1: "),
        (lambda c: c["annotations"][0].update(category_id=2), "of category 2"),
        (lambda c: c["annotations"][0].update(image_id=2), "of image 2"),
        (lambda c: c["annotations"][1].update(segmentation="0"), "annotation 2: a segmentation of type str"),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 2, 3]]), "annotation 2: "),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 2, float("nan"), 4]]), "annotation 2: a polygon that"),
        (lambda c: c["annotations"][1].update(segmentation={"counts": "0"}), "annotation 2: 'size'"),
        (lambda c: c["categories"][0].update(name="brush"), "other categories"),
    ],
)
def test_mistakes_are_named(change: Callable[[Any], object], words: str, made: Miniature) -> None:
    edit(made, change)
    with pytest.raises(UserError, match=words) as caught:
        open_source(made.source)
    assert str(caught.value).startswith(str(made.root / "annotations")) and "\n" not in str(caught.value)


def test_a_torn_file_of_annotations_is_named(made: Miniature) -> None:
    path = made.root / "annotations" / "instances_val2017.json"
    for data in (path.read_bytes()[:300], b"\xff\xfe\x00", b"[]"):
        path.write_bytes(data)
        with pytest.raises(UserError, match=r"instances_val2017\.json"):
            open_source(made.source)


def test_pictures_and_shapes_of_another_size_are_named(made: Miniature) -> None:
    write_picture(made.root / "train2017" / "000000000009.jpg", 9, height=48, width=64)
    edit(made, lambda content: content["annotations"][3]["segmentation"].update(size=[32, 24]))
    faults = [fault for fault in check_source(open_source(made.source)).faults if fault.serious]
    assert [(fault.kind, Path(fault.file).name) for fault in faults] == [
        ("unreadable", "000000000025.jpg"),
        ("wrong size", "000000000009.jpg"),
    ]
    assert "64 x 48, annotated at 32 x 24" in faults[1].detail


@pytest.mark.parametrize("counts", ["0", "~~", "P", [1, 2], [800, -32], [[768]]])
def test_torn_run_lengths_are_named(counts: Any, made: Miniature) -> None:
    edit(made, lambda content: content["annotations"][3]["segmentation"].update(counts=counts))
    source = open_source(made.source)
    with pytest.raises(FaultySample, match=r"000000000025\.jpg: .*run lengths"):
        source.load(1)


def test_the_fingerprint_follows_the_shapes(made: Miniature) -> None:
    before = open_source(made.source).fingerprint()
    edit(made, lambda content: content["annotations"][0]["segmentation"][0].extend([5, 5]), "val")
    assert open_source(made.source).fingerprint() != before


def test_polygons_against_a_naive_version() -> None:
    generator = np.random.default_rng(0)
    for _ in range(60):
        size = tuple(generator.integers(1, 14, 2).tolist())
        corners = generator.uniform(-4, 16, (int(generator.integers(1, 9)), 2)).astype(np.float32)
        if generator.random() < 0.5:
            corners = np.round(corners * 2) / 2  # edges through centres and along rows
        assert (fill(size, corners) == naive_fill(size, corners)).all()


def test_a_rectangle_of_whole_numbers_is_filled_exactly() -> None:
    assert (fill((24, 32), np.array([[3, 2], [12, 2], [12, 10], [3, 10]], np.float32)) == (block_mask(1) == 1)).all()
    assert fill((5, 5), np.array([[0, 0], [5, 0], [5, 5], [0, 5]], np.float32)).all()
    ring = np.array([[0, 0], [9, 0], [9, 9], [0, 9], [0, 0], [3, 3], [6, 3], [6, 6], [3, 6], [3, 3]], np.float32)
    assert fill((9, 9), ring).sum() == 81 - 9  # a hole, by the even-odd rule


def test_a_polygon_has_about_its_area() -> None:
    generator = np.random.default_rng(1)
    for _ in range(20):
        angles = np.sort(generator.uniform(0, 2 * np.pi, 40))
        radius = generator.uniform(30, 90, 40)
        corners = np.stack([100 + radius * np.cos(angles), 120 + radius * np.sin(angles)], axis=1).astype(np.float32)
        x, y = corners.T.astype(np.float64)
        area = abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) / 2
        assert abs(fill((240, 200), corners).sum() - area) < 0.01 * area


def test_run_lengths_against_a_naive_version() -> None:
    generator = np.random.default_rng(2)
    for _ in range(20):
        mask = generator.random(tuple(generator.integers(1, 9, 2).tolist())) < 0.5
        counts = np.array(run_lengths(torch.from_numpy(mask)))
        pixels = [value for i, count in enumerate(counts.tolist()) for value in [i % 2 == 1] * count]
        naive = np.zeros(mask.shape, bool)
        for position, value in enumerate(pixels):
            naive[position % mask.shape[0], position // mask.shape[0]] = value
        assert (fill_runs(mask.shape, counts) == naive).all() and (naive == mask).all()


def test_painting() -> None:
    square = Shape((np.array([0, 0, 3, 0, 3, 3, 0, 3], np.float32).tobytes(),))
    whole = parse_shape({"size": [4, 5], "counts": [0, 20]})
    two = parse_shape([[0, 0, 1, 0, 1, 1, 0, 1], [4, 3, 5, 3, 5, 4, 4, 4], [1, 1, 2, 2]])
    assert paint((4, 5), []).sum() == 0
    mask = paint((4, 5), [(255, whole), (7, square), (9, two)])
    assert mask.tolist() == [[9, 7, 7, 255, 255], [7, 7, 7, 255, 255], [7, 7, 7, 255, 255], [255, 255, 255, 255, 9]]


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # pycocotools 2.0.11 on numpy 2
def test_shapes_as_coco_draws_them() -> None:
    oracle = pytest.importorskip("pycocotools.mask")
    generator = np.random.default_rng(3)
    for _ in range(30):
        angles = np.sort(generator.uniform(0, 2 * np.pi, 25))
        radius = generator.uniform(20, 60, 25)
        corners = np.stack([80 + radius * np.cos(angles), 70 + radius * np.sin(angles)], axis=1).astype(np.float32)
        rle = oracle.frPyObjects([corners.ravel().tolist()], 130, 150)[0]
        theirs, ours = oracle.decode(rle).astype(bool), fill((130, 150), corners)
        # their corners are rounded to a fifth of a pixel
        assert (theirs & ours).sum() / (theirs | ours).sum() > 0.98
        shape = parse_shape({"size": [130, 150], "counts": rle["counts"].decode()})
        assert (paint((130, 150), [(1, shape)]) == theirs).all()
