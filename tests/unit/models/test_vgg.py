"""VGG-GAP: its layers are VGG-16's, its weights fit, its blocks are the network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from partwise.config import UserError
from partwise.models.backbones import build_backbone

SMALL = {"widths": [4, 4, 6, 8, 8], "added": 10}


def test_it_is_vgg16_without_its_last_pool_and_dense_layers() -> None:
    with torch.device("meta"):
        network = build_backbone("vgg-gap")
        assert network(torch.empty(1, 3, 224, 224)).shape == (1, 1024, 14, 14)
    models = pytest.importorskip("torchvision.models")
    with torch.device("meta"):
        theirs = models.vgg16().features.state_dict()
    ours = {k.removeprefix("features."): v.shape for k, v in network.state_dict().items() if k.startswith("features")}
    assert ours == {key: value.shape for key, value in theirs.items()}
    assert sum(p.numel() for p in network.parameters()) == 14_714_688 + 512 * 9 * 1024 + 1024


def test_blocks_in_turn_are_the_network() -> None:
    torch.manual_seed(0)
    network = build_backbone("vgg-gap", **SMALL).eval()
    images = torch.rand(2, 3, 32, 48)
    whole, kept = network(images), images.clone()
    x = torch.relu(network.conv6(network.features(images)))  # type: ignore[operator]
    torch.testing.assert_close(whole, x)
    assert torch.equal(images, kept)
    stages = network.forward_stages(images)
    assert tuple(s.shape[1] for s in stages) == network.stage_channels
    assert tuple(32 // s.shape[2] for s in stages) == network.stage_strides
    listed = [module for number in range(5) for module in network.block_modules(number)]
    parameters = [p for module in listed for p in module.parameters()]
    assert {id(p) for p in parameters} == {id(p) for p in network.parameters()}


def test_weights_of_vgg16_fit_and_leave_the_added_convolution_random(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = build_backbone("vgg-gap", **SMALL)
    tensors = {key: value for key, value in source.state_dict().items() if key.startswith("features")}
    file = tmp_path / "vgg16.safetensors"
    save_file(tensors | {"classifier.0.weight": torch.zeros(3, 3)}, file)
    torch.manual_seed(2)
    loaded = build_backbone("vgg-gap", weights=file, **SMALL).state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in tensors.items())
    assert not torch.equal(loaded["conv6.weight"], source.state_dict()["conv6.weight"])
    save_file(dict(source.state_dict()), file)
    whole = build_backbone("vgg-gap", weights=file, **SMALL).state_dict()
    assert torch.equal(whole["conv6.weight"], source.state_dict()["conv6.weight"])
    del tensors["features.0.weight"]
    save_file(tensors, file)
    with pytest.raises(UserError, match=r"features\.0\.weight is missing"):
        build_backbone("vgg-gap", weights=file, **SMALL)
