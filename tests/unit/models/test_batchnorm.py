"""Synchronised batch norm: two gloo processes with slices of a batch against one plain layer with all of it.

Run as a program (`python test_batchnorm.py RANK FOLDER`) this file is one of the two processes.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from partwise.models.backbones import build_backbone
from partwise.models.batchnorm import SyncedBatchNorm, combine_statistics, slice_statistics, synchronise_batchnorm


@dataclass(frozen=True)
class Case:
    """A layer, the whole batch's shape and how many of it the first process gets."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    first: int
    dtype: torch.dtype = torch.float32
    memory: torch.memory_format = torch.contiguous_format
    exact: float = 1e-6
    steps: int = 2
    offset: float = 3.0
    extra: dict[str, Any] = field(default_factory=dict)


def small_resnet() -> nn.Module:
    return build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8])


CASES = {
    "even": Case(lambda: nn.BatchNorm2d(3), (6, 3, 4, 5), 3),
    "uneven": Case(lambda: nn.BatchNorm2d(3), (7, 3, 4, 5), 5),
    "one picture": Case(lambda: nn.BatchNorm2d(3), (4, 3, 4, 5), 1),
    "empty slice": Case(lambda: nn.BatchNorm2d(3), (4, 3, 4, 5), 4),
    "flat": Case(lambda: nn.BatchNorm1d(4), (9, 4), 4),
    "sequence": Case(lambda: nn.BatchNorm1d(4), (5, 4, 6), 2),
    "channels_last": Case(lambda: nn.BatchNorm2d(8), (6, 8, 4, 4), 2, memory=torch.channels_last),
    "double": Case(lambda: nn.BatchNorm2d(3), (7, 3, 4, 5), 2, dtype=torch.float64, exact=1e-13),
    "far from zero": Case(lambda: nn.BatchNorm2d(3), (7, 3, 4, 5), 2, dtype=torch.float64, offset=1e6, exact=1e-8),
    "no weights": Case(lambda: nn.BatchNorm2d(3, affine=False), (7, 3, 4, 5), 2),
    "cumulative": Case(lambda: nn.BatchNorm2d(3, momentum=None), (7, 3, 4, 5), 2, steps=3),
    "untracked": Case(lambda: nn.BatchNorm2d(3, track_running_stats=False), (7, 3, 4, 5), 2),
    "network": Case(small_resnet, (5, 3, 8, 8), 2, dtype=torch.float64, exact=1e-10),
}


def batches(case: Case) -> list[tuple[Tensor, int]]:
    """Inputs of each step and the seed of their targets: the same in every process."""
    generator = torch.Generator().manual_seed(7)
    shapes = [case.shape] * case.steps
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) * 2 + case.offset for shape in shapes]
    return [(x.to(case.dtype), step) for step, x in enumerate(drawn)]


def run_case(case: Case, layer: nn.Module, part: slice) -> dict[str, Tensor]:
    """Outputs, input gradients, parameter gradients and state after all steps on a slice of every batch."""
    results: dict[str, Tensor] = {}
    layer.train()
    for whole, step in batches(case):
        x = whole[part].contiguous(memory_format=case.memory) if whole.ndim == 4 else whole[part].clone()
        x.requires_grad_(True)
        output = layer(x)
        generator = torch.Generator().manual_seed(step)
        weights = torch.randn((len(whole), *output.shape[1:]), generator=generator, dtype=torch.float64).to(case.dtype)
        (output * weights[part] + output**2 * weights[part]).sum().backward()
        assert x.grad is not None
        results[f"output{step}"], results[f"gradient{step}"] = output.detach(), x.grad
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None
        results[f"of {name}"] = parameter.grad
    results |= {f"state {name}": value for name, value in layer.named_buffers()}
    return {name: value.contiguous().clone() for name, value in results.items()}


def fresh(case: Case) -> nn.Module:
    torch.manual_seed(3)
    layer = case.make()
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 1.5)
    return layer.to(case.dtype)


