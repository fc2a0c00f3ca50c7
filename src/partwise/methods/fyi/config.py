"""Fields and recipes of FYI. Never imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from partwise.config import (
    AugmentFields,
    Claim,
    DataFields,
    EvaluateFields,
    ModelFields,
    OptimFields,
    Paper,
    Recipe,
    Section,
    TrainFields,
)
from partwise.evaluate.trials import TrialFields
from partwise.methods.recipes import RecipeBook

Arm = Literal["plain", "flip", "fyi"]

PIXEL_OPTIM = OptimFields(
    name="sgd", lr=1.0, momentum=0.5, nesterov=False, weight_decay=0.0, schedule="constant", warmup=0.0
)
"""Of the pictures, as the published codes have it."""


class FyiFields(Section):
    """What is matched, with or without mirror images, how many pictures come out, and how they are tried."""

    matching: Literal["dm"] = Field("dm", description="dm: mean features of fresh random networks")
    distil: Arm = Field(
        "fyi",
        description="fyi: every synthetic picture is matched together with its mirror image; plain: the base method; flip: the "
        "base method with the always-drawn flip of FYI's code and no mirror images, which tells the two apart",
    )
    images_per_class: int = Field(10, ge=1, description="synthetic pictures of each class")
    iterations: int = Field(20000, ge=1, description="steps of the pictures; `train.epochs` says nothing here")
    real_batch: int = Field(
        256, ge=1, description="real pictures of each class in a step; `train.batch_size` says nothing here"
    )
    start: Literal["real", "noise"] = Field(
        "real", description="the pictures begin as real ones, drawn by seed, or as normal noise"
    )
    strategy: str = Field(
        "color_crop_cutout_flip_scale_rotate",
        description="siamese augmentation of matching: one of these operations a step and class, the same for real and "
        "synthetic pictures; none: none (DC)",
    )
    real_precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="arithmetic of the real pictures' features, which are not differentiated"
    )
    trial: TrialFields = Field(TrialFields(), description="how the set is measured by the suite `distilled`")


class FyiRecipe(Recipe):
    """A distilled set."""

    optim: OptimFields = PIXEL_OPTIM
    method: FyiFields = FyiFields()


PAPER = Paper(
    title="FYI: Flip Your Images for Dataset Distillation",
    year=2024,
    link="https://arxiv.org/abs/2407.08113",
    claims=(
        Claim(
            "distilled/fyi-flip/convnet_top1",
            "CIFAR-10, 10 a class",
            0.531,
            "main table",
            "fyi/cifar10-dm-ipc10",
            "DM+FYI; DM 0.489",
        ),
    ),
)

BOOK = RecipeBook(FyiRecipe, PAPER)
EVALUATE = EvaluateFields(suites=("distilled",), during=("distilled",), best_by="distilled/fyi-flip/convnet_top1")
AS_THEY_ARE = AugmentFields(crop="none", flip=False)
"""What is done to pictures is drawn by the method, for real and synthetic ones alike."""


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
            trial=TrialFields(networks=2, epochs=2, whole_epochs=1),
        ),
    )


@BOOK.add("fyi/demo")
def demo() -> FyiRecipe:
    """Generated creatures, ten pictures of each kind in place of four thousand. Minutes on two cores.

    partwise train fyi/demo
    """
    return FyiRecipe(
        recipe="fyi/demo",
        data=DataFields(source="creatures:?size=32&classes=10", size=32, augment=AS_THEY_ARE),
        model=ModelFields(backbone="convnet-d3", arguments={"width": 32}),
        train=TrainFields(precision="fp32"),
        evaluate=EVALUATE.model_copy(update={"every": 20.0}),
        method=FyiFields(iterations=400, real_batch=64, trial=TrialFields(networks=3, epochs=200, whole_epochs=10)),
    )


@BOOK.add("fyi/cifar10-dm-ipc10")
def cifar10_dm_ipc10() -> FyiRecipe:
    """Distribution matching with mirror images on CIFAR-10, ten pictures a class, as published. A GPU.

    partwise train fyi/cifar10-dm-ipc10 --data cifar10:DIR
    """
    return FyiRecipe(
        recipe="fyi/cifar10-dm-ipc10",
        data=DataFields(source="cifar10:data/cifar10", size=32, augment=AS_THEY_ARE),
        model=ModelFields(backbone="convnet-d3", mean=(0.4914, 0.4822, 0.4465), std=(0.2023, 0.1994, 0.2010)),
        train=TrainFields(precision="fp32"),
        evaluate=EVALUATE.model_copy(update={"every": 100.0}),
        method=FyiFields(images_per_class=10),
    )
