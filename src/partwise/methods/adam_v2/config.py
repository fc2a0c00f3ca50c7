"""Fields and recipes of Adam-v2 and Adam-v1. Never imports torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, NonNegativeFloat

from partwise.config import (
    JSON,
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

Level = Annotated[int, Field(ge=0, le=4)]


class AdamFields(Section):
    """Which views are compared, by which branches, and how long at each level of granularity.

    Anchors are cut from the picture, of 1 / 2^n of its side at level n; views from the anchor, parts are its quarters.
    """

    version: Literal["v2", "v1"] = Field(
        "v2",
        description="v2: views that tell where they are, and parts that make up wholes; v1: contrast with a queue, less what "
        "looks the same",
    )
    view_size: int = Field(224, ge=16, le=1024, description="side of the large views and of parts, pixels")
    local_size: int = Field(96, ge=8, le=1024, description="side of the eight small views, pixels")
    num_parts: int = Field(4, ge=1, le=64, description="equal parts of an anchor, a square number")
    localize_epochs: tuple[NonNegativeFloat, ...] = Field(
        (200.0, 200.0, 100.0),
        description="first phase, localizability alone: passes at levels 0, 1, 2, ...; none: left out. With none "
        "in either phase the encoder is measured as it is",
    )
    part_whole_epochs: tuple[NonNegativeFloat, ...] = Field(
        (10.0, 90.0, 165.0), description="second phase, with parts and wholes: passes at each level; none: left out"
    )
    localize_weight: float = Field(1.0, ge=0, description="weight of localizability in the second phase")
    compose_weight: float = Field(1.0, ge=0, description="weight of composability: the whole from its parts")
    decompose_weight: float = Field(1.0, ge=0, description="weight of decomposability: the parts from their whole")
    decompose_norm: Literal["joint", "per_part"] = Field(
        "joint",
        description="a decomposed vector is brought to unit length as one, as published, which leaves a loss of .25/D where it "
        "is right; or each part alone",
    )
    reduction: Literal["mean", "sum_dim"] = Field(
        "mean",
        description="squared differences of embeddings: averaged over dimensions, as published, which makes them a thousandth "
        "of localizability; or summed",
    )
    passes: Literal["together", "separate"] = Field(
        "together",
        description="views of one size go through the encoder in one batch; separate: as published, each part alone. Differs "
        "only where batch norm sees other batches",
    )
    grey: Literal["auto", "always", "colour"] = Field(
        "auto",
        description="auto: pictures of one channel keep it until normalised, which is faster; always: so do pictures of three, "
        "whose first is taken; colour: all four jitters, as published",
    )
    num_prototypes: int = Field(65_536, ge=2, description="outputs of the head that tells views apart (K)")
    hidden: int = Field(2048, ge=1, description="hidden values of the heads")
    bottleneck: int = Field(256, ge=1, description="length of the vectors that are compared with prototypes")
    student_temperature: float = Field(0.1, gt=0, description="divides the student's cosines with prototypes")
    teacher_temperature: float = Field(0.04, gt=0, description="divides the teacher's: the lower, the surer it is")
    centre_momentum: float = Field(
        0.9, ge=0, lt=1, description="of the centre, which is taken from the teacher's answers"
    )
    momentum: float = Field(
        0.996,
        ge=0,
        le=1,
        description="share that the teacher keeps of itself a step; rises to 1 by half a cosine over a phase",
    )
    warmup_epochs: float = Field(10.0, ge=0, description="passes of a phase with a linear rise of the rate")
    freeze_epochs: float = Field(1.0, ge=0, description="passes at the start of a phase in which the prototypes stay")
    clip_each: float | None = Field(3.0, gt=0, description="largest norm of each gradient tensor alone; None: no limit")
    decomposer: Literal["grid", "binary_split"] = Field(
        "grid",
        description="v1: patches of level n. grid: n x n, as in the code; binary_split: 2^n halves, as in the paper",
    )
    contrast_levels: tuple[Level, ...] = Field((0, 2, 4), description="v1: levels, each a phase of its own")
    contrast_epochs: float = Field(200.0, gt=0, description="v1: passes at each level")
    contrast_dim: int = Field(128, ge=2, description="v1: length of the vectors that are compared")
    contrast_temperature: float = Field(0.2, gt=0, description="v1: divides cosines with keys")
    queue: int = Field(65_536, ge=1, description="v1: keys of earlier pictures that are remembered")
    prune: float | None = Field(
        0.8, gt=0, le=1, description="v1: from level 1 on, keys of at least this cosine are no negatives; None: all are"
    )
    key_momentum: float = Field(0.999, ge=0, le=1, description="v1: share that the key network keeps of itself a step")


class AdamRecipe(Recipe):
    """An encoder of anatomy from pictures without labels."""

    method: AdamFields = AdamFields()


PAPER = Paper(
    title="Representing Part-Whole Hierarchies in Foundation Models by Learning Localizability, Composability, and "
    "Decomposability from Anatomy via Self-Supervision",
    year=2024,
    link="https://arxiv.org/abs/2404.15672",
    claims=tuple(
        Claim(
            f"embedding/fewshot_dice_{organ}_{shots}",
            "JSRT, fine-tuned",
            value,
            "few-shot table of the poster",
            "adam_v2/parity-rn50",
            "encoder (its kind is not named) and U-Net learn on; here by `evaluate --on cxrmasks:DIR`, frozen",
        )
        for organ, values in {
            "clavicles": (0.7359, 0.7957, 0.8400, 0.8596),
            "heart": (0.8688, 0.8987, 0.9047, 0.9139),
        }.items()
        for shots, value in zip((3, 6, 12, 24), values, strict=True)
    ),
)

BOOK = RecipeBook(AdamRecipe, PAPER)
PLAIN = AugmentFields(crop="none", flip=False)
"""Pictures as they are: every view is the method's, and left and right stay what they are."""
EVALUATE = EvaluateFields(
    suites=("embedding",), during=("embedding",), best_by="embedding/compose_margin", every=10, batch_size=64
)
ADAMW = OptimFields(
    name="adamw",
    lr=5e-4,
    momentum=0.9,
    weight_decay=0.04,
    final_weight_decay=0.4,
    decay_norm_and_bias=False,
    schedule="cosine",
    final=1e-3,
)
"""As published, for 256 pictures a step; recipes scale the rate by hand."""

