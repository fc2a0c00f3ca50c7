"""Killed at any moment and started again, a run ends as if nothing had happened. The programme itself: kill.py."""

from __future__ import annotations

import re
import signal
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests.faults.kill import SHORT, Command, campaign, differences, doing, live, undisturbed, unfinished


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_kills_leave_no_trace(tmp_path: Path) -> None:
    """One run on a slow disk: killed while it writes a checkpoint, killed again before it is measured, finished."""
    whole, again = tmp_path / "whole", tmp_path / "again"
    command, slow = Command(SHORT), Command(SHORT, disk_seconds=0.1)
    undisturbed(command, whole)
    checkpoints = again / "checkpoints"

    def writing() -> bool:
        return (checkpoints / "best.safetensors").exists() and bool(unfinished(checkpoints))

    first = live(slow.line(again), killed_after=0, only=writing)
    assert first.status == -signal.SIGKILL, first.said
    assert re.match("stage train.*writing checkpoints/", doing(again)), doing(again)
    second = live(slow.line(again), killed_after=0, only=(again / "products" / "train" / "index.json").exists)
    assert second.status == -signal.SIGKILL, second.said
    assert doing(again).startswith("measuring on the test split")
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
    assert len(trials) == 29
    assert not [(kind, trial) for kind, trial in trials if not trial.identical]
