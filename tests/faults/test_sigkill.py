"""Killed at any moment and started again, a run ends as if nothing had happened. The programme itself: kill.py."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.faults.kill import SHORT, Command, campaign, differences, doing, live, undisturbed, unfinished, uniform


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_kills_leave_no_trace(tmp_path: Path) -> None:
    """One run: killed while it trains, killed again (on a slow disk) while it writes a file, finished."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    command, slow = Command(SHORT), Command(SHORT, disk_seconds=0.1)
    undisturbed(command, whole)
    moment = uniform(5, 1.0)
    first = live(command.line(again), killed_after=moment(), only=(again / "metrics.jsonl").exists)
    left = set(unfinished(again / "checkpoints"))
    second = live(slow.line(again), killed_after=0, only=lambda: bool(set(unfinished(again / "checkpoints")) - left))
    assert (first.status, second.status) == (-signal.SIGKILL, -signal.SIGKILL), first.said + second.said
    assert "stage train" in doing(again) and "writing" in doing(again)
    assert live(command.line(again)).status == 0
    assert differences(whole, again) == []
    _differences_are_found(whole, again)


def _differences_are_found(whole: Path, again: Path) -> None:
    """The comparison can fail: one bit of one weight, a line, something left behind."""
    model = again / "products" / "train" / "networks.safetensors"
    weights = load_file(model)
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[0] *= 1 + 2e-7
    save_file(weights, model)
    with (again / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "step"}\n')
    (again / "checkpoints" / ".last.safetensors.x.part").touch()
    found = differences(whole, again)
    assert {"products/train/networks.safetensors", "metrics.jsonl"} < set(found)
    assert "checkpoints/.last.safetensors.x.part" in found


@pytest.mark.faults
@pytest.mark.timeout(7200)
def test_ten_moments_of_each_kind(tmp_path: Path) -> None:
    trials = [(kind, trial) for kind, _, trial in campaign(tmp_path, 10)]
    assert len(trials) == 23
    assert not [(kind, trial) for kind, trial in trials if not trial.identical]
