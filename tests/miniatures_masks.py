"""A small data set in each layout with masks or several labels a picture, made of generated pictures. Nothing is real data."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from partwise.data.palette import encode_rle, run_lengths, voc_palette
from tests.miniatures import Maker, Miniature, write_picture

Box = tuple[float, float, float, float]
VOC_NAMES = {"train": ("2007_000001", "2007_000002", "2008_000003"), "val": ("2007_000004", "2009_000005")}


def block_mask(*values: int, height: int = 24, width: int = 32, ground: int = 0) -> np.ndarray:
    """uint8 `(H, W)`: a block of each value on the ground, down the diagonal, each over the corner of the one before."""
    mask = np.full((height, width), ground, np.uint8)
    for i, value in enumerate(values):
        mask[2 + 5 * i : 10 + 5 * i, 3 + 6 * i : 12 + 6 * i] = value
    return mask


def block_box(i: int) -> Box:
    """Where block i of `block_mask` is, half-open."""
    return 3.0 + 6 * i, 2.0 + 5 * i, 12.0 + 6 * i, 10.0 + 5 * i


def write_mask(path: Path, mask: np.ndarray, *, palette: bool = False) -> Path:
    """A PNG of indices, grey or with VOC's palette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(mask)
    if palette:
        image.putpalette(voc_palette().tobytes())
    image.save(path)
    return path


def write_xml(path: Path, objects: Sequence[tuple[str, Box]]) -> Path:
    """Objects with half-open boxes as VOC writes them: pixels counted from 1, the last one included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    entries = [
        f"<object><name>{name}</name><difficult>0</difficult><bndbox><xmin>{x1 + 1:g}</xmin><ymin>{y1 + 1:g}</ymin>"
        f"<xmax>{x2:g}</xmax><ymax>{y2:g}</ymax></bndbox><part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin>"
        "<xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"
        for name, (x1, y1, x2, y2) in objects
    ]
    path.write_text(f"<annotation><filename>{path.stem}.jpg</filename>{''.join(entries)}</annotation>")
    return path


def write_lines(path: Path, lines: Sequence[str]) -> Path:
    """A text file of lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def voc(root: Path) -> Miniature:
    """`VOCdevkit/VOC2012` with boxes and masks, a picture without object, SBD's list and masks, and secret test labels."""
    top = root / "VOCdevkit" / "VOC2012"
    objects = {
        "2007_000001": ("aeroplane",),
        "2007_000002": ("person", "cat"),
        "2008_000003": ("cat", "cat"),
        "2007_000004": ("tvmonitor",),
        "2009_000005": (),
        "2010_000006": ("dog",),
    }
    numbers = {"aeroplane": 1, "cat": 8, "dog": 12, "person": 15, "tvmonitor": 20}
    for seed, (name, found) in enumerate(objects.items()):
        write_picture(top / "JPEGImages" / f"{name}.jpg", seed)
        write_xml(top / "Annotations" / f"{name}.xml", [(thing, block_box(i)) for i, thing in enumerate(found)])
        mask = block_mask(*(numbers[thing] for thing in found))
        if name == "2010_000006":
            write_mask(top / "SegmentationClassAug" / f"{name}.png", mask)
        else:
            mask[0] = 255
            write_mask(top / "SegmentationClass" / f"{name}.png", mask, palette=True)
    write_picture(top / "JPEGImages" / "2011_000007.jpg", 7)
    lists = top / "ImageSets" / "Segmentation"
    for part, names in VOC_NAMES.items():
        write_lines(lists / f"{part}.txt", names)
    write_lines(lists / "trainval.txt", [*VOC_NAMES["train"], *VOC_NAMES["val"]])
    write_lines(lists / "test.txt", ["2011_000007"])
    added = [
        f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in (*VOC_NAMES["train"], "2010_000006")
    ]
    write_lines(lists / "train_aug.txt", added)
    pictures = top / "JPEGImages"
    splits = {"train": 3, "test": 2}
    return Miniature(f"voc:{root}", root, splits, 20, pictures / "2007_000002.jpg", pictures / "2009_000005.jpg")


