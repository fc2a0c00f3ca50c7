"""No shortcut gives the class away: the probes of the benchmark, on a small scale."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from partwise.data.worlds.creatures import Creatures

BENCHMARK = Path(__file__).resolve().parents[4] / "benchmarks" / "worlds.py"


@pytest.fixture(scope="module")
def worlds() -> ModuleType:
    spec = importlib.util.spec_from_file_location("benchmark_worlds", BENCHMARK)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_shortcuts_stay_near_chance(worlds: ModuleType) -> None:
    source = Creatures(size=32, train=1200, val=0, test=600)
    for name, accuracy in worlds.probe_accuracies(source, 1200).items():
        assert accuracy <= 0.2, name


def test_the_body_tells_something_but_not_everything(worlds: ModuleType) -> None:
    accuracy = worlds.body_habits(Creatures(train=3000, val=0, test=0), 1500)
    assert 0.35 < accuracy < 0.65


def test_the_probes_can_find_a_shortcut(worlds: ModuleType) -> None:
    classes = torch.arange(600) % 10
    features = torch.randn(600, 20, generator=torch.Generator().manual_seed(0))
    chance = worlds.probe(worlds.Split(features[:400], classes[:400]), worlds.Split(features[400:], classes[400:]))
    features[:, 0] += classes.float()
    features[:, 1] += 3.0 * (classes % 2)
    leaked = worlds.probe(worlds.Split(features[:400], classes[:400]), worlds.Split(features[400:], classes[400:]))
    assert chance < 0.2
    assert leaked > 0.25
