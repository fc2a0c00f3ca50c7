"""The networks of dataset distillation: published sizes, flattened features, frames, and answers to mistakes."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from partwise.config import UserError
from partwise.models import saved
from partwise.models.distillation import ARCHITECTURES, FlatClassifier, build_flat_classifier


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


CONVNET = conv(3, 128, 3) + 2 * conv(128, 128, 3) + 3 * 2 * 128
ALEXNET = conv(3, 128, 5) + conv(128, 192, 5) + conv(192, 256, 3) + conv(256, 192, 3) + conv(192, 192, 3)
VGG11 = (
    conv(3, 64, 3)
    + conv(64, 128, 3)
    + conv(128, 256, 3)
    + conv(256, 256, 3)
    + conv(256, 512, 3)
    + 3 * conv(512, 512, 3)
) + 2 * (64 + 128 + 2 * 256 + 4 * 512)
RESNET18 = 11_173_962 - linear(512, 10)
SIZES: dict[str, tuple[int, int, int, int]] = {
    "convnet-d3": (32, 10, 320_010, 2048),
    "convnet": (32, 100, 504_420, 2048),
    "convnet-d4": (64, 10, CONVNET + conv(128, 128, 3) + 256 + linear(2048, 10), 2048),
    "convnet-d5": (128, 10, CONVNET + 2 * (conv(128, 128, 3) + 256) + linear(2048, 10), 2048),
    "convnet-d6": (224, 10, CONVNET + 3 * (conv(128, 128, 3) + 256) + linear(1152, 10), 1152),
    "mlp": (32, 10, linear(3072, 128) + linear(128, 128) + linear(128, 10), 128),
    "lenet": (
        32,
        10,
        conv(3, 6, 5) + conv(6, 16, 5) + linear(16 * 25, 120) + linear(120, 84) + linear(84, 10),
        84,
    ),
    "alexnet": (32, 10, ALEXNET + linear(192 * 16, 10), 3072),
    "vgg11": (32, 10, VGG11 + linear(512, 10), 512),
    "resnet18": (32, 10, RESNET18 + linear(512, 10), 512),
    "resnet18-ap": (32, 10, RESNET18 + linear(512 * 16, 10), 8192),
    # stem 928, stages 18,560 + 57,728 + 230,144 + 919,040 with norms and shortcuts
    "resnet10": (32, 10, 928 + 18_560 + 57_728 + 230_144 + 919_040 + linear(256, 10), 256),
}
"""Name -> (pixels a side, classes, parameters, length of the embedding)."""


def test_every_architecture_is_counted() -> None:
    assert set(SIZES) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_embeddings(name: str) -> None:
    side, classes, parameters, length = SIZES[name]
    with torch.device("meta"):
        network = build_flat_classifier(architecture=name, num_classes=classes, size=side)
        images = torch.empty(2, 3, side, side)
        assert network.embed(images).shape == (2, length) == (2, network.num_features)
        assert network(images).shape == (2, classes)
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters


@pytest.mark.parametrize("name", ["convnet", "lenet", "resnet10", "mlp"])
def test_logits_are_one_linear_layer_on_the_embedding(name: str) -> None:
    torch.manual_seed(0)
    arguments = {"convnet": {"width": 4}, "mlp": {"width": 5}}.get(name, {})
    network = build_flat_classifier(architecture=name, num_classes=6, size=16, arguments=arguments).eval()
    images = torch.randn(3, 3, 16, 16)
    features, embedded = network.features(images), network.embed(images)
    expected = torch.einsum("bd,kd->bk", embedded, network.fc.weight) + network.fc.bias
    torch.testing.assert_close(network(images), expected)
    if name == "convnet":  # channel by channel, row by row
        assert embedded[1, 4 + 3].item() == features[1, 1, 1, 1].item()
    if name == "resnet10":
        torch.testing.assert_close(embedded, features.mean((2, 3)))


def test_28_pixels_are_framed_as_32() -> None:
    """The published first padding of 3 on 28 px is a frame of 2 and the usual padding of 1."""
    torch.manual_seed(0)
    network = build_flat_classifier(architecture="convnet-d3", num_classes=10, size=28, in_chans=1)
    images = torch.randn(2, 1, 28, 28)
    assert network.num_features == 2048
    first = network.body.stages[0][0]
    padded = F.conv2d(images, first.weight, first.bias, padding=3)
    torch.testing.assert_close(first(network.border(images)), padded)
    assert network(images).shape == (2, 10)
    lenet = build_flat_classifier(architecture="lenet", num_classes=10, size=28, in_chans=1)
    assert lenet.body[7].in_features == 400 and lenet(images).shape == (2, 10)
    mlp = build_flat_classifier(architecture="mlp", num_classes=10, size=28, in_chans=1)
    assert mlp.body[1].in_features == 784 and mlp(images).shape == (2, 10)


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "convnet", "resnet10", "resnet18-ap"])
def test_forms_with_batch_norm(name: str) -> None:
    with torch.device("meta"):
        plain = build_flat_classifier(architecture=name, num_classes=10, size=32)
        normed = build_flat_classifier(architecture=name, num_classes=10, size=32, arguments={"norm": "batch"})
    kinds = [type(module) for module in normed.modules()]
    assert nn.BatchNorm2d in kinds and nn.GroupNorm not in kinds
    convolutions = [module for module in normed.modules() if isinstance(module, nn.Conv2d)]
    assert kinds.count(nn.BatchNorm2d) == len(convolutions)
    assert (name == "alexnet") == (nn.GroupNorm not in [type(module) for module in plain.modules()])


def test_same_seed_same_network() -> None:
    made = []
    for _ in range(2):
        torch.manual_seed(4)
        made.append(build_flat_classifier(architecture="convnet", num_classes=3, size=8, arguments={"width": 4}))
    assert all(torch.equal(a, b) for a, b in zip(made[0].parameters(), made[1].parameters(), strict=True))


def test_a_file_rebuilds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {**saved.BUILDERS, "flat_classifier": "partwise.models.distillation:build_flat_classifier"}
    monkeypatch.setattr(saved, "BUILDERS", rows)
    arguments = {"architecture": "convnet", "num_classes": 3, "size": 8, "arguments": {"width": 4, "norm": "batch"}}
    spec = saved.NetworkSpec("flat_classifier", arguments)
    network = saved.build_network(spec)
    images = torch.randn(2, 3, 8, 8)
    network(images)  # moves running statistics
    saved.save_networks(tmp_path / "m.safetensors", {"network": network}, {"network": spec}, {})
    loaded = saved.load_networks(tmp_path / "m.safetensors").networks["network"]
    assert torch.equal(loaded(images), network.eval()(images))


def test_residual_networks_are_no_chain() -> None:
    with torch.device("meta"):
        network = build_flat_classifier(architecture="resnet10", num_classes=3, size=16)
    assert isinstance(network, FlatClassifier)
    with pytest.raises(ValueError, match="SmallResNet is no chain of layers"):
        network.chain()


MISTAKES: list[tuple[str, int, dict[str, Any], str]] = [
    ("convnet-3", 32, {}, "unknown network 'convnet-3'; nearest: 'convnet-d3'"),
    ("zzz", 32, {}, "known: mlp, lenet, convnet"),
    ("convnet-d3", 32, {"depth": 4}, "network 'convnet-d3' fixes depth"),
    ("convnet", 32, {"in_chans": 4}, "fixes in_chans"),
    ("convnet", 32, {"widht": 4}, "no argument 'widht'; nearest: 'width'"),
    ("convnet", 32, {"norm": "instances"}, "norm='instances'"),
    ("convnet", 32, {"norm": "group", "width": 6}, "6 channels are no multiple of 4"),
    ("convnet-d5", 16, {}, "pictures of 16 px do not make a last map of whole cells of 32 px"),
    ("resnet18", 36, {}, "pictures of 36 px do not make a last map of whole cells of 8 px"),
    ("resnet10", 8, {}, "pictures of 8 px do not make a last map"),
    ("lenet", 15, {}, "pictures of 15 px are too small; it needs at least 16"),
    ("mlp", 32, {"wdth": 3}, "no argument 'wdth'; nearest: 'width'"),
    ("lenet", 32, {"side": 3}, "fixes side"),
]


@pytest.mark.parametrize(("name", "size", "arguments", "message"), MISTAKES)
def test_mistakes_are_answered(name: str, size: int, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_flat_classifier(architecture=name, num_classes=10, size=size, arguments=arguments)
    assert message in str(caught.value)
