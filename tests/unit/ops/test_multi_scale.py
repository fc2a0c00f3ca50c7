"""Scores fused over scales and mirror images, against loops over the views."""

import math
from collections.abc import Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.ops.multi_scale import Fusion, fuse_max, multi_scale_logits, rescale

FUSIONS: list[Fusion] = ["mean", "max", "probability"]


class Small(nn.Module):
    """A network that mirrors nothing by itself: its kernels are not symmetric."""

    def __init__(self, stride: int = 2) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3, stride=stride, padding=1)
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, images: Tensor) -> Tensor:
        self.shapes.append(tuple(images.shape))
        scores: Tensor = 4 * self.conv(images)
        return scores


def images(height: int = 13, width: int = 11) -> Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def resized(maps: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(maps, size=size, mode="bilinear", align_corners=False)


def naive_views(network: nn.Module, pictures: Tensor, scales: Sequence[float], flip: bool) -> list[list[Tensor]]:
    """Of every scale the scores of the picture and of its mirror image turned back, one picture at a time."""
    found = []
    for scale in scales:
        size = (round(pictures.shape[2] * scale), round(pictures.shape[3] * scale))
        view = resized(pictures, size)
        twins = [torch.cat([network(one[None]) for one in view])]
        if flip:
            mirrored = torch.cat([network(one[None]) for one in torch.flip(view, (3,))])
            twins.append(torch.flip(mirrored, (3,)))
        found.append(twins)
    return found


def naive_fusion(views: list[list[Tensor]], fusion: str, size: tuple[int, int]) -> Tensor:
    if fusion == "max":
        finest = max((tuple(twins[0].shape[-2:]) for twins in views), key=math.prod)
        twins = []
        for which in range(len(views[0])):
            stack = torch.stack([resized(view[which], finest) for view in views])  # type: ignore[arg-type]
            twins.append(stack.amax(0))
        return resized(torch.stack(twins).mean(0), size)
    every = [resized(map, size) for twins in views for map in twins]
    if fusion == "mean":
        return sum(every[1:], every[0]) / len(every)
    chances = [map.softmax(1) for map in every]
    return (sum(chances[1:], chances[0]) / len(chances)).log()


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("scales", [(1.0,), (1.0, 0.75, 0.5), (0.5, 1.75)])
@pytest.mark.parametrize("size", [None, (20, 7)])
def test_views_one_at_a_time(
    fusion: Fusion, flip: bool, scales: tuple[float, ...], size: tuple[int, int] | None
) -> None:
    network, pictures = Small(), images()
    with torch.no_grad():
        expected = naive_fusion(naive_views(network, pictures, scales, flip), fusion, size or (13, 11))
        found = multi_scale_logits(network, pictures, scales=scales, flip=flip, fusion=fusion, size=size)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("fusion", FUSIONS)
def test_mirrored_pictures_give_mirrored_scores(fusion: Fusion) -> None:
    network, pictures = Small(), images()
    with torch.no_grad():
        there = multi_scale_logits(network, pictures, scales=(1.0, 0.7), fusion=fusion)
        back = multi_scale_logits(network, pictures.flip(3), scales=(1.0, 0.7), fusion=fusion).flip(3)
        torch.testing.assert_close(there, back)
        single = multi_scale_logits(network, pictures, flip=False, fusion=fusion)
        turned = multi_scale_logits(network, pictures.flip(3), flip=False, fusion=fusion).flip(3)
    assert not torch.allclose(single, turned, atol=1e-2), "the network is blind to mirroring itself"


def test_picture_and_mirror_image_are_one_batch() -> None:
    network = Small()
    multi_scale_logits(network, images(), scales=(1.0, 0.5))
    assert network.shapes == [(4, 3, 13, 11), (4, 3, 6, 6)]
    network.shapes.clear()
    multi_scale_logits(network, images(), flip=False)
    assert network.shapes == [(2, 3, 13, 11)]


def test_log_of_probabilities_is_normalised() -> None:
    with torch.no_grad():
        found = multi_scale_logits(Small(), images(), scales=(1.0, 0.5), fusion="probability")
    torch.testing.assert_close(found.exp().sum(1), torch.ones(2, 13, 11))
    torch.testing.assert_close(found.softmax(1), found.exp())


def test_padding_only_where_asked_for() -> None:
    network, pictures = Small(), images()
    multi_scale_logits(network, pictures, multiple=8)
    multi_scale_logits(network, images(16, 24), multiple=8)
    assert network.shapes == [(4, 3, 16, 16), (4, 3, 16, 24)]
    aligned = images(16, 24)
    assert torch.equal(multi_scale_logits(network, aligned, multiple=8), multi_scale_logits(network, aligned))


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("flip", [False, True])
def test_what_is_said_of_the_padding_is_cut_off(fusion: Fusion, flip: bool) -> None:
    """A network that looks at single pixels does not notice the padding."""
    pictures = images()
    weight = torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(2))

    def forward(view: Tensor) -> Tensor:
        return F.conv2d(view, weight)

    for scales in ((1.0,), (1.0, 0.6)):
        found = multi_scale_logits(forward, pictures, scales=scales, flip=flip, fusion=fusion, multiple=8)
        expected = multi_scale_logits(forward, pictures, scales=scales, flip=flip, fusion=fusion)
        torch.testing.assert_close(found, expected)


def test_padding_repeats_the_border() -> None:
    seen: list[Tensor] = []

    def forward(view: Tensor) -> Tensor:
        seen.append(view)
        return view

    pictures = images()
    multi_scale_logits(forward, pictures, multiple=8)
    straight, mirrored = seen[0].chunk(2)
    for view, source in ((straight, pictures), (mirrored, pictures.flip(3))):
        assert torch.equal(view[..., :13, :11], source)
        assert torch.equal(view[..., :13, 11:], source[..., -1:].expand(2, 3, 13, 5))
        assert torch.equal(view[..., 13:, :], view[..., 12:13, :].expand(2, 3, 3, 16))


def test_fused_maximum_cell_by_cell() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(2, 3, *size, generator=generator) for size in ((3, 4), (6, 8), (5, 5))]
    raised = [resized(map, (6, 8)) for map in maps]
    found = fuse_max(maps)
    assert found.shape == (2, 3, 6, 8)
    for place in torch.cartesian_prod(*(torch.arange(n) for n in found.shape)).tolist():
        assert found[tuple(place)] == max(map[tuple(place)] for map in raised)


def test_rescaled_sides_are_at_least_one() -> None:
    assert rescale(images(), 0.01).shape == (2, 3, 1, 1)
    assert rescale(images(), 1.5).shape == (2, 3, 20, 16)
    pictures = images()
    assert rescale(pictures, 1.0) is pictures


@pytest.mark.parametrize("fusion", FUSIONS)
def test_gradients_reach_network_and_pictures(fusion: Fusion) -> None:
    network, pictures = Small(), images().requires_grad_()
    multi_scale_logits(network, pictures, scales=(1.0, 0.5), fusion=fusion)[:, 1].sum().backward()
    for tensor in (pictures, *network.parameters()):
        assert tensor.grad is not None and tensor.grad.isfinite().all() and tensor.grad.abs().sum() > 0


def test_what_cannot_be_fused_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one scale"):
        multi_scale_logits(Small(), images(), scales=())
    with pytest.raises(ValueError, match="expected 'mean', 'max' or 'probability'"):
        multi_scale_logits(Small(), images(), fusion="median")  # type: ignore[arg-type]
