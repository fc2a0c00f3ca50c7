"""What a claim study found, as Markdown: every arm's mean and deviation, the endpoints with their intervals, trivial rivals.

Used by tables.py, which writes it between the marks of a page of docs/claims.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = ("cam_miou", "cam_precision", "cam_recall", "recall_telling", "recall_others")
"""The numbers of maps that a table shows, without their suite."""


def maps_block(values: Mapping[str, Any]) -> str:
    """The tables of a study of class maps."""
    return "\n\n".join([arms_table(values), endpoints_table(values)])


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
        for name, found in values[group].items():
            corrected = f"{found['p_holm']:.3f}" if "p_holm" in found else ""
            rows.append(
                f"| {group} | {name} | {found['mean']:+.4f} | {found['low']:+.4f} to {found['high']:+.4f} | {found['n']} | "
                f"{corrected} | {found.get('verdict', '')} |"
            )
    return "\n".join(rows)
