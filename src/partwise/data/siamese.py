"""Differentiable siamese augmentation (DSA: Zhao and Bilen 2021), as DC's, MTT's, FYI's and IDC's code apply it.

Numbers are drawn first, on the CPU from a `torch.Generator`, and applied afterwards to any pictures on any device, so that
real and synthetic ones share them. The ranges, in the units of the normalised pictures, zero being what lies outside:

| operation | what happens, u uniform in [0, 1) |
| --- | --- |
| color | x + (u - 0.5), then saturation 2u about the pixel's mean, then contrast u + 0.5 about the picture's mean |
| crop | a whole shift of up to int(h / 8 + 0.5) pixels along each axis |
| cutout | a rectangle of sides int(h / 2 + 0.5) and int(w / 2 + 0.5), clipped at the border, becomes 0 |
| flip | mirrored with probability 1/2 |
| scale | coordinates times 1/1.2 to 1.2 along each axis on its own, bilinear |
| rotate | by -15 to 15 degrees, bilinear |

Not the augmentation of ordinary training (augment.py).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.config import UserError, nearest

CROP_SHARE = 0.125
CUTOUT_SHARE = 0.5
LARGEST_SCALE = 1.2
LARGEST_ANGLE = 15.0
COLUMNS = (
    "brightness",
    "saturation",
    "contrast",
    "shift_y",
    "shift_x",
    "hole_y",
    "hole_x",
    "flip",
    "scale_x",
    "scale_y",
    "angle",
    "choice",
)
"""What each column of `AugmentDraws.uniforms` decides. All are drawn every time, whatever the operations."""


@dataclass(frozen=True)
class AugmentRule:
    """Which operations a call applies: all of `before`, then one of `choice`, then all of `after`.

    `align_corners` is that of the bilinear sampling of scale and rotate. Both turn about the picture's centre and give it
    to the grid and to the sampling alike, so that it changes rounding and nothing else.
    """

    before: tuple[str, ...]
    choice: tuple[str, ...]
    after: tuple[str, ...]
    align_corners: bool


@dataclass(frozen=True)
class Preset:
    """A published convention: its strategy, and which of the operations in a strategy are applied at every call."""

    strategy: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    align_corners: bool


ALL_SIX = "color_crop_cutout_flip_scale_rotate"
PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        "vico": Preset(ALL_SIX, before=(), after=(), align_corners=False),
        "mtt": Preset(ALL_SIX, before=(), after=(), align_corners=False),
        "fyi": Preset(ALL_SIX, before=("flip",), after=(), align_corners=True),
        "idc": Preset("color_crop_cutout", before=("flip", "color"), after=("cutout",), align_corners=False),
    }
)
"""The code of DC, DSA and DM; of MTT, FTD and DATM; of FYI, whose flip is always drawn; of IDC.

IDC's own strategy is that of matching; it updates networks with `color_crop` and evaluates with
`flip_color_crop_scale_rotate`.
"""


def augment_rule(preset: str, *, strategy: str | None = None, align_corners: bool | None = None) -> AugmentRule:
    """The rule of a preset for a strategy such as `color_crop_cutout_scale_rotate` (digits: no flip), None for its own.

    The strategy says which operations there are, the preset how they are combined; `""` or `"none"` is no augmentation.
    Raises UserError for unknown names, with the nearest, and for operations named twice.
    """
    if preset not in PRESETS:
        raise UserError(_unknown("augmentation preset", preset, PRESETS))
    published = PRESETS[preset]
    text = published.strategy if strategy is None else strategy
    names = [] if text in ("", "none") else text.split("_")
    for name in names:
        if name not in OPERATIONS:
            raise UserError(_unknown(f"augmentation strategy {text!r}: operation", name, OPERATIONS))
        if names.count(name) > 1:
            raise UserError(f"augmentation strategy {text!r}: {name!r} is named twice")
    return AugmentRule(
        before=tuple(name for name in published.before if name in names),
        choice=tuple(name for name in names if name not in (*published.before, *published.after)),
        after=tuple(name for name in published.after if name in names),
        align_corners=published.align_corners if align_corners is None else align_corners,
    )


def _unknown(what: str, name: str, known: Mapping[str, object]) -> str:
    close = nearest(name, known)
    return f"unknown {what} {name!r}; " + (f"nearest: {close!r}" if close else f"known: {', '.join(known)}")


@dataclass(frozen=True, eq=False)
class AugmentDraws:
    """The numbers of a call: float32 uniforms `(r, 12)` by `COLUMNS`, and the operation chosen for each row.

    One row is for all pictures (siamese); otherwise row i is for picture i, or for all pictures of class i where
    pictures come as `(C, n, ch, h, w)`. `chosen` has one name a row, and none at all where the rule has no choice.
    """

    rule: AugmentRule
    uniforms: Tensor
    chosen: tuple[str, ...]

    def __len__(self) -> int:
        return self.uniforms.shape[0]

    def to(self, device: torch.device | str) -> AugmentDraws:
        """The same draws with their numbers on `device`, without waiting for the copy."""
        return replace(self, uniforms=self.uniforms.to(device, non_blocking=True))

    def slice(self, low: int, high: int) -> AugmentDraws:
        """Rows `low` to `high`, for a process's share of what was drawn for the global batch."""
        return replace(self, uniforms=self.uniforms[low:high], chosen=self.chosen[low:high])

    def repeat_rows(self, times: int) -> AugmentDraws:
        """Each row `times` times, one after the other."""
        chosen = tuple(name for name in self.chosen for _ in range(times))
        return replace(self, uniforms=self.uniforms.repeat_interleave(times, dim=0), chosen=chosen)


