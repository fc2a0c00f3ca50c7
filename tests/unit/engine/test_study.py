"""Studies: the grid as typed, cells and their folders, mean and spread; and a tiny real one that is interrupted."""

from __future__ import annotations

import json
import re
import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partwise import api
from partwise.config import UserError, override
from partwise.engine.loop import Interrupted
from partwise.engine.study import LONGEST_NAME, Cell, cells, parse_grid, plan, summarise
from partwise.methods.recipes import find_recipe
from partwise.run import RunFolder
from tests.miniatures import write_picture

# -- the grid ------------------------------------------------------------------------------------------------------------

PARSED = {
    "one": (["optim.lr=0.1"], {"optim.lr": ["0.1"]}),
    "several": (["optim.lr=0.1,1e-2 , 3", "method.p=0,1"], {"optim.lr": ["0.1", "1e-2", "3"], "method.p": ["0", "1"]}),
    "lists": (["optim.milestones=[0.5,0.75],[0.3]"], {"optim.milestones": ["[0.5,0.75]", "[0.3]"]}),
    "mappings": (["model.arguments={a: 1, b: 2},{}"], {"model.arguments": ["{a: 1, b: 2}", "{}"]}),
    "sources": (
        ["data.source=creatures:?size=32&classes=4,cifar10:DIR"],
        {"data.source": ["creatures:?size=32&classes=4", "cifar10:DIR"]},
    ),
    "trailing comma": (["train.epochs=1,2,"], {"train.epochs": ["1", "2"]}),
}

REFUSED = {
    "no value": (["train.epochs="], "--grid train.epochs=: expected FIELD=VALUE,VALUE"),
    "commas only": (["train.epochs=,,"], "--grid train.epochs=,,: expected FIELD=VALUE,VALUE"),
    "no equals": (["train.epochs"], "--grid train.epochs: expected FIELD=VALUE,VALUE"),
    "no field": (["=1,2"], "--grid =1,2: expected FIELD=VALUE,VALUE"),
    "field twice": (["train.epochs=1", "train.epochs=2"], "train.epochs is given twice"),
    "value twice": (["train.epochs=1,2,1"], "a value is given twice"),
}


@pytest.mark.parametrize("name", PARSED)
def test_a_grid_is_read_as_typed(name: str) -> None:
    typed, expected = PARSED[name]
    assert parse_grid(typed) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistyped_grid_is_refused(name: str) -> None:
    typed, message = REFUSED[name]
    with pytest.raises(UserError, match=re.escape(message)):
        parse_grid(typed)


def test_mistakes_in_any_cell_are_said_before_the_first_trains() -> None:
    recipe, _ = find_recipe("cutmix/smoke")
    for grid, message in (
        (["train.epochs=1,x"], "--grid train.epochs=x"),
        (["train.batch_size=32,33", "train.accumulate=1,2"], "train.accumulate = 2: does not divide"),
        (["train.seed=1,2"], "--seeds N"),
        (["data.fold=0,1"], "--folds N"),
        (["data.folds=2,3"], "--folds N"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            plan(recipe, grid)
    with pytest.raises(UserError, match=r"data\.folds = 1"):
        plan(recipe, [], folds=1)


# -- cells ---------------------------------------------------------------------------------------------------------------


def test_every_combination_with_every_seed_and_fold_in_order() -> None:
    made = cells({"optim.lr": ["0.1", "0.2"], "method.mix": ["none", "cutmix"]}, seeds=2, first_seed=5, folds=3)
    assert len(made) == 2 * 2 * 2 * 3 == len({cell.name for cell in made})
    assert made[0] == Cell(
        "lr-0.1_mix-none_seed-5_fold-0",
        "lr-0.1_mix-none",
        ("optim.lr=0.1", "method.mix=none", "train.seed=5", "data.folds=3", "data.fold=0"),
    )
    assert made[-1].name == "lr-0.2_mix-cutmix_seed-6_fold-2"
    naive = [
        f"lr-{lr}_mix-{mix}_seed-{seed}_fold-{fold}"
        for lr in ("0.1", "0.2")
        for mix in ("none", "cutmix")
        for seed in (5, 6)
        for fold in range(3)
    ]
    assert [cell.name for cell in made] == naive


def test_seeds_alone_are_cells_of_the_recipe_itself() -> None:
    made = cells({}, seeds=3, first_seed=0, folds=0)
    assert [(cell.name, cell.arm, cell.settings) for cell in made] == [
        (f"recipe_seed-{seed}", "recipe", (f"train.seed={seed}",)) for seed in range(3)
    ]


VALUES = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters=",[]{}"), min_size=1, max_size=300
).filter(lambda text: text.strip() == text)


