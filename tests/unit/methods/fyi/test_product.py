"""What a run hands over: pictures, one file that repeats its own measurement, and a source for other methods."""

from pathlib import Path

import pytest
import torch

import partwise
from partwise import api, cli
from partwise.config import UserError
from partwise.data.sources import open_source
from partwise.run import RunFolder

TINY = ("train.threads=1", "method.trial.networks=1", "method.trial.epochs=1", "evaluate.during=[]")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short run of packed pictures."""
    settings = [*TINY, "method.matching=idc", "method.factor=2", "method.images_per_class=1", "method.iterations=1"]
    settings += ["method.inner=1", "method.network_pictures=4", "method.strategy=color_crop_cutout", "optim.lr=0.01"]
    return partwise.train("fyi/smoke", out=tmp_path_factory.mktemp("fyi") / "run", settings=settings, quiet=True)


def test_the_folder_is_an_imagefolder_of_what_networks_train_on(run: Path) -> None:
    folder = open_source(f"imagefolder:{run / 'products' / 'set' / 'pictures'}")
    method = partwise.load(run).method
    pictures, labels = method.set.pictures()  # type: ignore[attr-defined]
    assert len(folder) == len(pictures) == 16 and set(folder.classes) == set(method.classes)
    kept = open_source(f"distilled:{run}?real=none").images(range(16))
    for k, name in enumerate(method.classes):
        own = [i for i, record in enumerate(folder.records) if folder.classes[record.label or 0] == name]
        assert torch.equal(torch.stack([folder.load_image(i) for i in own]), kept[labels == k])


def test_the_file_alone_repeats_the_measurement(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.safetensors"
    file.write_bytes((run / "products" / "set" / "set.safetensors").read_bytes())
    wanted = RunFolder(run).read_summary()["metrics"]
    assert api.evaluate(file, quiet=True) == wanted
    assert cli._status(["evaluate", str(file), "--quiet"], False) == 0
    assert "distilled/fyi-flip/convnet_top1" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [file]
    with pytest.raises(UserError, match="has other classes"):
        api.evaluate(file, on="creatures:?size=32&classes=3&train=9&val=3&test=9", quiet=True)


def test_a_file_without_a_recipe_is_refused(run: Path) -> None:
    with pytest.raises(UserError, match="holds no whole recipe"):
        api.evaluate(run / "model.safetensors", quiet=True)


def test_another_method_trains_on_it(run: Path, tmp_path: Path) -> None:
    settings = ["data.size=16", "model.backbone=resnet20", "train.epochs=1", "train.batch_size=8", "train.threads=1"]
    made = partwise.train("cutmix/smoke", data=f"distilled:{run}", out=tmp_path / "run", settings=settings, quiet=True)
    summary = RunFolder(made).read_summary()
    assert summary["status"] == "finished" and summary["detail"]["classification/top1"]["n"] == 16
