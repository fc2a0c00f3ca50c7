"""All cases of a prediction: a table of every chromosome, and one page of karyograms with the most doubtful cases first."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from partwise.ops.iscn import mosaic_text
from partwise.report.case import NO_DEVICE, Case, Chromosome, percent
from partwise.report.karyogram import draw_karyogram, file_stem
from partwise.report.reading import data_address
from partwise.report.rendering import Drawn, render, save
from partwise.report.values import Cell

LARGE, MOST_LARGE = 1180, 24
"""Width in pixels of the karyograms that the page holds at a readable size, and for how many cases it does."""
SMALL = 590
SHADES = 128
DRAFTS = (
    "Karyotypes here are drafts, each from the counts of one cell; structural analysis not performed. "
    "One cell never makes a diagnosis."
)


def karyogram_table(cases: Sequence[Case]) -> list[dict[str, Cell]]:
    """One CSV row a chromosome, in the order given: what the network says of it and what was made of that; flags are 0 or 1."""
    return [
        {
            "case": case.name,
            "file": chromosome.file,
            "type": chromosome.type,
            "probability": round(chromosome.probability, 6),
            "second_type": chromosome.second[0],
            "second_probability": round(chromosome.second[1], 6),
            "polarity": chromosome.polarity,
            "polarity_probability": round(chromosome.polarity_probability, 6),
            "turned": int(chromosome.turned),
            "doubtful": int(chromosome.doubtful),
            "moved": int(chromosome.moved),
        }
        for case in cases
        for chromosome in case.chromosomes
    ]


def most_doubtful_first(cases: Sequence[Case]) -> list[Case]:
    """Cases by doubtful or moved chromosomes, then warnings, then files left out, then the lowest probability, then name."""

    def doubt(case: Case) -> tuple[int, int, int, float, str]:
        marked = sum(chromosome.doubtful or chromosome.moved for chromosome in case.chromosomes)
        return -marked, -len(case.warnings), -len(case.left_out), case.lowest, case.name

    return sorted(cases, key=doubt)


def write_cases_page(cases: Sequence[Case], target: Path, *, title: str = "Karyograms", folder: str = "") -> Path:
    """Write `cases_page`, whole or not at all. Raises UserError where the place cannot be written."""
    return save(target, cases_page(cases, title=title, folder=folder))


def cases_page(cases: Sequence[Case], *, title: str = "Karyograms", folder: str = "") -> str:
    """One HTML page of all cases, the most doubtful first: karyograms inside, no script, nothing from a network.

    Cells of one specimen are counted together in a line of their own.

    `folder` is where `save_karyogram` has put their files, seen from the page; the page links to them there.
    """
    ordered = most_doubtful_first(cases)
    return render(
        "karyograms.html",
        {
            "title": title,
            "byline": [_count(len(cases), "case"), _count(sum(len(c.chromosomes) for c in cases), "chromosome")],
            "cards": _cards(cases),
            "draft": DRAFTS,
            "no_device": NO_DEVICE,
            "specimens": _specimens(cases),
            "cases": [_shown(case, number, folder) for number, case in enumerate(ordered)],
        },
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _cards(cases: Sequence[Case]) -> list[dict[str, str]]:
    """The page's numbers in large figures."""
    total = sum(len(case.chromosomes) for case in cases)
    warned = sum(bool(case.warnings) for case in cases)
    left_out = sum(len(case.left_out) for case in cases)
    rows = (
        ("Cases", len(cases), _count(total, "chromosome")),
        ("Doubtful", sum(case.num_doubtful for case in cases), "chromosomes that need a person's eye"),
        ("Moved", sum(case.num_moved for case in cases), "chromosomes that dispatch gave another type"),
        ("With warnings", warned, "cases whose counts are to be checked"),
        ("Left out", left_out, "files that could not be used"),
    )
    return [{"name": name, "value": f"{value:,}", "note": note} for name, value, note in rows]


def _specimens(cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Of every specimen with several cells: which they are, and the line of them all."""
    cells: dict[str, list[Case]] = {}
    for case in cases:
        if case.specimen and case.chromosomes:
            cells.setdefault(case.specimen, []).append(case)
    return [
        {"name": name, "cells": [case.name for case in own], "iscn": mosaic_text(case.iscn for case in own)}
        for name, own in cells.items()
        if len(own) > 1
    ]


def _shown(case: Case, number: int, folder: str) -> dict[str, Any]:
    """What the page shows of a case: its karyogram, large for the first ones, its warnings and its marked chromosomes."""
    stem = quote(file_stem(case.name))
    place = f"{quote(folder.strip('/'))}/" if folder.strip("/") else ""
    return {
        "name": case.name,
        "anchor": f"case-{number + 1}",
        "status": _status(case),
        "iscn": case.iscn,
        "facts": [_count(len(case.chromosomes), "chromosome"), f"{case.num_turned} turned"],
        "num_chromosomes": len(case.chromosomes),
        "num_doubtful": case.num_doubtful,
        "num_moved": case.num_moved,
        "lowest": percent(case.lowest) if case.chromosomes else "",
        "warnings": case.warnings,
        "left_out": case.left_out,
        "marked": [_marked(found) for found in case.chromosomes if found.doubtful or found.moved],
        "picture": _picture(case, LARGE if number < MOST_LARGE else SMALL),
        "png": f"{place}{stem}.png",
        "pdf": f"{place}{stem}.pdf",
    }


def _status(case: Case) -> dict[str, str]:
    """The pill beside a case's name."""
    if case.warnings:
        return {"word": _count(len(case.warnings), "warning"), "tone": "bad"}
    marked = sum(chromosome.doubtful or chromosome.moved for chromosome in case.chromosomes)
    if marked or case.left_out:
        return {"word": f"{marked} to look at" if marked else f"{len(case.left_out)} left out", "tone": "busy"}
    return {"word": "no warning", "tone": "good"}


def _marked(chromosome: Chromosome) -> dict[str, str]:
    """A row of the table of chromosomes to look at."""
    why = [word for word, holds in (("doubtful", chromosome.doubtful), ("moved", chromosome.moved)) if holds]
    return {
        "file": chromosome.file,
        "type": chromosome.type,
        "probability": percent(chromosome.probability),
        "second": f"{chromosome.second[0]}, {percent(chromosome.second[1])}",
        "polarity": f"{'down' if chromosome.polarity else 'up, turned'}, {percent(chromosome.polarity_probability)}",
        "why": ", ".join(why),
    }


def _picture(case: Case, width: int) -> Drawn:
    """The karyogram as an address that the page holds, in few shades so that hundreds of cases stay one file."""
    shades = draw_karyogram(case, width=width).quantize(SHADES, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    shades.save(buffer, format="PNG", optimize=True)
    return Drawn(f"Karyogram of {case.name}", data_address(buffer.getvalue(), "image/png"), shades.width, shades.height)
