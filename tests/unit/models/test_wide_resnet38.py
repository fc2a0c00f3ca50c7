"""ResNet-38: parameters by arithmetic, published names, and the forward pass against a plain functional one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.models.wide_resnet38 import STAGES, WideResNet38

PLAIN = {  # unit -> inputs, middle, outputs, stride, dilations
    "b2": (64, 128, 128, 2, 1, 1),
    "b2_1": (128, 128, 128, 1, 1, 1),
    "b2_2": (128, 128, 128, 1, 1, 1),
    "b3": (128, 256, 256, 2, 1, 1),
    "b3_1": (256, 256, 256, 1, 1, 1),
    "b3_2": (256, 256, 256, 1, 1, 1),
    "b4": (256, 512, 512, 2, 1, 1),
    **{f"b4_{place}": (512, 512, 512, 1, 1, 1) for place in range(1, 6)},
    "b5": (512, 512, 1024, 1, 1, 2),
    "b5_1": (1024, 512, 1024, 1, 2, 2),
    "b5_2": (1024, 512, 1024, 1, 2, 2),
}
BOTTLENECKS = {"b6": (1024, 512, 1024, 2048), "b7": (2048, 1024, 2048, 4096)}


def count() -> int:
    """Weights of convolutions, then two numbers a channel of every norm."""
    total = 3 * 64 * 9
    for inputs, middle, outputs, stride, _, _ in PLAIN.values():
        total += 9 * inputs * middle + 9 * middle * outputs + 2 * (inputs + middle)
        total += inputs * outputs if inputs != outputs or stride == 2 else 0
    for inputs, quarter, half, outputs in BOTTLENECKS.values():
        total += inputs * quarter + 9 * quarter * half + half * outputs + inputs * outputs
        total += 2 * (inputs + quarter + half)
    return total + 2 * 4096


def test_parameters() -> None:
    with torch.device("meta"):
        backbone = WideResNet38()
    assert sum(p.numel() for p in backbone.parameters()) == count() == 105_070_912
    assert backbone.stage_channels == (128, 256, 512, 1024, 2048, 4096)
    assert (backbone.num_features, backbone.stride) == (4096, 8)


def test_names_are_the_published_ones() -> None:
    with torch.device("meta"):
        names = set(WideResNet38().state_dict())
    expected = {"conv1a.weight"}
    norms = {"bn7"}
    for unit, (inputs, _, outputs, stride, _, _) in PLAIN.items():
        expected |= {f"{unit}.conv_branch2a.weight", f"{unit}.conv_branch2b1.weight"}
        expected |= {f"{unit}.conv_branch1.weight"} if inputs != outputs or stride == 2 else set()
        norms |= {f"{unit}.bn_branch2a", f"{unit}.bn_branch2b1"}
    for unit in BOTTLENECKS:
        expected |= {f"{unit}.conv_{branch}.weight" for branch in ("branch1", "branch2a", "branch2b1", "branch2b2")}
        norms |= {f"{unit}.bn_{branch}" for branch in ("branch2a", "branch2b1", "branch2b2")}
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    assert names == expected | {f"{norm}.{part}" for norm in norms for part in parts}
    assert {unit for stage in STAGES for unit in stage} == PLAIN.keys() | BOTTLENECKS.keys()


def naive_stages(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """The network as PSA's code walks it: taps before units b3, b4, ... b7 and at the end, after BN and ReLU."""

    def active(x: Tensor, name: str) -> Tensor:
        names = [f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = (state[key].view(1, -1, 1, 1) for key in names)
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).relu()

    maps = []
    x = F.conv2d(x, state["conv1a.weight"], padding=1)
    for unit, (_, _, _, stride, first, second) in PLAIN.items():
        before = active(x, f"{unit}.bn_branch2a")
        if "_" not in unit and unit != "b2":
            maps.append(before)
        if f"{unit}.conv_branch1.weight" in state:
            x = F.conv2d(before, state[f"{unit}.conv_branch1.weight"], stride=stride)
        out = F.conv2d(before, state[f"{unit}.conv_branch2a.weight"], None, stride, first, first)
        out = active(out, f"{unit}.bn_branch2b1")
        x = x + F.conv2d(out, state[f"{unit}.conv_branch2b1.weight"], None, 1, second, second)
    for unit in BOTTLENECKS:
        before = active(x, f"{unit}.bn_branch2a")
        maps.append(before)
        out = active(F.conv2d(before, state[f"{unit}.conv_branch2a.weight"]), f"{unit}.bn_branch2b1")
        out = F.conv2d(out, state[f"{unit}.conv_branch2b1.weight"], None, 1, 4, 4)
        out = F.conv2d(active(out, f"{unit}.bn_branch2b2"), state[f"{unit}.conv_branch2b2.weight"])
        x = out + F.conv2d(before, state[f"{unit}.conv_branch1.weight"])
    return [*maps, active(x, "bn7")]


