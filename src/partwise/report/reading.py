"""A run folder as the report sees it: everything optional, nothing trusted, what is missing or torn said in words."""

from __future__ import annotations

import base64
import csv
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml

from partwise.config import UserError
from partwise.report import wording
from partwise.run import RunFolder, StoredPicture

T = TypeVar("T")

INLINE_ROWS = 200
DOWNLOAD_BYTES = 512 * 1024
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Table:
    """Numbers as text, ready to show: the first rows, how many were left out, a download of all where it is small."""

    header: list[str]
    rows: list[list[str]]
    left_out: int = 0
    file: str = ""
    download: str = ""


@dataclass(frozen=True)
class ShownPicture:
    """A stored picture as a `data:` address, with its size in pixels and its numbers."""

    name: str
    title: str
    caption: str
    source: str
    width: int
    height: int
    numbers: Table | None


@dataclass(frozen=True)
class Status:
    """A word for the pill, its tone (`good`, `busy`, `bad`) and a sentence where one is needed."""

    word: str
    tone: str
    sentence: str


@dataclass(frozen=True)
class RunFacts:
    """All that a page says about one run. `problems` lists what could not be read, as if it had not been there."""

    path: Path
    summary: dict[str, Any]
    recipe_text: str
    recipe: dict[str, Any]
    changes: dict[str, tuple[str, str]]
    environment: dict[str, str]
    lines: list[dict[str, Any]]
    pictures: list[ShownPicture]
    problems: list[str]

    @property
    def name(self) -> str:
        """The recipe's name, or the folder's where no recipe says it."""
        return str(self.summary.get("recipe") or self.recipe.get("recipe") or self.path.name)

    @property
    def seed(self) -> Any:
        return self.summary.get("seed", _at(self.recipe, "train", "seed"))

    @property
    def data(self) -> str:
        """The source string the run was trained on."""
        return str(_at(self.recipe, "data", "source") or "")

    @property
    def status(self) -> str:
        return str(self.summary.get("status") or "running")

    @property
    def metrics(self) -> dict[str, Any]:
        found = self.summary.get("metrics")
        return found if isinstance(found, dict) else {}

    @property
    def claims(self) -> list[dict[str, Any]]:
        """The paper's claims that a recipe carries, each a mapping with at least `metric` and `value`."""
        found = self.summary.get("paper")
        return (
            [claim for claim in found if isinstance(claim, dict) and "metric" in claim]
            if isinstance(found, list)
            else []
        )


def _at(values: Mapping[str, Any], *keys: str) -> Any:
    """A nested value, or None where any level is missing."""
    inner: Any = values
    for key in keys:
        if not isinstance(inner, Mapping):
            return None
        inner = inner.get(key)
    return inner


def read_run(path: Path) -> RunFacts:
    """Read a run folder, finished or not. Raises UserError only where there is no run at all."""
    folder = RunFolder(path)
    if not folder.path.is_dir():
        raise UserError(f"{path}: no such folder; expected a run, as `partwise train --out` makes one")
    if not folder.exists() and not folder.summary.exists():
        raise UserError(f"{path}: not a run: neither recipe.yaml nor summary.json in it")
    problems: list[str] = []

    def attempt(read: Callable[[], T], otherwise: T) -> T:
        try:
            return read()
        except (OSError, ValueError, TypeError, yaml.YAMLError) as error:
            problems.append(f"{error}")
            return otherwise

    recipe_text = attempt(lambda: _text_of(folder.recipe), "")
    nothing: dict[str, Any] = {}
    no_lines: list[dict[str, Any]] = []
    recipe = attempt(lambda: _mapping(recipe_text, folder.recipe), nothing)
    stored: list[StoredPicture] = attempt(folder.read_pictures, [])
    shown = [attempt(lambda picture=picture: _show(picture), None) for picture in stored]  # type: ignore[misc]
    return RunFacts(
        path=folder.path,
        summary=attempt(folder.read_summary, {}),
        recipe_text=recipe_text,
        recipe=recipe,
        changes=attempt(lambda: _changes(_mapping(_text_of(folder.changes), folder.changes)), {}),
        environment=attempt(lambda: flatten(folder.read_environment()), {}),
        lines=[line for line in attempt(folder.read_metrics, no_lines) if isinstance(line, dict)],
        pictures=[picture for picture in shown if picture is not None],
        problems=problems,
    )


