"""`images:DIR`: a folder of pictures without labels, at any depth; or one picture."""

from __future__ import annotations

from pathlib import Path

from partwise.data.archives import is_archive, unpack
from partwise.data.readers.files import FileSource, is_picture, pictures_below
from partwise.data.sample import Record


class Images(FileSource):
    """Unlabelled pictures, in the order of their paths."""

    kind = "images"
    layout = (
        "a folder of pictures (jpg, png, bmp, gif, tif, webp, ppm), at any depth, an archive of one, or one picture"
    )
    home = ""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise self.not_found(path, "not there")
        if path.is_dir() or is_archive(path):
            root = path if path.is_dir() else unpack(path)
            files = pictures_below(root)
        else:
            root, files = path.parent, [path.name] if is_picture(path.name) else []
        if not files:
            raise self.not_found(path, "holds no picture")
        super().__init__(path, root, [Record(id=file, file=file) for file in files])
