"""From maps to borders: confident labels, a network that learns from them which cells belong together, and its walk.

IRN (Ahn et al. 2019) and AffinityNet (Ahn and Kwak 2018), with losses of ops/affinity.py and walks of ops/random_walk.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.loading import PictureData
from partwise.data.sample import VOID, Batch
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Plan, Products, StepOutput
from partwise.methods.ppl.config import AffinityFields
from partwise.methods.ppl.learning import LearnFromLabels
from partwise.methods.ppl.picturewise import PictureStage
from partwise.methods.ppl.sharpening import sharpen_labels, sharpen_probabilities
from partwise.methods.ppl.sizing import within
from partwise.models.affinity import AffinityNet, IrnNetwork
from partwise.ops.affinity import affinity_loss, displacement_loss, feature_affinity, pair_labels, path_affinity
from partwise.ops.averages import Average, alone
from partwise.ops.random_walk import affinity_walk, random_walk, with_background
from partwise.ops.segmentation_losses import resize_labels

if TYPE_CHECKING:
    from partwise.methods.ppl.method import PplMethod

LOW_POWER, HIGH_POWER = 4.0, 32.0
"""Powers of AffinityNet's background score: (1 - max)^4 leaves confident objects, (1 - max)^32 confident ground."""


def thresholded(maps: Tensor, threshold: float) -> Tensor:
    """Maps `(k, H, W)` of a picture's classes -> uint8 `(H, W)`: the best class as its place + 1 where above, else 0."""
    if not len(maps):
        return torch.zeros(maps.shape[-2:], dtype=torch.uint8, device=maps.device)
    best, which = maps.float().max(0)
    return torch.where(best > threshold, which + 1, 0).to(torch.uint8)


def named(places: Tensor, classes: Tensor) -> Tensor:
    """Places among a picture's classes (0 ground, k + 1 the k-th of `classes`; 255 void) -> mask values, uint8."""
    table = torch.full((256,), VOID, dtype=torch.uint8, device=places.device)
    table[0] = 0
    table[1 : len(classes) + 1] = (classes + 1).to(torch.uint8).to(places.device)
    return table[places.long()]


def confident_labels(image: Tensor, maps: Tensor, classes: Tensor, fields: AffinityFields) -> Tensor:
    """Labels uint8 `(H, W)` of what the maps are sure about, 255 elsewhere, from a picture uint8 `(3, H, W)`.

    IRN: an object where the maps say so against a high background score, ground where they say so against a low one, both
    sharpened by a CRF. AffinityNet: the same with its two powers of the ground's score, on CRFs of scores. Where the two
    contradict each other after a CRF, IRN has the object and AffinityNet the ground, as in their published codes.
    """
    if not len(classes):
        return torch.zeros(image.shape[-2:], dtype=torch.uint8, device=image.device)
    if fields.kind == "affinitynet":
        sure, ground = _affinitynet_labels(image, maps.float(), fields)
        sure = sure.masked_fill(ground == 0, 0)
    else:
        sure, ground = _irn_labels(image, maps, fields)
    labels = torch.where(sure > 0, sure, torch.where(ground == 0, 0, VOID).to(torch.uint8))
    return named(labels, classes)


def _irn_labels(image: Tensor, maps: Tensor, fields: AffinityFields) -> tuple[Tensor, Tensor]:
    levels = (fields.foreground, fields.background)
    hard = [thresholded(maps, level) for level in levels]
    sure, ground = (sharpen_labels(image, labels, len(maps), fields.crf) for labels in hard)
    return sure, ground


def _affinitynet_labels(image: Tensor, maps: Tensor, fields: AffinityFields) -> tuple[Tensor, Tensor]:
    found = []
    for power in (LOW_POWER, HIGH_POWER):
        scores = with_background(maps, power=power)
        shares = scores / scores.sum(0, keepdim=True).clamp(min=1e-5)
        found.append(sharpen_probabilities(image, shares, fields.crf).argmax(0).to(torch.uint8))
    return found[0], found[1]


class ConfidentLabels(PictureStage):
    """What the affinity network learns from: `labels` uint8 of every training picture."""

    name = "labels"

    def __init__(self, data: PictureData, fields: AffinityFields) -> None:
        super().__init__(data)
        self.fields = fields
        self.names = {data.source.records[i].id: i for i in data.splits["train"].tolist()}

    def prepare(self, products: Products) -> None:
        self.products = products

    def items(self) -> Sequence[str]:
        return list(self.names)

    def compute(self, item: str) -> Mapping[str, Tensor]:
        sample = self.data.native(self.names[item])
        if sample is None:
            return {"labels": torch.full((1, 1), VOID, dtype=torch.uint8)}
        maps = self.products.read("maps", item)
        image, full = sample.image.to(self.data.device), maps["full"].to(self.data.device)
        with self.taking(image[0].numel()):
            return {"labels": confident_labels(image, full, maps["classes"], self.fields)}


