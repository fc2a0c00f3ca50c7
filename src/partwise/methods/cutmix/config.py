"""Fields and recipes of CutMix. Never imports torch."""

from __future__ import annotations

from typing import Any, Literal

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
from partwise.methods.recipes import RecipeBook

CIFAR_MEAN = (125.3 / 255, 123.0 / 255, 113.9 / 255)
CIFAR_STD = (63.0 / 255, 62.1 / 255, 66.7 / 255)
BRANCH_RATES = {"stochastic_depth": 0.25, "dropblock": 0.1, "shakedrop": 0.5}
"""Section 4.1 of the paper, and of ShakeDrop's."""


class CutMixFields(Section):
    """How the pictures of a batch are mixed with one another."""

    mix: Literal[
        "none", "cutmix", "mixup", "cutout", "resizemix", "saliencymix", "fmix", "manifold", "feature_cutmix"
    ] = Field(
        "cutmix",
        description="the rule; manifold (Mixup) and feature_cutmix mix the maps inside the network",
    )
    p: float = Field(
        0.5,
        ge=0,
        le=1,
        description="probability of mixing; the paper's text never states it, its code used 0.5 on CIFAR and 1 on ImageNet",
    )
    alpha: float = Field(
        1.0, gt=0, description="Beta(alpha, alpha) of the share kept; 1 in all the paper's experiments"
    )
    mode: Literal["sample", "pair", "batch", "paper"] = Field(
        "sample",
        description="sample: own box and share for each picture; pair: two pictures swap; batch: one for all, as published; "
        "paper: the published code draw for draw",
    )
    partner: Literal["permutation", "derangement", "flip", "roll"] = Field(
        "permutation", description="who is mixed with whom"
    )
    gate: Literal["sample", "batch"] = Field(
        "sample", description="whether p is drawn for each picture or once a batch, as published"
    )
    correct_lambda: bool = Field(
        True,
        description="share from the clipped box; the first release of the published code lacked this (until August 2019)",
    )
    p_schedule: Literal["constant", "linear"] = Field(
        "constant", description="linear: p rises from 0 over the training (table 8, Scheduled)"
    )
    centre: Literal["uniform", "gaussian"] = Field(
        "uniform", description="where CutMix's box lies; gaussian: about the middle (table 8, Center Gaussian)"
    )
    centre_std: float = Field(
        0.25, gt=0, description="standard deviation of gaussian centres in picture sides; the paper does not state it"
    )
    box_length: int = Field(
        0, ge=0, description="side of CutMix's box, pixels (table 8, Fixed-size: 16); 0: by the share that is drawn"
    )
    label: Literal["share", "one_hot", "complete"] = Field(
        "share",
        description="one_hot: the label of the picture that shows more; complete: half and half (both table 8)",
    )
    layer: int | None = Field(
        None,
        ge=0,
        description="where manifold and feature_cutmix mix: 0 the picture, 1 behind the first stage, ...; None: drawn for "
        "each batch from 0, 1 and 2",
    )
    cutout: bool = Field(False, description="Cutout on every picture before it is mixed (Cutout + Mixup)")
    branches: Literal["none", "stochastic_depth", "dropblock", "shakedrop"] = Field(
        "none", description="noise on the residual branches while training"
    )
    branch_rate: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="how much of it; None: the paper's, 0.25 for stochastic_depth, 0.1 for dropblock, 0.5 for shakedrop",
    )
    branch_ramp: Literal["linear", "constant"] = Field(
        "linear",
        description="linear: the rate rises from block to block up to `branch_rate`; the paper does not say",
    )
    branch_block: int = Field(4, ge=1, description="side of DropBlock's squares, cells")
    smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing, before mixing")
    loss: Literal["ce", "bce"] = Field(
        "ce", description="softmax cross entropy, or a yes or no for each class (multi-label sources need it)"
    )
    cutout_length: int = Field(16, ge=1, description="side of Cutout's hole, pixels")

    def branch_arguments(self) -> dict[str, Any]:
        """What `models.branches.regularise` takes; empty for none."""
        if self.branches == "none":
            return {}
        rate = BRANCH_RATES[self.branches] if self.branch_rate is None else self.branch_rate
        return {"kind": self.branches, "rate": rate, "ramp": self.branch_ramp, "size": self.branch_block}


