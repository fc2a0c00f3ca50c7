"""Names and arguments: answers to mistakes, lazy imports, and what is done to timm's networks."""

import subprocess
import sys
from typing import Any

import pytest
import timm
import torch
from torch import nn

from partwise.config import UserError
from partwise.models.backbones import OWN, build_backbone
from partwise.models.timm_backbone import TimmBackbone, pick_taps, tokens_to_map

MISTAKES: list[tuple[str, dict[str, Any], str]] = [
    ("resnt20", {}, "unknown network 'resnt20'; nearest: 'resnet20'"),
    ("convnext_ato", {}, "nearest: 'convnext_atto'"),
    ("timm/reznet50", {}, "unknown timm network 'reznet50'; nearest: 'resnet50'"),
    ("resnet50.a1_in1k", {}, "names weights, and nothing is downloaded; use 'resnet50' with weights=FILE"),
    ("hf-hub:someone/something", {}, "unknown network"),
    ("timm/hf-hub:someone/something", {}, "unknown timm network"),
    ("local-dir:/tmp", {}, "unknown network"),
    ("resnet20", {"last_strid": 1}, "no argument 'last_strid'; nearest: 'last_stride'"),
    ("resnet20", {"zzz": 1}, "no argument 'zzz'; it takes depth, block"),
    ("resnet20", {"depth": 56}, "fixes depth at 20; use 'cifar-resnet' to choose it"),
    ("resnet20", {"last_stride": 3}, "last_stride=3: Input should be 1 or 2"),
    ("cifar-resnet", {}, "needs depth"),
    ("cifar-resnet", {"depth": 23}, "20 is near"),
    ("wide-resnet", {"depth": 10, "widen": -1}, "widen=-1"),
    ("resnet10t", {"foo": 3}, "does not take (foo=3)"),
    ("resnet10t", {"output_stride": 7}, "does not take (output_stride=7)"),
    ("resnet10t", {"checkpoint_path": "x.pth"}, "checkpoint_path is not yours to set"),
    ("resnet10t", {"pretrained": True}, "pretrained is not yours to set; for weights give weights=FILE"),
    ("resnetblur18", {"last_stride": 1}, "try output_stride"),
    ("mobilenetv3_small_050", {"last_stride": 1}, "networks with a layer4"),
    ("crossvit_tiny_240", {}, "gives no single feature map"),
]


@pytest.mark.parametrize(("name", "arguments", "message"), MISTAKES)
def test_mistakes_are_answered(name: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build_backbone(name, **arguments)
    assert message in str(caught.value)


def test_wrong_picture_size_is_explained() -> None:
    backbone = build_backbone("vit_tiny_patch16_224", img_size=32)
    with pytest.raises(UserError, match=r"does not take 48x48 pictures .* set img_size"):
        backbone(torch.rand(1, 3, 48, 48))


def test_no_own_name_hides_a_timm_name() -> None:
    assert not set(OWN) & set(timm.list_models())


def test_own_networks_do_not_import_timm() -> None:
    code = "import sys; from partwise.models import backbones as b; b.build_backbone('resnet20'); exit('timm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_last_stride_changes_the_grid_and_not_the_weights() -> None:
    torch.manual_seed(0)
    coarse, fine = build_backbone("resnet10t").eval(), build_backbone("resnet10t", last_stride=1).eval()
    fine.load_state_dict(coarse.state_dict())
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert coarse(images).shape[2:] == (2, 2)
        assert fine(images).shape[2:] == (4, 4)
        # up to layer4 they are one network
        torch.testing.assert_close(coarse.forward_stages(images)[3], fine.forward_stages(images)[3])
    dilations = {module.dilation for module in fine.modules() if isinstance(module, nn.Conv2d)}
    assert dilations == {(1, 1)}


def test_convnext_is_normed_in_every_cell() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("convnext_atto").eval()
    assert isinstance(backbone, TimmBackbone)
    with torch.no_grad():
        cells = backbone(torch.rand(2, 3, 64, 64))
    torch.testing.assert_close(cells.mean(1), torch.zeros(2, 2, 2), atol=1e-5, rtol=0)
    torch.testing.assert_close(cells.var(1, correction=0), torch.ones(2, 2, 2), atol=1e-2, rtol=0)


def test_tokens_become_the_grid_they_came_from() -> None:
    grid = torch.arange(2 * 3).reshape(2, 3)
    tokens = torch.cat([torch.full((2,), -1), grid.flatten()])[None, :, None].float()
    found = tokens_to_map(tokens, size=(32, 48), stride=16.0)
    assert torch.equal(found[0, 0], grid.float())
    with pytest.raises(UserError, match="8 tokens do not make a 3x3 map"):
        tokens_to_map(tokens, size=(48, 48), stride=16.0)


@pytest.mark.parametrize(
    ("widths", "taps"),
    [
        ([32, 16, 8, 4, 2], [0, 1, 2, 3, 4]),
        ([14] * 12, [2, 5, 8, 11]),
        ([14] * 4, [0, 1, 2, 3]),
        ([8] * 6, [1, 2, 3, 5]),
    ],
)
def test_taps(widths: list[int], taps: list[int]) -> None:
    assert pick_taps(widths) == taps


def test_a_copy_is_independent() -> None:
    import copy

    backbone = build_backbone("convnext_atto").eval()
    other = copy.deepcopy(backbone)
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.zero_()
        assert other(torch.rand(1, 3, 32, 32)).abs().sum() > 0


@pytest.mark.parametrize("name", ["resnet10t", "convnext_atto", "swin_tiny_patch4_window7_224"])
def test_pooled_is_what_timm_pools(name: str) -> None:
    """The mean of the map, and only then the norm that timm's own head has, where it has one."""
    arguments = {"img_size": 64, "window_size": 2, "embed_dim": 24} if name.startswith("swin") else {}
    torch.manual_seed(0)
    backbone = build_backbone(name, **arguments).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        network = backbone.network
        expected = network.forward_head(network.forward_features(images), pre_logits=True)
        torch.testing.assert_close(backbone.pooled(images), expected)


def test_pooled_of_our_own_networks_is_the_mean_of_the_map() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("resnet20").eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(backbone.pooled(images), backbone(images).mean((2, 3)))
