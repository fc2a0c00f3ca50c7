"""One self-contained HTML page from run folders: all pictures inlined, no script, nothing from a network.

Reads only what is on disk. One run gets its own page; several are compared by `study_page`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partwise.config import UserError
from partwise.report import study_page, trajectory, wording
from partwise.report.charts import curves
from partwise.report.reading import RunFacts, comparable, flatten, read_run, stage_rows, status_of
from partwise.report.rendering import Drawn, drawn, render, save

MOST_HEADLINES = 5


@dataclass(frozen=True)
class Headline:
    """A metric in large figures, with the paper's number under it where it has one."""

    metric: str
    value: str
    meaning: str
    basis: str
    paper: str


@dataclass(frozen=True)
class ClaimRow:
    """A number of the paper beside the measured one."""

    metric: str
    setting: str
    note: str
    paper: str
    ours: str
    difference: str
    tone: str


def write_page(runs: Sequence[Path], out: Path | None = None) -> Path:
    """Write the page of one run, or of several side by side, and return where it is.

    `out` defaults to RUN/report.html for one run and to report.html in the folder that holds all of several. A study's
    folder (its summary.json lists cells) stands for its runs. Raises UserError for a folder that holds no run.
    """
    paths = [Path(run) for run in runs]
    if not paths:
        raise UserError("report: expected at least one run folder")
    if len(paths) == 1 and (study := study_page.read_study(paths[0])) is not None:
        return study_page.write_study_page(study, study_page.runs_of(paths[0]), out or paths[0] / "report.html")
    if len(paths) > 1:
        common = Path(os.path.commonpath([path.absolute().parent for path in paths]))
        return study_page.write_comparison([read_run(path) for path in paths], out or common / "report.html")
    target = out or paths[0] / "report.html"
    return save(target, render("run.html", run_context(read_run(paths[0]))))


def run_context(run: RunFacts) -> dict[str, Any]:
    """Everything `run.html` shows."""
    faults = run.summary.get("faults")
    return {
        "run": run,
        "status": status_of(run),
        "byline": byline(run),
        "headlines": headlines(run),
        "claims": [claim_row(claim, run) for claim in run.claims],
        "paper": paper_of(run),
        "curves": draw_curves(run),
        "metrics": metric_rows(run),
        "stages": stage_rows(run.summary),
        "faults": flatten(faults) if isinstance(faults, Mapping) else None,
    }


def byline(run: RunFacts) -> list[str]:
    """Method, data, seed, steps and time, as far as they are known."""
    stages = [stage for stage in run.summary.get("stages") or [] if isinstance(stage, Mapping)]
    steps = sum(int(wording.as_float(stage.get("steps")) or 0) for stage in stages)
    seconds = sum(wording.as_float(stage.get("seconds")) or 0.0 for stage in stages)
    parts = [str(run.summary.get("method") or ""), run.data]
    parts += [f"seed {run.seed}"] if run.seed is not None else []
    parts += [f"{steps:,} steps"] if steps else []
    parts += [wording.duration(seconds)] if seconds else []
    return [part for part in parts if part]


def headlines(run: RunFacts) -> list[Headline]:
    """Up to five metrics in large figures: those the paper claims, then those readers look for, then the first ones."""
    claimed = [str(claim["metric"]) for claim in run.claims if comparable(claim, run)]
    order = list(dict.fromkeys([*claimed, *wording.HEADLINES, *run.metrics]))
    chosen = [name for name in order if wording.as_float(run.metrics.get(name)) is not None][:MOST_HEADLINES]
    return [
        Headline(
            name, wording.number(run.metrics[name]), wording.meaning(name), basis(run, name), _paper_note(run, name)
        )
        for name in chosen
    ]


def _paper_note(run: RunFacts, metric: str) -> str:
    """The paper's number for a headline: value and place, or nothing."""
    for claim in run.claims:
        if claim["metric"] == metric and comparable(claim, run):
            where = ", ".join(wording.text(claim[key]) for key in ("data", "table") if claim.get(key))
            return f"paper {wording.number(claim.get('value'))}" + (f" ({where})" if where else "")
    return ""


def basis(run: RunFacts, metric: str) -> str:
    """What a number rests on: split, count and weights, from the summary's detail."""
    everything = run.summary.get("detail")
    detail = everything.get(metric) if isinstance(everything, Mapping) else None
    if not isinstance(detail, Mapping):
        return ""
    parts = [str(detail["split"])] if detail.get("split") else []
    parts += [f"n = {wording.number(detail['n'])}"] if detail.get("n") is not None else []
    parts += [f"{detail['weights']} weights"] if detail.get("weights") else []
    return " · ".join(parts)


def metric_rows(run: RunFacts) -> list[list[str]]:
    """Every metric: name, value, split, n, weights, meaning."""
    everything = run.summary.get("detail")
    details = everything if isinstance(everything, Mapping) else {}
    rows = []
    for name, value in run.metrics.items():
        found = details.get(name)
        detail = found if isinstance(found, Mapping) else {}
        count = detail.get("n")
        rows.append(
            [
                str(name),
                wording.number(value),
                wording.text(detail.get("split")),
                wording.number(count),
                wording.text(detail.get("weights")),
                wording.meaning(str(name)),
            ]
        )
    return rows


def claim_row(claim: Mapping[str, Any], run: RunFacts) -> ClaimRow:
    """The paper's number beside ours; the tone says on which side of it we are, not that anything is proved."""
    metric = str(claim["metric"])
    paper, ours = wording.as_float(claim.get("value")), wording.as_float(run.metrics.get(metric))
    difference, tone = wording.NOTHING, ""
    if paper is not None and ours is not None and comparable(claim, run):
        higher = claim.get("higher_is_better")
        upwards = higher if isinstance(higher, bool) else not wording.lower_is_better(metric)
        difference = wording.signed(ours - paper)
        tone = "good" if (ours >= paper if upwards else ours <= paper) else ""
    setting = [wording.text(claim[key]) for key in ("data", "table") if claim.get(key)]
    setting += [] if comparable(claim, run) else [f"recipe {claim['recipe']}"]
    return ClaimRow(
        metric=metric,
        setting=", ".join(setting),
        note=wording.text(claim["note"]) if claim.get("note") else "",
        paper=wording.number(claim.get("value")),
        ours=wording.number(ours) if ours is not None else "not measured",
        difference=difference,
        tone=tone,
    )


def paper_of(run: RunFacts) -> dict[str, str]:
    """Title, year and link of the paper where its claims carry them; only web addresses become links."""
    found = {
        key: wording.text(claim[key]) for claim in run.claims for key in ("title", "year", "link") if claim.get(key)
    }
    link = found.get("link", "")
    return {
        "title": found.get("title", ""),
        "year": found.get("year", ""),
        "link": link if link.startswith(("https://", "http://")) else "",
    }


def draw_curves(run: RunFacts) -> list[Drawn]:
    """The charts of metrics.jsonl."""
    found = []
    for chart in trajectory.charts(run.lines):
        lines = {name: trajectory.thin(*line) for name, line in chart.lines.items()}
        shown = curves(lines, x="step", y=chart.y, title=chart.title, marks=chart.marks)
        found.append(drawn(chart.title, shown))
    return found
