"""The moving average against an explicit recursion, over a schedule of decays and every rule for buffers."""

import math

import pytest
import torch
from safetensors.torch import load, save
from torch import nn

from partwise.models.averaging import Buffers, ModuleAverage, exchange, lerp_into


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))


def disturb(module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter))
    module(torch.rand(4, 3, 5, 5))


def test_weights_follow_the_recursion() -> None:
    module = network()
    average = ModuleAverage(module)
    expected = [parameter.double().clone() for parameter in module.parameters()]
    for step in range(8):
        decay = 1 - 0.5 * (1 + math.cos(math.pi * step / 8)) * 0.3
        disturb(module)
        average.update(module, decay=decay)
        expected = [
            decay * old + (1 - decay) * new.double() for old, new in zip(expected, module.parameters(), strict=True)
        ]
    for found, value in zip(average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(found.double(), value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("buffers", ["copy", "average", "keep"])
def test_buffers_follow_their_rule(buffers: Buffers) -> None:
    module = network()
    average = ModuleAverage(module, buffers=buffers)
    before = module[1].running_mean.clone()
    disturb(module)
    average.update(module, decay=0.75)
    follows = {"copy": module[1].running_mean, "average": 0.75 * before + 0.25 * module[1].running_mean, "keep": before}
    torch.testing.assert_close(average.module[1].running_mean, follows[buffers])
    assert int(average.module[1].num_batches_tracked) == (0 if buffers == "keep" else 1)


def test_extremes_and_independence() -> None:
    module = network()
    average = ModuleAverage(module)
    frozen = [parameter.clone() for parameter in average.parameters()]
    disturb(module)
    average.update(module, decay=1.0)
    assert all(torch.equal(a, b) for a, b in zip(average.parameters(), frozen, strict=True))
    average.update(module, decay=0.0)
    assert all(torch.equal(a, b) for a, b in zip(average.module.parameters(), module.parameters(), strict=True))
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.requires_grad for parameter in module.parameters())
    images = torch.rand(1, 3, 5, 5)
    assert torch.equal(average(images), module.eval()(images))


def test_state_goes_through_safetensors() -> None:
    module = network()
    average = ModuleAverage(module)
    disturb(module)
    average.update(module, decay=0.5)
    other = ModuleAverage(network())
    other.load_state_dict(load(save(average.state_dict())))
    for name, value in average.state_dict().items():
        assert torch.equal(other.state_dict()[name], value)


def test_another_network_is_refused() -> None:
    with pytest.raises(AssertionError, match="another network"):
        ModuleAverage(network()).update(nn.Linear(2, 2), decay=0.5)


def test_lerp_into_of_nothing_and_of_mixed_types() -> None:
    lerp_into([], [], decay=0.5)
    targets = [torch.zeros(2), torch.zeros(3, dtype=torch.float64)]
    lerp_into(targets, [torch.ones(2), torch.ones(3, dtype=torch.float64)], decay=0.25)
    assert all(torch.equal(target, torch.full_like(target, 0.75)) for target in targets)


def test_exchange_swaps_everything_once() -> None:
    first, second = network(), network()
    disturb(second)
    first[0].again = first[3]  # a shared layer must not be swapped back
    second[0].again = second[3]
    expected = [{key: value.clone() for key, value in net.state_dict().items()} for net in (second, first)]
    exchange(first, second)
    for net, state in zip((first, second), expected, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in net.state_dict().items())