class CutMixRecipe(Recipe):
    """A classifier trained with mixed pictures."""

    method: CutMixFields = CutMixFields()


PAPER = Paper(
    title="CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
    year=2019,
    link="https://arxiv.org/abs/1905.04899",
    claims=(
        Claim(
            "classification/top1",
            "CIFAR-100",
            0.8553,
            "table 5",
            "cutmix/cifar100-pyramidnet200",
            "best epoch by test error, mean of 3",
        ),
        Claim(
            "classification/top5",
            "CIFAR-100",
            0.9703,
            "table 5",
            "cutmix/cifar100-pyramidnet200",
            "best epoch by test error",
        ),
        Claim(
            "classification/top1",
            "CIFAR-100",
            0.8203,
            "table 6",
            "cutmix/cifar100-pyramidnet110",
            "best epoch by test error",
        ),
        Claim(
            "classification/top5",
            "CIFAR-100",
            0.9617,
            "table 6",
            "cutmix/cifar100-pyramidnet110",
            "best epoch by test error",
        ),
        Claim(
            "classification/top1",
            "CIFAR-100",
            0.7989,
            "table 6",
            "cutmix/cifar100-resnet110",
            "best epoch by test error",
        ),
        Claim(
            "classification/top5",
            "CIFAR-100",
            0.9557,
            "table 6",
            "cutmix/cifar100-resnet110",
            "best epoch by test error",
        ),
        Claim(
            "classification/top1",
            "ImageNet",
            0.7860,
            "table 3",
            "cutmix/imagenet-resnet50",
            "best epoch on the validation split",
        ),
        Claim(
            "classification/top5",
            "ImageNet",
            0.9408,
            "table 3",
            "cutmix/imagenet-resnet50",
            "best epoch on the validation split",
        ),
        *(
            Claim("localization/top1_loc", data, value, "section 4.2", recipe, "one crop, sigma 0.15")
            for data, value, recipe in (
                ("CUB-200-2011", 0.5481, "cutmix/cub-resnet50"),
                ("CUB-200-2011", 0.5253, "cutmix/cub-vgg"),
                ("ImageNet", 0.4725, "cutmix/imagenet-wsol-resnet50"),
                ("ImageNet", 0.4345, "cutmix/imagenet-wsol-vgg"),
            )
        ),
    ),
)

BOOK = RecipeBook(CutMixRecipe, PAPER)
"""Every recipe trains on `train`, chooses on `val` and reports on `test`."""


@BOOK.add("cutmix/smoke")
def smoke() -> CutMixRecipe:
    """Seconds on any machine, on generated pictures: shows that everything works, and nothing else.

    partwise train cutmix/smoke
    """
    return CutMixRecipe(
        recipe="cutmix/smoke",
        data=DataFields(source="creatures:?size=32&classes=4&train=96&val=32&test=32", size=32),
        optim=OptimFields(lr=0.05, schedule="one_cycle"),
        train=TrainFields(epochs=2, batch_size=32, log_every=1, checkpoint_seconds=1),
        evaluate=EvaluateFields(suites=("classification", "localization")),
    )


@BOOK.add("cutmix/demo")
def demo() -> CutMixRecipe:
    """Ten kinds of generated creatures, and where the network sees them. Minutes on two cores.

    partwise train cutmix/demo
    """
    return CutMixRecipe(
        recipe="cutmix/demo",
        data=DataFields(source="creatures:?size=64&train=6000&val=500&test=1000", size=64),
        model=ModelFields(backbone="cifar-resnet", arguments={"depth": 14, "stem_stride": 2}),
        optim=OptimFields(lr=0.2, weight_decay=5e-4, schedule="one_cycle", peak=0.25),
        train=TrainFields(epochs=10, batch_size=64),
        evaluate=EvaluateFields(suites=("classification", "localization")),
    )


def _cifar(recipe: str, source: str, backbone: str) -> CutMixRecipe:
    """What all of the paper's CIFAR settings share (section 4.1 and the published code)."""
    return CutMixRecipe(
        recipe=recipe,
        data=DataFields(source=source, size=32),
        model=ModelFields(backbone=backbone, mean=CIFAR_MEAN, std=CIFAR_STD),
        optim=OptimFields(lr=0.25, weight_decay=1e-4, schedule="steps", milestones=(0.5, 0.75)),
        train=TrainFields(epochs=300, batch_size=64),
        evaluate=EvaluateFields(every=5),
        method=CutMixFields(mode="batch", gate="batch"),
    )


