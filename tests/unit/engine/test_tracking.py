"""What a run says: plain lines on a pipe, one live line on a terminal, and the mirror in TensorBoard."""

from __future__ import annotations

import builtins
import io
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from partwise.config import UserError
from partwise.engine import tracking
from partwise.engine.tracking import PLAIN_SECONDS, Progress, Tracker, duration, memory
from partwise.run import RunFolder

WRITTEN = {
    0: "0 s",
    -3: "0 s",
    0.4: "0 s",
    42.4: "42 s",
    59.4: "59 s",
    59.6: "1:00 min",
    60: "1:00 min",
    187: "3:07 min",
    3599: "59:59 min",
    3599.7: "1:00 h",
    7500: "2:05 h",
    90_000: "25:00 h",
}


@pytest.mark.parametrize("seconds", WRITTEN)
def test_durations_are_said_as_people_say_them(seconds: float) -> None:
    assert duration(seconds) == WRITTEN[seconds]


def test_memory_is_a_plausible_number() -> None:
    assert 0.05 < float(re.fullmatch(r"(\d+\.\d) GiB", memory())[1]) < 1000  # type: ignore[index]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Time that passes when told to."""
    now = [1000.0]
    monkeypatch.setattr(tracking.time, "monotonic", lambda: now[0])

    def advance(seconds: float) -> None:
        now[0] += seconds

    return advance


def piped() -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    return Progress(console=Console(file=out, force_terminal=False, soft_wrap=True, width=40)), out


# -- on a pipe -----------------------------------------------------------------------------------------------------------


def test_a_pipe_gets_a_line_every_few_seconds_and_the_last_one(clock: Callable[[float], None]) -> None:
    progress, out = piped()
    for step in range(1, 101):
        progress.update("train", step, 100, rate="50 pictures/s", left=100.0 - step, facts="epoch 1.0")
        clock(0.1)
    progress.close()
    lines = out.getvalue().splitlines()
    steps = [int(line.split()[1].split("/")[0]) for line in lines]
    # 10 seconds of work: the first, one after five seconds, and the last
    assert steps == [1, 51, 100] and PLAIN_SECONDS == 5
    assert re.fullmatch(r"train 51/100 \(51%\)  50 pictures/s  49 s left  \d+\.\d GiB  epoch 1\.0", lines[1])
    assert "left" not in lines[-1], "nothing is left at the end"
    assert "\x1b" not in out.getvalue() and "\r" not in out.getvalue()


def test_thousands_are_told_apart_and_nothing_to_do_is_no_division_by_zero(clock: Callable[[float], None]) -> None:
    progress, out = piped()
    progress.update("maps", 1_234, 56_789)
    clock(10)
    progress.update("maps", 0, 0)
    assert out.getvalue().startswith("maps 1,234/56,789 (2%)") and "maps 0/0 (0%)" in out.getvalue()


def test_words_in_brackets_are_not_taken_for_markup() -> None:
    progress, out = piped()
    progress.say("file [red]a[/red].jpg, a line much longer than the width of the console that stays one line")
    assert out.getvalue().count("\n") == 1 and "[red]a[/red].jpg" in out.getvalue()


def test_quiet_says_nothing() -> None:
    out = io.StringIO()
    progress = Progress(quiet=True, console=Console(file=out))
    progress.say("a")
    progress.update("train", 1, 1)
    progress.close()
    assert out.getvalue() == ""


def test_progress_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Progress().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


# -- on a terminal -------------------------------------------------------------------------------------------------------


def test_a_terminal_has_one_line_that_is_renewed() -> None:
    out = io.StringIO()
    progress = Progress(console=Console(file=out, force_terminal=True, width=40, soft_wrap=True))
    for step in (1, 2, 3):
        progress.update("train", step, 3, left=3.0 - step, facts="words that no narrow terminal has room for")
        time.sleep(0.15)  # the line is drawn by a clock of its own
    progress.say("epoch 1: a line that stays, whole, however narrow the terminal")
    progress.close()
    progress.close()  # twice does no harm
    shown = out.getvalue()
    assert "train 1/3" in shown and "train 3/3" in shown
    drawn = re.split(r"\r\x1b\[2K", shown)
    assert len(drawn) > 4, "erased and drawn again"
    plain = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", piece) for piece in drawn]
    assert (
        sum(piece.startswith("epoch 1: a line that stays, whole, however narrow the terminal\n") for piece in plain)
        == 1
    )
    live = [line for piece in plain for line in piece.split("\n") if line.startswith("train")]
    assert live and all(len(line) <= 40 for line in live), "a line that wraps is not erased whole"
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l"), "the cursor comes back"


def test_a_terminal_is_not_renewed_more_often_than_one_sees(clock: Callable[[float], None]) -> None:
    progress = Progress(console=Console(file=io.StringIO(), force_terminal=True, width=100))
    updates: list[str] = []
    progress.update("train", 0, 1000)
    assert progress._live is not None
    progress._live.update = lambda text: updates.append(text.plain)  # type: ignore[method-assign, assignment]
    for step in range(1, 1000):
        clock(0.01)
        progress.update("train", step, 1000)
    progress.close()
    assert 90 <= len(updates) <= 101


# -- metrics.jsonl and its mirror ----------------------------------------------------------------------------------------


def test_only_the_leading_process_writes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    Tracker(folder, Progress(quiet=True), leads=False, tensorboard=True).line("step", "train", 1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []
    Tracker(folder, Progress(quiet=True), leads=True).line("step", "train", 1, {"loss": 1.0})
    assert folder.read_metrics() == [{"kind": "step", "stage": "train", "step": 1, "loss": 1.0}]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard would show."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


@pytest.mark.filterwarnings("default")  # tensorboard's own
def test_tensorboard_shows_every_number(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    tracker = Tracker(RunFolder(tmp_path), Progress(quiet=True), leads=True, tensorboard=True)
    for step in (1, 2):
        tracker.line("step", "train", step, {"loss": 0.5 * step, "epoch": step, "note": "text"})
    tracker.line("evaluation", "train", 2, {"split": "val", "metrics": {"classification/top1": 0.25}})
    assert tracker._writer is not None
    tracker._writer.flush()  # type: ignore[attr-defined]  # what the end of the process does
    assert scalars(tmp_path / "tensorboard") == {
        "train/loss": [(1, 0.5), (2, 1.0)],
        "train/epoch": [(1, 1.0), (2, 2.0)],
        "train/classification/top1": [(2, 0.25)],
    }


def test_without_tensorboard_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refuse(name: str, *rest: Any, **options: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest, **options)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(UserError, match=r"train\.tensorboard: .* pip install 'partwise\[tensorboard\]'"):
        Tracker(RunFolder(tmp_path), Progress(quiet=True), leads=True, tensorboard=True)
