"""What a trained encoder answers, what is refused, and what is said of a collapse."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

import partwise as pw
from partwise import api
from partwise.config import UserError
from partwise.methods.adam_v2.method import AdamMethod
from partwise.methods.adam_v2.watching import Collapse, describe_collapse
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.methods.trained import TrainedRun
from partwise.models.encoders import load_encoder
from tests.unit.methods.adam_v2.small import WORDS, run


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> TrainedRun:
    out = tmp_path_factory.mktemp("adam") / "run"
    settings = [*WORDS, "evaluate.during=[]", "method.localize_epochs=[1.0]", "method.part_whole_epochs=[1.0]"]
    return pw.load(pw.train("adam_v2/smoke", out=out, settings=settings, quiet=True))


def test_embeddings_of_pictures_windows_and_cells(trained: TrainedRun) -> None:
    images = torch.rand(2, 1, 48, 64, generator=torch.Generator().manual_seed(0))
    whole = trained.embed(images)
    assert whole.shape == (2, 64) and whole.isfinite().all()
    windows = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.25, 0.5, 0.75, 1.0]])
    found = trained.embed(images, windows=windows)
    assert found.shape == (2, 2, 64)
    torch.testing.assert_close(found[:, 1], trained.embed(images[:, :, 24:, 16:48]), rtol=0.02, atol=0.02)
    dense = trained.embed_dense(images)
    assert dense.shape == (2, 64, 12, 16)


def test_an_encoder_is_asked_about_pictures_with_other_classes(trained: TrainedRun) -> None:
    """Trained beside five findings, asked about five organs: their names are in the numbers."""
    other = "radiographs:?size=64&train=8&val=2&test=6&classes=organs"
    found = api.evaluate(trained.folder.path, on=other, suites=["fewshot"], quiet=True)
    assert "embedding@radiographs/fewshot_dice_heart_3" in found


def test_a_run_without_embeddings_says_so(tmp_path: Path) -> None:
    made = pw.load(pw.train("cutmix/smoke", out=tmp_path / "run", settings=["train.epochs=1"], quiet=True))
    with pytest.raises(UserError, match="a run of cutmix, which gives no embeddings; adam_v2 does"):
        made.embed(torch.rand(1, 3, 32, 32))


def test_the_file_holds_an_encoder_to_take_away(trained: TrainedRun) -> None:
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    encoder = load_encoder(trained.folder.model)
    with torch.no_grad():
        torch.testing.assert_close(encoder.embed(images), trained.embed(images))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("method.localize_weight=0", "method.compose_weight=0", "method.decompose_weight=0"), "all 0"),
        (("method.local_size=32",), "expected another than method.view_size"),
    ],
)
def test_settings_that_train_nothing_are_refused(settings: tuple[str, ...], message: str) -> None:
    recipe, _ = resolve("adam_v2/smoke", settings=settings)
    with pytest.raises(UserError, match=message):
        AdamMethod(recipe, DataFacts((), channels=1))


def test_an_encoder_is_measured_as_it_is(tmp_path: Path) -> None:
    """A local file of weights, no training: the numbers are that encoder's, and heads that nobody trained are not asked."""
    network = timm.create_model("resnet18", num_classes=0)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    settings = ["model.backbone=resnet18", f"model.weights={tmp_path / 'mine.safetensors'}", "data.size=64"]
    settings += ["method.view_size=64", "method.local_size=32", "evaluate.suites=[embedding]"]
    source = "radiographs:?size=64&train=12&val=4&test=8"
    made = pw.train("adam_v2/encoder", data=source, out=tmp_path / "run", settings=settings, quiet=True)
    metrics = pw.load(made).summary["metrics"]
    assert "embedding/compose_margin" in metrics and "embedding/decompose_top1" not in metrics
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        expected = network.eval()((images - mean) / std)
    torch.testing.assert_close(pw.load(made).embed(images), expected, rtol=1e-3, atol=1e-3)
    assert pw.export(made, to="timm") == tmp_path / "run" / "timm.safetensors"
    again = timm.create_model("resnet18", num_classes=0)
    again.load_state_dict(load_file(tmp_path / "run" / "timm.safetensors"))
    with pytest.raises(UserError, match="export to 'onnx': expected one of timm"):
        pw.export(made, to="onnx")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("data.size=8", "method.part_whole_epochs=[1.0, 1.0, 0.0, 1.0]"), "pictures of 8 x 8 pixels at level 3"),
        (("method.num_parts=8",), "num_parts 8: expected a square number; the nearest is 9"),
        (("method.version=v1", "data.size=8", "method.contrast_levels=[0, 4]", "method.decomposer=grid"), None),
    ],
)
def test_levels_and_parts_are_checked_before_the_first_step(
    settings: tuple[str, ...], message: str | None, tmp_path: Path
) -> None:
    words = [*WORDS, "data.source=radiographs:?size=64&train=8&val=2&test=2", *settings]
    if message is None:
        method, _, _, data = run(tmp_path, *settings)
        method.check(data)
        data.close()
        return
    with pytest.raises(UserError, match=message):
        pw.train("adam_v2/smoke", out=tmp_path / "run", settings=words, quiet=True)
    assert not (tmp_path / "run" / "recipe.yaml").exists()


def seen(entropy: float, information: float, spread: float) -> Collapse:
    return Collapse(*(torch.tensor(value) for value in (entropy, information, 0.1, spread)))


def test_a_collapse_is_called_by_its_name() -> None:
    most = math.log(1024)
    assert describe_collapse(seen(0.5 * most, 1.0, 0.8), num_prototypes=1024) == ""
    assert "all prototypes are alike" in describe_collapse(seen(0.999 * most, 0.001, 0.8), num_prototypes=1024)
    assert "one prototype stands for all" in describe_collapse(seen(0.01, 0.001, 0.8), num_prototypes=1024)
    assert "nearly the same (spread 0.010 of 1)" in describe_collapse(seen(3.0, 1.0, 0.01), num_prototypes=1024)
    assert describe_collapse(seen(3.0, 0.001, 0.8), num_prototypes=1024).startswith("COLLAPSE: the teacher's answers")
    assert describe_collapse(Collapse.nothing(), num_prototypes=1024) == ""


def test_a_collapsed_run_says_so_while_it_trains(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A centre that overtakes the answers and a hot teacher: all prototypes alike from the start."""
    settings = ("method.teacher_temperature=50", "method.localize_epochs=[4.0]", "method.part_whole_epochs=[]")
    _, stages, job, data = run(tmp_path, *settings, "train.log_every=1")
    job.progress.quiet = False
    from partwise.engine.loop import run_stages

    run_stages(stages, job)
    said = " ".join(capsys.readouterr().err.split())
    assert said.count("localize: COLLAPSE") == 1 and "a lower method.teacher_temperature" in said
    data.close()
