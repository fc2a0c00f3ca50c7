"""PyramidNet: widths and parameter counts of the published networks, and the forward pass against a plain one."""

from decimal import ROUND_HALF_EVEN, Decimal

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from partwise.models.pyramidnet import PyramidNet, block_widths


@given(blocks=st.integers(1, 80), alpha=st.integers(0, 300))
def test_widths_are_rounded_half_to_even(blocks: int, alpha: int) -> None:
    exact, expected = 16.0, []
    for _ in range(blocks):
        exact = exact + alpha / blocks
        expected.append(int(Decimal(exact).quantize(Decimal(1), rounding=ROUND_HALF_EVEN)))
    widths = block_widths(blocks, alpha=alpha)
    assert widths == expected
    assert widths[-1] == 16 + alpha and widths == sorted(widths)


def test_a_half_goes_to_the_even_width() -> None:
    assert block_widths(4, alpha=2) == [16, 17, 18, 18]  # 16.5, 17, 17.5, 18


def count(depth: int, alpha: float, classes: int) -> int:
    """Layer by layer from the block's definition, without the network."""
    n = (depth - 2) // 9
    total, inputs = 3 * 16 * 9 + 2 * 16, 16
    for width in block_widths(3 * n, alpha=alpha):
        convolutions = inputs * width + width * width * 9 + width * 4 * width
        norms = 2 * (inputs + width + width + 4 * width)
        total, inputs = total + convolutions + norms, 4 * width
    return total + 2 * inputs + (inputs + 1) * classes


@pytest.mark.parametrize(("depth", "alpha", "published"), [(200, 240, 26_844_952), (110, 64, 1_725_300)])
def test_parameters_are_the_published(depth: int, alpha: int, published: int) -> None:
    with torch.device("meta"):
        backbone = PyramidNet(depth=depth, alpha=alpha)
    found = sum(p.numel() for p in backbone.parameters()) + (backbone.num_features + 1) * 100
    assert found == count(depth, alpha, 100) == published
    assert backbone.num_features == 4 * (16 + alpha)


def naive_forward(state: dict[str, Tensor], x: Tensor, *, blocks: int) -> Tensor:
    def norm(x: Tensor, name: str) -> Tensor:
        names = [f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = (state[key].view(1, -1, 1, 1) for key in names)
        return (x - mean) / (var + 1e-5).sqrt() * weight + bias

    x = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1")
    for stage in range(3):
        for block in range(blocks):
            at, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            out = F.conv2d(norm(x, f"{at}.bn1"), state[f"{at}.conv1.weight"])
            out = F.conv2d(norm(out, f"{at}.bn2").relu(), state[f"{at}.conv2.weight"], stride=stride, padding=1)
            out = norm(F.conv2d(norm(out, f"{at}.bn3").relu(), state[f"{at}.conv3.weight"]), f"{at}.bn4")
            if stride == 2:  # odd sizes: the last window holds fewer pixels
                edge = (0, x.shape[3] % 2, 0, x.shape[2] % 2)
                sums = F.avg_pool2d(F.pad(x, edge), 2, divisor_override=1)
                counts = F.avg_pool2d(F.pad(torch.ones_like(x), edge), 2, divisor_override=1)
                x = sums / counts
            out[:, : x.shape[1]] += x
            x = out
    return norm(x, "bn_final").relu()


def test_forward_is_the_plain_one() -> None:
    torch.manual_seed(0)
    backbone = PyramidNet(depth=20, alpha=9).double()
    images = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    backbone(images)
    backbone.eval()
    torch.testing.assert_close(backbone(images), naive_forward(backbone.state_dict(), images, blocks=2))
