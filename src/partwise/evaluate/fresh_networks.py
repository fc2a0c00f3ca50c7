"""Fresh networks trained on a handful of pictures: the trial of a distilled set, and of real pictures beside it.

Everything drawn is a function of a seed and of names, so that the same set gives the same numbers again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.siamese import AugmentRule, augment, augment_rule, draw_per_sample
from partwise.evaluate.trials import TrialFields
from partwise.models.distillation import FlatClassifier, build_flat_classifier
from partwise.ops import draws, mixing

Prepare = Callable[[Tensor], Tensor]
"""Stored pictures of a batch -> float pictures as networks see them."""
TESTED_AT_ONCE = 500


def flip_rule(convention: str, strategy: str, *, flip: bool) -> AugmentRule:
    """The augmentation of a strategy with the always-drawn flip of FYI's code, or as the base methods' code has it.

    `"dsa"`: one operation a step, the flip one of them; with `flip` it is drawn at every step and one of the others follows.
    `"idc"`: colour at every step and one of the rest; the flip at every step or not at all. Without a strategy there is the
    flip or nothing. Raises UserError for unknown operations.
    """
    names = [] if strategy in ("", "none") else strategy.split("_")
    others = [name for name in names if name != "flip"]
    if flip:
        return augment_rule("fyi" if convention == "dsa" else "idc", strategy="_".join(["flip", *others]))
    if convention == "dsa":
        return augment_rule("vico", strategy="_".join(names))
    return augment_rule("idc", strategy="_".join(others))


def fresh_network(
    architecture: str, arguments: Mapping[str, Any], *, num_classes: int, size: int, channels: int, seed: int
) -> FlatClassifier:
    """A network with the weights that a seed gives, drawn on the CPU; the global random state stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return build_flat_classifier(
            architecture=architecture, num_classes=num_classes, size=size, in_chans=channels, arguments=dict(arguments)
        )


def rate_after(trial: TrialFields, epoch: int, epochs: int) -> float:
    """The step size of a pass (from 0) as a share of the first."""
    if trial.schedule == "half":
        return 0.1 if epoch > epochs // 2 + 1 else 1.0
    return 0.2 ** sum(epoch >= milestone for milestone in (2 * epochs // 3, 5 * epochs // 6))


def train_fresh(
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    trial: TrialFields,
    rule: AugmentRule,
    lr: float,
    epochs: int,
    seed: int,
    prepare: Prepare | None = None,
) -> nn.Module:
    """Train a network on pictures with labels int64 and return it in evaluation mode.

    SGD as the fields say. Under the schedule "half" there is one pass more than `epochs`, and at the drop the optimiser begins
    anew without momentum, as in the code of DC, DSA and DM. `prepare` is applied to each batch, for pictures that are
    stored as bytes.
    """
    generator = torch.Generator().manual_seed(seed)
    network.train()
    optimizer, rate = None, 0.0
    for epoch in range(epochs + 1 if trial.schedule == "half" else epochs):
        wanted = lr * rate_after(trial, epoch, epochs)
        if optimizer is None or (wanted != rate and trial.schedule == "half"):
            parameters = list(network.parameters())
            decay = trial.weight_decay
            optimizer = torch.optim.SGD(parameters, wanted, momentum=trial.momentum, weight_decay=decay, foreach=True)
        rate = optimizer.param_groups[0]["lr"] = wanted
        for index in torch.randperm(len(labels), generator=generator).to(images.device).split(trial.batch_size):
            batch = images[index] if prepare is None else prepare(images[index])
            batch = augment(batch, draw_per_sample(rule, len(batch), generator))
            optimizer.zero_grad(set_to_none=True)
            _loss(network, batch, labels[index], trial.cutmix, generator).backward()
            optimizer.step()
    return network.eval()


def _loss(network: nn.Module, images: Tensor, labels: Tensor, cutmix: float, generator: torch.Generator) -> Tensor:
    """Cross-entropy of a batch, mixed with probability `cutmix`."""
    if not cutmix:
        return F.cross_entropy(network(images), labels)
    height, width = images.shape[-2:]
    mix = mixing.draw_cutmix(
        len(images), height, width, alpha=1.0, p=cutmix, mode="batch", gate="batch", generator=generator
    ).to(images.device)
    logits = network(mixing.apply_mix(images, mix))
    return F.cross_entropy(logits, mixing.mix_targets(labels, mix, num_classes=logits.shape[1]))


@torch.no_grad()
def share_right(network: nn.Module, images: Tensor, labels: Tensor, prepare: Prepare) -> float:
    """The share of pictures whose class a network names right."""
    right = 0
    for start in range(0, len(labels), TESTED_AT_ONCE):
        own = slice(start, start + TESTED_AT_ONCE)
        right += int((network(prepare(images[own])).argmax(1) == labels[own]).sum())
    return right / len(labels)


@torch.no_grad()
def embeddings(network: FlatClassifier, images: Tensor, prepare: Prepare) -> Tensor:
    """What the last layer of a network sees of each picture."""
    return torch.cat([network.embed(prepare(part)) for part in images.split(TESTED_AT_ONCE)])


def random_places(labels: Tensor, per_class: int, num_classes: int, *, seed: int) -> Tensor:
    """So many random places of each class, or all where there are fewer."""
    found = []
    for k in range(num_classes):
        own = (labels == k).nonzero()[:, 0].cpu()
        found.append(own[draws.order(len(own), seed, "class", k)[:per_class]])
    return torch.cat(found).to(labels.device)


def kcentre_places(features: Tensor, labels: Tensor, per_class: int, num_classes: int) -> Tensor:
    """So many places of each class by greedy k-centre: the one nearest to the class's mean, then always the farthest."""
    found = []
    for k in range(num_classes):
        own = (labels == k).nonzero()[:, 0]
        if not len(own):
            continue
        rows = features[own].float()
        chosen = [int((rows - rows.mean(0)).square().sum(1).argmin())]
        nearest = (rows - rows[chosen[0]]).square().sum(1)
        while len(chosen) < min(per_class, len(own)):
            chosen.append(int(nearest.argmax()))
            nearest = torch.minimum(nearest, (rows - rows[chosen[-1]]).square().sum(1))
        found.append(own[torch.tensor(chosen, device=own.device)])
    return torch.cat(found)
