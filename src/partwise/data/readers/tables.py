"""Comma-separated tables with a header: rows with their line numbers, and a mistake in one by its file and line."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from partwise.config import UserError, nearest
from partwise.data.readers.files import SPLITS

Row = tuple[int, dict[str, str]]
"""(line, cells by column)"""


def read_table(path: Path, required: Sequence[str]) -> list[Row]:
    """Every row that holds something. Raises UserError for what is no table, lacks a `required` column, or has no row."""
    columns, rows = read_rows(path)
    for wanted in required:
        if wanted not in columns:
            near = nearest(wanted, columns)
            hint = f"; nearest: {near!r}" if near else ""
            raise UserError(
                f"{path}: no column {wanted!r}, there are {', '.join(columns) or 'none'}{hint}; "
                f"expected {', '.join(required)}"
            )
    if not rows:
        raise UserError(f"{path}: no row below the header")
    return rows


def read_rows(path: Path, check: Callable[[list[str]], None] | None = None) -> tuple[list[str], list[Row]]:
    """The columns of the header, which `check` may refuse, and every row that holds something.

    Raises UserError for what is no table.
    """
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            reader.fieldnames = columns = [column.strip() for column in reader.fieldnames or ()]
            if check is not None:
                check(columns)
            return columns, list(_rows(path, reader))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a text file (byte {error.start} is no UTF-8)") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a comma-separated table: {error}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error


def split_of(path: Path, line: int, cell: str) -> str:
    """The split that a cell names, empty for none. Raises UserError for another word."""
    name = cell.strip().lower()
    if name and name not in SPLITS:
        near = nearest(name, SPLITS)
        hint = f"; nearest: {near}" if near else ""
        raise UserError(f"{path}: line {line}: split {cell.strip()!r}; expected train, val or test{hint}")
    return SPLITS.get(name, "")


def _rows(path: Path, reader: csv.DictReader[str]) -> Iterator[Row]:
    for row in reader:
        if None in row or None in row.values():
            columns = len(reader.fieldnames or ())
            raise UserError(f"{path}: line {reader.line_num}: not as many cells as the {columns} columns of the header")
        if any(cell.strip() for cell in row.values()):
            yield reader.line_num, {column: cell.strip() for column, cell in row.items()}
