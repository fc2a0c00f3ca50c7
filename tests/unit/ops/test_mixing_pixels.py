"""Mixed pictures and masks against a per-pixel second version, in every dtype, layout and way of writing."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from partwise.config import UserError
from partwise.ops import mixing_pixels
from partwise.ops.mixing import (
    Mix,
    apply_mix,
    draw_cutmix,
    draw_cutout,
    draw_mixup,
    draw_resizemix,
    mix_masks,
)
from partwise.ops.mixing_pixels import resize_weights

DRAWS = {"cutmix": draw_cutmix, "mixup": draw_mixup, "cutout": draw_cutout, "resizemix": draw_resizemix}
OPTIONS = {"cutout": {"length": 6}}


def drawn(rule: str, batch: int, height: int, width: int, seed: int = 0, **options) -> Mix:
    generator = torch.Generator().manual_seed(seed)
    return DRAWS[rule](batch, height, width, generator=generator, **OPTIONS.get(rule, {}), **options)


def pictures(batch: int, height: int, width: int, dtype: torch.dtype = torch.float32, channels: int = 3) -> Tensor:
    values = torch.rand(batch, channels, height, width, generator=torch.Generator().manual_seed(99))
    return values.to(dtype) if dtype.is_floating_point else (values * 256).floor().to(dtype)


def shrunk(picture: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear resizing to a smaller size: along each axis a mean weighted by a triangle as wide as a new pixel.

    Not `F.interpolate(antialias=True)`: that one repeats the first row where the new width is 1 (torch 2.14).
    """

    def along_last(values: Tensor, size: int) -> Tensor:
        length = values.shape[-1]
        factor = length / size
        columns = []
        for t in range(size):
            weights = [max(0.0, 1.0 - abs(s + 0.5 - (t + 0.5) * factor) / factor) for s in range(length)]
            columns.append(sum(w * values[..., s] for s, w in enumerate(weights)) / sum(weights))
        return torch.stack(columns, dim=-1)

    return along_last(along_last(picture, width).transpose(-1, -2), height).transpose(-1, -2)


def pixel_by_pixel(images: Tensor, mix: Mix, source: Tensor) -> Tensor:
    """The definition, one pixel at a time, in float64."""
    mixed = images.double().clone()
    batch, channels, height, width = images.shape
    for b in range(batch):
        x1, y1, x2, y2 = mix.boxes[b].tolist()
        partner = source[mix.partner[b]].double()
        if mix.rule == "resizemix" and x1 < x2:
            small = shrunk(partner, y2 - y1, x2 - x1)
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    inside = x1 <= x < x2 and y1 <= y < y2
                    if mix.rule == "mixup":
                        lam = mix.lam[b].double()
                        mixed[b, c, y, x] = lam * mixed[b, c, y, x] + (1 - lam) * partner[c, y, x]
                    elif mix.rule == "cutmix" and inside:
                        mixed[b, c, y, x] = partner[c, y, x]
                    elif mix.rule == "cutout" and inside:
                        mixed[b, c, y, x] = mix.fill[c % len(mix.fill)]
                    elif mix.rule == "resizemix" and inside:
                        mixed[b, c, y, x] = small[c, y - y1, x - x1]
    return mixed


def assert_follows_the_definition(mixed: Tensor, images: Tensor, mix: Mix, source: Tensor) -> None:
    want = pixel_by_pixel(images, mix, source)
    if mix.rule in ("cutmix", "cutout"):
        assert torch.equal(mixed, want.to(images.dtype))
    elif images.is_floating_point():
        relative = max(torch.finfo(images.dtype).eps, 1e-6)
        torch.testing.assert_close(mixed.double(), want, rtol=relative, atol=2 * relative)
    else:
        assert (mixed.double() - want).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("rule", list(DRAWS))
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_every_rule_dtype_and_layout(rule: str, dtype: torch.dtype, channels_last: bool, mode: str) -> None:
    batch, height, width = 5, 9, 14
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = pictures(batch, height, width, dtype).contiguous(memory_format=layout)
    before = images.clone()
    mix = drawn(rule, batch, height, width, mode=mode)
    mixed = apply_mix(images, mix)
    assert mixed.dtype == dtype and mixed.is_contiguous(memory_format=layout)
    assert_follows_the_definition(mixed, images, mix, images)
    assert torch.equal(images, before)
    mixed.zero_()
    assert torch.equal(images, before)


