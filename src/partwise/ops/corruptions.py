"""The 15 common corruptions of Hendrycks and Dietterich (2019), as batched functions of pictures and one seed each.

The numbers of `corruption_tables`, those for CIFAR on small pictures and those for ImageNet on larger ones. What is drawn for
a picture is a function of its own generator, so neither batches nor their order matter. Results are in whole steps of 1/255,
cut off, as published. One departure: frost is generated (the published code pastes six photographs).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from partwise.config import UserError
from partwise.ops.corruption_blurs import defocus_blur, glass_blur, motion_blur, zoom_blur
from partwise.ops.corruption_tables import LARGE, SEVERITIES, SMALL, SMALL_UP_TO
from partwise.ops.corruption_weather import fog, frost, snow
from partwise.ops.mixing_rules import check_choice
from partwise.ops.sampling import bilinear, box_weights, gaussian_blurred

Generators = Sequence[torch.Generator]


def corrupted(
    images: Float[Tensor, "b c h w"], name: str, severity: int, generators: Generators
) -> Float[Tensor, "b c h w"]:
    """Pictures in [0, 1] after corruption `name` at severity 1 to 5, in whole steps of 1/255.

    `generators` on the CPU, one a picture. Pictures of sides up to 64 are corrupted as CIFAR's were, larger ones as
    ImageNet's. Raises UserError for an unknown name (with the nearest) or severity.
    """
    check_choice(name, CORRUPTIONS, "corruption")
    if severity not in SEVERITIES:
        raise UserError(f"severity: got {severity}, expected 1 to 5")
    if len(generators) != len(images):
        raise UserError(f"corrupted: {len(generators)} generators for {len(images)} pictures")
    table = SMALL if max(images.shape[2:]) <= SMALL_UP_TO else LARGE
    changed = CORRUPTIONS[name](images, table[name][severity - 1], generators)
    # Published pictures were cut off to whole numbers; the little more is for what float32 leaves just below one.
    return (255 * changed.clamp(0, 1) + 1e-3).floor() / 255


def normals(images: Tensor, generators: Generators, channels: int) -> Tensor:
    """Standard normal numbers `(B, channels, H, W)`, each picture's from its own generator."""
    size = (channels, *images.shape[2:])
    return torch.stack([torch.randn(size, generator=g) for g in generators]).to(images)


def uniforms(images: Tensor, generators: Generators, *size: int) -> Tensor:
    """Numbers in [0, 1), `(B, *size)`, each picture's from its own generator."""
    return torch.stack([torch.rand(size, generator=g) for g in generators]).to(images)


# -- noise -------------------------------------------------------------------------------------------------------------


def gaussian_noise(images: Tensor, std: float, generators: Generators) -> Tensor:
    """Added normal noise."""
    return images + std * normals(images, generators, images.shape[1])


def shot_noise(images: Tensor, photons: float, generators: Generators) -> Tensor:
    """As many photons as Poisson's law gives, of `photons` for a white pixel."""
    mean = (images * photons).cpu()
    counts = [torch.poisson(one, generator=g) for one, g in zip(mean, generators, strict=True)]
    return torch.stack(counts).to(images) / photons


def impulse_noise(images: Tensor, share: float, generators: Generators) -> Tensor:
    """A share of the values is black or white, each as likely; channels by themselves."""
    hit, white = uniforms(images, generators, 2, *images.shape[1:]).unbind(1)
    return torch.where(hit <= share, (white <= 0.5).to(images), images)


# -- colour and digital ------------------------------------------------------------------------------------------------


def brightness(images: Tensor, more: float, generators: Generators) -> Tensor:
    """The value of HSV raised, hue and saturation kept; grey pictures are raised as they are."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + more).clamp(0, 1)
    return torch.where(value > 0, images * (raised / value.clamp_min(1e-12)), raised)


def contrast(images: Tensor, share: float, generators: Generators) -> Tensor:
    """Differences from each channel's mean, reduced to a share."""
    mean = images.mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean, images, share)


def elastic_transform(images: Tensor, amounts: tuple[float, float, float], generators: Generators) -> Tensor:
    """A random affine map of three points, then smooth random shifts; amounts are shares of the side.

    In order: how far shifts go, over what distance they change, and how far the three points move.
    """
    batch, _, height, width = images.shape
    side = float(height)
    reach, smooth, moved = (share * side for share in amounts)
    corners = uniforms(images, generators, 3, 2)
    noise = uniforms(images, generators, 2, height, width)
    middle, third = torch.tensor([height // 2, width // 2]), min(height, width) // 3
    points = torch.stack((middle + third, torch.stack((middle[0] + third, middle[1] - third)), middle - third)).to(
        images
    )
    targets = points + moved * (2 * corners - 1)
    # The map back, from where a pixel lands to where it comes from; points are (x, y).
    forward = torch.linalg.solve(
        torch.cat((targets, torch.ones_like(targets[..., :1])), dim=2), points.expand_as(targets)
    )
    ys, xs = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    grid = torch.stack((xs.flatten(), ys.flatten(), torch.ones(height * width)), dim=1).to(images)
    source = (grid @ forward).view(batch, height, width, 2)
    images = bilinear(images, source[..., 1], source[..., 0], border="mirror")
    shifts = reach * gaussian_blurred(2 * noise - 1, smooth, truncate=3.0, border="reflect")
    ys, xs = ys.to(images), xs.to(images)
    return bilinear(images, ys + shifts[:, 1], xs + shifts[:, 0], border="reflect")


def pixelate(images: Tensor, share: float, generators: Generators) -> Tensor:
    """Fewer pixels, and back to as many; each is the mean of those under it, rounded to whole steps a pass."""
    size = tuple(images.shape[2:])
    few = tuple(int(side * share) for side in size)
    for old, new in ((size, few), (few, size)):
        rows, columns = (box_weights(*sides).to(images) for sides in zip(old, new, strict=True))
        images = _rounded(_rounded(images @ columns.T).transpose(2, 3) @ rows.T).transpose(2, 3)
    return images


def _rounded(images: Tensor) -> Tensor:
    """To whole steps, halves upwards, whatever float32 leaves below them."""
    return (255 * images + 0.501).floor() / 255


def jpeg_compression(images: Tensor, quality: int, generators: Generators) -> Tensor:
    """Through JPEG, chroma at half the resolution."""
    whole = (255 * images).round().clamp(0, 255).to(torch.uint8).cpu()
    return torch.stack([_through_jpeg(one, quality) for one in whole]).to(images) / 255


def _through_jpeg(picture: Tensor, quality: int) -> Tensor:
    """uint8 `(C, H, W)` of one or three channels."""
    grey = picture.shape[0] == 1
    pixels = picture[0].numpy() if grey else picture.permute(1, 2, 0).contiguous().numpy()
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality)
    found = torch.from_numpy(np.array(Image.open(buffer)))
    return found[None] if grey else found.permute(2, 0, 1)


CORRUPTIONS: Mapping[str, Callable[[Tensor, Any, Generators], Tensor]] = MappingProxyType(
    {
        "gaussian_noise": gaussian_noise,
        "shot_noise": shot_noise,
        "impulse_noise": impulse_noise,
        "defocus_blur": defocus_blur,
        "glass_blur": glass_blur,
        "motion_blur": motion_blur,
        "zoom_blur": zoom_blur,
        "snow": snow,
        "frost": frost,
        "fog": fog,
        "brightness": brightness,
        "contrast": contrast,
        "elastic_transform": elastic_transform,
        "pixelate": pixelate,
        "jpeg_compression": jpeg_compression,
    }
)
"""Name -> corruption, in the order of the paper."""