def draw_siamese(rule: AugmentRule, generator: torch.Generator) -> AugmentDraws:
    """One operation and one set of numbers for all pictures they are applied to, real and synthetic."""
    return _draw(rule, 1, generator, own_choice=False)


def draw_per_sample(rule: AugmentRule, batch: int, generator: torch.Generator) -> AugmentDraws:
    """One operation for the call, and numbers of its own for each of `batch` pictures (training steps, evaluation)."""
    return _draw(rule, batch, generator, own_choice=False)


def draw_per_class(rule: AugmentRule, classes: int, generator: torch.Generator) -> AugmentDraws:
    """For each class an operation and a set of numbers of its own: `classes` siamese draws, to be applied at once."""
    return _draw(rule, classes, generator, own_choice=True)


def _draw(rule: AugmentRule, rows: int, generator: torch.Generator, *, own_choice: bool) -> AugmentDraws:
    uniforms = torch.rand(rows, len(COLUMNS), generator=generator)
    if not rule.choice or not rows:
        return AugmentDraws(rule, uniforms, ())
    places = _whole(uniforms, "choice", len(rule.choice)).flatten().tolist()
    names = tuple(rule.choice[place if own_choice else places[0]] for place in places)
    return AugmentDraws(rule, uniforms, names)


def augment(images: Tensor, draws: AugmentDraws) -> Tensor:
    """Float pictures `(B, ch, h, w)`, or `(C, n, ch, h, w)` with a row a class, augmented as drawn. Differentiable.

    Numbers apply to pictures of any size, number type and device. Raises ValueError where the rows are neither one nor
    as many as the pictures (or classes).
    """
    if images.ndim == 5:
        classes, each = images.shape[:2]
        rows = draws if len(draws) == 1 else draws.repeat_rows(each)
        if len(draws) not in (1, classes):
            raise ValueError(f"{len(draws)} rows of draws for {classes} classes: expected 1 or one a class")
        return augment(images.flatten(0, 1), rows).unflatten(0, (classes, each))
    if len(draws) not in (1, images.shape[0]):
        raise ValueError(f"{len(draws)} rows of draws for {images.shape[0]} pictures: expected 1 or one a picture")
    draws = draws.to(images.device)
    for name in draws.rule.before:
        images = OPERATIONS[name](images, draws.uniforms, draws.rule)
    images = _apply_chosen(images, draws)
    for name in draws.rule.after:
        images = OPERATIONS[name](images, draws.uniforms, draws.rule)
    return images


def _apply_chosen(images: Tensor, draws: AugmentDraws) -> Tensor:
    """Each row's own operation: rows of one operation go through it together, and back to their places."""
    names = sorted(set(draws.chosen))
    if len(names) < 2:
        return OPERATIONS[names[0]](images, draws.uniforms, draws.rule) if names else images
    groups = [[row for row, name in enumerate(draws.chosen) if name == wanted] for wanted in names]
    order = torch.tensor([row for group in groups for row in group])
    pieces = zip(
        names,
        images[order.to(images.device)].split([len(group) for group in groups]),
        draws.uniforms[order.to(images.device)].split([len(group) for group in groups]),
        strict=True,
    )
    done = torch.cat([OPERATIONS[name](own, uniforms, draws.rule) for name, own, uniforms in pieces])
    return done[order.argsort().to(images.device)]


# -- operations: pictures (B, ch, h, w), uniforms (1 or B, 12) ----------------------------------------------------------


def _column(uniforms: Tensor, name: str) -> Tensor:
    """One column, `(r, 1)`."""
    place = COLUMNS.index(name)
    return uniforms[:, place : place + 1]


