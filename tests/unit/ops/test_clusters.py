"""Silhouettes, k-means and mutual information against loops and against scikit-learn."""

from __future__ import annotations

import math
from collections import Counter
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor

from partwise.ops.clusters import ELBOW, MOST_CLUSTERS, co_segment, k_means, lloyd, mutual_information, silhouettes


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def blobs(sizes: list[int], spread: float, seed: int = 0) -> tuple[Tensor, Tensor]:
    centres = 4 * torch.randn(len(sizes), 3, generator=generator(seed))
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    return centres[labels] + spread * torch.randn(len(labels), 3, generator=generator(seed + 1)), labels


def naive_silhouette(points: Tensor, labels: Tensor, place: int) -> float:
    def mean(label: int) -> float:
        others = [j for j in range(len(points)) if labels[j] == label and j != place]
        cosines = [torch.cosine_similarity(points[place].double(), points[j].double(), dim=0) for j in others]
        return sum(1 - float(c) for c in cosines) / len(others)

    own = int(labels[place])
    if int((labels == own).sum()) == 1:
        return 0.0
    a, b = mean(own), min(mean(k) for k in set(labels.tolist()) - {own})
    return (b - a) / max(a, b)


def test_silhouettes_point_by_point() -> None:
    points, labels = blobs([5, 1, 7, 4], 2.0)
    labels = labels * 3 + 2  # names need not be 0, 1, ...
    found = silhouettes(points, labels)
    for place in range(len(points)):
        assert float(found[place]) == pytest.approx(naive_silhouette(points, labels, place), abs=1e-9)
    with pytest.raises(ValueError, match="1 clusters"):
        silhouettes(points, torch.zeros(17).long())


def test_a_collapsed_encoder_has_no_silhouette() -> None:
    assert silhouettes(torch.ones(6, 3), torch.tensor([0, 0, 0, 1, 1, 1])).abs().max() < 1e-3


def test_k_means_finds_what_lies_apart() -> None:
    points, labels = blobs([20, 30, 10], 0.3, seed=5)
    found = k_means(points, 3, generator())
    assert mutual_information(found.labels, labels) == pytest.approx(1.0)
    assert found.inertia == pytest.approx(
        sum(float((points[labels == k] - points[labels == k].mean(0)).square().sum()) for k in range(3)), rel=1e-5
    )


def test_k_means_ends_where_no_point_and_no_centre_moves() -> None:
    points = torch.randn(60, 2, generator=generator())
    found = k_means(points, 5, generator(1))
    for point, label in zip(points, found.labels.tolist(), strict=True):
        each = [float((point - centre).square().sum()) for centre in found.centres]
        assert each[label] == pytest.approx(min(each), abs=1e-5)
    for k in range(5):
        assert torch.allclose(found.centres[k], points[found.labels == k].mean(0), atol=1e-5)
    assert torch.equal(found.labels, k_means(points, 5, generator(1)).labels), "a function of the generator"


def test_k_means_with_repeated_points_and_bad_numbers() -> None:
    points = torch.tensor([[0.0, 0], [0, 0], [0, 0], [1, 1]])
    assert k_means(points, 3, generator()).inertia == 0
    assert k_means(points, 4, generator()).inertia == 0
    for k in (0, 5):
        with pytest.raises(ValueError, match=f"{k} clusters of 4"):
            k_means(points, k, generator())


def test_a_cluster_without_points_takes_the_farthest_one() -> None:
    points = 5 + torch.tensor([[0.0, 0], [0, 1], [1, 0], [9, 9], [9, 8]])
    found = lloyd(points, torch.tensor([[5.0, 5], [90, -90]]), 10)
    assert found.labels.tolist() in ([0, 0, 0, 1, 1], [1, 1, 1, 0, 0])
    assert found.inertia == pytest.approx(4 / 3 + 0.5, rel=1e-4)


