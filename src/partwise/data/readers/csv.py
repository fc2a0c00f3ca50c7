"""`csv:FILE`: pictures and labels in a table with the columns `file` and `label`, and optional others.

`label` may hold several, `;` between them; `split` is train, val or test; `group` is what a split must not cut (a person, a
slide); `mask` a file with 0 for the ground, class k as k + 1 and 255 for void; `box` is `x1 y1 x2 y2` in pixels, half-open,
several with `;` between. Files are relative to the table.
"""

from __future__ import annotations

from pathlib import Path

from partwise.config import UserError, did_you_mean, nearest
from partwise.data.readers.masked import MaskedSource
from partwise.data.readers.tables import Row, read_rows, split_of
from partwise.data.sample import Record

OPTIONAL = ("split", "group", "mask", "box")
Box = tuple[float, float, float, float]


class Csv(MaskedSource):
    """Pictures of a table; `file` and `label` name its columns where they are called otherwise.

    As soon as one row has several labels all rows are multi-label, and an empty cell means none of the classes. Without
    several an empty cell means unlabelled. Classes are in text order, or in numerical order where all are whole numbers, or
    those of `classes` (`cat;dog;emu`) in its order, and then no others.
    """

    kind = "csv"
    layout = "a comma-separated table with the columns file and label (optional: split, group, mask, box)"
    home = ""

    def __init__(self, path: Path, *, file: str = "file", label: str = "label", classes: str = "") -> None:
        if not path.is_file():
            raise self.not_found(path, "not a file" if path.exists() else "not there")
        rows = _read_rows(path, file, label)
        cells = [[part.strip() for part in row[label].split(";") if part.strip()] for _, row in rows]
        self.multi_label = any(len(parts) > 1 for parts in cells)
        names = _names(path, classes) or _in_order({part for parts in cells for part in parts})
        number = {name: index for index, name in enumerate(names)}
        records: list[Record] = []
        masks: dict[int, str] = {}
        seen: dict[str, int] = {}
        for (line, row), parts in zip(rows, cells, strict=True):
            name = row[file].strip()
            if not name:
                raise UserError(f"{path}: line {line}: column {file!r} is empty")
            if name in seen:
                raise UserError(
                    f"{path}: line {line} repeats the file of line {seen[name]} ({name}); write one row a picture, "
                    "several labels or boxes in one cell with ';' between"
                )
            seen[name] = line
            if mask := row.get("mask", "").strip():
                masks[len(records)] = mask
            labels = tuple(sorted({_number(path, line, part, number) for part in parts}))
            records.append(
                Record(
                    id=name,
                    split=split_of(path, line, row.get("split", "")),
                    label=labels[0] if labels and not self.multi_label else None,
                    labels=labels if self.multi_label else None,
                    boxes=_boxes(path, line, row.get("box", "")),
                    group=row.get("group", "").strip(),
                    file=name,
                    has_mask=bool(mask),
                )
            )
        super().__init__(path, path.parent, records, names, masks=masks)


def _read_rows(path: Path, file: str, label: str) -> list[Row]:
    """(line, row) of every row that holds something. Raises UserError for a table that is not as expected."""

    def check(columns: list[str]) -> None:
        for wanted in (file, label):
            _require(path, wanted, columns)

    _, rows = read_rows(path, check)
    if not rows:
        raise UserError(f"{path}: no row below the header; expected one for each picture")
    return rows


def _require(path: Path, wanted: str, columns: list[str]) -> None:
    if wanted in columns:
        return
    near = nearest(wanted, columns)
    hint = f"; nearest: {near!r}, say ?{'label' if wanted == 'label' else 'file'}={near}" if near else ""
    if len(columns) == 1 and any(mark in columns[0] for mark in ";\t"):
        hint = "; the cells seem to be separated by something else than commas"
    raise UserError(f"{path}: no column {wanted!r}, there are {', '.join(columns) or 'none'}{hint}")


def _names(path: Path, option: str) -> list[str]:
    """The names of the option `classes`, in its order. Raises UserError for a name that stands there twice."""
    names = [name.strip() for name in option.split(";") if name.strip()]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(f"{path}: option classes names {twice[0]!r} twice; expected classes=a;b;c, each once")
    return names


def _number(path: Path, line: int, name: str, number: dict[str, int]) -> int:
    if name not in number:
        raise UserError(
            f"{path}: line {line}: {name!r} is none of the classes {', '.join(number)}{did_you_mean(name, number)}"
        )
    return number[name]


def _in_order(names: set[str]) -> list[str]:
    try:
        return sorted(names, key=lambda name: (int(name), name))
    except ValueError:
        return sorted(names)


def _boxes(path: Path, line: int, cell: str) -> tuple[Box, ...]:
    return tuple(_box(path, line, part) for part in cell.split(";") if part.strip())


def _box(path: Path, line: int, text: str) -> Box:
    try:
        x1, y1, x2, y2 = (float(word) for word in text.split())
    except ValueError as error:
        raise UserError(f"{path}: line {line}: box {text.strip()!r}; expected x1 y1 x2 y2 in pixels") from error
    if not (x1 < x2 and y1 < y2):
        raise UserError(f"{path}: line {line}: box {text.strip()!r} is empty; expected x1 < x2 and y1 < y2")
    return x1, y1, x2, y2
