"""The classifier's training: a plain warm-up, then the cuts in turn, interleaved, or all at once (sections 1.2 and 1.5)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.loading import PictureData
from partwise.data.sample import Batch
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer, parameter_groups
from partwise.engine.stages import Plan, Products, StepOutput, TrainStage
from partwise.models.patch_learning import PatchLearning

if TYPE_CHECKING:
    from partwise.methods.ppl.method import PplMethod


class SoftMarginLoss(nn.Module):
    """-(1/K) sum_k [y_k log sig(z_k) + (1 - y_k) log(1 - sig(z_k))], the mean over the batch; no logit for the ground."""

    def __init__(self, network: PatchLearning) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> StepOutput:
        assert batch.targets is not None
        logits = self.network(batch.pictures).float()
        return {"soft_margin": F.binary_cross_entropy_with_logits(logits, shown(batch.targets, logits.shape[1]))}, {}


def shown(targets: Tensor, num_classes: int) -> Tensor:
    """Class indices `(B,)` or multi-hot rows as float rows of zeros and ones; an index of -1 (no label) is none of them."""
    if targets.ndim == 2:
        return targets.float()
    return (targets[:, None] == targets.new_tensor(range(num_classes))).float()


class LearnClasses(TrainStage):
    """What all parts of the classifier's training share: the pictures, the loss, the optimiser."""

    rate = 1.0
    """The stage's rate as a multiple of `optim.lr`."""

    def __init__(self, method: PplMethod, data: PictureData, job: Job, *, name: str, epochs: float) -> None:
        self.method, self.data, self.job, self.name = method, data, job, name
        self.network = method.classifier
        self.recipe = job.recipe
        self.steps_per_epoch = data.steps_per_epoch(self.recipe.train.batch_size)
        self.steps = max(1, round(epochs * self.steps_per_epoch))
        self.parts, self.ema = self.recipe.train.accumulate, self.recipe.train.ema

    def enter(self) -> None:
        """Bring the network into the form in which this stage trains it."""
        raise NotImplementedError

    def prepare(self, products: Products) -> None:
        self.enter()

    def restore(self, products: Products) -> None:
        self.enter()
        super().restore(products)

    def networks(self) -> dict[str, nn.Module]:
        return {"classifier": self.network}

    def plans(self) -> dict[str, Plan]:
        optim = self.recipe.optim
        optim = optim.model_copy(update={"lr": optim.lr * self.rate})
        plain = self.network.plain_classifier
        head = self.network.classifier if plain is None else plain
        return {
            "network": Plan(
                build_optimizer(parameter_groups(self.network, optim, head=head.parameters()), optim), optim
            )
        }

    def loss_module(self) -> nn.Module:
        return SoftMarginLoss(self.network)

    def batches(self, first_step: int) -> Iterator[Batch]:
        train = self.recipe.train
        return self.data.train_batches(
            first_step, batch_size=train.batch_size, parts=self.parts, seed=train.seed, stage=self.name
        )


class WarmUp(LearnClasses):
    """A plain classifier, with batch norm at work: what patches begin with where there are no weights from elsewhere."""

    def enter(self) -> None:
        self.network.begin_plain()
        self.network.freeze_norm(False)
        self.network.classifier.requires_grad_(False)


class LearnPatches(LearnClasses):
    """One stage of the progression (mode ppl), or the only one. `stage` None: the cuts alternate, one step of each a batch."""

    def __init__(
        self,
        method: PplMethod,
        data: PictureData,
        job: Job,
        *,
        name: str,
        epochs: float,
        stage: int | None,
        rate: float,
    ) -> None:
        super().__init__(method, data, job, name=name, epochs=epochs)
        self.stage, self.rate = stage, rate
        self.turns = self.network.num_stages if stage is None else 1
        self.steps *= self.turns
        self.steps_per_epoch *= self.turns

    def enter(self) -> None:
        fields = self.method.fields
        self.network.classifier.requires_grad_(True)
        self.network.leave_plain()
        self.network.stage = self.network.num_stages - 1 if self.stage is None else self.stage
        self.network.freeze_norm(fields.freeze_norm)
        self.network.learn_from(fields.freeze_through + 1)

    def batches(self, first_step: int) -> Iterator[Batch]:
        """Interleaved, every batch comes once for each cut, and the cut is set when its turn comes."""
        if self.turns == 1:
            yield from super().batches(first_step)
            return
        train, step = self.recipe.train, first_step
        pictures = self.data.train_batches(
            first_step // self.turns, batch_size=train.batch_size, parts=self.parts, seed=train.seed, stage=self.name
        )
        while True:
            together = [next(pictures) for _ in range(self.parts)]
            for turn in range(step % self.turns, self.turns):
                self.network.stage = turn
                yield from together
                step += 1
