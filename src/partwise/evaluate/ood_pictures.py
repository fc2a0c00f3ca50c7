"""What the report shows of the suite ood: every score on every foreign set, with the statistics that know nothing."""

from __future__ import annotations

from collections.abc import Mapping

from partwise.ops.separation import Separation
from partwise.report import figures
from partwise.report.values import Cell, Picture


def draw_sets(each: Mapping[str, Mapping[str, Separation]], trivial: Mapping[str, Mapping[str, float]]) -> Picture:
    """Bars of AUROC and of TNR at 95 % TPR, a dot a set; the table has every number of every set."""
    groups = {
        "AUROC": {
            **{score: [numbers.auroc for numbers in by_set.values()] for score, by_set in each.items()},
            **{f"{name} alone": list(by_set.values()) for name, by_set in trivial.items()},
        },
        "TNR at TPR 95 %": {score: [numbers.tnr95 for numbers in by_set.values()] for score, by_set in each.items()},
    }
    rows: list[dict[str, Cell]] = []
    for score, by_set in each.items():
        for name, numbers in by_set.items():
            rows.append({"score": score, "set": name, **{k: round(v, 6) for k, v in numbers._asdict().items()}})
    for statistic, areas in trivial.items():
        for name, area in areas.items():
            empty: dict[str, Cell] = dict.fromkeys(Separation._fields, "")
            rows.append({"score": f"{statistic} alone", "set": name} | empty | {"auroc": round(area, 6)})
    return Picture(
        "ood",
        "Pictures of no class",
        "How well each score tells test pictures from foreign ones: a dot a set, the bar their mean. What a statistic "
        "without any network tells apart says little about a classifier.",
        figures.bars(groups),
        rows,
    )
