"""Chains of convolutions: parameters by hand, and the forward pass from the state dict."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from partwise.models.contract import Backbone
from partwise.models.convnet import ConvNet, SmallAlexNet, SmallVgg11, make_norm


def naive_norm(x: Tensor, scale: Tensor, shift: Tensor, groups: int) -> Tensor:
    """Picture by picture and group by group."""
    size = x.shape[1] // groups
    out = torch.empty_like(x)
    for picture in range(x.shape[0]):
        for first in range(0, x.shape[1], size):
            own = x[picture, first : first + size]
            out[picture, first : first + size] = (own - own.mean()) / (own.var(correction=0) + 1e-5).sqrt()
    return out * scale[:, None, None] + shift[:, None, None]


ACTIVATIONS = {
    "relu": lambda x: x.clamp(min=0),
    "leaky_relu": lambda x: torch.where(x > 0, x, 0.01 * x),
    "sigmoid": lambda x: 1 / (1 + (-x).exp()),
    "swish": lambda x: x / (1 + (-x).exp()),
}
GROUPS = {"instance": 8, "layer": 1, "group": 4}


def naive_pool(x: Tensor, pooling: str) -> Tensor:
    if pooling == "none":
        return x
    height, width = x.shape[2] // 2 * 2, x.shape[3] // 2 * 2
    corners = torch.stack([x[:, :, dy:height:2, dx:width:2] for dy in (0, 1) for dx in (0, 1)])
    return corners.mean(0) if pooling == "average" else corners.amax(0)


@pytest.mark.parametrize("pooling", ["average", "max", "none"])
@pytest.mark.parametrize("norm", ["none", "instance", "layer", "group", "batch"])
@pytest.mark.parametrize("activation", ["relu", "swish"])
def test_forward_is_the_plain_one(norm: str, pooling: str, activation: str) -> None:
    torch.manual_seed(0)
    network = ConvNet(depth=2, width=8, norm=norm, pooling=pooling, activation=activation).double()
    images = x = torch.randn(2, 3, 9, 12, dtype=torch.float64)
    network(images)  # moves running statistics
    network.eval()
    state = network.state_dict()
    for block in range(2):
        at = f"stages.{block}"
        x = F.conv2d(x, state[f"{at}.0.weight"], state[f"{at}.0.bias"], padding=1)
        if norm == "batch":
            mean, var = state[f"{at}.1.running_mean"], state[f"{at}.1.running_var"]
            x = (x - mean[:, None, None]) / (var[:, None, None] + 1e-5).sqrt()
        elif norm != "none":
            x = naive_norm(x, state[f"{at}.1.weight"], state[f"{at}.1.bias"], GROUPS[norm])
        x = naive_pool(ACTIVATIONS[activation](x), pooling)
    torch.testing.assert_close(network(images), x)


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_activations(activation: str) -> None:
    network = ConvNet(depth=1, width=4, norm="none", activation=activation, pooling="none").double()
    images = torch.randn(1, 3, 4, 4, dtype=torch.float64)
    expected = ACTIVATIONS[activation](network.stages[0][0](images))
    torch.testing.assert_close(network(images), expected)


ALEXNET = [(128, 5), "pool", (192, 5), "pool", (256, 3), (192, 3), (192, 3), "pool"]
VGG11 = [(64, 3), "pool", (128, 3), "pool", (256, 3), (256, 3), "pool"]
VGG11 += [(512, 3), (512, 3), "pool", (512, 3), (512, 3), "pool"]


@pytest.mark.parametrize(
    ("make", "plan", "normed"), [(SmallAlexNet, ALEXNET, False), (SmallVgg11, VGG11, True)], ids=["alexnet", "vgg11"]
)
def test_published_layers_in_their_order(make: Any, plan: list[Any], normed: bool) -> None:
    torch.manual_seed(0)
    network = make()
    for parameter in network.parameters():
        if parameter.ndim == 1:
            nn.init.uniform_(parameter, 0.5, 1)
    images = x = torch.randn(2, 3, 32, 32)
    weights = iter(network.parameters())
    for step in plan:
        if step == "pool":
            x = naive_pool(x, "max")
            continue
        kernel, bias = next(weights), next(weights)
        assert kernel.shape == (step[0], x.shape[1], step[1], step[1])
        x = F.conv2d(x, kernel, bias, padding=step[1] // 2)
        x = naive_norm(x, next(weights), next(weights), step[0]) if normed else x
        x = x.clamp(min=0)
    assert next(weights, None) is None
    with torch.no_grad():
        torch.testing.assert_close(network(images), x, rtol=1e-4, atol=1e-4)


def conv(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel**2 + outputs


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (ConvNet, conv(3, 128, 3) + 2 * conv(128, 128, 3) + 3 * 256),
        (lambda: ConvNet(depth=5, width=32, norm="none", in_chans=1), conv(1, 32, 3) + 4 * conv(32, 32, 3)),
        (
            SmallAlexNet,
            conv(3, 128, 5) + conv(128, 192, 5) + conv(192, 256, 3) + conv(256, 192, 3) + conv(192, 192, 3),
        ),
        (lambda: SmallAlexNet(norm="batch"), 1_872_202 - (192 * 16 + 1) * 10 + 2 * (128 + 192 + 256 + 192 + 192)),
        (
            SmallVgg11,
            conv(3, 64, 3)
            + conv(64, 128, 3)
            + conv(128, 256, 3)
            + conv(256, 256, 3)
            + conv(256, 512, 3)
            + 3 * conv(512, 512, 3)
            + 2 * (64 + 128 + 256 * 2 + 512 * 4),
        ),
    ],
)
def test_parameters_by_hand(make: Any, expected: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in make().parameters()) == expected


@pytest.mark.parametrize(
    ("make", "side"),
    [(lambda: ConvNet(depth=4, width=8), 32), (SmallAlexNet, 32), (SmallVgg11, 32)],
)
def test_the_contract_of_a_backbone(make: Any, side: int) -> None:
    torch.manual_seed(0)
    network = make()
    assert isinstance(network, Backbone)
    images = torch.randn(2, 3, side, side)
    stages = network.forward_stages(images)
    assert tuple(stage.shape[1] for stage in stages) == network.stage_channels
    assert tuple(side // stage.shape[2] for stage in stages) == network.stage_strides
    assert torch.equal(network(images), stages[-1])
    before = images.clone()
    network.block(0, images)
    assert torch.equal(images, before)
    learned = [id(p) for n in range(network.num_blocks) for m in network.block_modules(n) for p in m.parameters()]
    assert sorted(learned) == sorted(id(parameter) for parameter in network.parameters())


def test_without_pools_maps_keep_their_size() -> None:
    network = ConvNet(depth=3, width=4, pooling="none")
    assert network.stage_strides == (1, 1, 1)
    assert network(torch.randn(1, 3, 5, 6)).shape == (1, 4, 5, 6)


def test_weights_start_as_torch_layers_do() -> None:
    torch.manual_seed(3)
    network = ConvNet(depth=1, width=16)
    torch.manual_seed(3)
    plain = nn.Conv2d(3, 16, 3, padding=1)
    assert torch.equal(network.stages[0][0].weight, plain.weight)
    assert torch.equal(network.stages[0][1].weight, torch.ones(16))


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="6 channels are no multiple of 4"):
        make_norm("group", 6)
    for wrong in ({"depth": 0}, {"norm": "instances"}, {"activation": "gelu"}, {"pooling": "avg"}, {"widht": 3}):
        with pytest.raises(ValidationError, match=next(iter(wrong))):
            ConvNet(**wrong)
