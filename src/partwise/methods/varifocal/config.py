"""Fields and recipes of Varifocal-Net. Never imports torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from partwise.config import (
    AugmentFields,
    Claim,
    DataFields,
    EvaluateFields,
    OptimFields,
    Paper,
    Recipe,
    Section,
    TrainFields,
)
from partwise.methods.recipes import RecipeBook

ADAM = OptimFields(
    name="adam", lr=1e-4, momentum=0.9, beta2=0.999, weight_decay=0.0, schedule="steps", milestones=(1 / 3, 2 / 3)
)
"""Section 3.2 of the paper; "lowered by nine-tenth" every 10 epochs is read as times 0.1."""


class VarifocalFields(Section):
    """Two networks that look at a chromosome, what the second one sees, and how both are trained and asked."""

    network: Literal["varifocal", "backbone"] = Field(
        "varifocal", description="backbone: the plain rival, `model.backbone` with a head for type and one for polarity"
    )
    width: int = Field(10, ge=1, le=64, description="channels of the blocks: 16, 32 and 64 times this")
    units: int = Field(4, ge=1, le=16, description="residual units of each block")
    locator_hidden: int = Field(1024, ge=1, description="hidden values of the network that places the box")
    ensemble_hidden: int = Field(512, ge=1, description="hidden values of each network on both features")
    second: Literal["box", "centre", "whole"] = Field(
        "box",
        description="what the second network sees: the box found by the first; centre: the largest box in the middle; "
        "whole: what the first sees, so that only their weights differ",
    )
    rule: Literal["boxcar", "bands", "autograd"] = Field(
        "boxcar",
        description="the box's gradient: the derivative of the soft mask, as written in the paper; bands: the signs that "
        "re-implementations of RA-CNN use; autograd: that of the crop itself, as in a spatial transformer",
    )
    normalise: bool = Field(
        True,
        description="only the direction of each picture's box gradient counts: squared gradients are tiny beside Adam's eps",
    )
    polarity_weight: float = Field(
        0.5, ge=0, description="weight of the polarity's loss beside the type's (lambda); 0: types alone"
    )
    rotation: float = Field(
        45.0, ge=0, lt=90, description="training pictures are rotated by up to this, degrees, either way"
    )
    stretch: float = Field(
        0.0,
        ge=0,
        le=1,
        description="width and height of training pictures are each stretched or pressed by up to this share: cells differ in "
        "how far their chromosomes are condensed",
    )
    upend: bool = Field(
        True, description="training pictures are turned upside down with probability 0.5, and their polarity too"
    )
    box_epochs: float = Field(3.0, gt=0, description="passes that teach the locator the chromosomes' own extent")
    local_epochs: float = Field(30.0, gt=0, description="passes of the second network")
    follow: bool = Field(
        True,
        description="each pass of the second network is followed by one of the locator through it, by `rule`; false: boxes "
        "stay as they were first taught",
    )
    locator_optim: OptimFields = Field(
        ADAM, description="optimiser of the locator as it learns the chromosomes' extent"
    )
    follow_optim: OptimFields = Field(
        ADAM,
        description="optimiser of the locator as it follows the second network. `boxcar` and `bands` do not descend on the "
        "loss: the higher the rate, the farther boxes run away",
    )
    ensemble_epochs: float = Field(20.0, gt=0, description="passes of the networks on both features")
    ensemble_optim: OptimFields = Field(
        ADAM.model_copy(update={"milestones": (0.5,)}), description="optimiser of the networks on both features"
    )
    finetune: bool = Field(
        False,
        description="everything learns with the ensemble. The paper's text says that features are extracted (false); its times "
        "an epoch fit true",
    )
    mirror: bool = Field(
        False,
        description="answers are those of a picture and of its mirror image, left for right, averaged: twice the time",
    )


class VarifocalRecipe(Recipe):
    """Chromosomes of whole cells, named and turned."""

    optim: OptimFields = ADAM
    method: VarifocalFields = VarifocalFields()


_PAPER_NOTE = "1,909 private cases at about 300 bands, 5-fold cross-validation; other data than any public set"

PAPER = Paper(
    title="Varifocal-Net: A Chromosome Classification Approach Using Deep Convolutional Networks",
    year=2019,
    link="https://arxiv.org/abs/1810.05943",
    claims=(
        Claim("karyotype/type_top1", "Xiangya, all cases", 0.989, "table III", "varifocal/paper", _PAPER_NOTE),
        Claim("karyotype/type_f1", "Xiangya, all cases", 0.987, "table III", "varifocal/paper", _PAPER_NOTE),
        Claim("karyotype/polarity_top1", "Xiangya, all cases", 0.992, "table III", "varifocal/paper", _PAPER_NOTE),
        Claim("karyotype/case_accuracy", "Xiangya, all cases", 0.989, "table III", "varifocal/paper", _PAPER_NOTE),
        Claim(
            "karyotype/dispatched_case_accuracy",
            "Xiangya, all cases",
            0.992,
            "table III",
            "varifocal/paper",
            _PAPER_NOTE,
        ),
    ),
)

BOOK = RecipeBook(VarifocalRecipe, PAPER)
EVALUATE = EvaluateFields(suites=("karyotype",), during=("karyotype",), best_by="karyotype/type_top1")
UPRIGHT = AugmentFields(crop="none", flip=True)
"""The frame as it is, mirrored: what else is done to a training picture is the method's (rotation, upside down)."""


