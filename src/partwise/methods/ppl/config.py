"""Fields and recipes of progressive patch learning. Never imports torch.

The authors published no code, and of their tables only the headline is known: every setting here is a re-creation. What is
drawn in the paper's figures is fixed; the rest are fields, with the values of the code bases that its pipeline builds on.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

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

IMAGENET_BORDER = (124, 116, 104)
"""ImageNet's mean colour: a border of it is zero once pictures are normalised."""

Sharpener = Literal["none", "pamr", "irn", "psa", "seam", "deeplab", "afa", "toco"]
"""What draws labels to the edges of a picture: nothing, PAMR, or a dense CRF by where its settings were published."""

Scale = Annotated[float, Field(gt=0, le=8)]
"""The size at which a network sees a picture, as a multiple of its own."""


class MapFields(Section):
    """How class maps are read from the classifier and turned into labels of pixels."""

    scales: tuple[Scale, ...] = Field(
        (1.0, 0.5, 1.5, 2.0), min_length=1, description="sizes of the picture that maps are summed over"
    )
    flip: bool = Field(True, description="each size also mirrored")
    half: Literal["full", "global", "patch"] = Field(
        "full",
        description="full: all branches, as the paper reads its maps; global: the uncut one, half the cost and no seams; "
        "patch: the cut ones",
    )
    seam_average: bool = Field(
        False, description="average maps of two placements of the cuts, so that their cross-shaped seams fade"
    )
    normalise: Literal["max", "minmax"] = Field(
        "max", description="each class by its greatest value (IRN); minmax: its least value subtracted first (SEAM)"
    )
    threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="background score of maps; None: the best by mIoU on validation pictures with masks, else 0.15",
    )
    longest: int = Field(1024, ge=32, description="pictures with a longer side are reduced to this before the network")


class AffinityFields(Section):
    """How maps grow to the borders of objects: a network that learns which pixels belong together, and a random walk."""

    kind: Literal["irn", "affinitynet", "none"] = Field(
        "irn", description="irn: class boundaries (IRN); affinitynet: features of like pixels (PSA); none: no walk"
    )
    foreground: float = Field(
        0.30, ge=0, le=1, description="background score of the maps that confident objects exceed"
    )
    background: float = Field(0.05, ge=0, le=1, description="background score that confident ground stays below")
    crf: Sharpener = Field(
        "irn",
        description="what sharpens the confident labels: a dense CRF by its origin, or pamr",
    )
    epochs: float = Field(3.0, gt=0, description="passes of the affinity network over the training pictures")
    batch_size: int = Field(32, ge=1, description="pictures a step of the affinity network")
    optim: OptimFields = Field(
        OptimFields(lr=0.1, head_lr=1.0, momentum=0.0, nesterov=False, schedule="poly", weight_decay=1e-4),
        description="optimiser of the affinity network; momentum 0, as the published code in effect has it",
    )
    stride: int = Field(
        4,
        ge=1,
        le=32,
        description="pixels a cell of irn's boundaries and of the walk, where the backbone has so fine a stage",
    )
    radius: int = Field(10, ge=2, le=20, description="pixels of the map within which pairs are compared in training")
    displacement: bool = Field(False, description="also learn IRN's displacement field, which only instances need")
    walk_radius: int = Field(5, ge=2, le=20, description="pixels of the map within which the walk steps")
    beta: float = Field(10.0, gt=0, description="power of the affinities of the walk")
    steps: int = Field(256, ge=1, description="steps of the walk")


class PseudoFields(Section):
    """The masks that the segmentation network learns from."""

    threshold: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="background score after the walk; None: the best by mIoU on validation pictures with masks, else 0.25",
    )
    crf: Sharpener = Field("none", description="dense CRF, or pamr, on the pseudo masks")