@pytest.fixture
def backbone() -> WideResNet38:
    """A narrow one whose norms have statistics of their own."""
    torch.manual_seed(0)
    network = WideResNet38(width=1 / 32).double()
    network(torch.rand(4, 3, 32, 32, dtype=torch.float64))
    for name, parameter in network.named_parameters():
        if "bn" in name:
            torch.nn.init.uniform_(parameter, 0.2, 0.8)
    return network.eval()


@pytest.mark.parametrize("size", [(32, 40), (37, 21)])
def test_stages_are_the_plain_ones(backbone: WideResNet38, size: tuple[int, int]) -> None:
    images = torch.rand(2, 3, *size, dtype=torch.float64)
    expected, found = naive_stages(backbone.state_dict(), images), backbone.forward_stages(images)
    for one, other, stride in zip(found, expected, backbone.stage_strides, strict=True):
        torch.testing.assert_close(one, other)
        assert one.shape[-2:] == (-(-size[0] // stride), -(-size[1] // stride))
    assert torch.equal(backbone(images), found[-1])
    assert backbone.stage_channels == tuple(one.shape[1] for one in found) == (4, 8, 16, 32, 64, 128)


def test_blocks_chain_and_leave_their_input_alone(backbone: WideResNet38) -> None:
    """What a split of the network behind any block needs."""
    x = images = torch.rand(1, 3, 24, 24, dtype=torch.float64)
    for number, expected in enumerate(backbone.forward_stages(images)):
        before = x.clone()
        after = backbone.block(number, x)
        assert torch.equal(after, expected) and torch.equal(x, before)
        x = after


def test_gradients_of_a_block_reach_its_own_modules(backbone: WideResNet38) -> None:
    names = {id(parameter): name for name, parameter in backbone.named_parameters()}
    x = torch.rand(2, 3, 16, 16, dtype=torch.float64)
    for number in range(backbone.num_blocks):
        backbone.zero_grad()
        x = backbone.block(number, x.detach())
        x.square().sum().backward()
        reached = {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
        own = [names[id(p)] for module in backbone.block_modules(number) for p in module.parameters()]
        assert sorted(own) == sorted(reached)


def test_dropout_acts_in_training_and_on_whole_channels(backbone: WideResNet38) -> None:
    images = torch.rand(1, 3, 16, 16, dtype=torch.float64)
    assert torch.equal(backbone(images), backbone(images))
    drops = [module for module in backbone.modules() if isinstance(module, torch.nn.Dropout2d)]
    assert [drop.p for drop in drops] == [0.3, 0.3, 0.5, 0.5]
    for drop in drops:
        drop.train()
    assert not torch.equal(backbone(images), backbone(images))
    shallow = backbone.forward_stages(images)[:4]
    assert all(torch.equal(one, other) for one, other in zip(shallow, backbone.forward_stages(images), strict=False))


def test_every_parameter_has_a_gradient(backbone: WideResNet38) -> None:
    backbone.train()
    backbone(torch.rand(2, 3, 16, 16, dtype=torch.float64)).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in backbone.parameters())


@pytest.mark.parametrize("width", [0.0, 0.01, 5.0])
def test_silly_widths_are_refused(width: float) -> None:
    with pytest.raises(ValueError, match="width"):
        WideResNet38(width=width)
