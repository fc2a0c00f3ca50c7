"""Two processes give what one gives: both phases, with and without a branch, and the queue of Adam-v1."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from partwise.run import RunFolder
from tests.unit.methods.adam_v2.small import WORDS

EXACT = ("evaluate.during=[]", "train.precision=fp64")
"""AdamW turns the rounding of a gradient near zero into a whole step: in float32 a thousandth is left after sixteen."""
V1 = ("method.version=v1", "method.queue=10", "method.contrast_epochs=2.0", "method.contrast_levels=[2]")


def train(out: Path, devices: int, *settings: str) -> RunFolder:
    words = ["train", "adam_v2/smoke", "--out", str(out), "--quiet", "--devices", str(devices)]
    words += [word for setting in (*WORDS, *EXACT, *settings) for word in ("--set", setting)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "partwise", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return RunFolder(out)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "settings", [(), ("method.decompose_weight=0",), ("method.localize_weight=0",), V1], ids=["LCD", "LC", "CD", "v1"]
)
def test_two_processes_equal_one(settings: tuple[str, ...], tmp_path: Path) -> None:
    """On an encoder with batch norm, synchronised."""
    one, two = (train(tmp_path / str(count), count, *settings) for count in (1, 2))
    ours, theirs = load_file(one.model), load_file(two.model)
    assert ours.keys() == theirs.keys()
    for network in {name.partition(".")[0] for name in ours}:
        names = [name for name, tensor in ours.items() if name.startswith(f"{network}.") and tensor.is_floating_point()]
        single, double = (torch.cat([w[name].double().flatten() for name in names]) for w in (ours, theirs))
        assert (single - double).norm() <= 1e-6 * single.norm(), network
