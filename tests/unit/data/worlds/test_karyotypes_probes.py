"""No shortcut names the types: the probes of the benchmark, on a small scale."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from partwise.data.worlds.karyotypes import Karyotypes

BENCHMARKS = Path(__file__).resolve().parents[4] / "benchmarks"


@pytest.fixture(scope="module")
def worlds() -> ModuleType:
    """The benchmark, which takes its probe from its neighbour."""
    spec = importlib.util.spec_from_file_location("worlds_karyotypes", BENCHMARKS / "worlds_karyotypes.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


def test_greys_and_size_do_not_suffice(worlds: ModuleType) -> None:
    found = worlds.probe_accuracies(Karyotypes(train=40, val=0, test=12))
    assert found["grey_histogram"] < 0.25
    assert 0.12 < found["size_alone"] < 0.35, "size tells something, as it does under the microscope"
    assert found["linear_pixels"] < 0.65


def test_the_probes_can_find_a_shortcut(worlds: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Karyotypes(size=32, train=20, val=0, test=8)
    images, types = worlds.of_split(source, "train")
    leaked = {split: worlds.of_split(source, split) for split in ("train", "test")}
    for pictures, own in leaked.values():
        for row, kind in enumerate(own.tolist()):
            pictures[row, :, :4] = 8 * kind
    monkeypatch.setattr(worlds, "of_split", lambda _, split: leaked[split])
    assert worlds.probe_accuracies(source)["grey_histogram"] > 0.9
    assert torch.equal(types, leaked["train"][1]) and images.shape == leaked["train"][0].shape