def voc_detection(root: Path) -> Miniature:
    """Another set in VOC's layout: no masks, classes of its own, a test list with labels."""
    for seed, (name, found) in enumerate(
        {"a": ("RBC", "WBC"), "b": ("RBC",), "c": ("Platelets",), "d": ("RBC",)}.items()
    ):
        write_picture(root / "JPEGImages" / f"{name}.jpg", seed)
        write_xml(root / "Annotations" / f"{name}.xml", [(thing, block_box(i)) for i, thing in enumerate(found)])
    for part, names in {"train": "ab", "val": "c", "test": "d", "trainval": "abc"}.items():
        write_lines(root / "ImageSets" / "Main" / f"{part}.txt", list(names))
    torn, listed = root / "JPEGImages" / "b.jpg", root / "JPEGImages" / "d.jpg"
    return Miniature(f"voc:{root}?classes=present", root, {"train": 2, "val": 1, "test": 1}, 3, torn, listed)


def _coco_annotation(
    number: int, image: int, category: int, i: int, *, crowd: bool = False, rle: str = ""
) -> dict[str, Any]:
    x1, y1, x2, y2 = block_box(i)
    segmentation: Any = [[x1, y1, x2, y1, x2, y2, x1, y2]]
    if rle:
        mask = torch.from_numpy(block_mask(*[0] * i, 1) == 1)
        segmentation = {"size": [24, 32], "counts": encode_rle(mask) if rle == "compressed" else run_lengths(mask)}
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "bbox": [x1, y1, x2 - x1, y2 - y1],
        "area": (x2 - x1) * (y2 - y1),
        "iscrowd": int(crowd),
        "segmentation": segmentation,
    }


def coco(root: Path, year: str = "2017", folder: str = "", prefix: str = "") -> Miniature:
    """COCO's layout with three classes of ids with gaps, polygons, both kinds of run lengths, a crowd, and an empty picture."""
    categories = [
        {"id": number, "name": name} for number, name in ((90, "toothbrush"), (1, "person"), (13, "stop sign"))
    ]
    pictures = {"train": (9, 25, 30), "val": (42, 73)}
    annotations = {
        "train": [
            _coco_annotation(1, 9, 1, 0),
            _coco_annotation(2, 9, 90, 1, rle="compressed"),
            _coco_annotation(3, 25, 13, 0),
            _coco_annotation(4, 25, 1, 2, crowd=True, rle="plain"),
        ],
        "val": [_coco_annotation(5, 42, 90, 0), _coco_annotation(6, 73, 1, 1)],
    }
    for part, keys in pictures.items():
        images = []
        for key in keys:
            name = f"{prefix.format(part)}{key:012d}.jpg"
            write_picture(root / folder / f"{part}{year}" / name, key)
            images.append({"id": key, "file_name": name, "height": 24, "width": 32})
        content = {"images": images[::-1], "annotations": annotations[part], "categories": categories}
        write_lines(root / "annotations" / f"instances_{part}{year}.json", [json.dumps(content)])
    train, val = (root / folder / f"{part}{year}" for part in ("train", "val"))
    torn, listed = (f"{prefix.format(part)}{key:012d}.jpg" for part, key in (("train", 25), ("val", 73)))
    return Miniature(f"coco:{root}", root, {"train": 3, "test": 2}, 3, train / torn, val / listed)


def coco_2014(root: Path) -> Miniature:
    """The names of 2014, and the pictures below `images/`."""
    return coco(root, "2014", "images", "COCO_{}2014_")


def trimap() -> np.ndarray:
    """An animal (1) with a border (3) on the ground (2)."""
    mask = np.full((24, 32), 2, np.uint8)
    mask[3:20, 5:22] = 3
    mask[5:18, 7:20] = 1
    return mask


