"""Files of networks: what goes in comes out, writing is whole or nothing, and bad files are answered in words."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from partwise.config import UserError
from partwise.models import saved
from partwise.models.saved import BUILDERS, NetworkSpec, build_network, load_networks, save_networks

SPEC = NetworkSpec(
    "classifier",
    {
        "backbone": "cifar-resnet",
        "arguments": {"depth": 8, "widths": [4, 6, 8]},
        "num_classes": 3,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.2, 0.2, 0.2],
    },
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with a student and its teacher."""
    torch.manual_seed(0)
    file = tmp_path / "model.safetensors"
    networks = {"student": build_network(SPEC), "teacher": build_network(SPEC)}
    save_networks(file, networks, {"student": SPEC, "teacher": SPEC}, {"recipe": "cutmix/smoke"})
    return file


def test_several_networks_and_text(path: Path) -> None:
    before = torch.random.get_rng_state()
    loaded = load_networks(path)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert loaded.specs == {"student": SPEC, "teacher": SPEC}
    assert loaded.metadata == {"recipe": "cutmix/smoke"}
    tensors = load_file(path)
    for name, network in loaded.networks.items():
        assert not network.training
        assert all(torch.equal(value, tensors[f"{name}.{key}"]) for key, value in network.state_dict().items())
    assert not torch.equal(tensors["student.fc.weight"], tensors["teacher.fc.weight"])


def test_equal_networks_are_equal_files(path: Path, tmp_path: Path) -> None:
    found = load_networks(path)
    for number in range(8):
        about = {"recipe": "cutmix/smoke", "method": "cutmix", "facts": "{}"}
        save_networks(tmp_path / f"{number}.safetensors", found.networks, found.specs, about)
    assert len({(tmp_path / f"{number}.safetensors").read_bytes() for number in range(8)}) == 1


def test_shared_and_strided_tensors_are_written(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build_network(SPEC).to(memory_format=torch.channels_last)
    save_networks(tmp_path / "m.safetensors", {"a": network, "b": network}, {"a": SPEC, "b": SPEC}, {})
    for copy in load_networks(tmp_path / "m.safetensors").networks.values():
        for key, value in copy.state_dict().items():
            assert torch.equal(value, network.state_dict()[key])


def test_only_the_file_is_left_behind(path: Path) -> None:
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_a_failed_write_leaves_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = path.read_bytes()

    def full(tensors: Any, file: Path, metadata: Any) -> None:
        file.write_bytes(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(saved, "save_file", full)
    with pytest.raises(OSError, match="no space"):
        save_networks(path, {"a": nn.Linear(1, 1)}, {"a": SPEC}, {})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == ["model.safetensors"]


def test_builders_stay_inside_models() -> None:
    for target in BUILDERS.values():
        assert target.startswith("partwise.models.") and target.count(":") == 1


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (NetworkSpec("clasifier", {}), "unknown kind of network 'clasifier'; nearest: 'classifier'"),
        (NetworkSpec("os:system", {}), "unknown kind of network"),
        (NetworkSpec("classifier", SPEC.arguments | {"backbone": "resnt20", "arguments": {}}), "nearest: 'resnet20'"),
        (NetworkSpec("classifier", SPEC.arguments | {"weights": "/etc/passwd"}), "arguments do not fit"),
        (NetworkSpec("classifier", SPEC.arguments | {"arguments": {"weights": "x.pth"}}), "weights"),
        (NetworkSpec("classifier", SPEC.arguments | {"arguments": {"depth": 10**9}}), "sane size"),
        (NetworkSpec("classifier", SPEC.arguments | {"arguments": {"depth": 200_000}}), "depth"),
        (NetworkSpec("classifier", SPEC.arguments | {"num_classes": float("nan")}), "sane size"),
        (NetworkSpec("classifier", SPEC.arguments | {"std": [0.2, 0.2]}), "as many of each"),
        (NetworkSpec("classifier", {"a b": 1}), "no argument's name"),
        (NetworkSpec("classifier", {"x": Path("p")}), "plain value"),
        (
            NetworkSpec(
                "classifier", SPEC.arguments | {"backbone": "resnet10t", "arguments": {"checkpoint_path": "x"}}
            ),
            "checkpoint_path is not yours to set",
        ),
    ],
)
def test_specs_that_nobody_should_build(spec: NetworkSpec, message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_network(spec)
    assert message in str(caught.value)


def rewrite(
    path: Path, *, header: dict[str, str] | None = None, drop: str = "", add: dict[str, Any] | None = None
) -> None:
    """The file again with another header or other tensors."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = {key: value for key, value in load_file(path).items() if key != drop}
    save_file(tensors | (add or {}), path, metadata=metadata if header is None else header)


def own(networks: Any, version: Any = 1) -> dict[str, str]:
    return {"partwise": json.dumps({"format": version, "networks": networks})}


ROW = {"name": "classifier", "arguments": SPEC.arguments}
FAULTS: list[tuple[dict[str, Any], str]] = [
    ({"header": {}}, "not written by partwise"),
    ({"header": {"partwise": "{"}}, "its header is damaged"),
    ({"header": {"partwise": "[]"}}, "its header is damaged"),
    ({"header": {"partwise": "[" * 100_000}}, "its header is damaged"),
    ({"header": own({}, version=2)}, "format 2, but this version reads 1"),
    ({"header": own([])}, "its header is damaged"),
    ({"header": own({"student": {"name": "classifier"}})}, "its header is damaged"),
    ({"header": own({"student": {"name": 3, "arguments": {}}})}, "its header is damaged"),
    (
        {"header": own({"student": {"name": "evil", "arguments": {}}})},
        "network 'student': unknown kind of network 'evil'",
    ),
    ({"header": own({"student": ROW})}, "tensors of no network, first 'teacher."),
    ({"header": own({"student": ROW, "teacher": ROW, "third": ROW})}, "network 'third' does not fit its header"),
    ({"drop": "student.fc.bias"}, "fc.bias is missing (1 such tensors)"),
    ({"add": {"student.fc.more": torch.ones(1)}}, "fc.more is unknown"),
    ({"add": {"student.fc.bias": torch.ones(4)}}, "fc.bias is float32 (4,), not float32 (3,)"),
    ({"add": {"student.fc.bias": torch.ones(3, dtype=torch.int64)}}, "fc.bias is int64 (3,), not float32 (3,)"),
]


@pytest.mark.parametrize(("change", "message"), FAULTS, ids=[message[:24] for _, message in FAULTS])
def test_faulty_files_are_named_with_the_reason(path: Path, change: dict[str, Any], message: str) -> None:
    rewrite(path, **change)
    with pytest.raises(UserError) as caught:
        load_networks(path)
    assert str(caught.value).startswith(str(path)) and message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_absent_and_foreign_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_networks(tmp_path / "none.safetensors")
    for content in (b"", b"PK\x03\x04", b"\x80\x04." * 9, (2**62).to_bytes(8, "little") + b"{}"):
        (tmp_path / "odd.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="not a readable safetensors file"):
            load_networks(tmp_path / "odd.safetensors")


@settings(deadline=None, max_examples=25)
@given(share=st.floats(0, 0.999))
def test_a_torn_file_is_never_half_loaded(share: float, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "torn"
    folder.mkdir(exist_ok=True)
    whole = folder / "whole.safetensors"
    if not whole.exists():
        save_networks(whole, {"a": build_network(SPEC)}, {"a": SPEC}, {})
    content = whole.read_bytes()
    torn = folder / "torn.safetensors"
    torn.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_networks(torn)
