"""The objects of an annotation file as Pascal VOC writes them; other sets (pets, blood cells) use the same form."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree import ElementTree as ET

from partwise.config import UserError

Box = tuple[float, float, float, float]
CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_objects(path: Path) -> list[tuple[str, Box]]:
    """Class name and box of every object, in the order of the file; the boxes of an object's parts are not among them.

    VOC counts pixels from 1 and its second corner is the last pixel of the object: the result counts from 0 and is half-open,
    `(xmin - 1, ymin - 1, xmax, ymax)`. Raises UserError, naming the file, where it cannot be read or an object is torn.
    """
    try:
        tree = ET.parse(path).getroot()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    except (ET.ParseError, ValueError) as error:
        raise UserError(f"{path}: not an annotation in XML: {error}") from error
    return [_object(path, number, element) for number, element in enumerate(tree.findall("object"), start=1)]


def _object(path: Path, number: int, element: ET.Element) -> tuple[str, Box]:
    name = (element.findtext("name") or "").strip()
    texts = [element.findtext(f"bndbox/{corner}") or "" for corner in CORNERS]
    try:
        x1, y1, x2, y2 = (float(text) for text in texts)
    except ValueError:
        x1 = y1 = x2 = y2 = math.nan
    if not name or not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise UserError(
            f"{path}: object {number} ({name or 'without a name'}); expected a name and a bndbox of numbers "
            f"{', '.join(CORNERS)}"
        )
    return name, (x1 - 1, y1 - 1, x2, y2)
