"""Geometry of training pictures against naive second versions."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from partwise.config import AugmentFields
from partwise.data.augment import (
    Placement,
    draw_views,
    fit,
    jitter_colour,
    place,
    place_boxes,
    resized_window,
    take_boxes,
    take_windows,
    training_placement,
    unplace_boxes,
    window_offsets,
)
from partwise.ops import draws


def naive_window(frame: torch.Tensor, top: int, left: int, size: int, flip: bool, fill: int) -> torch.Tensor:
    """Pixel by pixel."""
    channels, height, width = frame.shape
    out = torch.full((channels, size, size), fill, dtype=frame.dtype)
    for row in range(size):
        for column in range(size):
            y, x = top + row, left + (size - 1 - column if flip else column)
            if 0 <= y < height and 0 <= x < width:
                out[:, row, column] = frame[:, y, x]
    return out


@settings(max_examples=30, deadline=None)
@given(st.integers(3, 9), st.integers(3, 9), st.integers(2, 8), st.integers(0, 10_000))
def test_windows_equal_the_naive_ones(height: int, width: int, size: int, seed: int) -> None:
    generator = draws.generator(seed)
    frames = torch.randint(0, 256, (4, 3, height, width), generator=generator).to(torch.uint8)
    top = torch.randint(-4, height, (4,), generator=generator)
    left = torch.randint(-4, width, (4,), generator=generator)
    flip = torch.rand(4, generator=generator) < 0.5
    taken = take_windows(frames, top, left, size, flip, fill=7)
    for row in range(4):
        naive = naive_window(frames[row], int(top[row]), int(left[row]), size, bool(flip[row]), 7)
        assert torch.equal(taken[row], naive)


def test_place_and_take_windows_agree() -> None:
    """One picture in a thread and a batch on the device, from the same draws."""
    fields = AugmentFields(crop="pad", padding=3)
    frames = torch.randint(0, 256, (8, 3, 10, 10), generator=draws.generator(1)).to(torch.uint8)
    views = draw_views(8, fields, draws.generator(2))
    top, left = window_offsets(views, fields, (0, 0))
    batch = take_windows(frames, top, left, 10, views.flip)
    for row in range(8):
        placement = training_placement(10, 10, views, row, fields, size=10, resize=10, keep_aspect=False)
        assert torch.equal(batch[row], place(frames[row], placement, 10))


def test_boxes_and_masks_follow_their_picture() -> None:
    """A picture that is bright in a box: after any placement its bright pixels fill the placed box."""
    fields = AugmentFields(crop="pad", padding=4)
    for seed in range(20):
        image = torch.zeros(1, 20, 20, dtype=torch.uint8)
        image[:, 5:12, 3:15] = 255
        box = torch.tensor([[3.0, 5.0, 15.0, 12.0]])
        views = draw_views(1, fields, draws.generator(seed))
        top, left = window_offsets(views, fields, (0, 0))
        bright = take_windows(image[None], top, left, 20, views.flip)[0, 0] == 255
        moved = take_boxes([box], top, left, 20, views.flip)[0]
        rows, columns = bright.nonzero().unbind(1)
        tight = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]).float()
        assert torch.equal(moved[0], tight)


@settings(max_examples=50, deadline=None)
@given(st.integers(8, 60), st.integers(8, 60), st.booleans(), st.booleans(), st.integers(0, 1000))
def test_unplace_is_the_inverse_of_place(height: int, width: int, keep: bool, flip: bool, seed: int) -> None:
    base = fit(height, width, size=16, resize=20, keep_aspect=keep)
    placement = Placement(base.window, base.resized, base.offset, flip)
    corners = torch.rand(1, 4, generator=draws.generator(seed)) * 7
    inside = torch.stack([corners[:, 0], corners[:, 1], 8 + corners[:, 2], 8 + corners[:, 3]], dim=1)
    there = unplace_boxes(inside, placement, 16)
    assert torch.allclose(place_boxes(there, placement, 16), inside, atol=1e-3)


def test_a_box_outside_the_frame_is_dropped_and_one_across_its_edge_is_clipped() -> None:
    placement = Placement((0, 0, 20, 20), (20, 20), (5, 5))
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [2.0, 2.0, 9.0, 9.0]])
    assert torch.equal(place_boxes(boxes, placement, 10), torch.tensor([[0.0, 0.0, 4.0, 4.0]]))


def test_fit_is_torchvisions_resize_and_centre_crop() -> None:
    from torchvision.transforms.v2 import functional as tv

    image = torch.randint(0, 256, (3, 30, 47), generator=draws.generator(0)).to(torch.uint8)
    ours = place(image, fit(30, 47, size=16, resize=20, keep_aspect=True), 16)
    theirs = tv.center_crop(tv.resize(image, [20, 31], antialias=True), [16, 16])
    assert torch.equal(ours, theirs)


def test_resized_windows_follow_the_law_of_random_resized_crop() -> None:
    """Share of the area and ratio of the sides, against torchvision's own sampler."""
    from torchvision.transforms.v2 import RandomResizedCrop

    torch.manual_seed(0)
    law = RandomResizedCrop(32, scale=(0.08, 1.0), ratio=(0.75, 4 / 3), antialias=True)
    picture = torch.zeros(3, 90, 120)
    generator = draws.generator(5)
    ours, theirs = [], []
    for _ in range(3000):
        uniforms = torch.rand(10, 4, generator=generator)
        top, left, height, width = resized_window(90, 120, uniforms, scale=(0.08, 1.0), ratio=(0.75, 4 / 3))
        assert 0 <= top <= 90 - height and 0 <= left <= 120 - width
        ours.append([height * width / 10800, width / height, top / 90, left / 120])
        drawn = law.make_params([picture])
        theirs.append(
            [
                drawn["height"] * drawn["width"] / 10800,
                drawn["width"] / drawn["height"],
                drawn["top"] / 90,
                drawn["left"] / 120,
            ]
        )
    mine, reference = torch.tensor(ours), torch.tensor(theirs)
    assert torch.allclose(mine.mean(0), reference.mean(0), atol=0.02)
    assert torch.allclose(mine.std(0), reference.std(0), atol=0.02)


