"""What trajectory matching follows: networks trained on all real pictures, with their weights after every epoch, made once.

Before them, where the recipe wants it, the whitening that experts, set and trial share.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.config import UserError
from partwise.data.experts import ExpertFacts, ExpertStore, encode_expert, expert_name, index_of, open_experts
from partwise.data.loading import PictureData
from partwise.data.siamese import augment, draw_per_sample
from partwise.engine.stages import ComputeStage, Products
from partwise.evaluate.fresh_networks import flip_rule, fresh_network
from partwise.models.distillation import FlatClassifier
from partwise.ops import draws
from partwise.ops.sharpness import gsam_step
from partwise.ops.whitening import Whitening, fit_whitening, whitening_fingerprint

if TYPE_CHECKING:
    from partwise.methods.fyi.method import FyiMethod

WHITENING, EXPERTS = "whitening", "experts"
"""Names of the two stages."""


class FitWhitening(ComputeStage):
    """One product: mean and matrix, fitted to the training pictures."""

    name = WHITENING

    def __init__(self, method: FyiMethod, data: PictureData) -> None:
        self.method, self.data = method, data

    def items(self) -> Sequence[str]:
        return [self.name]

    def compute(self, item: str) -> Mapping[str, Tensor]:
        fitted = fit_whitening(self.data.pictures(self.data.splits["train"]))
        return {"mean": fitted.mean, "matrix": fitted.matrix}


def take_whitening(method: FyiMethod, products: Products) -> str:
    """Give the set the whitening that a run left, and say its fingerprint; nothing and "" where the recipe has none."""
    if method.set.space != "whitened":
        return ""
    if not products.path(WHITENING, WHITENING).exists():
        raise UserError(f"{products.root.parent}: its pictures were not whitened; method.whiten=false fits its experts")
    stored = products.read(WHITENING, WHITENING)
    fitted = Whitening(stored["mean"], stored["matrix"], stored["matrix"])
    method.set.take_whitening(fitted)
    return whitening_fingerprint(fitted)


class TrainExperts(ComputeStage):
    """A product an expert; several processes share them out."""

    name = EXPERTS

    def __init__(self, method: FyiMethod, data: PictureData) -> None:
        self.method, self.data = method, data
        self.fields = method.fields.experts
        self.seed = method.recipe.train.seed
        self.whitening = ""

    def items(self) -> Sequence[str]:
        return [expert_name(number) for number in range(self.fields.count)]

    def prepare(self, products: Products) -> None:
        self.whitening = take_whitening(self.method, products)

    def restore(self, products: Products) -> None:
        take_whitening(self.method, products)

    def facts(self) -> Mapping[str, Any]:
        return index_of(self.expert_facts(), self.fields.count)

    def expert_facts(self) -> ExpertFacts:
        """What every expert's file says of itself."""
        optimizer = self.fields.model_dump(mode="json", exclude={"count", "epochs", "run"})
        return ExpertFacts(
            network=student_facts(self.method),
            data=training_fingerprint(self.data),
            whitening=self.whitening,
            optimizer=optimizer | {"strategy": self.method.fields.strategy},
            seed=self.seed,
            epochs=self.fields.epochs,
        )

    @torch.enable_grad()
    def compute(self, item: str) -> bytes:
        """One expert: SGD, or GSAM where `rho` is above 0, on batches that are each augmented once."""
        fields, number = self.fields, int(item.rpartition("-")[2])
        network = fresh_student(self.method, "expert", number).to(self.data.device).train()
        optimizer = torch.optim.SGD(
            network.parameters(), fields.lr, momentum=fields.momentum, weight_decay=fields.weight_decay, foreach=True
        )
        snapshots = [_weights(network)]
        for epoch in range(fields.epochs):
            self._epoch(network, optimizer, number, epoch)
            snapshots.append(_weights(network))
        stacks = {name: torch.stack([one[name] for one in snapshots]) for name in snapshots[0]}
        return encode_expert(stacks, self.expert_facts())

    def _epoch(self, network: FlatClassifier, optimizer: torch.optim.Optimizer, number: int, epoch: int) -> None:
        fields, records = self.fields, self.data.source.records
        rule = flip_rule("dsa", self.method.fields.strategy, flip=fields.flip)
        generator = draws.generator(self.seed, EXPERTS, number, epoch)
        train = self.data.splits["train"]
        for places in train[torch.randperm(len(train), generator=generator)].split(fields.batch_size):
            images = self.method.set.seen(self.data.pictures(places).float() / 255)
            images = augment(images, draw_per_sample(rule, len(images), generator))
            labels = torch.tensor([records[i].label or 0 for i in places.tolist()], device=images.device)

            def loss(images: Tensor = images, labels: Tensor = labels) -> Tensor:
                return F.cross_entropy(network(images), labels)

            if fields.rho or fields.alpha:
                gsam_step(optimizer, loss, rho=fields.rho, alpha=fields.alpha)
                continue
            optimizer.zero_grad(set_to_none=True)
            loss().backward()
            optimizer.step()


def _weights(network: FlatClassifier) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in network.named_parameters()}


def fresh_student(method: FyiMethod, *key: str | int) -> FlatClassifier:
    """A network of the recipe's architecture with the random weights that belong to a purpose."""
    model = method.recipe.model
    return fresh_network(
        model.backbone,
        model.arguments,
        num_classes=len(method.classes),
        size=method.recipe.data.size,
        channels=method.facts.channels,
        seed=draws.derive(method.recipe.train.seed, *key),
    )


def student_facts(method: FyiMethod) -> dict[str, Any]:
    """What rebuilds the network of experts and students."""
    return {"name": "flat_classifier", "arguments": method.student_arguments()}


def training_fingerprint(data: PictureData) -> str:
    """A short hash of the source, of which of its pictures are trained on, and of the frame that networks see."""
    digest = hashlib.sha256(data.source.fingerprint().encode())
    fields = data.fields
    digest.update(repr((fields.size, fields.resize, fields.keep_aspect)).encode())
    digest.update(data.splits["train"].numpy().tobytes())
    return digest.hexdigest()[:16]


def find_experts(method: FyiMethod, data: PictureData, products: Products) -> ExpertStore:
    """The experts that a run follows: its own, or those of the run that `method.experts.run` names.

    The set takes their whitening. Raises UserError where they are of another network, other pictures or another whitening,
    or have too few epochs.
    """
    fields = method.fields
    if fields.experts.run is not None:
        products = Products(Path(fields.experts.run).expanduser() / "products")
    whitening = take_whitening(method, products)
    store = open_experts(
        products.folder(EXPERTS),
        network=student_facts(method),
        data=training_fingerprint(data),
        whitening=whitening,
        parameters=dict(method.student.named_parameters()),
    )
    if store.epochs < (needed := fields.max_start - 1 + fields.expert_epochs):
        raise UserError(
            f"{store.folder}: its experts have {store.epochs} epochs; method.max_start = {fields.max_start} and "
            f"method.expert_epochs = {fields.expert_epochs} need {needed}"
        )
    return store
