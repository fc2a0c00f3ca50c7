"""Every kind of bad input that we know, by name: exit status 2, one or two lines that name the thing, nothing lost.

A case is a function from an empty working folder to the words of a command. What is set aside and counted instead is in
test_set_aside.py.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from partwise import cli
from partwise.run import RunFolder
from tests.faults.places import WORLD, Place, bomb, contents, hollow, train
from tests.miniatures import cifar10_binary, write_picture

Case = Callable[[Place], list[str]]
CASES: list[Any] = []


def bad(name: str, *says: str, **marks: Any) -> Callable[[Case], Case]:
    """Decorator: a kind of bad input, and the pieces of the answer to it."""

    def register(case: Case) -> Case:
        CASES.append(pytest.param(case, says, id=name.replace(" ", "-"), **marks))
        return case

    return register


class Executed:
    """Its pickle, if it were ever loaded, would leave a file behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, ("EXECUTED",)


def setting(*settings: str) -> list[str]:
    """The words of a tiny training with these fields set."""
    return train(*(word for text in settings for word in ("--set", text)))


NEEDS_USER = {"marks": pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")}
NEEDS_CPU = {"marks": pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes float16")}

# -- files ---------------------------------------------------------------------------------------------------------------


def spoiled(place: Place, content: bytes, name: str = "bad.jpg") -> list[str]:
    """A training on a folder in which one picture is this."""
    source = place.folder()
    place.write(f"pets/cat/{name}", content)
    return train(source=source)


@bad("picture of zero bytes", "cat/bad.jpg: empty", "data.on_fault=skip")
def _(place: Place) -> list[str]:
    return spoiled(place, b"")


@bad("truncated JPEG", "cat/bad.jpg: truncated", "data.on_fault=skip")
def _(place: Place) -> list[str]:
    whole = write_picture(place.root / "whole.jpg", 1, height=64, width=64).read_bytes()
    return spoiled(place, whole[: len(whole) // 2])


@bad("text named like a picture", "cat/bad.jpg: unreadable: not a picture")
def _(place: Place) -> list[str]:
    return spoiled(place, b"dear diary\n" * 99)


@bad("header that claims ten thousand million pixels", "cat/bad.png: too large: claims")
def _(place: Place) -> list[str]:
    return spoiled(place, bomb(), "bad.png")


@bad("picture that may not be read", "cat/bad.jpg", "ermission", **NEEDS_USER)
def _(place: Place) -> list[str]:
    words = spoiled(place, write_picture(place.root / "whole.jpg", 1).read_bytes())
    (place.root / "pets/cat/bad.jpg").chmod(0)
    return words


@bad("pixels broken behind a sound header", "cat/bad.png", "data.on_fault=skip")
def _(place: Place) -> list[str]:
    return [*spoiled(place, hollow(), "bad.png"), "--set", "data.storage=resident"]


@bad("folder without pictures", "imagefolder: ", "pets", "expected a folder of pictures for each class")
def _(place: Place) -> list[str]:
    place.write("pets/cat/notes.txt", "none")
    return train(source=f"imagefolder:{place.root / 'pets'}")


@bad("mask that is missing", "files/none.png: missing")
def _(place: Place) -> list[str]:
    write_picture(place.root / "files/more.png", 1)
    return train(source=place.table("files/more.png,cat,train,,files/none.png"))


@bad("mask of another size", "files/mask.png: wrong size")
def _(place: Place) -> list[str]:
    write_picture(place.root / "files/more.png", 1)
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(place.root / "files/mask.png")
    return train(source=place.table("files/more.png,cat,train,,files/mask.png"))


@bad("archive cut short", "pets.zip")
def _(place: Place) -> list[str]:
    place.write("pets.zip", b"PK\x03\x04" + b"\x00" * 50)
    return train(source=f"imagefolder:{place.root / 'pets.zip'}")


@bad("CIFAR batch cut short", "data_batch_3.bin")
def _(place: Place) -> list[str]:
    small = cifar10_binary(place.root / "cifar")
    small.torn.write_bytes(small.torn.read_bytes()[:-7])
    return train(source=small.source)


@bad("CIFAR batch that would run a program", "data_batch_1")
def _(place: Place) -> list[str]:
    folder = place.root / "cifar-10-batches-py"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch", "batches.meta"]:
        (folder / name).write_bytes(pickle.dumps(Executed(), protocol=2))
    return train(source=f"cifar10:{place.root}")


# -- labels --------------------------------------------------------------------------------------------------------------


@bad("table that names a picture that is not there", "files/gone.png: missing")
def _(place: Place) -> list[str]:
    return train(source=place.table("files/gone.png,cat,train,,"))


@bad("label that no class has", "train/00008 has label 99; expected 0 to 9")
def _(place: Place) -> list[str]:
    small = cifar10_binary(place.root / "cifar")
    small.torn.write_bytes(bytes([99]) + small.torn.read_bytes()[1:])
    return train(source=small.source)


@bad("row without a label", "files/more.png: no label", "data.on_fault=skip")
def _(place: Place) -> list[str]:
    write_picture(place.root / "files/more.png", 1)
    return train(source=place.table("files/more.png,,train,,"))


@bad("table without the column label", "pets.csv: no column 'label'", "nearest: 'lable', say ?label=lable")
def _(place: Place) -> list[str]:
    return train(source=place.table(header="file,lable,split,box,mask"))


@bad("table with semicolons", "pets.csv: no column 'file'", "separated by something else than commas")
def _(place: Place) -> list[str]:
    return train(source=f"csv:{place.write('pets.csv', 'file;label' + chr(10) + 'a.png;cat')}")


@bad("table with a split of its own", "pets.csv: line 14: split 'trian'", "nearest: train")
def _(place: Place) -> list[str]:
    return train(source=place.table("files/more.png,cat,trian,,"))


@bad("table that repeats a picture", "pets.csv: line 14 repeats the file of line 2 (files/0.png)")
def _(place: Place) -> list[str]:
    return train(source=place.table("files/0.png,dog,train,,"))


@bad("row with a cell too many", "pets.csv: line 14: not as many cells as the 5 columns")
def _(place: Place) -> list[str]:
    return train(source=place.table("files/more.png,cat,train,,,,"))


@bad("table that is no text", "pets.csv: not a text file")
def _(place: Place) -> list[str]:
    return train(source=f"csv:{place.write('pets.csv', bytes([0xFF, 0xFE, 0x00]))}")


@bad("table without a row", "pets.csv: no row below the header")
def _(place: Place) -> list[str]:
    return train(source=f"csv:{place.write('pets.csv', 'file,label')}")


@bad("box of three numbers", "pets.csv: line 14: box '1 2 3'; expected x1 y1 x2 y2")
def _(place: Place) -> list[str]:
    return train(source=place.table("files/more.png,cat,train,1 2 3,"))


@bad("box outside its picture", "files/more.png: empty box: (90, 90, 99, 99) in 32 x 24")
def _(place: Place) -> list[str]:
    write_picture(place.root / "files/more.png", 1)
    return train(source=place.table("files/more.png,cat,train,90 90 99 99,"))


@bad("source without labels", "images:", "has no labels; cutmix/smoke needs a label of every picture")
def _(place: Place) -> list[str]:
    place.folder()
    return train(source=f"images:{place.root / 'pets'}")


@bad("several labels for a loss of one", "method.loss = 'ce'", "expected 'bce'")
def _(place: Place) -> list[str]:
    return train(source=WORLD + "&objects=2")


@bad("no training pictures", "no training pictures")
def _(place: Place) -> list[str]:
    return train(source="creatures:?size=32&classes=4&train=0&val=8&test=8")


# -- fields --------------------------------------------------------------------------------------------------------------

FIELDS: dict[str, tuple[list[str], tuple[str, ...]]] = {
    "unknown field": (setting("train.epoch=3"), ("--set train.epoch=3", "did you mean 'train.epochs'?")),
    "field of no section": (setting("epochs=3"), ("did you mean 'train.epochs'?",)),
    "field of the wrong type": (setting("train.batch_size=many"), ("train.batch_size = 'many'", "integer")),
    "field out of range": (setting("method.p=1.5"), ("method.p = '1.5'", "less than or equal to 1")),
    "field not finite": (setting("optim.lr=inf"), ("optim.lr = 'inf'", "finite")),
    "unknown choice": (setting("method.mode=sampel"), ("method.mode = 'sampel'", "did you mean 'sample'?")),
    "setting without a value": (setting("train.epochs"), ("--set train.epochs", "expected FIELD=VALUE")),
    "unknown field of a grid": (train("--grid", "optim.rl=1,2"), ("--grid optim.rl=1", "did you mean 'optim.lr'?")),
    "bad value in a grid": (train("--grid", "optim.lr=0.1,x"), ("--grid optim.lr=x", "optim.lr = 'x'")),
    "grid given twice": (train("--grid", "optim.lr=1", "--grid", "optim.lr=2"), ("optim.lr is given twice",)),
    "value of a grid given twice": (train("--grid", "optim.lr=1,1"), ("a value is given twice",)),
    "grid without values": (train("--grid", "optim.lr="), ("--grid optim.lr=", "expected FIELD=VALUE,VALUE")),
    "grid over the seed": (train("--grid", "train.seed=1,2"), ("--grid train.seed", "--seeds N")),
    "parts that do not divide the batch": (
        setting("train.accumulate=5"),
        ("train.accumulate = 5", "train.batch_size = 16", "divides is 15"),
    ),
    "frame smaller than its cut": (setting("data.resize=24"), ("data.resize = 24", "data.size = 32")),
    "fold beyond the folds": (setting("data.folds=3", "data.fold=3"), ("data.fold = 3 of data.folds = 3",)),
    "one fold": (setting("data.folds=1"), ("data.folds = 1", "folds >= 2")),
    "unknown suite": (setting("evaluate.suites=localisation"), ("'localisation'", "did you mean 'localization'?")),
    "unknown suite on schedule": (setting("evaluate.during=clasification"), ("did you mean 'classification'?",)),
    "best by a number nobody measures": (
        setting("evaluate.best_by=classification/top_1"),
        ("evaluate.best_by = 'classification/top_1'", "did you mean 'classification/top1'?"),
    ),
    "unknown network": (setting("model.backbone=resnt20"), ("unknown network 'resnt20'", "nearest: 'resnet20'")),
    "argument that the network does not take": (
        setting("model.backbone=cifar-resnet", "model.arguments.dept=20"),
        ("no argument 'dept'", "nearest: 'depth'"),
    ),
    "depth that no such network has": (
        setting("model.backbone=cifar-resnet", "model.arguments.depth=21"),
        ("cifar-resnet", "21"),
    ),
    "deviation of zero": (setting("model.std=0,1,1"), ("model.std.0 = '0'", "greater than 0")),
    "resident pictures that must stay whole": (
        setting("data.storage=resident", "data.augment.crop=resized"),
        ("data.storage = 'resident'", "expected 'streamed' or 'auto'"),
    ),
    "weights that are not there": (setting("model.weights=none.pth"), ("weights none.pth: no such file",)),
    "recipe that does not exist": (["train", "cutmix/smoke2"], ("no recipe 'cutmix/smoke2'", "'cutmix/smoke'")),
    "recipe file that does not exist": (["train", "mine.yaml"], ("mine.yaml: there is no such file",)),
    "unknown kind of source": (train(source="creature:"), ("no kind 'creature'", "nearest: creatures")),
    "source that is not there": (train(source="imagefolder:pets"), ("imagefolder: pets: not there", "expected")),
    "source without a path": (train(source="csv:"), ("no path; expected csv:PATH",)),
    "path for a world": (train(source="creatures:pets"), ("creatures is generated and takes no path",)),
    "unknown option of a source": (train(source="creatures:?clases=3"), ("'clases'", "nearest: classes")),
    "option that is no number": (train(source="creatures:?size=big"), ("size=big; expected a whole number")),
    "option out of range": (train(source="creatures:?classes=99"), ("classes", "99")),
    "option given twice": (train(source="creatures:?size=32&size=64"), ("'size=64' is given twice",)),
    "data set described that is not there": (["data", "imagefolder:pets"], ("imagefolder: pets: not there",)),
    "unknown verb": (["trian"], ("'trian'", "'train'")),
    "unknown option": (train("--dvices", "2"), ("--dvices", "--devices")),
}
for name, (words, says) in FIELDS.items():
    bad(name, *says)(lambda place, words=words: words)


@bad("float16 on a CPU", "train.precision = 'fp16': needs a GPU; expected 'auto', 'fp32' or 'bf16'", **NEEDS_CPU)
def _(place: Place) -> list[str]:
    return setting("train.precision=fp16")


@bad("weights of another network", "other.safetensors do not fit resnet20", "0 of")
def _(place: Place) -> list[str]:
    save_file({"layer.weight": torch.zeros(3)}, place.root / "other.safetensors")
    return setting("model.weights=other.safetensors")


@bad("weights that would run a program", "evil.pth: not readable as plain tensors")
def _(place: Place) -> list[str]:
    torch.save({"weight": Executed()}, place.root / "evil.pth")
    return setting("model.weights=evil.pth")


@bad("recipe file that would run a program", "mine.yaml: is not plain YAML")
def _(place: Place) -> list[str]:
    place.write("mine.yaml", "recipe: !!python/object/apply:os.mkdir [EXECUTED]\n")
    return ["train", "mine.yaml", "--out", "new"]


@bad("unknown field in a recipe file", "mine.yaml: there is no field optim.learning_rate")
def _(place: Place) -> list[str]:
    place.write("mine.yaml", "recipe: cutmix/smoke\noptim: {learning_rate: 1}\n")
    return ["train", "mine.yaml", "--out", "new"]


@bad("path without a kind", "a path without a kind", "imagefolder:pets")
def _(place: Place) -> list[str]:
    place.folder()
    return train(source="pets")


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


# -- the test ------------------------------------------------------------------------------------------------------------


def test_there_are_at_least_thirty_kinds() -> None:
    assert len({case.id for case in CASES}) == len(CASES) >= 30


@pytest.mark.parametrize(("case", "says"), CASES)
def test_is_refused(case: Case, says: tuple[str, ...], place: Place, refused: Callable[[list[str]], str]) -> None:
    words = case(place)
    before = contents(place.root)
    answer = refused(words)
    for piece in says:
        assert piece in answer
    after = contents(place.root)
    assert after == before  # nothing lost, nothing half begun
    assert not (place.root / "EXECUTED").exists()


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


def test_after_a_mistake_the_corrected_command_needs_no_fresh(
    place: Place, refused: Callable[[list[str]], str]
) -> None:
    words = spoiled(place, b"")
    refused(words)
    refused([*words, "--set", "model.weights=none.pth", "--set", "data.on_fault=skip"])
    assert cli._status([*words, "--set", "data.on_fault=skip"], False) == 0
    assert RunFolder(place.root / "new").status() == "finished"
