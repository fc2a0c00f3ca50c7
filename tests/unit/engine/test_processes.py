"""Promise 1: two processes give what one gives, on a network with batch norm, CutMix pairs and accumulation."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = [
    "data.source=creatures:?size=32&classes=4&train=160&val=32&test=32",
    "train.epochs=4",  # 20 steps
    "train.batch_size=32",
    "train.accumulate=2",
    "train.threads=1",
    "train.precision=fp32",
    "optim.lr=0.01",  # a rate at which rounding is not amplified, so that the comparison is about the arithmetic
    "evaluate.suites=[classification]",
]


def train(out: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    words = ["train", "cutmix/smoke", "--out", str(out)]
    for setting in SETTINGS:
        words += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "partwise", *words, *extra]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one(tmp_path: Path) -> None:
    one, two = train(tmp_path / "one"), train(tmp_path / "two", "--devices", "2")
    assert one.returncode == 0, one.stderr
    assert two.returncode == 0, two.stderr
    single, double = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert single.keys() == double.keys()
    for name, tensor in single.items():
        if tensor.is_floating_point():
            difference = (tensor - double[name]).norm() / tensor.norm().clamp_min(1e-12)
            assert difference <= 1e-5, (name, float(difference))
        else:
            assert torch.equal(tensor, double[name]), name


def test_a_mistake_is_said_once_and_before_the_processes_start(tmp_path: Path) -> None:
    done = train(tmp_path / "run", "--devices", "3")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "partwise: error:" in line]
    assert len(lines) == 1 and "16 pictures a part cannot be split over 3 processes" in lines[0], done.stderr
    assert "Traceback" not in done.stderr
