"""Splits: what is declared stays, groups are whole, classes keep their shares, and the order of records does not matter."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Record, Source
from partwise.data.splits import fold_indices, split_indices


class Listed(Source):
    kind = name = "listed"

    def __init__(self, records: Sequence[Record]) -> None:
        self.records = records
        self.classes = tuple("abcdefgh")

    def load_image(self, index: int) -> Tensor:
        raise AssertionError("a split reads no pixels")


def listed(count: int, *, classes: int = 2, groups: int = 0, split: str = "", first: int = 0) -> list[Record]:
    return [
        Record(id=f"{split}{i}", split=split, label=i % classes, group=f"g{i % groups}" if groups else "")
        for i in range(first, first + count)
    ]


def ids(records: Sequence[Record], parts: dict[str, Tensor]) -> dict[str, set[str]]:
    return {name: {records[i].id for i in part.tolist()} for name, part in parts.items()}


def check_partition(parts: dict[str, Tensor], count: int) -> None:
    assert set(parts) == {"train", "val", "test"}
    assert all(part.dtype == torch.int64 and (part.diff() > 0).all() for part in parts.values())
    assert sorted(torch.cat(list(parts.values())).tolist()) == list(range(count))


def test_declared_splits_stay() -> None:
    records = listed(5, split="train") + listed(3, split="val") + listed(2, split="test")
    parts = split_indices(Listed(records))
    assert {name: part.tolist() for name, part in parts.items()} == {
        "train": [0, 1, 2, 3, 4],
        "val": [5, 6, 7],
        "test": [8, 9],
    }


def test_a_missing_validation_split_is_cut_from_training() -> None:
    records = listed(200, split="train") + listed(50, split="test")
    parts = split_indices(Listed(records), validation=0.1)
    check_partition(parts, 250)
    assert parts["test"].tolist() == list(range(200, 250)) and len(parts["val"]) == 20
    assert Counter(records[i].label for i in parts["val"].tolist()) == {0: 10, 1: 10}
    assert len(split_indices(Listed(records), validation=0)["val"]) == 0


def test_a_validation_split_without_test_is_the_reported_one() -> None:
    records = listed(100, split="train") + listed(30, split="val")
    parts = split_indices(Listed(records), validation=0.2)
    assert parts["test"].tolist() == list(range(100, 130)) and len(parts["val"]) == 20
    check_partition(parts, 130)


def test_without_any_split_the_test_share_is_of_the_whole() -> None:
    parts = split_indices(Listed(listed(1000, classes=4)), validation=0.1, test=0.2)
    check_partition(parts, 1000)
    assert [len(parts[name]) for name in ("test", "val", "train")] == [200, 80, 720]


def test_records_without_a_split_beside_others_are_for_training() -> None:
    records = listed(10) + listed(5, split="test")
    parts = split_indices(Listed(records), validation=0)
    assert parts["train"].tolist() == list(range(10)) and parts["test"].tolist() == list(range(10, 15))


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(2, 120),
    classes=st.integers(1, 5),
    groups=st.integers(0, 12),
    validation=st.floats(0, 0.9),
    test=st.floats(0, 0.9),
    seed=st.integers(0, 5),
)
def test_any_cut(count: int, classes: int, groups: int, validation: float, test: float, seed: int) -> None:
    records = listed(count, classes=classes, groups=groups)
    parts = split_indices(Listed(records), validation=validation, test=test, seed=seed)
    check_partition(parts, count)
    places: dict[str, set[str]] = {}
    for name, part in parts.items():
        for i in part.tolist():
            places.setdefault(records[i].group or records[i].id, set()).add(name)
    assert all(len(where) == 1 for where in places.values())
    shuffled = random.Random(seed).sample(records, count)
    again = split_indices(Listed(shuffled), validation=validation, test=test, seed=seed)
    assert ids(shuffled, again) == ids(records, parts)
    if not groups:
        per_class = Counter(record.label for record in records)
        cut = Counter(records[i].label for i in parts["test"].tolist())
        if sum(cut.values()) > 1:
            for label, total in per_class.items():
                assert abs(cut[label] - test * total) <= 1 + 1e-9
                assert cut[label] < total
    if test > 0 and len(places) > 1:
        assert len(parts["test"]) > 0


def test_shares_hold_with_few_pictures_a_class() -> None:
    parts = split_indices(Listed(listed(40, classes=8)), validation=0.1, test=0)
    assert len(parts["val"]) == 4  # five a class: rounding each class alone would give none


def test_groups_of_uneven_sizes_come_near_the_share() -> None:
    rng = random.Random(0)
    sizes = [rng.randint(1, 30) for _ in range(60)]
    records = [
        Record(id=f"{g}-{i}", label=(g + i) % 3, group=f"person {g}")
        for g, size in enumerate(sizes)
        for i in range(size)
    ]
    for seed in range(5):
        parts = split_indices(Listed(records), validation=0, test=0.2, seed=seed)
        assert abs(len(parts["test"]) / len(records) - 0.2) < 0.03
        shares = Counter(records[i].label for i in parts["test"].tolist())
        assert max(shares.values()) - min(shares.values()) < 0.15 * len(parts["test"])


def test_the_seed_matters() -> None:
    records = listed(100)
    chosen = [tuple(split_indices(Listed(records), seed=seed)["test"].tolist()) for seed in range(4)]
    assert len(set(chosen)) == 4
    assert chosen[0] == tuple(split_indices(Listed(records), seed=0)["test"].tolist())


FROZEN = {"test": [7, 11, 14, 16, 18], "val": [4, 5, 17]}


def test_the_cut_does_not_change_between_versions() -> None:
    """A published number needs its split again: this one is frozen."""
    records = listed(20, groups=0)
    parts = split_indices(Listed(records), validation=0.2, test=0.25, seed=3)
    assert parts["test"].tolist() == FROZEN["test"] and parts["val"].tolist() == FROZEN["val"]


def test_several_labels_are_balanced_each() -> None:
    rng = random.Random(1)
    records = [
        Record(id=str(i), labels=tuple(k for k in range(6) if rng.random() < (0.5 if k < 3 else 0.08)))
        for i in range(600)
    ]
    total = Counter(label for record in records for label in record.labels or ())
    cut = Counter(
        label
        for i in split_indices(Listed(records), test=0.2, validation=0)["test"].tolist()
        for label in records[i].labels or ()
    )
    for label, count in total.items():
        assert abs(cut[label] / count - 0.2) < 0.08


@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0])
def test_impossible_shares(share: float) -> None:
    with pytest.raises(UserError, match=r"data\.validation"):
        split_indices(Listed(listed(4)), validation=share)
    with pytest.raises(UserError, match=r"data\.test"):
        split_indices(Listed(listed(4)), test=share)


@settings(max_examples=40, deadline=None)
@given(count=st.integers(10, 90), groups=st.sampled_from([0, 7, 11]), folds=st.integers(2, 5), seed=st.integers(0, 3))
def test_folds_without_a_test_split_run_over_all(count: int, groups: int, folds: int, seed: int) -> None:
    records = listed(count, groups=groups, classes=3)
    held: list[int] = []
    for fold in range(folds):
        parts = fold_indices(Listed(records), folds, fold, seed)
        check_partition(parts, count)
        held += parts["test"].tolist()
        groups_of = {name: {records[i].group or records[i].id for i in part.tolist()} for name, part in parts.items()}
        assert not groups_of["test"] & (groups_of["train"] | groups_of["val"])
        shuffled = random.Random(fold).sample(records, count)
        assert ids(shuffled, fold_indices(Listed(shuffled), folds, fold, seed)) == ids(records, parts)
    assert sorted(held) == list(range(count))


@pytest.mark.parametrize("held", ["test", "val"])
def test_folds_leave_the_reported_split_alone(held: str) -> None:
    records = listed(60, split="train") + listed(20, split=held)
    out: list[int] = []
    for fold in range(3):
        parts = fold_indices(Listed(records), 3, fold)
        assert parts["test"].tolist() == list(range(60, 80))
        assert len(parts["val"]) == 20 and len(parts["train"]) == 40
        assert Counter(records[i].label for i in parts["val"].tolist()) == {0: 10, 1: 10}
        out += parts["val"].tolist()
    assert sorted(out) == list(range(60))


def test_a_declared_validation_split_joins_the_folds_beside_a_test_split() -> None:
    records = listed(20, split="train") + listed(10, split="val") + listed(6, split="test")
    parts = [fold_indices(Listed(records), 2, fold) for fold in range(2)]
    assert sorted(torch.cat([part["val"] for part in parts]).tolist()) == list(range(30))


def test_impossible_folds() -> None:
    source = Listed(listed(4))
    for folds, fold in ((1, 0), (3, 3), (3, -1)):
        with pytest.raises(UserError, match="expected at least 2 folds"):
            fold_indices(source, folds, fold)
    with pytest.raises(UserError, match="1 pictures or groups"):
        fold_indices(Listed([replace(record, group="one") for record in listed(4)]), 2, 1)
