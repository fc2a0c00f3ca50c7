"""The patch classifier against slow versions, and what its figures fix: shared weights, local patches, stopped gradients."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.config import UserError
from partwise.models.backbones import build_backbone
from partwise.models.patch_learning import Cut, PatchLearning, build_patch_learning, plan_cuts
from partwise.models.saved import NetworkSpec, build_network

MODES = ("baseline", "single", "ppl", "epl")


def small(mode: str, *, num_classes: int = 3, **options: object) -> PatchLearning:
    """A network of three blocks (strides 1, 2, 4), in evaluation mode."""
    torch.manual_seed(0)
    backbone = build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8])
    if mode == "single":
        options = {"positions": (0,)} | options
    return PatchLearning(backbone, num_classes, mode=mode, **options).eval()  # type: ignore[arg-type]


def naive_branch(network: PatchLearning, images: Tensor, cut: Cut) -> Tensor:
    """One patch branch of a picture whose maps divide evenly: every patch alone, in loops."""
    x = network.normalise(images)
    for number in range(cut.block + 1):
        x = network.backbone.block(number, x)
    height, width = x.shape[-2] // cut.grid, x.shape[-1] // cut.grid
    rows = []
    for i in range(cut.grid):
        row = []
        for j in range(cut.grid):
            patch = x[:, :, i * height : (i + 1) * height, j * width : (j + 1) * width]
            for number in range(cut.block + 1, network.backbone.num_blocks):
                patch = network.backbone.block(number, patch)
            row.append(patch)
        rows.append(torch.cat(row, 3))
    return torch.cat(rows, 2)


@pytest.mark.parametrize("grid", [2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_branches_are_those_of_the_naive_version(mode: str, grid: int) -> None:
    network, images = small(mode, grids=(grid,)), torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        for stage in range(network.num_stages):
            network.stage = stage
            whole = network.run(network.normalise(images), 0, 3)
            expected = torch.cat([*(naive_branch(network, images, cut) for cut in network.active_cuts), whole], 1)
            torch.testing.assert_close(network.branches(images), expected)


@pytest.mark.parametrize("mode", MODES)
def test_pool_then_classify_is_classify_then_pool(mode: str) -> None:
    network, images = small(mode).double(), torch.rand(2, 3, 29, 41, dtype=torch.float64)
    logits, maps = network.maps(images)
    torch.testing.assert_close(network(images).float(), maps.mean((2, 3)), rtol=1e-5, atol=1e-6)
    assert logits.shape == (2, 3)


def test_halves_add_up_to_the_full_map() -> None:
    network, images = small("epl"), torch.rand(1, 3, 32, 32)
    with torch.no_grad():
        full, patch, whole = (network.maps(images, half)[1] for half in ("full", "patch", "global"))
    torch.testing.assert_close(full, patch + whole)
    assert patch.abs().max() > 0


@pytest.mark.parametrize(("height", "width"), [(32, 32), (33, 47), (9, 10), (1, 1), (5, 64)])
@pytest.mark.parametrize("mode", MODES)
def test_any_size_gives_maps_of_the_global_size(mode: str, height: int, width: int) -> None:
    network, images = small(mode, grids=(3,)), torch.rand(1, 3, height, width)
    with torch.no_grad():
        expected = network.run(network.normalise(images), 0, 3).shape[-2:]
        assert network.maps(images)[1].shape[-2:] == expected


def test_a_patch_branch_is_local_and_the_global_one_is_not() -> None:
    network, images = small("single"), torch.rand(1, 3, 32, 32)
    changed = images.clone()
    changed[:, :, :4, :4] = 1 - changed[:, :, :4, :4]
    with torch.no_grad():
        differs = network.branches(images, "patch") != network.branches(changed, "patch")
        assert not differs.any(1)[0, 5:].any()  # the cut lies at row 16 of the picture, row 4 of the map


def gradient_in_front(network: PatchLearning, images: Tensor, half: str) -> float:
    """The largest gradient of the first block from the loss of some branches alone."""
    network.zero_grad()
    network.branches(images, half).square().sum().backward()  # type: ignore[arg-type]
    return max(
        float(p.grad.abs().max()) if p.grad is not None else 0.0 for p in network.backbone.stages[0].parameters()
    )  # type: ignore[index,union-attr]


def test_gradients_stop_in_front_of_the_cut_in_epl_and_not_in_ppl() -> None:
    images = torch.rand(2, 3, 32, 32)
    assert gradient_in_front(small("epl"), images, "patch") == 0.0
    assert gradient_in_front(small("ppl"), images, "patch") > 0.0
    assert gradient_in_front(small("epl", detach=False), images, "patch") > 0.0
    assert gradient_in_front(small("ppl", detach=True), images, "patch") == 0.0
    assert gradient_in_front(small("epl"), images, "global") > 0.0


def test_stages_move_the_cut_and_keep_every_weight() -> None:
    network = small("ppl")
    before = copy.deepcopy(network.state_dict())
    assert network.cuts == (Cut(0, 2), Cut(1, 2)) and network.num_stages == 2
    network.stage = 1
    assert network.active_cuts == (Cut(1, 2),)
    small("ppl").load_state_dict(before, strict=True)
    assert all(torch.equal(before[name], tensor) for name, tensor in network.state_dict().items())


def test_frozen_norm_is_left_alone_by_training() -> None:
    network = small("ppl")
    network.freeze_norm()
    network.train()
    before = {name: tensor.clone() for name, tensor in network.named_buffers()}
    network(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(torch.equal(before[name], tensor) for name, tensor in network.named_buffers())
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert network.training and norms and all(norm.weight.grad is not None for norm in norms)
    network.freeze_norm(False)
    assert norms[0].training


@pytest.mark.parametrize("mode", ["single", "ppl", "epl"])
def test_after_a_warm_up_the_branches_share_its_answer(mode: str) -> None:
    network, images = small(mode, grids=(1,)), torch.rand(2, 3, 32, 32)
    network.begin_plain()
    with torch.no_grad():
        plain = network(images)
        features = network.run(network.normalise(images), 0, 3)
        assert network.plain_classifier is not None
        torch.testing.assert_close(plain, F.conv2d(features, network.plain_classifier.weight).mean((2, 3)))
        network.leave_plain()
        torch.testing.assert_close(network(images), plain)  # one patch is the whole picture


def test_positions_and_grids() -> None:
    assert plan_cuts(5, (), (2,)) == (Cut(1, 2), Cut(2, 2), Cut(3, 2))  # ResNet-50: behind layer1, layer2 and layer3
    assert plan_cuts(3, (), (2,)) == (Cut(0, 2), Cut(1, 2))
    assert plan_cuts(5, (0, 3), (4, 2)) == (Cut(0, 4), Cut(3, 2))
    for positions in [(4,), (-1,), (2, 1), (1, 1)]:
        with pytest.raises(UserError, match=r"method\.positions"):
            plan_cuts(5, positions, (2,))
    with pytest.raises(UserError, match=r"method\.grids"):
        plan_cuts(5, (1, 2), (2, 2, 2))
    with pytest.raises(UserError, match="single"):
        small("single", positions=(0, 1))


@pytest.mark.parametrize("mode", MODES)
def test_it_is_rebuilt_from_plain_values(mode: str) -> None:
    positions = (1,) if mode == "single" else ()
    arguments = {"backbone": "cifar-resnet", "num_classes": 2, "mode": mode, "positions": positions, "grids": (2,)}
    arguments |= {"mean": (0.5,) * 3, "std": (0.2,) * 3, "arguments": {"depth": 8}}
    made = build_network(NetworkSpec("patch_learning", arguments))
    assert isinstance(made, PatchLearning)
    again = build_patch_learning(**arguments)  # type: ignore[arg-type]
    again.load_state_dict(made.state_dict())
    assert again.stage == again.num_stages - 1
    images = torch.rand(1, 3, 16, 16)
    assert torch.equal(made.eval()(images), again.eval()(images))


def test_any_timm_chain_can_be_cut() -> None:
    network = PatchLearning("resnet10t", 2, mode="ppl").eval()
    assert [cut.block for cut in network.cuts] == [1, 2, 3]
    with torch.no_grad():
        assert network(torch.rand(1, 3, 70, 50)).shape == (1, 2)