@BOOK.add("cutmix/cifar10-resnet20")
def cifar10_resnet20() -> CutMixRecipe:
    """CIFAR-10 with a ResNet-20, small enough for two cores: CutMix for each picture, p 0.5, alpha 1.

    partwise train cutmix/cifar10-resnet20 --data cifar10:PATH
    """
    return CutMixRecipe(
        recipe="cutmix/cifar10-resnet20",
        data=DataFields(source="cifar10:data/cifar10", size=32, validation=0.04),
        model=ModelFields(backbone="resnet20", mean=CIFAR_MEAN, std=CIFAR_STD),
        optim=OptimFields(lr=0.2, weight_decay=5e-4, schedule="one_cycle", peak=0.25),
        train=TrainFields(epochs=36, batch_size=128),
        evaluate=EvaluateFields(every=2),
    )


@BOOK.add("cutmix/cifar100-resnet110")
def cifar100_resnet110() -> CutMixRecipe:
    """The paper's ResNet-110 (bottleneck) on CIFAR-100, with the rate and p of the published code's issue 10.

    partwise train cutmix/cifar100-resnet110 --data cifar100:PATH
    """
    base = _cifar("cutmix/cifar100-resnet110", "cifar100:data/cifar100", "resnet110-bottleneck")
    return base.model_copy(
        update={
            "optim": base.optim.model_copy(update={"lr": 0.1}),
            "method": base.method.model_copy(update={"p": 1.0}),
        }
    )


@BOOK.add("cutmix/cifar100-pyramidnet110")
def cifar100_pyramidnet110() -> CutMixRecipe:
    """The paper's PyramidNet-110 (alpha 64, bottleneck) on CIFAR-100; its rate and p are not stated: PyramidNet-200's.

    partwise train cutmix/cifar100-pyramidnet110 --data cifar100:PATH
    """
    return _cifar("cutmix/cifar100-pyramidnet110", "cifar100:data/cifar100", "pyramidnet110-a64")


@BOOK.add("cutmix/cifar100-pyramidnet200")
def cifar100_pyramidnet200() -> CutMixRecipe:
    """The paper's headline: PyramidNet-200 (alpha 240) on CIFAR-100. A day on one GPU.

    partwise train cutmix/cifar100-pyramidnet200 --data cifar100:PATH

    Expect 0.841 to 0.849 with the last weights; the paper's 0.8553 is the best epoch by test error, mean of three.
    """
    return _cifar("cutmix/cifar100-pyramidnet200", "cifar100:data/cifar100", "pyramidnet200-a240")


@BOOK.add("cutmix/imagenet-resnet50")
def imagenet_resnet50() -> CutMixRecipe:
    """The paper's ResNet-50 on ImageNet: 300 epochs, batch 256, p 1. Days on several GPUs.

    partwise train cutmix/imagenet-resnet50 --data imagenet:PATH --devices 8
    """
    return CutMixRecipe(
        recipe="cutmix/imagenet-resnet50",
        data=DataFields(
            source="imagenet:data/imagenet",
            size=224,
            resize=256,
            keep_aspect=True,
            validation=0.01,
            augment=AugmentFields(crop="resized", jitter=0.4, lighting=0.1),
        ),
        model=ModelFields(backbone="resnet50"),
        optim=OptimFields(lr=0.1, weight_decay=1e-4, schedule="steps", milestones=(0.25, 0.5, 0.75)),
        train=TrainFields(epochs=300, batch_size=256),
        evaluate=EvaluateFields(every=5),
        method=CutMixFields(p=1.0, mode="batch", gate="batch"),
    )


def _localizing(recipe: str, source: str, model: ModelFields, optim: OptimFields, train: TrainFields) -> CutMixRecipe:
    """What the paper's localization experiments share: frames of 256 squashed and cropped to 224, maps of 14 x 14."""
    return CutMixRecipe(
        recipe=recipe,
        data=DataFields(source=source, size=224, resize=256, augment=AugmentFields(crop="random")),
        model=model,
        optim=optim,
        train=train,
        evaluate=EvaluateFields(suites=("classification", "localization"), every=max(1.0, train.epochs / 60)),
        method=CutMixFields(p=1.0, mode="batch", gate="batch"),
    )


