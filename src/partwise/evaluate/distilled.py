"""What a distilled set is worth: fresh networks are trained on it alone and named pictures are counted.

Each is trained under the base method's own augmentation (`noflip`: of its operations the flip is one in six, or there is
none) and again with a flip drawn at every step (`flip`), because a set that was distilled with mirror images gains or
loses by that alone. Beside it stand the same networks on as many real pictures, random or k-centre, and on all of them:
without those the number means nothing. For each picture a row holds its pixels; networks are trained in `conclude`, so
that neither batches nor processes change them.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch
from partwise.data.siamese import AugmentRule
from partwise.evaluate.base import Evaluation, Evaluator, Images, Redraw, Rows
from partwise.evaluate.fresh_networks import (
    embeddings,
    flip_rule,
    fresh_network,
    kcentre_places,
    random_places,
    share_right,
    train_fresh,
)
from partwise.evaluate.trials import TrialFields
from partwise.models.distillation import FlatClassifier
from partwise.ops import draws
from partwise.ops.flips import picture_unequalness

if TYPE_CHECKING:
    from partwise.report.values import Cell, Picture

ARMS = ("plain", "flip", "fyi")
CELLS = ("noflip", "flip")
NETWORKS = ("convnet", "alexnet", "vgg11", "resnet18")
CONTROLS = ("random", "kcentre", "whole")
HELD_OUT = 1000
"""Training pictures by which the step size of the random control is chosen."""
CONTROL_LR = 0.01


@dataclass(frozen=True)
class Exhibit:
    """A distilled set with all that its trial needs.

    `images` `(M, ch, S, S)` as networks see them, `labels` int64 `(M,)`, `per_class` the pictures that are stored of a class,
    `arm` how it was distilled (ARMS), `lr` the step size of the trial, `network` an architecture of models/distillation.py.
    """

    images: Tensor
    labels: Tensor
    per_class: int
    arm: str
    network: str
    arguments: Mapping[str, Any]
    lr: float
    fields: TrialFields
    seed: int


@runtime_checkable
class DistilledSet(Protocol):
    """Holds a few pictures that stand for many."""

    @property
    def classes(self) -> Sequence[str]:
        """The names of the K classes."""

    def exhibit(self) -> Exhibit:
        """The set as it is now."""

    def seen(self, images: Tensor, /) -> Tensor:
        """Pictures `(B, ch, S, S)` in [0, 1] as networks that learned from the set see them."""


def short_name(architecture: str) -> str:
    """An architecture in the name of a number: `convnet-d3` and its likes are `convnet`."""
    return "convnet" if architecture.startswith("convnet") else architecture.replace("-", "_")


def normalised_exponential(value: float) -> float:
    """DD-Ranking's map of a score in [-1, 1] to [0, 1]: `(e^a - e^-1) / (e - e^-1)`."""
    return (math.exp(value) - math.exp(-1)) / (math.e - math.exp(-1))


def label_robust_score(synthetic: float, random: float, whole: float, *, weight: float = 0.5) -> float:
    """DD-Ranking's LRS of accuracies as shares: `a = w (synthetic - random) - (1 - w) (whole - synthetic)`, then mapped."""
    return normalised_exponential(weight * (synthetic - random) - (1 - weight) * (whole - synthetic))


def augmentation_robust_score(gain: float, gain_without: float, *, weight: float = 0.5) -> float:
    """DD-Ranking's ARS: gains over random pictures with and without augmentation, weighed, then mapped."""
    return normalised_exponential(weight * gain + (1 - weight) * gain_without)


class Distilled(Evaluator):
    """Accuracy of fresh networks on a distilled set, with its controls."""

    suite: ClassVar[str] = "distilled"
    metrics: ClassVar[tuple[str, ...]] = (
        *(
            f"{arm}-{cell}/{net}_top1{end}"
            for arm in ARMS
            for cell in CELLS
            for net in NETWORKS
            for end in ("", "_std")
        ),
        *(f"{cell}/{control}_top1" for cell in CELLS for control in CONTROLS),
        "lrs",
        "ars",
        "unequalness",
    )
    needs: ClassVar[type] = DistilledSet
    wants: ClassVar[frozenset[str]] = frozenset({"targets"})
    needs_gradient: ClassVar[bool] = True
    one_class: ClassVar[bool] = True
    uses_validation: ClassVar[bool] = True
    learns_on: ClassVar[str] = "train"

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self._model: DistilledSet | None = None

    def measure(self, model: DistilledSet, batch: Batch) -> Rows:
        """The pixels of each picture, as bytes, and its class."""
        assert batch.targets is not None
        self._model = model
        pixels = batch.images if not batch.images.is_floating_point() else (batch.images * 255).round().to(torch.uint8)
        return {"pixels": pixels, "target": batch.targets}

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """Train and count. `validation` are the training pictures, from which the controls come."""
        assert self._model is not None
        trial = _Trial(self._model, rows)
        found = Evaluation()
        for cell in CELLS:
            trial.try_set(found, cell)
        if validation is not None and trial.exhibit.fields.controls:
            for cell in CELLS:
                trial.try_controls(found, cell, validation)
            trial.score(found)
        unequal = picture_unequalness(trial.exhibit.images).mean()
        found.found("distilled/unequalness", float(unequal), n=trial.count, pictures=len(trial.exhibit.labels))
        if images is not None:
            found.pictures.append(trial.picture())
        return found


