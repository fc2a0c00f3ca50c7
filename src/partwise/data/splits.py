"""Which pictures are for training, for choosing and for the reported number.

A function of (seed, ids, groups, labels) alone: neither the order of the records nor anything drawn elsewhere matters. A
group (a person, a specimen, a slide) is never cut, and classes keep their shares as far as whole groups allow.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Record, Source

Key = int | None


@dataclass(frozen=True, slots=True)
class _Unit:
    """What is moved as a whole: a group, or one picture. `order` is its place in the shuffle of one seed and purpose."""

    order: bytes
    members: tuple[int, ...]
    labels: tuple[tuple[Key, int], ...]
    """Each class with its pictures."""


def split_indices(source: Source, *, validation: float = 0.1, test: float = 0.2, seed: int = 0) -> dict[str, Tensor]:
    """Positions of "train", "val" and "test", int64, ascending.

    Splits that the source declares stay as they are. A validation part that is missing is cut from the training part
    (`validation`: share of it). Without a test split the declared validation split is the reported one and is returned as
    "test"; with no split at all the `test` share of the whole is cut first. Records without a split beside others that have
    one are for training. Raises UserError for shares outside [0, 1).
    """
    for name, share in (("validation", validation), ("test", test)):
        if not 0 <= share < 1:
            raise UserError(f"data.{name}: {share}; expected a share from 0 to below 1")
    train, val, held = _declared(source.records)
    if not val and not held:
        held, train = _cut(source.records, train, test, f"{seed}/test")
    if not held:
        val, held = [], val
    if not val:
        val, train = _cut(source.records, train, validation, f"{seed}/validation")
    return _tensors(train, val, held)


def fold_indices(source: Source, folds: int, fold: int, seed: int = 0, *, validation: float = 0.1) -> dict[str, Tensor]:
    """Positions of "train", "val" and "test" of one of `folds` cross-validation folds, 0 <= fold < folds.

    Where the source has a test split (or one that `split_indices` would report), it stays the reported one in every fold;
    the folds run over the rest, and the fold left out is "val". Where it has none, the folds run over all, the fold left out
    is "test", and a validation part is cut from the others. Groups are never cut. Raises UserError for impossible folds.
    """
    if folds < 2 or not 0 <= fold < folds:
        raise UserError(f"fold {fold} of {folds}; expected at least 2 folds and 0 <= fold < folds")
    train, val, held = _declared(source.records)
    if not held:
        val, held = [], val
    pool = sorted(train + val)
    parts = _folds(source.records, pool, folds, seed)
    if not all(parts):  # said in the first fold already, not after hours in the last
        units = len(_units(source.records, pool, ""))
        raise UserError(
            f"data.folds = {folds}: {source.name} has {units} pictures or groups outside its test split; "
            f"expected at least {folds}, for groups are never cut"
        )
    rest = [i for part in (*parts[:fold], *parts[fold + 1 :]) for i in part]
    if held:
        return _tensors(rest, parts[fold], held)
    val, train = _cut(source.records, rest, validation, f"{seed}/validation/{fold}")
    return _tensors(train, val, parts[fold])


def _declared(records: Sequence[Record]) -> tuple[list[int], list[int], list[int]]:
    parts: dict[str, list[int]] = {"": [], "train": [], "val": [], "test": []}
    for index, record in enumerate(records):
        parts[record.split].append(index)
    return parts[""] + parts["train"], parts["val"], parts["test"]


def _tensors(train: Iterable[int], val: Iterable[int], test: Iterable[int]) -> dict[str, Tensor]:
    parts = {"train": train, "val": val, "test": test}
    return {name: torch.tensor(sorted(part), dtype=torch.int64) for name, part in parts.items()}


def _units(records: Sequence[Record], indices: Iterable[int], purpose: str) -> list[_Unit]:
    """The groups and single pictures of `indices`, in the order of a hash of their names."""
    members: dict[tuple[str, str], list[int]] = {}
    for index in indices:
        record = records[index]
        members.setdefault(("group", record.group) if record.group else ("id", record.id), []).append(index)
    units = []
    for (kind, name), part in members.items():
        order = hashlib.blake2b(f"{purpose}/{kind}/{name}".encode(), digest_size=12).digest()
        units.append(_Unit(order, tuple(part), _count(records, part)))
    return sorted(units, key=lambda unit: unit.order)


def _count(records: Sequence[Record], part: list[int]) -> tuple[tuple[Key, int], ...]:
    if len(part) == 1:
        return tuple((key, 1) for key in _keys(records[part[0]]))
    return tuple(Counter(key for i in part for key in _keys(records[i])).items())


def _keys(record: Record) -> tuple[Key, ...]:
    return record.labels or (None,) if record.labels is not None else (record.label,)


def _cut(records: Sequence[Record], indices: list[int], share: float, purpose: str) -> tuple[list[int], list[int]]:
    """(cut, rest): about `share` of each class, in whole units, with something of every class left in the rest.

    In hashed order a unit is taken if that brings the cut closer to its targets. At least one unit is taken if the share is
    above zero and there are two.
    """
    units = _units(records, indices, purpose)
    left: Counter[Key] = Counter()
    for unit in units:
        for key, count in unit.labels:
            left[key] += count
    targets = _targets(left, share, purpose)
    cut: list[_Unit] = []
    missing = dict(targets)
    for unit in units:
        spares = all(left[key] > count for key, count in unit.labels)
        if spares and _gain(unit, missing) > 0:
            cut.append(unit)
            for key, count in unit.labels:
                left[key] -= count
                missing[key] -= count
    if not cut and share > 0 and len(units) > 1:
        cut = [max(units, key=lambda unit: (_gain(unit, missing), unit.order))]
    chosen = {index for unit in cut for index in unit.members}
    return sorted(chosen), [index for index in indices if index not in chosen]


def _gain(unit: _Unit, missing: Mapping[Key, int]) -> int:
    """By how much taking a unit brings the counts closer to what is missing, in pictures."""
    return sum(abs(missing[key]) - abs(missing[key] - count) for key, count in unit.labels)


def _targets(counts: Mapping[Key, int], share: float, purpose: str) -> dict[Key, int]:
    """Whole numbers near `share` of each count that sum to the rounded share of all: largest remainders, ties by hash."""

    def tie(key: Key) -> bytes:
        return hashlib.blake2b(f"{purpose}/class/{key}".encode(), digest_size=12).digest()

    targets = {key: int(share * count) for key, count in counts.items()}
    lacking = round(share * sum(counts.values())) - sum(targets.values())
    by_remainder = sorted(counts, key=lambda key: (targets[key] - share * counts[key], tie(key)))
    for key in by_remainder[: max(lacking, 0)]:
        targets[key] += 1
    return targets


def _folds(records: Sequence[Record], indices: list[int], folds: int, seed: int) -> list[list[int]]:
    """`folds` parts of nearly equal classes and sizes: largest units first, each to the part that has least of its classes."""
    units = sorted(_units(records, indices, f"{seed}/folds"), key=lambda unit: (-len(unit.members), unit.order))
    parts: list[list[int]] = [[] for _ in range(folds)]
    labels: list[Counter[Key]] = [Counter() for _ in range(folds)]
    for unit in units:
        load = [sum(have[key] * count for key, count in unit.labels) for have in labels]
        chosen = min(range(folds), key=lambda part: (load[part], len(parts[part]), part))
        parts[chosen] += unit.members
        for key, count in unit.labels:
            labels[chosen][key] += count
    return parts