@BOOK.add("varifocal/smoke")
def smoke() -> VarifocalRecipe:
    """Seconds on any machine, on generated cells: shows that every stage works, and nothing else.

    partwise train varifocal/smoke
    """
    return VarifocalRecipe(
        recipe="varifocal/smoke",
        data=DataFields(source="karyotypes:?size=64&train=7&val=1&test=1", size=64, augment=UPRIGHT),
        optim=OptimFields(name="adamw", lr=1e-3, schedule="one_cycle", weight_decay=0.01),
        train=TrainFields(epochs=1, batch_size=23, log_every=1, checkpoint_seconds=1),
        evaluate=EVALUATE,
        method=VarifocalFields(
            width=1, units=1, locator_hidden=16, ensemble_hidden=16, box_epochs=1, local_epochs=1, ensemble_epochs=1
        ),
    )


def _small(recipe: str, source: str) -> VarifocalRecipe:
    """What the recipes for two cores share: half the paper's frame, narrow networks, high rates, few passes."""
    one_cycle = OptimFields(
        name="adamw", lr=2e-3, weight_decay=0.05, decay_norm_and_bias=False, schedule="one_cycle", peak=0.25
    )
    return VarifocalRecipe(
        recipe=recipe,
        data=DataFields(source=source, size=128, augment=UPRIGHT),
        optim=one_cycle,
        train=TrainFields(epochs=12, batch_size=64),
        evaluate=EVALUATE,
        method=VarifocalFields(
            width=2,
            units=2,
            locator_hidden=128,
            ensemble_hidden=128,
            rotation=20,
            box_epochs=1,
            local_epochs=10,
            follow=False,
            locator_optim=one_cycle.model_copy(update={"lr": 1e-3}),
            ensemble_epochs=4,
            ensemble_optim=one_cycle.model_copy(update={"lr": 1e-3}),
        ),
    )


@BOOK.add("varifocal/demo")
def demo() -> VarifocalRecipe:
    """Generated cells, every chromosome named and turned, and a karyogram of each. Minutes on two cores.

    partwise train varifocal/demo
    """
    base = _small("varifocal/demo", "karyotypes:?size=64&train=60&val=10&test=20")
    return base.model_copy(
        update={
            "data": base.data.model_copy(update={"size": 64}),
            "train": base.train.model_copy(update={"epochs": 8.0}),
            "method": base.method.model_copy(update={"units": 1, "local_epochs": 6.0, "ensemble_epochs": 3.0}),
        }
    )


@BOOK.add("varifocal/cells-small")
def cells_small() -> VarifocalRecipe:
    """Real G-banded cells on two cores: the whole system at a fifth of its width.

    partwise train varifocal/cells-small --data chromosomes:DIR
    """
    base = _small("varifocal/cells-small", "chromosomes:data/chromosomes_cells")
    return base.model_copy(
        update={
            "train": base.train.model_copy(update={"epochs": 22.0}),
            "evaluate": base.evaluate.model_copy(update={"every": 2.0}),
            "method": base.method.model_copy(update={"local_epochs": 20.0, "stretch": 0.15, "mirror": True}),
        }
    )


@BOOK.add("varifocal/paper")
def paper() -> VarifocalRecipe:
    """The paper's own size and settings: 36.47 M parameters in each network, frames of 256 pixels. GPU days.

    partwise train varifocal/paper --data chromosomes:DIR

    The paper's data are private, its batch size is not stated (32 here), and where text and times part ways on the last stage
    the text is followed. The locator follows the second network at a hundredth of the paper's rate: at that rate, and at a
    tenth of it, boxes ran away within one pass on real cells.
    """
    return VarifocalRecipe(
        recipe="varifocal/paper",
        data=DataFields(source="chromosomes:data/chromosomes_cells", size=256, augment=UPRIGHT),
        train=TrainFields(epochs=30, batch_size=32),
        evaluate=EVALUATE,
        method=VarifocalFields(follow_optim=ADAM.model_copy(update={"lr": 1e-6})),
    )
