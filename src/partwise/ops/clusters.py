"""Whether embeddings of one thing lie together: silhouette, k-means, mutual information, and regions common to pictures."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int64
from torch import Tensor

ITERATIONS = 100
RESTARTS = 4
ELBOW = 0.975
"""Co-segmentation takes the first number of clusters whose inertia is above this share of that of one cluster fewer."""
MOST_CLUSTERS = 14
VOTES = 0.75
"""Share of the pictures in which a cluster must be foreground to be salient."""


def silhouettes(embeddings: Float[Tensor, "n d"], labels: Int64[Tensor, " n"]) -> Float[Tensor, " n"]:
    """(b - a) / max(a, b) of every point (Rousseeuw, 1987), with the cosine distance 1 - cos; float64.

    a is the mean distance to the others of its own cluster, b the least mean distance to another cluster; 0 for the only
    point of a cluster. A mean distance is a product with a sum of unit vectors. Raises ValueError for a single cluster.
    """
    units = F.normalize(embeddings.double(), dim=1)
    names, label = labels.unique(return_inverse=True)
    if len(names) < 2:
        raise ValueError(f"silhouettes of {len(names)} clusters: expected at least 2")
    sizes = torch.bincount(label).double()
    sums = units.new_zeros(len(names), units.shape[1]).index_add_(0, label, units)
    distances = sizes - units @ sums.T
    own = distances.gather(1, label[:, None])[:, 0] / (sizes[label] - 1).clamp(min=1)
    others = (distances / sizes).scatter(1, label[:, None], math.inf).amin(1)
    scores = (others - own) / torch.maximum(own, others).clamp(min=1e-9)
    return torch.where(sizes[label] > 1, scores, 0.0)


@dataclass(frozen=True)
class Clusters:
    """`labels` int64 `(n,)`, `centres` `(k, d)` and the sum of squared distances to them."""

    labels: Tensor
    centres: Tensor
    inertia: float


def k_means(
    points: Float[Tensor, "n d"],
    k: int,
    generator: torch.Generator,
    *,
    iterations: int = ITERATIONS,
    restarts: int = RESTARTS,
) -> Clusters:
    """Lloyd's algorithm from k-means++ (Arthur and Vassilvitskii, 2007), the best of some starts; `generator` on the CPU.

    Raises ValueError where there are fewer points than clusters.
    """
    if not 1 <= k <= len(points):
        raise ValueError(f"k_means: {k} clusters of {len(points)} points; expected 1 to as many as there are points")
    return min(
        (lloyd(points, _plus_plus(points, k, generator), iterations) for _ in range(restarts)),
        key=lambda found: found.inertia,
    )


def _plus_plus(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """Centres drawn one by one, each with a chance that grows with its squared distance to those before."""
    draws = torch.rand(k, generator=generator, dtype=torch.float64).tolist()
    chosen = [int(draws[0] * len(points))]
    nearest = _squared(points, points[chosen])[:, 0]
    for draw in draws[1:]:
        reached = nearest.double().cumsum(0)
        place = int(torch.searchsorted(reached, draw * reached[-1], right=True).clamp(max=len(points) - 1))
        chosen.append(place)
        nearest = torch.minimum(nearest, _squared(points, points[place : place + 1])[:, 0])
    return points[chosen]


def lloyd(points: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], iterations: int) -> Clusters:
    """Points to their nearest centres and centres to the means of their points, in turn, until no point moves.

    A cluster that loses all its points takes the point that is farthest from its centre.
    """
    distances, labels = _squared(points, centres).min(1)
    for _ in range(iterations):
        sizes = torch.bincount(labels, minlength=len(centres))
        sums = torch.zeros_like(centres).index_add_(0, labels, points)
        centres = sums / sizes.clamp(min=1)[:, None]
        empty = (sizes == 0).nonzero()[:, 0]
        if len(empty):
            centres[empty] = points[distances.argsort(descending=True, stable=True)[: len(empty)]]
        distances, found = _squared(points, centres).min(1)
        if torch.equal(found, labels):
            break
        labels = found
    return Clusters(labels, centres, float(distances.double().sum()))


def _squared(points: Tensor, centres: Tensor) -> Tensor:
    """|p|^2 - 2 p c + |c|^2 `(n, k)`, not below 0."""
    return (
        points.square().sum(1, keepdim=True) - 2 * points @ centres.T + centres.square().sum(1)
    ).clamp(min=0)  # fmt: skip


def mutual_information(first: Int64[Tensor, " n"], second: Int64[Tensor, " n"]) -> float:
    """Normalised mutual information of two labellings, over the mean of their entropies: 0 unrelated, 1 the same.

    1 where both have a single label. Raises ValueError for labellings of different lengths, or none.
    """
    if len(first) != len(second) or len(first) == 0:
        raise ValueError(
            f"mutual information of {len(first)} and {len(second)} labels: expected as many of each, not 0"
        )
    _, a = first.unique(return_inverse=True)
    _, b = second.unique(return_inverse=True)
    columns = int(b.max()) + 1
    joint = torch.bincount(a * columns + b, minlength=(int(a.max()) + 1) * columns).double().reshape(-1, columns)
    joint = joint / len(first)
    entropies = [torch.special.entr(shares).sum() for shares in (joint.sum(1), joint.sum(0), joint)]
    mean = float(entropies[0] + entropies[1]) / 2
    return float(entropies[0] + entropies[1] - entropies[2]) / mean if mean > 0 else 1.0


def co_segment(
    maps: Float[Tensor, "n d h w"], foreground: Bool[Tensor, "n h w"], generator: torch.Generator
) -> tuple[Int64[Tensor, "n h w"], Bool[Tensor, " k"]]:
    """Regions common to pictures: k-means over the unit descriptors of all cells, and which clusters are salient.

    k grows from 1 and is the first that gains little (ELBOW), at most MOST_CLUSTERS; a cluster is salient where more than
    half of its cells are foreground in VOTES of the pictures that show it, as Amir et al. (2021) vote; there the foreground
    is a transformer's attention, here whatever the caller takes for it, such as what is not black.
    """
    points = F.normalize(maps.float().movedim(1, -1).flatten(0, 2), dim=1)
    found = k_means(points, 1, generator, restarts=1)
    for k in range(2, min(MOST_CLUSTERS, len(points)) + 1):
        if found.inertia <= 1e-6 * len(points):
            break  # all cells are alike
        before, found = found.inertia, k_means(points, k, generator)
        if found.inertia > ELBOW * before:
            break
    labels = found.labels.unflatten(0, (len(maps), *maps.shape[-2:]))
    shown = F.one_hot(labels, len(found.centres)).flatten(1, 2)
    cells = shown.sum(1)
    votes = (shown * foreground.flatten(1)[..., None]).sum(1) * 2 > cells
    pictures = (cells > 0).sum(0)
    return labels, (votes.sum(0) >= VOTES * pictures) & (pictures > 0)