def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _mapping(content: str, path: Path) -> dict[str, Any]:
    values = yaml.safe_load(content)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected field names with values")
    return values


def _changes(values: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Field -> (the recipe's value, this run's)."""
    pairs = {}
    for name, pair in values.items():
        both = pair if isinstance(pair, Mapping) else {"here": pair}
        pairs[str(name)] = (wording.text(both.get("recipe")), wording.text(both.get("here")))
    return pairs


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values under dotted names, each as one line of text."""
    flat: dict[str, str] = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = wording.text(value)
    return flat


def _show(stored: StoredPicture) -> ShownPicture:
    data = stored.png.read_bytes()
    if len(data) < 33 or not data.startswith(PNG_SIGNATURE):
        raise UserError(f"{stored.png}: is not a PNG picture")
    width, height = struct.unpack(">II", data[16:24])
    return ShownPicture(
        name=stored.name,
        title=stored.title,
        caption=stored.caption,
        source=data_address(data, "image/png"),
        width=width,
        height=height,
        numbers=None if stored.csv is None else read_table(stored.csv),
    )


def data_address(data: bytes, kind: str) -> str:
    """Bytes as an address that a page can hold."""
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def read_table(path: Path, most: int = INLINE_ROWS) -> Table:
    """The first rows of a CSV file, numbers shortened for reading; the download keeps them whole."""
    data = path.read_bytes()
    try:
        rows = list(csv.reader(data.decode("utf-8", errors="replace").splitlines()))
    except csv.Error as error:
        raise UserError(f"{path}: is not a CSV file ({error})") from None
    header, body = (rows[0], rows[1:]) if rows else ([], [])
    width = len(header)
    shown = [[_cell(value) for value in [*row, *[""] * width][:width]] for row in body[:most]]
    download = data_address(data, "text/csv") if len(data) <= DOWNLOAD_BYTES else ""
    return Table(header, shown, len(body) - len(shown), path.name, download)


def _cell(value: str) -> str:
    """A CSV cell: a long fraction is shortened, everything else stays as it stands."""
    if "." not in value or len(value) < 8:
        return value
    try:
        return wording.number(float(value))
    except ValueError:
        return value


def comparable(claim: Mapping[str, Any], run: RunFacts) -> bool:
    """Whether a claim is about this very recipe (one that names no recipe is taken to be)."""
    return claim.get("recipe") in (None, "", run.name)


def status_of(run: RunFacts) -> Status:
    """What became of the run, in words that do not hide it."""
    error = wording.text(run.summary["error"]) if run.summary.get("error") else ""
    match run.status:
        case "finished":
            return Status("finished", "good", "")
        case "stopped":
            lead = "The run was stopped before its end; the same command continues it."
            return Status("stopped", "bad", f"{lead} {error}".strip())
        case "running":
            lead = "The run is not finished: what follows is what it had written so far. The same command continues it."
            return Status("unfinished", "busy", f"{lead} {error}".strip())
        case other:
            return Status(other, "bad", error or "The run did not finish; numbers below may be missing or early.")


def stage_rows(summary: Mapping[str, Any]) -> list[list[str]]:
    """Name, steps, time and rate of every stage that left a line in the summary."""
    stages = summary.get("stages")
    rows = []
    for stage in stages if isinstance(stages, Sequence) and not isinstance(stages, str) else []:
        if isinstance(stage, Mapping):
            rate = wording.as_float(stage.get("images_per_second"))
            rows.append(
                [
                    str(stage.get("name", wording.NOTHING)),
                    wording.number(stage.get("steps")),
                    wording.duration(stage.get("seconds")),
                    wording.NOTHING if rate is None else f"{rate:,.0f}",
                ]
            )
    return rows
