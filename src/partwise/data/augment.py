"""Geometry and colour of training pictures: drawn once a sample, applied to picture, mask and boxes.

Batched and on the device for pictures that are already in memory (`take_windows`, `jitter_colour`); one picture at a
time, inside a decoding thread, for those that are not (`training_placement`, `place`). Both from the same `Views`.
Mixing of pictures with one another is ops/mixing.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from partwise.config import AugmentFields
from partwise.data.sample import VOID


@dataclass(frozen=True)
class Placement:
    """How one picture comes into the network's frame: a window is cut, resized, and a square taken at an offset.

    `window` is (top, left, height, width) in the picture, `resized` (height, width) after resizing it, `offset`
    (top, left) of the square in the resized window (negative: a border of zeros), `flip` mirrors the square.
    """

    window: tuple[int, int, int, int]
    resized: tuple[int, int]
    offset: tuple[int, int] = (0, 0)
    flip: bool = False


def place(
    image: Tensor, placement: Placement, size: int, *, mask: bool = False, border: tuple[int, ...] = (0, 0, 0)
) -> Tensor:
    """One uint8 picture `(C, H, W)` (or mask `(H, W)`: nearest neighbour, void outside) in a square frame of `size`."""
    top, left, height, width = placement.window
    picture = image[None] if mask else image
    picture = picture[:, top : top + height, left : left + width]
    if placement.resized != (height, width):
        # Dense, channels innermost: the layout for which torch resizes bytes without packing and unpacking them.
        picture = picture[None].contiguous(memory_format=torch.channels_last)[0]
        mode = tv.InterpolationMode.NEAREST if mask else tv.InterpolationMode.BILINEAR
        picture = tv.resize(picture, list(placement.resized), interpolation=mode, antialias=not mask)
    y, x = placement.offset
    if (y, x) != (0, 0) or placement.resized != (size, size):
        framed = picture.new_full((picture.shape[0], size, size), VOID if mask else 0)
        if not mask and any(border):
            framed += torch.tensor(border[: picture.shape[0]], dtype=picture.dtype)[:, None, None]
        rows, columns = placement.resized
        y1, x1 = max(y, 0), max(x, 0)
        y2, x2 = min(y + size, rows), min(x + size, columns)
        if y2 > y1 and x2 > x1:
            framed[:, y1 - y : y2 - y, x1 - x : x2 - x] = picture[:, y1:y2, x1:x2]
        picture = framed
    if placement.flip:
        picture = picture.flip(-1)
    return picture[0] if mask else picture


def place_boxes(boxes: Tensor, placement: Placement, size: int) -> Tensor:
    """Boxes `(n, 4)` of a picture in the frame that `place` gives it, clipped; boxes left empty are dropped."""
    top, left, height, width = placement.window
    scale = torch.tensor([placement.resized[1] / width, placement.resized[0] / height] * 2)
    shift = torch.tensor([left, top] * 2)
    offset = torch.tensor([placement.offset[1], placement.offset[0]] * 2)
    moved = ((boxes.float() - shift) * scale - offset).clamp(0, size)
    if placement.flip:
        moved = torch.stack([size - moved[:, 2], moved[:, 1], size - moved[:, 0], moved[:, 3]], dim=1)
    return moved[(moved[:, 2] > moved[:, 0]) & (moved[:, 3] > moved[:, 1])]


def place_points(points: Tensor, placement: Placement, size: int) -> Tensor:
    """Points `(n, 2)` of a picture in the frame that `place` gives it, float32; NaN for those outside it."""
    top, left, height, width = placement.window
    scale = torch.tensor([placement.resized[1] / width, placement.resized[0] / height])
    shift = torch.tensor([left, top])
    offset = torch.tensor([placement.offset[1], placement.offset[0]])
    moved = (points.float() - shift) * scale - offset
    if placement.flip:
        moved = torch.stack([size - moved[:, 0], moved[:, 1]], dim=1)
    inside = ((moved >= 0) & (moved <= size)).all(dim=1, keepdim=True)
    return torch.where(inside, moved, torch.nan)


def unplace_boxes(boxes: Tensor, placement: Placement, size: int) -> Tensor:
    """The inverse of `place_boxes`: boxes of the network's frame in the picture's own pixels."""
    top, left, height, width = placement.window
    if placement.flip:
        boxes = torch.stack([size - boxes[:, 2], boxes[:, 1], size - boxes[:, 0], boxes[:, 3]], dim=1)
    offset = torch.tensor([placement.offset[1], placement.offset[0]] * 2)
    scale = torch.tensor([width / placement.resized[1], height / placement.resized[0]] * 2)
    return (boxes.float() + offset) * scale + torch.tensor([left, top] * 2)


def fit(height: int, width: int, *, size: int, resize: int, keep_aspect: bool) -> Placement:
    """The fixed frame of evaluation: resize (squashed, or by the short side), then the centre square of `size`."""
    rows, columns = resize, resize
    if keep_aspect:
        short = min(height, width)
        rows, columns = max(1, round(height * resize / short)), max(1, round(width * resize / short))
    return Placement((0, 0, height, width), (rows, columns), (round((rows - size) / 2), round((columns - size) / 2)))


def resized_window(
    height: int, width: int, uniforms: Tensor, *, scale: tuple[float, float], ratio: tuple[float, float]
) -> tuple[int, int, int, int]:
    """A random window of a share of the area and an aspect ratio, (top, left, height, width), from uniforms `(10, 4)`.

    The law of torchvision's RandomResizedCrop: up to ten tries, then the largest centred window within the ratios.
    """
    for area, aspect, y, x in uniforms.tolist():
        target = height * width * (scale[0] + area * (scale[1] - scale[0]))
        shape = math.exp(math.log(ratio[0]) + aspect * (math.log(ratio[1]) - math.log(ratio[0])))
        w, h = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
        if 0 < w <= width and 0 < h <= height:
            return int(y * (height - h + 1)), int(x * (width - w + 1)), h, w
    h, w = height, width
    if width / height < ratio[0]:
        h = round(width / ratio[0])
    elif width / height > ratio[1]:
        w = round(height * ratio[1])
    return (height - h) // 2, (width - w) // 2, h, w


def scaled_window(
    height: int, width: int, uniforms: Tensor, fields: AugmentFields, *, size: int, flip: bool
) -> Placement:
    """The whole picture with its longer side at a random length, and a random square of it, from uniforms `(4,)`.

    Along a side that is shorter than the square the picture lies at a random place in it (PPL's classifiers, after IRN).
    """
    low, high = fields.long_side
    scaled, _, y, x = uniforms.tolist()
    factor = (low + int(scaled * (high - low + 1))) / max(height, width)
    rows, columns = max(1, round(height * factor)), max(1, round(width * factor))

    def offset(uniform: float, room: int) -> int:
        shift = int(uniform * (abs(room) + 1))
        return shift if room >= 0 else -shift

    return Placement((0, 0, height, width), (rows, columns), (offset(y, rows - size), offset(x, columns - size)), flip)


@dataclass(frozen=True)
class Views:
    """The draws for a batch, as raw uniforms: `window` `(B, 10, 4)` and `flip` bool `(B,)`."""

    window: Tensor
    flip: Tensor

    def slice(self, low: int, high: int) -> Views:
        return Views(self.window[low:high], self.flip[low:high])


def draw_views(batch: int, fields: AugmentFields, generator: torch.Generator) -> Views:
    """Draw what `training_placement` and `take_windows` apply, for the whole batch at once, on the CPU."""
    tries = 10 if fields.crop == "resized" else 1
    window = torch.rand(batch, tries, 4, generator=generator)
    flip = torch.rand(batch, generator=generator) < 0.5
    return Views(window, flip if fields.flip else torch.zeros_like(flip))


def window_offsets(views: Views, fields: AugmentFields, room: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Top and left of each sample's window, int64 `(B,)`, given `room`: frame side minus window side (height, width)."""
    y, x = views.window[:, 0, 2], views.window[:, 0, 3]
    if fields.crop == "pad":
        border = fields.padding
        return (
            (y * (room[0] + 2 * border + 1)).long() - border,
            (x * (room[1] + 2 * border + 1)).long() - border,
        )
    if fields.crop == "random":
        return (y * (room[0] + 1)).long(), (x * (room[1] + 1)).long()
    return torch.full_like(y, room[0] // 2).long(), torch.full_like(x, room[1] // 2).long()


def training_placement(
    height: int, width: int, views: Views, row: int, fields: AugmentFields, *, size: int, resize: int, keep_aspect: bool
) -> Placement:
    """One sample's draws as a placement of its picture, for pictures decoded one at a time."""
    flip = bool(views.flip[row])
    if fields.crop == "resized":
        window = resized_window(height, width, views.window[row], scale=fields.scale, ratio=fields.ratio)
        return Placement(window, (size, size), (0, 0), flip)
    if fields.crop == "scaled":
        return scaled_window(height, width, views.window[row, 0], fields, size=size, flip=flip)
    base = fit(height, width, size=size, resize=resize, keep_aspect=keep_aspect)
    room = (base.resized[0] - size, base.resized[1] - size)
    top, left = window_offsets(views.slice(row, row + 1), fields, room)
    return Placement(base.window, base.resized, (int(top), int(left)), flip)


def take_windows(
    frames: Tensor, top: Tensor, left: Tensor, size: int, flip: Tensor, *, fill: int | tuple[int, ...] = 0
) -> Tensor:
    """One square window of each frame, mirrored where `flip`: uint8 `(B, C, H, W)` -> `(B, C, size, size)`.

    Windows may leave the frame by any amount; what lies outside is `fill`, one value or one a channel. One gather, on any
    device, no host sync.
    """
    batch, channels, height, width = frames.shape
    device = frames.device
    top, left, flip = (t.to(device, non_blocking=True) for t in (top, left, flip))
    steps = torch.arange(size, device=device)
    rows = top[:, None] + steps
    across = torch.where(flip[:, None], size - 1 - steps, steps)
    columns = left[:, None] + across
    inside_rows, inside_columns = (rows >= 0) & (rows < height), (columns >= 0) & (columns < width)
    index = rows.clamp(0, height - 1)[:, :, None] * width + columns.clamp(0, width - 1)[:, None, :]
    flat = index.view(batch, 1, -1).expand(batch, channels, -1)
    taken = frames.reshape(batch, channels, -1).gather(2, flat).view(batch, channels, size, size)
    inside = inside_rows[:, None, :, None] & inside_columns[:, None, None, :]
    if isinstance(fill, tuple):
        outside = torch.tensor(fill[:channels], dtype=frames.dtype, device=device)[:, None, None]
        return torch.where(inside, taken, outside if any(fill) else 0)
    return torch.where(inside, taken, fill)


def take_boxes(boxes: list[Tensor], top: Tensor, left: Tensor, size: int, flip: Tensor) -> list[Tensor]:
    """The boxes of each frame in its window, clipped and mirrored like `take_windows`; empty ones are dropped."""
    moved = []
    for row, own in enumerate(boxes):
        placement = Placement((0, 0, 1, 1), (1, 1), (int(top[row]), int(left[row])), bool(flip[row]))
        moved.append(place_boxes(own, placement, size))
    return moved


# ImageNet's principal colours: eigenvalues and eigenvectors of RGB covariance (Krizhevsky et al. 2012, section 4.1),
# as the CutMix code uses them, on pictures in [0, 1].
EIGENVALUES = (0.2175, 0.0188, 0.0045)
EIGENVECTORS = ((-0.5675, 0.7192, 0.4009), (-0.5808, -0.0045, -0.8140), (-0.5836, -0.6948, 0.4203))
GREY = (0.299, 0.587, 0.114)


def jitter_colour(
    images: Tensor, fields: AugmentFields, generator: torch.Generator, *, total: int, first: int = 0
) -> Tensor:
    """Brightness, contrast and saturation by lerp in an order drawn a batch, then PCA lighting (CutMix spec 3.2).

    `images` float32 `(B, 3, H, W)` in [0, 1]: rows `first` to `first + B` of the `total` that the draws are made for.
    """
    rows = slice(first, first + images.shape[0])
    if fields.jitter:
        factors = 1 + fields.jitter * (2 * torch.rand(3, total, generator=generator)[:, rows].to(images) - 1)
        sequence = torch.randperm(3, generator=generator).tolist()
        weights = torch.tensor(GREY).to(images).view(1, 3, 1, 1)
        for kind in sequence:
            grey = (images * weights).sum(1, keepdim=True)
            anchors = (torch.zeros_like(grey), grey.mean((2, 3), keepdim=True), grey)
            images = torch.lerp(anchors[kind].expand_as(images), images, factors[kind].view(-1, 1, 1, 1))
    if fields.lighting:
        amounts = fields.lighting * torch.randn(total, 3, generator=generator)[rows].to(images)
        vectors, values = torch.tensor(EIGENVECTORS).to(images), torch.tensor(EIGENVALUES).to(images)
        images = images + ((amounts * values) @ vectors.T)[:, :, None, None]
    return images
