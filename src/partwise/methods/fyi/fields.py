"""Fields of FYI: what is matched, how, and how the outcome is tried. Never imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from partwise.config import OptimFields, Recipe, Section
from partwise.evaluate.trials import TrialFields

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
    symmetry_networks: int = Field(
        20,
        ge=0,
        description="random networks by which the report compares classes with their mirror images; 0: no such figure",
    )
    trial: TrialFields = Field(TrialFields(), description="how the set is measured by the suite `distilled`")


class FyiRecipe(Recipe):
    """A distilled set."""

    optim: OptimFields = PIXEL_OPTIM
    method: FyiFields = FyiFields()
