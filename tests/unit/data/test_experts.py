"""The store of experts: what goes in comes out, a killed store goes on, and bad ones are answered in words."""

import dataclasses
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from partwise.config import UserError
from partwise.data import experts
from partwise.data.experts import (
    ExpertFacts,
    ExpertStore,
    begin_experts,
    encode_expert,
    expert_name,
    expert_path,
    finish_experts,
    index_of,
    open_experts,
    write_expert,
)

FACTS = ExpertFacts(
    network={"name": "convnet", "arguments": {"width": 4, "depth": 2, "mean": (0.5, 0.5)}},
    data="0123456789abcdef",
    whitening="fedcba9876543210",
    optimizer={"name": "sgd", "lr": 0.01, "batch": 256, "rho": 0.0},
    seed=3,
    epochs=5,
)
SHAPES = {"conv.weight": (4, 3, 3, 3), "conv.bias": (4,), "scale": ()}
OWN = {name: torch.empty(shape) for name, shape in SHAPES.items()}
STUDENT = {"network": FACTS.network, "data": FACTS.data, "whitening": FACTS.whitening, "parameters": OWN}


def trajectory(number: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(number)
    return {name: torch.randn(FACTS.epochs + 1, *shape, generator=generator) for name, shape in SHAPES.items()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished store of three experts."""
    for number in range(3):
        write_expert(tmp_path / "experts", number, trajectory(number), FACTS)
    finish_experts(tmp_path / "experts", FACTS, 3)
    return tmp_path / "experts"


def test_snapshots_of_an_expert(folder: Path) -> None:
    store = open_experts(folder, **STUDENT)
    assert (store.count, store.epochs) == (3, 5)
    for number in range(3):
        for start, end in ((0, 2), (3, 5), (5, 0)):
            first, last = store.snapshots(number, [start, end])
            assert first.keys() == last.keys() == SHAPES.keys()
            for name, stack in trajectory(number).items():
                assert torch.equal(first[name], stack[start]) and torch.equal(last[name], stack[end])
                assert first[name].dtype == torch.float32


def test_only_the_wanted_epochs_are_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Any] = []

    class Spy:
        def __init__(self, *arguments: Any, **options: Any) -> None:
            self.file = safe_open(*arguments, **options)

        def __enter__(self) -> "Spy":
            self.file.__enter__()
            return self

        def __exit__(self, *reason: Any) -> None:
            self.file.__exit__(*reason)

        def __getattr__(self, name: str) -> Any:
            assert name in ("metadata", "keys", "get_slice"), f"{name} reads more than a slice"
            return getattr(self.file, name)

        def get_slice(self, name: str) -> Any:
            inner = self.file.get_slice(name)

            class Slice:
                def __getitem__(self, index: slice) -> Tensor:
                    read.append((name, index.start, index.stop))
                    return inner[index]

            return Slice()

    store = open_experts(folder, **STUDENT)
    monkeypatch.setattr(experts, "safe_open", Spy)
    store.snapshots(1, [2, 4])
    assert sorted(read) == sorted((name, epoch, epoch + 1) for name in SHAPES for epoch in (2, 4))


def test_values_are_kept_when_the_file_is_replaced(folder: Path) -> None:
    (first,) = open_experts(folder, **STUDENT).snapshots(0, [1])
    write_expert(folder, 0, trajectory(9), FACTS)
    first["conv.bias"].add_(1)
    assert torch.equal(first["conv.bias"], trajectory(0)["conv.bias"][1] + 1)
    assert torch.equal(load_file(expert_path(folder, 0))["conv.bias"], trajectory(9)["conv.bias"])


def test_equal_experts_are_equal_files() -> None:
    assert len({encode_expert(trajectory(0), FACTS) for _ in range(4)}) == 1
    strided = {
        name: stack.double().transpose(0, -1).contiguous().transpose(0, -1) for name, stack in trajectory(0).items()
    }
    assert encode_expert(strided, FACTS) == encode_expert(trajectory(0), FACTS)


def test_a_stage_may_write_the_store(tmp_path: Path) -> None:
    """As engine/stages.py does: bytes under the item's name, an index with facts of its own beside ours."""
    for number in range(2):
        (tmp_path / f"{expert_name(number)}.safetensors").write_bytes(encode_expert(trajectory(number), FACTS))
    (tmp_path / "index.json").write_text(json.dumps({"name": "experts", "steps": 2} | index_of(FACTS, 2)))
    assert open_experts(tmp_path, **STUDENT).count == 2


def test_an_interrupted_store_goes_on(tmp_path: Path) -> None:
    assert begin_experts(tmp_path / "new", FACTS) == []
    for number in (0, 2):
        write_expert(tmp_path, number, trajectory(number), FACTS)
    (tmp_path / ".expert-00001.safetensors.abc.part").write_bytes(b"half")
    assert begin_experts(tmp_path, FACTS) == [0, 2]
    with pytest.raises(UserError, match=r"holds 2 experts, whose training did not finish, \(there is no index.json\)"):
        open_experts(tmp_path, **STUDENT)
    write_expert(tmp_path, 1, trajectory(1), FACTS)
    finish_experts(tmp_path, FACTS, 3)
    assert open_experts(tmp_path, **STUDENT).count == 3


KILLED = """
import os, signal, sys
from pathlib import Path
from partwise import run
*contents, folder = map(Path, sys.argv[1:])
run.write_atomically(folder / "expert-00000.safetensors", contents[0].read_bytes())
run.os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
run.write_atomically(folder / "expert-00001.safetensors", contents[1].read_bytes())
"""


def test_a_killed_process_leaves_whole_experts_only(tmp_path: Path) -> None:
    """Killed while it writes the second: what write_expert does, in a process that need not wait for torch."""
    folder, contents = tmp_path / "experts", [tmp_path / "0", tmp_path / "1"]
    for number, content in enumerate(contents):
        content.write_bytes(encode_expert(trajectory(number), FACTS))
    command = [sys.executable, "-c", KILLED, *map(str, contents), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len(list(folder.glob(".expert-00001.*.part"))) == 1, "it was not killed while it wrote"
    assert begin_experts(folder, FACTS) == [0]
    for number in (1, 2):
        write_expert(folder, number, trajectory(number), FACTS)
    finish_experts(folder, FACTS, 3)
    assert torch.equal(open_experts(folder, **STUDENT).snapshots(1, [4])[0]["scale"], trajectory(1)["scale"][4])


def test_a_store_is_not_finished_before_its_last_expert(tmp_path: Path) -> None:
    write_expert(tmp_path, 0, trajectory(0), FACTS)
    with pytest.raises(AssertionError, match=r"experts \[1\]"):
        finish_experts(tmp_path, FACTS, 2)
    assert not (tmp_path / "index.json").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 4}, "seed is 3 there and 4 here"),
        ({"optimizer": dict(FACTS.optimizer) | {"lr": 0.1}}, "optimizer.lr is 0.01 there and 0.1 here"),
        ({"optimizer": dict(FACTS.optimizer) | {"alpha": 1}}, "optimizer.alpha is none there and 1 here"),
        ({"whitening": ""}, "whitening is fedcba9876543210 there and none here"),
        ({"epochs": 6}, "epochs is 5 there and 6 here"),
    ],
)
def test_experts_of_two_kinds_are_not_mixed(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        begin_experts(folder, dataclasses.replace(FACTS, **change))
    assert str(caught.value).startswith(str(expert_path(folder, 0))) and message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"network": {"name": "convnet", "arguments": {"width": 8, "depth": 2, "mean": [0.5, 0.5]}}},
            "experts of another network: network.arguments.width is 4 there and 8 here",
        ),
        ({"network": {"name": "vgg11"}}, "experts of another network: network.name is convnet there and vgg11 here"),
        ({"whitening": ""}, "pictures whitened in another way: whitening is fedcba9876543210 there and none here"),
        ({"data": "ffff"}, "other pictures: data is 0123456789abcdef there and ffff here"),
        ({"parameters": OWN | {"conv.bias": torch.empty(5)}}, "conv.bias is [6, 4] there and [6, 5] here"),
        ({"parameters": OWN | {"fc.bias": torch.empty(5)}}, "fc.bias is none there and [6, 5] here"),
    ],
)
def test_another_student_is_refused(folder: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        open_experts(folder, **STUDENT | change)
    assert str(caught.value).startswith(str(folder)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_how_experts_were_trained_is_free(folder: Path) -> None:
    assert open_experts(folder, **STUDENT).facts["optimizer"]["lr"] == 0.01


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_torn_expert_is_named(folder: Path, share: float) -> None:
    path = expert_path(folder, 1)
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    store = ExpertStore(folder, FACTS.plain(), 3)
    for use in (
        lambda: open_experts(folder, **STUDENT),
        lambda: begin_experts(folder, FACTS),
        lambda: store.snapshots(1, [0]),
    ):
        with pytest.raises(UserError) as caught:
            use()
        assert str(caught.value).startswith(str(path)) and "is not a whole file of an expert" in str(caught.value)


@pytest.mark.parametrize("header", [{}, {"partwise": "[]"}, {"partwise": '{"format": 2, "expert": {}}'}])
def test_foreign_files_are_named(folder: Path, header: dict[str, str]) -> None:
    save_file(trajectory(2), expert_path(folder, 2), metadata=header)
    with pytest.raises(UserError, match="is no expert that this version of partwise reads"):
        open_experts(folder, **STUDENT)
    save_file(trajectory(2), expert_path(folder, 2), metadata={"partwise": "[" * 100_000})
    with pytest.raises(UserError, match="is not a whole file of an expert"):
        open_experts(folder, **STUDENT)


def test_an_absent_expert_is_named(folder: Path) -> None:
    expert_path(folder, 2).unlink()
    with pytest.raises(UserError, match=r"expert-00002.safetensors: no such file"):
        open_experts(folder, **STUDENT)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"experts": 3}',
        b'{"experts": {"format": 1, "count": 3, "facts": {}}}',
        json.dumps({"experts": index_of(FACTS, 3)["experts"] | {"format": 2}}).encode(),
        json.dumps(index_of(FACTS, 0)).encode(),
        json.dumps(index_of(dataclasses.replace(FACTS, epochs="many"), 3)).encode(),  # type: ignore[arg-type]
        b"\xff\xfe",
    ],
)
def test_a_damaged_index_is_named(folder: Path, content: bytes) -> None:
    (folder / "index.json").write_bytes(content)
    with pytest.raises(UserError, match=r"index\.json: is no (whole )?index"):
        open_experts(folder, **STUDENT)


def test_a_folder_without_experts(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match="holds no experts"):
            open_experts(folder, **STUDENT)


@pytest.mark.parametrize("epoch", [-1, 6])
def test_epochs_that_no_expert_has(folder: Path, epoch: int) -> None:
    with pytest.raises(UserError, match=f"epoch {epoch} of an expert: they have epochs 0 to 5"):
        open_experts(folder, **STUDENT).snapshots(0, [0, epoch])


def test_an_expert_that_went_wrong_is_not_stored(tmp_path: Path) -> None:
    spoiled = trajectory(0)
    spoiled["conv.bias"][3:, 1] = float("nan")
    with pytest.raises(UserError, match=r"conv\.bias is not finite after epoch 3"):
        write_expert(tmp_path, 0, spoiled, FACTS)
    assert list(tmp_path.iterdir()) == []
