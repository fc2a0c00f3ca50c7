"""Varifocal-Net against plain functional versions, the paper's sizes and counts, and which gradient reaches what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.config import UserError
from partwise.models.saved import NetworkSpec, build_network, load_networks, save_networks
from partwise.models.two_heads import TypeAndPolarity
from partwise.models.varifocal import Ensemble, Locator, VarifocalCnn, VarifocalNet, ViewNet
from partwise.ops.varifocal import box_gradient, pixel_boxes, square_boxes

SMALL: dict[str, Any] = {
    "frame": 64,
    "width": 1,
    "units": 1,
    "num_types": 5,
    "locator_hidden": 16,
    "ensemble_hidden": 8,
}


def small(**options: Any) -> VarifocalNet:
    torch.manual_seed(0)
    return VarifocalNet(**SMALL | options).eval()


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def shake_norms(network: nn.Module) -> None:
    """Norms that start as ones and zeros would hide a mistake."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean, module.running_var):
                assert tensor is not None
                nn.init.uniform_(tensor, 0.5, 1.5)


# -- sizes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "units", "exact", "millions"), [(10, 4, 36_472_496, 36.47), (4, 1, None, 1.2), (1, 1, None, 0.08)]
)
def test_parameters_of_a_cnn(width: int, units: int, exact: int | None, millions: float) -> None:
    with torch.device("meta"):
        found = count(VarifocalCnn(width=width, units=units))
    total, inputs = 16 * 9, 16
    for outputs in (16 * width, 32 * width, 64 * width):
        total += 2 * inputs + inputs * outputs * 9 + 2 * outputs + outputs * outputs * 9 + inputs * outputs
        total += (units - 1) * 2 * (2 * outputs + outputs * outputs * 9)
        inputs = outputs
    assert found == total + 2 * inputs
    assert exact is None or found == exact
    assert found / 1e6 == pytest.approx(millions, rel=0.05)


def test_the_papers_size() -> None:
    with torch.device("meta"):
        network = VarifocalNet().eval()
        convolutions = [m for m in network.global_net.cnn.modules() if isinstance(m, nn.Conv2d)]
        output = network(torch.rand(2, 1, 256, 256))
    assert len(convolutions) == 28 and all(layer.bias is None for layer in convolutions)
    assert count(network.locator) == 40_960 * 1024 + 1024 + 3 * 1024 + 3
    assert count(network.ensemble.type_head) == 20_480 * 512 + 512 + 24 * 512 + 24
    assert count(network.ensemble.polarity_head) == 20_480 * 512 + 512 + 2 * 512 + 2
    assert count(network.local_net) == 36_472_496 + 10_241 * 26
    assert network.global_net.num_pooled == 10_240
    for logits in (output.whole, output.local, output.ensemble):
        assert logits.type.shape == (2, 24) and logits.polarity.shape == (2, 2)
    assert output.u.shape == (2, 3)


@pytest.mark.parametrize("side", [256, 128])
def test_the_papers_table_of_sizes(side: int) -> None:
    with torch.device("meta"):
        cnn, x = VarifocalCnn().eval(), torch.rand(2, 1, side, side)
        assert cnn.conv1(x).shape == (2, 16, side, side)
        stages = cnn.forward_stages(x)
    expected = [(2, 160, side // 2, side // 2), (2, 320, side // 4, side // 4), (2, 640, side // 8, side // 8)]
    assert [tuple(stage.shape) for stage in stages] == expected
    assert [len(stage) for stage in cnn.stages] == [4, 4, 4]
    assert cnn.stage_channels == (160, 320, 640) and cnn.stage_strides == (2, 4, 8)
    assert (cnn.num_features, cnn.stride, cnn.num_blocks) == (640, 8, 3)


@pytest.mark.parametrize("frame", [64, 128, 192, 256])
def test_every_legal_frame(frame: int) -> None:
    with torch.device("meta"):
        network = small(frame=frame)
        x = torch.rand(2, 1, frame, frame)
        features = network.global_net.features(x)
        crop = network.crop(x, network.locate(features))
        local = network.local_net.features(crop)
        output = network(x)
    assert features.shape == (2, 64, frame // 8, frame // 8) and local.shape == (2, 64, frame // 16, frame // 16)
    assert F.max_pool2d(features, network.global_net.window).shape[-2:] == (4, 4)
    assert F.max_pool2d(local, network.local_net.window).shape[-2:] == (4, 4)
    assert F.max_pool2d(features, network.locator.window).shape[-2:] == (8, 8)
    assert crop.shape == (2, 1, frame // 2, frame // 2)
    assert output.ensemble.type.shape == (2, 5)


@pytest.mark.parametrize(
    ("frame", "near"), [(96, "64 or 128"), (250, "192 or 256"), (32, "64 is near"), (0, "64 is near")]
)
def test_other_frames_are_refused(frame: int, near: str) -> None:
    with pytest.raises(ValueError, match=f"frame {frame}: expected a multiple of 64 .*{near}"):
        VarifocalNet(frame=frame)
    with pytest.raises(ValueError, match="multiple of 64"):
        Locator(frame)


def test_a_view_has_a_finer_step() -> None:
    assert ViewNet(96, width=1, units=1)(torch.rand(1, 1, 96, 96)).type.shape == (1, 24)
    with pytest.raises(ValueError, match="frame 48: expected a multiple of 32 pixels; 32 or 64"):
        ViewNet(48)


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 64, 32), (1, 1, 128, 128), (1, 64, 64)])
def test_other_pictures_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"expected grey ones, \(B, 1, 64, 64\)"):
        small()(torch.rand(shape))


