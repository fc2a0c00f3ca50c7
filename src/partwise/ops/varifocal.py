"""The varifocal step (Qin et al., 2019): a square box of a picture, cut out and looked at again, larger.

A box is u = (u_x, u_y, u_l) in [0, 1]. In a frame of F x F pixels, with margin T1 = F / 4 and range T2 = F / 2 (64 and 128 of
the paper's 256), it has its centre at T1 + T2 u_x, T1 + T2 u_y and a half side of T1 / 2 (1 + u_l): it always lies in the
frame and is F / 4 to F / 2 wide. Boxes as corners follow boxes.py.

The crop itself is plain slicing, from which a box cannot learn. Its gradient is written by hand instead: with G the gradient
of the loss with respect to the crop, E = sum over channels of G^2 and M a soft mask of the box,

    dL/du = - sum over pixels of E dM/dt dt/du,   dt/du = T2, T2, T1 / 2,

so a step downhill moves the box towards pixels on which the loss depends. Not for networks (models/varifocal.py).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Rule = Literal["boxcar", "bands", "autograd"]
"""What stands for dM/dt: the derivative of the logistic boxcar, signs on border bands, or the crop's own gradient."""


def standardise(pictures: Float[Tensor, "b c h w"], *, eps: float = 1e-6) -> Float[Tensor, "b c h w"]:
    """Each picture minus its own mean, over its own standard deviation (over all its pixels) plus `eps`."""
    std, mean = torch.std_mean(pictures, dim=(1, 2, 3), correction=0, keepdim=True)
    return (pictures - mean) / (std + eps)


