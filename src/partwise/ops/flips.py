"""Pictures with their mirror images (FYI: Son et al., ECCV 2024), and how equal the two sides of pictures are.

`flip_pairs` is the whole of FYI: a matching loss is given the pairs instead of the pictures. The measures say how much a
set, or a picture, differs from its mirror; the paper's own score is not published in full, these are ours. Mirroring is
along the last axis, the width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import overload

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from partwise.ops.matching import row_distances, weight_rows


@overload
def flip_pairs(images: Tensor, targets: None = None, *, dim: int = 0) -> Tensor:
    """Pictures alone."""


@overload
def flip_pairs(images: Tensor, targets: Tensor, *, dim: int = 0) -> tuple[Tensor, Tensor]:
    """Pictures with their targets."""


def flip_pairs(
    images: Shaped[Tensor, "*c n ch h w"], targets: Shaped[Tensor, "*c n ..."] | None = None, *, dim: int = 0
) -> Tensor | tuple[Tensor, Tensor]:
    """`images`, then their mirror images in the same order along `dim`: rows i and n + i are a pair.

    Targets, hard or soft, are repeated in the same way and given back beside the pictures. Gradients come through both
    halves. Pictures of C classes at once, `(C, n, ch, h, w)` with targets `(C, n, ...)`, take `dim=1`. Raises ValueError
    for targets of another count.
    """
    if not 0 <= dim < images.ndim - 3:
        raise ValueError(f"dim {dim}: pictures of shape {tuple(images.shape)} have no such axis of pictures")
    pairs = torch.cat([images, images.flip(-1)], dim=dim)
    if targets is None:
        return pairs
    if targets.shape[: dim + 1] != images.shape[: dim + 1]:
        raise ValueError(f"targets of shape {tuple(targets.shape)} for pictures of shape {tuple(images.shape)}")
    return pairs, torch.cat([targets, targets], dim=dim)


def symmetry_energy(images: Float[Tensor, "b ch h w"]) -> Float[Tensor, " b"]:
    """Share of each picture's energy that its symmetric part has: `|(s + flip s) / 2|^2 / |s|^2`.

    1 for a picture that equals its mirror, near 1/2 where sides have nothing to do with one another, 0 for one that is
    minus its mirror. Zero is the origin, so give pictures in the normalised space they are matched in. A picture of
    zeros is symmetric.
    """
    symmetric = (images + images.flip(-1)) / 2
    energy = images.square().flatten(1).sum(1)
    share = symmetric.square().flatten(1).sum(1) / torch.where(energy > 0, energy, 1)
    return torch.where(energy > 0, share, 1)


def picture_unequalness(images: Float[Tensor, "b ch h w"]) -> Float[Tensor, " b"]:
    """Mean `|s - flip s|` of each picture over its mean absolute deviation from the mean of each channel.

    0 for a picture that equals its mirror; adding a colour or scaling the contrast changes nothing. A flat picture
    gives 0.
    """
    difference = (images - images.flip(-1)).abs().flatten(1).mean(1)
    deviation = (images - images.mean((2, 3), keepdim=True)).abs().flatten(1).mean(1)
    return difference / torch.where(deviation > 0, deviation, 1)


def feature_unequalness(features: Float[Tensor, "*c n d"], others: Float[Tensor, "*c m d"]) -> Float[Tensor, " *c"]:
    """How far the means of two sets of features lie apart: `|mu - mu'|^2 / ((tr S + tr S') / 2)`.

    `features` are a network's on pictures of one class, `others` those on their mirror images; S is the sample
    covariance. Any leading axes (networks, classes) are kept: average over at least fifty random networks. Two
    independent sets of n and m from one law give 1/n + 1/m in expectation. Raises ValueError for fewer than two rows,
    which have no covariance.
    """
    if features.shape[-2] < 2 or others.shape[-2] < 2:
        raise ValueError(f"sets of {features.shape[-2]} and {others.shape[-2]}: expected at least 2 pictures in each")
    between = (features.mean(-2) - others.mean(-2)).square().sum(-1)
    within = (features.var(-2).sum(-1) + others.var(-2).sum(-1)) / 2
    return between / torch.where(within > 0, within, 1)


def half_unequalness(features: Float[Tensor, "*c n d"], generator: torch.Generator) -> Float[Tensor, " *c"]:
    """`feature_unequalness` of two random halves of one set: what chance alone gives, about 4 / n.

    The split is drawn on the generator's device and is the same for all leading axes; of an odd set one row is left
    out. Raises ValueError for fewer than four rows.
    """
    count = features.shape[-2]
    if count < 4:
        raise ValueError(f"a set of {count}: expected at least 4 pictures for two halves")
    order = torch.randperm(count, generator=generator, device=generator.device).to(features.device)
    half = count // 2
    return feature_unequalness(features[..., order[:half], :], features[..., order[half : 2 * half], :])


def gradient_unequalness(
    gradients: Sequence[Tensor], others: Sequence[Tensor], *, classes: bool = False
) -> Float[Tensor, "layers ..."]:
    """1 - cos between the gradients of a set's loss and of its mirror image's, for each layer with a weight.

    As in DC's distance the cosine is taken for each output channel, here averaged over a layer's channels, so that
    layers compare: 0 is equal, 1 unrelated. Biases and norms are left out. With `classes` every gradient has a leading
    axis of classes, and so has each layer's value.
    """
    return torch.stack(
        [row_distances(own, other).mean(-1) for own, other in weight_rows(gradients, others, classes=classes)]
    )
