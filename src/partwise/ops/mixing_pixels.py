"""Applying a drawn `Mix` to pictures and masks: CutMix, Mixup, Cutout, ResizeMix, FMix.

Two ways lead to the same bits. The vectorised one (a mask of the boxes, a gather of the partners, one `where`) never
reads a tensor back, so it serves accelerators, `torch.compile` and autograd, and small pictures everywhere. Where the
boxes are known to the host (a mix on the CPU) and pictures are large, copying each box by itself touches only the
pixels that change.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from jaxtyping import Bool, Float, Int, Integer, Shaped
from torch import Tensor

from partwise.config import UserError
from partwise.ops.mixing_rules import Mix

COPY_BOXES_FROM = 3 * 64 * 64
"""Elements a picture from which copying box by box beats one `where` over the batch (measured on two cores)."""


def apply_mix(
    images: Shaped[Tensor, "b c h w"],
    mix: Mix,
    *,
    source: Shaped[Tensor, "s c h w"] | None = None,
    out: Shaped[Tensor, "b c h w"] | None = None,
) -> Shaped[Tensor, "b c h w"]:
    """Mixed pictures in the dtype and memory format of `images`; integer ones are rounded where values are blended.

    `mix.partner` points into `source`: by default `images`, with several processes the gathered global batch of which
    `images` is a slice. The result is a new tensor, or `out`, which may be `images` itself to work in place (`source`
    may share its memory). Raises UserError where shapes, dtypes or the size the mix was drawn for do not agree.
    """
    partners = images if source is None else source
    _check(images, mix, partners, out)
    if mix.rule == "mixup":
        return _blend(images, partners, mix.to(images.device), out)
    if mix.rule == "cutout":
        return _choose(mix.to(images.device), _fill(images, mix), images, out)
    if mix.rule == "resizemix":
        mix = mix.to(images.device)
        return _choose(mix, resized_partners(partners, mix).to(images.dtype), images, out)
    if mix.shapes is None and _box_by_box(images, partners, mix):
        return _copy_boxes(images, mix, partners, out)
    if mix.shapes is None and mix.shared and _host_knows(images, partners, mix):
        return _copy_slice(images, mix, partners, out)
    mix = mix.to(images.device)
    return _choose(mix, _rows(partners, mix.partner), images, out)


def mix_masks(
    masks: Integer[Tensor, "b h w"], mix: Mix, *, source: Integer[Tensor, "s h w"] | None = None
) -> Integer[Tensor, "b h w"]:
    """Masks of the mixed pictures: cut with the same boxes (ResizeMix: nearest pixel), copied unchanged under Cutout.

    Raises UserError for Mixup, whose pixels belong to two pictures at once.
    """
    if mix.rule == "mixup":
        raise UserError(
            "mix_masks: Mixup blends whole pictures, so its pixels have no single class; use CutMix or ResizeMix"
        )
    partners = masks if source is None else source
    if mix.rule == "cutout":
        return masks.clone()
    if mix.rule in ("cutmix", "fmix"):
        return apply_mix(masks[:, None], mix, source=partners[:, None])[:, 0]
    _check(masks[:, None], mix, partners[:, None], None)
    mix = mix.to(masks.device)
    height, width = mix.size
    rows = _nearest(mix.boxes[:, 1], mix.boxes[:, 3], height)[:, :, None]
    columns = _nearest(mix.boxes[:, 0], mix.boxes[:, 2], width)[:, None, :]
    pasted = partners[mix.partner[:, None, None], rows, columns]
    return torch.where(inside(mix), pasted, masks)


def inside(mix: Mix) -> Bool[Tensor, "b h w"]:
    """True where a pixel lies in its picture's box, or in its shape where it has one."""
    if mix.shapes is not None:
        return mix.shapes
    height, width = mix.size
    rows, columns = torch.arange(height, device=mix.device), torch.arange(width, device=mix.device)
    x1, y1, x2, y2 = mix.boxes[:, :, None].unbind(1)
    in_rows = (rows >= y1) & (rows < y2)
    in_columns = (columns >= x1) & (columns < x2)
    return in_rows[:, :, None] & in_columns[:, None, :]


def resized_partners(source: Shaped[Tensor, "s c h w"], mix: Mix) -> Float[Tensor, "b c h w"]:
    """Each row's whole partner resized into the row's box (bilinear, antialiased), zero outside it.

    Resizing is linear and separable, so boxes of any size in one batch are two batched matrix products. Float32, or
    float64 for float64 pictures; integer pictures come back rounded.
    """
    height, width = mix.size
    working = source.dtype if source.dtype == torch.float64 else torch.float32
    vertical = resize_weights(mix.boxes[:, 1], mix.boxes[:, 3], height).to(working)
    horizontal = resize_weights(mix.boxes[:, 0], mix.boxes[:, 2], width).to(working)
    pictures = _rows(source, mix.partner).to(working)
    device = source.device.type
    with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
        resized = vertical[:, None] @ pictures @ horizontal[:, None].transpose(-1, -2)
    return resized if source.is_floating_point() else resized.round()


def resize_weights(start: Int[Tensor, " b"], stop: Int[Tensor, " b"], length: int) -> Float[Tensor, "b n n"]:
    """Row t: the weights of a line of `length` pixels in pixel t of that line shrunk into [start, stop); zero outside.

    The antialiased bilinear filter: a triangle as wide as the shrinking factor, centred at the pixel's pre-image.
    """
    pixels = torch.arange(length, device=start.device, dtype=torch.float32)
    first, last = start[:, None], stop[:, None]
    factor = length / (last - first).clamp_min(1).to(torch.float32)
    centre = (pixels - first + 0.5) * factor
    distance = (pixels + 0.5 - centre[:, :, None]).abs() / factor.clamp_min(1.0)[:, :, None]
    weights = (1.0 - distance).clamp_min(0.0)
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny)
    covered = (pixels >= first) & (pixels < last)
    return weights * covered[:, :, None]


