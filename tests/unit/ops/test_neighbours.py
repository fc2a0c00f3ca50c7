"""Votes and retrieval against loops over queries and banks."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from partwise.ops import neighbours
from partwise.ops.neighbours import find_neighbours, recall_at, vote


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ranked(query: Tensor, bank: Tensor, allowed: list[int]) -> list[tuple[float, int]]:
    """(cosine, place), most alike first, of equal ones the earlier."""
    each = [(float(torch.cosine_similarity(query.double(), bank[j].double(), dim=0)), j) for j in allowed]
    return sorted(each, key=lambda pair: (-round(pair[0], 9), pair[1]))


def test_neighbours_and_votes_one_query_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbours, "CHUNK", 4)
    queries, bank = torch.randn(9, 5, generator=generator()), torch.randn(30, 5, generator=generator(1))
    labels = torch.randint(3, (30,), generator=generator(2))
    groups = torch.randint(6, (9,), generator=generator(3)), torch.randint(6, (30,), generator=generator(4))
    found = find_neighbours(queries, bank, k=7, groups=groups)
    shares = vote(found, labels, 3, temperature=0.1)
    for row in range(9):
        own = ranked(queries[row], bank, [j for j in range(30) if groups[1][j] != groups[0][row]])[:7]
        assert found.places[row].tolist() == [j for _, j in own]
        weights = [math.exp(c / 0.1) for c, _ in own]
        for label in range(3):
            share = sum(w for w, (_, j) in zip(weights, own, strict=True) if labels[j] == label) / sum(weights)
            assert float(shares[row, label]) == pytest.approx(share, rel=1e-4, abs=1e-7)


def test_several_labels_are_voted_for_one_by_one() -> None:
    queries, bank = torch.randn(4, 5, generator=generator()), torch.randn(12, 5, generator=generator(1))
    labels = torch.randint(3, (12,), generator=generator(2))
    found = find_neighbours(queries, bank, k=5)
    hot = torch.nn.functional.one_hot(labels, 3).float()
    assert torch.allclose(vote(found, labels, 3), vote(found, hot, 3))
    both = vote(found, hot + hot.roll(1, 1), 3)
    assert torch.allclose(both.sum(1), torch.full((4,), 2.0).double())


def test_equal_neighbours_are_taken_in_order() -> None:
    bank = torch.ones(40, 3)
    found = find_neighbours(torch.ones(2, 3), bank, k=20)
    assert found.places.tolist() == [list(range(20))] * 2
    bank[5] = torch.tensor([1.0, 2, 3])
    assert find_neighbours(torch.ones(1, 3), bank, k=6).places.tolist() == [[0, 1, 2, 3, 4, 6]]


def test_small_banks_and_missing_neighbours() -> None:
    with pytest.raises(ValueError, match="empty"):
        find_neighbours(torch.rand(1, 2), torch.rand(0, 2))
    own = torch.zeros(3).long()
    found = find_neighbours(torch.rand(3, 2), torch.rand(3, 2), groups=(own, own))
    assert found.cosines.shape == (3, 3) and (found.cosines == -math.inf).all()
    assert vote(found, own, 2).eq(0).all(), "nobody votes"
    assert find_neighbours(torch.rand(0, 2), torch.rand(3, 2)).places.shape == (0, 3)


def test_a_sharp_temperature_follows_the_nearest() -> None:
    queries = torch.eye(3)
    bank = torch.cat([torch.eye(3), torch.eye(3) + 0.4, torch.eye(3) + 0.4])
    labels = torch.tensor([0, 1, 2, 1, 2, 0, 1, 2, 0])
    found = find_neighbours(queries, bank, k=9)
    assert vote(found, labels, 3, temperature=0.01).argmax(1).tolist() == [0, 1, 2]
    assert vote(found, labels, 3, temperature=0.01).max() > 0.99 > vote(found, labels, 3, temperature=1).max()


def test_recall_one_query_at_a_time() -> None:
    points = torch.randn(24, 4, generator=generator())
    labels = torch.tensor([*range(5)] * 4 + [5, 6, 6, 6])
    groups = torch.tensor([g for g in range(4) for _ in range(5)] + [0, 1, 1, 2])
    recalls = recall_at(points, labels, groups, ks=(1, 3, 8))
    for row in range(24):
        others = [j for j in range(24) if groups[j] != groups[row]]
        order = [j for _, j in ranked(points[row], points, others)]
        if not any(labels[j] == labels[row] for j in others):
            assert recalls[row].isnan().all() and labels[row] == 5
            continue
        for place, k in enumerate((1, 3, 8)):
            assert recalls[row, place] == float(any(labels[j] == labels[row] for j in order[:k]))
    assert recalls[~recalls.isnan()].unique().tolist() == [0, 1]


def test_recall_where_everybody_is_one_patient() -> None:
    assert recall_at(torch.rand(3, 2), torch.zeros(3).long(), torch.zeros(3).long(), ks=(1,)).isnan().all()
