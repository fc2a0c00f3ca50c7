"""Checkpoints: every optimiser back bit for bit, whole or not at all, and nothing taken from a file that is not ours."""

from __future__ import annotations

import io
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save, save_file
from torch import Tensor, nn

from partwise.config import OptimFields, UserError
from partwise.data.sample import Batch
from partwise.engine import checkpoint
from partwise.engine.checkpoint import State, read_state, write_state
from partwise.engine.loop import Interrupted, run_stages
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Plan, Products, TrainStage
from partwise.ops import draws
from tests.unit.engine.toys import Plain, Regression, make_job

OPTIMIZERS: dict[str, dict[str, object]] = {
    "sgd": {"name": "sgd", "momentum": 0.9},
    "sgd without momentum": {"name": "sgd", "momentum": 0.0},
    "adam": {"name": "adam", "momentum": 0.8, "beta2": 0.97},
    "adamw": {"name": "adamw", "decay_norm_and_bias": False},
}


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 2))


def step(net: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    generator = torch.Generator().manual_seed(number)
    loss = net(torch.randn(5, 4, generator=generator)).square().mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def whole(optimizer: torch.optim.Optimizer) -> Any:
    """A state dict with tensors as bytes and dtypes, so that `==` means bit for bit."""

    def plain(value: Any) -> Any:
        if isinstance(value, Tensor):
            return str(value.dtype), tuple(value.shape), value.contiguous().numpy().tobytes()
        if isinstance(value, dict):
            return {key: plain(inner) for key, inner in value.items()}
        return [plain(inner) for inner in value] if isinstance(value, list) else value

    return plain(optimizer.state_dict())


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_optimisers_come_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    fields = OptimFields.model_validate(OPTIMIZERS[kind] | {"lr": 0.05})
    net = network()
    optimizer = build_optimizer(parameter_groups(net, fields), fields)
    for number in range(3):
        step(net, optimizer, number)
    state = State(facts={"stage": "x"})
    state.add("network.net", net.state_dict())
    state.add_optimizer("net", optimizer)
    write_state(tmp_path / "last.safetensors", state)

    found = read_state(tmp_path / "last.safetensors")
    assert found is not None and found.facts["stage"] == "x"
    again = network()
    again.load_state_dict(found.under("network.net"))
    other = build_optimizer(parameter_groups(again, fields), fields)
    found.load_optimizer("net", other)
    assert whole(other) == whole(optimizer)
    for group in other.param_groups:
        assert "betas" not in group or isinstance(group["betas"], tuple)
    for number in range(3, 6):  # and they go on alike
        step(net, optimizer, number)
        step(again, other, number)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(net.parameters(), again.parameters(), strict=True))


def test_an_optimiser_that_took_no_step_comes_back(tmp_path: Path) -> None:
    fields = OptimFields(name="adamw")
    net = network()
    state = State(facts={"stage": "x"})
    state.add_optimizer("net", build_optimizer(parameter_groups(net, fields), fields))
    write_state(tmp_path / "last.safetensors", state)
    found = read_state(tmp_path / "last.safetensors")
    other = build_optimizer(parameter_groups(net, fields), fields)
    assert found is not None
    found.load_optimizer("net", other)
    assert other.state_dict()["state"] == {}


def test_every_kind_of_tensor_and_number_comes_back(tmp_path: Path) -> None:
    tensors = {
        "half": torch.tensor([1.5, float("nan"), -0.0], dtype=torch.float16),
        "brain": torch.tensor([[1.0, 3e38]], dtype=torch.bfloat16),
        "double": torch.tensor(0.1, dtype=torch.float64),
        "count": torch.tensor(2**40),
        "flags": torch.tensor([True, False]),
        "pixels": torch.arange(24, dtype=torch.uint8).reshape(2, 3, 4).permute(0, 2, 1),  # not contiguous
        "none": torch.empty(0, 3),
        "channels_last": torch.arange(48.0).reshape(1, 3, 4, 4).contiguous(memory_format=torch.channels_last),
    }
    facts = {
        "stage": "x",
        "seconds": 0.1 + 0.2,
        "step": 2**40,
        "best": None,
        "window": {"loss": float(torch.tensor(0.1))},
        "ä": "ß",
    }
    write_state(tmp_path / "deep" / "er.safetensors", State(tensors, facts))
    found = read_state(tmp_path / "deep" / "er.safetensors")
    assert found is not None and found.facts == facts and found.tensors.keys() == tensors.keys()
    for name, tensor in tensors.items():
        other = found.tensors[name]
        assert other.dtype == tensor.dtype and other.shape == tensor.shape, name
        # by bytes: NaN and the sign of zero count too
        assert other.contiguous().flatten().view(torch.uint8).tolist() == (
            tensor.contiguous().flatten().view(torch.uint8).tolist()
        ), name


