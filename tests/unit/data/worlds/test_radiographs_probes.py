"""No shortcut names the findings: the probes of the benchmark, on a small scale."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from partwise.data.worlds.radiographs import Radiographs

BENCHMARKS = Path(__file__).resolve().parents[4] / "benchmarks"


@pytest.fixture(scope="module")
def worlds() -> ModuleType:
    """The benchmark, which takes its probe from its neighbour."""
    spec = importlib.util.spec_from_file_location("worlds_radiographs", BENCHMARKS / "worlds_radiographs.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_shortcuts_stay_near_chance(worlds: ModuleType) -> None:
    source = Radiographs(size=48, train=1200, val=0, test=600)
    train, test = worlds.of_split(source, "train"), worlds.of_split(source, "test")
    found = worlds.probe_accuracies(train, test)
    for name in ("grey_histogram", "ground_alone", "lungs_alone"):
        assert found[name] <= 0.33, name
    assert 0.42 < found["heart_width"] < 0.6, "a large heart is told from the others, and nothing else"
    leaked = [replace(split, images=split.images.clone()) for split in (train, test)]
    for split in leaked:
        split.images[:, 0, :4] = (split.labels * 60)[:, None, None]
    assert worlds.probe_accuracies(*leaked)["grey_histogram"] > 0.9, "the probes can find a shortcut"
