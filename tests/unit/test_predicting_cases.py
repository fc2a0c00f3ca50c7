"""Cells in, karyograms out: what is written, what is left out with a reason, and what is said of a cell."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import partwise
from partwise.engine.tracking import Progress
from partwise.methods.varifocal.naming import chromosome, name_case
from partwise.ops.assignment import optimal_dispatch
from partwise.ops.iscn import TYPES
from partwise.predicting_cases import no_chromosome, open_cases
from partwise.report.case import Read
from partwise.report.values import ChromosomePrediction


def bar(height: int, width: int = 12) -> np.ndarray:
    """A dark bar on white with a pale border, as crops are."""
    crop = np.full((height + 4, width + 4), 255, np.uint8)
    crop[2:-2, 2:-2] = 90
    crop[5:8, 2:-2] = 30
    return crop


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("varifocal") / "run"
    settings = ["train.threads=1", "evaluate.every=0", "evaluate.suites=[]", "data.train_limit=46"]
    return partwise.train("varifocal/smoke", out=out, settings=settings, quiet=True)


def write_case(folder: Path, heights: list[int]) -> None:
    folder.mkdir(parents=True)
    for number, height in enumerate(heights):
        Image.fromarray(bar(height)).save(folder / f"{number:02}.png")


def test_every_case_gets_a_karyogram_and_what_is_no_chromosome_is_named(run: Path, tmp_path: Path) -> None:
    write_case(tmp_path / "lab" / "cell 1", [100, 98, 80, 60, 30])
    write_case(tmp_path / "lab" / "cell2", [102, 97, 50])
    Image.fromarray(np.full((40, 30), 255, np.uint8)).save(tmp_path / "lab" / "cell2" / "blank.png")
    Image.fromarray(np.full((40, 30), 60, np.uint8)).save(tmp_path / "lab" / "cell2" / "dark.png")
    (tmp_path / "lab" / "cell2" / "empty.png").touch()
    made = partwise.predict(run, [tmp_path / "lab"], out=tmp_path / "out", quiet=True)
    assert made.count == 8
    assert {Path(name).name for name in made.faults} == {"blank.png", "dark.png", "empty.png"}
    assert "no white ground" in next(reason for name, reason in made.faults.items() if "dark" in name)
    names = {path.suffix for path in (made.out / "karyograms").iterdir()}
    assert names == {".png", ".pdf"} and len(list((made.out / "karyograms").iterdir())) == 4
    with (made.out / "chromosomes.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 8 and {row["case"] for row in rows} == {"cell 1", "cell2"}
    assert all(row["type"] in TYPES and row["polarity"] in "01" for row in rows)
    with (made.out / "cases.csv").open(newline="", encoding="utf-8") as file:
        cells = {row["case"]: row for row in csv.DictReader(file)}
    assert cells["cell2"]["left_out"] == "3" and cells["cell 1"]["chromosomes"] == "5"
    assert cells["cell 1"]["draft_karyotype"].startswith("5,") and cells["cell 1"]["warnings"]
    page = (made.out / "karyograms.html").read_text(encoding="utf-8")
    assert "not a medical device" in page and "blank.png" in page and "<script" not in page


def test_cells_of_a_specimen_that_the_table_names_are_counted_together(run: Path, tmp_path: Path) -> None:
    rows = ["file,type,polarity,case,specimen"]
    for name, specimen in (("one", "s"), ("two", "s"), ("other", "t")):
        write_case(tmp_path / "lab" / name, [100, 80])
        rows += [f"{name}/{number:02}.png,,,{name},{specimen}" for number in range(2)]
    (tmp_path / "lab" / "labels.csv").write_text("\n".join(rows) + "\n")
    made = partwise.predict(run, [tmp_path / "lab"], out=tmp_path / "out", quiet=True)
    page = (made.out / "karyograms.html").read_text(encoding="utf-8")
    assert made.count == 6 and "<td>one, two</td>" in page and page.count('<th scope="row">s</th>') == 1
    assert '<th scope="row">t</th>' not in page


def test_the_scale_is_the_training_set_s_unless_the_pixels_are_of_another_size(tmp_path: Path) -> None:
    write_case(tmp_path / "cell", [120, 118, 40])
    own = round(122 / 0.5625)
    quiet = Progress(quiet=True)
    assert open_cases(tmp_path / "cell", 200, quiet).pad == 200
    assert open_cases(tmp_path / "cell", 90, quiet).pad == pytest.approx(own, abs=2)
    assert open_cases(tmp_path / "cell", 0, quiet).pad == pytest.approx(own, abs=2)
    for number in range(12):
        write_case(tmp_path / "many" / f"{number}", [120, 118, 40])
    assert open_cases(tmp_path / "many", 200, quiet).pad == pytest.approx(own, abs=2)


def test_no_chromosome() -> None:
    assert no_chromosome(torch.from_numpy(bar(30))) == ""
    assert "hardly a dark pixel" in no_chromosome(torch.full((30, 20), 255, dtype=torch.uint8))
    assert "no white ground" in no_chromosome(torch.full((30, 20), 40, dtype=torch.uint8))


def read(file: str, chances: dict[str, float], *, down: float = 0.99) -> Read:
    """A chromosome with these probabilities, the rest shared out evenly."""
    types = np.full(24, (1 - sum(chances.values())) / (24 - len(chances)), np.float32)
    for name, chance in chances.items():
        types[TYPES.index(name)] = chance
    found = ChromosomePrediction(types, np.array([1 - down, down], np.float32), None)
    return Read(file, bar(20), found)


def test_a_case_is_what_the_optimal_dispatch_makes_of_it() -> None:
    reads = [read(f"{k}{copy}", {TYPES[k]: 0.97}) for k in range(23) for copy in "ab" if (k, copy) != (21, "b")]
    reads.append(read("lost", {"21": 0.6, "22": 0.38}, down=0.2))
    chances = torch.stack([torch.from_numpy(one.found.types) for one in reads])
    case, row = name_case("cell", reads, {"x.png": "torn"}, price=12.0)
    assert [TYPES[k] for k in optimal_dispatch(chances, price=12.0).tolist()] == [one.type for one in case.chromosomes]
    lost = case.chromosomes[-1]
    assert (lost.type, lost.moved, lost.doubtful, lost.turned) == ("22", True, True, True)
    assert lost.second == ("21", pytest.approx(0.6)) and lost.probability == pytest.approx(0.38)
    assert (case.iscn, case.warnings, case.left_out) == ("46,XX", (), (("x.png", "torn"),))
    assert (row["draft_karyotype"], row["moved"], row["left_out"]) == ("46,XX", 1, 1)
    assert row["greedy_karyotype"] == "46,XX" and row["greedy_warnings"] == ""
    case, row = name_case("cell", [*reads, read("extra", {"21": 0.999})], {}, price=12.0)
    assert case.iscn == "47,XX,+21" and case.warnings == ("3 of 21, where a healthy cell has 2",)


def test_a_sure_chromosome_is_not_marked() -> None:
    sure = chromosome(read("a", {"5": 0.98}), 4)
    assert not sure.doubtful and not sure.moved and not sure.turned and sure.second[0] != "5"
    assert chromosome(read("a", {"5": 0.98}, down=0.85), 4).doubtful  # polarity is not sure
