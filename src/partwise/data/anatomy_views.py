"""The views of Adam-v1 and Adam-v2: which there are, the numbers behind them, and their pixels, a whole batch at a time.

`draw_views` draws on the CPU for the global batch, a process keeps its `rows`, and `render` makes float pictures of them on
any device. Pictures are never mirrored: left and right differ. Where they are cut is ops/anatomy.py.

The published code takes one picture at a time through PIL: crop and resize (bicubic) to bytes, colour jitter, rotation
(nearest neighbour, black corners), blur, normalisation. Here crop, resize and rotation are one bilinear sampling of a pyramid
of 2 x 2 means, jitter and blur follow, in float32 throughout. What that changes:

- A view is sampled at the level whose pixels are nearest to its own in size, so what lies between is up to 1.4 times too fine
  or too coarse, and a rotated view is smooth where nearest neighbour is ragged. tests/unit/data/test_anatomy_views.py holds the
  difference to the PIL chain.
- Jitter follows rotation. It acts on single pixels, but contrast needs the picture's mean, which is here that of the rotated
  view with its corners filled from the nearest border pixel. The corners are made black after jitter, as they are in the paper.
- PIL's blur is an extended box filter three times over (Gwosdek et al. 2011); here is the same kernel, not rounded in between.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor, Future
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from partwise.config import UserError
from partwise.ops.anatomy import (
    DEFAULT_RATIO,
    TRIES,
    Decomposer,
    Range,
    centred_crops,
    decomposed_anchors,
    margin_anchors,
    random_crops,
    split_parts,
    square_anchors,
)
from partwise.ops.view_pixels import (
    Atlas,
    GreyJitter,
    blur,
    box_kernels,
    inside_lines,
    jitter_colour,
    pyramid_levels,
    sample_lines,
)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
JITTERED = 0.8
"""Share of the views whose colours are jittered."""
SIGMA: Range = (0.1, 2.0)
"""Standard deviations of the blur, in the view's pixels."""
BANDS: tuple[Range, ...] = ((0.05, 0.1), *((n / 10, (n + 1) / 10) for n in range(1, 8)))
"""Shares of the anchor that the eight local views of the second phase show."""
PICTURES_A_THREAD = 2
"""Pictures whose views are made at once on the CPU: few enough that what they need on the way stays in its cache."""


@dataclass(frozen=True)
class ViewKind:
    """A view: what is cut from the anchor, its side once resized, and how it is changed.

    `cut` "part" takes part number `part`; crops have a share of the anchor in `area` and width over height in `ratio`.
    `rotation` is in degrees to either side, `blur` a probability.
    """

    name: str
    size: int
    cut: Literal["whole", "part", "random", "centred"]
    rotation: float
    blur: float
    area: Range = (1.0, 1.0)
    ratio: Range = DEFAULT_RATIO
    part: int = 0


@dataclass(frozen=True)
class ViewTable:
    """All views of a picture, in the order in which they come, and what they share.

    `jitter` holds the strengths of brightness, contrast, saturation and hue. With `blur_first` a view is blurred before it is
    rotated, and its black corners keep sharp edges.
    """

    anchor: Literal["square", "margin", "grid", "binary_split"]
    views: tuple[ViewKind, ...]
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.2, 0.1)
    num_parts: int = 1
    blur_first: bool = False

    def groups(self) -> dict[int, list[int]]:
        """Side -> which views have it, in order."""
        found: dict[int, list[int]] = {}
        for number, kind in enumerate(self.views):
            found.setdefault(kind.size, []).append(number)
        return found


def localizability_views(size: int = 224, local_size: int = 96) -> ViewTable:
    """Adam-v2's first phase: g1, g2, l1 to l8 of a square anchor."""
    global_views = [
        ViewKind(f"g{n + 1}", size, "random", 30.0, blur, area=(0.8, 1.0)) for n, blur in enumerate((1.0, 0.1))
    ]
    local_views = [ViewKind(f"l{n + 1}", local_size, "random", 30.0, 0.5, area=(0.05, 0.4)) for n in range(8)]
    return ViewTable("square", (*global_views, *local_views))


