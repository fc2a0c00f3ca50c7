"""Promise 1: two processes give what one gives, on a network with batch norm, CutMix pairs and accumulation.

Rounding is amplified from step to step by any network with ReLUs. So the arithmetic is compared in float64, where the two must
agree to the last bit of the float32 file, and float32 is held to what rounding alone does to one process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SETTINGS = [
    "data.source=creatures:?size=32&classes=4&train=320&val=32&test=32",
    "model.backbone=cifar-resnet",
    "model.arguments.depth=8",
    "train.epochs=4",  # 20 steps
    "train.batch_size=64",
    "train.accumulate=2",
    "train.threads=1",
    "optim.schedule=constant",
    "optim.lr=0.01",
    "evaluate.suites=[classification]",
    "evaluate.every=0",
]


def train(out: Path, *extra: str) -> subprocess.CompletedProcess[str]:
    words = ["train", "cutmix/smoke", "--out", str(out), "--quiet"]
    for setting in SETTINGS:
        words += ["--set", setting]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "partwise", *words, *extra]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


def weights(tmp_path: Path, devices: int, precision: str, *settings: str) -> dict[str, torch.Tensor]:
    out = tmp_path / f"{precision}-{devices}"
    more = [word for setting in settings for word in ("--set", setting)]
    done = train(out, "--devices", str(devices), "--set", f"train.precision={precision}", *more)
    assert done.returncode == 0, done.stderr
    return load_file(out / "model.safetensors")


def distance(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> float:
    """Norm of the difference of all weights over the norm of all weights."""
    assert first.keys() == second.keys()
    names = [name for name, tensor in first.items() if tensor.is_floating_point()]
    apart = sum(float((first[name].double() - second[name].double()).square().sum()) for name in names)
    return float((apart / sum(float(first[name].double().square().sum()) for name in names)) ** 0.5)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one(tmp_path: Path) -> None:
    exact = weights(tmp_path, 1, "fp64")
    assert distance(exact, weights(tmp_path, 2, "fp64")) <= 1e-7
    single, double = weights(tmp_path, 1, "fp32"), weights(tmp_path, 2, "fp32")
    rounding = distance(exact, single)
    assert 0 < rounding < 1e-2
    assert distance(single, double) <= 3 * rounding
    assert distance(exact, double) <= 3 * rounding


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("rule", [("method.mix=mixup", "method.cutout=true"), ("method.mix=saliencymix",)])
def test_rivals_find_their_partners_in_the_whole_batch(rule: tuple[str, ...], tmp_path: Path) -> None:
    """What is cut out of a partner, and where its peak lies, another process may hold."""
    settings = ("train.epochs=1", "method.p=1", *rule)
    one, two = (weights(tmp_path, devices, "fp64", *settings) for devices in (1, 2))
    assert distance(one, two) <= 1e-7


def test_a_mistake_is_said_once_and_before_the_processes_start(tmp_path: Path) -> None:
    done = train(tmp_path / "run", "--devices", "3")
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if "partwise: error:" in line]
    assert len(lines) == 1 and "32 pictures a part cannot be split over 3 processes" in lines[0], done.stderr
    assert "Traceback" not in done.stderr
