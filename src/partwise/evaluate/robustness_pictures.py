"""What the report shows of the suite robustness: curves over holes, corruptions and shares of two classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from partwise.evaluate.base import Evaluation
from partwise.ops.corruption_tables import SEVERITIES
from partwise.report import figures
from partwise.report.values import Cell, Picture


def draw_curves(found: Evaluation, levels: Mapping[str, Sequence[float]], plain: float) -> list[Picture]:
    """Top-1 over the side of the hole, and over the severity of each kind of corruption."""
    pictures = [_occlusion(found)]
    return pictures + ([_corruptions(levels, plain)] if levels else [])


def _occlusion(found: Evaluation) -> Picture:
    curves = {kind: found.detail[f"robustness/occlusion_{kind}_top1"] for kind in ("centre", "boundary")}
    series = {f"{kind} covered": (facts["sides"], facts["curve"]) for kind, facts in curves.items()}
    rows: list[dict[str, Cell]] = [
        {"side": side, **{kind: round(facts["curve"][place], 6) for kind, facts in curves.items()}}
        for place, side in enumerate(curves["centre"]["sides"])
    ]
    return Picture(
        "occlusion",
        "Covered pictures",
        "Top-1 with a square about the middle covered by the mean colour, or all but that square.",
        figures.curves(series, x="side of the square, share of the picture", y="top-1", title="Covered pictures"),
        rows,
    )


def _corruptions(levels: Mapping[str, Sequence[float]], plain: float) -> Picture:
    """Seven lines at most: the mean, and the three corruptions that hurt most and least."""
    order = sorted(levels, key=lambda name: sum(levels[name]))
    mean = [sum(level[place] for level in levels.values()) / len(levels) for place in range(len(SEVERITIES))]
    chosen = list(dict.fromkeys([*order[:3], *order[-3:]]))
    series = {"mean": ([0, *SEVERITIES], [plain, *mean])}
    series |= {name.replace("_", " "): ([0, *SEVERITIES], [plain, *levels[name]]) for name in chosen}
    rows: list[dict[str, Cell]] = [
        {"corruption": name, **{f"severity {s}": round(v, 6) for s, v in zip(SEVERITIES, level, strict=True)}}
        for name, level in levels.items()
    ]
    return Picture(
        "corruptions",
        "Corrupted pictures",
        f"Top-1 over the severity, mean of {len(levels)} corruptions, and those that hurt most and least.",
        figures.curves(series, x="severity", y="top-1", title="Corrupted pictures"),
        rows,
    )


def draw_between(curves: Mapping[str, Mapping[str, Any]]) -> Picture:
    """Share of pairs that are named neither class, over the share of the first picture."""
    count = len(next(iter(curves.values()))["neither"])
    shares = [place / (count - 1) for place in range(count)]
    series = {f"{kind}, neither class": (shares, facts["neither"]) for kind, facts in curves.items()}
    rows: list[dict[str, Cell]] = [
        {
            "share": shares[place],
            **{f"{kind}_neither": round(facts["neither"][place], 6) for kind, facts in curves.items()},
            **{f"{kind}_larger_top1": round(facts["larger"][place], 6) for kind, facts in curves.items()},
        }
        for place in range(count)
    ]
    return Picture(
        "between",
        "Between two classes",
        "How often a mixture of two pictures is named neither of their classes: blended, and with a hole in the middle.",
        figures.curves(series, x="share of the first picture", y="share of pairs", title="Between two classes"),
        rows,
    )