def _per_picture(uniforms: Tensor, name: str, like: Tensor) -> Tensor:
    """One column to be broadcast over pictures, `(r, 1, 1, 1)`."""
    return _column(uniforms, name).to(like.dtype)[:, :, None, None]


def _whole(uniforms: Tensor, name: str, count: int) -> Tensor:
    """One column as whole numbers 0 to count - 1, int64 `(r, 1)`."""
    # the largest float32 uniform is 1 - 2^-24, and its product with count is rounded down
    return (_column(uniforms, name) * count).long()


def _colour(images: Tensor, uniforms: Tensor, rule: AugmentRule) -> Tensor:
    images = images + (_per_picture(uniforms, "brightness", images) - 0.5)
    mean = images.mean(1, keepdim=True)
    images = (images - mean) * (_per_picture(uniforms, "saturation", images) * 2) + mean
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images - mean) * (_per_picture(uniforms, "contrast", images) + 0.5) + mean


def _crop(images: Tensor, uniforms: Tensor, rule: AugmentRule) -> Tensor:
    batch, channels, height, width = images.shape
    down, across = int(CROP_SHARE * height + 0.5), int(CROP_SHARE * width + 0.5)
    padded = F.pad(images, (across, across, down, down))
    rows = _whole(uniforms, "shift_y", 2 * down + 1) + torch.arange(height, device=images.device)
    columns = _whole(uniforms, "shift_x", 2 * across + 1) + torch.arange(width, device=images.device)
    picked = padded.gather(2, rows[:, None, :, None].expand(batch, channels, height, padded.shape[3]))
    return picked.gather(3, columns[:, None, None, :].expand(batch, channels, height, width))


def _cutout(images: Tensor, uniforms: Tensor, rule: AugmentRule) -> Tensor:
    rows = _hole(_column(uniforms, "hole_y"), images.shape[2])
    columns = _hole(_column(uniforms, "hole_x"), images.shape[3])
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], 0, images)


def _hole(uniforms: Tensor, side: int) -> Tensor:
    """Which of `side` places a hole covers, bool `(r, side)`."""
    length = int(CUTOUT_SHARE * side + 0.5)
    # an even hole has its centre between two pixels, and one place more to be
    places = side + 1 - length % 2
    first = (uniforms * places).long() - length // 2
    steps = torch.arange(side, device=uniforms.device)
    return (steps >= first) & (steps < first + length)


def _flip(images: Tensor, uniforms: Tensor, rule: AugmentRule) -> Tensor:
    return torch.where(_column(uniforms, "flip")[:, :, None, None] < 0.5, images.flip(-1), images)


def _scale(images: Tensor, uniforms: Tensor, rule: AugmentRule) -> Tensor:
    low = 1 / LARGEST_SCALE
    across, down = (_column(uniforms, name) * (LARGEST_SCALE - low) + low for name in ("scale_x", "scale_y"))
    none = torch.zeros_like(across)
    return _sample(images, torch.stack([across, none, none, none, down, none], dim=-1), rule)


def _rotate(images: Tensor, uniforms: Tensor, rule: AugmentRule) -> Tensor:
    angle = (_column(uniforms, "angle") - 0.5) * (2 * LARGEST_ANGLE / 180 * math.pi)
    cos, sin, none = angle.cos(), angle.sin(), torch.zeros_like(angle)
    # The sampling grid runs from -1 to 1 along both sides; on pictures that are no squares a rotation of pixels needs this.
    height, width = images.shape[2:]
    lengths = (max(height - 1, 1), max(width - 1, 1)) if rule.align_corners else (height, width)
    aspect = lengths[0] / lengths[1]
    return _sample(images, torch.stack([cos, -sin * aspect, none, sin / aspect, cos, none], dim=-1), rule)


def _sample(images: Tensor, matrices: Tensor, rule: AugmentRule) -> Tensor:
    """Each picture at the places its matrix `(r, 1, 6)` takes the pixels of the frame to; zeros outside, bilinear."""
    rows = matrices.shape[0]
    grid = F.affine_grid(
        matrices.view(rows, 2, 3).to(images.dtype), [rows, *images.shape[1:]], align_corners=rule.align_corners
    ).expand(images.shape[0], -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=rule.align_corners)


OPERATIONS: Mapping[str, Callable[[Tensor, Tensor, AugmentRule], Tensor]] = MappingProxyType(
    {"color": _colour, "crop": _crop, "cutout": _cutout, "flip": _flip, "scale": _scale, "rotate": _rotate}
)