def test_prefixes_do_not_run_into_one_another() -> None:
    state = State()
    state.add("network.a", {"w": torch.zeros(1)})
    state.add("network.ab", {"w": torch.ones(1)})
    assert list(state.under("network.a")) == ["w"] and state.under("network.a")["w"].item() == 0
    assert state.under("network.b") == {}


def test_there_is_nothing_to_read_at_first(tmp_path: Path) -> None:
    assert read_state(tmp_path / "last.safetensors") is None


# -- files that are not whole, or not ours -------------------------------------------------------------------------------


class Trap:
    """Unpickling this would write a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def good() -> bytes:
    return save({"network.net.w": torch.zeros(64)}, metadata={"partwise": json.dumps({"stage": "train"})})


def torch_saved(value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


FOREIGN: dict[str, Callable[[Path], bytes]] = {
    "empty": lambda trap: b"",
    "torn in the header": lambda trap: good()[:20],
    "torn in the tensors": lambda trap: good()[:-8],
    "zeros": lambda trap: b"\0" * 400,
    "header too long": lambda trap: (2**62).to_bytes(8, "little") + good()[8:],
    "of another program": lambda trap: save({"w": torch.zeros(3)}),
    "with other metadata": lambda trap: save({"w": torch.zeros(3)}, metadata={"format": "pt"}),
    "with facts that are no JSON": lambda trap: save({"w": torch.zeros(3)}, metadata={"partwise": "{'stage': 1"}),
    "with facts of something else": lambda trap: save({"w": torch.zeros(3)}, metadata={"partwise": '{"w": 1}'}),
    "with facts that are no mapping": lambda trap: save({"w": torch.zeros(3)}, metadata={"partwise": "[1]"}),
    "a pickle": lambda trap: pickle.dumps(Trap(trap)),
    "torch's own format": lambda trap: torch_saved({"w": Trap(trap)}),
    "text": lambda trap: b"not a checkpoint\n" * 40,
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_what_is_no_checkpoint_is_refused_by_name_and_not_executed(kind: str, tmp_path: Path) -> None:
    path, trap = tmp_path / "last.safetensors", tmp_path / "sprung"
    path.write_bytes(FOREIGN[kind](trap))
    with pytest.raises(UserError, match=r"last\.safetensors: is no whole checkpoint of partwise .*--fresh"):
        read_state(path)
    assert not trap.exists()


def test_a_folder_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "last.safetensors").mkdir()
    with pytest.raises(UserError, match="is no whole checkpoint"):
        read_state(tmp_path / "last.safetensors")


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    stage = Plain(job)
    stage.after_step = lambda done: setattr(job.runtime.interruption, "requested", done == 3)
    with pytest.raises(Interrupted):
        run_stages([stage], job)
    other = Plain(make_job(tmp_path))
    other.prepare = lambda products: setattr(other, "network", nn.Linear(5, 1))
    with pytest.raises(UserError, match=r"last\.safetensors: does not fit the networks of this run"):
        run_stages([other], other.job)


# -- whole or not at all -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_one_whole(
    failing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.safetensors"
    write_state(path, State({"w": torch.zeros(3)}, {"stage": "x", "step": 1}))

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fail)
        with pytest.raises(OSError, match="No space left"):
            write_state(path, State({"w": torch.ones(3)}, {"stage": "x", "step": 2}))
    found = read_state(path)
    assert found is not None and found.facts["step"] == 1 and found.tensors["w"].sum() == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["last.safetensors"], "no litter"


def test_no_reader_ever_sees_half_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At every call that reaches the disk the file is the old one or the new one."""
    path = tmp_path / "last.safetensors"
    write_state(path, State({"w": torch.zeros(300)}, {"stage": "x", "step": 1}))
    seen: list[int] = []

    def watched(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: Any, **options: Any) -> Any:
            for _ in range(2):  # before and after
                found = read_state(path)
                assert found is not None and found.tensors["w"].sum() == 300 * (found.facts["step"] - 1)
                seen.append(found.facts["step"])
                if _ == 0:
                    value = real(*arguments, **options)
            return value

        monkeypatch.setattr(os, name, call)

    for name in ("fsync", "replace"):
        watched(name)
    write_state(path, State({"w": torch.ones(300)}, {"stage": "x", "step": 2}))
    assert seen == [1, 1, 1, 2, 2, 2], "synced, then renamed, then the folder synced"


