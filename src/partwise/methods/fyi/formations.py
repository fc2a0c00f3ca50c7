"""IDC (Kim et al. 2022): several small pictures in each, and the gradients of a network that learns from real pictures.

A step is one network. `inner` times, for each class, convolution gradients of real pictures are compared with those of the
unpacked synthetic ones (FYI: and their mirror images), both under one draw of colour, crop and cutout, and the pixels take a
step of their own; then the network trains on some real pictures, mixed by CutMix.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from partwise.data.siamese import augment, augment_rule, draw_per_sample
from partwise.engine.stages import Losses
from partwise.methods.fyi.learning import Distil
from partwise.models.distillation import FlatClassifier
from partwise.ops import draws, mixing
from partwise.ops.flips import flip_pairs
from partwise.ops.matching import conv_gradient_distance
from partwise.ops.multi_formation import decode_tiles
from partwise.ops.per_class import class_gradients

NETWORK_BATCH = 64
MIXED = 0.5
"""Share of the network's steps whose pictures are mixed."""


class MatchFormations(Distil):
    """A step: one network through all of its turns; classes take their steps one after the other."""

    convention: ClassVar[str] = "idc"

    def match(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        with torch.no_grad():
            self.set.images.clamp_(0, 1)
        network = self.fresh(step).train()
        trained = torch.optim.SGD(
            network.parameters(), self.fields.network_lr, momentum=0.9, weight_decay=5e-4, foreach=True
        )
        inner = self.fields.inner or 100
        total = torch.zeros((), device=self.set.images.device)
        for turn in range(inner):
            total = total + self.turn(network, optimizers["pictures"], step, turn)
            self.train_on_real(network, trained, step, turn)
        self.exchange(optimizers["pictures"], total)
        return {"loss": total / (self.num_classes * inner)}

    def turn(self, network: FlatClassifier, optimizer: torch.optim.Optimizer, step: int, turn: int) -> Tensor:
        """Every class in turn: its distance, and a step of all pictures, of which only its own have a gradient."""
        augmentation, real = (
            self.draw(step, turn),
            self.real.draw(self.fields.real_batch, self.own, self.seed, self.name, "real", step, turn),
        )
        total = torch.zeros((), device=self.set.images.device)
        self.set.images.grad = torch.zeros_like(self.set.images)
        for k in range(self.num_classes):
            self.set.images.grad.zero_()
            if k in self.own:
                row = k - self.own.start
                images = self.set.seen(self.real.pictures(real[row : row + 1])[0])
                both = torch.cat([images, self.unpacked(k, step, turn)])
                both = augment(both, augmentation.slice(row, row + 1))
                total = total + self.distance(network, both[None, : len(images)], both[None, len(images) :], k)
            optimizer.step()
        return total

    def unpacked(self, k: int, step: int, turn: int) -> Tensor:
        """A class's training pictures, normalised: no more than `synthetic_batch`, mirror images counted."""
        images = decode_tiles(self.set.by_class()[k], factor=self.set.factor)
        fyi = self.fields.distil == "fyi"
        most = max(1, (self.fields.synthetic_batch or 128) // (2 if fyi else 1))
        if len(images) > most:
            images = images[
                draws.order(len(images), self.seed, self.name, "subset", step, turn, k)[:most].to(images.device)
            ]
        return self.set.normalise(flip_pairs(images) if fyi else images)

    def distance(self, network: FlatClassifier, real: Tensor, synthetic: Tensor, k: int) -> Tensor:
        """The distance of one class's convolution gradients; its gradient is added to that of the pictures."""
        label = torch.full((1, 1), k, device=real.device)
        wanted, found = (
            class_gradients(network, images, label.expand(-1, images.shape[1]), how="loop", create_graph=differentiable)
            for images, differentiable in ((real, False), (synthetic, True))
        )
        loss = conv_gradient_distance(found, wanted, kind=self.fields.conv_distance, classes=True).sum()
        loss.backward()
        return loss.detach()

    def train_on_real(self, network: FlatClassifier, optimizer: torch.optim.Optimizer, step: int, turn: int) -> None:
        """One pass over `network_pictures` random real pictures, each with its own colour and crop, half the steps mixed."""
        train = self.data.splits["train"]
        generator = draws.generator(self.seed, self.name, "network", step, turn)
        rule = augment_rule("idc", strategy="color_crop")
        chosen = torch.randperm(len(train), generator=generator)[: self.fields.network_pictures]
        for places in train[chosen].split(NETWORK_BATCH):
            images = self.set.normalise(self.data.pictures(places).float() / 255)
            labels = torch.tensor(
                [self.data.source.records[i].label or 0 for i in places.tolist()], device=images.device
            )
            images = augment(images, draw_per_sample(rule, len(images), generator))
            height, width = images.shape[-2:]
            mix = mixing.draw_cutmix(
                len(images), height, width, p=MIXED, mode="batch", gate="batch", generator=generator
            ).to(images.device)
            logits = network(mixing.apply_mix(images, mix))
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(logits, mixing.mix_targets(labels, mix, num_classes=self.num_classes)).backward()
            optimizer.step()

    def exchange(self, optimizer: torch.optim.Optimizer, total: Tensor) -> None:
        """Of several processes each has moved its own classes: bring pictures, their momenta and the loss together."""
        if self.job.runtime.share.world == 1:
            return
        momentum = optimizer.state[self.set.images].get("momentum_buffer")
        own = torch.zeros(self.num_classes, dtype=torch.bool, device=total.device)
        own[self.own.start : self.own.stop] = True
        others = ~own[self.set.labels]
        for tensor in (self.set.images.detach(), momentum):
            if tensor is not None:
                tensor[others] = 0
                dist.all_reduce(tensor)
        dist.all_reduce(total)
