"""Bad run folders, and bad words to verbs that read one: exit status 2, one or two lines, nothing of a run lost."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable

import pytest
from safetensors.torch import load_file, save_file

from partwise import cli
from partwise.run import RunFolder
from tests.faults.cases import NEEDS_USER, Case, Executed, Kinds, check_refused
from tests.faults.places import Place, contents, train
from tests.miniatures import write_picture

KINDS = Kinds()
bad = KINDS.bad

# -- run folders ---------------------------------------------------------------------------------------------------------


@bad("evaluation of a folder that is no run", "notes: is no run folder")
def _(place: Place) -> list[str]:
    place.write("notes/a.txt", "mine")
    return ["evaluate", "notes", "--quiet"]


@bad("mistyped run", "rum: is no run folder", "did you mean 'run'?")
def _(place: Place) -> list[str]:
    place.run()
    return ["predict", "rum", "x.png"]


@bad("report of a folder that is no run", "notes")
def _(place: Place) -> list[str]:
    place.write("notes/a.txt", "mine")
    return ["report", "notes"]


@bad("prediction by a run that is not finished", "run: has no model.safetensors yet", "partwise train")
def _(place: Place) -> list[str]:
    place.unfinished()
    write_picture(place.root / "a.png", 1)
    return ["predict", "run", "a.png"]


def spoil(place: Place, file: str, content: bytes | None = None, *, trained: bool | None = None) -> None:
    """A run with one file replaced, or cut in half: a finished one, or where `trained` is given an unfinished one."""
    path = (place.run() if trained is None else place.unfinished(trained=trained)) / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content is None else content)


@bad("torn summary", "summary.json: is not JSON")
def _(place: Place) -> list[str]:
    spoil(place, "summary.json")
    return train(out="run")


@bad("torn summary measured", "summary.json: is not JSON")
def _(place: Place) -> list[str]:
    spoil(place, "summary.json")
    return ["evaluate", "run", "--quiet"]


@bad("torn environment", "environment.json: is not JSON")
def _(place: Place) -> list[str]:
    spoil(place, "environment.json", trained=False)
    return train(out="run")


@bad("torn weights", "model.safetensors: not a readable safetensors file")
def _(place: Place) -> list[str]:
    spoil(place, "model.safetensors")
    return ["evaluate", "run", "--quiet"]


@bad("weights that are a pickle", "model.safetensors: not a readable safetensors file")
def _(place: Place) -> list[str]:
    spoil(place, "model.safetensors", pickle.dumps(Executed()))
    return ["evaluate", "run", "--quiet"]


@bad("weights of another program", "model.safetensors: not written by partwise")
def _(place: Place) -> list[str]:
    model = place.run() / "model.safetensors"
    save_file(load_file(model), model)
    return ["evaluate", "run", "--quiet"]


@bad("torn checkpoint", "last.safetensors: is no whole checkpoint", "--fresh")
def _(place: Place) -> list[str]:
    spoil(place, "checkpoints/last.safetensors", trained=False)
    return train(out="run")


@bad("checkpoint that is a pickle", "last.safetensors: is no whole checkpoint")
def _(place: Place) -> list[str]:
    spoil(place, "checkpoints/last.safetensors", pickle.dumps(Executed()), trained=False)
    return train(out="run")


@bad("checkpoint of another network", "last.safetensors", "does not fit")
def _(place: Place) -> list[str]:
    run = place.unfinished()
    other = place.finished.parent / "other"
    if not other.exists():
        words = train("--set", "model.backbone=resnet32", "--set", "evaluate.suites=[]", out=other)
        assert cli._status(words, False) == 0
    (run / "checkpoints/last.safetensors").write_bytes((other / "checkpoints/last.safetensors").read_bytes())
    return train(out="run")


@bad("torn product of a stage", "networks.safetensors")
def _(place: Place) -> list[str]:
    spoil(place, "products/train/networks.safetensors", trained=True)
    return train(out="run")


@bad("torn index of a stage", "index.json")
def _(place: Place) -> list[str]:
    spoil(place, "products/train/index.json", trained=True)
    return train(out="run")


@bad("recipe of a run edited to something invalid", "recipe.yaml: train.epochs = 'soon'")
def _(place: Place) -> list[str]:
    recipe = place.run() / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 1.0", "epochs: soon"))
    return ["evaluate", "run", "--quiet"]


@bad("recipe of a run torn", "recipe.yaml")
def _(place: Place) -> list[str]:
    spoil(place, "recipe.yaml", b"recipe: [cut")
    return train(out="run")


@bad("another recipe in the folder", "--out run: holds a run of another recipe", "optim.lr", "--fresh")
def _(place: Place) -> list[str]:
    place.run()
    return train("--set", "optim.lr=0.3", out="run")


@bad("another recipe over an unfinished run", "--out run: holds a run of another recipe", "train.seed 0 -> 1")
def _(place: Place) -> list[str]:
    place.unfinished()
    return train("--set", "train.seed=1", out="run")


@bad("a mistake with --fresh", "weights none.pth: no such file")
def _(place: Place) -> list[str]:
    place.run()
    return train("--fresh", "--set", "model.weights=none.pth", out="run")


@bad("folder that is a file", "--out mine: cannot write there")
def _(place: Place) -> list[str]:
    place.write("mine", "a file")
    return train(out="mine")


@bad("folder below a file", "--out mine/run: cannot write there")
def _(place: Place) -> list[str]:
    place.write("mine", "a file")
    return train(out="mine/run")


@bad("folder that cannot be written", "--out closed/run: cannot write there", **NEEDS_USER)
def _(place: Place) -> list[str]:
    (place.root / "closed").mkdir(mode=0o500)
    return train(out="closed/run")


@bad("data that changed since the run began", "has changed since this run began; --fresh starts anew")
def _(place: Place) -> list[str]:
    words = train(source=place.folder(), out="run")
    assert cli._status(words, False) == 0
    run = place.root / "run"
    (run / "summary.json").write_text((run / "summary.json").read_text().replace('"finished"', '"running"'))
    write_picture(place.root / "pets/cat/new.jpg", 77)
    return words


# -- evaluate and predict ------------------------------------------------------------------------------------------------


@bad("classes that the run does not know", "--on imagefolder:", "has 2 classes (cat, dog", "the run knows 4")
def _(place: Place) -> list[str]:
    place.run()
    return ["evaluate", "run", "--on", place.folder(), "--quiet"]


@bad("suite that does not exist", "no suite 'top1'", "known: classification, localization")
def _(place: Place) -> list[str]:
    place.run()
    return ["evaluate", "run", "--suite", "top1", "--quiet"]


@bad("prediction of a path that is not there", "holiday: there is no such file or folder")
def _(place: Place) -> list[str]:
    place.run()
    return ["predict", "run", "holiday"]


@bad("prediction of a folder without pictures", "notes: holds no pictures")
def _(place: Place) -> list[str]:
    place.run()
    place.write("notes/a.txt", "mine")
    return ["predict", "run", "notes"]


@bad("predictions into a file", "mine/pictures: ")
def _(place: Place) -> list[str]:
    place.run()
    place.write("mine", "a file")
    write_picture(place.root / "a.png", 1)
    return ["predict", "run", "a.png", "--out", "mine", "--quiet"]


@bad("report into a folder that is a file", "mine/report.html")
def _(place: Place) -> list[str]:
    place.run()
    place.write("mine", "a file")
    return ["report", "run", "--out", "mine/report.html"]


# -- the test -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("case", "says"), KINDS.found)
def test_is_refused(case: Case, says: tuple[str, ...], place: Place, refused: Callable[[list[str]], str]) -> None:
    check_refused(case, says, place, refused)


def test_a_folder_that_another_process_writes(place: Place, refused: Callable[[list[str]], str]) -> None:
    run = place.run()
    before = contents(run)
    child = os.fork()
    if child == 0:  # holds the lock until it is killed
        with RunFolder(run).lock():
            place.write("ready", "")
            os.read(os.pipe()[0], 1)
        os._exit(0)
    try:
        while not (place.root / "ready").exists():
            assert os.waitpid(child, os.WNOHANG) == (0, 0)
        for words in (train(out="run"), train("--fresh", out="run"), ["evaluate", "run", "--quiet"]):
            assert f"another process (number {child}) is writing this run" in refused(words)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert contents(run) == before
    assert cli._status(train(out="run"), False) == 0  # the lock died with its holder