def part_whole_views(size: int = 224, local_size: int = 96, num_parts: int = 4) -> ViewTable:
    """Adam-v2's second phase: the anchor w0, g and l1 to l8 about its centre, and its parts p1 to pn."""
    ratios = ((2 / 3, 1.0), (1.0, 3 / 2))
    local_views = [
        ViewKind(f"l{n + 1}", local_size, "centred", 10.0, 0.5, area=band, ratio=ratios[n % 2])
        for n, band in enumerate(BANDS)
    ]
    parts = [ViewKind(f"p{n + 1}", size, "part", 10.0, 0.1, part=n) for n in range(num_parts)]
    whole = ViewKind("w0", size, "whole", 10.0, 0.1)
    centre = ViewKind("g", size, "centred", 10.0, 1.0, area=(0.8, 1.0))
    return ViewTable("margin", (whole, centre, *local_views, *parts), num_parts=num_parts)


def contrast_views(size: int = 224, rule: Decomposer = "grid") -> ViewTable:
    """Adam-v1's two views of a patch of its decomposer, q and k, which are blurred before they are rotated."""
    views = tuple(ViewKind(name, size, "random", 30.0, 0.5, area=(0.2, 1.0)) for name in "qk")
    return ViewTable(rule, views, jitter=(0.4, 0.4, 0.4, 0.1), blur_first=True)


@dataclass(frozen=True)
class ViewDraws:
    """The numbers of V views of B pictures, on the CPU.

    `anchors` int64 `(B, 4)`; `boxes` int64 `(B, V, 4)` in the picture; `angle` float32 `(B, V)`, radians, counter-clockwise;
    `factors` float32 `(B, V, 4)`: brightness, contrast and saturation (1: unchanged) and hue (turns; 0: unchanged); `order`
    int64 `(B, V, 4)`: which of these four comes first, second, ...; `sigma` float32 `(B, V)`, 0 where there is no blur.
    """

    table: ViewTable
    size: tuple[int, int]
    anchors: Int64[Tensor, "b 4"]
    boxes: Int64[Tensor, "b v 4"]
    angle: Float[Tensor, "b v"]
    factors: Float[Tensor, "b v 4"]
    order: Int64[Tensor, "b v 4"]
    sigma: Float[Tensor, "b v"]

    def rows(self, own: slice) -> ViewDraws:
        """Those of some pictures."""
        numbers: dict[str, Any] = {
            f.name: getattr(self, f.name)[own] for f in fields(self) if f.name not in ("table", "size")
        }
        return replace(self, **numbers)


def draw_views(
    batch: int, table: ViewTable, *, size: tuple[int, int], level: int, generator: torch.Generator
) -> ViewDraws:
    """Draw all views of `batch` pictures of `size` (height, width) at a level of granularity, 0 the coarsest.

    How much is drawn depends on the batch and the table alone. Raises UserError where anchors or parts get too small.
    """
    count = len(table.views)
    placed = torch.rand(batch, 2, generator=generator)
    cropped = torch.rand(batch, count, TRIES, 4, generator=generator)
    turned, gate, blurred, spread = torch.rand(4, batch, count, generator=generator)
    shifts = torch.rand(batch, count, 4, generator=generator) * 2 - 1
    order = torch.rand(batch, count, 4, generator=generator).argsort(-1)
    try:
        anchors = _anchors(table, size, level, placed)
        boxes = _boxes(table, anchors, cropped)
    except ValueError as fault:
        raise UserError(f"views of pictures of {size[1]} x {size[0]} pixels at level {level}: {fault}") from None
    strengths = torch.tensor(table.jitter) * (gate < JITTERED)[..., None]
    factors = shifts * strengths + torch.tensor([1.0, 1.0, 1.0, 0.0])
    rotation = torch.tensor([math.radians(kind.rotation) for kind in table.views])
    sigma = SIGMA[0] + spread * (SIGMA[1] - SIGMA[0])
    sigma = sigma * (blurred < torch.tensor([kind.blur for kind in table.views]))
    return ViewDraws(table, size, anchors, boxes, (turned * 2 - 1) * rotation, factors, order, sigma)


