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

Matching = Literal["dm", "dc", "idc", "mtt"]
Arm = Literal["plain", "flip", "fyi"]

PIXEL_OPTIM = OptimFields(
    name="sgd", lr=1.0, momentum=0.5, nesterov=False, weight_decay=0.0, schedule="constant", warmup=0.0
)
"""Of the pictures, as the published codes have it."""


class ExpertFields(Section):
    """Networks trained on all real pictures, which trajectory matching follows: made once, kept with the run."""

    count: int = Field(100, ge=1, description="experts")
    epochs: int = Field(50, ge=1, description="passes of each; its weights are kept after every one")
    lr: float = Field(0.01, gt=0)
    momentum: float = Field(0.0, ge=0, lt=1)
    weight_decay: float = Field(0.0, ge=0)
    batch_size: int = Field(256, ge=1)
    rho: float = Field(
        0.0, ge=0, description="radius of GSAM's look about the weights (FTD: 0.01); 0 and alpha 0: plain SGD"
    )
    alpha: float = Field(0.0, ge=0, description="weight of GSAM's correction (FTD: 0.3 or 1)")
    flip: bool = Field(
        False,
        description="a flip is drawn at every step, as FYI's code does for experts too; false: one store serves all arms",
    )
    run: str | None = Field(None, description="folder of another run whose experts are followed; null: this run's own")


class FyiFields(Section):
    """What is matched, with or without mirror images, how many pictures come out, and how they are tried."""

    matching: Matching = Field(
        "dm",
        description="dm: mean features of fresh random networks; dc: gradients of fresh networks that learn from the set (DSA "
        "where there is a `strategy`); idc: gradients of networks that learn from real pictures, several small pictures in "
        "each; mtt: weights of experts (FTD where `experts.rho` is above 0)",
    )
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
        description="augmentation of matching: one of these operations a step and class, the same for real and synthetic "
        "pictures (mtt: a step, each picture's numbers its own; idc: colour always); none: none (DC)",
    )
    outer: int = Field(
        0, ge=0, description="dc: steps of the pictures a network; 0: as published for `images_per_class`"
    )
    inner: int = Field(
        0,
        ge=0,
        description="dc: passes of a network over the set between these; idc: turns of a network; 0: as published",
    )
    network_lr: float = Field(0.01, gt=0, description="dc, idc: step size of the matched network")
    distance: Literal["dc", "mse", "cos"] = Field(
        "dc", description="dc: 1 - cosine for each output channel; cos: of all at once; mse: squared differences"
    )
    gradients: Literal["auto", "loop", "grouped", "vmap"] = Field(
        "auto",
        description="dc: how gradients of all classes are had; auto: the loop on a CPU, else grouped convolutions",
    )
    factor: int = Field(1, ge=1, le=8, description="idc: each picture holds the square of this many small ones")
    conv_distance: Literal["mse", "l1"] = Field("mse", description="idc: distance of convolution gradients")
    network_pictures: int = Field(2000, ge=1, description="idc: real pictures that the network trains on in a turn")
    synthetic_batch: int = Field(
        0, ge=0, description="synthetic pictures a step, mirror images counted; 0: all (mtt), 128 a class (idc)"
    )
    whiten: bool = Field(
        False, description="mtt: ZCA whitening of all pictures; the set is kept and tried in that space"
    )
    student_steps: int = Field(50, ge=1, description="mtt: steps of a student")
    expert_epochs: int = Field(2, ge=1, description="mtt: passes of the expert that a student shall make up for")
    max_start: int = Field(
        2, ge=1, description="mtt: students start from the expert's weights after fewer passes than this"
    )
    student_lr: float = Field(0.01, gt=0, description="mtt: step size of students before it is learned")
    rate_optim: OptimFields = Field(
        PIXEL_OPTIM.model_copy(update={"lr": 1e-5}), description="mtt: optimiser of the learned step size"
    )
    grad: Literal["full", "tesla"] = Field(
        "full",
        description="mtt: the gradient through all steps, or the one of FYI's code, whose memory does not grow with them",
    )
    experts: ExpertFields = Field(ExpertFields(), description="mtt: the networks that are followed")
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