class SegmentationFields(Section):
    """The segmentation network."""

    head: Literal["deeplab-v1", "deeplab-v2", "deeplab-v3+"] = Field("deeplab-v2", description="the network's head")
    rate_scale: float = Field(
        1.0,
        gt=0,
        le=4,
        description="the head's atrous rates as a multiple of its paper's; small pictures need smaller ones",
    )
    start: Literal["classifier", "weights", "random"] = Field(
        "classifier", description="the backbone begins with: the classifier's weights, model.weights, or random ones"
    )
    arguments: dict[str, JSON] | None = Field(
        None, description="handed to the backbone's builder, such as output_stride: 8; None: model.arguments"
    )
    freeze_norm: bool = Field(True, description="batch norm keeps the statistics it starts with")
    loss: Literal["ce", "balanced_ce"] = Field(
        "balanced_ce",
        description="balanced_ce: ground and objects averaged apart, then summed, which ImageNet starts need",
    )
    epochs: float = Field(30.0, gt=0, description="passes over the training pictures")
    batch_size: int = Field(10, ge=1, description="pictures a step")
    optim: OptimFields = Field(
        OptimFields(lr=2.5e-4, head_lr=10.0, nesterov=False, schedule="poly", weight_decay=5e-4),
        description="optimiser of the segmentation network; the head's weights learn at head_lr times the rate",
    )
    scales: tuple[Scale, ...] = Field(
        (1.0,), min_length=1, description="sizes of the picture that answers are averaged over"
    )
    flip: bool = Field(True, description="each size also mirrored")
    crf: Sharpener = Field("none", description="dense CRF, or pamr, on the network's answer")


class PplFields(Section):
    """Patch learning, and what is made of its maps."""

    mode: Literal["baseline", "single", "ppl", "epl"] = Field(
        "ppl", description="baseline: no patches; single: one cut; ppl: cuts in turn; epl: all cuts at once"
    )
    positions: tuple[int, ...] = Field(
        (),
        description="blocks of the backbone behind which maps are cut, 0 the first; empty: the three before the last",
    )
    grids: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(
        (2,), min_length=1, description="patches a side: one number, or one for each position"
    )
    schedule: Literal["sequential", "interleaved"] = Field(
        "sequential", description="ppl's cuts one after the other, or one step of each for every batch"
    )
    detach: bool | None = Field(
        None, description="stop gradients in front of the cuts; None: in epl, as its figure shows, and not in ppl"
    )
    warmup_epochs: float = Field(0.0, ge=0, description="passes of a plain classifier before any patches")
    later_epochs: float = Field(3.0, gt=0, description="passes of every cut after the first, which has train.epochs")
    later_lr: float = Field(0.1, gt=0, description="rate of what follows the first stage as a multiple of optim.lr")
    freeze_through: int = Field(
        -1, ge=-1, description="blocks up to this number do not learn, once patches are in play; -1: all learn"
    )
    freeze_norm: bool = Field(
        True, description="batch norm keeps its statistics while patches are in play (patches would change them)"
    )
    maps: MapFields = Field(MapFields(), description="from the classifier to maps")
    affinity: AffinityFields = Field(AffinityFields(), description="from maps to borders")
    pseudo: PseudoFields = Field(PseudoFields(), description="from borders to masks")
    segmentation: SegmentationFields = Field(SegmentationFields(), description="from masks to a network")
    until: Literal["maps", "masks", "network"] = Field(
        "network", description="how far the run goes: the classifier's maps, pseudo masks, the segmentation network"
    )


class PplRecipe(Recipe):
    """From labels of whole pictures to masks, and to a network that makes masks."""

    method: PplFields = PplFields()


PAPER = Paper(
    title="Weakly Supervised Semantic Segmentation via Progressive Patch Learning",
    year=2022,
    link="https://arxiv.org/abs/2209.07828",
    claims=(
        Claim(
            "segmentation/miou",
            "PASCAL VOC 2012 test",
            0.696,
            "abstract",
            "ppl/voc12-resnet50",
            "as claimed; the recipe is a re-creation whose settings the paper's authors never published",
        ),
    ),
)

BOOK = RecipeBook(PplRecipe, PAPER)
SUITES = ("segmentation", "pseudo_masks")


@BOOK.add("ppl/smoke")
def smoke() -> PplRecipe:
    """Seconds on any machine, on generated pictures: shows that every stage works, and nothing else.

    partwise train ppl/smoke
    """
    return PplRecipe(
        recipe="ppl/smoke",
        data=DataFields(source="creatures:?size=32&classes=3&objects=2&train=48&val=12&test=12", size=32),
        model=ModelFields(backbone="cifar-resnet", arguments={"depth": 8}),
        optim=OptimFields(lr=0.05, schedule="poly"),
        train=TrainFields(epochs=1, batch_size=16, log_every=1, checkpoint_seconds=1),
        evaluate=EvaluateFields(suites=("classification", *SUITES), best_by="classification/map"),
        method=PplFields(
            warmup_epochs=1,
            later_epochs=1,
            maps=MapFields(scales=(1.0, 0.5)),
            affinity=AffinityFields(epochs=1, batch_size=16, radius=4, walk_radius=3, steps=16),
            segmentation=SegmentationFields(epochs=1, batch_size=16, rate_scale=0.1),
        ),
    )