# -- naive versions ------------------------------------------------------------------------------------------------------


def active(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    """Batch norm by its running numbers, ReLU."""
    names = [f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
    mean, var, weight, bias = (state[key].view(1, -1, 1, 1) for key in names)
    return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).relu()


def naive_unit(state: dict[str, Tensor], name: str, x: Tensor, *, first: bool) -> Tensor:
    """Unit (a), which halves and whose shortcut is a 1x1 convolution of the activated input, or (b), with the input itself."""
    a = active(state, f"{name}.bn1", x)
    main = F.conv2d(a, state[f"{name}.conv1.weight"], stride=2 if first else 1, padding=1)
    main = F.conv2d(active(state, f"{name}.bn2", main), state[f"{name}.conv2.weight"], padding=1)
    return main + (F.conv2d(a, state[f"{name}.shortcut.weight"], stride=2) if first else x)


def naive_cnn(state: dict[str, Tensor], x: Tensor, *, units: int) -> Tensor:
    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in range(3):
        for unit in range(units):
            x = naive_unit(state, f"stages.{stage}.{unit}", x, first=unit == 0)
    return active(state, "bn_final", x)


@pytest.mark.parametrize(("width", "units"), [(1, 1), (1, 3), (2, 2)])
def test_the_cnn_is_the_plain_one(width: int, units: int) -> None:
    torch.manual_seed(0)
    cnn, x = VarifocalCnn(width=width, units=units).double().eval(), torch.randn(2, 1, 24, 16, dtype=torch.float64)
    shake_norms(cnn)
    torch.testing.assert_close(cnn(x), naive_cnn(cnn.state_dict(), x, units=units))
    before = x.clone()
    for number in range(cnn.num_blocks):
        x = cnn.block(number, x)
    torch.testing.assert_close(x, cnn(before))
    learned = [id(p) for n in range(3) for module in cnn.block_modules(n) for p in module.parameters()]
    assert sorted(learned) == sorted(id(p) for p in cnn.parameters())


def test_convolutions_start_as_he_says() -> None:
    torch.manual_seed(0)
    cnn = VarifocalCnn(width=4, units=1)
    for layer in (m for m in cnn.modules() if isinstance(m, nn.Conv2d)):
        fan_out = layer.out_channels * layer.kernel_size[0] * layer.kernel_size[1]
        assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.2)
    hidden = Locator(64, num_features=64, hidden=64).hidden
    assert float(hidden.weight.detach().std()) == pytest.approx((2 / 4096) ** 0.5, rel=0.02)


