"""Gradient matching (DC: Zhao et al. 2021; DSA: Zhao and Bilen 2021): a network's gradients, real against synthetic.

An iteration has a fresh network. To times, for each class c, under one siamese augmentation (DSA; DC has none),

    D( grad CE(w(real_c)), grad CE(w(A_c)) ),    A_c the synthetic pictures (FYI: and their mirror images),

is summed over classes and differentiated by the pixels; between two of these the network trains for Ti passes on the set.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.siamese import augment, draw_per_sample
from partwise.engine.stages import Losses
from partwise.methods.fyi.learning import Distil, has_batch_norm
from partwise.models.distillation import FlatClassifier
from partwise.ops import draws
from partwise.ops.flips import flip_pairs
from partwise.ops.matching import gradient_distance
from partwise.ops.per_class import How, class_gradients

SETTLING = 16
"""Real pictures of each class that a network with batch norm sees before its statistics are kept fixed."""


def outer_and_inner(images_per_class: int) -> tuple[int, int]:
    """To and Ti of the published code: (1, 1), (10, 50), (20, 25), (30, 20), (40, 15) and (50, 10), for 1, 10, ... 50 a class.

    Between those, the row of the next smaller number.
    """
    table = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
    return table[max(count for count in table if count <= images_per_class)]


class MatchGradients(Distil):
    """A step: one network from its random weights through all of its turns."""

    _logits: Callable[[Tensor], Tensor] | None = None

    def match(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        network = self.fresh(step).train()
        trained = torch.optim.SGD(network.parameters(), self.fields.network_lr, foreach=True)
        outer, inner = outer_and_inner(self.fields.images_per_class)
        outer, inner = self.fields.outer or outer, self.fields.inner or inner
        total = torch.zeros((), device=self.set.images.device)
        for turn in range(outer):
            self.settle(network, step, turn)
            total = total + self.apply(optimizers["pictures"], self.distance(network, step, turn))
            if turn < outer - 1:
                self.train_on_set(network, trained, inner, step, turn)
        return {"loss": total / (self.num_classes * outer)}

    def distance(self, network: FlatClassifier, step: int, turn: int) -> Tensor:
        """The sum of D over this process's classes; gradients of the pictures are added to what they have."""
        augmentation, real = self.draw(step, turn), self.drawn_real(step, turn)
        how = self.how(network)
        each = 1 if how == "loop" else len(real)
        total = torch.zeros((), device=real.device)
        for first in range(0, len(real), each):  # class by class a graph is freed before the next is built
            rows = slice(first, min(first + each, len(real)))
            own = augmentation.slice(rows.start, rows.stop)
            labels = torch.arange(self.own.start + rows.start, self.own.start + rows.stop, device=real.device)
            wanted = self.real_gradients(network, augment(real[rows], own), labels, how)
            images = augment(self.synthetic(rows), own)
            found = class_gradients(network, images, labels[:, None].expand(-1, images.shape[1]), how=how)
            loss = gradient_distance(found, wanted, kind=self.fields.distance, classes=True).sum()
            loss.backward()
            total = total + loss.detach()
        return total

    def real_gradients(self, network: FlatClassifier, images: Tensor, labels: Tensor, how: How) -> list[Tensor]:
        """The gradients that are matched, `(C, ...)` for each parameter: differentiated once, the network may be compiled."""
        if how != "loop" or has_batch_norm(network):
            targets = labels[:, None].expand(-1, images.shape[1])
            return class_gradients(network, images, targets, how=how, create_graph=False)
        if self._logits is None:  # of one module, whose weights change
            self._logits = self.compiled(network.forward)
        parameters = list(network.parameters())
        each = []
        for own, label in zip(images, labels, strict=True):
            parts = []  # the mean over a class is the sum over its pieces
            for piece in self.pieces(own):
                loss = F.cross_entropy(self._logits(piece), label.expand(len(piece)), reduction="sum") / len(own)
                parts.append(torch.autograd.grad(loss, parameters))
            each.append([torch.stack(column).sum(0) for column in zip(*parts, strict=True)])
        return [torch.stack(column) for column in zip(*each, strict=True)]

    def how(self, network: nn.Module) -> How:
        """The way to the gradients of each class; batch norm knows only the loop."""
        if self.fields.gradients != "auto":
            return self.fields.gradients
        return "loop" if self.set.images.device.type == "cpu" or has_batch_norm(network) else "grouped"

    @torch.no_grad()
    def settle(self, network: FlatClassifier, step: int, turn: int) -> None:
        """Fix the statistics of batch norm at those of a few real pictures of all classes; nothing for other networks."""
        if not has_batch_norm(network):
            return
        network.train()
        classes = range(self.num_classes)
        places = self.real.draw(SETTLING, classes, self.seed, self.name, "settling", step, turn)
        network(self.real.seen(places).flatten(0, 1))
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                layer.eval()

    def train_on_set(
        self, network: FlatClassifier, optimizer: torch.optim.Optimizer, epochs: int, step: int, turn: int
    ) -> None:
        """Ti passes over the set as it is; with FYI over pairs, each picture's draws its own."""
        generator = draws.generator(self.seed, self.name, "inner", step, turn)
        images, labels = self.set.images.detach(), self.set.labels
        network.train()
        for _ in range(epochs):
            for places in torch.randperm(len(labels), generator=generator).to(images.device).split(256):
                batch, targets = images[places], labels[places]
                if self.fields.distil == "fyi":
                    batch, targets = flip_pairs(batch, targets)
                batch = augment(batch, draw_per_sample(self.rule, len(batch), generator))
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(network(batch), targets).backward()
                optimizer.step()
