"""Studies: a recipe over a grid of settings, seeds and folds; one run folder a cell, mean and spread over all."""

from __future__ import annotations

import hashlib
import itertools
import re
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from partwise.config import Recipe, UserError, check_together, override, split_setting

LONGEST_NAME = 120
"""Characters of an arm's name; with seed, fold and a temporary file's ending it stays below the 255 of most file systems."""


@dataclass(frozen=True)
class Cell:
    """One run of a study: `arm` names its grid settings, `settings` are those and its seed and fold, as `a.b=c`."""

    name: str
    arm: str
    settings: tuple[str, ...]


def parse_grid(grid: Sequence[str]) -> dict[str, list[str]]:
    """`["a.b=1,2", "c=x,y"]` -> field -> values as text. Commas inside brackets do not separate."""
    axes: dict[str, list[str]] = {}
    for text in grid:
        try:
            name, values = split_setting(text)
        except UserError:
            raise UserError(f"--grid {text}: expected FIELD=VALUE,VALUE,...") from None
        if name in axes:
            raise UserError(f"--grid {text}: {name} is given twice")
        axes[name] = [value.strip() for value in re.split(r",(?![^\[{]*[\]}])", values) if value.strip()]
        if not axes[name]:
            raise UserError(f"--grid {text}: expected FIELD=VALUE,VALUE,...")
        if len(set(axes[name])) < len(axes[name]):
            raise UserError(f"--grid {text}: a value is given twice")
    return axes


def arm_name(settings: Sequence[str], taken: Collection[str]) -> str:
    """`["a.b=c"]` as the name of a folder on any file system, unlike those `taken` (on some, capitals are no difference).

    What had to be cut, or would meet another name, ends with a hash of the settings.
    """
    pairs = [setting.partition("=")[::2] for setting in settings]
    words = "_".join(f"{name.split('.')[-1]}-{value}" for name, value in pairs) or "recipe"
    safe = re.sub(r"[^A-Za-z0-9._+-]+", "-", words)
    if len(safe) > LONGEST_NAME or safe.lower() in {name.lower() for name in taken}:
        safe = f"{safe[:LONGEST_NAME]}-{hashlib.blake2b(' '.join(settings).encode(), digest_size=4).hexdigest()}"
    return safe


def cells(axes: Mapping[str, Sequence[str]], *, seeds: int, first_seed: int, folds: int) -> list[Cell]:
    """Every combination of the axes with every seed and fold, in order."""
    made: list[Cell] = []
    for values in itertools.product(*axes.values()):
        arm_settings = tuple(f"{name}={value}" for name, value in zip(axes, values, strict=True))
        arm = arm_name(arm_settings, {cell.arm for cell in made})
        for seed, fold in itertools.product(range(seeds), range(max(folds, 1))):
            settings, name = list(arm_settings), arm
            settings.append(f"train.seed={first_seed + seed}")
            name += f"_seed-{first_seed + seed}"
            if folds:
                settings += [f"data.folds={folds}", f"data.fold={fold}"]
                name += f"_fold-{fold}"
            made.append(Cell(name, arm, tuple(settings)))
    return made


def plan(
    recipe: Recipe, grid: Sequence[str], *, seeds: int = 1, folds: int = 0
) -> tuple[dict[str, list[str]], list[Cell]]:
    """The axes and cells of a study. Raises UserError for a typing mistake in any cell, before the first one trains."""
    axes = parse_grid(grid)
    for name, option in (("train.seed", "--seeds"), ("data.folds", "--folds"), ("data.fold", "--folds")):
        if name in axes:
            raise UserError(f"--grid {name}: has an option of its own, {option} N")
    made = cells(axes, seeds=seeds, first_seed=recipe.train.seed, folds=folds)
    for cell in made:
        try:
            check_together(override(recipe, cell.settings))
        except UserError as error:
            raise UserError(re.sub("^--set", "--grid", str(error))) from None
    return axes, made


def summarise(
    recipe: str, axes: Mapping[str, Sequence[str]], made: Sequence[Cell], summaries: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Mean, standard deviation and raw values of every metric, an entry an arm, from the cells finished so far."""
    arms = []
    for arm in dict.fromkeys(cell.arm for cell in made):
        own = [cell for cell in made if cell.arm == arm and cell.name in summaries]
        names = dict.fromkeys(name for cell in own for name in summaries[cell.name].get("metrics", {}))
        metrics = {}
        for name in names:
            values = [summaries[cell.name].get("metrics", {}).get(name) for cell in own]
            known = [value for value in values if value is not None]
            if known:
                spread = statistics.stdev(known) if len(known) > 1 else 0.0
                metrics[name] = {"mean": statistics.fmean(known), "std": spread, "values": known}
        settings = [s for s in next(c for c in made if c.arm == arm).settings if s.split("=")[0] in axes]
        arms.append({"name": arm, "settings": settings, "runs": [cell.name for cell in own], "metrics": metrics})
    return {"recipe": recipe, "grid": {name: list(values) for name, values in axes.items()}, "cells": arms}
