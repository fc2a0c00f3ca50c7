"""The four blurs among the common corruptions; see `corruptions`."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from partwise.ops.sampling import convolved, folded, gaussian_blurred, gaussian_line, picked, zoomed

Generators = Sequence[torch.Generator]
SMALLEST_DISK = 8
"""Disks of up to this radius are drawn in a square of twice it, and softened by three pixels instead of five."""


def disk(radius: float, softness: float) -> Tensor:
    """A disk of equal weights with sum 1, softened by a Gaussian: float32 `(n, n)`."""
    reach = SMALLEST_DISK if radius <= SMALLEST_DISK else int(radius)
    places = torch.arange(-reach, reach + 1)
    inside = (places.square()[:, None] + places.square() <= radius**2).float()
    line = gaussian_line(softness, 1 if radius <= SMALLEST_DISK else 2)
    softened = convolved((inside / inside.sum())[None, None], line[:, None], border="mirror")
    return convolved(softened, line[None], border="mirror")[0, 0]


def defocus_blur(images: Tensor, amounts: tuple[float, float], generators: Generators) -> Tensor:
    """Every point becomes a softened disk."""
    return convolved(images, disk(*amounts), border="mirror")


def glass_blur(images: Tensor, amounts: tuple[float, int, int], generators: Generators) -> Tensor:
    """Pixels take the place of near ones, between two Gaussian blurs; amounts: sigma, distance, how often.

    The published code means to swap pixels and copies one over the other; so does this.
    """
    sigma, distance, times = amounts
    images = (255 * gaussian_blurred(images, sigma).clamp(0, 1) + 1e-3).floor() / 255
    batch, _, height, width = images.shape
    rows, columns = height - 2 * distance, width - 2 * distance
    if rows > 0 and columns > 0:
        draws = [torch.randint(-distance, distance, (times, rows, columns, 2), generator=g) for g in generators]
        place = torch.arange(height * width).expand(batch, -1).clone()
        for steps in torch.stack(draws, dim=1).unbind(0):
            _copy_near(place.view(batch, height, width), steps, distance)
        place = place.view(batch, height, width).to(images.device)
        images = picked(images, place // width, place % width)
    return gaussian_blurred(images, sigma)


def _copy_near(place: Tensor, steps: Tensor, distance: int) -> None:
    """From the last pixel to the first, each takes what stands at its step (x, y), in place."""
    batch, height, width = place.shape
    if distance == 1:  # steps lead up or left, to pixels that have not changed yet: all at once
        ys = torch.arange(2, height)[None, :, None] + steps[:, ..., 1].flip(1, 2)
        xs = torch.arange(2, width)[None, None] + steps[:, ..., 0].flip(1, 2)
        place[:, 2:, 2:] = place[torch.arange(batch)[:, None, None], ys, xs]
        return
    values, moves, which = place.numpy(), steps.numpy(), torch.arange(batch).numpy()
    for row in range(height - 2 * distance):
        for column in range(width - 2 * distance):
            y, x = height - distance - row, width - distance - column
            dx, dy = moves[:, row, column].T
            values[:, y, x] = values[which, y + dy, x + dx]


def motion_blurred(images: Tensor, radius: float, sigma: float, angles: Sequence[float]) -> Tensor:
    """Pictures smeared along a direction, degrees, each by half a Gaussian of 2 radius + 1 pixels; borders are extended.

    As ImageMagick does it: the picture is shifted by whole pixels and summed.
    """
    batch, _, height, width = images.shape
    count = 2 * int(radius) + 1
    half = gaussian_line(sigma, count - 1)[count - 1 :]
    weights: list[float] = (half / half.sum()).tolist()
    ys, xs = torch.arange(height)[:, None], torch.arange(width)
    total = torch.zeros_like(images)
    for number, weight in enumerate(weights):
        down = torch.tensor([math.ceil(number * math.sin(math.radians(a)) - 0.5) for a in angles])[:, None, None]
        right = torch.tensor([math.ceil(number * math.cos(math.radians(a)) - 0.5) for a in angles])[:, None, None]
        rows = folded(ys + down, height, "edge").expand(batch, height, width).to(images.device)
        columns = folded(xs + right, width, "edge").expand(batch, height, width).to(images.device)
        total += weight * picked(images, rows, columns)
    return total


def motion_blur(images: Tensor, amounts: tuple[float, float], generators: Generators) -> Tensor:
    """Smeared along an angle of -45 to 45 degrees; amounts: radius and sigma, pixels."""
    angles = [float(90 * torch.rand((), generator=g) - 45) for g in generators]
    return motion_blurred(images, *amounts, angles)


def zoom_blur(images: Tensor, amounts: tuple[int, float], generators: Generators) -> Tensor:
    """The mean of the picture and of itself enlarged; amounts: how many factors, from 1 on, and their distance."""
    count, distance = amounts
    total = images.clone()
    for number in range(count):
        total += zoomed(images, 1 + number * distance)
    return total / (count + 1)