def test_a_picture_of_no_admitted_ratio_gives_its_largest_centred_window() -> None:
    uniforms = torch.full((10, 4), 0.999)
    assert resized_window(10, 200, uniforms, scale=(0.9, 1.0), ratio=(0.75, 4 / 3)) == (0, 93, 10, 13)


def test_offsets_are_uniform_over_the_border() -> None:
    fields = AugmentFields(crop="pad", padding=4)
    top, left = window_offsets(draw_views(9000, fields, draws.generator(3)), fields, (0, 0))
    for offsets in (top, left):
        counts = torch.bincount(offsets + 4, minlength=9)
        assert counts.shape == (9,) and (counts > 850).all() and (counts < 1150).all()


def test_flips_are_half_and_can_be_switched_off() -> None:
    assert 0.45 < draw_views(4000, AugmentFields(), draws.generator(0)).flip.float().mean() < 0.55
    assert not draw_views(100, AugmentFields(flip=False), draws.generator(0)).flip.any()


def test_jitter_equals_a_naive_version_and_slices_are_those_of_the_whole_batch() -> None:
    fields = AugmentFields(jitter=0.4, lighting=0.1)
    images = torch.rand(6, 3, 5, 5, generator=draws.generator(0))
    whole = jitter_colour(images, fields, draws.generator(9), total=6)
    halves = [jitter_colour(images[i : i + 3], fields, draws.generator(9), total=6, first=i) for i in (0, 3)]
    assert torch.equal(whole, torch.cat(halves))
    generator = draws.generator(9)
    factors = 1 + 0.4 * (2 * torch.rand(3, 6, generator=generator) - 1)
    order = torch.randperm(3, generator=generator).tolist()
    alphas = 0.1 * torch.randn(6, 3, generator=generator)
    vectors = torch.tensor([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])
    values = torch.tensor([0.2175, 0.0188, 0.0045])
    for row in range(6):
        picture = images[row].clone()
        for kind in order:
            grey = 0.299 * picture[0] + 0.587 * picture[1] + 0.114 * picture[2]
            anchor = (torch.zeros(()), grey.mean(), grey)[kind]
            picture = anchor + factors[kind, row] * (picture - anchor)
        picture = picture + (vectors @ (alphas[row] * values))[:, None, None]
        assert torch.allclose(whole[row], picture, atol=1e-5)


@pytest.mark.parametrize("crop", ["none", "pad", "resized", "random"])
def test_every_crop_gives_the_networks_frame(crop: str) -> None:
    fields = AugmentFields(crop=crop)
    image = torch.randint(0, 256, (3, 41, 57), generator=draws.generator(0)).to(torch.uint8)
    views = draw_views(2, fields, draws.generator(1))
    for row in range(2):
        placement = training_placement(41, 57, views, row, fields, size=24, resize=30, keep_aspect=True)
        assert place(image, placement, 24).shape == (3, 24, 24)