def _blend(images: Tensor, source: Tensor, mix: Mix, out: Tensor | None) -> Tensor:
    weight = mix.lam[:, None, None, None]
    partners = _rows(source, mix.partner)
    if images.dtype in (torch.float32, torch.float64):
        weight = weight.to(images.dtype)
        return torch.lerp(partners, images, weight) if out is None else torch.lerp(partners, images, weight, out=out)
    mixed = torch.lerp(partners.to(torch.float32), images.to(torch.float32), weight)
    mixed = (mixed if images.is_floating_point() else mixed.round()).to(images.dtype)
    return mixed if out is None else out.copy_(mixed)


def _fill(images: Tensor, mix: Mix) -> Tensor:
    channels = images.shape[1]
    if len(mix.fill) not in (1, channels):
        raise UserError(
            f"fill: got {len(mix.fill)} values for pictures of {channels} channels, expected 1 or {channels}"
        )
    values = torch.tensor(mix.fill, dtype=torch.float64)
    values = values if images.is_floating_point() else values.round()
    return values.to(images.dtype).to(images.device, non_blocking=True).view(1, -1, 1, 1)


def _choose(mix: Mix, pasted: Tensor, images: Tensor, out: Tensor | None) -> Tensor:
    mask = inside(mix)[:, None]
    if out is not None:
        return torch.where(mask, pasted, images, out=out)
    mixed = torch.where(mask, pasted, images)
    return mixed.contiguous(memory_format=torch.channels_last) if _channels_last(images) else mixed


def _copy_boxes(images: Tensor, mix: Mix, source: Tensor, out: Tensor | None) -> Tensor:
    """Box by box, reading the boxes on the host; patches are set aside first where writing could overtake reading."""
    shares_memory = out is not None and out.untyped_storage().data_ptr() == source.untyped_storage().data_ptr()
    rows = source.unbind(0)
    jobs = []
    for target, (partner, (x1, y1, x2, y2)) in enumerate(zip(mix.partner.tolist(), mix.boxes.tolist(), strict=True)):
        if x1 < x2 and y1 < y2:
            patch = rows[partner][:, y1:y2, x1:x2]
            jobs.append((target, y1, y2, x1, x2, patch.clone() if shares_memory else patch))
    mixed = _copied(images, out)
    targets = mixed.unbind(0)
    for target, y1, y2, x1, x2, patch in jobs:
        targets[target][:, y1:y2, x1:x2].copy_(patch)
    return mixed


def _copy_slice(images: Tensor, mix: Mix, source: Tensor, out: Tensor | None) -> Tensor:
    x1, y1, x2, y2 = mix.boxes[0].tolist()
    partner = mix.partner.to(images.device, non_blocking=True)
    patches = source[:, :, y1:y2, x1:x2].index_select(0, partner)
    mixed = _copied(images, out)
    mixed[:, :, y1:y2, x1:x2] = patches
    return mixed


def _copied(images: Tensor, out: Tensor | None) -> Tensor:
    if out is None:
        return images.clone()
    return out if out is images else out.copy_(images)


def _rows(source: Tensor, index: Tensor) -> Tensor:
    """`source[index]` in the source's memory format; `index_select` is the fastest gather but always returns NCHW."""
    if _channels_last(source):
        return source.permute(0, 2, 3, 1).index_select(0, index).permute(0, 3, 1, 2)
    return source.index_select(0, index)


def _channels_last(images: Tensor) -> bool:
    return images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()


def _host_knows(images: Tensor, source: Tensor, mix: Mix) -> bool:
    tracked = torch.is_grad_enabled() and (images.requires_grad or source.requires_grad)
    return mix.device.type == "cpu" and not tracked and not torch.compiler.is_compiling()


def _box_by_box(images: Tensor, source: Tensor, mix: Mix) -> bool:
    large = images[0].numel() >= COPY_BOXES_FROM
    return large and images.device.type == "cpu" and _host_knows(images, source, mix)


def _nearest(start: Tensor, stop: Tensor, length: int) -> Tensor:
    """(B, length): the source pixel under each pixel's centre once the whole line is shrunk into [start, stop)."""
    pixels = torch.arange(length, device=start.device)
    size = (stop - start).clamp_min(1)[:, None]
    # floor((t - start + 1/2) * length / size), in integers.
    return ((2 * (pixels - start[:, None]) + 1) * length // (2 * size)).clamp(0, length - 1)


def _check(images: Tensor, mix: Mix, source: Tensor, out: Tensor | None) -> None:
    if images.ndim != 4 or source.ndim != 4:
        raise UserError(f"apply_mix: expected pictures (B, C, H, W), got shapes {_shape(images)} and {_shape(source)}")
    if tuple(images.shape[2:]) != mix.size or len(mix) != images.shape[0]:
        drawn = f"{len(mix)} pictures of {mix.size[0]}x{mix.size[1]}"
        raise UserError(f"apply_mix: the mix was drawn for {drawn} (height x width), got images {_shape(images)}")
    if source.shape[1:] != images.shape[1:] or source.dtype != images.dtype:
        expected = f"{_shape(images)[1:]} {images.dtype}"
        raise UserError(f"apply_mix: source {_shape(source)} {source.dtype} does not fit images of {expected}")
    if out is not None and (out.shape != images.shape or out.dtype != images.dtype or out.device != images.device):
        expected = f"{_shape(images)} {images.dtype} on {images.device}"
        raise UserError(f"apply_mix: out is {_shape(out)} {out.dtype} on {out.device}, expected {expected}")


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
