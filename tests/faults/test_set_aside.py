"""Broken pictures that do not end the work: set aside, named and counted, whatever is broken and whenever it shows."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from partwise import cli
from partwise.run import RunFolder
from tests.faults.places import Place, bomb, contents, hollow, train
from tests.miniatures import cifar10_pack, write_picture


def broken_pictures(place: Place) -> dict[str, bytes]:
    """Name -> bytes of a picture that cannot be used; by their headers all but the last, which only decoding shows."""
    whole = write_picture(place.root / "whole.jpg", 1, height=64, width=64).read_bytes()
    return {
        "empty.jpg": b"",
        "cut.jpg": whole[: len(whole) // 2],
        "text.jpg": b"dear diary\n",
        "bomb.png": bomb(),
        "hollow.png": hollow(),
    }


def spoiled_table(place: Place) -> tuple[str, set[str]]:
    """A table of sound pictures and, in every split, one of each kind of broken ones; and the names of these."""
    rows, names = [], set()
    for split in ("train", "val", "test"):
        for name, content in broken_pictures(place).items():
            file = f"files/{split}-{name}"
            place.write(file, content)
            rows.append(f"{file},cat,{split},1 1 9 9,")
            names.add(file)
    write_picture(place.root / "files/more.png", 3)
    Image.fromarray(np.zeros((24, 32, 3), np.uint8)).save(place.root / "files/mask.png")
    rows += [
        "files/gone.png,dog,train,,",
        "files/nolabel.png,,train,,",
        "files/more.png,dog,test,1 1 9 9,files/mask.png",
    ]
    write_picture(place.root / "files/nolabel.png", 4)
    rows.append("files/rare.png,rare,train,,")  # the only one of its class: no fault
    write_picture(place.root / "files/rare.png", 5)
    return place.table(*rows), names | {"files/gone.png", "files/nolabel.png", "files/mask.png"}


@pytest.mark.slow
@pytest.mark.parametrize("storage", ["streamed", "resident"])
def test_training_sets_aside_and_counts(storage: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    source, names = spoiled_table(place)
    words = train("--set", "data.on_fault=skip", "--set", f"data.storage={storage}", source=source, out="run")
    before = contents(place.root)
    assert cli._status(words, False) == 0, capsys.readouterr().err
    summary = RunFolder(place.root / "run").read_summary()
    assert set(summary["faults"]) == names
    assert all(len(reason) > 5 for reason in summary["faults"].values())
    # 2 sound pictures of the table are for testing; files/more.png is left out where its mask is wanted
    assert summary["detail"]["classification/top1"]["n"] in (2, 3)
    assert summary["detail"]["localization/gt_known"]["n"] == 2
    assert {name: value for name, value in contents(place.root).items() if name in before} == before

    page = (place.root / "run" / "report.html").read_text()
    assert all(name in page for name in names)


@pytest.mark.slow
def test_a_pixel_fault_in_training_is_named_when_it_shows(place: Place, refused: Callable[[list[str]], str]) -> None:
    """Streamed and with on_fault=stop: the run is under way by then, keeps its folder and continues once the file is sound."""
    place.write("files/deep.png", hollow())
    words = train("--set", "data.storage=streamed", source=place.table("files/deep.png,cat,train,,"), out="run")
    assert "files/deep.png: " in refused(words)
    assert RunFolder(place.root / "run").status() == "running"


@pytest.mark.slow
def test_a_broken_row_of_an_array_is_set_aside(place: Place) -> None:
    """CIFAR as JPEGs end to end: the pictures have no files of their own."""
    small = cifar10_pack(place.root / "pack")
    arrays: dict[str, Any] = dict(np.load(small.torn))
    start, end = arrays["train_offsets"][3:5]
    spoilt = arrays["train_bytes"].copy()
    spoilt[start:end] = 7
    np.savez(small.torn, **(arrays | {"train_bytes": spoilt}))
    words = train("--set", "evaluate.suites=classification", source=small.source, out="run")
    assert cli._status(words, False) == 2
    assert cli._status([*words, "--set", "data.on_fault=skip"], False) == 0
    assert len(RunFolder(place.root / "run").read_summary()["faults"]) == 1


def read_rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_prediction_sets_aside_and_counts(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    run = place.run()
    for name, content in broken_pictures(place).items():
        place.write(f"mine/{name}", content)
    (place.root / "whole.jpg").rename(place.root / "mine" / "whole.jpg")
    write_picture(place.root / "mine/deeper/größer.png", 2, height=90, width=40)
    before = contents(run)
    assert cli._status(["predict", "run", "mine"], False) == 0
    shown = capsys.readouterr()
    assert "2 pictures, 5 set aside" in shown.out
    assert all(f"set aside {name}: " in shown.err for name in broken_pictures(place))
    assert [row["file"] for row in read_rows(place.root / "predictions")] == ["deeper/größer.png", "whole.jpg"]
    assert len(list((place.root / "predictions/pictures").iterdir())) == 2
    assert contents(run) == before


def test_prediction_of_broken_pictures_alone(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    place.run()
    place.write("mine/a.png", bomb())
    assert cli._status(["predict", "run", "mine", "--out", "found"], False) == 0
    assert "0 pictures, 1 set aside" in capsys.readouterr().out
    assert read_rows(place.root / "found") == []


def test_two_pictures_of_one_name_are_both_kept(place: Place) -> None:
    place.run()
    for seed, name in enumerate(("a/x.png", "b/x.png", "a_x.png", "a/x.jpg")):
        write_picture(place.root / "mine" / name, seed)
    for number, paths in enumerate(
        (["mine/a/x.png", "mine/b/x.png", "mine/a_x.png"], ["mine"], ["mine/a", "mine/b", "mine"])
    ):
        out = place.root / f"found{number}"
        assert cli._status(["predict", "run", *paths, "--out", str(out), "--quiet"], False) == 0
        names = [row["file"] for row in read_rows(out)]
        assert len(names) == len(set(names)) == len(list((out / "pictures").iterdir())) == (4 if number else 3)


def test_data_finds_what_training_would_stumble_over(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    source, names = spoiled_table(place)
    assert cli._status(["data", source, "--out", "data.html"], False) == 0
    said = capsys.readouterr().out
    assert f"{len(names)} pictures cannot be used" in said
    page = (place.root / "data.html").read_text()
    assert all(name in page for name in names)


def test_a_study_keeps_what_was_finished_before_the_mistake(place: Place, refused: Callable[[list[str]], str]) -> None:
    """A mistake that no check can foresee ends a study in its second cell; the first stays, and the same command continues."""
    words = train("--grid", "method.mix=cutmix,cutout", "--set", "evaluate.suites=classification", out="study")
    (place.root / "study").mkdir()
    place.write("study/mix-cutout_seed-0", "a file where a folder must be")
    assert "mix-cutout_seed-0: cannot write there" in refused(words)
    first = contents(place.root / "study" / "mix-cutmix_seed-0")
    assert "model.safetensors" in first
    (place.root / "study/mix-cutout_seed-0").unlink()
    assert cli._status(words, False) == 0
    assert contents(place.root / "study" / "mix-cutmix_seed-0") == first
    arms = json.loads((place.root / "study/summary.json").read_text())["cells"]
    assert [arm["settings"] for arm in arms] == [["method.mix=cutmix"], ["method.mix=cutout"]]
    assert all(len(arm["metrics"]["classification/top1"]["values"]) == 1 for arm in arms)
