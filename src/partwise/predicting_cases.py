"""Predictions for cells of chromosomes: every crop named and turned, the cell dispatched, a karyogram of each case.

What `OUT` then holds: `karyograms/` (PNG and PDF a case), `karyograms.html` (all cases, the most doubtful first),
`chromosomes.csv` (a row each) and `cases.csv` (counts, warnings and draft karyotype by either dispatch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from partwise.data.augment import fit, place
from partwise.data.readers.chromosomes import Chromosomes
from partwise.data.readers.crops import WHITE
from partwise.data.sample import FaultySample
from partwise.engine.tracking import Progress
from partwise.methods.base import CaseNamer
from partwise.methods.trained import TrainedRun
from partwise.report.case import Case, Read
from partwise.report.karyogram import save_karyogram
from partwise.report.karyogram_page import karyogram_table, write_cases_page
from partwise.report.predictions import write_rows
from partwise.report.values import Cell, ChromosomePrediction

DARK, LEAST_DARK = 0.8, 12
"""Pixels darker than this share of white belong to a chromosome, which has more than so many of them."""
WHITE_BORDER = 0.4
"""The share of a crop's outermost pixels that must be ground."""
SEVERAL = 10
"""Cases from which a folder's own scale is trusted more than the training set's."""
FARTHEST = 1.5
"""By how much a folder's own scale must differ from the training set's to be another microscope's."""


def predict_cases(
    trained: TrainedRun, paths: Sequence[Path], out: Path, progress: Progress
) -> tuple[int, dict[str, str]]:
    """Name the chromosomes of every case below the paths; returns how many, and the files left out with reasons."""
    method = trained.method
    assert isinstance(method, CaseNamer)
    folder = out / "karyograms"
    folder.mkdir(parents=True, exist_ok=True)
    cases: list[Case] = []
    rows: list[dict[str, Cell]] = []
    faults: dict[str, str] = {}
    for path in paths:
        source = open_cases(path, trained.method.facts.frame, progress)
        faults |= source.left_out
        members = by_case(source)
        for number, (name, indices) in enumerate(members.items(), start=1):
            reads, left_out = read_case(trained, source, indices)
            faults |= left_out
            case, row = method.name_case(name, reads, left_out)
            specimen = source.records[indices[0]].group
            case = replace(case, specimen="" if specimen == name else specimen)  # a cell by itself is its own group
            save_karyogram(case, folder)
            cases.append(case)
            rows.append(row)
            progress.update("predict", number, len(members))
    write_rows(out / "chromosomes.csv", karyogram_table(cases))
    write_rows(out / "cases.csv", rows)
    write_cases_page(cases, out / "karyograms.html", folder="karyograms")
    for file, reason in faults.items():
        progress.say(f"left out {file}: {reason}")
    return sum(len(case.chromosomes) for case in cases), faults


def open_cases(path: Path, frame: int, progress: Progress) -> Chromosomes:
    """The crops below a path, on frames of the scale that the network knows.

    That is the training set's own side `frame`. Another laboratory's pixels have another size: where a folder has many cases,
    or its chromosomes are far larger or smaller, its own side counts. Raises UserError for anything but crops.
    """
    source = Chromosomes(path)
    ratio = source.pad / frame if frame else FARTHEST
    if len(by_case(source)) >= SEVERAL or max(ratio, 1 / ratio) >= FARTHEST:
        progress.say(f"{path}: chromosomes on frames of {source.pad} pixels, by their own size")
        return source
    return Chromosomes(path, pad=frame)


def by_case(source: Chromosomes) -> dict[str, list[int]]:
    """Case -> places of its chromosomes in the source."""
    found: dict[str, list[int]] = {}
    for index, record in enumerate(source.records):
        found.setdefault(record.case or source.name, []).append(index)
    return found


def read_case(trained: TrainedRun, source: Chromosomes, indices: Sequence[int]) -> tuple[list[Read], dict[str, str]]:
    """What the network says of the chromosomes of a cell, and the files of it that show none, with the reasons."""
    crops: list[tuple[str, Tensor]] = []
    frames: list[Tensor] = []
    left_out: dict[str, str] = {}
    size = trained.recipe.data.size
    for index in indices:
        file = source.records[index].file
        try:
            crop, frame = source.crop(index)[0], source.load_image(index)
        except FaultySample as fault:
            left_out[fault.file] = fault.reason
            continue
        if reason := no_chromosome(crop):
            left_out[file] = reason
            continue
        crops.append((file, crop))
        frames.append(place(frame, fit(*frame.shape[1:], size=size, resize=size, keep_aspect=False), size))
    if not frames:
        return [], left_out
    device = next(trained.method.networks()["network"].parameters()).device
    found = trained.predict(torch.stack(frames).to(device).float() / 255)
    reads = []
    for (file, crop), one in zip(crops, found, strict=True):
        assert isinstance(one, ChromosomePrediction)
        reads.append(Read(file, crop.numpy(), one))
    return reads, left_out


def no_chromosome(crop: Tensor) -> str:
    """Why a crop uint8 `(h, w)` shows no chromosome on a white ground; empty where it may show one."""
    if int((crop < DARK * WHITE).sum()) < LEAST_DARK:
        return "shows no chromosome: hardly a dark pixel"
    border = torch.cat([crop[0], crop[-1], crop[:, 0], crop[:, -1]])
    if (
        float((crop >= DARK * WHITE).float().mean()) < 0.05
        and float((border >= DARK * WHITE).float().mean()) < WHITE_BORDER
    ):
        return "shows no chromosome: no white ground"
    return ""
