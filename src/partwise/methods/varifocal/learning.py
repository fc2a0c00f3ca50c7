"""The four trainings of section 3.1: the whole, the locator, the closer look in turns with the locator, and the ensemble."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.config import OptimFields
from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Losses, Plan, Products, StepOutput, TrainStage
from partwise.methods.varifocal.turning import after, draw_turns, turned
from partwise.models.two_heads import TypeAndPolarity
from partwise.models.varifocal import VarifocalNet
from partwise.ops import draws
from partwise.ops.varifocal import box_targets, dark_masks

if TYPE_CHECKING:
    from partwise.methods.varifocal.method import VarifocalMethod

Answerer = Literal["whole", "local", "ensemble"]
"""Whose answer counts: as training goes on, that of the networks that have learned most."""


def answer_losses(answers: TypeAndPolarity, batch: Batch, weight: float) -> Losses:
    """L_t and lambda L_p, means over the pictures of which type or polarity are known."""
    assert batch.targets is not None
    polarities = torch.full_like(batch.targets, -1) if batch.polarities is None else batch.polarities
    return {
        "type": known_cross_entropy(answers.type, batch.targets),
        "polarity": weight * known_cross_entropy(answers.polarity, polarities),
    }


def known_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross entropy in float32, the mean over targets that are not -1; 0 where none is known."""
    summed = F.cross_entropy(logits.float(), targets, ignore_index=-1, reduction="sum")
    return summed / (targets >= 0).sum().clamp(min=1)


class LearnChromosomes(TrainStage):
    """What the trainings share: pictures turned at random, and optimisers by the recipe's fields."""

    answerer: ClassVar[Answerer]

    def __init__(self, method: VarifocalMethod, data: PictureData, job: Job, *, epochs: float) -> None:
        self.method, self.data, self.job = method, data, job
        self.fields, self.recipe = method.fields, job.recipe
        self.steps_per_epoch = data.steps_per_epoch(self.recipe.train.batch_size)
        self.steps = max(1, round(epochs * self.steps_per_epoch))
        self.parts, self.ema = self.recipe.train.accumulate, self.recipe.train.ema

    def prepare(self, products: Products) -> None:
        self.method.answerer = self.answerer

    def restore(self, products: Products) -> None:
        super().restore(products)
        self.method.answerer = self.answerer

    @property
    def net(self) -> VarifocalNet:
        """The network with all parts."""
        net = self.method.network
        assert isinstance(net, VarifocalNet)
        return net

    def plan(self, network: nn.Module, optim: OptimFields) -> Plan:
        """An optimiser of all of a network."""
        return Plan(build_optimizer(parameter_groups(network, optim), optim), optim)

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Pictures as floats, turned, with the polarity that they then have."""
        train, fields = self.recipe.train, self.fields
        each, number = train.batch_size // self.parts, first_step * self.parts
        pictures = self.data.train_batches(
            first_step, batch_size=train.batch_size, parts=self.parts, seed=train.seed, stage=self.name
        )
        for batch in pictures:
            generator = draws.generator(train.seed, self.name, "turns", *divmod(number, self.parts))
            turns = draw_turns(
                each, rotation=fields.rotation, upend=fields.upend, stretch=fields.stretch, generator=generator
            )
            own = turns.rows(self.data.share.rows(each))
            polarities = None if batch.polarities is None else after(batch.polarities, own)
            yield replace(batch, images=turned(batch.pictures, own), polarities=polarities)
            number += 1


class LearnWhole(LearnChromosomes):
    """Step 2: G-Net, or the plain rival, on whole pictures."""

    name = "whole"
    answerer = "whole"

    def networks(self) -> dict[str, nn.Module]:
        return {"whole": self.method.whole}

    def plans(self) -> dict[str, Plan]:
        return {"whole": self.plan(self.method.whole, self.recipe.optim)}

    def loss_module(self) -> nn.Module:
        return WholeLoss(self.method)


class WholeLoss(nn.Module):
    """Cross entropies of what the first network says."""

    def __init__(self, method: VarifocalMethod) -> None:
        super().__init__()
        self.network = method.whole
        self.look, self.weight = method.standardised, method.fields.polarity_weight

    def forward(self, batch: Batch) -> StepOutput:
        return answer_losses(self.network(self.look(batch.images)), batch, self.weight), {}


class LearnBoxes(LearnChromosomes):
    """Step 3: the locator alone, on boxes that just cover the chromosome; nobody draws any."""

    name = "boxes"
    answerer = "whole"
    measured = False

    def networks(self) -> dict[str, nn.Module]:
        return {"locator": self.net.locator}

    def plans(self) -> dict[str, Plan]:
        return {"locator": self.plan(self.net.locator, self.fields.locator_optim)}

    def loss_module(self) -> nn.Module:
        return BoxLoss(self.net)


class BoxLoss(nn.Module):
    """L_u: smooth L1 between the locator's u and the targets, summed over the three, the mean over pictures."""

    def __init__(self, net: VarifocalNet) -> None:
        super().__init__()
        self.locator = net.locator
        self._net = (net,)  # in a tuple, so that what is frozen is no part of what learns

    def forward(self, batch: Batch) -> StepOutput:
        (net,) = self._net
        with torch.no_grad():
            features = net.global_net.eval().features(net.standardise(batch.images))
        targets = box_targets(dark_masks(batch.images))
        return {"box": F.smooth_l1_loss(self.locator(features).float(), targets, reduction="sum") / len(targets)}, {}