@pytest.mark.parametrize("rule", list(DRAWS))
@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 7), (6, 2)])
def test_tiny_batches_and_pictures(rule: str, batch: int, height: int, width: int) -> None:
    images = pictures(batch, height, width)
    for seed in range(3):
        mix = drawn(rule, batch, height, width, seed)
        assert_follows_the_definition(apply_mix(images, mix), images, mix, images)


WAYS = {"box by box": 0, "all at once": 10**9}


@pytest.mark.parametrize("mode", ["sample", "pair", "batch"])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_all_ways_give_the_same_bits(mode: str, channels_last: bool, dtype: torch.dtype, monkeypatch) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    images = pictures(6, 18, 11, dtype).contiguous(memory_format=layout)
    for seed in range(4):
        mix = drawn("cutmix", 6, 18, 11, seed, mode=mode, p=0.8)
        want = mixing_pixels._choose(mix, images[mix.partner], images, None)
        for threshold in WAYS.values():
            monkeypatch.setattr(mixing_pixels, "COPY_BOXES_FROM", threshold)
            fresh, buffer, place = images.clone(), torch.empty_like(images), images.clone()
            assert torch.equal(apply_mix(fresh, mix), want) and torch.equal(fresh, images)
            assert apply_mix(fresh, mix, out=buffer) is buffer and torch.equal(buffer, want)
            assert apply_mix(place, mix, out=place) is place and torch.equal(place, want)


