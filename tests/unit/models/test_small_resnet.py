"""Residual networks for small pictures: parameters by hand, and the forward pass from the state dict."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.models.contract import Backbone
from partwise.models.small_resnet import SmallResNet


def count(blocks: int, width: int) -> int:
    """Convolutions without bias and two numbers a channel of every norm; a shortcut where channels double."""

    def conv(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs

    total, inputs = conv(3, width, 3), width
    for stage in range(4):
        outputs = width * 2**stage
        total += conv(inputs, outputs, 3) + conv(outputs, outputs, 3) + (blocks - 1) * 2 * conv(outputs, outputs, 3)
        total += conv(inputs, outputs, 1) if stage else 0
        inputs = outputs
    return total


@pytest.mark.parametrize("halving", ["stride", "average"])
@pytest.mark.parametrize(("blocks", "width"), [(2, 64), (1, 32)])
def test_parameters_by_hand(blocks: int, width: int, halving: str) -> None:
    with torch.device("meta"):
        network = SmallResNet(blocks=(blocks,) * 4, width=width, halving=halving)
    assert sum(parameter.numel() for parameter in network.parameters()) == count(blocks, width)


def test_resnet18_has_the_known_size() -> None:
    assert count(2, 64) + 512 * 10 + 10 == 11_173_962


def naive_forward(state: dict[str, Tensor], x: Tensor, *, blocks: int, halving: str) -> Tensor:
    """Every block written out, with norms over each channel of each picture."""

    def norm(x: Tensor, at: str) -> Tensor:
        mean, var = x.mean((2, 3), keepdim=True), x.var((2, 3), correction=0, keepdim=True)
        return (x - mean) / (var + 1e-5).sqrt() * state[f"{at}.weight"][:, None, None] + state[f"{at}.bias"][
            :, None, None
        ]

    def halved(x: Tensor) -> Tensor:
        return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4

    x = norm(F.conv2d(x, state["stem.0.weight"], padding=1), "stem.1").clamp(min=0)
    for stage in range(4):
        for block in range(blocks):
            at, halve = f"stages.{stage}.{block}", stage > 0 and block == 0
            out = F.conv2d(x, state[f"{at}.first.0.weight"], padding=1)
            out = out[..., ::2, ::2] if halve and halving == "stride" else out
            out = norm(out, f"{at}.first.1").clamp(min=0)
            out = halved(out) if halve and halving == "average" else out
            out = norm(F.conv2d(out, state[f"{at}.second.0.weight"], padding=1), f"{at}.second.1")
            if halve:
                shortcut = F.conv2d(x, state[f"{at}.shortcut.0.weight"])
                shortcut = shortcut[..., ::2, ::2] if halving == "stride" else halved(shortcut)
                x = norm(shortcut, f"{at}.shortcut.{1 if halving == 'stride' else 2}")
            x = (out + x).clamp(min=0)
    return x


@pytest.mark.parametrize("halving", ["stride", "average"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_forward_is_the_plain_one(blocks: int, halving: str) -> None:
    torch.manual_seed(0)
    network = SmallResNet(blocks=(blocks,) * 4, width=4, halving=halving).double()
    for parameter in network.parameters():
        torch.nn.init.uniform_(parameter, -0.5, 0.5)
    images = torch.randn(2, 3, 16, 24, dtype=torch.float64)
    expected = naive_forward(network.state_dict(), images, blocks=blocks, halving=halving)
    torch.testing.assert_close(network(images), expected)


@pytest.mark.parametrize("arguments", [{}, {"halving": "average"}, {"norm": "batch"}, {"norm": "none"}])
def test_the_contract_of_a_backbone(arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    network = SmallResNet(width=4, blocks=(1, 1, 1, 2), **arguments)
    assert isinstance(network, Backbone)
    images = torch.randn(2, 3, 16, 16)
    before, stages = images.clone(), network.forward_stages(images)
    assert torch.equal(images, before)
    assert tuple(stage.shape[1] for stage in stages) == network.stage_channels == (4, 8, 16, 32)
    assert tuple(16 // stage.shape[2] for stage in stages) == network.stage_strides
    kept = [stage.clone() for stage in stages]
    assert torch.equal(network.block(1, stages[0]), stages[1]) or arguments.get("norm") == "batch"
    assert all(torch.equal(one, other) for one, other in zip(stages, kept, strict=True))
    learned = [id(p) for n in range(network.num_blocks) for m in network.block_modules(n) for p in m.parameters()]
    assert sorted(learned) == sorted(id(parameter) for parameter in network.parameters())
