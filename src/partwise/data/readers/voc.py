"""`voc:DIR`: Pascal VOC 2007 to 2012 and other sets in its layout: lists of names, boxes in XML, palette masks.

A picture's labels are the classes of the objects in its XML (`difficult` ones too), or where it has none those of its mask;
no object means no label, not a fault. A mask is the picture's file in SegmentationClass or, where that has none, in
SegmentationClassAug; stored class numbers (aeroplane 1 ... tvmonitor 20) are class index + 1, as masks are everywhere here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from partwise.config import UserError, did_you_mean
from partwise.data.readers.files import is_picture, read_lines, visible
from partwise.data.readers.masked import MaskedSource, Table, plain_table, read_values
from partwise.data.readers.voc_xml import Box, read_objects
from partwise.data.sample import VOID, Record

CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable", "dog", "horse",
    "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""In the order of the numbers in masks, from 1."""
MASKS = ("SegmentationClass", "SegmentationClassAug")
"""Where masks lie. The first has VOC's own, by which quality is reported; the second SBD's, for training."""
SETS = {"segmentation": "Segmentation", "main": "Main"}


class Voc(MaskedSource):
    """Several labels a picture; `train` is for training and the last list with labels (test, else val) is the reported one.

    Options: `set`, the folder of the lists: `segmentation` (the default where there is one) or `main`, which has more
    pictures; `train`, the list of training pictures, such as `train_aug` (SBD's) or `trainval`; `classes`, `all` (the 20) or
    `present` (those that occur, VOC's first and others in text order; masks are renumbered).
    """

    kind = "voc"
    layout = "VOCdevkit/VOC2012/ (or another year) with JPEGImages/, ImageSets/ and Annotations/ or SegmentationClass/"
    home = "Pascal VOC is to be had from the challenge's page at the University of Oxford"
    multi_label = True

    def __init__(
        self,
        path: Path,
        *,
        set: Literal["segmentation", "main"] | None = None,
        train: str = "train",
        classes: Literal["all", "present"] = "all",
    ) -> None:
        kit = path / "VOCdevkit"
        root = self.locate(kit if kit.is_dir() else path, _is_layout)
        pictures = list(_pictures(_Files(root), _lists_folder(root, set), train))
        if not pictures:
            raise self.not_found(root, "its lists name no picture")
        objects = {i: read_objects(root / picture.xml) for i, picture in enumerate(pictures) if picture.xml}
        masks = {i: picture.mask for i, picture in enumerate(pictures) if picture.mask}
        unnamed = read_values(root, {i: mask for i, mask in masks.items() if i not in objects})
        names = {i: {name for name, _ in found} for i, found in objects.items()}
        for i, labels in unnamed.labels(plain_table(len(CLASSES))).items():
            names[i] = {CLASSES[label] for label in labels}
        if classes == "all":
            _refuse_foreign(root, pictures, names)
        chosen = _present(root, names, masks) if classes == "present" else CLASSES
        number = {name: index for index, name in enumerate(chosen)}
        boxes = {i: tuple(box for _, box in found) for i, found in objects.items()}
        records = [_record(picture, names.get(i), number, boxes.get(i, ())) for i, picture in enumerate(pictures)]
        super().__init__(path, root, records, chosen, masks=masks, faulty=unnamed.faults)
        known = {CLASSES.index(name) + 1: index + 1 for name, index in number.items() if name in CLASSES}
        self._table = {0: 0, **known, VOID: VOID}

    def table(self, index: int) -> Table:
        return self._table


@dataclass(frozen=True, slots=True)
class _Picture:
    """A line of a list: files are relative to the root, `xml` and `mask` empty where there is none."""

    name: str
    split: str
    file: str
    xml: str
    mask: str


