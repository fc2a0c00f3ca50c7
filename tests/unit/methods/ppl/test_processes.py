"""Two processes give what one gives through all stages of PPL: trainings that average over pairs and pixels, and products."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from partwise.run import RunFolder


def train(out: Path, devices: int) -> RunFolder:
    words = ["train", "ppl/smoke", "--out", str(out), "--quiet", "--devices", str(devices)]
    words += ["--set", "train.precision=fp32", "--set", "train.threads=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "partwise", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    return RunFolder(out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_equal_one(tmp_path: Path) -> None:
    one, two = train(tmp_path / "one", 1), train(tmp_path / "two", 2)
    ours, theirs = load_file(one.model), load_file(two.model)
    for network in ("classifier", "affinity", "segmenter"):
        names = [name for name, tensor in ours.items() if name.startswith(network) and tensor.is_floating_point()]
        single, double = (torch.cat([w[name].double().flatten() for name in names]) for w in (ours, theirs))
        assert (single - double).norm() <= 1e-5 * single.norm(), network
    for stage in ("maps", "labels", "walk", "pseudo"):
        files = [sorted(path.name for path in (run.products / stage).iterdir()) for run in (one, two)]
        assert files[0] == files[1] and len(files[0]) > 1