class LearnLocal(LearnChromosomes):
    """Step 4: passes of the second network, and after each, where boxes follow, one of the locator through the frozen network.

    By hand: the two take turns, so that in every step one of them has no gradients.
    """

    name = "local"
    answerer = "local"
    strategy = "manual"

    def __init__(self, method: VarifocalMethod, data: PictureData, job: Job, *, epochs: float) -> None:
        super().__init__(method, data, job, epochs=epochs)
        self.looks = self.fields.second == "box"
        self.turns = 2 if self.looks and self.fields.follow else 1
        self.steps *= self.turns
        self._waiting: tuple[int, Iterator[Batch]] | None = None

    def networks(self) -> dict[str, nn.Module]:
        found: dict[str, nn.Module] = {"local_net": self.net.local_net}
        return found | ({"locator": self.net.locator} if self.turns == 2 else {})

    def plans(self) -> dict[str, Plan]:
        found = {"local_net": self.plan(self.net.local_net, self.recipe.optim)}
        return found | ({"locator": self.plan(self.net.locator, self.fields.follow_optim)} if self.turns == 2 else {})

    def locates(self, step: int) -> bool:
        """Whether it is the locator's turn."""
        return self.turns == 2 and (step // self.steps_per_epoch) % 2 == 1

    def step(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        name = "locator" if self.locates(step) else "local_net"
        learner = self.networks()[name]
        for key, network in self.networks().items():
            network.train(key == name)
            network.requires_grad_(key == name)
        logs: Losses = {}
        batches = self._from(step)
        for _ in range(self.parts):
            losses = self._losses(self._laid_out(next(batches)), locate=name == "locator")
            total = torch.stack(list(losses.values())).sum()
            (total / self.parts).backward()
            for key, value in ({"loss": total} | losses).items():
                logs[key] = logs.get(key, 0) + value.detach() / self.parts
        self._waiting = (step + 1, batches)
        self._reduce(learner)
        optimizers[name].step()
        optimizers[name].zero_grad(set_to_none=True)
        for network in self.networks().values():
            network.requires_grad_(True)
        return logs

    def _losses(self, batch: Batch, *, locate: bool) -> Losses:
        net = self.net
        with self.job.runtime.fabric.autocast():
            x = net.standardise(batch.images)
            with torch.no_grad():
                features = net.global_net.eval().features(x) if self.looks else x
            with torch.set_grad_enabled(locate):
                seen = net.second_look(x, features)
            return answer_losses(net.local_net(seen), batch, self.fields.polarity_weight)

    def _reduce(self, network: nn.Module) -> None:
        """Gradients of all processes, averaged."""
        if self.job.runtime.share.world > 1:
            for parameter in network.parameters():
                if parameter.grad is not None:
                    parameter.grad = self.job.runtime.average(parameter.grad)

    def _from(self, step: int) -> Iterator[Batch]:
        """The batches of a step and those behind it: the ones under way, if this step follows on the last one."""
        if self._waiting is not None and self._waiting[0] == step:
            return self._waiting[1]
        return self.batches(step)

    def _laid_out(self, batch: Batch) -> Batch:
        """The pictures in the layout of the networks."""
        wanted = torch.channels_last if self.recipe.train.channels_last else torch.contiguous_format
        return replace(batch, images=batch.images.contiguous(memory_format=wanted))


class LearnEnsemble(LearnChromosomes):
    """Stage 2 of the paper: small networks on the features of both, which stay as they are or learn on."""

    name = "ensemble"
    answerer = "ensemble"

    def networks(self) -> dict[str, nn.Module]:
        net = self.net
        if not self.fields.finetune:
            return {"ensemble": net.ensemble}
        found = {"global_net": net.global_net, "local_net": net.local_net, "ensemble": net.ensemble}
        return found | ({"locator": net.locator} if self.fields.second == "box" else {})

    def plans(self) -> dict[str, Plan]:
        optim = self.fields.ensemble_optim
        return {name: self.plan(network, optim) for name, network in self.networks().items()}

    def loss_module(self) -> nn.Module:
        return EnsembleLoss(self.net, nn.ModuleDict(self.networks()), self.fields.polarity_weight)


class EnsembleLoss(nn.Module):
    """Cross entropies of the ensemble's answers."""

    def __init__(self, net: VarifocalNet, learning: nn.ModuleDict, weight: float) -> None:
        super().__init__()
        self.learning, self.weight = learning, weight
        self._net = (net,)

    def forward(self, batch: Batch) -> StepOutput:
        (net,) = self._net
        if "local_net" not in self.learning:
            net.global_net.eval(), net.local_net.eval()
        with torch.set_grad_enabled("local_net" in self.learning):
            whole, local = net.pooled(net.standardise(batch.images))
        return answer_losses(net.ensemble(whole, local), batch, self.weight), {}