class _Files:
    """What the folders of one layout hold, each listed once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._stems: dict[str, dict[str, str]] = {}

    def find(self, folder: str, name: str) -> str:
        """`folder/NAME.suffix` below the root; empty where there is none."""
        if folder not in self._stems:
            entries = visible(self.root / folder) if (self.root / folder).is_dir() else []
            self._stems[folder] = {entry.stem: entry.name for entry in entries}
        file = self._stems[folder].get(name)
        return f"{folder}/{file}" if file else ""

    def picture(self, name: str, split: str, *, masked: bool) -> _Picture:
        """The files of a name; a picture, or with `masked` a mask, that is not there keeps its name, to be found missing."""
        mask = next((file for folder in MASKS if (file := self.find(folder, name))), "")
        if masked and not mask:
            mask = f"{MASKS[0]}/{name}.png"
        file = self.find("JPEGImages", name) or f"JPEGImages/{name}.jpg"
        return _Picture(name, split, file, self.find("Annotations", name), mask)


def _is_layout(folder: Path) -> bool:
    return (folder / "JPEGImages").is_dir() and (folder / "ImageSets").is_dir()


def _lists_folder(root: Path, chosen: str | None) -> Path:
    candidates = [root / "ImageSets" / SETS[key] for key in ([chosen] if chosen else SETS)]
    found = [folder for folder in candidates if folder.is_dir()]
    if not found:
        raise Voc.not_found(root, f"{' and '.join(f'ImageSets/{folder.name}' for folder in candidates)} is not there")
    return found[0]


def _pictures(files: _Files, lists: Path, train: str) -> Iterator[_Picture]:
    """Training pictures, then those of val and test. A test list whose labels are secret (half or more lack) is left out."""
    if not (lists / f"{train}.txt").is_file():
        known = [path.stem for path in visible(lists) if path.suffix == ".txt"]
        raise UserError(f"{lists / train}.txt: not there, but train={train} asks for it{did_you_mean(train, known)}")
    official = lists.name == SETS["segmentation"] and (files.root / MASKS[0]).is_dir()
    training, val, test = (_names(lists / f"{part}.txt") for part in (train, "val", "test"))
    tested = [files.picture(name, "test", masked=False) for name in test]
    if 2 * sum(bool(picture.mask if official else picture.xml or picture.mask) for picture in tested) <= len(tested):
        tested = []
    again = set(training).intersection(val)
    if again and not tested:
        raise UserError(
            f"{lists / train}.txt: {len(again)} of its pictures ({min(again)}, ...) are in val.txt too, which is "
            "the reported list; expected lists without a picture in common"
        )
    for name in training:
        yield files.picture(name, "train", masked=official and train in ("train", "trainval"))
    for name in val if not again else ():
        yield files.picture(name, "val" if tested else "test", masked=official)
    yield from tested


def _names(path: Path) -> list[str]:
    """The names of a list; of a line of paths (picture and mask) the name of the picture. Nothing where there is no list."""
    first = [line.split()[0] for line in read_lines(path)] if path.is_file() else []
    return [Path(word).stem if is_picture(Path(word).name) else word for word in first]


def _refuse_foreign(root: Path, pictures: list[_Picture], names: Mapping[int, set[str]]) -> None:
    for i, found in names.items():
        for name in sorted(found.difference(CLASSES)):
            raise UserError(
                f"{root / pictures[i].xml}: {name!r} is none of VOC's 20 classes{did_you_mean(name, CLASSES)}; "
                "?classes=present takes the classes that occur"
            )


def _present(root: Path, names: Mapping[int, set[str]], masks: Mapping[int, str]) -> tuple[str, ...]:
    """The classes that occur, VOC's in its order and then the others."""
    found = set().union(*names.values())
    foreign = sorted(found.difference(CLASSES))
    if foreign and masks:
        raise UserError(
            f"{root}: which number {foreign[0]!r} has in the masks is not known, it is none of VOC's 20 classes; "
            "masks of other classes: masks:DIR"
        )
    return (*(name for name in CLASSES if name in found), *foreign)


def _record(picture: _Picture, names: set[str] | None, number: Mapping[str, int], boxes: tuple[Box, ...]) -> Record:
    return Record(
        id=picture.name,
        split=picture.split,
        labels=None if names is None else tuple(sorted(number[name] for name in names)),
        boxes=boxes,
        file=picture.file,
        has_mask=bool(picture.mask),
    )
