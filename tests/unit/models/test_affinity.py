"""IRN's heads and AffinityNet against plain functional versions, on every kind of backbone."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.models import saved
from partwise.models.affinity import (
    AffinityNet,
    BoundaryHead,
    DisplacementHead,
    IrnNetwork,
    build_affinity_net,
    build_irn,
)
from partwise.models.backbones import build_backbone
from partwise.models.contract import Backbone
from partwise.models.saved import NetworkSpec, build_network, load_networks, save_networks
from partwise.models.wide_resnet38 import WideResNet38
from partwise.ops.affinity import affinity_loss, displacement_loss, pair_labels, path_affinity

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
RESNET50 = (64, 256, 512, 1024, 2048), (4, 4, 8, 16, 16)


class ToyBackbone(Backbone):
    """Any stages: each an average pool of the picture and a 1x1 convolution, sizes rounded up or down."""

    def __init__(self, channels: Sequence[int], strides: Sequence[int], *, up: bool = True) -> None:
        super().__init__()
        self.stage_channels, self.stage_strides, self.up = tuple(channels), tuple(strides), up
        self.num_features, self.stride = channels[-1], strides[-1]
        self.layers = nn.ModuleList(nn.Conv2d(3, count, 1) for count in channels)
        self.norm = nn.BatchNorm2d(channels[-1])

    def block(self, number: int, x: Tensor) -> Tensor:
        raise NotImplementedError("a pyramid is no chain")

    def block_modules(self, number: int) -> list[nn.Module]:
        raise NotImplementedError("a pyramid is no chain")

    def forward_stages(self, x: Tensor) -> list[Tensor]:
        rows = zip(self.layers, self.stage_strides, strict=True)
        maps = [layer(F.avg_pool2d(x, by, ceil_mode=self.up)).tanh() for layer, by in rows]
        return [*maps[:-1], self.norm(maps[-1])]


def irn(backbone: Backbone, **settings: Any) -> IrnNetwork:
    return IrnNetwork(backbone, mean=MEAN, std=STD, **settings)


def resnet50_taps(batch: int = 2, side: int = 16) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    sizes = [(channels, 4 * side // stride) for channels, stride in zip(*RESNET50, strict=True)]
    return [torch.rand(batch, channels, size, size * 3 // 2, generator=generator) for channels, size in sizes]


def up(x: Tensor, factor: int) -> Tensor:
    return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)


def block(head: nn.Module, name: str, x: Tensor, groups: int) -> Tensor:
    state = head.state_dict()
    weight = state[f"{name}.0.weight"][:, :, 0, 0]
    x = torch.einsum("bchw,dc->bdhw", x, weight)
    grouped = x.unflatten(1, (groups, -1))
    mean = grouped.mean(dim=(2, 3, 4), keepdim=True)
    var = grouped.var(dim=(2, 3, 4), keepdim=True, correction=0)
    normed = ((grouped - mean) / (var + 1e-5).sqrt()).flatten(1, 2)
    return normed * state[f"{name}.1.weight"][:, None, None] + state[f"{name}.1.bias"][:, None, None]


def shake_norms(network: nn.Module) -> None:
    """Norms that start as ones and zeros would hide a mistake."""
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)


def test_boundary_head_is_the_published_one() -> None:
    torch.manual_seed(0)
    head = BoundaryHead(*RESNET50)
    assert sum(p.numel() for p in head.parameters()) == 32 * (64 + 256 + 512 + 1024 + 2048) + 5 * 2 * 32 + 161
    shake_norms(head)
    taps = resnet50_taps()
    parts = [up(block(head, f"reduce.{i}", taps[i], 4), by).relu() for i, by in enumerate((1, 1, 2, 4, 4))]
    weight = head.join.weight[:, :, 0, 0]
    expected = torch.einsum("bchw,dc->bdhw", torch.cat(parts, 1), weight) + head.join.bias
    torch.testing.assert_close(head(taps), expected, rtol=1e-4, atol=1e-5)


def test_displacement_head_is_the_published_one() -> None:
    torch.manual_seed(0)
    head = DisplacementHead(*RESNET50)
    weights = 64 * 64 + 256 * 128 + 512 * 256 + 1024 * 256 + 2048 * 256 + 768 * 256 + 448 * 256 + 256 * 2
    norms = 2 * (64 + 128 + 5 * 256)
    assert sum(p.numel() for p in head.parameters()) == weights + norms
    shake_norms(head)
    taps = resnet50_taps()
    rows = zip(range(5), (8, 16, 16, 16, 16), (1, 1, 1, 2, 2), strict=True)
    one, two, *coarse = (up(block(head, f"reduce.{i}", taps[i], groups), by).relu() for i, groups, by in rows)
    merged = up(block(head, "merge", torch.cat(coarse, 1), 16), 2).relu()
    joined = block(head, "join.0", torch.cat([one, two, merged], 1), 16).relu()
    expected = torch.einsum("bchw,dc->bdhw", joined, head.join[2].weight[:, :, 0, 0])
    torch.testing.assert_close(head(taps), expected, rtol=1e-4, atol=1e-5)


def test_taps_of_a_timm_resnet_are_those_after_the_stems_pooling() -> None:
    torch.manual_seed(0)
    network = irn(build_backbone("timm/resnet10t", last_stride=1))
    images = torch.rand(1, 3, 64, 96)
    taps = network.taps(images)
    timm: Any = network.backbone.network
    stem = timm.maxpool(timm.act1(timm.bn1(timm.conv1(network.normalise(images)))))
    torch.testing.assert_close(taps[0], stem)
    torch.testing.assert_close(taps[1], timm.layer1(stem))
    assert [64 // tap.shape[-2] for tap in taps] == [4, 4, 8, 16, 16] and network.stride == 4
    fields = network(images)
    assert fields.boundary.shape == (1, 1, 16, 24) and fields.displacement.shape == (1, 2, 16, 24)


BACKBONES: dict[str, tuple[dict[str, Any], int, int]] = {  # arguments, side, stride expected of 4
    "cifar-resnet": ({"depth": 8, "widths": [4, 6, 8]}, 16, 4),
    "wide-resnet": ({"depth": 10, "widen": 0.5}, 16, 4),
    "pyramidnet": ({"depth": 20, "alpha": 10}, 16, 4),
    "convnext_atto": ({}, 64, 4),
    "mobilenetv3_small_050": ({}, 64, 4),
    "vit_tiny_patch16_224": ({"img_size": 32}, 32, 16),
}


@pytest.mark.parametrize("name", BACKBONES)
def test_any_backbone(name: str) -> None:
    arguments, side, stride = BACKBONES[name]
    network = irn(build_backbone(name, **arguments))
    images = torch.rand(2, 3, side, side)
    fields = network(images)
    assert network.stride == stride
    assert fields.boundary.shape == (2, 1, side // stride, side // stride)
    assert fields.displacement is not None and fields.displacement.shape == (2, 2, side // stride, side // stride)
    assert network.edges(images).shape == fields.boundary.shape
    affinity = AffinityNet(network.backbone, mean=MEAN, std=STD)
    features = affinity(images)
    assert features.shape == (2, 448, side // affinity.stride, side // affinity.stride)


def test_the_finest_grid_can_be_kept() -> None:
    network = irn(build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8]), stride=1)
    assert network.stride == 1 and network(torch.rand(1, 3, 16, 12)).displacement.shape == (1, 2, 16, 12)
    assert irn(ToyBackbone([4, 4], [3, 6])).stride == 3, "never coarser than asked for"


@pytest.fixture
def network() -> IrnNetwork:
    torch.manual_seed(0)
    return irn(ToyBackbone([4, 6, 8, 9], [2, 4, 8, 16]))


def test_only_the_heads_learn(network: IrnNetwork) -> None:
    before = {key: value.clone() for key, value in network.backbone.state_dict().items()}
    network.train()
    assert network.training and network.boundary.training and not network.backbone.training
    assert not any(module.training for module in network.backbone.modules())
    assert not any(parameter.requires_grad for parameter in network.backbone.parameters())
    assert not any(tap.requires_grad for tap in network.taps(torch.rand(1, 3, 32, 32)))
    fields = network(torch.rand(2, 3, 48, 80))
    labels = pair_labels(torch.randint(0, 3, (2, 12, 20)), 5)
    affinity = path_affinity(fields.boundary.sigmoid(), 5)
    (affinity_loss(affinity, labels) + displacement_loss(fields.displacement, labels, 5)).backward()
    for head in (network.boundary, network.displacement):
        assert head is not None
        assert all(parameter.grad is not None and parameter.grad.any() for parameter in head.parameters())
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert all(torch.equal(value, before[key]) for key, value in network.backbone.state_dict().items())
    assert not network.eval().boundary.training


def test_the_mean_is_taken_off_outside_of_training(network: IrnNetwork) -> None:
    images = torch.rand(1, 3, 32, 32)
    raw = network.train()(images).displacement
    assert torch.equal(network.eval()(images).displacement, raw)
    network.set_displacement_mean(torch.tensor([1.5, -2.0]))
    assert torch.equal(network.train()(images).displacement, raw)
    shifted = network.eval()(images).displacement
    torch.testing.assert_close(raw - shifted, torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand_as(raw))
    assert torch.equal(network.state_dict()["displacement.mean"], torch.tensor([1.5, -2.0]))


def test_displacement_can_be_left_out() -> None:
    network = irn(ToyBackbone([4, 6], [4, 8]), displacement=False)
    assert network(torch.rand(1, 3, 16, 16)).displacement is None
    assert not any(key.startswith("displacement") for key in network.state_dict())


def test_edges_are_the_mean_of_a_picture_and_its_mirror_image(network: IrnNetwork) -> None:
    network.eval()
    images = torch.rand(2, 3, 37, 51)
    found = network.edges(images)
    assert found.shape == (2, 1, 10, 13) and not found.requires_grad
    for sample in range(2):
        logits = []
        for flipped in (False, True):
            view = (images[sample].flip(-1) if flipped else images[sample])[None]
            padded = torch.zeros(1, 3, 48, 64)
            padded[..., :37, :51] = (view - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)
            stages = network.backbone.forward_stages(padded)
            stages[0] = F.max_pool2d(F.pad(stages[0], (1, 1, 1, 1), value=-torch.inf), 3, 2)
            logit = network.boundary(stages)[..., :10, :13]
            logits.append(logit.flip(-1) if flipped else logit)
        torch.testing.assert_close(found[sample], (sum(logits) / 2)[0].sigmoid())
    wide = torch.rand(1, 3, 20, 48)
    torch.testing.assert_close(network.edges(wide.flip(-1)), network.edges(wide).flip(-1))


@pytest.mark.parametrize("size", [(33, 50), (47, 31)])
@pytest.mark.parametrize("rounding_up", [True, False])
def test_pictures_of_any_size(size: tuple[int, int], rounding_up: bool) -> None:
    """Networks that round sizes up give maps to cut, those that round down maps to fill."""
    network = irn(ToyBackbone([4, 6, 8], [4, 8, 16], up=rounding_up))
    cells = tuple(-(-side // 4) if rounding_up else side // 4 for side in size)
    fields = network(torch.rand(1, 3, *size))
    assert fields.boundary.shape[-2:] == fields.displacement.shape[-2:] == cells
    assert AffinityNet(network.backbone, mean=MEAN, std=STD)(torch.rand(1, 3, *size)).shape[-2:] == cells


def test_affinity_net_is_the_published_one() -> None:
    """On ResNet-38 the taps are the activated maps before b5 and b6, and the last."""
    torch.manual_seed(0)
    backbone = WideResNet38(width=1 / 32)
    network = AffinityNet(backbone, mean=MEAN, std=STD, stages=(2, 3, 5)).eval()
    images = torch.rand(2, 3, 24, 40)
    maps = backbone.forward_stages(network.normalise(images))
    state = network.head.state_dict()
    parts = []
    for place, stage in enumerate((2, 3, 5)):
        out = torch.einsum("bchw,dc->bdhw", maps[stage], state[f"reduce.{place}.weight"][:, :, 0, 0])
        parts.append(torch.where(out > 0, out, out.exp() - 1))
    out = torch.einsum("bchw,dc->bdhw", torch.cat(parts, 1), state["join.weight"][:, :, 0, 0])
    torch.testing.assert_close(network(images), torch.where(out > 0, out, out.exp() - 1), rtol=1e-4, atol=1e-4)
    assert network.stride == 8 and len(state) == 4


def test_affinity_net_of_full_width_has_the_published_layers() -> None:
    with torch.device("meta"):
        network = AffinityNet(WideResNet38(), mean=MEAN, std=STD, stages=(2, 3, 5))
    shapes = {key: tuple(value.shape[:2]) for key, value in network.head.state_dict().items()}
    assert list(shapes.values()) == [(64, 512), (128, 1024), (256, 4096), (448, 448)]


def test_affinity_net_starts_as_published() -> None:
    torch.manual_seed(0)
    head = AffinityNet(ToyBackbone([500, 800, 900], [8, 8, 8]), mean=MEAN, std=STD).head
    for layer, inputs in zip(head.reduce, (500, 800, 900), strict=True):
        assert layer.weight.std().item() == pytest.approx(math.sqrt(2 / inputs), rel=0.03)
    bound = 4 * math.sqrt(6 / (448 + 448))
    assert 0.999 * bound < head.join.weight.abs().max().item() <= bound


def test_affinity_net_trains_all_but_the_norms_of_the_backbone() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8])
    network = AffinityNet(backbone, mean=MEAN, std=STD).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not any(norm.training for norm in norms) and backbone.training
    before = {key: value.clone() for key, value in backbone.state_dict().items() if "running" in key}
    network(torch.rand(2, 3, 16, 16)).square().sum().backward()
    frozen = {id(parameter) for norm in norms for parameter in norm.parameters()}
    for parameter in network.parameters():
        assert (parameter.grad is None) == (id(parameter) in frozen)
    assert all(torch.equal(value, backbone.state_dict()[key]) for key, value in before.items())


def test_coarser_stages_are_brought_to_the_finest() -> None:
    torch.manual_seed(0)
    backbone = ToyBackbone([3, 4, 5, 6], [2, 4, 8, 16])
    network = AffinityNet(backbone, mean=MEAN, std=STD, stages=(1, 2, 3)).eval()
    images = torch.rand(1, 3, 32, 48)
    maps = backbone.forward_stages(network.normalise(images))
    parts = [up(F.elu(network.head.reduce[place](maps[place + 1])), 2**place) for place in range(3)]
    torch.testing.assert_close(network(images), F.elu(network.head.join(torch.cat(parts, 1))))


@pytest.mark.parametrize(("stages", "message"), [((0, 1, 3), "places from -3 to 2"), ((0, 2, -1), "three different")])
def test_stages_must_be_there(stages: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AffinityNet(ToyBackbone([4, 4, 4], [4, 8, 8]), mean=MEAN, std=STD, stages=stages)


def test_wrong_statistics_are_refused() -> None:
    with pytest.raises(ValueError, match="as many of each, and every std above zero"):
        IrnNetwork(ToyBackbone([4], [4]), mean=MEAN, std=(0.1, 0.0, 0.1))


SPECS: dict[str, dict[str, Any]] = {
    "irn": {"stride": 2, "displacement": True},
    "affinity_net": {"stages": [-3, -2, -1]},
}


@pytest.mark.parametrize("kind", SPECS)
def test_round_trip_is_bit_equal(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    builders = {"irn": "build_irn", "affinity_net": "build_affinity_net"}
    table = {name: f"partwise.models.affinity:{function}" for name, function in builders.items()}
    monkeypatch.setattr(saved, "BUILDERS", table)
    plain = {"backbone": "cifar-resnet", "arguments": {"depth": 8, "widths": [4, 6, 8]}}
    spec = NetworkSpec(kind, {**plain, "mean": list(MEAN), "std": list(STD), **SPECS[kind]})
    network = build_network(spec)
    if isinstance(network, IrnNetwork):
        network.set_displacement_mean(torch.tensor([0.5, 0.25]))
    save_networks(tmp_path / "m.safetensors", {"n": network}, {"n": spec}, {})
    loaded = load_networks(tmp_path / "m.safetensors").networks["n"]
    images = torch.rand(1, 3, 16, 16)
    found, expected = loaded(images), network.eval()(images)
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_building_from_plain_values() -> None:
    plain: dict[str, Any] = {"backbone": "cifar-resnet", "mean": MEAN, "std": STD, "arguments": {"depth": 8}}
    assert build_irn(**plain).stride == 4
    assert build_affinity_net(**plain).stages == (0, 1, 2)
    with pytest.raises(ValueError, match="stride"):
        build_irn(**plain, stride=0)
    with pytest.raises(ValueError, match="stages"):
        build_affinity_net(**plain, stages=(0, 1))
