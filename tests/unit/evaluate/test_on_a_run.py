"""Suites that no recipe holds, asked of a finished run: by function and by command, foreign sources, typing mistakes."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.miniatures import write_picture

from partwise import api, cli
from partwise.config import UserError
from partwise.run import RunFolder

SETTINGS = (
    "data.source=creatures:?size=32&classes=4&train=32&val=8&test=8",
    "train.epochs=1",
    "train.batch_size=16",
    "train.threads=1",
    "evaluate.every=0",
    "evaluate.suites=[]",
    "model.backbone=cifar-resnet",
    "model.arguments.depth=8",
)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cutmix") / "run"
    return api.train("cutmix/smoke", out=out, settings=SETTINGS, quiet=True)


@pytest.fixture(scope="module")
def textures(tmp_path_factory: pytest.TempPathFactory) -> str:
    root = tmp_path_factory.mktemp("foreign") / "textures"
    for name in ("brick", "wood"):
        for i in range(4):
            write_picture(root / name / f"{i}.png", 7 * i + len(name), height=40)
    return f"imagefolder:{root}"


@pytest.mark.slow
def test_foreign_sources_join_the_noise(run: Path, textures: str) -> None:
    found = api.evaluate(run, suites=["ood"], foreign=[textures], quiet=True)
    assert {"ood/msp/auroc", "ood/energy@textures/tnr95", "ood/odin@sources/auroc", "ood/msp@uniform/fpr95"} <= set(
        found
    )
    summary = RunFolder(run).read_summary()
    facts = summary["detail"]["ood/msp@textures/auroc"]
    assert (facts["n"], facts["n_foreign"], facts["split"]) == (8, 8, "test")
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Pictures of no class" in page and "ood/energy@textures/tnr95" in page


@pytest.mark.slow
def test_robustness_of_a_run(run: Path) -> None:
    found = api.evaluate(run, suites=["robustness"], quiet=True)
    assert found["robustness/pgd_top1"] <= 1 and "robustness/between_cutmix_neither" in found
    page = (run / "report.html").read_text(encoding="utf-8")
    assert all(title in page for title in ("Covered pictures", "Corrupted pictures", "Between two classes"))


def test_mistakes_are_answered_before_anything_is_measured(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli._status(["evaluate", str(run), "--suite", "ood", "--foreign", "imagefoldr:x"], False) == 2
    assert "imagefolder" in capsys.readouterr().err
    with pytest.raises(UserError, match="every picture is of a class"):
        api.evaluate(run, suites=["ood"], foreign=[SETTINGS[0].partition("=")[2]], quiet=True)
    with pytest.raises(UserError, match="imagefoldr"):
        api.train("cutmix/smoke", out=run.parent / "other", settings=["evaluate.foreign=[imagefoldr:x]"], quiet=True)
    assert not RunFolder(run.parent / "other").exists()