class PairLoss(nn.Module):
    """Losses of pairs of cells: `forward(batch)` of pictures and their confident labels."""

    def __init__(self, network: nn.Module, fields: AffinityFields, average: Average = alone) -> None:
        super().__init__()
        self.network, self.radius, self.average = network, fields.radius, average

    def forward(self, batch: Batch) -> StepOutput:
        assert batch.masks is not None
        output = self.network(batch.pictures)
        if isinstance(output, Tensor):
            pairs = pair_labels(resize_labels(batch.masks, (output.shape[-2], output.shape[-1])), self.radius)
            return {
                "affinity": affinity_loss(feature_affinity(output.float(), self.radius), pairs, average=self.average)
            }, {}
        edge = output.boundary.float().sigmoid()
        pairs = pair_labels(resize_labels(batch.masks, (edge.shape[-2], edge.shape[-1])), self.radius)
        losses = {"boundary": affinity_loss(path_affinity(edge, self.radius), pairs, average=self.average)}
        if output.displacement is not None:
            field = output.displacement.float()
            losses["displacement"] = displacement_loss(field, pairs, self.radius, average=self.average)
        return losses, {}


class LearnAffinity(LearnFromLabels):
    """The affinity network's training. Its backbone begins with the classifier's weights."""

    name = "affinity"

    def __init__(self, method: PplMethod, data: PictureData, job: Job) -> None:
        super().__init__(method, data, job, method.fields.affinity)
        self.fields = method.fields.affinity

    def prepare(self, products: Products) -> None:
        super().prepare(products)
        self.method.affinity.backbone.load_state_dict(self.method.classifier.backbone.state_dict())

    def labels(self, item: str) -> Tensor:
        return self.products.read("labels", item)["labels"]

    def networks(self) -> dict[str, nn.Module]:
        return {"affinity": self.method.affinity}

    def plans(self) -> dict[str, Plan]:
        optim, network = self.fields.optim, self.method.affinity
        heads = [*network.boundary.parameters()] if isinstance(network, IrnNetwork) else [*network.head.parameters()]
        if isinstance(network, IrnNetwork) and network.displacement is not None:
            # IRN learns displacements at ten times the rate of boundaries.
            slow = optim.model_copy(update={"head_lr": 10.0})
            groups = parameter_groups(network, slow, head=network.displacement.parameters())
        else:
            groups = parameter_groups(network, optim, head=heads)
        return {"affinity": Plan(build_optimizer(groups, optim), optim)}

    def loss_module(self) -> nn.Module:
        return PairLoss(self.method.affinity, self.fields, self.job.runtime.average)


class Walk(PictureStage):
    """Maps after the walk: `classes`, and `scores` float16 of them at the cells of the walk (AffinityNet: ground first)."""

    name = "walk"

    def __init__(self, method: PplMethod, data: PictureData) -> None:
        super().__init__(data)
        self.method, self.fields = method, method.fields.affinity
        self.names = {data.source.records[i].id: i for s in ("train", "val") for i in data.splits[s].tolist()}

    def prepare(self, products: Products) -> None:
        self.products = products

    def items(self) -> Sequence[str]:
        return list(self.names)

    def compute(self, item: str) -> Mapping[str, Tensor]:
        maps = self.products.read("maps", item)
        sample = self.data.native(self.names[item])
        if sample is None or not len(maps["classes"]):
            return {"classes": maps["classes"], "scores": maps["strided"].half()}
        device = self.data.device
        image, strided = within(sample.image.to(device)[None].float() / 255), maps["strided"].to(device)
        self.method.affinity.eval()
        with self.taking(image[0, 0].numel()):
            scores = walked(self.method.affinity, image, strided, self.fields)
        return {"classes": maps["classes"], "scores": scores.half()}


@torch.no_grad()
def walked(network: IrnNetwork | AffinityNet, image: Tensor, maps: Tensor, fields: AffinityFields) -> Tensor:
    """Maps `(k, h, w)` of one float picture `(1, 3, H, W)` after the walk, at the network's own cells, on [0, 1].

    IRN's are divided by the greatest value of all classes together; AffinityNet's have the ground as their first row.
    """
    if isinstance(network, IrnNetwork):
        edge = network.edges(image)[0, 0]
        found = random_walk(
            _fitted(maps, edge.shape), edge, radius=fields.walk_radius, beta=fields.beta, steps=fields.steps
        )
        return found / found.max().clamp(min=1e-12)
    features = network(image)[0].float()
    start = _fitted(with_background(maps), features.shape[-2:])
    return affinity_walk(start, features, radius=fields.walk_radius, beta=fields.beta, steps=fields.steps)


def _fitted(maps: Tensor, size: torch.Size) -> Tensor:
    """Maps on cells that another rounding of the same stride gives: pooled, which keeps sizes that agree as they are."""
    if maps.shape[-2:] == size:
        return maps
    return F.adaptive_avg_pool2d(maps[None], (int(size[0]), int(size[1])))[0]