@BOOK.add("ppl/demo")
def demo() -> PplRecipe:
    """Masks of generated creatures, one to three a picture, from nothing but which of them are there. Minutes on two cores.

    partwise train ppl/demo
    """
    return PplRecipe(
        recipe="ppl/demo",
        data=DataFields(
            source="creatures:?size=96&classes=6&objects=3&train=3000&val=200&test=400",
            size=96,
            augment=AugmentFields(crop="pad", padding=8),
        ),
        model=ModelFields(
            backbone="cifar-resnet", arguments={"depth": 20, "stem_stride": 2, "widths": [16, 32, 64], "last_stride": 1}
        ),
        optim=OptimFields(lr=0.1, weight_decay=5e-4, schedule="one_cycle", peak=0.25),
        train=TrainFields(epochs=4, batch_size=32),
        evaluate=EvaluateFields(suites=("classification", *SUITES), best_by="classification/map"),
        method=PplFields(
            warmup_epochs=16,
            later_epochs=4,
            later_lr=1.0,  # with batch norm at work; frozen, a third of this already breaks it down
            freeze_norm=False,
            maps=MapFields(scales=(1.0, 0.5, 1.5)),
            affinity=AffinityFields(
                foreground=0.25,
                background=0.08,
                crf="pamr",
                epochs=4,
                batch_size=32,
                optim=OptimFields(lr=0.1, schedule="poly", weight_decay=1e-4),
                stride=2,
                radius=5,
                beta=40,
                steps=128,
            ),
            pseudo=PseudoFields(crf="pamr"),
            segmentation=SegmentationFields(
                rate_scale=0.25,
                freeze_norm=False,
                epochs=12,
                batch_size=32,
                optim=OptimFields(lr=0.01, head_lr=1.0, schedule="poly", warmup=0.05, weight_decay=5e-4),
            ),
        ),
    )


def _voc(recipe: str, source: str) -> PplRecipe:
    """What the re-creations on real photographs share: preset A of the specification, after IRN and DeepLab-v2."""
    return PplRecipe(
        recipe=recipe,
        data=DataFields(
            source=source,
            size=512,
            augment=AugmentFields(crop="scaled", long_side=(320, 640), border=IMAGENET_BORDER),
        ),
        model=ModelFields(backbone="resnet50", arguments={"last_stride": 1}),
        optim=OptimFields(
            lr=0.1, head_lr=10.0, momentum=0.0, nesterov=False, schedule="poly", power=0.9, weight_decay=1e-4
        ),
        train=TrainFields(epochs=5, batch_size=16),
        evaluate=EvaluateFields(suites=("classification", *SUITES), best_by="classification/map", batch_size=16),
        method=PplFields(
            freeze_through=1,
            segmentation=SegmentationFields(
                arguments={"output_stride": 8}, scales=(0.5, 0.75, 1.0, 1.25, 1.5), crf="deeplab"
            ),
        ),
    )


@BOOK.add("ppl/voc12-resnet50")
def voc12_resnet50() -> PplRecipe:
    """Re-creation on PASCAL VOC 2012 with a ResNet-50: IRN's classifier settings, its boundaries, DeepLab-v2. GPU hours.

    partwise train ppl/voc12-resnet50 --data voc:DIR?train=train_aug --set model.weights=FILE

    Starts from ImageNet weights in a local file. The paper claims 0.696 on the test server; what this recipe gives is not
    known. Without weights it tests the mechanism alone.
    """
    return _voc("ppl/voc12-resnet50", "voc:data/VOCdevkit/VOC2012?train=train_aug")


@BOOK.add("ppl/voc12-resnet50-epl")
def voc12_resnet50_epl() -> PplRecipe:
    """Re-creation of explicit patch learning (figure 5) on PASCAL VOC 2012: all cuts at once, one training. GPU hours.

    partwise train ppl/voc12-resnet50-epl --data voc:DIR?train=train_aug --set model.weights=FILE
    """
    base = _voc("ppl/voc12-resnet50-epl", "voc:data/VOCdevkit/VOC2012?train=train_aug")
    return base.model_copy(update={"method": base.method.model_copy(update={"mode": "epl"})})