def pooled_by_loops(features: Tensor, cells: int) -> Tensor:
    """The largest value of every one of `cells` x `cells` squares, flattened by channel, row, column."""
    size = features.shape[-1] // cells
    rows = []
    for channel in features.unbind(1):
        for i in range(cells):
            for j in range(cells):
                square = channel[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
                rows.append(square.flatten(1).max(1).values)
    return torch.stack(rows, dim=1)


def linear(layer: nn.Linear, x: Tensor) -> Tensor:
    return x @ layer.weight.T + layer.bias


def mlp(layers: nn.Sequential, x: Tensor) -> Tensor:
    first, _, last = layers
    return linear(last, linear(first, x).relu())  # type: ignore[arg-type]


@pytest.mark.parametrize("frame", [64, 128])
def test_the_whole_is_the_naive_one(frame: int) -> None:
    network = small(frame=frame).double()
    shake_norms(network)
    images = torch.rand(3, 1, frame, frame, dtype=torch.float64)
    with torch.no_grad():
        found = network(images)
        x = torch.stack([(image - image.mean()) / (image.std(correction=0) + 1e-6) for image in images])
        features = naive_cnn(network.global_net.cnn.state_dict(), x, units=1)
        hidden = linear(network.locator.hidden, pooled_by_loops(features, 8)).relu()
        u = 1 / (1 + torch.exp(-linear(network.locator.out, hidden)))
        torch.testing.assert_close(found.u, u)
        crops = [
            F.interpolate(each[None, :, y1:y2, x1:x2], size=frame // 2, mode="bilinear", align_corners=False)
            for each, (x1, y1, x2, y2) in zip(x, pixel_boxes(u, frame).long().tolist(), strict=True)
        ]
        near = naive_cnn(network.local_net.cnn.state_dict(), torch.cat(crops), units=1)
        whole, local = pooled_by_loops(features, 4), pooled_by_loops(near, 4)
        both = torch.cat([whole, local], dim=1)
        for net, pooled, logits in (
            (network.global_net, whole, found.whole),
            (network.local_net, local, found.local),
        ):
            torch.testing.assert_close(logits.type, linear(net.type_head, pooled))
            torch.testing.assert_close(logits.polarity, linear(net.polarity_head, pooled))
        torch.testing.assert_close(found.ensemble.type, mlp(network.ensemble.type_head, both))
        torch.testing.assert_close(found.ensemble.polarity, mlp(network.ensemble.polarity_head, both))


def test_the_scale_of_grey_does_not_matter() -> None:
    network, images = small(), torch.rand(2, 1, 64, 64)
    torch.testing.assert_close(network(images).ensemble.type, network(images * 255).ensemble.type, rtol=1e-3, atol=1e-4)


def test_boxes_start_near_the_middle() -> None:
    network = small(frame=128, locator_hidden=1024)
    u = network(torch.rand(8, 1, 128, 128)).u.detach()
    assert u.min() > 0.02 and u.max() < 0.98
    assert (square_boxes(u, 128)[:, :2] >= 0).all() and (square_boxes(u, 128)[:, 2:] <= 128).all()


@pytest.mark.parametrize("second", ["box", "centre", "whole"])
def test_what_the_second_net_sees(second: str) -> None:
    network, images = small(second=second), torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        output, x = network(images), network.standardise(images)
        seen = network.second_look(x, network.global_net.features(x))
        whole, local = network.pooled(x)
    if second == "box":
        assert output.u is not None and torch.equal(seen, network.crop(x, output.u))
    else:
        assert not hasattr(network, "locator")
        assert torch.equal(seen, x if second == "whole" else x[:, :, 16:48, 16:48])
        assert (output.u is None) == (second == "whole")
    for one, other in (
        (output.local, network.local_net(seen)),
        (output.whole, network.global_net(x)),
        (output.ensemble, network.ensemble(whole, local)),
    ):
        assert torch.equal(one.type, other.type) and torch.equal(one.polarity, other.polarity)


def test_parts_make_other_networks() -> None:
    x = torch.randn(2, 1, 64, 64)
    nets = [ViewNet(64, width=1, units=1) for _ in range(3)]
    both = Ensemble(sum(net.num_pooled for net in nets[:2]), hidden=8)
    logits = both(*(net.pool(net.features(x)) for net in nets[:2]))
    assert isinstance(logits, TypeAndPolarity) and logits.type.shape == (2, 24)
    assert nets[2](x).polarity.shape == (2, 2)


# -- gradients -----------------------------------------------------------------------------------------------------------


def reached(network: nn.Module) -> set[str]:
    """The parts with a parameter that has a gradient other than zero."""
    return {
        name.split(".")[0]
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().sum() > 0
    }


def loss_of(logits: TypeAndPolarity) -> Tensor:
    target = torch.zeros(len(logits.type), dtype=torch.long)
    return F.cross_entropy(logits.type, target) + 0.5 * F.cross_entropy(logits.polarity, target)


@pytest.mark.parametrize("rule", ["boxcar", "bands", "autograd"])
def test_a_local_loss_reaches_the_locator_and_no_further(rule: str) -> None:
    network = small(rule=rule)
    network.local_net.requires_grad_(False)
    images = torch.rand(4, 1, 64, 64, requires_grad=True)
    loss_of(network(images).local).backward()
    assert reached(network) == {"locator"}
    assert images.grad is None or not images.grad.any()
    assert all(p.grad is None for p in network.global_net.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.locator.parameters())


@pytest.mark.parametrize(
    "settings", [{}, {"sharpness": 2.0}, {"rule": "bands"}, {"rule": "bands", "band": 0.1}, {"normalise": False}]
)
def test_the_box_learns_by_the_settings(settings: dict[str, Any]) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(2, 1, 64, 64), torch.randn(2, 1, 32, 32)
    found = []
    for made in (settings, {}):
        u = torch.rand(2, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
        (small(**made).crop(x, u) * weight).sum().backward()
        assert u.grad is not None
        found.append(u.grad)
    torch.testing.assert_close(found[0], box_gradient(weight, u.detach(), frame=64, **settings))
    assert torch.allclose(*found, rtol=1e-3) == (not settings)


def test_what_the_other_losses_reach() -> None:
    images = torch.rand(4, 1, 64, 64)
    for wanted, pick in (
        ({"global_net"}, lambda output: loss_of(output.whole)),
        ({"locator"}, lambda output: F.smooth_l1_loss(output.u, torch.full((4, 3), 0.2))),
        ({"locator", "local_net"}, lambda output: loss_of(output.local)),
        ({"global_net", "locator", "local_net", "ensemble"}, lambda output: loss_of(output.ensemble)),
    ):
        network = small()
        pick(network(images)).backward()
        assert reached(network) == wanted
    frozen = small().requires_grad_(False)
    frozen.ensemble.requires_grad_(True)
    loss_of(frozen(images).ensemble).backward()
    assert reached(frozen) == {"ensemble"}


def test_a_fixed_box_needs_no_graph_for_the_local_net() -> None:
    network, images = small(), torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        x = network.standardise(images)
        crop = network.crop(x, network.locate(network.global_net.features(x)))
    loss_of(network.local_net(crop)).backward()
    assert reached(network) == {"local_net"}


def test_a_step_of_the_locator_moves_boxes_downhill() -> None:
    """Its two layers turn a gradient on u into a change of u in the opposite direction."""
    network, images = small(rule="bands"), torch.rand(1, 1, 64, 64)
    features = network.global_net.features(network.standardise(images)).detach()
    before = network.locate(features)
    crop = network.crop(network.standardise(images), before)
    weight = torch.zeros_like(crop)
    weight[..., -8:] = 1.0  # the loss depends on the right of the box
    (crop * weight).sum().backward()
    with torch.no_grad():
        for parameter in network.locator.parameters():
            assert parameter.grad is not None
            parameter.sub_(1e-3 * parameter.grad)
        assert network.locate(features)[0, 0] > before[0, 0]


def test_half_precision_keeps_boxes_in_float32() -> None:
    network, images = small(), torch.rand(2, 1, 64, 64)
    with torch.autocast("cpu", torch.bfloat16):
        output = network(images)
        loss_of(output.local).backward()
    assert output.u.dtype == torch.float32 and output.ensemble.type.dtype == torch.bfloat16
    assert reached(network) == {"locator", "local_net"}


# -- files ---------------------------------------------------------------------------------------------------------------


def test_it_is_rebuilt_from_a_file(tmp_path: Path) -> None:
    spec = NetworkSpec("varifocal", SMALL | {"rule": "bands", "band": 0.25, "normalise": False})
    torch.manual_seed(0)
    network = build_network(spec).eval()
    shake_norms(network)
    save_networks(tmp_path / "m.safetensors", {"model": network}, {"model": spec}, {})
    again = load_networks(tmp_path / "m.safetensors").networks["model"]
    assert isinstance(again, VarifocalNet) and (again.rule, again.band, again.normalise) == ("bands", 0.25, False)
    images = torch.rand(2, 1, 64, 64)
    assert torch.equal(network(images).ensemble.type, again(images).ensemble.type)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frame": 100}, "frame 100: expected a multiple of 64 pixels; 64 or 128 is near"),
        ({"rule": "box"}, "arguments do not fit"),
        ({"second": "half"}, "arguments do not fit"),
        ({"width": 0}, "arguments do not fit"),
        ({"units": 1000}, "arguments do not fit"),
        ({"band": 0.7}, "arguments do not fit"),
        ({"sharpness": 0.0}, "arguments do not fit"),
        ({"locator_hidden": 1_000_000}, "arguments do not fit"),
        ({"pretrained": True}, "arguments do not fit"),
    ],
)
def test_what_nobody_should_build(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_network(NetworkSpec("varifocal", SMALL | change))
    assert message in str(caught.value)
