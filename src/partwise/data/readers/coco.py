"""`coco:DIR`: COCO 2014 or 2017 and other sets in its layout: folders of pictures beside `annotations/instances_*.json`.

Labels and boxes leave out crowds (`iscrowd`). Masks are drawn when a picture is loaded: crowds as void, then the objects,
the largest first, so that a small one on a large one is seen. Nothing else of the annotations is kept in memory.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from partwise.config import UserError
from partwise.data.headers import FaultyPicture
from partwise.data.readers.coco_shapes import Shape, paint, parse_shape
from partwise.data.readers.files import FileSource, unique_names, visible
from partwise.data.sample import VOID, Record, Sample

NAME = re.compile(r"instances_(train|val)(\w*)\.json")
SPLITS = {"train": "train", "val": "test"}
"""COCO's test labels are secret, and its validation part is what papers report."""


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object, with the ids of its picture and its class; `box` is half-open, in pixels."""

    image: int
    category: int
    box: tuple[float, float, float, float]
    area: float
    crowd: bool
    shape: Shape


class Coco(FileSource):
    """Several labels a picture, none for some; classes in the order of their ids, whose gaps (80 of 1 to 90) are closed.

    `year` chooses among several sets of annotations. Boxes without an area, of which COCO has a few, are left out.
    """

    kind = "coco"
    layout = (
        "annotations/instances_train2017.json and instances_val2017.json (or another year) beside train2017/ and val2017/ "
        "(also below images/)"
    )
    home = "COCO is to be had from its project's page, cocodataset.org"
    multi_label = True

    def __init__(self, path: Path, *, year: str = "") -> None:
        root = self.locate(path, lambda folder: bool(_annotation_files(folder)))
        parts = [_Part(root, file, match) for file, match in _choose(root, year)]
        categories = parts[0].categories
        for part in parts[1:]:
            if part.categories != categories:
                raise UserError(f"{part.file}: other categories than {parts[0].file.name} has")
        number = {key: index for index, key in enumerate(categories)}
        shaped = any(instance.shape for part in parts for found in part.instances.values() for instance in found)
        shaped = shaped and len(number) < VOID
        records: list[Record] = []
        self._instances: list[Sequence[Instance]] = []
        self._sizes: list[tuple[int, int]] = []
        for part in parts:
            for key, (name, size) in sorted(part.images.items()):
                found = part.instances.get(key, ())
                masked = shaped and all(instance.shape for instance in found)
                records.append(_record(f"{part.folder}/{name}", part.split, found, number, masked))
                self._instances.append(tuple(found))
                self._sizes.append(size)
        if not records:
            raise self.not_found(root, "its annotations name no picture")
        super().__init__(path, root, records, unique_names(list(categories.values()), list(map(str, categories))))
        self._value = {key: index + 1 for key, index in number.items()}
        self._digests = [part.digest for part in parts]

    def load(self, index: int) -> Sample:
        """The picture with labels, boxes and, if all its objects have shapes, its mask.

        Raises FaultyPicture where the picture has not the size that it was annotated at.
        """
        sample = super().load(index)
        record = self.records[index]
        height, width = self._sizes[index]
        if sample.image.shape[1:] != (height, width):
            found = f"{sample.image.shape[2]} x {sample.image.shape[1]}"
            raise FaultyPicture(record.file, "wrong size", f"{found}, annotated at {width} x {height}")
        if not record.has_mask:
            return sample
        drawn = sorted(self._instances[index], key=lambda instance: (not instance.crowd, -instance.area))
        try:
            mask = paint((height, width), [(VOID if i.crowd else self._value[i.category], i.shape) for i in drawn])
        except ValueError as error:
            raise FaultyPicture(record.file, "unreadable", f"its mask: {error}") from error
        return replace(sample, mask=torch.from_numpy(mask))

    def fingerprint(self) -> str:
        """As of other files, and over every byte of the annotations."""
        return hashlib.sha256("".join([super().fingerprint(), *self._digests]).encode()).hexdigest()[:16]


def _annotation_files(root: Path) -> list[tuple[Path, re.Match[str]]]:
    folder = root / "annotations"
    files = [(file, NAME.fullmatch(file.name)) for file in visible(folder)] if folder.is_dir() else []
    return [(file, match) for file, match in files if match]


def _choose(root: Path, year: str) -> list[tuple[Path, re.Match[str]]]:
    """The annotation files of one year, by name."""
    found = _annotation_files(root)
    years = sorted({match[2] for _, match in found})
    if (year and year not in years) or (not year and len(years) > 1):
        what = f"no annotations of {year}" if year else f"annotations of {len(years)} years"
        raise UserError(f"coco: {root}: {what}; expected year=YEAR with one of {', '.join(years)}")
    return [(file, match) for file, match in found if match[2] == (year or years[0])]


class _Part:
    """One file of annotations: `images` (id -> file name and (height, width)), `instances` by image, `categories`."""

    def __init__(self, root: Path, file: Path, match: re.Match[str]) -> None:
        self.file = file
        self.split = SPLITS[match[1]]
        name = match[1] + match[2]
        self.folder = f"images/{name}" if (root / "images" / name).is_dir() else name
        content, self.digest = _read(file)
        try:
            self.categories = dict(sorted((int(entry["id"]), str(entry["name"])) for entry in content["categories"]))
            self.images = {
                int(entry["id"]): (str(entry["file_name"]), (int(entry["height"]), int(entry["width"])))
                for entry in content["images"]
            }
            instances: list[Instance] = content["annotations"]
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{file}: not COCO's annotations of instances: {error!r}") from error
        self.instances: dict[int, list[Instance]] = defaultdict(list)
        for instance in instances:
            self._add(instance)

    def _add(self, instance: object) -> None:
        if not isinstance(instance, Instance):
            raise UserError(f"{self.file}: an annotation without image_id, category_id and bbox")
        for what, key, known in (
            ("category", instance.category, self.categories),
            ("image", instance.image, self.images),
        ):
            if key not in known:
                raise UserError(f"{self.file}: an annotation of {what} {key}, which the file does not name")
        self.instances[instance.image].append(instance)


def _read(file: Path) -> tuple[Any, str]:
    """The content of the JSON, its annotations as instances already, and a hash of its bytes."""
    try:
        data = file.read_bytes()
        return json.loads(data, object_hook=_compact), hashlib.blake2b(data, digest_size=16).hexdigest()
    except OSError as error:
        raise UserError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise UserError(f"{file}: {error}") from error


def _compact(entry: dict[str, Any]) -> Any:
    """An annotation as an `Instance` as soon as it is parsed: all lists of corners at once take three times the memory."""
    if not {"image_id", "category_id", "bbox"} <= entry.keys():
        return entry
    try:
        x, y, width, height = (float(number) for number in entry["bbox"])
        return Instance(
            image=int(entry["image_id"]),
            category=int(entry["category_id"]),
            box=(x, y, x + width, y + height),
            area=float(entry.get("area", width * height)),
            crowd=bool(entry.get("iscrowd", 0)),
            shape=parse_shape(entry.get("segmentation", [])),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"annotation {entry.get('id')}: {error}") from error


def _record(file: str, split: str, found: Sequence[Instance], number: dict[int, int], masked: bool) -> Record:
    single = [instance for instance in found if not instance.crowd]
    return Record(
        id=file,
        split=split,
        labels=tuple(sorted({number[instance.category] for instance in single})),
        boxes=tuple(i.box for i in single if i.box[0] < i.box[2] and i.box[1] < i.box[3]),
        file=file,
        has_mask=masked,
    )
