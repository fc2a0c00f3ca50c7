"""Two answers from one feature vector: what they are made of, any backbone, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch

from partwise.config import UserError
from partwise.models.backbones import build_backbone
from partwise.models.saved import NetworkSpec, build_network, load_networks, save_networks
from partwise.models.two_heads import TwoHeads, build_two_heads, check_grey

SMALL: dict[str, Any] = {"backbone": "cifar-resnet", "arguments": {"depth": 8, "widths": [4, 6, 8]}, "num_types": 5}


def small(**options: Any) -> TwoHeads:
    torch.manual_seed(0)
    return build_two_heads(**SMALL | options).eval()


@pytest.mark.parametrize("stacked", [1, 3])
def test_answers_are_the_naive_ones(stacked: int) -> None:
    network, images = small(stacked=stacked), torch.rand(3, 1, 16, 16)
    rows = []
    for image in images:
        standard = (image - image.mean()) / (image.std(correction=0) + 1e-6)
        rows.append(network.backbone(torch.cat([standard] * stacked)[None])[0])
    mean = torch.stack(rows).flatten(2).mean(2)
    found = network(images)
    torch.testing.assert_close(found.type, mean @ network.type_head.weight.T + network.type_head.bias)
    torch.testing.assert_close(found.polarity, mean @ network.polarity_head.weight.T + network.polarity_head.bias)
    assert found.type.shape == (3, 5) and found.polarity.shape == (3, 2)


def test_the_scale_of_grey_does_not_matter() -> None:
    network, images = small(), torch.rand(2, 1, 16, 16)
    for one, other in zip(network(images), network(images * 255), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("backbone", "arguments", "side"), [("resnet10t", {}, 64), ("vit_tiny_patch16_224", {"img_size": 32}, 32)]
)
@pytest.mark.parametrize("stacked", [1, 3])
def test_any_timm_backbone(backbone: str, arguments: dict[str, Any], side: int, stacked: int) -> None:
    network = build_two_heads(backbone=backbone, arguments=arguments, stacked=stacked)  # type: ignore[arg-type]
    found = network(torch.rand(2, 1, side, side))
    (found.type.sum() + found.polarity.sum()).backward()
    assert found.type.shape == (2, 24) and found.polarity.shape == (2, 2)
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_dropout_stands_before_the_linear_layers() -> None:
    network, images = small(dropout=0.9), torch.rand(2, 1, 16, 16)
    assert torch.equal(network(images).type, network(images).type)
    network.dropout.train()
    assert not torch.equal(network(images).type, network(images).type)


@pytest.mark.parametrize("shape", [(2, 3, 16, 16), (2, 16, 16), (1, 16)])
def test_pictures_in_colour_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected grey ones, \(B, 1, H, W\)"):
        small()(torch.rand(shape))
    with pytest.raises(ValueError, match=r"\(2, 1, 8, 9\).* \(B, 1, 8, 8\)"):
        check_grey(torch.rand(2, 1, 8, 9), side=8)


def test_it_is_rebuilt_from_a_file(tmp_path: Path) -> None:
    spec, network = NetworkSpec("two_heads", SMALL | {"stacked": 1}), small(stacked=1)
    save_networks(tmp_path / "m.safetensors", {"model": network}, {"model": spec}, {})
    again = load_networks(tmp_path / "m.safetensors").networks["model"]
    images = torch.rand(2, 1, 16, 16)
    for one, other in zip(network(images), again(images), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stacked": 2}, "two_heads: arguments do not fit"),
        ({"num_types": 0}, "two_heads: arguments do not fit"),
        ({"dropout": 1.0}, "two_heads: arguments do not fit"),
        ({"backbone": "resnt20", "arguments": {}}, "nearest: 'resnet20'"),
    ],
)
def test_what_nobody_should_build(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_network(NetworkSpec("two_heads", SMALL | change))


def test_a_backbone_of_ones_own_will_do() -> None:
    network = TwoHeads(build_backbone("cifar-resnet", depth=8, in_chans=1), num_types=3, stacked=1)
    assert network(torch.rand(1, 1, 8, 8)).type.shape == (1, 3)