@given(st.lists(VALUES, min_size=1, max_size=6, unique=True))
def test_names_are_safe_for_file_systems(values: list[str]) -> None:
    made = cells({"data.source": values, "x.y": ["1", "2"]}, seeds=1, first_seed=0, folds=0)
    names = [cell.name for cell in made]
    for name in names:
        assert re.fullmatch(r"[A-Za-z0-9._+-]+", name) and not name.startswith((".", "-")), name
        assert len(name) < LONGEST_NAME + 40
    assert len({name.lower() for name in names}) == len(names), "two cells in one folder"
    again = cells({"data.source": values, "x.y": ["1", "2"]}, seeds=1, first_seed=0, folds=0)
    assert again == made, "a study that goes on finds its folders"


def test_values_that_differ_only_in_marks_keep_folders_of_their_own() -> None:
    made = cells({"data.source": ["csv:a/b.csv", "csv:a?b.csv", "csv:A/B.csv"]}, seeds=2, first_seed=0, folds=0)
    assert len({cell.name.lower() for cell in made}) == 6 and len({cell.arm for cell in made}) == 3
    assert made[0].name == "source-csv-a-b.csv_seed-0"


# -- mean and spread -----------------------------------------------------------------------------------------------------


def test_mean_and_spread_against_their_definitions() -> None:
    axes = {"method.p": ["0", "1"]}
    made = cells(axes, seeds=3, first_seed=0, folds=0)
    values = {"p-0": [0.5, 0.25, 0.375], "p-1": [0.9, 0.8, None]}
    summaries = {
        cell.name: {"metrics": {"classification/top1": values[cell.arm][number % 3], "a/b": 1.0}}
        for number, cell in enumerate(made)
    }
    summaries["p-1_seed-2"]["metrics"]["only/here"] = 7.0
    summary = summarise("cutmix/smoke", axes, made, summaries)
    assert summary["recipe"] == "cutmix/smoke" and summary["grid"] == {"method.p": ["0", "1"]}
    first, second = summary["cells"]
    assert first["name"] == "p-0" and first["settings"] == ["method.p=0"]
    assert first["runs"] == ["p-0_seed-0", "p-0_seed-1", "p-0_seed-2"]
    assert first["metrics"]["classification/top1"] == {
        "mean": pytest.approx(0.375),
        "std": pytest.approx(statistics.stdev([0.5, 0.25, 0.375])),
        "values": [0.5, 0.25, 0.375],
    }
    assert first["metrics"]["a/b"]["std"] == 0.0
    assert second["metrics"]["classification/top1"] == {
        "mean": pytest.approx(0.85),
        "std": pytest.approx(0.0707106781),
        "values": [0.9, 0.8],
    }, "what could not be measured is left out"
    assert second["metrics"]["only/here"] == {"mean": 7.0, "std": 0.0, "values": [7.0]}


def test_an_unfinished_study_sums_up_what_is_there() -> None:
    made = cells({"method.p": ["0", "1"]}, seeds=2, first_seed=0, folds=0)
    known = {made[0].name: {"metrics": {"a/b": 0.5}}, made[1].name: {}}
    summary = summarise("r", {"method.p": ["0", "1"]}, made, known)
    assert [cell["runs"] for cell in summary["cells"]] == [["p-0_seed-0", "p-0_seed-1"], []]
    assert summary["cells"][0]["metrics"]["a/b"]["values"] == [0.5]
    assert summary["cells"][1]["metrics"] == {}


# -- a real one ----------------------------------------------------------------------------------------------------------

