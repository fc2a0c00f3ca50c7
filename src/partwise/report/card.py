"""A model card in Markdown: what a run's model is for, what it was trained on, what it reached, beside what the paper says."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from partwise.report import wording
from partwise.report.page import basis, paper_of
from partwise.report.reading import RunFacts, comparable, read_run, stage_rows, status_of

INTENDED_USE = (
    "Pictures like those it was trained on, with the same classes. Its heatmaps and boxes show where the evidence for a "
    "class lies; they are no proof of why the model decided so. Other cameras, other populations and other classes need "
    "their own test first."
)
CLINICAL_WARNING = "Not a medical device. Not tested for diagnosis or treatment; do not use it for either."


def model_card(run: Path, *, intended_use: str = INTENDED_USE, clinical: bool = False) -> str:
    """The card of a run, finished or not; `clinical` adds the warning that medical pictures call for.

    Raises UserError where there is no run.
    """
    facts = read_run(run)
    paper = paper_of(facts)
    parts = [
        f"# {_line(facts.name)}",
        *([f"> **{CLINICAL_WARNING}**"] if clinical else []),
        *([f"> {_line(status_of(facts).sentence)}"] if status_of(facts).sentence else []),
        _origin(facts, paper),
        f"## Intended use\n\n{intended_use}",
        f"## Data\n\n{_data(facts)}",
        f"## Results\n\n{_results(facts)}",
        f"## Training\n\n{_training(facts)}",
        "## To repeat it\n\n```\npartwise train recipe.yaml\n```\n\nwith the `recipe.yaml` of the run's folder.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _origin(run: RunFacts, paper: Mapping[str, str]) -> str:
    """Method and paper in a sentence or two."""
    sentence = f"Trained by Partwise with the method `{_line(str(run.summary.get('method') or 'unknown'))}`."
    if not paper["title"]:
        return sentence
    link = "".join("%20" if sign.isspace() else {"(": "%28", ")": "%29"}.get(sign, sign) for sign in paper["link"])
    title = f"[{_line(paper['title'])}]({link})" if link else _line(paper["title"])
    return f"{sentence} Paper: {title}" + (f", {_line(paper['year'])}." if paper["year"] else ".")


def _data(run: RunFacts) -> str:
    lines = [f"Source: {_line(run.data) or 'not recorded'}."]
    faults = run.summary.get("faults")
    if isinstance(faults, Mapping) and faults:
        lines.append(f"Set aside as faulty: {_line(wording.text(dict(faults)))}.")
    return " ".join(lines)


def _results(run: RunFacts) -> str:
    """Every metric with what it rests on, and the paper's number where one is about this recipe."""
    if not run.metrics:
        return "No metric has been measured yet."
    claims = {str(claim["metric"]): claim for claim in run.claims if comparable(claim, run)}
    rows = [
        [name, wording.number(value), basis(run, name), _claimed(claims.get(name)), wording.meaning(name)]
        for name, value in run.metrics.items()
    ]
    table = _table(["metric", "value", "measured on", "paper", "meaning"], rows)
    note = "A paper's number is a sign and an order unless data and network are the same."
    return f"{table}\n\n{note}" if claims else table


def _claimed(claim: Mapping[str, Any] | None) -> str:
    if claim is None:
        return ""
    where = ", ".join(wording.text(claim[key]) for key in ("data", "table") if claim.get(key))
    return wording.number(claim.get("value")) + (f" ({where})" if where else "")


def _training(run: RunFacts) -> str:
    """Stages, seed, and what differs from the named recipe."""
    parts = []
    stages = stage_rows(run.summary)
    if stages:
        parts.append(_table(["stage", "steps", "time", "pictures a second"], stages))
    parts.append(f"Seed {_line(wording.text(run.seed))}.")
    if run.changes:
        changed = [[field, old, new] for field, (old, new) in run.changes.items()]
        parts.append("Differs from the recipe in:\n\n" + _table(["field", "recipe", "here"], changed))
    return "\n\n".join(parts)


def _table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(_line(cell) for cell in line) + " |" for line in lines)


def _line(value: str) -> str:
    """Text from a file on one line, with nothing that Markdown or HTML would take for markup."""
    flat = " ".join(str(value).split())
    for sign in "\\`*_[]|":
        flat = flat.replace(sign, f"\\{sign}")
    return flat.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
