"""What a run says while it works: a progress line on a terminal, plain lines on a pipe, and metrics.jsonl beside it."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from typing import Any, Protocol

import torch
from rich.console import Console
from rich.live import Live
from rich.text import Text

from partwise.run import RunFolder

PLAIN_SECONDS = 5.0
"""Seconds between lines where the output is no terminal."""


def duration(seconds: float) -> str:
    """Seconds as people say them: `42 s`, `3:07 min`, `2:05 h`."""
    whole = round(max(seconds, 0))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    return f"{whole // 3600}:{whole % 3600 // 60:02d} h"


def memory() -> str:
    """Most memory used so far: of the device where it has its own, else of the process."""
    if torch.cuda.is_available():
        return f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
    scale = 1 if sys.platform == "darwin" else 1024
    return f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30:.1f} GiB"


class Progress:
    """One line about the work under way: done, rate, time left, memory. Silent where `quiet`."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self.quiet = quiet
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._last = 0.0

    def say(self, text: str) -> None:
        """A line that stays."""
        if not self.quiet:
            self.console.print(Text(text))

    def update(
        self, what: str, done: int, total: int, *, rate: str = "", left: float | None = None, facts: str = ""
    ) -> None:
        """Renew the line; on a pipe a line every few seconds and the last one."""
        now = time.monotonic()
        terminal = self.console.is_terminal
        if self.quiet or (now - self._last < (0.1 if terminal else PLAIN_SECONDS) and done < total):
            return
        self._last = now
        remaining = f"{duration(left)} left" if left is not None and done < total else ""
        # The rest last: a narrow terminal cuts it off.
        pieces = [f"{what} {done:,}/{total:,} ({done / max(total, 1):.0%})", rate, remaining, memory(), facts]
        line = "  ".join(piece for piece in pieces if piece)
        if not terminal:
            self.console.print(Text(line))
            return
        if self._live is None:
            self._live = Live(console=self.console, refresh_per_second=10, transient=True)
            self._live.start()
        self._live.update(Text(line, style="cyan"))

    def close(self) -> None:
        """End the live line."""
        if self._live is not None:
            self._live.stop()
            self._live = None


class ScalarWriter(Protocol):
    """The part of TensorBoard's writer that is used."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...


class Tracker:
    """Writes metric lines of the leading process, and mirrors numbers to TensorBoard where asked for."""

    def __init__(self, folder: RunFolder, progress: Progress, *, leads: bool, tensorboard: bool = False) -> None:
        self.folder = folder
        self.progress = progress
        self.leads = leads
        self._writer: ScalarWriter | None = None
        if tensorboard and leads:
            self._writer = _tensorboard(folder)

    def line(self, kind: str, stage: str, step: int, values: Mapping[str, Any]) -> None:
        """One line of metrics.jsonl."""
        if not self.leads:
            return
        self.folder.append_metrics({"kind": kind, "stage": stage, "step": step, **values})
        if self._writer is not None:
            flat = {**values, **values.get("metrics", {})}
            for name, value in flat.items():
                if isinstance(value, (int, float)):
                    self._writer.add_scalar(f"{stage}/{name}", float(value), step)


def _tensorboard(folder: RunFolder) -> ScalarWriter:
    from partwise.config import UserError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "train.tensorboard: tensorboard is not installed; pip install 'partwise[tensorboard]'"
        ) from None
    writer: ScalarWriter = SummaryWriter(str(folder.path / "tensorboard"))
    return writer
