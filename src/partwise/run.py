"""The run folder: names, lock, summary, metric lines. The only code that knows its layout; never imports torch."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import math
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from partwise.config import UserError, did_you_mean

UNFINISHED = re.compile(r"\..+\.(safetensors|json|yaml|html|png|csv)\.\w+\.part")
"""The temporary files of `write_atomically` for everything that a run folder holds."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one whole: temporary file, fsync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make a rename in this folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _plain(value: Any) -> Any:
    """Values that JSON has: NaN and infinity become None, paths text, tuples lists."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    if isinstance(value, Path):
        return str(value)
    return value


def to_json(values: Any, *, indent: int | None = 2) -> bytes:
    """Plain JSON, readable by anything."""
    return (json.dumps(_plain(values), indent=indent, ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(frozen=True)
class StoredPicture:
    """A picture of a run's report: its PNG, and the CSV of the numbers behind it where there is one."""

    name: str
    title: str
    caption: str
    order: int
    png: Path
    csv: Path | None


class RunFolder:
    """Names and formats of everything in one run's folder."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.changes = self.path / "changes.yaml"
        self.environment = self.path / "environment.json"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.model = self.path / "model.safetensors"
        self.products = self.path / "products"
        self.checkpoints = self.path / "checkpoints"
        self.pictures = self.path / "pictures"
        self.report = self.path / "report.html"

    def exists(self) -> bool:
        """Whether a run was begun here."""
        return self.recipe.exists()

    def require(self, *, or_study: bool = False) -> None:
        """Raise UserError where no run was begun here (nor a study's summary lies here), with the nearest run beside it."""
        if self.exists() or (or_study and self.summary.exists()):
            return
        beside = [recipe.parent.name for recipe in self.path.parent.glob("*/recipe.yaml")]
        hint = did_you_mean(self.path.name, [name for name in beside if name != self.path.name])
        raise UserError(f"{self.path}: is no run folder (there is no recipe.yaml){hint}")

    def status(self) -> str:
        """`"new"`, `"running"` (unfinished, whether or not a process is at it), `"stopped"` or `"finished"`."""
        if not self.exists():
            return "new"
        return str(self.read_summary().get("status", "running"))

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process alone. Raises UserError where another process holds it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise UserError(f"--out {self.path}: cannot write there: {error.strerror}") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(descriptor, 32, 0).decode(errors="replace").strip() or "unknown"
                raise UserError(
                    f"--out {self.path}: another process (number {holder}) is writing this run; wait, or choose another --out"
                ) from None
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            self._sweep()
            yield
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        """Remove what a run wrote (`--fresh`), and nothing that is not ours; no run, nothing to remove.

        The recipe goes last: a run cleared in part is still one, whose checkpoints the next run will not take up.
        """
        if not self.exists():
            return
        for folder, patterns in self._own().items():
            for path in [path for pattern in patterns for path in folder.glob(pattern)]:
                path.unlink()
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()
        for path in (self.changes, self.environment, self.metrics, self.summary, self.model, self.report):
            path.unlink(missing_ok=True)
        (self.path / "batch.safetensors").unlink(missing_ok=True)
        self.recipe.unlink(missing_ok=True)

    def _own(self) -> dict[Path, tuple[str, ...]]:
        """The folders of a run, inner ones first -> what is ours in them. Links are somebody else's."""
        stages = ("index.json", "*.safetensors", "*.png", "*.npy")
        own: dict[Path, tuple[str, ...]] = {stage: stages for stage in self.products.glob("*")}
        own |= {
            self.products: (),
            self.checkpoints: ("*.safetensors",),
            self.pictures: ("*.png", "*.json", "*.csv"),
            self.path / "tensorboard": ("events.out.tfevents.*",),
        }
        linked = {folder for folder in own if folder.is_symlink() or folder.parent.is_symlink()}
        return {folder: patterns for folder, patterns in own.items() if folder not in linked}

    def _sweep(self) -> None:
        """Remove what a process that was killed while it wrote a file left; only by the holder of the lock."""
        for folder in (self.path, self.checkpoints, self.pictures, *self.products.glob("*")):
            for path in folder.glob(".*.part"):
                if UNFINISHED.fullmatch(path.name):
                    path.unlink(missing_ok=True)

    def write_summary(self, summary: Mapping[str, Any]) -> None:
        write_atomically(self.summary, to_json(summary))

    def read_summary(self) -> dict[str, Any]:
        """The summary; empty where there is none yet. Raises UserError where the file is torn."""
        return self._read_json(self.summary)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        write_atomically(self.environment, to_json(environment))

    def read_environment(self) -> dict[str, Any]:
        return self._read_json(self.environment)

    def _read_json(self, path: Path) -> dict[str, Any]:
        if not path.exists():
            return {}
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UserError(
                f"{path}: is not JSON ({error}); the run folder was copied in part or changed by hand"
            ) from None
        if not isinstance(values, dict):
            raise UserError(f"{path}: expected a JSON object")
        return values

    def write_changes(self, changes: Mapping[str, tuple[object, object]]) -> None:
        plain = {name: {"recipe": _plain(old), "here": _plain(new)} for name, (old, new) in changes.items()}
        write_atomically(self.changes, yaml.safe_dump(plain, sort_keys=False, allow_unicode=True).encode())

    def append_metrics(self, line: Mapping[str, Any]) -> None:
        """Add one line to metrics.jsonl."""
        with self.metrics.open("ab") as file:
            file.write(to_json(line, indent=None))

    def read_metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl; a last line torn by a crash is left out."""
        if not self.metrics.exists():
            return []
        lines = []
        for line in self.metrics.read_bytes().split(b"\n"):
            try:
                lines.append(json.loads(line))
            except ValueError:
                continue
        return lines

    def cut_metrics(self, size: int) -> None:
        """Cut metrics.jsonl back to the length it had when the checkpoint was written."""
        if self.metrics.exists() and self.metrics.stat().st_size > size:
            os.truncate(self.metrics, size)

    def metrics_size(self) -> int:
        """Length of metrics.jsonl in bytes, 0 where there is none."""
        return self.metrics.stat().st_size if self.metrics.exists() else 0

    def write_picture(
        self, name: str, png: bytes, *, title: str, caption: str, order: int, rows: Sequence[Mapping[str, object]] = ()
    ) -> None:
        """Store a picture of the report as PNG, its words as JSON, and the numbers behind it as CSV."""
        numbers = self.pictures / f"{name}.csv"
        numbers.unlink(missing_ok=True)
        if rows:
            table = io.StringIO()
            writer = csv.DictWriter(table, fieldnames=list(dict.fromkeys(key for row in rows for key in row)))
            writer.writeheader()
            writer.writerows(rows)
            write_atomically(numbers, table.getvalue().encode())
        write_atomically(self.pictures / f"{name}.png", png)
        write_atomically(self.pictures / f"{name}.json", to_json({"title": title, "caption": caption, "order": order}))

    def read_pictures(self) -> list[StoredPicture]:
        """The report's pictures in their order."""
        found = []
        for png in sorted(self.pictures.glob("*.png")):
            words = self._read_json(png.with_suffix(".json"))
            numbers = png.with_suffix(".csv")
            found.append(
                StoredPicture(
                    name=png.stem,
                    title=str(words.get("title", png.stem)),
                    caption=str(words.get("caption", "")),
                    order=int(words.get("order", 100)),
                    png=png,
                    csv=numbers if numbers.exists() else None,
                )
            )
        return sorted(found, key=lambda picture: (picture.order, picture.name))