RESNET_14 = ModelFields(backbone="resnet50", arguments={"last_stride": 1})
"""ResNet-50 with a `layer4` of stride 1."""
CUB_OPTIM = OptimFields(lr=1e-3, head_lr=10, weight_decay=1e-4, schedule="steps", milestones=(0.25, 0.5, 0.75))
CUB_TRAIN = TrainFields(epochs=600, batch_size=32)
WSOL_OPTIM = OptimFields(lr=0.01, head_lr=10, weight_decay=1e-4, schedule="steps", milestones=(0.3, 0.6, 0.9))
WSOL_TRAIN = TrainFields(epochs=20, batch_size=256)


@BOOK.add("cutmix/cub-resnet50")
def cub_resnet50() -> CutMixRecipe:
    """The paper's localization of birds: ResNet-50 with a finer last map, from ImageNet weights, 600 epochs. A GPU day.

    partwise train cutmix/cub-resnet50 --data cub:PATH --set model.weights=FILE

    The paper does not state p here; a later benchmark of its laboratory used 1.
    """
    return _localizing("cutmix/cub-resnet50", "cub:data/cub", RESNET_14, CUB_OPTIM, CUB_TRAIN)


@BOOK.add("cutmix/cub-vgg")
def cub_vgg() -> CutMixRecipe:
    """The paper's localization of birds with VGG-GAP, from ImageNet weights of VGG-16, at a tenth of ResNet-50's rates.

    partwise train cutmix/cub-vgg --data cub:PATH --set model.weights=FILE
    """
    optim = CUB_OPTIM.model_copy(update={"lr": 1e-4})
    return _localizing("cutmix/cub-vgg", "cub:data/cub", ModelFields(backbone="vgg-gap"), optim, CUB_TRAIN)


@BOOK.add("cutmix/imagenet-wsol-resnet50")
def imagenet_wsol_resnet50() -> CutMixRecipe:
    """The paper's localization on ImageNet: ResNet-50 with a finer last map, 20 epochs from ImageNet weights. GPU days.

    partwise train cutmix/imagenet-wsol-resnet50 --data imagenet:PATH --set model.weights=FILE --devices 8
    """
    name = "cutmix/imagenet-wsol-resnet50"
    return _localizing(name, "imagenet:data/imagenet", RESNET_14, WSOL_OPTIM, WSOL_TRAIN)


@BOOK.add("cutmix/imagenet-wsol-vgg")
def imagenet_wsol_vgg() -> CutMixRecipe:
    """The paper's localization on ImageNet with VGG-GAP, 20 epochs from ImageNet weights of VGG-16. GPU days.

    partwise train cutmix/imagenet-wsol-vgg --data imagenet:PATH --set model.weights=FILE --devices 8
    """
    name = "cutmix/imagenet-wsol-vgg"
    return _localizing(name, "imagenet:data/imagenet", ModelFields(backbone="vgg-gap"), WSOL_OPTIM, WSOL_TRAIN)


@BOOK.add("cutmix/imagefolder")
def imagefolder() -> CutMixRecipe:
    """Fine-tune a timm backbone on one's own folder of classes.

    partwise train cutmix/imagefolder --data imagefolder:DIR --set model.weights=FILE
    """
    return CutMixRecipe(
        recipe="cutmix/imagefolder",
        data=DataFields(
            source="imagefolder:data/pictures",
            size=224,
            resize=256,
            keep_aspect=True,
            augment=AugmentFields(crop="resized", scale=(0.25, 1.0)),
        ),
        model=ModelFields(backbone="resnet18"),
        optim=OptimFields(
            name="adamw",
            lr=1e-3,
            weight_decay=0.05,
            decay_norm_and_bias=False,
            head_lr=10,
            schedule="cosine",
            warmup=0.05,
            clip_norm=1.0,
        ),
        train=TrainFields(epochs=30, batch_size=64, ema=0.99),
        evaluate=EvaluateFields(suites=("classification", "localization")),
    )
