"""Wide ResNets: parameter counts by formula, and the forward pass against a plain functional one."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.models.wide_resnet import WideResNet


def count(depth: int, widen: int, classes: int) -> int:
    n, total, inputs = (depth - 4) // 6, 3 * 16 * 9, 16
    for width in (16 * widen, 32 * widen, 64 * widen):
        total += 2 * inputs + inputs * width * 9 + 2 * width + width * width * 9 + inputs * width
        total += (n - 1) * (2 * width + width * width * 9) * 2
        inputs = width
    return total + 2 * inputs + (inputs + 1) * classes


@pytest.mark.parametrize(
    ("depth", "widen", "exact", "published"),
    [(28, 10, 36_479_194, 36.5), (40, 4, 8_949_210, 8.9), (16, 8, 10_961_370, 11.0)],
)
def test_parameters_are_the_papers(depth: int, widen: int, exact: int, published: float) -> None:
    with torch.device("meta"):
        backbone = WideResNet(depth=depth, widen=widen)
    found = sum(p.numel() for p in backbone.parameters()) + (backbone.num_features + 1) * 10
    assert found == count(depth, widen, 10) == exact
    assert found / 1e6 == pytest.approx(published, abs=0.05)


def naive_forward(state: dict[str, Tensor], x: Tensor, *, blocks: int) -> Tensor:
    def active(x: Tensor, name: str) -> Tensor:
        names = [f"{name}.{part}" for part in ("running_mean", "running_var", "weight", "bias")]
        mean, var, weight, bias = (state[key].view(1, -1, 1, 1) for key in names)
        return ((x - mean) / (var + 1e-5).sqrt() * weight + bias).relu()

    x = F.conv2d(x, state["conv1.weight"], padding=1)
    for stage in range(3):
        for block in range(blocks):
            at, stride = f"stages.{stage}.{block}", 2 if stage and not block else 1
            first = active(x, f"{at}.bn1")
            out = F.conv2d(first, state[f"{at}.conv1.weight"], stride=stride, padding=1)
            out = F.conv2d(active(out, f"{at}.bn2"), state[f"{at}.conv2.weight"], padding=1)
            x = out + (x if block else F.conv2d(first, state[f"{at}.shortcut.weight"], stride=stride))
    return active(x, "bn_final")


def test_forward_is_the_plain_one() -> None:
    torch.manual_seed(0)
    backbone = WideResNet(depth=16, widen=1.5, widths=(4, 6, 8)).double()
    images = torch.rand(2, 3, 9, 12, dtype=torch.float64)
    backbone(images)
    backbone.eval()
    torch.testing.assert_close(backbone(images), naive_forward(backbone.state_dict(), images, blocks=2))


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    backbone = WideResNet(depth=10, widen=1, dropout=0.5).eval()
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(backbone(images), backbone(images))
    backbone.train()
    assert not torch.equal(backbone(images), backbone(images))


def test_depth_must_fit() -> None:
    with pytest.raises(ValueError, match=r"depth 27: .* 6 n \+ 4; 22 is near"):
        WideResNet(depth=27, widen=1)