TORCHVISION: Mapping[str, JSON] = {"zero_init_last": False}
"""How torchvision's ResNets start, which the published code trains; timm's begin with their last norms at 0."""


def _published(recipe: str, backbone: str) -> AdamRecipe:
    """What the published settings share: 512 pictures of 1024 px a step, twice the rate of 256."""
    return AdamRecipe(
        recipe=recipe,
        data=DataFields(source="chestxray14:data/ChestX-ray14", size=1024, augment=PLAIN),
        model=ModelFields(backbone=backbone, arguments=dict(TORCHVISION) if backbone == "resnet50" else {}),
        optim=ADAMW.model_copy(update={"lr": 1e-3}),
        train=TrainFields(batch_size=512),
        evaluate=EVALUATE,
        method=AdamFields(passes="separate", grey="colour"),
    )


@BOOK.add("adam_v2/parity-rn50")
def parity_rn50() -> AdamRecipe:
    """Adam-v2 with a ResNet-50 as its published code trains it: 765 passes over 75,312 chest X-rays. Eight GPUs, days.

    partwise train adam_v2/parity-rn50 --data chestxray14:DIR
    """
    base = _published("adam_v2/parity-rn50", "resnet50")
    return base.model_copy(update={"evaluate": base.evaluate.model_copy(update={"suites": ("embedding", "fewshot")})})


@BOOK.add("adam_v2/parity-convnext-b")
def parity_convnext_b() -> AdamRecipe:
    """Adam-v2 with a ConvNeXt-B as its published code trains it; the paper has 926,000 pictures of 13 sets. GPU weeks.

    partwise train adam_v2/parity-convnext-b --data images:DIR
    """
    return _published("adam_v2/parity-convnext-b", "convnext_base")


def _fixed(base: AdamRecipe, name: str) -> AdamRecipe:
    """What is mended: parts of a vector count alone, and parts and wholes as much as places."""
    fields = {"decompose_norm": "per_part", "reduction": "sum_dim", "passes": "together", "grey": "auto"}
    return base.model_copy(update={"recipe": name, "method": base.method.model_copy(update=fields)})


@BOOK.add("adam_v2/fixed-rn50")
def fixed_rn50() -> AdamRecipe:
    """As `adam_v2/parity-rn50`, with the losses on parts and wholes at full weight and without their offset.

    partwise train adam_v2/fixed-rn50 --data chestxray14:DIR
    """
    return _fixed(_published("adam_v2/fixed-rn50", "resnet50"), "adam_v2/fixed-rn50")


@BOOK.add("adam_v2/fixed-convnext-b")
def fixed_convnext_b() -> AdamRecipe:
    """As `adam_v2/parity-convnext-b`, with the losses on parts and wholes at full weight and without their offset.

    partwise train adam_v2/fixed-convnext-b --data images:DIR
    """
    return _fixed(_published("adam_v2/fixed-convnext-b", "convnext_base"), "adam_v2/fixed-convnext-b")


@BOOK.add("adam_v2/v1-rn50")
def v1_rn50() -> AdamRecipe:
    """Adam-v1, MICCAI 2023 workshop: contrast of anatomical patches, coarse to fine, pruned of those that look the same.

    partwise train adam_v2/v1-rn50 --data chestxray14:DIR
    """
    return AdamRecipe(
        recipe="adam_v2/v1-rn50",
        data=DataFields(source="chestxray14:data/ChestX-ray14", size=1024, augment=PLAIN),
        model=ModelFields(backbone="resnet50", arguments=dict(TORCHVISION)),
        optim=OptimFields(name="sgd", lr=0.03, momentum=0.9, nesterov=False, weight_decay=1e-4, schedule="cosine"),
        train=TrainFields(batch_size=256),
        evaluate=EVALUATE,
        method=AdamFields(version="v1", clip_each=None, warmup_epochs=0),
    )


