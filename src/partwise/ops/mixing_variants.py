"""Drawing what CutMix was compared with and ablated to: other centres, fixed boxes, SaliencyMix, FMix.

As of the draws in `mixing_draws`: functions of their arguments and the generator alone, without reading anything back.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from partwise.config import UserError
from partwise.ops.mixing_draws import (
    Lots,
    Plan,
    boxes_about,
    check_frame,
    check_positive,
    draw_lots,
    finished,
    kept_share,
    sides_of,
    symmetric_beta,
)
from partwise.ops.mixing_rules import Gate, Mix, Mode, PartnerRule

CENTRE_STD = 0.25
"""The standard deviation of Gaussian centres in picture sides; the paper does not state its own."""
DECAY = 3.0
"""The power with which FMix's noise falls off over the frequency."""


def draw_cutmix_gaussian(
    batch: int,
    height: int,
    width: int,
    *,
    std: float = CENTRE_STD,
    alpha: float = 1.0,
    p: float = 1.0,
    mode: Mode = "sample",
    partner: PartnerRule = "permutation",
    gate: Gate = "sample",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mix:
    """CutMix with centres from a Gaussian about the middle (table 8, "Center Gaussian"); `std` in picture sides.

    A centre outside the picture is moved to its border. Options as in `draw_cutmix`.
    """
    check_frame(batch, height, width)
    check_positive(alpha, "alpha")
    check_positive(std, "std")
    lots = draw_lots(batch, 4, p=p, plan=Plan(mode, partner, gate), generator=generator, device=device)
    # A uniform of exactly 0 has no quantile.
    quantiles = torch.special.ndtri(lots.uniforms[:2].clamp_min(torch.finfo(torch.float32).eps))
    centres = (0.5 + std * quantiles).clamp(0.0, 1.0 - 2.0**-24)
    halves = _halves(symmetric_beta(alpha, lots.uniforms[2:]), height, width)
    return _about(lots, centres, halves, (height, width), mode, device)


def draw_cutmix_fixed(
    batch: int,
    height: int,
    width: int,
    *,
    length: int = 16,
    p: float = 1.0,
    mode: Mode = "sample",
    partner: PartnerRule = "permutation",
    gate: Gate = "sample",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mix:
    """CutMix with squares of one side about uniform centres, clipped (table 8, "Fixed-size"); the label by what is left.

    Sides are 2 * (length // 2) pixels. Options as in `draw_cutmix`.
    """
    check_frame(batch, height, width)
    check_positive(length, "length")
    lots = draw_lots(batch, 2, p=p, plan=Plan(mode, partner, gate), generator=generator, device=device)
    halves = torch.full_like(lots.uniforms[:2], float(length // 2))
    return _about(lots, lots.uniforms[:2], halves, (height, width), mode, device)


def draw_saliencymix(
    batch: int,
    height: int,
    width: int,
    *,
    peaks: Int64[Tensor, "s 2"],
    alpha: float = 1.0,
    p: float = 1.0,
    mode: Mode = "sample",
    partner: PartnerRule = "permutation",
    gate: Gate = "sample",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mix:
    """SaliencyMix (Uddin et al. 2021): CutMix whose box lies about the most salient pixel of the picture it is cut from.

    `peaks` are the pixels (x, y) of every picture that may be a partner, as `saliency.peaks` finds them; with mode
    "batch" all boxes lie about that of the first partner, as published. Options as in `draw_cutmix`.
    """
    check_frame(batch, height, width)
    check_positive(alpha, "alpha")
    if len(peaks) < batch:
        raise UserError(f"peaks: got those of {len(peaks)} pictures, expected one for each of {batch}")
    lots = draw_lots(batch, 2, p=p, plan=Plan(mode, partner, gate), generator=generator, device=device)
    halves = _halves(symmetric_beta(alpha, lots.uniforms), height, width)
    rows = halves.shape[1]
    middle = peaks.to(lots.partner.device, non_blocking=True)[lots.partner[:rows]].t()
    sides = sides_of(height, width, halves.device)
    centres = (middle + 0.5) / sides  # of the pixel, so that flooring gives it back
    return _about(lots, centres, halves, (height, width), mode, device)


def draw_fmix(
    batch: int,
    height: int,
    width: int,
    *,
    alpha: float = 1.0,
    decay: float = DECAY,
    p: float = 1.0,
    mode: Mode = "sample",
    partner: PartnerRule = "permutation",
    gate: Gate = "sample",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mix:
    """FMix (Harris et al. 2020): the partner shows through where smooth random noise is lowest.

    lambda ~ Beta(alpha, alpha); of the noise's pixels the highest share lambda, to the nearest whole pixel, stays the
    picture's own. `lam` is the exact share. Options as in `draw_cutmix`.
    """
    check_frame(batch, height, width)
    check_positive(alpha, "alpha")
    lots = draw_lots(batch, 2, p=p, plan=Plan(mode, partner, gate), generator=generator, device=device)
    rows, pixels = lots.uniforms.shape[1], height * width
    noise = smooth_noise(rows, height, width, decay=decay, generator=generator, device=lots.partner.device)
    if mode == "pair":
        noise = noise[torch.minimum(torch.arange(batch, device=noise.device), lots.partner)]
    kept = (symmetric_beta(alpha, lots.uniforms) * pixels).round()
    kept = torch.where(lots.active, kept, float(pixels))
    rank = noise.flatten(1).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
    shapes = (rank >= kept[:, None]).view(rows, height, width).expand(batch, height, width)
    nowhere = torch.zeros(1, 4, dtype=torch.int64, device=noise.device)
    lam = (kept / pixels).to(torch.float32)
    return finished("fmix", (height, width), nowhere, lam, lots.partner, mode, device, shapes=shapes)


def smooth_noise(
    count: int,
    height: int,
    width: int,
    *,
    decay: float = DECAY,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Float[Tensor, "count h w"]:
    """Gaussian noise whose amplitude falls with frequency^decay: float32 grey pictures of clouds, of no set range.

    The constant part has the amplitude of the lowest frequency, as published (equation 7 of FMix).
    """
    where = generator.device if generator is not None else torch.device(device or "cpu")
    columns = width // 2 + 1
    drawn = torch.randn(count, height, columns, 2, generator=generator, device=where)
    down, right = torch.fft.fftfreq(height, device=where), torch.fft.rfftfreq(width, device=where)
    frequency = (down[:, None].square() + right.square()).sqrt().clamp_min(1.0 / max(height, width))
    noise: Tensor = torch.fft.irfft2(torch.view_as_complex(drawn) / frequency**decay, s=(height, width))
    return noise


def _halves(drawn: Float[Tensor, " r"], height: int, width: int) -> Float[Tensor, "2 r"]:
    """Half the sides of boxes that keep the share `drawn`, whole pixels, as in `draw_cutmix`."""
    return (torch.sqrt(1.0 - drawn) * (0.5 * sides_of(height, width, drawn.device))).floor()


def _about(
    lots: Lots,
    centres: Float[Tensor, "2 r"],
    halves: Float[Tensor, "2 r"],
    size: tuple[int, int],
    mode: Mode,
    device: torch.device | str | None,
) -> Mix:
    """CutMix with these boxes, the label by area."""
    boxes = boxes_about(centres, halves, sides_of(*size, centres.device)) * lots.active[:, None]
    return finished("cutmix", size, boxes, kept_share(boxes, *size), lots.partner, mode, device)
