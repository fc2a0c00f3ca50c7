"""From what the network says of each chromosome to what is said of its cell: dispatch, warnings, a draft karyotype."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from partwise.ops.assignment import (
    CountWarning,
    count_warnings,
    greedy_dispatch,
    optimal_dispatch,
    type_counts,
)
from partwise.ops.iscn import TYPES, karyotype_text
from partwise.report.case import Case, Chromosome, Read
from partwise.report.values import Cell

SURE = 0.9
"""A chromosome whose type or polarity is less probable than this is marked for a person's eye."""


def name_case(
    name: str, reads: Sequence[Read], left_out: Mapping[str, str], *, price: float
) -> tuple[Case, dict[str, Cell]]:
    """A cell after the optimal dispatch, and its row of cases.csv with the outcome of either."""
    chances = (
        torch.stack([torch.from_numpy(read.found.types) for read in reads]) if reads else torch.zeros(0, len(TYPES))
    )
    optimal, greedy = optimal_dispatch(chances, price=price), greedy_dispatch(chances)
    named = [chromosome(read, kind) for read, kind in zip(reads, optimal.tolist(), strict=True)]
    warnings = tuple(in_words(warning) for warning in count_warnings(optimal, sex_pattern=True))
    iscn = karyotype_text(type_counts(optimal))
    row: dict[str, Cell] = {
        "case": name,
        "chromosomes": len(reads),
        "doubtful": sum(one.doubtful for one in named),
        "moved": sum(one.moved for one in named),
        "left_out": len(left_out),
        "draft_karyotype": iscn,
        "warnings": "; ".join(warnings),
        "greedy_karyotype": karyotype_text(type_counts(greedy)),
        "greedy_warnings": "; ".join(in_words(warning) for warning in count_warnings(greedy)),
    }
    return Case(name, tuple(named), warnings, iscn, tuple(left_out.items())), row


def chromosome(read: Read, kind: int) -> Chromosome:
    """What a karyogram shows of a chromosome that dispatch calls `kind`."""
    chances, polarities = read.found.types, read.found.polarities
    first = int(chances.argmax())
    others = [k for k in range(len(TYPES)) if k != kind]
    second = max(others, key=lambda k: float(chances[k]))
    polarity = int(polarities.argmax())
    return Chromosome(
        file=read.file,
        image=read.image,
        type=TYPES[kind],
        probability=float(chances[kind]),
        second=(TYPES[second], float(chances[second])),
        polarity=polarity,
        polarity_probability=float(polarities[polarity]),
        turned=polarity == 0,
        doubtful=float(chances[kind]) < SURE or float(polarities[polarity]) < SURE,
        moved=kind != first,
    )


def in_words(warning: CountWarning) -> str:
    """A count that calls for a person's eye."""
    names = " and ".join(TYPES[kind] for kind in warning.types)
    return f"{warning.count} of {names}, where a healthy cell has {warning.expected}"