def work(rank: int, folder: Path) -> None:
    """One of the two processes: every case on its slice, results into a file."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    results = {}
    for name, case in CASES.items():
        part = slice(None, case.first) if rank == 0 else slice(case.first, None)
        found = run_case(case, synchronise_batchnorm(fresh(case)), part)
        results |= {f"{name}/{key}": value for key, value in found.items()}
    save_file(results, folder / f"{rank}.safetensors")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shares(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each of two processes found."""
    folder = tmp_path_factory.mktemp("two")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    commands = [[sys.executable, __file__, str(rank), str(folder)] for rank in range(2)]
    running = [subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) for command in commands]
    for process in running:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors
    return [load_file(folder / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_equal_one(name: str, shares: list[dict[str, Tensor]]) -> None:
    case = CASES[name]
    expected = run_case(case, fresh(case), slice(None))
    for key, value in expected.items():
        first, second = (share[f"{name}/{key}"] for share in shares)
        if key.startswith(("output", "gradient")):
            found = torch.cat([first, second])
        elif key.startswith("state"):
            assert torch.equal(first, second), key
            found = first
        else:  # what a data-parallel wrapper adds up
            found = first + second
        scale = float(value.abs().max()) if value.is_floating_point() else 1.0
        assert found.dtype == value.dtype
        torch.testing.assert_close(
            found, value, rtol=0, atol=case.exact * max(scale, 1.0), msg=lambda m, k=key: f"{k}: {m}"
        )


@settings(deadline=None, max_examples=50)
@given(sizes=st.lists(st.integers(0, 6), min_size=1, max_size=4).filter(any), seed=st.integers(0, 999))
def test_combined_statistics_are_those_of_the_union(sizes: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    slices = [torch.randn(size, 2, 3, 2, generator=generator, dtype=torch.float64) * 5 + 40 for size in sizes]
    moments = [slice_statistics(x) for x in slices]
    counts = torch.tensor([float(x.shape[0] * 6) for x in slices], dtype=torch.float64)
    total, mean, variance = combine_statistics(
        counts, torch.stack([m for m, _ in moments]), torch.stack([v for _, v in moments])
    )
    union = torch.cat(slices).transpose(0, 1).flatten(1)
    assert float(total) == union.shape[1]
    torch.testing.assert_close(mean, union.mean(1))
    torch.testing.assert_close(variance, union.var(1, correction=0))


def test_half_precision_gives_wide_statistics() -> None:
    x = torch.randn(16, 3, 5, 5).bfloat16()
    mean, variance = slice_statistics(x)
    assert mean.dtype == variance.dtype == torch.float32
    torch.testing.assert_close(variance, x.float().var((0, 2, 3), correction=0))


def test_alone_it_is_plain_batch_norm() -> None:
    plain, synced = nn.BatchNorm2d(3), SyncedBatchNorm(3)
    assert plain.state_dict().keys() == synced.state_dict().keys()
    x = torch.randn(4, 3, 5, 5)
    assert torch.equal(plain(x), synced(x))
    assert torch.equal(plain.eval()(x), synced.eval()(x))
    assert all(
        torch.equal(a, b) for a, b in zip(plain.state_dict().values(), synced.state_dict().values(), strict=True)
    )
    with pytest.raises(ValueError, match="expected"):
        synced(torch.rand(3))


@pytest.mark.parametrize(("name", "side"), [("cifar-resnet", 8), ("mobilenetv3_small_050", 64), ("densenet121", 64)])
def test_conversion_keeps_network_and_names(name: str, side: int) -> None:
    torch.manual_seed(0)
    arguments = {"depth": 8} if name == "cifar-resnet" else {}
    network = build_backbone(name, **arguments)
    x = torch.rand(2, 3, side, side)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    expected = network.eval()(x)
    parameters = list(network.parameters())
    assert synchronise_batchnorm(network) is network
    assert list(network.state_dict()) == list(state)
    assert all(a is b for a, b in zip(parameters, network.parameters(), strict=True))
    assert torch.equal(network(x), expected)  # timm's activations inside batch norms are still there
    kinds = {type(module) for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}
    assert kinds == {SyncedBatchNorm}
    assert not any(module.training for module in network.modules())


if __name__ == "__main__":
    work(int(sys.argv[1]), Path(sys.argv[2]))