def test_nothing_here_can_unpickle() -> None:
    """The module knows neither pickle nor torch.load."""
    source = Path(checkpoint.__file__).read_text()
    assert "torch.load" not in source and "import pickle" not in source


# -- a real network ------------------------------------------------------------------------------------------------------


class Convolutional(Plain):
    """Convolutions in channels_last, whose optimiser state comes back in another layout of memory than it had."""

    def prepare(self, products: Products) -> None:
        self.network = nn.Sequential(
            nn.Conv2d(3, 7, 3, padding=1),
            nn.BatchNorm2d(7),
            nn.ReLU(),
            nn.Conv2d(7, 5, 3),
            nn.Flatten(),
            nn.Linear(180, 3),
        )

    def restore(self, products: Products) -> None:
        self.prepare(products)
        TrainStage.restore(self, products)

    def plans(self) -> dict[str, Plan]:
        fields = self.job.recipe.optim.model_copy(update={"name": self.name, "clip_norm": 0.5})
        return {"network": Plan(build_optimizer(parameter_groups(self.network, fields), fields), fields)}

    def loss_module(self) -> nn.Module:
        return Regression(self.network)

    def batches(self, first_step: int) -> Iterator[Batch]:
        number = first_step
        while True:
            generator = draws.generator(0, "pictures", number)
            images = torch.rand(4, 3, 8, 8, generator=generator)
            targets = F.one_hot(torch.randint(0, 3, (4,), generator=generator), 3).float()
            yield Batch([""] * 4, torch.arange(4), images, targets)
            number += 1


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_convolutions_in_channels_last_go_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    job = make_job(tmp_path / "whole", channels_last=True)
    run_stages([Convolutional(job, name)], job)
    for number in range(30):  # every step in a life of its own
        again = make_job(tmp_path / "broken", channels_last=True)
        stage = Convolutional(again, name)
        stage.after_step = lambda _, job=again: setattr(job.runtime.interruption, "requested", True)
        try:
            run_stages([stage], again)
            break
        except Interrupted:
            assert number < 29
    ours, theirs = (j.products.read(name, "networks") for j in (job, again))
    assert ours.keys() == theirs.keys()
    for key, tensor in ours.items():
        assert torch.equal(tensor, theirs[key]), key


@pytest.mark.parametrize("channels_last", [True, False])
def test_a_stage_that_is_taken_up_again_has_the_layout_it_was_trained_in(channels_last: bool, tmp_path: Path) -> None:
    """Else what is measured after a kill differs in its last digits from what is measured without one."""
    for _ in range(2):
        job = make_job(tmp_path, channels_last=channels_last)
        stage = Convolutional(job, "sgd")
        run_stages([stage], job)
        weight = stage.network[0].weight
        assert weight.is_contiguous(memory_format=torch.channels_last) is channels_last
        assert weight.is_contiguous() is not channels_last


def test_a_safetensors_file_with_the_right_header_but_other_names_is_refused(tmp_path: Path) -> None:
    """Facts that look right, tensors that do not: said as a mistake in the folder, not as a KeyError."""
    job = make_job(tmp_path)
    facts = {"stage": "plain", "counters": {"step": 3}, "metrics_size": 0}
    path = job.folder.checkpoints / "last.safetensors"
    path.parent.mkdir(parents=True)
    save_file({"other.w": torch.zeros(2)}, path, metadata={"partwise": json.dumps(facts)})
    with pytest.raises(UserError, match="does not fit the networks of this run"):
        run_stages([Plain(job)], job)