def _anchors(
    table: ViewTable, size: tuple[int, int], level: int, uniforms: Float[Tensor, "b 2"]
) -> Int64[Tensor, "b 4"]:
    if table.anchor == "square":
        return square_anchors(size, level, uniforms)
    if table.anchor == "margin":
        return margin_anchors(size, level, uniforms)
    return decomposed_anchors(size, level, uniforms[:, 0], rule=table.anchor)


def _boxes(
    table: ViewTable, anchors: Int64[Tensor, "b 4"], uniforms: Float[Tensor, "b v t 4"]
) -> Int64[Tensor, "b v 4"]:
    parts = split_parts(anchors, table.num_parts)
    boxes = []
    for number, kind in enumerate(table.views):
        own = uniforms[:, number]
        if kind.cut == "random":
            boxes.append(random_crops(anchors, own, area=kind.area, ratio=kind.ratio))
        elif kind.cut == "centred":
            boxes.append(centred_crops(anchors, own[..., :2], area=kind.area, ratio=kind.ratio))
        else:
            boxes.append(parts[:, kind.part] if kind.cut == "part" else anchors)
    return torch.stack(boxes, dim=1)


def view_blocks(
    table: ViewTable, batch: int, *, device: torch.device | str = "cpu", dtype: torch.dtype = torch.float32
) -> dict[int, Tensor]:
    """Room for the views of a batch: side -> `(V, batch, 3, side, side)`, of its V views one after the other."""
    return {
        size: torch.empty(len(views), batch, 3, size, size, dtype=dtype, device=device)
        for size, views in table.groups().items()
    }


