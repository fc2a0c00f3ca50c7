"""`--folds 5` on cells: specimens stay whole, the rest teaches, and the study has a page."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import partwise
from partwise.config import UserError
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.methods.recipes import load_recipe, resolve

TINY = (
    "train.threads=1",
    "evaluate.every=0",
    "train.epochs=0.25",
    "method.local_epochs=0.25",
    "method.ensemble_epochs=0.25",
)


@pytest.mark.slow
def test_five_folds_of_the_smoke_recipe_leave_each_specimen_out_once(tmp_path: Path) -> None:
    out = partwise.train("varifocal/smoke", out=tmp_path / "folds", settings=TINY, folds=5, quiet=True)
    runs = [f"recipe_seed-0_fold-{fold}" for fold in range(5)]
    left_out: list[str] = []
    for name in runs:
        recipe, _ = load_recipe(str(out / name / "recipe.yaml"))
        source = open_source(recipe.data.source)
        pictures = PictureData(source, recipe.data)
        groups = {
            split: {source.records[index].group for index in indices} for split, indices in pictures.splits.items()
        }
        pictures.close()
        assert not groups["train"] & groups["val"] and not groups["test"] & (groups["train"] | groups["val"])
        left_out += groups["val"]
    assert len(left_out) == len(set(left_out))
    summary = json.loads((out / "summary.json").read_text())
    (arm,) = summary["cells"]
    assert arm["runs"] == runs and len(arm["metrics"]["karyotype/type_top1"]["values"]) == 5
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Study of varifocal/smoke" in page and "karyotype/type_top1" in page
    assert all(f"{name}/report.html" in page for name in runs)


def test_too_many_folds_are_refused_by_the_first() -> None:
    recipe, _ = resolve("varifocal/smoke", settings=["data.folds=6", "data.fold=0"])
    with pytest.raises(UserError, match=r"data\.folds = 6.*5 pictures or groups"):
        PictureData(open_source(recipe.data.source), recipe.data)
