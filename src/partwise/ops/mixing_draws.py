"""Drawing the parameters of CutMix, Mixup, Cutout and ResizeMix: who is mixed with whom, where and how much.

Every `draw_*` is a function of its arguments and its `torch.Generator` alone and never reads a tensor back to the host,
so it runs on an accelerator without waiting and inside `torch.compile` (there without a generator). A generator on the
CPU with `device="cuda"` draws on the CPU and sends the result over: the same seed then gives the same mix on every
device. Several processes draw the same mix for the global batch and take their rows with `Mix.slice`.

`draw_cutmix_paper` is the one that follows the published code draw for draw, NumPy included.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64
from torch import Tensor

from partwise.config import UserError
from partwise.ops.mixing_rules import (
    GATES,
    MODES,
    PARTNER_RULES,
    Gate,
    Mix,
    Mode,
    PartnerRule,
    Rule,
    check_choice,
    check_share,
)


class Plan(NamedTuple):
    """How the rows of a batch share their draws."""

    mode: Mode
    partner: PartnerRule
    gate: Gate


class Lots(NamedTuple):
    """What was drawn for a batch of B, before any rule gave it a meaning; r is 1 where all rows share one draw, else B."""

    p: float
    gates: Float[Tensor, " r"]
    partner: Int64[Tensor, " b"]
    uniforms: Float[Tensor, "n r"]

    @property
    def active(self) -> Bool[Tensor, " r"]:
        """Whose gate is open."""
        return self.gates < self.p


def draw_cutmix(
    batch: int,
    height: int,
    width: int,
    *,
    alpha: float = 1.0,
    p: float = 1.0,
    mode: Mode = "sample",
    partner: PartnerRule = "permutation",
    gate: Gate = "sample",
    correct_lambda: bool = True,
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mix:
    """CutMix (Yun et al. 2019, equations 1 and 2) for `batch` pictures of `height` x `width` pixels.

    lambda ~ Beta(alpha, alpha); a box of area share 1 - lambda about a uniform centre, clipped to the picture. Sizes
    are truncated, centres and halves are integers, as in the published code, so that lambda has that code's
    distribution (mean 0.7007 at 32 px and 0.682 at 224 px for alpha 1). `lam` is the exact share kept after clipping,
    or with `correct_lambda=False` the drawn one, as in that code's first release.

    mode: "sample" draws lambda, box and gate for each picture; "pair" shares them between two pictures that swap
    patches (partner "permutation" pairs at random, "flip" pairs first with last; an odd one out stays itself); "batch"
    has one of each.
    partner: "permutation" (may leave a picture with itself), "derangement" (one random cycle through the batch),
    "flip", "roll".
    gate: whether a picture (or pair) is mixed is drawn with probability `p` for each, or once for the whole batch.
    """
    check_frame(batch, height, width)
    check_positive(alpha, "alpha")
    lots = draw_lots(batch, 4, p=p, plan=Plan(mode, partner, gate), generator=generator, device=device)
    drawn = symmetric_beta(alpha, lots.uniforms[2:])
    size = (height, width)
    if mode == "batch" and drawn.device.type == "cpu" and not torch.compiler.is_compiling():
        one_box, one_lam = _one_box(lots, drawn, size, correct_lambda=correct_lambda)
        return finished("cutmix", size, one_box, one_lam, lots.partner, mode, device)
    sides = sides_of(height, width, drawn.device)
    # Halving whole sides and truncating once is the published code's trunc(side * cut) // 2.
    halves = (torch.sqrt(1.0 - drawn) * (0.5 * sides)).floor()
    boxes = boxes_about(lots.uniforms[:2], halves, sides) * lots.active[:, None]
    lam = kept_share(boxes, height, width) if correct_lambda else torch.where(lots.active, drawn, 1.0)
    return finished("cutmix", size, boxes, lam, lots.partner, mode, device)


def draw_cutmix_paper(
    batch: int,
    height: int,
    width: int,
    *,
    alpha: float,
    p: float,
    numpy_state: np.random.RandomState,
    generator: torch.Generator | None,
    correct_lambda: bool = True,
) -> Mix:
    """The published code's CutMix, draw for draw, on the CPU: one gate, lambda, box and permutation for the batch.

    Order of draws: uniform (gate), Beta, torch permutation, integer along the rows, integer along the columns; nothing
    after the gate where it stays shut. (That code calls the rows W and the columns H.) `alpha=0` switches mixing off,
    as there. `generator=None` permutes with torch's global one, as the published code does.
    """
    check_frame(batch, height, width)
    check_share(p, "p")
    opened = numpy_state.rand() < p and alpha > 0
    if not opened:
        still = torch.arange(batch)
        return Mix(
            "cutmix", (height, width), torch.zeros(batch, 4, dtype=torch.int64), still, torch.ones(batch), shared=True
        )
    drawn = float(numpy_state.beta(alpha, alpha))
    partner = torch.randperm(batch, generator=generator)
    cut = math.sqrt(1.0 - drawn)
    halves = int(width * cut) // 2, int(height * cut) // 2
    row, column = int(numpy_state.randint(height)), int(numpy_state.randint(width))
    boxes, kept = _one_row(clipped_box((column, row), halves, (height, width)), (height, width))
    lam = kept if correct_lambda else torch.tensor([drawn], dtype=torch.float32)
    return finished("cutmix", (height, width), boxes, lam, partner, "batch", None)


def draw_mixup(
    batch: int,
    height: int,
    width: int,
    *,
    alpha: float = 1.0,
    p: float = 1.0,
    mode: Mode = "sample",
    partner: PartnerRule = "permutation",
    gate: Gate = "sample",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mix:
    """Mixup (Zhang et al. 2018): lam * own + (1 - lam) * partner's, lam ~ Beta(alpha, alpha).

    Options as in `draw_cutmix`."""
    check_frame(batch, height, width)
    check_positive(alpha, "alpha")
    lots = draw_lots(batch, 2, p=p, plan=Plan(mode, partner, gate), generator=generator, device=device)
    drawn = symmetric_beta(alpha, lots.uniforms)
    lam = torch.where(lots.active, drawn, 1.0)
    nowhere = torch.zeros(1, 4, dtype=torch.int64, device=lam.device)
    return finished("mixup", (height, width), nowhere, lam, lots.partner, mode, device)


def draw_cutout(
    batch: int,
    height: int,
    width: int,
    *,
    length: int = 16,
    fill: tuple[float, ...] = (0.0,),
    p: float = 1.0,
    mode: Mode = "sample",
    gate: Gate = "sample",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mix:
    """Cutout (DeVries and Taylor 2017): a square about a uniform pixel, clipped; targets unchanged.

    The square has sides of 2 * (length // 2) pixels, as in the published code. Its authors write zero after
    normalisation: on images that are normalised later, give the data set's mean as `fill`.
    """
    check_frame(batch, height, width)
    check_positive(length, "length")
    lots = draw_lots(batch, 2, p=p, plan=Plan(mode, "flip", gate), generator=generator, device=device)
    sides = sides_of(height, width, lots.uniforms.device)
    boxes = boxes_about(lots.uniforms, float(length // 2), sides) * lots.active[:, None]
    itself = torch.arange(batch, device=boxes.device)
    whole = torch.ones(1, dtype=torch.float32, device=boxes.device)
    return finished("cutout", (height, width), boxes, whole, itself, mode, device, fill=fill)


def draw_resizemix(
    batch: int,
    height: int,
    width: int,
    *,
    scale: tuple[float, float] = (0.1, 0.8),
    p: float = 1.0,
    mode: Mode = "sample",
    partner: PartnerRule = "permutation",
    gate: Gate = "sample",
    generator: torch.Generator | None = None,
    device: torch.device | str | None = None,
) -> Mix:
    """ResizeMix (Qin et al. 2020): the whole partner, its sides times tau ~ U(scale), pasted at a uniform place inside.

    Sides are truncated to whole pixels, at least one; `lam` is the exact share left. Options as in `draw_cutmix`.
    """
    check_frame(batch, height, width)
    low, high = scale
    if not 0.0 < low <= high <= 1.0:
        raise UserError(f"scale: got {scale}, expected two numbers with 0 < low <= high <= 1")
    lots = draw_lots(batch, 3, p=p, plan=Plan(mode, partner, gate), generator=generator, device=device)
    sides = sides_of(height, width, lots.uniforms.device)
    patch = ((low + (high - low) * lots.uniforms[2]) * sides).floor().clamp_min(1.0)
    corner = (lots.uniforms[:2] * (sides - patch + 1.0)).floor()
    boxes = torch.cat((corner, corner + patch)).t().to(torch.int64) * lots.active[:, None]
    return finished("resizemix", (height, width), boxes, kept_share(boxes, height, width), lots.partner, mode, device)


def scheduled_probability(progress: float, *, start: float = 0.0, end: float = 1.0) -> float:
    """p on a straight line from `start` to `end` as `progress` goes 0 to 1 (CutMix, table 8, "Scheduled")."""
    check_share(progress, "progress")
    return start + (end - start) * progress


def draw_lots(
    batch: int,
    num_uniforms: int,
    *,
    p: float,
    plan: Plan,
    generator: torch.Generator | None,
    device: torch.device | str | None,
) -> Lots:
    """The gate, the partners and `num_uniforms` numbers in [0, 1) for each row, shared among rows as `plan` says."""
    check_share(p, "p")
    check_choice(plan.mode, MODES, "mode")
    check_choice(plan.partner, PARTNER_RULES, "partner")
    check_choice(plan.gate, GATES, "gate")
    where = generator.device if generator is not None else torch.device(device or "cpu")
    rows = 1 if plan.mode == "batch" else batch
    uniforms = torch.rand(num_uniforms + 1, rows, generator=generator, device=where, dtype=torch.float32)
    partner = draw_partner(batch, plan, generator=generator, device=where)
    if plan.mode == "pair":
        # Both of a pair take the draws of the one that comes first.
        uniforms = uniforms[:, torch.minimum(torch.arange(batch, device=where), partner)]
    gates = uniforms[0, :1].expand(rows) if plan.gate == "batch" else uniforms[0]
    return Lots(p, gates, partner, uniforms[1:])


def draw_partner(
    batch: int, plan: Plan, *, generator: torch.Generator | None, device: torch.device
) -> Int64[Tensor, " b"]:
    """Row i's partner; in pair mode an involution, so that two pictures swap what is cut from them."""
    if plan.partner == "flip":
        return torch.arange(batch - 1, -1, -1, device=device)
    if plan.mode == "pair" and plan.partner != "permutation":
        raise UserError(f"partner: {plan.partner!r} does not make pairs; mode 'pair' takes 'permutation' or 'flip'")
    if plan.partner == "roll":
        return torch.arange(batch, device=device).roll(1)
    order = torch.randperm(batch, generator=generator, device=device)
    if plan.mode == "pair":
        # Neighbours in the random order: positions 0 and 1, 2 and 3, ...; the last of an odd batch stays alone.
        places = torch.arange(batch, device=device)
        neighbour = torch.where(places < batch - batch % 2, places ^ 1, places)
        return torch.empty_like(order).scatter_(0, order, order[neighbour])
    if plan.partner == "derangement":
        return torch.empty_like(order).scatter_(0, order, order.roll(1))
    return order


def symmetric_beta(alpha: float, uniforms: Float[Tensor, "n b"]) -> Float32[Tensor, " b"]:
    """Beta(alpha, alpha) from two rows of uniforms, exact for every alpha > 0.

    Bailey's polar method gives Student's t with 2 * alpha degrees of freedom from two uniforms, and t / sqrt(2 alpha +
    t^2) is 2 * Beta - 1. Written in w = u^(1/alpha), nothing overflows for small alpha. Unlike a ratio of gammas it
    needs no sampler that knows generators, devices and compilation. For alpha 1, Beta is the uniform itself.
    """
    if alpha == 1.0:
        return uniforms[0]
    w = uniforms[0] ** (1.0 / alpha)
    cosine = torch.cos(2.0 * math.pi * uniforms[1])
    rest = 1.0 - w
    drawn = 0.5 + 0.5 * cosine * torch.sqrt(rest) * torch.rsqrt(w + rest * cosine.square())
    # Rounding can carry the last bit past the ends.
    return drawn.clamp(0.0, 1.0)


def boxes_about(
    centres: Float[Tensor, "2 b"], halves: Float[Tensor, "2 b"] | float, sides: Float[Tensor, "2 1"]
) -> Int64[Tensor, "b 4"]:
    """Boxes of whole `halves` to both sides of uniform integer centres, clipped to the picture.

    Rows are x and y: `centres` are uniforms in [0, 1), `sides` the picture's width and height. All are whole numbers
    below 2^24 and so exact in float32.
    """
    # A float32 uniform is at most 1 - 2^-24, so its product with such a side never rounds up to the side itself.
    middle = (centres * sides).floor()
    low, high = (middle - halves).clamp_min(0.0), torch.minimum(middle + halves, sides)
    return torch.cat((low, high)).t().to(torch.int64)


def kept_share(boxes: Int64[Tensor, "b 4"], height: int, width: int) -> Float32[Tensor, " b"]:
    """The share of the picture outside its box, rounded once."""
    x1, y1, x2, y2 = boxes.unbind(1)
    kept = height * width - (x2 - x1) * (y2 - y1)
    return kept.to(torch.float32) / (height * width)


def clipped_box(centre: tuple[int, int], halves: tuple[int, int], size: tuple[int, int]) -> list[int]:
    """The box of `halves` (x, y) to both sides of `centre` (x, y), clipped to `size` = (height, width)."""
    (column, row), (half_width, half_height), (height, width) = centre, halves, size
    low = [max(column - half_width, 0), max(row - half_height, 0)]
    return [*low, min(column + half_width, width), min(row + half_height, height)]


def check_frame(batch: int, height: int, width: int) -> None:
    """Raises UserError where there is no picture or no pixel."""
    for value, what in ((batch, "batch"), (height, "height"), (width, "width")):
        if value < 1:
            raise UserError(f"{what}: got {value}, expected at least 1")


def check_positive(value: int | float, what: str) -> None:
    """Raises UserError unless `value` is a finite number above zero."""
    if not 0.0 < value < math.inf:
        raise UserError(f"{what}: got {value}, expected a finite number above 0 (p=0 switches mixing off)")


def sides_of(height: int, width: int, device: torch.device) -> Tensor:
    """Width and height as a float32 column `(2, 1)`, in the order of centres and halves."""
    # Built on the host and sent without waiting; `torch.tensor(..., device="cuda")` would wait for the copy.
    return torch.tensor([[float(width)], [float(height)]], dtype=torch.float32).to(device, non_blocking=True)


def _one_box(lots: Lots, drawn: Tensor, size: tuple[int, int], *, correct_lambda: bool) -> tuple[Tensor, Tensor]:
    """(box, lambda) of batch mode on the host: `boxes_about` for one box, to the same bits and without forty small kernels."""
    height, width = size
    # NumPy's float32 rounds as torch's does.
    if lots.gates.numpy()[0] >= np.float32(lots.p):
        return _one_row([0, 0, 0, 0], size)
    cut, (x, y) = np.sqrt(np.float32(1.0) - drawn.numpy()[0]), lots.uniforms.numpy()[:2, 0]
    centre = int(x * np.float32(width)), int(y * np.float32(height))
    halves = int(cut * np.float32(0.5 * width)), int(cut * np.float32(0.5 * height))
    boxes, kept = _one_row(clipped_box(centre, halves, size), size)
    return boxes, kept if correct_lambda else drawn


def _one_row(box: list[int], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """(box, kept share) as tensors of one row."""
    x1, y1, x2, y2 = box
    height, width = size
    kept = (height * width - (x2 - x1) * (y2 - y1)) / (height * width)
    return torch.tensor([box]), torch.tensor([kept], dtype=torch.float32)


def finished(
    rule: Rule,
    size: tuple[int, int],
    boxes: Tensor,
    lam: Tensor,
    partner: Tensor,
    mode: Mode,
    device: torch.device | str | None,
    *,
    fill: tuple[float, ...] = (0.0,),
    shapes: Tensor | None = None,
) -> Mix:
    """The mix on `device`; single rows of boxes and lambda stand for all."""
    batch = partner.shape[0]
    boxes, lam = boxes.expand(batch, 4), lam.expand(batch)
    mix = Mix(rule, size, boxes, partner, lam, shared=mode == "batch", fill=fill, shapes=shapes)
    return mix if device is None else mix.to(device)