def naive_information(first: list[int], second: list[int]) -> float:
    n = len(first)
    a, b, both = Counter(first), Counter(second), Counter(zip(first, second, strict=True))
    shared = sum(c / n * math.log(c * n / (a[x] * b[y])) for (x, y), c in both.items())
    entropy = [-sum(c / n * math.log(c / n) for c in counts.values()) for counts in (a, b)]
    return shared / (sum(entropy) / 2)


def test_mutual_information_from_counts() -> None:
    first = torch.randint(4, (50,), generator=generator())
    second = (first + (torch.rand(50, generator=generator(1)) < 0.4)) % 4 + 7
    expected = naive_information(first.tolist(), second.tolist())
    assert mutual_information(first, second) == pytest.approx(expected) and 0.1 < expected < 0.9
    assert mutual_information(first, 9 - first) == pytest.approx(1.0), "names do not matter"
    assert mutual_information(torch.zeros(3).long(), torch.zeros(3).long()) == 1.0
    assert mutual_information(torch.zeros(4).long(), torch.arange(4)) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="3 and 2 labels"):
        mutual_information(torch.zeros(3).long(), torch.zeros(2).long())


@pytest.mark.oracle
def test_the_numbers_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    cluster = pytest.importorskip("sklearn.cluster")
    points, labels = blobs([9, 14, 6, 11], 2.5, seed=3)
    assert float(silhouettes(points, labels).mean()) == pytest.approx(
        metrics.silhouette_score(points.numpy(), labels.numpy(), metric="cosine"), rel=1e-5
    )
    found = k_means(points, 4, generator())
    theirs = cluster.KMeans(4, n_init=4, random_state=0).fit(points.numpy())
    assert found.inertia == pytest.approx(theirs.inertia_, rel=0.02), "neither is sure to find the least"
    assert mutual_information(labels, found.labels) == pytest.approx(
        metrics.normalized_mutual_info_score(labels.numpy(), found.labels.numpy()), rel=1e-6
    )


def test_co_segmentation_finds_the_common_region() -> None:
    """Three kinds of cell: ground, a thing in every picture, and a mark that stands in one."""
    layout = torch.zeros(4, 8, 8, dtype=torch.int64)
    for picture in range(4):
        layout[picture, 1:4, picture : picture + 3] = 1
    layout[0, 6:, 6:] = 2
    noise = 0.05 * torch.randn(4, 8, 8, 128, generator=generator())
    maps = (torch.eye(128)[:3][layout] + noise).movedim(-1, 1)
    labels, salient = co_segment(maps, layout > 0, generator())
    assert not salient[labels[layout == 0].unique()].any()
    for b, y, x in product(range(4), range(8), range(8)):
        assert bool(salient[labels[b, y, x]]) == (layout[b, y, x] > 0)
    three_of_four = (layout > 0) & (torch.arange(4) > 0)[:, None, None]
    assert co_segment(maps, three_of_four, generator())[1].sum() == 1, (
        "three votes of four for the thing, none for the mark"
    )
    half = three_of_four & (torch.arange(4) > 1)[:, None, None]
    assert not co_segment(maps, half, generator())[1].any()


def test_co_segmentation_stops_where_clusters_gain_little() -> None:
    labels, salient = co_segment(torch.ones(2, 3, 4, 4), torch.ones(2, 4, 4) > 0, generator())
    assert labels.eq(0).all() and salient.tolist() == [True], "one kind of cell needs one cluster"
    points = torch.randn(2, 40, 4, 4, generator=generator())
    labels, salient = co_segment(points, torch.zeros(2, 4, 4) > 0, generator())
    units = torch.nn.functional.normalize(points.movedim(1, -1).flatten(0, 2), dim=1)
    used, draw = len(salient), generator()
    inertias = [k_means(units, 1, draw, restarts=1).inertia]
    inertias += [k_means(units, k, draw).inertia for k in range(2, used + 1)]
    gains = [after <= ELBOW * before for before, after in pairwise(inertias)]
    assert all(gains[:-1]) and (used == MOST_CLUSTERS or not gains[-1])
    assert not salient.any(), "nothing is foreground"
