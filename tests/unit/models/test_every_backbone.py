"""Every own network, and timm's four kinds of output, keep the contract: sizes, gradients, maps, layouts, files."""

from pathlib import Path
from typing import Any

import pytest
import torch

from partwise.config import UserError
from partwise.models.backbones import OWN, build_backbone
from partwise.models.contract import Backbone
from partwise.models.heads import ImageClassifier
from partwise.models.saved import NetworkSpec, build_network, load_networks, save_networks

FAMILIES: dict[str, dict[str, Any]] = {
    "cifar-resnet": {"depth": 11, "block": "bottleneck", "widths": [4, 6, 8], "last_stride": 1},
    "pyramidnet": {"depth": 20, "alpha": 10},
    "wide-resnet": {"depth": 10, "widen": 0.5},
    "convnet": {"depth": 2, "width": 8},
    "small-resnet": {"blocks": [1, 1, 1, 1], "width": 4, "norm": "batch"},
}
TIMM: dict[str, dict[str, Any]] = {
    "resnet10t": {},
    "timm/resnet10t": {"last_stride": 1},
    "mobilenetv3_small_050": {},
    "convnext_atto": {"output_stride": 16},
    "vit_tiny_patch16_224": {"img_size": 32},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 2, "embed_dim": 24},
}


@pytest.fixture(scope="module", params=[*FAMILIES, "resnet20", *TIMM])
def subject(request: pytest.FixtureRequest) -> tuple[str, dict[str, Any], Backbone, int]:
    """A name, its arguments, the network and the side of the pictures it is tried on."""
    name = request.param
    arguments = FAMILIES.get(name) or TIMM.get(name) or {}
    torch.manual_seed(0)
    return name, arguments, build_backbone(name, **arguments), arguments.get("img_size", 8 if name in OWN else 64)


Subject = tuple[str, dict[str, Any], Backbone, int]


def check_sizes(backbone: Backbone, images: torch.Tensor) -> None:
    side = images.shape[-1]
    with torch.no_grad():
        last, stages = backbone(images), backbone.forward_stages(images)
    assert last.shape == (1, backbone.num_features, side // backbone.stride, side // backbone.stride)
    assert tuple(stage.shape[1] for stage in stages) == backbone.stage_channels
    assert tuple(side // stage.shape[2] for stage in stages) == backbone.stage_strides
    assert list(backbone.stage_strides) == sorted(backbone.stage_strides)


CHAINS = {*FAMILIES, "resnet20", "resnet10t", "timm/resnet10t", "mobilenetv3_small_050", "convnext_atto"}
"""The subjects that are chains of blocks; token networks are none."""


def test_blocks_in_turn_are_the_network_and_leave_their_input_alone(subject: Subject) -> None:
    name, _, backbone, side = subject
    backbone.eval()
    images = torch.rand(2, 3, side, side)
    if name not in CHAINS:
        with pytest.raises(UserError, match="no chain of blocks"):
            backbone.block(0, images)
        return
    x = images
    with torch.no_grad():
        stages = backbone.forward_stages(images)
        for number in range(backbone.num_blocks):
            before = x.clone()
            after = backbone.block(number, x)
            assert torch.equal(x, before), number
            assert after.shape[-1] * backbone.stage_strides[number] == side
            if number + 1 < backbone.num_blocks:
                torch.testing.assert_close(after, stages[number])
            x = after
        torch.testing.assert_close(x, backbone(images))
    learned = [id(p) for n in range(backbone.num_blocks) for m in backbone.block_modules(n) for p in m.parameters()]
    assert sorted(learned) == sorted(id(p) for p in backbone.parameters())


def test_sizes_are_what_it_says(subject: Subject) -> None:
    _, _, backbone, side = subject
    check_sizes(backbone.eval(), torch.rand(1, 3, side, side))


@pytest.mark.parametrize("name", [name for name in OWN if name not in FAMILIES])
def test_sizes_of_published_networks(name: str) -> None:
    with torch.device("meta"):  # shapes without the arithmetic
        check_sizes(build_backbone(name).eval(), torch.rand(1, 3, 32, 32))


def test_gradient_reaches_every_parameter(subject: Subject) -> None:
    _, _, backbone, side = subject
    backbone.train()
    backbone.zero_grad()
    backbone(torch.rand(2, 3, side, side)).square().sum().backward()
    for name, parameter in backbone.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        parameter.grad = None


def test_logits_are_the_mean_of_the_maps(subject: Subject) -> None:
    _, _, backbone, side = subject
    classifier = ImageClassifier(backbone, 5, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25)).eval()
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        logits, maps = classifier.maps(images)
        assert torch.equal(logits, classifier(images))
        torch.testing.assert_close(maps.mean((2, 3)) + classifier.fc.bias, logits, rtol=1e-4, atol=1e-4)
    assert maps.shape == (2, 5, side // backbone.stride, side // backbone.stride)


def test_memory_format_changes_nothing(subject: Subject) -> None:
    _, _, backbone, side = subject
    backbone.eval()
    images = torch.rand(2, 3, side, side)
    with torch.no_grad():
        expected = backbone(images)
        backbone.to(memory_format=torch.channels_last)
        found = backbone(images.to(memory_format=torch.channels_last))
        backbone.to(memory_format=torch.contiguous_format)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()))


def test_round_trip_is_bit_equal(subject: Subject, tmp_path: Path) -> None:
    name, arguments, _, side = subject
    values = {
        "backbone": name,
        "arguments": arguments,
        "num_classes": 5,
        "mean": [0.5, 0.4, 0.3],
        "std": [0.2, 0.3, 0.2],
    }
    spec = NetworkSpec("classifier", values)
    network = build_network(spec).train()
    images = torch.rand(2, 3, side, side)
    network(images)  # running statistics and counters too
    save_networks(tmp_path / "m.safetensors", {"classifier": network}, {"classifier": spec}, {})
    loaded = load_networks(tmp_path / "m.safetensors").networks["classifier"]
    state, expected = loaded.state_dict(), network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    with torch.no_grad():
        assert torch.equal(loaded(images), network.eval()(images))
