"""`cub:DIR`: Caltech-UCSD Birds (CUB-200-2011): 200 species, one box a picture, the official train/test split."""

from __future__ import annotations

from pathlib import Path

from partwise.config import UserError
from partwise.data.readers.files import FileSource, read_lines
from partwise.data.sample import Record

LISTS = ("images.txt", "image_class_labels.txt", "train_test_split.txt", "bounding_boxes.txt", "classes.txt")


class Cub(FileSource):
    """Pictures in the order of their paths; boxes as annotated (one leaves its picture), cut to it when loaded."""

    kind = "cub"
    layout = f"CUB_200_2011/ with images/<class>/ and {', '.join(LISTS)}"
    home = "CUB-200-2011 is to be had from the data pages of Caltech's vision group"

    def __init__(self, path: Path) -> None:
        root = self.locate(path, lambda folder: (folder / "images.txt").is_file() and (folder / "images").is_dir())
        missing = [name for name in LISTS if not (root / name).is_file()]
        if missing:
            raise self.not_found(root, f"{missing[0]} is not there")
        classes = _table(root / "classes.txt", cells=1)
        number = {key: index for index, key in enumerate(sorted(classes, key=int))}
        labels = _table(root / "image_class_labels.txt", cells=1)
        splits = _table(root / "train_test_split.txt", cells=1)
        boxes = _table(root / "bounding_boxes.txt", cells=4)
        records = []
        for key, (name,) in _table(root / "images.txt", cells=1).items():
            for listing, table in zip(LISTS[1:4], (labels, splits, boxes), strict=True):
                if key not in table:
                    raise UserError(f"{root / listing}: no line for picture {key} ({name})")
            if labels[key][0] not in number:
                raise UserError(f"{root / LISTS[1]}: picture {key} has class {labels[key][0]}, which classes.txt lacks")
            split = "train" if splits[key][0] == "1" else "test"
            box = _box(root / LISTS[3], key, boxes[key])
            file = f"images/{name}"
            records.append(Record(id=file, split=split, label=number[labels[key][0]], boxes=(box,), file=file))
        names = [classes[key][0].partition(".")[2].replace("_", " ") or classes[key][0] for key in number]
        super().__init__(path, root, sorted(records, key=lambda record: record.id), names)


def _table(path: Path, *, cells: int) -> dict[str, list[str]]:
    """Lines of a number and `cells` words. Raises UserError naming the line that is otherwise."""
    table: dict[str, list[str]] = {}
    for line in read_lines(path):
        key, *words = line.split()
        if len(words) != cells or not key.isdecimal() or key in table:
            raise UserError(f"{path}: {line!r}; expected a number of its own and {cells} more on each line")
        table[key] = words
    return table


def _box(path: Path, key: str, words: list[str]) -> tuple[float, float, float, float]:
    """x, y, width, height in pixels -> corners."""
    try:
        x, y, width, height = (float(word) for word in words)
    except ValueError as error:
        raise UserError(f"{path}: picture {key}: {' '.join(words)!r}; expected x y width height") from error
    return x, y, x + width, y + height