SETTINGS = (
    "data.source=creatures:?size=32&classes=4&train=32&val=16&test=16",
    "model.arguments.depth=8",
    "model.backbone=cifar-resnet",
    "train.epochs=1",
    "train.batch_size=16",
    "train.threads=1",
    "evaluate.suites=[classification]",
)
GRID = ("method.mix=none,cutmix",)


@pytest.fixture
def no_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The page of a single run is tested elsewhere and takes longer than the run."""
    monkeypatch.setattr(api, "write_page", lambda runs: (runs[0] / "report.html").write_text("a page"))


@pytest.mark.slow
@pytest.mark.usefixtures("no_pages")
def test_a_study_goes_on_where_it_was_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "study"
    real, begun = api._run, []

    def interrupted_in_the_third(recipe, folder, **options):  # type: ignore[no-untyped-def]
        begun.append(folder.path.name)
        if len(begun) == 3:
            raise Interrupted
        return real(recipe, folder, **options)

    with monkeypatch.context() as patch:
        patch.setattr(api, "_run", interrupted_in_the_third)
        with pytest.raises(Interrupted):
            api.train("cutmix/smoke", out=out, settings=SETTINGS, grid=GRID, seeds=2, quiet=True)
    partial = json.loads((out / "summary.json").read_text())
    assert [len(cell["runs"]) for cell in partial["cells"]] == [2, 0]
    kept = (out / begun[0] / "model.safetensors").stat().st_mtime_ns

    assert api.train("cutmix/smoke", out=out, settings=SETTINGS, grid=GRID, seeds=2, quiet=True) == out
    assert (out / begun[0] / "model.safetensors").stat().st_mtime_ns == kept, "a finished cell is left alone"
    names = [f"mix-{mix}_seed-{seed}" for mix in ("none", "cutmix") for seed in (0, 1)]
    assert sorted(path.name for path in out.iterdir() if path.is_dir()) == sorted(names)
    summary = json.loads((out / "summary.json").read_text())
    for arm in summary["cells"]:
        single = [RunFolder(out / name).read_summary()["metrics"] for name in arm["runs"]]
        assert len(single) == 2
        for metric, spread in arm["metrics"].items():
            values = [metrics[metric] for metrics in single]
            assert spread == {"mean": statistics.fmean(values), "std": statistics.stdev(values), "values": values}
    page = (out / "report.html").read_text(encoding="utf-8")
    assert all(name in page for name in names) and "classification/top1" in page

    # A cell is the run that its own settings make.
    recipe = override(find_recipe("cutmix/smoke")[0], [*SETTINGS, "method.mix=cutmix", "train.seed=1"])
    alone = api.train(recipe, out=tmp_path / "alone", quiet=True)
    assert (alone / "model.safetensors").read_bytes() == (out / names[3] / "model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.usefixtures("no_pages")
@pytest.mark.parametrize("own_test", [True, False])
def test_folds_leave_different_pictures_out(own_test: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The fold left out is tested on, or with a test split of the source's own it chooses."""
    seen = []
    measure = api.measure

    def watched(method, pictures, recipe, split, *arguments, **options):  # type: ignore[no-untyped-def]
        if split == "test":
            seen.append({name: set(indices.tolist()) for name, indices in pictures.splits.items()})
        return measure(method, pictures, recipe, split, *arguments, **options)

    monkeypatch.setattr(api, "measure", watched)
    source = SETTINGS[0]
    if not own_test:
        for number in range(40):
            write_picture(tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png", number, height=32)
        source = f"data.source=imagefolder:{tmp_path / 'pets'}"
    out = tmp_path / "study"
    api.train("cutmix/smoke", out=out, settings=(*SETTINGS[1:], source), folds=2, quiet=True)
    assert {path.parent.name for path in out.glob("*/model.safetensors")} == {
        "recipe_seed-0_fold-0",
        "recipe_seed-0_fold-1",
    }
    first, second = seen
    left_out = "val" if own_test else "test"
    assert not first[left_out] & second[left_out]
    assert (first["test"] == second["test"]) is own_test
    for splits in seen:
        assert splits["train"] and splits["test"] and not splits["train"] & splits["test"]