@torch.no_grad()
def render(
    images: Shaped[Tensor, "b c h w"],
    draws: ViewDraws,
    *,
    grey: bool | None = None,
    mean: tuple[float, float, float] = IMAGENET_MEAN,
    std: tuple[float, float, float] = IMAGENET_STD,
    out: dict[int, Tensor] | None = None,
    pool: Executor | None = None,
) -> list[Tensor]:
    """The views `(B, 3, size, size)` of `images`, in the order of the table, on their device.

    Pictures have 1 or 3 channels, as uint8 or as floats in [0, 1]. `grey` pictures keep one channel until they are normalised,
    and saturation and hue, which do nothing to them, are left out; it is the default for one channel, and `grey=False` takes
    such pictures through all four as the published code does. `out` (see `view_blocks`) is written, and the views are parts
    of it; it decides the dtype. Keep it from step to step: on the CPU fresh memory takes a third of the time or more. With a
    `pool` (see `sharing.start_threads`) pictures on the CPU are shared out over as many of its threads as torch has here, which
    wait for each other less than torch's own do. Raises UserError where pictures or `out` do not fit the draws.
    """
    blocks = view_blocks(draws.table, len(images), device=images.device) if out is None else out
    _check_pictures(images, draws, blocks)
    if grey is None:
        grey = images.shape[1] == 1
    images = images[:, :1] if grey else images.expand(-1, 3, -1, -1)
    if images.device.type != "cpu":
        pool = None
    parts = 1 if pool is None else torch.get_num_threads()
    each = max(1, -(-len(images) // parts))
    jobs: list[Future[None]] = []
    for start in range(0, len(images), each):
        rows = slice(start, start + each)
        own = {size: block[:, rows] for size, block in blocks.items()}
        work = partial(_render_rows, images[rows], draws.rows(rows), own, grey=grey, mean=mean, std=std)
        if pool is None:
            work()
        else:
            jobs.append(pool.submit(work))
    for job in jobs:
        job.result()
    where = {
        view: block
        for size, views in draws.table.groups().items()
        for view, block in zip(views, blocks[size], strict=True)
    }
    return [where[view] for view in range(len(where))]


def _check_pictures(images: Tensor, draws: ViewDraws, blocks: dict[int, Tensor]) -> None:
    count, (height, width), shape = len(draws.boxes), draws.size, tuple(images.shape)
    if shape not in ((count, 1, height, width), (count, 3, height, width)):
        raise UserError(
            f"pictures of shape {shape}: expected {(count, 1, height, width)} as in the draws, or 3 channels"
        )
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise UserError(f"pictures of type {images.dtype}: expected uint8, or floats in [0, 1]")
    shapes = {size: (len(views), count, 3, size, size) for size, views in draws.table.groups().items()}
    found = {size: tuple(block.shape) for size, block in blocks.items()}
    if found != shapes:
        raise UserError(f"out: blocks of shapes {found}; expected {shapes}, as view_blocks gives them")


@torch.no_grad()
def _render_rows(
    images: Shaped[Tensor, "b c h w"],
    draws: ViewDraws,
    blocks: dict[int, Tensor],
    *,
    grey: bool,
    mean: tuple[float, float, float],
    std: tuple[float, float, float],
) -> None:
    """Write the views of some pictures, on the CPU a few of them at a time."""
    count, channels, device = len(images), images.shape[1], images.device
    together = min(count, torch.get_num_threads() * PICTURES_A_THREAD) if device.type == "cpu" else count
    level = pyramid_levels(draws.boxes, torch.tensor([float(kind.size) for kind in draws.table.views]))
    atlas = Atlas.blank(draws.size, int(level.max()) + 1, together, channels, device)
    groups = {size: Group(draws, level, size, atlas, grey=grey) for size in draws.table.groups()}
    for start in range(0, count, together):
        rows = slice(start, min(start + together, count))
        atlas.fill(images[rows])
        for size, group in groups.items():
            pixels = group.pixels(atlas, rows).transpose(0, 1)
            for channel, (centre, spread) in enumerate(zip(mean, std, strict=True)):
                source, block = pixels[:, :, min(channel, channels - 1)], blocks[size][:, rows, channel]
                torch.add(-centre / spread, source, alpha=1 / (255 * spread), out=block)


class Group:
    """All views of one size, with what is needed to make them, on the device of the pictures."""

    def __init__(self, draws: ViewDraws, level: Int64[Tensor, "b v"], size: int, atlas: Atlas, *, grey: bool) -> None:
        device, views = atlas.pixels.device, draws.table.groups()[size]
        self.grey, self.blur_first = grey, draws.table.blur_first
        self.lines = atlas.lines(draws.boxes[:, views], draws.angle[:, views], level[:, views], size)
        self.factors, self.order, sigma = draws.factors[:, views], draws.order[:, views], draws.sigma[:, views]
        tones = GreyJitter.of(self.factors, self.order)
        self.tones = GreyJitter(*(numbers.to(device, non_blocking=True) for numbers in tones))
        self.blurred, self.kernels = sigma > 0, box_kernels(sigma).to(device, non_blocking=True)
        # Memory to work in, for as many pictures as the atlas holds.
        self.desk = torch.empty(len(atlas.pixels), 3, len(views), size, size, device=device)

    def pixels(self, atlas: Atlas, rows: slice) -> Float[Tensor, "b v c size size"]:
        """The views of the pictures `rows`, which fill the atlas, in [0, 255]."""
        desk, lines = self.desk[: rows.stop - rows.start], self.lines.rows(rows)
        pixels = sample_lines(atlas.pixels[: len(desk)], lines, desk)
        flat = pixels.flatten(0, 1)
        if self.grey:
            self.tones.rows(rows).apply(pixels)
        else:
            jitter_colour(flat, self.factors[rows].flatten(0, 1), self.order[rows].flatten(0, 1))
        inside = inside_lines(lines, desk)[:, :, None]
        if not self.blur_first:
            pixels.mul_(inside)
        blur(flat, self.kernels[rows].flatten(0, 1), self.blurred[rows].flatten())
        return pixels.mul_(inside) if self.blur_first else pixels
