"""Segmentation heads against naive versions, on own and timm backbones: sizes, gradients, norms, files, refusals."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.config import UserError
from partwise.models import saved
from partwise.models.batchnorm import synchronise_batchnorm
from partwise.models.contract import Backbone
from partwise.models.saved import NetworkSpec, build_network, load_networks, save_networks
from partwise.models.segmentation import (
    HEADS,
    DeepLabV1Head,
    DeepLabV2Head,
    DeepLabV3PlusHead,
    SegmentationNetwork,
    build_segmenter,
    make_norm,
    scaled_rates,
)

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
SMALL = {"depth": 8, "widths": [4, 6, 8]}
HEAD_ARGUMENTS: dict[str, dict[str, Any]] = {
    "deeplab-v1": {"width": 8},
    "deeplab-v2": {},
    "deeplab-v3+": {"width": 8, "shallow_width": 4},
}
BACKBONES: dict[str, dict[str, Any]] = {"cifar-resnet": SMALL, "resnet18": {"output_stride": 16}}


def values(head: str, backbone: str = "cifar-resnet", **changes: Any) -> dict[str, Any]:
    return {
        "backbone": backbone,
        "arguments": BACKBONES[backbone],
        "head": head,
        "head_arguments": HEAD_ARGUMENTS[head] | {"rate_scale": 1 / 6} | changes.pop("head_arguments", {}),
        "num_classes": 5,
        "mean": list(MEAN),
        "std": list(STD),
    } | changes


def segmenter(head: str, backbone: str = "cifar-resnet", **changes: Any) -> SegmentationNetwork:
    torch.manual_seed(0)
    return build_segmenter(**values(head, backbone, **changes))


class Widths(Backbone):
    """The sizes of a backbone without its arithmetic."""

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.stage_channels, self.stage_strides = channels, strides
        self.num_features, self.stride = channels[-1], strides[-1]

    def block(self, number: int, x: Tensor) -> Tensor:
        raise NotImplementedError

    def block_modules(self, number: int) -> list[nn.Module]:
        raise NotImplementedError


RESNET101 = Widths((64, 256, 512, 1024, 2048), (2, 4, 8, 16, 16))


def count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameters_of_published_heads() -> None:
    assert count(DeepLabV2Head(RESNET101, num_classes=21)) == 4 * (9 * 2048 * 21 + 21) == 1_548_372
    v1 = count(DeepLabV1Head(Widths((4096,), (8,)), num_classes=21))
    assert v1 == 9 * 4096 * 512 + 2 * 512 + 512 * 512 + 2 * 512 + 512 * 21 + 21
    pyramid = 2 * 2048 * 256 + 3 * 9 * 2048 * 256 + 5 * 256 * 256 + 6 * 2 * 256
    decoder = 256 * 48 + 2 * 48 + 9 * 304 * 256 + 2 * 256 + 9 * 256 * 256 + 2 * 256 + 256 * 21 + 21
    for norm in ("batch", "group"):
        assert count(DeepLabV3PlusHead(RESNET101, num_classes=21, norm=norm)) == pyramid + decoder


def test_atrous_rates_and_their_scaling() -> None:
    head = DeepLabV2Head(Widths((4,), (8,)), num_classes=2)
    found = [(branch.dilation, branch.padding) for branch in head.branches]
    assert found == [((rate, rate), (rate, rate)) for rate in (6, 12, 18, 24)]
    fine = DeepLabV3PlusHead(Widths((8, 8), (4, 8)), num_classes=2, width=4, rate_scale=2)
    assert [branch[0].dilation[0] for branch in fine.pyramid.atrous] == [12, 24, 36]
    assert DeepLabV1Head(Widths((4,), (8,)), num_classes=2, width=4).view[0].dilation == (12, 12)
    assert scaled_rates((6, 12, 18, 24), 1 / 6) == (1, 2, 3, 4)
    assert scaled_rates((6, 12, 18), 0.01) == (1, 1, 1)


def test_how_classifiers_begin() -> None:
    torch.manual_seed(0)
    head = DeepLabV2Head(Widths((512,), (8,)), num_classes=21)
    for branch in head.branches:
        assert branch.bias.eq(0).all()
        assert branch.weight.std().item() == pytest.approx(0.01, rel=0.02) and abs(branch.weight.mean()) < 1e-4
    for other in (DeepLabV1Head, DeepLabV3PlusHead):
        classifier = other(Widths((8, 8), (4, 8)), num_classes=21).classifier
        assert classifier.bias.eq(0).all() and classifier.weight.std().item() == pytest.approx(0.01, rel=0.1)


def naive_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, rate: int) -> Tensor:
    """Tap by tap: what lies `rate` cells up to `rate` cells down, zeros outside."""
    batch, _, height, width = x.shape
    reach = weight.shape[2] // 2
    out = torch.zeros(batch, weight.shape[0], height, width)
    for y in range(height):
        for x_ in range(width):
            for i in range(-reach, reach + 1):
                for j in range(-reach, reach + 1):
                    v, u = y + i * rate, x_ + j * rate
                    if 0 <= v < height and 0 <= u < width:
                        out[:, :, y, x_] += x[:, :, v, u] @ weight[:, :, i + reach, j + reach].T
    return out if bias is None else out + bias[:, None, None]


def test_deeplab_v2_tap_by_tap() -> None:
    torch.manual_seed(0)
    head = DeepLabV2Head(Widths((3,), (8,)), num_classes=2, rate_scale=0.25)
    for branch in head.branches:
        nn.init.normal_(branch.weight)
        nn.init.normal_(branch.bias)
    x = torch.randn(2, 3, 7, 9)
    rates = (2, 3, 4, 6)  # 1.5 and 4.5 are rounded to even
    expected = torch.zeros(2, 2, 7, 9)
    with torch.no_grad():
        for branch, rate in zip(head.branches, rates, strict=True):
            expected += naive_convolution(x, branch.weight, branch.bias, rate)
        torch.testing.assert_close(head([x]), expected, rtol=1e-4, atol=1e-5)


def naive_unit(x: Tensor, unit: nn.Sequential, rate: int = 1) -> Tensor:
    """Convolution, norm with running statistics or over groups, ReLU, from the tensors alone."""
    convolution, norm, _ = unit
    out = naive_convolution(x, convolution.weight, None, rate)  # type: ignore[arg-type]
    if isinstance(norm, nn.BatchNorm2d):
        mean, variance = norm.running_mean[:, None, None], norm.running_var[:, None, None]  # type: ignore[index]
        out = (out - mean) / (variance + norm.eps).sqrt()
    else:
        assert isinstance(norm, nn.GroupNorm)
        pieces = []
        for group in out.chunk(norm.num_groups, dim=1):
            flat = group.flatten(1)
            mean, variance = flat.mean(1), flat.var(1, unbiased=False)
            pieces.append((group - mean[:, None, None, None]) / (variance + norm.eps).sqrt()[:, None, None, None])
        out = torch.cat(pieces, dim=1)
    return (out * norm.weight[:, None, None] + norm.bias[:, None, None]).clamp_min(0)  # type: ignore[index]


def disturb(module: nn.Module) -> None:
    """Norms that are not at their start, so that a forgotten one shows."""
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean)  # type: ignore[arg-type]
            nn.init.uniform_(layer.running_var, 0.5, 1.5)  # type: ignore[arg-type]


def test_deeplab_v1_layer_by_layer() -> None:
    torch.manual_seed(0)
    head = DeepLabV1Head(Widths((3,), (8,)), num_classes=2, width=4, rate_scale=0.25).eval()
    disturb(head)
    x = torch.randn(2, 3, 7, 9)
    with torch.no_grad():
        expected = naive_unit(naive_unit(x, head.view, rate=3), head.mix)
        expected = naive_convolution(expected, head.classifier.weight, head.classifier.bias, 1)
        torch.testing.assert_close(head([x]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_deeplab_v3_plus_layer_by_layer(norm: str) -> None:
    torch.manual_seed(0)
    backbone = Widths((9, 5, 3), (2, 4, 8))
    head = DeepLabV3PlusHead(backbone, num_classes=2, width=8, shallow_width=4, norm=norm, rate_scale=1 / 6).eval()
    disturb(head)
    unused, shallow, deep = torch.empty(0), torch.randn(2, 5, 9, 11), torch.randn(2, 3, 5, 6)
    pyramid = head.pyramid
    with torch.no_grad():
        parts = [naive_unit(deep, pyramid.point)]
        parts += [naive_unit(deep, unit, rate) for unit, rate in zip(pyramid.atrous, (1, 2, 3), strict=True)]  # type: ignore[arg-type]
        parts.append(naive_unit(deep.mean((2, 3), keepdim=True), pyramid.pooled).repeat(1, 1, 5, 6))
        coarse = naive_unit(torch.cat(parts, 1), pyramid.project)
        coarse = F.interpolate(coarse, size=(9, 11), mode="bilinear", align_corners=False)
        both = torch.cat([coarse, naive_unit(shallow, head.outlines)], 1)
        for unit in head.decoder:
            both = naive_unit(both, unit)  # type: ignore[arg-type]
        expected = naive_convolution(both, head.classifier.weight, head.classifier.bias, 1)
        torch.testing.assert_close(head([unused, shallow, deep]), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("channels", "groups"), [(256, 16), (48, 3), (512, 32), (20, 5), (4, 1)], ids=str)
def test_groups_of_group_norm(channels: int, groups: int) -> None:
    norm = make_norm("group", channels)
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups


SUBJECTS = [(head, backbone) for head in HEADS for backbone in BACKBONES]


@pytest.mark.parametrize(("head", "backbone"), SUBJECTS)
@pytest.mark.parametrize("size", [(64, 64), (65, 43)])
def test_sizes_are_what_it_says(head: str, backbone: str, size: tuple[int, int]) -> None:
    network = segmenter(head, backbone).eval()
    images = torch.rand(2, 3, *size)
    expected = {"cifar-resnet": 4, "resnet18": 16}[backbone]
    if head == "deeplab-v3+":
        expected = {"cifar-resnet": 2, "resnet18": 4}[backbone]
    assert network.stride == expected
    with torch.no_grad():
        logits = network(images)
        assert logits.shape == (2, 5, -(-size[0] // expected), -(-size[1] // expected))
        at = network.logits_at(images, size)
    torch.testing.assert_close(at, F.interpolate(logits, size=size, mode="bilinear", align_corners=False))


@pytest.mark.parametrize(("head", "backbone"), SUBJECTS)
def test_gradient_reaches_every_parameter(head: str, backbone: str) -> None:
    network = segmenter(head, backbone)
    disturb(network)  # timm begins with residual branches that a norm of 0 cuts off
    images = torch.rand(2, 3, 65, 43, requires_grad=True)
    F.cross_entropy(network.logits_at(images, (65, 43)), torch.randint(0, 5, (2, 65, 43))).backward()
    assert images.grad is not None and images.grad.abs().sum() > 0
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(("head", "backbone"), SUBJECTS)
def test_symmetric_kernels_mirror_with_the_picture(head: str, backbone: str) -> None:
    """No layer shifts: 65 px, a multiple of every stride and one, has a cell on its middle column at every stage."""
    network = segmenter(head, backbone).eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight.copy_((layer.weight + layer.weight.flip(3)) / 2)
        images = torch.rand(1, 3, 33, 65)
        straight, mirrored = network.logits_at(images, (33, 65)), network.logits_at(images.flip(3), (33, 65))
    torch.testing.assert_close(mirrored.flip(3), straight, rtol=1e-3, atol=1e-4 * float(straight.abs().max()))
    assert straight.std() > 0


def test_pictures_are_normalised_once() -> None:
    network = segmenter("deeplab-v2").eval()
    images = torch.rand(2, 3, 9, 7)
    by_hand = (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
    torch.testing.assert_close(network.normalise(images), by_hand)
    with torch.no_grad():
        torch.testing.assert_close(network(images), network.head([network.backbone(by_hand)]))
        fine = segmenter("deeplab-v3+").eval()
        torch.testing.assert_close(fine(images), fine.head(fine.backbone.forward_stages(by_hand)))


@pytest.mark.parametrize("backbone", BACKBONES)
def test_frozen_batch_norm_stays_as_it_is(backbone: str) -> None:
    network = segmenter("deeplab-v1", backbone, frozen_batchnorm=True)
    nn.Sequential(network).train()  # as the loop does, from outside
    state = copy.deepcopy(network.backbone.state_dict())
    images = torch.rand(2, 3, 64, 64) * 5
    first = network.backbone(network.normalise(images))
    network(images).sum().backward()
    assert all(torch.equal(value, state[key]) for key, value in network.backbone.state_dict().items())
    assert torch.equal(first, network.eval().backbone(network.normalise(images)))
    assert network.head.view[1].num_batches_tracked == 1  # type: ignore[union-attr, index]
    affine = [module.weight for module in network.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert affine and all(weight.grad is not None for weight in affine)
    plain = segmenter("deeplab-v1", backbone)
    plain(images)
    assert any(not torch.equal(value, state[key]) for key, value in plain.backbone.state_dict().items())


def test_frozen_batch_norm_stays_frozen_over_processes() -> None:
    network = segmenter("deeplab-v1", frozen_batchnorm=True)
    synchronise_batchnorm(network)
    network.train()
    norms = [module for module in network.backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms and not any(norm.training for norm in norms)
    assert network.head.view[1].training and network.backbone.training  # type: ignore[union-attr, index]


def test_head_and_backbone_share_nothing() -> None:
    network = segmenter("deeplab-v2")
    head = {id(parameter) for parameter in network.head_parameters()}
    body = {id(parameter) for parameter in network.backbone.parameters()}
    assert head and body and not head & body
    assert head | body == {id(parameter) for parameter in network.parameters()}
    assert sorted({parameter.ndim for parameter in network.head_parameters()}) == [1, 4]


def test_dropout_rests_in_evaluation() -> None:
    images = torch.rand(1, 3, 16, 16)
    for head in ("deeplab-v1", "deeplab-v3+"):
        network = segmenter(head, head_arguments={"dropout": 0.9, "norm": "group"}, frozen_batchnorm=True)
        assert not torch.equal(network(images), network(images))
        network.eval()
        assert torch.equal(network(images), network(images))


def test_group_norm_trains_on_one_picture() -> None:
    images = torch.rand(1, 3, 16, 16)
    network = segmenter("deeplab-v3+", head_arguments={"norm": "group"})
    network(images).sum().backward()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        segmenter("deeplab-v3+")(images)


@pytest.mark.parametrize(("head", "backbone"), SUBJECTS)
def test_round_trip_is_bit_equal(head: str, backbone: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {"segmenter": "partwise.models.segmentation:build_segmenter"}
    monkeypatch.setattr(saved, "BUILDERS", dict(saved.BUILDERS) | row)
    spec = NetworkSpec("segmenter", values(head, backbone, frozen_batchnorm=True))
    network = build_network(spec).train()
    images = torch.rand(2, 3, 33, 40)
    network(images)  # running statistics of the head too
    save_networks(tmp_path / "m.safetensors", {"segmenter": network}, {"segmenter": spec}, {})
    loaded = load_networks(tmp_path / "m.safetensors").networks["segmenter"]
    assert isinstance(loaded, SegmentationNetwork) and loaded.frozen_batchnorm
    state, expected = loaded.state_dict(), network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], expected[key]) for key in state)
    with torch.no_grad():
        assert torch.equal(loaded(images), network.eval()(images))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"head": "deeplab-v3"}, "unknown head 'deeplab-v3'; nearest: 'deeplab-v3+'"),
        ({"head": "unet"}, "unknown head 'unet'; known: deeplab-v1, deeplab-v2, deeplab-v3+"),
        ({"head_arguments": {"rate_scal": 1.0}}, "no argument 'rate_scal'; nearest: 'rate_scale'"),
        ({"head_arguments": {"rate_scale": 0}}, "rate_scale=0"),
        ({"head": "deeplab-v1", "head_arguments": {"width": 6}}, "width=6: Input should be a multiple of 4"),
        ({"head": "deeplab-v1", "head_arguments": {"norm": "layer"}}, "norm='layer'"),
        ({"num_classes": 0}, "num_classes"),
        ({"backbone": "resnt20"}, "nearest: 'resnet20'"),
        ({"std": [0.2, 0.2]}, "as many of each, and every std above zero"),
        ({"std": [0.2, 0.0, 0.2]}, "as many of each, and every std above zero"),
    ],
)
def test_what_cannot_be_built_is_answered_in_words(changes: dict[str, Any], message: str) -> None:
    plain = {"backbone": "cifar-resnet", "arguments": SMALL, "num_classes": 3, "mean": list(MEAN), "std": list(STD)}
    if "backbone" in changes:
        plain["arguments"] = {}
    with pytest.raises(ValueError) as caught:
        build_segmenter(**(plain | changes))  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_networks_of_one_resolution_have_no_outlines() -> None:
    with pytest.raises(UserError, match="strides of this network are 16, 16, 16, 16; use 'deeplab-v2'"):
        DeepLabV3PlusHead(Widths((8, 8, 8, 8), (16, 16, 16, 16)), num_classes=2)