def box_from_unit(u: Float[Tensor, "b 3"], frame: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre x, centre y and half side, each `(B,)`, in pixels of a square frame of that side.

    Raises ValueError for another shape and for a frame below 4 pixels, in which a box could be empty.
    """
    if u.ndim != 2 or u.shape[1] != 3:
        raise ValueError(f"boxes of shape {tuple(u.shape)}: expected (B, 3)")
    if frame < 4:
        raise ValueError(f"frame {frame}: expected at least 4 pixels")
    margin = frame / 4
    x, y, side = u.to(torch.promote_types(u.dtype, torch.float32)).unbind(dim=1)
    return margin + 2 * margin * x, margin + 2 * margin * y, (1 + side) * margin / 2


def square_boxes(u: Float[Tensor, "b 3"], frame: int) -> Float[Tensor, "b 4"]:
    """The boxes of `u` as corners (x1, y1, x2, y2)."""
    x, y, half = box_from_unit(u, frame)
    return torch.stack([x - half, y - half, x + half, y + half], dim=1)


def pixel_boxes(u: Float[Tensor, "b 3"], frame: int) -> Float[Tensor, "b 4"]:
    """The boxes of `u` in whole pixels, still square and inside the frame: what `varifocal_crop` slices."""
    x, y, half = box_from_unit(u, frame)
    # The side is rounded, not the far corners, which would leave some boxes a pixel wider than high.
    left, top, side = (x - half).round(), (y - half).round(), (2 * half).round()
    return torch.stack([left, top, left + side, top + side], dim=1)


def dark_masks(pictures: Float[Tensor, "b 1 h w"], *, level: float = 0.98) -> Bool[Tensor, "b h w"]:
    """Which pixels are darker than `level`: the chromosome on its white ground, in pictures whose white is 1."""
    return (pictures < level).any(dim=1)


def box_targets(masks: Bool[Tensor, "b f f"]) -> Float[Tensor, "b 3"]:
    """What localisation is first trained on: the smallest box in the middle of the frame that covers the mask, as u.

    u_x = u_y = 0.5; with h the half side of that square, u_l = (h - T1 / 2) / (T1 / 2), clipped to [0, 1]. A mask that is
    larger than every box gives 1, an empty one, which any box covers, 0. Raises ValueError for masks that are not square.
    """
    frame = masks.shape[-1]
    if masks.ndim != 3 or masks.shape[1] != frame:
        raise ValueError(f"masks of shape {tuple(masks.shape)}: expected (B, F, F)")
    place = torch.arange(frame, device=masks.device)
    reach = (place + 0.5 - frame / 2).abs() + 0.5  # half side of the centred square that just covers row or column i
    occupied = masks.any(dim=1) | masks.any(dim=2)
    half = (reach * occupied).amax(dim=1)
    length = (half / (frame / 8) - 1).clamp(0, 1)
    middle = torch.full_like(length, 0.5)
    return torch.stack([middle, middle, length], dim=1)


def varifocal_crop(
    images: Float[Tensor, "b c f f"],
    u: Float[Tensor, "b 3"],
    *,
    out: int = 128,
    rule: Rule = "boxcar",
    sharpness: float = 10.0,
    band: float = 1 / 3,
    normalise: bool = True,
) -> Float[Tensor, "b c out out"]:
    """The boxes of `u` (in [0, 1]), sliced from their pictures in whole pixels and resized bilinearly to `out` x `out`.

    Gradients reach `u` by `rule` (`box_gradient`) and never the pictures. Under "autograd" the box is not rounded, the crop is
    sampled bilinearly and differentiated as in a spatial transformer; `sharpness`, `band` and `normalise` then do not matter.
    Raises ValueError for pictures that are not square, another number of boxes, or settings that mean nothing.
    """
    if images.ndim != 4 or images.shape[2] != images.shape[3] or len(images) != len(u):
        raise ValueError(f"pictures {tuple(images.shape)}, boxes {tuple(u.shape)}: expected (B, C, F, F) and (B, 3)")
    if out < 1 or not sharpness > 0 or not 0 < band <= 0.5:
        raise ValueError(
            f"out {out}, sharpness {sharpness}, band {band}: expected out >= 1, sharpness > 0, 0 < band <= 0.5"
        )
    if rule not in ("boxcar", "bands", "autograd"):
        raise ValueError(f"rule {rule!r}: expected 'boxcar', 'bands' or 'autograd'")
    if rule == "autograd":
        return sampled_crop(images.detach(), u, out)
    frame = images.shape[-1]
    gradient = partial(box_gradient, frame=frame, rule=rule, sharpness=sharpness, band=band, normalise=normalise)
    crop: Tensor = _VarifocalCrop.apply(images, u, out, gradient)
    return crop


class _VarifocalCrop(torch.autograd.Function):
    """`sliced_crop` with a backward pass that `gradient(G, u)` makes up."""

    @staticmethod
    def forward(ctx: Any, images: Tensor, u: Tensor, out: int, gradient: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(u)
        ctx.gradient = gradient
        return sliced_crop(images, pixel_boxes(u, images.shape[-1]), out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (u,) = ctx.saved_tensors
        return None, ctx.gradient(grad, u) if ctx.needs_input_grad[1] else None, None, None


def sliced_crop(
    images: Float[Tensor, "b c h w"], boxes: Float[Tensor, "b 4"], out: int
) -> Float[Tensor, "b c out out"]:
    """`interpolate(image[y1:y2, x1:x2], out, "bilinear", align_corners=False)` of every picture, in one go.

    `boxes` are whole numbers inside the picture. Nothing outside of a box is looked at.
    """
    left, top, right, bottom = boxes.unbind(dim=1)
    rows = _resized_slices(images, 2, top, bottom - top, out)
    return _resized_slices(rows, 3, left, right - left, out)


def _resized_slices(x: Tensor, dim: int, start: Tensor, length: Tensor, out: int) -> Tensor:
    """One dimension of `sliced_crop`: `out` places between `start` and `start + length`, linear between neighbours."""
    step = (length / out)[:, None]
    place = (torch.arange(out, device=x.device, dtype=start.dtype) + 0.5) * step - 0.5
    place = torch.minimum(place.clamp(min=0), length[:, None] - 1)  # the slice's own border pixels continue outwards
    low = place.floor()
    shape = (-1, 1, out, 1) if dim == 2 else (-1, 1, 1, out)
    weight = (place - low).to(x.dtype).view(shape)
    # Kept inside, so that a box of NaN gives a crop of NaN and not an index error.
    index = (start[:, None] + low).long().clamp(0, x.shape[dim] - 1).view(shape)
    beyond = (index + 1).clamp(max=x.shape[dim] - 1)
    return torch.take_along_dim(x, index, dim).lerp(torch.take_along_dim(x, beyond, dim), weight)


def sampled_crop(images: Float[Tensor, "b c f f"], u: Float[Tensor, "b 3"], out: int) -> Float[Tensor, "b c out out"]:
    """The boxes of `u` as they are, sampled bilinearly at the centres of `out` x `out` cells; differentiable in both."""
    frame = images.shape[-1]
    x, y, half = (2 * value / frame for value in box_from_unit(u, frame))
    zero = torch.zeros_like(half)
    theta = torch.stack([half, zero, x - 1, zero, half, y - 1], dim=1).unflatten(1, (2, 3)).to(images.dtype)
    grid = F.affine_grid(theta, [len(u), 1, out, out], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def box_gradient(
    gradient: Float[Tensor, "b c out out"],
    u: Float[Tensor, "b 3"],
    *,
    frame: int,
    rule: Literal["boxcar", "bands"] = "boxcar",
    sharpness: float = 10.0,
    band: float = 1 / 3,
    normalise: bool = True,
) -> Float[Tensor, "b 3"]:
    """dL/du from dL/dcrop: - sum of E dM/dt, times T2, T2 and T1 / 2.

    Squared gradients are tiny beside the eps of Adam: `normalise` divides what each picture gives by its Euclidean norm, so
    that only the direction counts; zero stays zero.
    """
    wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
    if normalise:  # before squaring too, lest squares vanish
        wide = wide / wide.abs().amax(dim=(1, 2, 3), keepdim=True).clamp(min=torch.finfo(wide.dtype).tiny)
    energy = wide.square().sum(dim=1, keepdim=True)
    out = gradient.shape[-1]
    if rule == "boxcar":
        change = boxcar_changes(box_from_unit(u, frame)[2].to(wide.dtype), out, sharpness=sharpness)
    else:
        change = band_changes(out, band=band).to(wide)
    factors = wide.new_tensor([frame / 2, frame / 2, frame / 8])
    slope = -(energy * change).sum(dim=(2, 3)) * factors
    if normalise:
        slope = slope / slope.norm(dim=1, keepdim=True).clamp(min=torch.finfo(slope.dtype).tiny)
    return slope.to(u.dtype)


def boxcar_changes(half: Float[Tensor, " b"], out: int, *, sharpness: float = 10.0) -> Float[Tensor, "b 3 out out"]:
    """dM/dt of the soft mask M = A(x) B(y) for t = (centre x, centre y, half side), at the pixels of the crop.

    A(x) = H(x - x1) - H(x - x2), B alike, H(z) = 1 / (1 + exp(-k z)) with k = `sharpness` and z in pixels of the frame; column
    c of the crop lies at x1 + (c + 0.5) 2 t_l / out. All three vanish but for the outermost rows and columns, and the third is
    never negative: a box that follows this rule can only grow.
    """
    cells = torch.arange(out, device=half.device, dtype=half.dtype) + 0.5
    depth = sharpness * cells * (2 * half[:, None] / out)  # k (x - x1); k (x2 - x) is the same, backwards
    begun, not_begun = torch.sigmoid(depth), torch.sigmoid(-depth)
    inside, slope = begun - not_begun.flip(1), sharpness * begun * not_begun  # the second: H' at x1; backwards, at x2
    move, grow = slope.flip(1) - slope, slope.flip(1) + slope
    return torch.stack(
        [_outer(inside, move), _outer(move, inside), _outer(inside, grow) + _outer(grow, inside)],
        dim=1,
    )


def _outer(rows: Tensor, columns: Tensor) -> Tensor:
    """Products `(B, n, n)` of what depends on y and what depends on x, each `(B, n)`."""
    return rows[:, :, None] * columns[:, None, :]


def band_changes(out: int, *, band: float = 1 / 3) -> Float[Tensor, "1 3 out out"]:
    """Signs in place of dM/dt (Fu et al., 2017): bands of a share `band` of the crop along its borders.

    For x +1 in the right band, -1 in the left one, 0 between; for y +1 at the bottom, -1 at the top, 0 between; for the half
    side +1 in any band and -1 in the interior.
    """
    cells = (torch.arange(out) + 0.5) / out
    move = (cells > 1 - band).float() - (cells < band).float()
    border = (move[:, None] != 0) | (move[None, :] != 0)
    grow = border.float() * 2 - 1
    return torch.stack([move.expand(out, out), move[:, None].expand(out, out), grow])[None]
