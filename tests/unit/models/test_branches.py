"""Noise on residual branches: each factor and gradient against its rule, and the networks that have a place for it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import nn

from partwise.config import UserError
from partwise.models.backbones import build_backbone
from partwise.models.branches import DropBlock, ShakeDrop, StochasticDepth, regularise


def test_stochastic_depth_drops_all_or_nothing_and_is_scaled_when_used() -> None:
    torch.manual_seed(0)
    layer, x = StochasticDepth(0.25), torch.rand(3, 2, 4, 4)
    seen = []
    for _ in range(2000):
        out = layer(x)
        assert torch.equal(out, x) or not out.any()
        seen.append(bool(out.any()))
    assert 0.72 < sum(seen) / len(seen) < 0.78
    assert torch.equal(layer.eval()(x), x * 0.75)


def test_shakedrop_shakes_forward_and_backward_by_other_numbers() -> None:
    torch.manual_seed(0)
    layer, still, forward, backward = ShakeDrop(0.6), 0, [], []
    for _ in range(1500):
        x = torch.ones(4, 2, 3, 3, requires_grad=True)
        out = layer(x)
        out.sum().backward()
        assert x.grad is not None
        a, b = out.detach()[:, 0, 0, 0], x.grad[:, 0, 0, 0]
        torch.testing.assert_close(out.detach(), a[:, None, None, None].expand_as(out))  # one factor a picture
        torch.testing.assert_close(x.grad, b[:, None, None, None].expand_as(x.grad))
        if torch.allclose(a, torch.ones(4)) and torch.equal(b, torch.ones(4)):
            still += 1
        else:
            forward.append(a)
            backward.append(b)
    assert 0.36 < still / 1500 < 0.44
    alpha, beta = torch.cat(forward), torch.cat(backward)
    assert -1 <= alpha.min() < -0.98 and 0.98 < alpha.max() <= 1.000001 and abs(float(alpha.mean())) < 0.04
    assert 0 <= beta.min() < 0.02 and 0.98 < beta.max() <= 1 and abs(float(beta.mean()) - 0.5) < 0.02
    assert abs(float(torch.corrcoef(torch.stack((alpha, beta)))[0, 1])) < 0.06
    x = torch.rand(2, 3)
    torch.testing.assert_close(layer.eval()(x), 0.4 * x)


def test_dropblock_drops_squares_and_scales_the_rest() -> None:
    torch.manual_seed(0)
    layer = DropBlock(0.1, 4)
    dropped = []
    for _ in range(60):
        out = layer(torch.ones(8, 6, 12, 12))
        kept = out != 0
        dropped.append(1 - kept.float().mean())
        torch.testing.assert_close(out[kept], torch.full_like(out[kept], 1 / kept.float().mean()))
        # Every dropped cell lies in a dropped square of four.
        holes = (~kept).float()
        whole = nn.functional.avg_pool2d(holes, 4, stride=1) == 1
        covered = nn.functional.max_pool2d(nn.functional.pad(whole.float(), [3] * 4), 4, stride=1)
        assert torch.equal(covered, holes)
    assert 0.08 < float(torch.stack(dropped).mean()) < 0.105  # squares overlap, so a little less
    assert torch.equal(layer.eval()(torch.ones(1, 1, 3, 3)), torch.ones(1, 1, 3, 3))
    assert DropBlock(0.2, 7).train()(torch.ones(2, 2, 3, 2)).shape == (2, 2, 3, 2)


@pytest.mark.parametrize(
    ("name", "arguments", "blocks"),
    [
        ("cifar-resnet", {"depth": 8}, 3),
        ("cifar-resnet", {"depth": 11, "block": "bottleneck"}, 3),
        ("pyramidnet", {"depth": 20, "alpha": 10}, 6),
        ("wide-resnet", {"depth": 10, "widen": 1}, 3),
        ("small-resnet10", {}, 4),
        ("resnet18", {}, 8),
        ("convnext_atto", {}, 12),
    ],
)
def test_every_block_of_residual_networks_has_a_place(name: str, arguments: dict[str, int], blocks: int) -> None:
    network = build_backbone(name, **arguments)
    keys = list(network.state_dict())
    regularise(network, kind="shakedrop", rate=0.5)
    rates = [module.rate for module in network.modules() if isinstance(module, ShakeDrop)]
    assert rates == pytest.approx([0.5 * (number + 1) / blocks for number in range(blocks)])
    assert list(network.state_dict()) == keys, "nothing to learn, nothing to store"
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # timm's branches begin at zero
    torch.manual_seed(1)
    x = torch.rand(2, 3, 64, 64)
    network.train()
    first = network(x)
    assert not all(torch.equal(network(x), first) for _ in range(6))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_a_used_branch_is_scaled_in_the_network() -> None:
    """One block by hand: shortcut plus 1 - rate times the branch."""
    plain = build_backbone("pyramidnet", depth=11, alpha=4).eval()
    x = torch.rand(2, 3, 16, 16)
    block = plain.stages[0][0]  # type: ignore[index]
    entered = plain.bn1(plain.conv1(x))  # type: ignore[operator]
    shortcut = nn.functional.pad(entered, (0, 0, 0, 0, 0, block.outputs - entered.shape[1]))
    whole = block(entered) - shortcut
    regularise(plain, kind="stochastic_depth", rate=0.4, ramp="constant")
    torch.testing.assert_close(block(entered) - shortcut, 0.6 * whole)


def test_dropblock_is_in_the_deeper_half_and_ramps_are_kept() -> None:
    network = regularise(build_backbone("cifar-resnet", depth=14), kind="dropblock", rate=0.1, size=3)
    found = [module for module in network.modules() if isinstance(module, DropBlock)]
    assert [(block.rate, block.size) for block in found] == [(0.1, 3)] * 3
    network = regularise(build_backbone("cifar-resnet", depth=14), kind="stochastic_depth", rate=0.3, ramp="constant")
    assert {m.rate for m in network.modules() if isinstance(m, StochasticDepth)} == {0.3}
    rising = regularise(build_backbone("cifar-resnet", depth=14), kind="stochastic_depth", rate=0.3)
    rates = [m.rate for m in rising.modules() if isinstance(m, StochasticDepth)]
    assert all(low < high for low, high in pairwise(rates)) and rates[-1] == 0.3


def test_networks_without_branches_are_refused() -> None:
    with pytest.raises(UserError, match="no residual branches"):
        regularise(build_backbone("convnet"), kind="shakedrop", rate=0.5)
