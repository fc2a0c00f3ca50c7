"""`imagefolder:DIR`: a folder a class, below `train/`, `val/` and `test/` or directly below DIR."""

from __future__ import annotations

from pathlib import Path

from partwise.data.readers.files import SPLITS, FileSource, is_picture, pictures_below, visible
from partwise.data.sample import Record


class ImageFolder(FileSource):
    """Labelled by folder. Classes are the folders' names in text order, over all splits together."""

    kind = "imagefolder"
    layout = (
        "a folder of pictures for each class, directly or below train/, val/ and test/ (without labels: images:DIR)"
    )
    home = ""

    def __init__(self, path: Path) -> None:
        root = self.locate(path, _is_layout)
        parts = _split_folders(root) or [("", root)]
        folders = [(split, folder) for split, part in parts for folder in visible(part) if folder.is_dir()]
        classes = sorted({folder.name for _, folder in folders})
        number = {name: index for index, name in enumerate(classes)}
        records = [
            Record(id=file, split=split, label=number[folder.name], file=file)
            for split, folder in folders
            for file in (f"{folder.relative_to(root).as_posix()}/{name}" for name in pictures_below(folder))
        ]
        if not records:
            raise self.not_found(path, "holds no picture in a folder of its class")
        super().__init__(path, root, records, classes)


def _split_folders(folder: Path) -> list[tuple[str, Path]]:
    """(split, folder) for the sub-folders that are named like splits, training first."""
    found = [(SPLITS[entry.name.lower()], entry) for entry in visible(folder) if entry.name.lower() in SPLITS]
    order = ("train", "val", "test")
    return sorted((pair for pair in found if pair[1].is_dir()), key=lambda pair: order.index(pair[0]))


def _is_layout(folder: Path) -> bool:
    """Whether there are split folders, or folders with pictures directly in them (not one wrapped around the data set)."""
    return bool(_split_folders(folder)) or any(
        is_picture(file.name) for entry in visible(folder) if entry.is_dir() for file in entry.iterdir()
    )
