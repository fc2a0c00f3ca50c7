"""Every kind of bad input that we know, by name: exit status 2, one or two lines that name the thing, nothing lost.

Files, labels, fields and sources; run folders are in test_bad_runs.py, what is set aside and counted in test_set_aside.py.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from partwise import cli
from partwise.run import RunFolder
from tests.faults.cases import NEEDS_CPU, NEEDS_USER, Case, Executed, Kinds, check_refused, setting
from tests.faults.places import WORLD, Place, bomb, hollow, train
from tests.miniatures import cifar10_binary, write_picture

KINDS = Kinds()
bad = KINDS.bad

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


# -- the test -----------------------------------------------------------------------------------------------------------


def test_there_are_at_least_thirty_kinds() -> None:
    assert len({case.id for case in KINDS.found}) == len(KINDS.found) >= 30


@pytest.mark.parametrize(("case", "says"), KINDS.found)
def test_is_refused(case: Case, says: tuple[str, ...], place: Place, refused: Callable[[list[str]], str]) -> None:
    check_refused(case, says, place, refused)


def test_after_a_mistake_the_corrected_command_needs_no_fresh(
    place: Place, refused: Callable[[list[str]], str]
) -> None:
    words = spoiled(place, b"")
    refused(words)
    refused([*words, "--set", "model.weights=none.pth", "--set", "data.on_fault=skip"])
    assert cli._status([*words, "--set", "data.on_fault=skip"], False) == 0
    assert RunFolder(place.root / "new").status() == "finished"
