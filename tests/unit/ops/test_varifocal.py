"""The varifocal step against slow versions: slices one by one, the mask differentiated by torch, targets pixel by pixel."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from partwise.ops.varifocal import (
    Rule,
    band_changes,
    box_from_unit,
    box_gradient,
    box_targets,
    boxcar_changes,
    dark_masks,
    pixel_boxes,
    sampled_crop,
    sliced_crop,
    square_boxes,
    standardise,
    varifocal_crop,
)

FRAMES = (256, 128, 96, 64, 50, 8)
RULES: tuple[Rule, ...] = ("boxcar", "bands", "autograd")
unit = st.floats(0, 1, width=32)


def boxes_of(count: int, seed: int = 0, *, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# -- boxes ---------------------------------------------------------------------------------------------------------------


def test_boxes_by_hand() -> None:
    u = torch.tensor([[0.5, 0.5, 1.0], [0.0, 1.0, 0.0], [0.25, 0.75, 0.5]])
    expected = torch.tensor([[64.0, 64, 192, 192], [32, 160, 96, 224], [48, 112, 144, 208]])
    assert torch.equal(square_boxes(u, 256), expected)
    assert torch.equal(pixel_boxes(u, 256), expected)
    assert torch.equal(square_boxes(u, 64), expected / 4)
    x, y, half = box_from_unit(u, 256)
    assert (x.tolist(), y.tolist(), half.tolist()) == ([128, 64, 96], [128, 192, 160], [64, 32, 48])


@given(unit, unit, unit, st.sampled_from(FRAMES))
def test_boxes_lie_in_the_frame(x: float, y: float, length: float, frame: int) -> None:
    u = torch.tensor([[x, y, length]])
    real, whole = square_boxes(u, frame)[0], pixel_boxes(u, frame)[0]
    for x1, y1, x2, y2 in (real.tolist(), whole.tolist()):
        assert min(x1, y1) >= -1e-3 and max(x2, y2) <= frame + 1e-3
        assert x2 - x1 == pytest.approx(y2 - y1, abs=1e-3)
    x1, y1, x2, y2 = whole.tolist()
    assert all(value == int(value) and 0 <= value <= frame for value in (x1, y1, x2, y2))
    assert x2 - x1 == y2 - y1 and round(frame / 4 - 0.5) <= x2 - x1 <= round(frame / 2)
    assert ((whole - real).abs() <= 1.001).all()


def test_boxes_of_another_kind_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(B, 3\)"):
        box_from_unit(torch.rand(3), 64)
    with pytest.raises(ValueError, match=r"\(B, 3\)"):
        box_from_unit(torch.rand(2, 4), 64)
    with pytest.raises(ValueError, match="frame 3"):
        box_from_unit(torch.rand(2, 3), 3)


# -- targets -------------------------------------------------------------------------------------------------------------


def naive_target(mask: Tensor) -> list[float]:
    """The smallest centred square that covers every dark pixel, found by growing it in steps of half a pixel."""
    frame = len(mask)
    dark = [(i, j) for i in range(frame) for j in range(frame) if mask[i, j]]
    half = 0.0
    while any(min(i, j) < frame / 2 - half or max(i, j) + 1 > frame / 2 + half for i, j in dark):
        half += 0.5
    return [0.5, 0.5, min(1.0, max(0.0, (half - frame / 8) / (frame / 8)))]


@pytest.mark.parametrize("frame", [16, 17, 24])
def test_targets_are_the_naive_ones(frame: int) -> None:
    generator = torch.Generator().manual_seed(frame)
    masks = torch.zeros(40, frame, frame, dtype=torch.bool)
    for mask in masks[1:]:
        x1, y1 = (int(torch.randint(2, frame - 4, (), generator=generator)) for _ in "xy")
        width, height = (int(torch.randint(1, 5, (), generator=generator)) for _ in "xy")
        mask[y1 : y1 + height, x1 : x1 + width] = True
    expected = torch.tensor([naive_target(mask) for mask in masks])
    torch.testing.assert_close(box_targets(masks), expected)
    assert len(expected[:, 2].unique()) >= 3


def test_targets_by_hand() -> None:
    pictures = torch.ones(5, 1, 256, 256)
    pictures[1, 0, 128 - 40 : 128 + 40, 120:136] = 0.4  # 80 px high
    pictures[2, 0, 120:136, 128 - 40 : 128 + 40] = 0.4  # 80 px wide
    pictures[3, 0, 128 - 70 : 128 + 70, 120:136] = 0.4  # higher than 2 T1
    pictures[4, 0, 120:136, 120:136] = 0.4
    pictures[4, 0, 0, 0] = 0.99  # paper, not chromosome
    found = box_targets(dark_masks(pictures))
    assert torch.equal(found[:, :2], torch.full((5, 2), 0.5))
    torch.testing.assert_close(found[:, 2], torch.tensor([0.0, 0.25, 0.25, 1.0, 0.0]))
    assert square_boxes(found, 256)[1].tolist() == [88, 88, 168, 168]  # just covers it


def test_masks_must_be_square() -> None:
    with pytest.raises(ValueError, match=r"\(B, F, F\)"):
        box_targets(torch.zeros(2, 8, 9, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"\(B, F, F\)"):
        box_targets(torch.zeros(2, 1, 8, 8, dtype=torch.bool))


# -- the crop ------------------------------------------------------------------------------------------------------------


def naive_crop(images: Tensor, u: Tensor, out: int) -> Tensor:
    """One picture after the other: round, slice, resize."""
    crops = []
    for image, (x1, y1, x2, y2) in zip(images, pixel_boxes(u, images.shape[-1]).long().tolist(), strict=True):
        piece = image[None, :, y1:y2, x1:x2]
        crops.append(F.interpolate(piece, size=(out, out), mode="bilinear", align_corners=False))
    return torch.cat(crops)


@pytest.mark.parametrize("out", [1, 5, 32, 128])
@pytest.mark.parametrize("frame", FRAMES)
def test_the_crop_is_slicing_and_resizing(frame: int, out: int) -> None:
    torch.manual_seed(frame)
    images, u = torch.randn(6, 2, frame, frame), boxes_of(6, frame)
    u[0], u[1] = 0.0, 1.0
    torch.testing.assert_close(varifocal_crop(images, u, out=out), naive_crop(images, u, out), rtol=0, atol=1e-5)
    wide = images.double()
    torch.testing.assert_close(varifocal_crop(wide, u.double(), out=out), naive_crop(wide, u.double(), out))


def test_a_box_of_the_crops_own_size_is_a_copy() -> None:
    images = torch.randn(1, 1, 64, 64)
    crop = varifocal_crop(images, torch.tensor([[0.25, 0.75, 1.0]]), out=32)
    assert torch.equal(crop, images[:, :, 24:56, 8:40])


def test_nothing_outside_of_the_box_is_seen() -> None:
    images, u = torch.randn(4, 1, 64, 64), boxes_of(4)
    changed = torch.full_like(images, 1e9)
    for i, (x1, y1, x2, y2) in enumerate(pixel_boxes(u, 64).long().tolist()):
        changed[i, :, y1:y2, x1:x2] = images[i, :, y1:y2, x1:x2]
    assert torch.equal(varifocal_crop(images, u, out=32), varifocal_crop(changed, u, out=32))


@pytest.mark.parametrize("rule", RULES)
def test_columns_are_x_and_rows_are_y(rule: Rule) -> None:
    columns = torch.arange(64.0).expand(64, 64) + 0.5
    u = torch.tensor([[0.0, 1.0, 0.5]])  # centre (16, 48), half side 12
    for image, first in ((columns, 4), (columns.T, 36)):
        crop = varifocal_crop(image[None, None], u, out=24, rule=rule)[0, 0]
        line = torch.arange(first, first + 24) + 0.5
        torch.testing.assert_close(crop, (line if image is columns else line[:, None]).expand(24, 24))


def test_the_sampled_crop_is_the_naive_one() -> None:
    torch.manual_seed(0)
    images, u, out = torch.randn(3, 2, 16, 16, dtype=torch.float64), boxes_of(3, dtype=torch.float64), 5
    found = sampled_crop(images, u, out)
    x, y, half = box_from_unit(u, 16)
    for b in range(3):
        for row in range(out):
            for column in range(out):
                px = float(x[b] - half[b] + (column + 0.5) * 2 * half[b] / out) - 0.5
                py = float(y[b] - half[b] + (row + 0.5) * 2 * half[b] / out) - 0.5
                expected = torch.zeros(2, dtype=torch.float64)
                for i in (math.floor(py), math.floor(py) + 1):
                    for j in (math.floor(px), math.floor(px) + 1):
                        share = (1 - abs(py - i)) * (1 - abs(px - j))
                        expected += share * images[b, :, min(max(i, 0), 15), min(max(j, 0), 15)]
                torch.testing.assert_close(found[b, :, row, column], expected)


@pytest.mark.parametrize("rule", RULES)
def test_a_batch_is_its_pictures_one_by_one(rule: Rule) -> None:
    torch.manual_seed(0)
    images, weight = torch.randn(5, 2, 32, 32), torch.randn(5, 2, 16, 16)

    def run(rows: slice) -> tuple[Tensor, Tensor]:
        u = boxes_of(5)[rows].requires_grad_()
        crop = varifocal_crop(images[rows], u, out=16, rule=rule)
        (gradient,) = torch.autograd.grad((crop * weight[rows]).sum(), u)
        return crop.detach(), gradient

    crops, gradients = run(slice(None))
    alone = [run(slice(i, i + 1)) for i in range(5)]
    torch.testing.assert_close(crops, torch.cat([crop for crop, _ in alone]))
    torch.testing.assert_close(gradients, torch.cat([gradient for _, gradient in alone]))
    assert gradients.abs().sum(dim=1).min() > 0


def test_sliced_boxes_need_not_be_square() -> None:
    images = torch.randn(1, 1, 9, 12)
    expected = F.interpolate(images[:, :, 2:5, 1:11], size=(7, 7), mode="bilinear", align_corners=False)
    torch.testing.assert_close(sliced_crop(images, torch.tensor([[1.0, 2, 11, 5]]), 7), expected)


def test_a_diverged_box_gives_a_crop_of_nan() -> None:
    crop = varifocal_crop(torch.randn(2, 1, 16, 16), torch.tensor([[0.5, 0.5, 0.5], [math.nan] * 3]), out=8)
    assert crop[0].isfinite().all() and crop[1].isnan().all()


@pytest.mark.parametrize("rule", RULES)
def test_lower_precision_of_the_box_is_taken(rule: Rule) -> None:
    u = torch.full((2, 3), 0.5, dtype=torch.bfloat16, requires_grad=True)
    crop = varifocal_crop(torch.randn(2, 1, 32, 32), u, out=16, rule=rule)
    crop.square().sum().backward()
    assert crop.dtype == torch.float32 and u.grad is not None and u.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("shape", "settings", "message"),
    [
        ((2, 1, 16, 12), {}, r"\(B, C, F, F\)"),
        ((3, 1, 16, 16), {}, r"\(B, C, F, F\)"),
        ((2, 16, 16), {}, r"\(B, C, F, F\)"),
        ((2, 1, 16, 16), {"out": 0}, "out 0"),
        ((2, 1, 16, 16), {"sharpness": 0.0}, "sharpness 0"),
        ((2, 1, 16, 16), {"band": 0.6}, "band 0.6"),
        ((2, 1, 16, 16), {"band": math.nan}, "band nan"),
        ((2, 1, 16, 16), {"rule": "box"}, "rule 'box'"),
    ],
)
def test_what_means_nothing_is_refused(shape: tuple[int, ...], settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        varifocal_crop(torch.zeros(shape), torch.full((2, 3), 0.5), **settings)  # type: ignore[arg-type]


# -- the gradient by hand ------------------------------------------------------------------------------------------------


def mask_at(places: Tensor, x: Tensor, y: Tensor, half: Tensor, sharpness: float) -> Tensor:
    """The soft mask of a box at places `(rows, columns, 2)` of the frame, (x, y) each, as the paper writes it."""

    def step(z: Tensor) -> Tensor:
        return (1 + torch.tanh(sharpness * z / 2)) / 2  # 1 / (1 + exp(-k z)), without its overflow

    px, py = places.unbind(dim=-1)
    return (step(px - (x - half)) - step(px - (x + half))) * (step(py - (y - half)) - step(py - (y + half)))


def places_of(x: Tensor, y: Tensor, half: Tensor, out: int) -> Tensor:
    """Where the pixels of a crop lie in the frame."""
    cells = (torch.arange(out, dtype=x.dtype) + 0.5) * 2 * half / out
    columns, rows = torch.meshgrid(x - half + cells, y - half + cells, indexing="xy")
    return torch.stack([columns, rows], dim=-1).detach()


def naive_boxcar(gradient: Tensor, u: Tensor, frame: int, sharpness: float) -> Tensor:
    """- sum E dM/du of every picture alone, M differentiated by torch down to u, with the places of pixels held."""
    slopes = []
    for each, single in zip(gradient, u.detach(), strict=True):
        leaf = single.clone().requires_grad_()
        x, y = (frame / 4 + leaf[i] * frame / 2 for i in (0, 1))
        half = leaf[2] * frame / 8 + frame / 8
        mask = mask_at(places_of(x, y, half, each.shape[-1]), x, y, half, sharpness)
        loss = -(each.square().sum(dim=0) * mask).sum()
        slopes.append(torch.autograd.grad(loss, leaf)[0])
    return torch.stack(slopes)


@pytest.mark.parametrize("sharpness", [10.0, 1.0, 0.1])
@pytest.mark.parametrize(("frame", "out"), [(256, 32), (64, 32), (64, 15)])
def test_boxcar_is_the_masks_own_derivative(frame: int, out: int, sharpness: float) -> None:
    torch.manual_seed(0)
    u, gradient = boxes_of(4, dtype=torch.float64), torch.randn(4, 3, out, out, dtype=torch.float64)
    found = box_gradient(gradient, u, frame=frame, sharpness=sharpness, normalise=False)
    torch.testing.assert_close(found, naive_boxcar(gradient, u, frame, sharpness), rtol=1e-6, atol=1e-11)
    narrow = box_gradient(gradient.float(), u.float(), frame=frame, sharpness=sharpness, normalise=False)
    torch.testing.assert_close(narrow.double(), found, rtol=1e-3, atol=1e-4 * float(found.abs().max()))


def test_boxcar_changes_are_finite_differences() -> None:
    u, out, width = boxes_of(3, dtype=torch.float64), 9, 1e-5
    x, y, half = box_from_unit(u, 64)
    found = boxcar_changes(half, out, sharpness=2.0)
    for b in range(3):
        at, places = torch.stack([x[b], y[b], half[b]]), places_of(x[b], y[b], half[b], out)
        for which in range(3):
            shift = torch.eye(3, dtype=torch.float64)[which] * width
            change = mask_at(places, *(at + shift), 2.0) - mask_at(places, *(at - shift), 2.0)
            torch.testing.assert_close(found[b, which], change / (2 * width), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("band", [1 / 3, 1 / 4, 0.5])
@pytest.mark.parametrize("out", [12, 128, 7])
def test_bands_are_the_naive_ones(out: int, band: float) -> None:
    found = band_changes(out, band=band)[0]
    for row in range(out):
        for column in range(out):
            x, y = ((place + 0.5) / out for place in (column, row))
            in_x = 1 if x > 1 - band else -1 if x < band else 0
            in_y = 1 if y > 1 - band else -1 if y < band else 0
            assert found[:, row, column].tolist() == [in_x, in_y, 1 if in_x or in_y else -1]


def test_bands_weigh_the_energy() -> None:
    torch.manual_seed(0)
    u, gradient = boxes_of(3), torch.randn(3, 2, 12, 12)
    found = box_gradient(gradient, u, frame=64, rule="bands", normalise=False)
    signs, expected = band_changes(12)[0], torch.zeros(3, 3)
    for b in range(3):
        for which, factor in enumerate((32, 32, 8)):
            for i in range(12):
                for j in range(12):
                    expected[b, which] -= gradient[b, :, i, j].square().sum() * signs[which, i, j] * factor
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("rule", ["boxcar", "bands"])
@pytest.mark.parametrize("normalise", [True, False])
def test_the_backward_pass_is_that_gradient(rule: Rule, normalise: bool) -> None:
    torch.manual_seed(0)
    images, weight = torch.randn(3, 2, 64, 64), torch.randn(3, 2, 32, 32)
    u = boxes_of(3).requires_grad_()
    crop = varifocal_crop(images, u, out=32, rule=rule, sharpness=3.0, band=0.25, normalise=normalise)
    (crop * weight).sum().backward()
    settings = {"frame": 64, "rule": rule, "sharpness": 3.0, "band": 0.25, "normalise": normalise}
    torch.testing.assert_close(u.grad, box_gradient(weight, u.detach(), **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", ["boxcar", "bands"])
def test_normalised_gradients_are_directions(rule: Rule) -> None:
    torch.manual_seed(0)
    u, gradient = boxes_of(4), torch.randn(4, 1, 32, 32)
    gradient[3] = 0
    settings = {"frame": 64, "rule": rule}
    raw = box_gradient(gradient, u, normalise=False, **settings)  # type: ignore[arg-type]
    found = box_gradient(gradient, u, **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(found[:3], raw[:3] / raw[:3].norm(dim=1, keepdim=True))
    assert torch.equal(found[3], torch.zeros(3)) and torch.equal(raw[3], torch.zeros(3))
    tiny = box_gradient(gradient * 1e-30, u, **settings)  # type: ignore[arg-type]
    torch.testing.assert_close(tiny, found)
    assert box_gradient(gradient * math.nan, u, **settings).isnan().all()  # type: ignore[arg-type]


def stepped(energy: Tensor, rule: Rule) -> Tensor:
    """How u changes in one step downhill when the loss depends on those pixels of the crop alone."""
    u = torch.full((1, 3), 0.5, requires_grad=True)
    crop = varifocal_crop(torch.randn(1, 1, 256, 256), u, rule=rule)
    (crop * energy).sum().backward()
    assert u.grad is not None
    return -u.grad[0]


@pytest.mark.parametrize("rule", ["boxcar", "bands"])
@pytest.mark.parametrize(
    ("rows", "columns", "x", "y"),
    [
        (slice(None), slice(-10, None), 1, 0),
        (slice(None), slice(0, 10), -1, 0),
        (slice(-10, None), slice(None), 0, 1),
        (slice(0, 10), slice(None), 0, -1),
        (slice(-10, None), slice(-10, None), 1, 1),
    ],
    ids=["right", "left", "bottom", "top", "corner"],
)
def test_a_box_moves_towards_what_matters(rule: Rule, rows: slice, columns: slice, x: int, y: int) -> None:
    energy = torch.zeros(128, 128)
    energy[rows, columns] = -1.0  # the sign of the loss's own gradient is of no account
    step = stepped(energy, rule)
    assert step[0] * x > 0 if x else step[0].abs() < 1e-5
    assert step[1] * y > 0 if y else step[1].abs() < 1e-5
    assert step[2] > 0


def test_a_box_shrinks_by_bands_onto_what_matters_and_never_by_boxcar() -> None:
    energy = torch.zeros(128, 128)
    energy[60:70, 50:80] = 1.0
    assert stepped(energy, "bands")[2] < 0
    assert stepped(energy, "boxcar")[2] >= 0
    torch.manual_seed(0)
    gradient = torch.randn(64, 1, 64, 64) * torch.rand(64, 1, 64, 64).pow(8)
    assert (box_gradient(gradient, boxes_of(64), frame=128)[:, 2] <= 0).all()
    assert (boxcar_changes(torch.linspace(8, 64, 9), 32)[:, 2] >= 0).all()


def test_the_sampled_crop_has_the_gradient_it_says() -> None:
    torch.manual_seed(0)
    images = torch.randn(2, 1, 12, 12, dtype=torch.float64)
    u = boxes_of(2, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda box: varifocal_crop(images, box, out=5, rule="autograd"), (u,), eps=1e-7)


@pytest.mark.parametrize("rule", RULES)
def test_no_gradient_reaches_the_pictures(rule: Rule) -> None:
    images = torch.randn(2, 1, 16, 16, requires_grad=True)
    u = boxes_of(2).requires_grad_()
    varifocal_crop(images, u, out=8, rule=rule).square().sum().backward()
    assert images.grad is None and u.grad is not None and u.grad.abs().sum() > 0
    assert not varifocal_crop(images.detach(), u.detach(), out=8, rule=rule).requires_grad


# -- standardising -------------------------------------------------------------------------------------------------------


def test_pictures_are_standardised_each_by_its_own_numbers() -> None:
    torch.manual_seed(0)
    pictures = torch.rand(3, 1, 9, 11)
    found = standardise(pictures)
    for picture, each in zip(pictures, found, strict=True):
        mean = picture.sum() / 99
        std = ((picture - mean).square().sum() / 99).sqrt()
        torch.testing.assert_close(each, (picture - mean) / (std + 1e-6))
    torch.testing.assert_close(standardise(pictures * 255), found, rtol=1e-4, atol=1e-4)
    assert torch.equal(standardise(torch.ones(1, 1, 8, 8)), torch.zeros(1, 1, 8, 8))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
@pytest.mark.parametrize("rule", RULES)
def test_an_accelerator_gives_the_same(rule: Rule) -> None:
    torch.manual_seed(0)
    images, weight, results = torch.randn(4, 1, 64, 64), torch.randn(4, 1, 32, 32), []
    for device in ("cpu", "cuda"):
        u = boxes_of(4).to(device).requires_grad_()
        crop = varifocal_crop(images.to(device), u, out=32, rule=rule)
        (crop * weight.to(device)).sum().backward()
        assert u.grad is not None
        results.append((crop.detach().cpu(), u.grad.cpu(), box_targets(dark_masks(images.to(device))).cpu()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