@BOOK.add("ppl/voc12-resnet38")
def voc12_resnet38() -> PplRecipe:
    """Re-creation on PASCAL VOC 2012 with a wide ResNet-38: the settings of SEAM and AffinityNet. GPU hours.

    partwise train ppl/voc12-resnet38 --data voc:DIR?train=train_aug --set model.weights=FILE
    """
    base = _voc("ppl/voc12-resnet38", "voc:data/VOCdevkit/VOC2012?train=train_aug")
    data = base.data.model_copy(
        update={
            "size": 448,
            "augment": base.data.augment.model_copy(update={"long_side": (448, 768), "jitter": 0.3}),
        }
    )
    method = PplFields(
        freeze_through=0,
        later_epochs=4,
        positions=(1, 2, 3, 4),
        maps=MapFields(normalise="minmax"),
        affinity=AffinityFields(
            kind="affinitynet",
            crf="psa",
            epochs=8,
            batch_size=8,
            radius=5,
            walk_radius=5,
            beta=8,
            optim=OptimFields(lr=0.1, head_lr=10.0, momentum=0.0, nesterov=False, schedule="poly", weight_decay=5e-4),
        ),
        segmentation=SegmentationFields(
            head="deeplab-v1",
            loss="ce",
            optim=OptimFields(lr=1e-3, head_lr=10.0, nesterov=False, schedule="poly", weight_decay=5e-4),
            scales=(0.5, 0.75, 1.0, 1.25, 1.5, 1.75),
            crf="psa",
        ),
    )
    return base.model_copy(
        update={
            "data": data,
            "model": ModelFields(backbone="resnet38"),
            "optim": base.optim.model_copy(update={"lr": 0.01, "weight_decay": 5e-4}),
            "train": base.train.model_copy(update={"epochs": 8.0, "batch_size": 8}),
            "method": method,
        }
    )


@BOOK.add("ppl/coco14-resnet50")
def coco14_resnet50() -> PplRecipe:
    """The same on COCO 2014, 80 classes, pictures without any class included; the paper has no such number. GPU days.

    partwise train ppl/coco14-resnet50 --data coco:DIR --set model.weights=FILE
    """
    return _voc("ppl/coco14-resnet50", "coco:data/coco")


@BOOK.add("ppl/folder")
def folder() -> PplRecipe:
    """One's own photographs with a table of what is in each, and a network that makes masks of them.

    partwise train ppl/folder --data csv:TABLE.csv --set model.weights=FILE

    Starts from random weights unless a local file of a ResNet-18 is given; masks in the table's `mask` column are used to
    choose thresholds and to score, never to train.
    """
    base = _photographs("ppl/folder", "csv:data/pictures/labels.csv")
    return base.model_copy(
        update={"data": base.data.model_copy(update={"size": 224}), "train": TrainFields(epochs=10, batch_size=16)}
    )


def _photographs(recipe: str, source: str) -> PplRecipe:
    """A few hundred photographs and no weights from elsewhere: small pictures, a small network, more passes."""
    return PplRecipe(
        recipe=recipe,
        data=DataFields(
            source=source,
            size=128,
            augment=AugmentFields(crop="scaled", long_side=(112, 192), border=IMAGENET_BORDER),
        ),
        model=ModelFields(backbone="resnet18", arguments={"last_stride": 1}),
        optim=OptimFields(lr=0.05, weight_decay=5e-4, schedule="one_cycle", peak=0.25),
        train=TrainFields(epochs=5, batch_size=16),
        evaluate=EvaluateFields(suites=("classification", *SUITES), during=("classification",), every=5, batch_size=32),
        method=PplFields(
            warmup_epochs=30,
            later_epochs=5,
            later_lr=0.1,
            maps=MapFields(scales=(1.0, 0.5, 1.5), longest=192),
            affinity=AffinityFields(epochs=5, batch_size=16, radius=5),
            segmentation=SegmentationFields(
                freeze_norm=False,
                epochs=30,
                batch_size=16,
                rate_scale=0.35,
                optim=OptimFields(lr=0.02, head_lr=5.0, schedule="poly", weight_decay=5e-4),
            ),
        ),
    )


@BOOK.add("ppl/pets3")
def pets3() -> PplRecipe:
    """Three breeds of cats and dogs, from random weights, on two cores: shows the mechanism, not the paper's number.

    partwise train ppl/pets3 --data pets:DIR
    """
    return _photographs("ppl/pets3", "pets:data/pets")


@BOOK.add("ppl/horses")
def horses() -> PplRecipe:
    """Cats, dogs and horses in the VOC layout, from random weights, on two cores: shows the mechanism alone.

    partwise train ppl/horses --data voc:DIR?classes=present
    """
    return _photographs("ppl/horses", "voc:data/VOCdevkit/VOC2012?classes=present")
