"""The layout of one's own for chromosomes: `labels.csv`, a row a crop, and if wanted `cases.csv` with karyotypes."""

from __future__ import annotations

from pathlib import Path

from partwise.config import UserError, did_you_mean
from partwise.data.readers.tables import Row, read_table, split_of
from partwise.data.sample import Record
from partwise.ops.iscn import TYPES

LABELS, CASES = "labels.csv", "cases.csv"
COLUMNS = ("file", "type", "polarity", "case", "specimen")
CASE_COLUMNS = ("case", "karyotype_by_count")


def read_labels(path: Path) -> list[Record]:
    """A record for each row, in their order; files are relative to the table.

    `type` is 1 to 22, X or Y, `polarity` 1 for the long arm down and 0 for up, both empty where nobody knows. The group is the
    specimen, or the case where that is empty. Raises UserError, with the line, for anything else, for a file that stands there
    twice, and for a case of two specimens or in two splits.
    """
    rows = read_table(path, COLUMNS)
    seen: dict[str, int] = {}
    for line, row in rows:
        file = row["file"]
        if not file:
            raise UserError(f"{path}: line {line}: column 'file' is empty")
        if file in seen:
            raise UserError(f"{path}: line {line} repeats the file of line {seen[file]} ({file}); write one row a crop")
        seen[file] = line
    records = [_record(path, line, row) for line, row in rows]
    _refuse_torn_cases(path, rows)
    return records


def read_karyotypes(path: Path) -> dict[str, str]:
    """Case -> its karyotype as `cases.csv` lists it, empty where it does; nothing where there is no such table."""
    if not path.is_file():
        return {}
    rows = read_table(path, CASE_COLUMNS)
    found: dict[str, str] = {}
    for line, row in rows:
        if found.setdefault(row["case"], row["karyotype_by_count"]) != row["karyotype_by_count"]:
            raise UserError(f"{path}: line {line}: case {row['case']!r} has another karyotype on an earlier line")
    return found


def type_index(path: Path, line: int, cell: str) -> int:
    """The position of a type in TYPES. Raises UserError for what is none."""
    if cell not in TYPES:
        raise UserError(f"{path}: line {line}: type {cell!r}; expected 1 to 22, X or Y{did_you_mean(cell, TYPES)}")
    return TYPES.index(cell)


def _record(path: Path, line: int, row: dict[str, str]) -> Record:
    polarity = row["polarity"]
    if polarity not in ("", "0", "1"):
        raise UserError(
            f"{path}: line {line}: polarity {polarity!r}; expected 1 (long arm down), 0 (up) or nothing (not known)"
        )
    return Record(
        id=row["file"],
        split=split_of(path, line, row.get("split", "")),
        label=type_index(path, line, row["type"]) if row["type"] else None,
        group=row["specimen"] or row["case"],
        case=row["case"],
        polarity=int(polarity) if polarity else None,
        file=row["file"],
    )


def _refuse_torn_cases(path: Path, rows: list[Row]) -> None:
    """Raise UserError for a case whose rows disagree on the specimen or the split: a cell is of one person and never cut."""
    first: dict[str, Row] = {}
    for line, row in rows:
        if not row["case"]:
            continue
        earlier, known = first.setdefault(row["case"], (line, row))
        for column in ("specimen", "split"):
            one, other = known.get(column, ""), row.get(column, "")
            if one != other:
                raise UserError(
                    f"{path}: line {line}: case {row['case']!r} has {column} {other!r}, and {one!r} on line {earlier}; "
                    "expected one for all chromosomes of a cell"
                )
