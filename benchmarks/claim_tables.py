"""What a claim study found, as Markdown: every arm's mean and deviation, the endpoints with their intervals, trivial rivals.

Used by tables.py, which writes it between the marks of a page of docs/claims.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

COLUMNS = ("cam_miou", "cam_precision", "cam_recall", "recall_telling", "recall_others")
"""The numbers of maps that a table shows, without their suite."""

CELLS = ("type_top1", "type_f1", "polarity_top1", "case_accuracy", "dispatched_case_accuracy", "optimal_case_accuracy")
"""The numbers of chromosomes that a table shows, without their suite."""
ENCODERS = (
    *("fewshot_dice_clavicles_3", "fewshot_dice_clavicles_12", "fewshot_dice_heart_3"),
    *("compose_margin", "decompose_top1", "effective_rank"),
)
"""The numbers of encoders that a table shows, without their suite."""
TABLE_III: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "both": ("Varifocal-Net", ("0.989", "0.987", "0.992", "0.989", "0.992", "")),
    "whole": ("G-Net", ("0.978", "0.975", "0.990", "0.978", "0.982", "")),
    "local": ("L-Net", ("0.984", "0.982", "0.992", "0.984", "0.989", "")),
    "rival": ("ResNet-101", ("0.969", "0.966", "0.989", "0.969", "0.975", "")),
}
"""Arm -> what stands nearest to it in table III of the paper, all cases, with its values in the order of CELLS."""


def maps_block(values: Mapping[str, Any] | None) -> str:
    """The tables of a study of class maps."""
    if values is None:
        return "Nothing has been measured yet."
    return "\n\n".join([arms_table(values), endpoints_table(values)])


def cells_block(values: Mapping[str, Any] | None) -> str:
    """The tables of a study of chromosomes: every arm with the paper's row under it, and the endpoints once there are any.

    None: nothing has been measured, and the paper's rows stand alone.
    """
    if values is None:
        return "\n\n".join([cells_table({}), "No arm has been measured yet."])
    return "\n\n".join([cells_table(values["arms"]), endpoints_table(values)])


def cells_table(arms: Mapping[str, Mapping[str, Any]]) -> str:
    """A row for each arm, mean and standard deviation of every number over its seeds; the paper's row follows its arm."""
    rows = [f"| arm | seeds | {' | '.join(CELLS)} |", f"| --- | --- | {' | '.join('---' for _ in CELLS)} |"]
    for arm in dict.fromkeys([*arms, *TABLE_III]):
        if found := arms.get(arm):
            cells = [spread(over_seeds(found.get(f"karyotype/{name}", []))) for name in CELLS]
            rows.append(f"| {arm} | {len(found['seeds'])} | {' | '.join(cells)} |")
        if arm in TABLE_III:
            name, numbers = TABLE_III[arm]
            rows.append(f"| *paper: {name}* | | {' | '.join(numbers)} |")
    return "\n".join(rows)


def encoders_block(values: Mapping[str, Any] | None) -> str:
    """The tables of a study of encoders: every arm, what needs no encoder, and the endpoints; None: not measured yet."""
    if values is None:
        return "No arm has been measured yet."
    rows = [f"| arm | seeds | {' | '.join(ENCODERS)} |", f"| --- | --- | {' | '.join('---' for _ in ENCODERS)} |"]
    for arm, found in values["arms"].items():
        cells = [spread(over_seeds(found.get(f"embedding/{name}", []))) for name in ENCODERS]
        rows.append(f"| {arm} | {len(found['seeds'])} | {' | '.join(cells)} |")
    for way in ("mean_mask", "atlas"):
        numbers = [values["beside"].get(f"embedding/{name}", {}).get(way) for name in ENCODERS]
        rows.append(f"| {way.replace('_', ' ')} | | {' | '.join('' if n is None else f'{n:.3f}' for n in numbers)} |")
    endpoints = {group: values[group] for group in ("primary", "secondary")}  # "beside" are no differences here
    return "\n\n".join(["\n".join(rows), endpoints_table(endpoints)])


def over_seeds(values: Sequence[float]) -> dict[str, float | None] | None:
    """Mean and deviation (n - 1) of one number, None where no seed has it."""
    if not values:
        return None
    return {"mean": statistics.fmean(values), "std": statistics.stdev(values) if len(values) > 1 else None}


def arms_table(values: Mapping[str, Any]) -> str:
    """A row for each arm: seeds, and mean and standard deviation of every number; trivial rivals last."""
    rows = [f"| arm | seeds | {' | '.join(COLUMNS)} |", f"| --- | --- | {' | '.join('---' for _ in COLUMNS)} |"]
    for arm, found in values["arms"].items():
        cells = [spread(found.get(f"segmentation/{name}")) for name in COLUMNS]
        rows.append(f"| {arm} | {len(found['seeds'])} | {' | '.join(cells)} |")
    for rival, metrics in values["trivial"].items():
        numbers = [metrics.get(f"segmentation/{name}") for name in COLUMNS]
        rows.append(f"| {rival.replace('_', ' ')} | | {' | '.join('' if n is None else f'{n:.3f}' for n in numbers)} |")
    return "\n".join(rows)


def spread(number: Mapping[str, Any] | None) -> str:
    """Mean and deviation, or nothing."""
    if number is None:
        return ""
    return f"{number['mean']:.3f}" + ("" if number["std"] is None else f" ± {number['std']:.3f}")


def endpoints_table(values: Mapping[str, Any]) -> str:
    """A row for each difference: its interval, what it is called, and the corrected p where one belongs to it."""
    rows = [
        "| | difference | mean | 95 % interval | pairs | p, Holm | |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for group in ("primary", "secondary", "beside"):
        for name, found in values.get(group, {}).items():
            corrected = f"{found['p_holm']:.3f}" if "p_holm" in found else ""
            rows.append(
                f"| {group} | {name} | {found['mean']:+.4f} | {found['low']:+.4f} to {found['high']:+.4f} | {found['n']} | "
                f"{corrected} | {found.get('verdict', '')} |"
            )
    return "\n".join(rows)
