"""Foreign weights: every wrapping is seen through, and a file of another network is refused in words."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from partwise.config import UserError
from partwise.models.backbones import build_backbone
from partwise.models.weights import find_prefixes, flatten_tensors

SMALL: dict[str, Any] = {"depth": 8, "widths": [4, 6, 8]}


@pytest.fixture
def donor() -> nn.Module:
    torch.manual_seed(1)
    return build_backbone("cifar-resnet", **SMALL)


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def check_loaded(path: Path, donor: nn.Module) -> None:
    loaded = build_backbone("cifar-resnet", weights=path, **SMALL)
    assert all(torch.equal(value, donor.state_dict()[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize("prefix", ["", "module.", "classifier.backbone.", "stages."])
def test_safetensors_under_any_prefix(donor: nn.Module, prefix: str, tmp_path: Path) -> None:
    content = {f"{prefix}{key}": value for key, value in tensors(donor).items()}
    content |= {"fc.weight": torch.rand(10, 8), "epoch": torch.tensor(3)}
    save_file(content, tmp_path / "w.safetensors")
    check_loaded(tmp_path / "w.safetensors", donor)


@pytest.mark.parametrize("wrap", ["state_dict", "model", None])
def test_pth_in_any_dictionary(donor: nn.Module, wrap: str | None, tmp_path: Path) -> None:
    state = tensors(donor)
    torch.save({wrap: state, "epoch": 3, "arch": "small"} if wrap else state, tmp_path / "w.pth")
    check_loaded(tmp_path / "w.pth", donor)


def test_counters_may_be_absent(donor: nn.Module, tmp_path: Path) -> None:
    state = {key: value for key, value in tensors(donor).items() if not key.endswith("num_batches_tracked")}
    save_file(state, tmp_path / "w.safetensors")
    check_loaded(tmp_path / "w.safetensors", donor)


def test_timm_files_lose_their_classifier(tmp_path: Path) -> None:
    import timm

    torch.manual_seed(2)
    for name in ("resnet10t", "mobilenetv3_small_050", "convnext_atto"):
        full = timm.create_model(name, num_classes=7)
        save_file(tensors(full), tmp_path / f"{name}.safetensors")
        backbone = build_backbone(name, weights=tmp_path / f"{name}.safetensors").eval()
        images = torch.rand(1, 3, 64, 64)
        with torch.no_grad():
            stages = full.eval().forward_intermediates(images, intermediates_only=True)
            torch.testing.assert_close(backbone.forward_stages(images)[-1], stages[-1])


def test_another_depth_is_refused_both_ways(donor: nn.Module, tmp_path: Path) -> None:
    save_file(tensors(donor), tmp_path / "small.safetensors")
    deep = build_backbone("cifar-resnet", depth=14, widths=[4, 6, 8])
    save_file(tensors(deep), tmp_path / "deep.safetensors")
    with pytest.raises(
        UserError, match=r"do not fit cifar-resnet: 42 of 78 tensors match; stages\.0\.1\.conv1.* missing"
    ):
        build_backbone("cifar-resnet", weights=tmp_path / "small.safetensors", depth=14, widths=[4, 6, 8])
    with pytest.raises(UserError, match=r"42 of 42 tensors match; stages\.0\.1\..* is in the file only.* and 33 more"):
        build_backbone("cifar-resnet", weights=tmp_path / "deep.safetensors", **SMALL)


def test_another_width_says_both_shapes(donor: nn.Module, tmp_path: Path) -> None:
    save_file(tensors(donor), tmp_path / "w.safetensors")
    with pytest.raises(UserError, match=r"conv1\.weight is \(4, 3, 3, 3\) in the file, \(5, 3, 3, 3\) in the network"):
        build_backbone("cifar-resnet", weights=tmp_path / "w.safetensors", depth=8, widths=[5, 6, 8])


def test_a_network_stays_as_it_was_where_weights_do_not_fit(donor: nn.Module, tmp_path: Path) -> None:
    from partwise.models.weights import load_weights

    state = tensors(donor)
    del state["bn1.weight"]
    save_file(state, tmp_path / "w.safetensors")
    torch.manual_seed(5)
    other = build_backbone("cifar-resnet", **SMALL)
    before = tensors(other)
    with pytest.raises(UserError, match=r"41 of 42 .*; bn1\.weight is missing \(nearest in the file: conv1\.weight\)"):
        load_weights(other, tmp_path / "w.safetensors", name="small")
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


def test_two_networks_in_one_file_are_ambiguous(donor: nn.Module, tmp_path: Path) -> None:
    torch.save({"student": tensors(donor), "teacher": tensors(donor)}, tmp_path / "w.pth")
    with pytest.raises(UserError, match=r"more than once, under 'student\.', 'teacher\.'"):
        build_backbone("cifar-resnet", weights=tmp_path / "w.pth", **SMALL)


class Hostile:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path("/nowhere").joinpath, ("executed",))


def test_faulty_files_are_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{")
    (tmp_path / "empty.pth").write_bytes(b"")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "weights.h5").write_bytes(b"")
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps({"conv1.weight": Hostile()}))
    torch.save({"w": Hostile()}, tmp_path / "zipped.pth")
    torch.save({"epoch": 3}, tmp_path / "nothing.pth")
    reasons = {
        "absent.pth": "no such file",
        "torn.safetensors": "not a readable safetensors file",
        "empty.pth": "not readable as plain tensors",
        "text.pth": "not readable as plain tensors",
        "weights.h5": r"expected a \.safetensors or \.pth file",
        "hostile.pth": "not readable as plain tensors",
        "zipped.pth": "not readable as plain tensors",
        "nothing.pth": "0 of 42 tensors match",
    }
    for file, reason in reasons.items():
        with pytest.raises(UserError, match=rf"{file}.*{reason}"):
            build_backbone("cifar-resnet", weights=str(tmp_path / file), **SMALL)


def test_prefixes_and_flattening() -> None:
    assert find_prefixes(["a.x", "a.y", "b.x"], ["x", "y"]) == ["a."]
    assert find_prefixes(["x", "y.x"], ["x"]) == ["", "y."]
    assert find_prefixes(["q"], ["x"]) == []
    one = torch.ones(1)
    assert flatten_tensors({"a": {"b": one, "n": 3}, 4: one}) == {"a.b": one, "4": one}