def _small(recipe: str, source: str, *, size: int, view: int) -> AdamRecipe:
    """What the recipes for two cores share: a small network, few prototypes, a teacher that is surer and follows faster.

    In trials with the published temperature the answers to all pictures became alike on some hundred generated chests.
    """
    return AdamRecipe(
        recipe=recipe,
        data=DataFields(source=source, size=size, augment=PLAIN),
        model=ModelFields(backbone="resnet10t"),
        optim=ADAMW.model_copy(update={"lr": 2e-3}),
        train=TrainFields(batch_size=16),
        evaluate=EVALUATE,
        method=AdamFields(
            view_size=view,
            local_size=view // 2,
            num_prototypes=512,
            hidden=512,
            bottleneck=64,
            teacher_temperature=0.02,
            momentum=0.99,
            decompose_norm="per_part",
            reduction="sum_dim",
        ),
    )


@BOOK.add("adam_v2/smoke")
def smoke() -> AdamRecipe:
    """Seconds on any machine, on generated chests: shows that both phases work, and nothing else.

    partwise train adam_v2/smoke
    """
    base = _small("adam_v2/smoke", "radiographs:?size=64&train=32&val=16&test=16", size=64, view=32)
    fields = {
        "num_prototypes": 64,
        "hidden": 32,
        "bottleneck": 16,
        "localize_epochs": (1.0, 1.0),
        "part_whole_epochs": (1.0, 1.0),
        "warmup_epochs": 1.0,
        "local_size": 16,
    }
    return base.model_copy(
        update={
            "model": ModelFields(backbone="cifar-resnet", arguments={"depth": 8}),
            "train": TrainFields(batch_size=16, log_every=1, checkpoint_seconds=1),
            "evaluate": EVALUATE.model_copy(update={"every": 1.0}),
            "method": base.method.model_copy(update=fields),
        }
    )


@BOOK.add("adam_v2/demo")
def demo() -> AdamRecipe:
    """Generated chests without labels, and an encoder that knows their places, parts and wholes. Minutes on two cores.

    partwise train adam_v2/demo
    """
    base = _small("adam_v2/demo", "radiographs:?size=128&train=600&val=100&test=200", size=128, view=64)
    fields = {"localize_epochs": (2.0, 18.0), "part_whole_epochs": (5.0, 15.0), "warmup_epochs": 2.0}
    return base.model_copy(update={"method": base.method.model_copy(update=fields)})


@BOOK.add("adam_v2/cxr-small")
def cxr_small() -> AdamRecipe:
    """Real chest X-rays on two cores: a small encoder, and what it does with three outlined pictures.

    partwise train adam_v2/cxr-small --data cxrmasks:DIR
    """
    base = _small("adam_v2/cxr-small", "cxrmasks:data/chest_xray_masks?part=jsrt", size=192, view=64)
    fields = {
        "grey": "always",
        "localize_epochs": (2.0, 28.0),
        "part_whole_epochs": (5.0, 20.0),
        "warmup_epochs": 3.0,
    }
    return base.model_copy(
        update={
            "evaluate": base.evaluate.model_copy(update={"suites": ("embedding", "fewshot")}),
            "method": base.method.model_copy(update=fields),
        }
    )


@BOOK.add("adam_v2/encoder")
def encoder() -> AdamRecipe:
    """Any encoder as it is, measured and not trained: a timm name, random or from a local file of weights.

    partwise train adam_v2/encoder --data cxrmasks:DIR --set model.backbone=resnet50 --set model.weights=FILE
    """
    return AdamRecipe(
        recipe="adam_v2/encoder",
        data=DataFields(source="cxrmasks:data/chest_xray_masks?part=jsrt", size=448, augment=PLAIN),
        model=ModelFields(backbone="resnet50"),
        evaluate=EVALUATE.model_copy(update={"suites": ("embedding", "fewshot")}),
        method=AdamFields(num_prototypes=2, hidden=1, bottleneck=1, localize_epochs=(), part_whole_epochs=()),
    )


@BOOK.add("adam_v2/folder")
def folder() -> AdamRecipe:
    """An encoder from a folder of your own pictures, without labels; for one GPU and some thousand pictures.

    partwise train adam_v2/folder --data images:DIR
    """
    base = _small("adam_v2/folder", "images:data/pictures", size=512, view=224)
    fields = {
        "local_size": 96,
        "num_prototypes": 4096,
        "hidden": 2048,
        "bottleneck": 256,
        "teacher_temperature": 0.04,
        "localize_epochs": (60.0, 60.0, 30.0),
        "part_whole_epochs": (10.0, 30.0, 50.0),
        "warmup_epochs": 10.0,
        "momentum": 0.996,
    }
    return base.model_copy(
        update={
            "model": ModelFields(backbone="resnet50"),
            "train": TrainFields(batch_size=64),
            "optim": ADAMW.model_copy(update={"lr": 5e-4 * 64 / 256}),
            "method": base.method.model_copy(update=fields),
        }
    )