class _Trial:
    """One set put to the trial on one split."""

    def __init__(self, model: DistilledSet, rows: Rows) -> None:
        self.model, self.exhibit = model, model.exhibit()
        self.classes = model.classes
        self.device = self.exhibit.images.device
        self.pixels, self.targets = rows["pixels"].to(self.device), rows["target"].to(self.device)
        self.count = len(self.targets)
        if not bool((self.targets >= 0).all()):
            raise UserError("suite 'distilled': some pictures have no class")
        self.means: dict[str, float] = {}
        self.bars: dict[str, dict[str, list[float]]] = {}
        self._whole: dict[str, FlatClassifier] = {}
        self._kcentre: Tensor | None = None

    def prepare(self, pixels: Tensor) -> Tensor:
        """Bytes as networks see them."""
        return self.model.seen(pixels.to(self.device).float() / 255)

    def network(self, architecture: str, *key: str | int) -> FlatClassifier:
        """A fresh one, a function of the seed and of what it is for."""
        exhibit = self.exhibit
        made = fresh_network(
            architecture,
            exhibit.arguments if architecture == exhibit.network else {},
            num_classes=len(self.classes),
            size=exhibit.images.shape[-1],
            channels=exhibit.images.shape[1],
            seed=draws.derive(exhibit.seed, "trial", "weights", *key),
        )
        return made.to(self.device)

    def rule(self, cell: str) -> AugmentRule:
        """The augmentation of one column of the table."""
        fields = self.exhibit.fields
        return flip_rule(fields.convention, fields.strategy, flip=cell == "flip")

    def trained(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        architecture: str,
        cell: str,
        key: tuple[str | int, ...],
        lr: float,
        whole: bool = False,
    ) -> FlatClassifier:
        """A network trained on float pictures as networks see them, or on bytes."""
        exhibit = self.exhibit
        network = self.network(architecture, *key)
        train_fresh(
            network,
            images,
            labels,
            trial=exhibit.fields,
            rule=self.rule(cell),
            lr=lr,
            epochs=exhibit.fields.whole_epochs if whole else exhibit.fields.epochs,
            seed=draws.derive(exhibit.seed, "trial", "order", cell, *key),
            prepare=None if images.is_floating_point() else self.prepare,
        )
        return network

    def top1(self, network: FlatClassifier) -> float:
        """The share of the split's pictures that a network names right."""
        return share_right(network, self.pixels, self.targets, self.prepare)

    def record(self, found: Evaluation, cell: str, name: str, label: str, each: Sequence[float], **facts: Any) -> None:
        """The mean over networks, with every value beside it; `label` is its name in the picture."""
        self.means[name] = statistics.fmean(each)
        self.bars.setdefault(cell, {})[label] = list(each)
        found.found(f"distilled/{name}", self.means[name], n=self.count, networks=len(each), each=list(each), **facts)

    # -- the set ---------------------------------------------------------------------------------------------------------

    def try_set(self, found: Evaluation, cell: str) -> None:
        """Networks of every architecture on the set."""
        exhibit = self.exhibit
        for architecture in dict.fromkeys((exhibit.network, *exhibit.fields.others)):
            each = []
            for number in range(exhibit.fields.networks):
                network = self.trained(
                    exhibit.images,
                    exhibit.labels,
                    architecture=architecture,
                    cell=cell,
                    key=(architecture, number),
                    lr=exhibit.lr,
                )
                each.append(self.top1(network))
            name = f"{exhibit.arm}-{cell}/{short_name(architecture)}_top1"
            label = f"set: {short_name(architecture)}"
            self.record(found, cell, name, label, each, epochs=exhibit.fields.epochs, lr=exhibit.lr)
            if len(each) > 1:
                found.found(f"distilled/{name}_std", statistics.stdev(each), n=self.count, networks=len(each))
            else:
                found.leave_out(f"distilled/{name}_std", "there is only one network")

    # -- real pictures ---------------------------------------------------------------------------------------------------

    def try_controls(self, found: Evaluation, cell: str, real: Rows) -> None:
        """The same network on as many random and k-centre pictures, and on all."""
        pixels, labels = real["pixels"].to(self.device), real["target"].to(self.device)
        fields = self.exhibit.fields
        few = [control for control in ("random", "kcentre") if control in fields.controls]
        lr = self.control_lr(cell, pixels, labels) if few else CONTROL_LR
        for control in few:
            each = []
            for number in range(fields.networks):
                at_random = control == "random"
                places = self.random_places(labels, number) if at_random else self.kcentre_places(pixels, labels)
                each.append(self.top1(self.trained_on(places, pixels, labels, cell, (control, number), lr)))
            self.record(found, cell, f"{cell}/{control}_top1", control, each, lr=lr, epochs=fields.epochs)
        if "whole" in fields.controls:
            network = self.whole(cell, pixels, labels)
            facts = {"lr": CONTROL_LR, "epochs": fields.whole_epochs, "pictures": len(labels)}
            self.record(found, cell, f"{cell}/whole_top1", "whole", [self.top1(network)], **facts)

    def whole(self, cell: str, pixels: Tensor, labels: Tensor) -> FlatClassifier:
        """The network on all pictures, trained once for each column."""
        if cell not in self._whole:
            self._whole[cell] = self.trained(
                pixels,
                labels,
                architecture=self.exhibit.network,
                cell=cell,
                key=("whole", 0),
                lr=CONTROL_LR,
                whole=True,
            )
        return self._whole[cell]

    def trained_on(
        self, places: Tensor, pixels: Tensor, labels: Tensor, cell: str, key: tuple[str | int, ...], lr: float
    ) -> FlatClassifier:
        """The network on some of the real pictures."""
        own = self.exhibit.network
        return self.trained(self.prepare(pixels[places]), labels[places], architecture=own, cell=cell, key=key, lr=lr)

    def random_places(self, labels: Tensor, number: int) -> Tensor:
        """As many random pictures as the set has, others for each network."""
        seed = draws.derive(self.exhibit.seed, "trial", "subset", number)
        return random_places(labels, self.exhibit.per_class, len(self.classes), seed=seed)

    def kcentre_places(self, pixels: Tensor, labels: Tensor) -> Tensor:
        """As many pictures by greedy k-centre, among what a network on all pictures (with the flip) sees of them."""
        if self._kcentre is None:
            features = embeddings(self.whole("flip", pixels, labels), pixels, self.prepare)
            self._kcentre = kcentre_places(features, labels, self.exhibit.per_class, len(self.classes))
        return self._kcentre

    def control_lr(self, cell: str, pixels: Tensor, labels: Tensor) -> float:
        """The step size for few real pictures: the best of `control_lrs` on random ones, by other training pictures."""
        fields = self.exhibit.fields
        if not fields.control_lrs:
            return fields.lr or CONTROL_LR
        places = self.random_places(labels, 0)
        others = torch.ones_like(labels, dtype=torch.bool)
        others[places] = False
        held = others.nonzero()[:, 0]
        order = draws.order(len(held), self.exhibit.seed, "trial", "held out")[:HELD_OUT]
        held = held[order.to(self.device)]
        scores = {}
        for lr in fields.control_lrs:
            network = self.trained_on(places, pixels, labels, cell, ("random", 0), lr)
            scores[lr] = share_right(network, pixels[held], labels[held], self.prepare)
        return max(scores, key=lambda lr: scores[lr])

    # -- what follows ----------------------------------------------------------------------------------------------------

    def score(self, found: Evaluation) -> None:
        """LRS and ARS of DD-Ranking, the always-drawn flip counted as the augmentation."""
        own = f"{self.exhibit.arm}-{{}}/{short_name(self.exhibit.network)}_top1"
        synthetic = {cell: self.means[own.format(cell)] for cell in CELLS}
        random = {cell: self.means.get(f"{cell}/random_top1") for cell in CELLS}
        whole = self.means.get("flip/whole_top1")
        if random["flip"] is None or random["noflip"] is None:
            return
        gains = [synthetic["flip"] - random["flip"], synthetic["noflip"] - random["noflip"]]
        found.found("distilled/ars", augmentation_robust_score(*gains), n=self.count)
        if whole is not None:
            found.found("distilled/lrs", label_robust_score(synthetic["flip"], random["flip"], whole), n=self.count)

    def picture(self) -> Picture:
        """All accuracies as bars."""
        from partwise.report import figures
        from partwise.report.values import Picture

        rows: list[dict[str, Cell]] = [
            {"augmentation": cell, "trained on": label, "network": number, "top1": round(value, 6)}
            for cell, group in self.bars.items()
            for label, each in group.items()
            for number, value in enumerate(each)
        ]
        return Picture(
            name="distilled",
            title="Fresh networks, trained on the set and on real pictures",
            caption="Share of pictures named right, a dot a network. flip: a flip is drawn at every step of the training; "
            "noflip: the base method's own augmentation. random and kcentre: as many real pictures; whole: all of them.",
            image=figures.bars(self.bars),
            rows=rows,
        )
