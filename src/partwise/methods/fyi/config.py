"""The recipes of FYI: small ones, and the paper's rows (published.py). Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from partwise.config import DataFields, ModelFields, OptimFields, Paper, TrainFields
from partwise.evaluate.trials import TrialFields
from partwise.methods.fyi.fields import PIXEL_OPTIM, ExpertFields, FyiFields, FyiRecipe
from partwise.methods.fyi.published import (
    AS_THEY_ARE,
    CIFAR,
    COUNTS,
    EVALUATE,
    ROWS,
    SHOWN,
    SUBSETS,
    claims,
    published,
    recipe_name,
    subset,
)
from partwise.methods.recipes import Maker, RecipeBook

PAPER = Paper(
    title="FYI: Flip Your Images for Dataset Distillation",
    year=2024,
    link="https://arxiv.org/abs/2407.08113",
    claims=claims(),
)

BOOK = RecipeBook(FyiRecipe, PAPER)


@BOOK.add("fyi/smoke")
def smoke() -> FyiRecipe:
    """Seconds on any machine, on generated pictures: shows that every stage works, and nothing else.

    partwise train fyi/smoke
    """
    return FyiRecipe(
        recipe="fyi/smoke",
        data=DataFields(source="creatures:?size=32&classes=4&train=64&val=16&test=16", size=16, augment=AS_THEY_ARE),
        model=ModelFields(backbone="convnet", arguments={"depth": 2, "width": 16}),
        train=TrainFields(precision="fp32", log_every=1, checkpoint_seconds=1),
        evaluate=EVALUATE,
        method=FyiFields(
            images_per_class=2,
            iterations=4,
            real_batch=4,
            symmetry_networks=2,
            trial=TrialFields(networks=2, epochs=2, whole_epochs=1),
        ),
    )


@BOOK.add("fyi/demo")
def demo() -> FyiRecipe:
    """Generated creatures, ten pictures of each kind in place of four hundred. Minutes on two cores.

    partwise train fyi/demo
    """
    return FyiRecipe(
        recipe="fyi/demo",
        data=DataFields(source="creatures:?size=32&classes=10", size=32, augment=AS_THEY_ARE),
        model=ModelFields(backbone="convnet-d3", arguments={"width": 32}),
        train=TrainFields(precision="fp32"),
        evaluate=EVALUATE.model_copy(update={"every": 20.0}),
        method=FyiFields(
            iterations=400,
            real_batch=64,
            symmetry_networks=10,
            trial=TrialFields(networks=3, epochs=200, whole_epochs=10),
        ),
    )


def _small(name: str, *, optim: OptimFields, lr: float | None = 0.01, **fields: Any) -> FyiRecipe:
    """Ten pictures a class of CIFAR-10 by a ConvNet a quarter as wide."""
    return FyiRecipe(
        recipe=name,
        data=DataFields(source="cifar10:data/cifar10", size=32, validation=0.02, augment=AS_THEY_ARE),
        model=ModelFields(backbone="convnet-d3", arguments={"width": 32}, mean=CIFAR[0], std=CIFAR[1]),
        optim=optim,
        train=TrainFields(precision="fp32"),
        evaluate=EVALUATE.model_copy(update={"every": 10.0}),
        method=FyiFields(
            **fields, symmetry_networks=10, trial=TrialFields(networks=3, epochs=300, lr=lr, whole_epochs=5)
        ),
    )


@BOOK.add("fyi/cifar10-dm-small")
def cifar10_dm_small() -> FyiRecipe:
    """Distribution matching with mirror images on CIFAR-10 for two cores: narrow networks, few steps.

    partwise train fyi/cifar10-dm-small --data cifar10:DIR
    """
    return _small("fyi/cifar10-dm-small", optim=PIXEL_OPTIM, iterations=1000, real_batch=128)


@BOOK.add("fyi/cifar10-dsa-small")
def cifar10_dsa_small() -> FyiRecipe:
    """Gradient matching with mirror images on CIFAR-10 for two cores: narrow networks, few steps.

    partwise train fyi/cifar10-dsa-small --data cifar10:DIR
    """
    optim = PIXEL_OPTIM.model_copy(update={"lr": 0.1})
    return _small("fyi/cifar10-dsa-small", optim=optim, matching="dc", iterations=60, outer=5, inner=10, real_batch=64)


@BOOK.add("fyi/cifar10-mtt-small")
def cifar10_mtt_small() -> FyiRecipe:
    """Trajectory matching with mirror images on CIFAR-10 for two cores: a few short experts, short students.

    partwise train fyi/cifar10-mtt-small --data cifar10:DIR
    """
    optim = PIXEL_OPTIM.model_copy(update={"lr": 100.0})
    return _small(
        "fyi/cifar10-mtt-small",
        optim=optim,
        lr=None,
        matching="mtt",
        iterations=300,
        whiten=True,
        student_steps=10,
        max_start=4,
        grad="tesla",
        experts=ExpertFields(count=4, epochs=6),
    )


METHODS: Mapping[str, str] = {
    "dc": "Gradient matching without augmentation",
    "dsa": "Gradient matching under siamese augmentation",
    "idc": "Gradient matching of packed pictures (IDC)",
    "dm": "Distribution matching",
    "mtt": "Trajectory matching",
    "ftd": "Trajectory matching of flat experts (FTD)",
}


def _add(name: str, maker: Maker, words: str, where: str) -> None:
    """Register a recipe whose contract is made of `words` and the source it wants."""
    maker.__doc__ = f"{words}\n\npartwise train {name} --data {where}:DIR"
    BOOK.add(name)(maker)


for _data, _rows in ROWS.items():
    for _base, _values in _rows.items():
        for _place in range(len(_values)):
            _add(
                recipe_name(_base, _data, _place),
                partial(published, _base, _data, _place),
                f"{METHODS[_base]} with mirror images on {SHOWN[_data]}, {COUNTS[_place]} a class, as published. A GPU.",
                _data,
            )
for _name in SUBSETS:
    for _place in (0, 1):
        _add(
            f"fyi/imagenet-{_name}-mtt-ipc{COUNTS[_place]}",
            partial(subset, _name, _place),
            f"Trajectory matching with mirror images on ten classes of ImageNet ({_name}), {COUNTS[_place]} a class. A GPU.",
            "imagenet",
        )
