"""The launcher's word is that of its processes: their exit status is passed on. Real processes: test_processes.py."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest
import torch.distributed.run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError, ProcessFailure

from partwise.engine.launch import inside_launcher, launch


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the launcher sets for its processes does not outlive the test."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def failed(*statuses: int) -> ChildFailedError:
    failures = {
        rank: ProcessFailure(local_rank=rank, pid=100 + rank, exitcode=status, error_file="<none>")
        for rank, status in enumerate(statuses)
    }
    return ChildFailedError("partwise", failures)


def outcome(monkeypatch: pytest.MonkeyPatch, end: BaseException | None) -> tuple[int, list[str]]:
    """The status for processes that end like this, and what the launcher was asked to start."""
    asked: list[str] = []

    def run(options: SimpleNamespace) -> None:
        asked.extend([options.training_script, *options.training_script_args])
        asked.append(f"{options.nproc_per_node} standalone={options.standalone} module={options.module}")
        if end is not None:
            raise end

    monkeypatch.setattr(torchrun, "run", run)
    return launch(3, ["train", "cutmix/smoke", "--out", "a b"]), asked


@pytest.mark.parametrize(
    ("end", "status"),
    [
        (None, 0),
        (failed(2), 2),  # the user's mistake stays the user's
        (failed(130, 130), 130),
        (failed(1), 1),
        (failed(-9), 1),  # one was killed, as for want of memory
        (failed(-15, 2), 2),  # the others were ended because one said 2
        (SignalException("", 15), 130),  # type: ignore[arg-type]  # a number is a signal too
        (KeyboardInterrupt(), 130),
    ],
)
def test_the_status_of_the_processes_is_passed_on(
    end: BaseException | None, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert outcome(monkeypatch, end)[0] == status


def test_the_same_command_is_started_so_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    status, asked = outcome(monkeypatch, None)
    assert status == 0
    assert asked == ["partwise.cli", "train", "cutmix/smoke", "--out", "a b", "3 standalone=True module=True"]
    assert os.environ["OMP_NUM_THREADS"] == "2", "the cores are shared out"


def test_threads_that_the_user_chose_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    outcome(monkeypatch, None)
    assert os.environ["OMP_NUM_THREADS"] == "5"


@pytest.mark.parametrize(("world", "inside"), [(None, False), ("1", False), ("2", True)])
def test_it_knows_when_it_is_one_of_several(world: str | None, inside: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)
    assert inside_launcher() is inside
