"""CIFAR ResNets: parameter counts by formula, and the forward pass against a plain functional one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.models.cifar_resnet import CifarResNet, PadShortcut, blocks_per_stage, zero_pad_channels


def conv_bn(inputs: int, outputs: int, kernel: int) -> int:
    return inputs * outputs * kernel * kernel + 2 * outputs


def count_basic(depth: int, classes: int) -> int:
    """Option A: every block is two 3x3 convolutions with their norms, and nothing else."""
    n = (depth - 2) // 6
    total = conv_bn(3, 16, 3)
    for inputs, width in ((16, 16), (16, 32), (32, 64)):
        total += conv_bn(inputs, width, 3) + (2 * n - 1) * conv_bn(width, width, 3)
    return total + 64 * classes + classes


def count_bottleneck(depth: int, classes: int) -> int:
    """Option B: one 1x1 convolution with its norm a stage on the shortcut."""
    n = (depth - 2) // 9
    total = conv_bn(3, 16, 3)
    for inputs, width in ((16, 16), (64, 32), (128, 64)):
        first = conv_bn(inputs, width, 1) + conv_bn(width, width, 3) + conv_bn(width, 4 * width, 1)
        other = conv_bn(4 * width, width, 1) + conv_bn(width, width, 3) + conv_bn(width, 4 * width, 1)
        total += first + (n - 1) * other + conv_bn(inputs, 4 * width, 1)
    return total + 256 * classes + classes


def count(backbone: CifarResNet, classes: int) -> int:
    return sum(p.numel() for p in backbone.parameters()) + (backbone.num_features + 1) * classes


@pytest.mark.parametrize(("depth", "millions"), [(20, 0.27), (32, 0.46), (44, 0.66), (56, 0.85), (110, 1.73)])
def test_basic_parameters_are_the_papers(depth: int, millions: float) -> None:
    with torch.device("meta"):
        found = count(CifarResNet(depth=depth), 10)
    assert found == count_basic(depth, 10)
    assert found / 1e6 == pytest.approx(millions, abs=0.005)


def test_bottleneck_parameters_are_the_cutmix_networks() -> None:
    with torch.device("meta"):
        backbone = CifarResNet(depth=110, block="bottleneck", shortcut="projection")
        basic = CifarResNet(depth=110, shortcut="projection")
    assert count(backbone, 100) == count_bottleneck(110, 100) == 1_170_868
    assert count(basic, 100) == 1_736_564  # "1.74 M" of the CutMix code's basic variant


def naive_forward(state: dict[str, Tensor], x: Tensor, *, blocks: int, strides: tuple[int, ...]) -> Tensor:
    """The basic network in evaluation mode, block by block from the state dict."""

    def norm(x: Tensor, name: str) -> Tensor:
        shape = (1, -1, 1, 1)
        scale = state[f"{name}.weight"] / (state[f"{name}.running_var"] + 1e-5).sqrt()
        return (x - state[f"{name}.running_mean"].view(shape)) * scale.view(shape) + state[f"{name}.bias"].view(shape)

    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for stage, stride in enumerate(strides):
        for block in range(blocks):
            at, step = f"stages.{stage}.{block}", stride if block == 0 else 1
            out = norm(F.conv2d(x, state[f"{at}.conv1.weight"], stride=step, padding=1), f"{at}.bn1").clamp(min=0)
            out = norm(F.conv2d(out, state[f"{at}.conv2.weight"], padding=1), f"{at}.bn2")
            shortcut = torch.zeros_like(out)
            shortcut[:, : x.shape[1]] = x[:, :, ::step, ::step]
            x = (out + shortcut).clamp(min=0)
    return x


@pytest.mark.parametrize("last_stride", [1, 2])
def test_forward_is_the_plain_one(last_stride: int) -> None:
    torch.manual_seed(0)
    backbone = CifarResNet(depth=14, widths=(4, 6, 8), last_stride=last_stride).double()
    images = torch.rand(3, 3, 9, 12, dtype=torch.float64)
    backbone(images)  # moves the running statistics off zero and one
    backbone.eval()
    expected = naive_forward(backbone.state_dict(), images, blocks=2, strides=(1, 2, last_stride))
    torch.testing.assert_close(backbone(images), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_padding_keeps_type_and_layout(dtype: torch.dtype) -> None:
    x = torch.rand(2, 3, 5, 4).to(dtype).to(memory_format=torch.channels_last)
    padded = PadShortcut(7, 2)(x)
    assert padded.shape == (2, 7, 3, 2) and padded.dtype == dtype
    assert padded.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(padded[:, :3], x[:, :, ::2, ::2]) and not padded[:, 3:].any()
    assert zero_pad_channels(x, 3) is x
    assert zero_pad_channels(x.to("meta"), 9).shape == (2, 9, 5, 4)


@pytest.mark.parametrize(("depth", "near"), [(21, "20"), (3, "8"), (110, None)])
def test_depths(depth: int, near: str | None) -> None:
    if near is None:
        assert blocks_per_stage(depth, convolutions=2) == 18
        return
    with pytest.raises(ValueError, match=f"depth {depth}: .* {near} is near"):
        blocks_per_stage(depth, convolutions=2)


def test_initialisation_is_he_normal_over_the_fan_out() -> None:
    torch.manual_seed(0)
    backbone = CifarResNet(depth=8, widths=(64, 128, 256))
    weight = backbone.stages[2][0].conv1.weight  # 128 -> 256, 3x3: fan-in and fan-out differ
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.02)
    assert torch.equal(backbone.bn1.weight, torch.ones(64)) and not backbone.bn1.bias.any()