def pets(root: Path) -> Miniature:
    """`oxford-iiit-pet` with three breeds (ids 1, 2, 6), heads for the trainval pictures."""
    top = root / "oxford-iiit-pet"
    breeds = {"Abyssinian": (1, 1), "american_bulldog": (2, 2), "Bengal": (6, 1)}
    lists: dict[str, list[str]] = {"trainval": ["# name, class, species, breed"], "test": []}
    for seed, (breed, (key, species)) in enumerate(breeds.items()):
        for i, part in ((1, "trainval"), (2, "trainval"), (10, "test")):
            name = f"{breed}_{i}"
            write_picture(top / "images" / f"{name}.jpg", 20 * seed + i)
            write_mask(top / "annotations" / "trimaps" / f"{name}.png", trimap())
            lists[part].append(f"{name} {key} {species} 1")
            if part == "trainval":
                write_xml(top / "annotations" / "xmls" / f"{name}.xml", [("cat", (8, 6, 14, 11))])
    for part, lines in lists.items():
        write_lines(top / "annotations" / f"{part}.txt", lines)
    torn, listed = top / "images" / "Bengal_2.jpg", top / "images" / "Abyssinian_10.jpg"
    return Miniature(f"pets:{root}", root, {"train": 6, "test": 3}, 3, torn, listed)


def masks(root: Path) -> Miniature:
    """`images/` beside `masks/` below split folders, without a list of classes; values 3 and 7 occur."""
    content = {"train": ((3,), (3, 7), ()), "valid": ((7,),), "test": ((3,), (7, 255))}
    for part, pictures in content.items():
        for i, values in enumerate(pictures):
            write_picture(root / part / "images" / "deep" / f"{i}.jpg", 10 * len(part) + i)
            write_mask(root / part / "masks" / "deep" / f"{i}.png", block_mask(*values), palette=bool(i))
    torn = root / "train" / "images" / "deep" / "1.jpg"
    return Miniature(f"masks:{root}", root, {"train": 3, "val": 1, "test": 2}, 2, torn)


def masks_flat(root: Path) -> Miniature:
    """`images/` beside `masks/` with `classes.txt`; a class of it does not occur."""
    for i, values in enumerate(((1,), (1, 2), (2,))):
        write_picture(root / "images" / f"{i}.png", i)
        write_mask(root / "masks" / f"{i}.png", block_mask(*values))
    write_lines(root / "classes.txt", ["background", "leaf", "stem", "root"])
    return Miniature(f"masks:{root}", root, {"": 3}, 3, root / "images" / "0.png")


def weizmann(root: Path) -> Miniature:
    """`weizmann_horse_db` with three horses for training and two for val."""
    top = root / "weizmann_horse_db"
    lists = {"train": (1, 2, 4), "val": (3, 12)}
    for part, numbers in lists.items():
        names = [f"horse{number:03d}" for number in numbers]
        write_lines(top / "annotation" / f"{part}.txt", names)
        for number, name in zip(numbers, names, strict=True):
            write_picture(top / "horse" / f"{name}.jpg", number)
            write_mask(top / "mask" / f"{name}.png", block_mask(1))
    torn, listed = top / "horse" / "horse002.jpg", top / "horse" / "horse012.jpg"
    return Miniature(f"weizmann:{root}", root, {"train": 3, "test": 2}, 1, torn, listed)


def camvid(root: Path) -> Miniature:
    """`CamVid` as SegNet's tutorial has it, paths in the lists with a beginning of their own."""
    top = root / "CamVid"
    for part, count in {"train": 2, "val": 1, "test": 1}.items():
        lines = []
        for i in range(count):
            name = f"0001TP_00669{i}.png"
            write_picture(top / part / name, 10 * len(part) + i)
            write_mask(top / f"{part}annot" / name, block_mask(8, 11, ground=i))
            lines.append(f"/SegNet/CamVid/{part}/{name} /SegNet/CamVid/{part}annot/{name}")
        write_lines(top / f"{part}.txt", lines)
    torn, listed = top / "train" / "0001TP_006691.png", top / "val" / "0001TP_006690.png"
    return Miniature(f"camvid:{root}", root, {"train": 2, "val": 1, "test": 1}, 11, torn, listed)


MAKERS: dict[str, list[Maker]] = {
    "voc": [voc, voc_detection],
    "coco": [coco, coco_2014],
    "pets": [pets],
    "masks": [masks, masks_flat],
    "weizmann": [weizmann],
    "camvid": [camvid],
}
"""Kind -> the layouts it reads."""