@pytest.mark.parametrize("threshold", list(WAYS.values()), ids=list(WAYS))
@pytest.mark.parametrize("rule", list(DRAWS))
@pytest.mark.parametrize("mode", ["sample", "batch"])
def test_ranks_together_make_the_global_batch(rule: str, mode: str, threshold: int, monkeypatch) -> None:
    monkeypatch.setattr(mixing_pixels, "COPY_BOXES_FROM", threshold)
    images = pictures(7, 8, 12)
    mix = drawn(rule, 7, 8, 12, mode=mode)
    whole = apply_mix(images, mix)
    for lo, hi in ((0, 3), (3, 7)):
        part = mix.slice(lo, hi)
        torch.testing.assert_close(apply_mix(images[lo:hi], part, source=images), whole[lo:hi], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(apply_mix(images[lo:hi].clone(), part, source=images), whole[lo:hi])
        # In place into a slice of the source itself: reading must not see what was written.
        memory = images.clone()
        apply_mix(memory[lo:hi], part, source=memory, out=memory[lo:hi])
        torch.testing.assert_close(memory[lo:hi], whole[lo:hi])


def test_out_may_be_in_place_for_every_rule() -> None:
    for rule in DRAWS:
        for dtype in (torch.float32, torch.uint8, torch.bfloat16):
            images = pictures(5, 9, 7, dtype)
            mix = drawn(rule, 5, 9, 7)
            want, place = apply_mix(images, mix), images.clone()
            assert apply_mix(place, mix, out=place) is place
            assert torch.equal(place, want)


@given(
    batch=st.integers(1, 5),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**31),
    rule=st.sampled_from(list(DRAWS)),
    mode=st.sampled_from(["sample", "pair", "batch"]),
    p=st.sampled_from([0.5, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_any_draw_follows_the_definition(batch, height, width, seed, rule, mode, p) -> None:
    images = pictures(batch, height, width, channels=2)
    mix = drawn(rule, batch, height, width, seed, mode=mode, p=p)
    assert_follows_the_definition(apply_mix(images, mix), images, mix, images)


def test_gradients_reach_both_sources(monkeypatch) -> None:
    monkeypatch.setattr(mixing_pixels, "COPY_BOXES_FROM", 0)
    features = pictures(4, 8, 8).requires_grad_()
    mix = drawn("cutmix", 4, 8, 8, partner="flip")
    (own,) = torch.autograd.grad(apply_mix(features, mix)[0].sum(), features)
    share = own.mean(dim=(1, 2, 3))
    torch.testing.assert_close(share, torch.tensor([mix.lam[0].item(), 0.0, 0.0, 1.0 - mix.lam[0].item()]))


def test_fill_is_per_channel_and_checked() -> None:
    images = pictures(4, 10, 10)
    mix = drawn("cutout", 4, 10, 10, fill=(0.1, 0.2, 0.3))
    assert_follows_the_definition(apply_mix(images, mix), images, mix, images)
    bytes_ = apply_mix(torch.zeros(4, 3, 10, 10, dtype=torch.uint8), replace(mix, fill=(123.675,)))
    assert bytes_.max() == 124
    with pytest.raises(UserError, match="2 values for pictures of 3 channels"):
        apply_mix(images, replace(mix, fill=(0.1, 0.2)))


@pytest.mark.parametrize("length", [1, 2, 7, 16, 33])
def test_resizing_is_torchs_antialiased_bilinear(length: int) -> None:
    line = torch.rand(length, generator=torch.Generator().manual_seed(0))
    for size in range(1, length + 1):
        # torch's antialiased bilinear filter as the oracle.
        start = torch.tensor([(length - size) // 2])
        weights = resize_weights(start, start + size, length)[0]
        want = F.interpolate(line[None, None, None], (1, size), mode="bilinear", antialias=True)[0, 0, 0]
        got = weights @ line
        torch.testing.assert_close(got[start : start + size], want, rtol=1e-5, atol=1e-6)
        assert (got[:start] == 0).all() and (got[start + size :] == 0).all()


def test_resizemix_under_autocast_keeps_float32() -> None:
    images = pictures(3, 12, 12)
    mix = drawn("resizemix", 3, 12, 12)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(apply_mix(images, mix), apply_mix(images, mix.to("cpu")))
        assert_follows_the_definition(apply_mix(images, mix), images, mix, images)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64])
def test_masks_are_cut_with_the_pictures(dtype: torch.dtype) -> None:
    masks = torch.randint(0, 21, (5, 9, 14), generator=torch.Generator().manual_seed(1)).to(dtype)
    masks[:, 0] = 255
    before = masks.clone()
    for seed in range(4):
        mix = drawn("cutmix", 5, 9, 14, seed, p=0.8)
        mixed = mix_masks(masks, mix)
        want = pixel_by_pixel(masks[:, None].double(), mix, masks[:, None].double())[:, 0]
        assert mixed.dtype == dtype and torch.equal(mixed, want.to(dtype)) and torch.equal(masks, before)
        assert torch.equal(mix_masks(masks[2:4], mix.slice(2, 4), source=masks), mixed[2:4])


def test_resizemix_masks_take_the_nearest_pixel() -> None:
    masks = torch.randint(0, 21, (4, 15, 10), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    for seed in range(5):
        mix = drawn("resizemix", 4, 15, 10, seed, p=0.7)
        mixed = mix_masks(masks, mix)
        for b, (x1, y1, x2, y2) in enumerate(mix.boxes.tolist()):
            want = masks[b].clone()
            if x1 < x2:
                partner = masks[mix.partner[b]][None, None].float()
                want[y1:y2, x1:x2] = F.interpolate(partner, (y2 - y1, x2 - x1), mode="nearest-exact")[0, 0].to(
                    torch.uint8
                )
            assert torch.equal(mixed[b], want)


def test_cutout_leaves_masks_and_mixup_refuses_them() -> None:
    masks = torch.ones(3, 8, 8, dtype=torch.uint8)
    kept = mix_masks(masks, drawn("cutout", 3, 8, 8))
    assert torch.equal(kept, masks) and kept.data_ptr() != masks.data_ptr()
    with pytest.raises(UserError, match="Mixup"):
        mix_masks(masks, drawn("mixup", 3, 8, 8))


def test_misuse_is_named() -> None:
    images = pictures(4, 8, 10)
    mix = drawn("cutmix", 4, 8, 10)
    with pytest.raises(UserError, match="drawn for 4 pictures of 8x10"):
        apply_mix(images.transpose(2, 3), mix)
    with pytest.raises(UserError, match="drawn for 4 pictures"):
        apply_mix(images[:3], mix)
    with pytest.raises(UserError, match="out is"):
        apply_mix(images, mix, out=torch.empty(4, 3, 8, 10, dtype=torch.float64))
    with pytest.raises(UserError, match="source"):
        apply_mix(images, mix, source=images.half())
