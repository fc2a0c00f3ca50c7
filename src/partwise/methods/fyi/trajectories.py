"""Trajectory matching (MTT: Cazenavette et al. 2022; FTD: Du et al. 2023): a student of the set ends where an expert did.

The maths is ops/trajectory.py's. Here: which expert and epoch, which pictures in which step, their augmentation, and the
learned step size, which is kept above zero. Iterations whose gradients are not finite are passed over and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.data.siamese import augment, draw_per_sample
from partwise.engine.loop import Job
from partwise.engine.optim import build_optimizer
from partwise.engine.stages import Losses, Plan, Products
from partwise.methods.fyi.experts import find_experts, fresh_student
from partwise.methods.fyi.learning import Distil
from partwise.ops import draws
from partwise.ops.flips import flip_pairs
from partwise.ops.trajectory import Augment, draw_batches, draw_start, match_trajectory, network_loss, unpaired

if TYPE_CHECKING:
    from partwise.methods.fyi.method import FyiMethod

SMALLEST_RATE = 1e-6


class MatchTrajectories(Distil):
    """A step: one student of `student_steps` steps. Every process of several does the same; experts are shared out."""

    def __init__(self, method: FyiMethod, data: PictureData, job: Job) -> None:
        super().__init__(method, data, job)
        fields = self.fields
        self.steps_per_epoch = fields.experts.count
        pictures = len(self.set.labels)
        self.student_batch = min(fields.synthetic_batch or pictures, pictures)
        if fields.distil == "fyi":  # mirror images double it again
            self.student_batch = max(1, self.student_batch // 2)
        self.batch_size = self.student_batch * (2 if fields.distil == "fyi" else 1) * fields.student_steps

    def prepare(self, products: Products) -> None:
        self.job.runtime.agree(True)  # until the process that leads has written the experts' index
        self.store = find_experts(self.method, self.data, products)
        self.network = fresh_student(self.method, self.name, "student").to(self.job.runtime.device)
        super().prepare(products)

    def plans(self) -> dict[str, Plan]:
        rate, optim = self.set.rate, self.fields.rate_optim
        assert rate is not None
        return super().plans() | {"rate": Plan(build_optimizer([{"params": [rate], "lr": optim.lr}], optim), optim)}

    def augmentation(self, step: int) -> Augment:
        """What a student's step sees of its pictures: draws of their own, which are the same whenever it is asked for."""

        def augmented(images: Tensor, number: int) -> Tensor:
            generator = draws.generator(self.seed, self.name, "augment", step, number)
            return augment(images, draw_per_sample(self.rule, len(images), generator))

        return augmented

    def match(self, step: int, optimizers: Mapping[str, torch.optim.Optimizer]) -> Losses:
        fields, images, rate = self.fields, self.set.images, self.set.rate
        assert rate is not None
        expert, epoch = draw_start(step, self.seed, self.name, num_experts=self.store.count, max_start=fields.max_start)
        start, target = (
            {name: value.to(images.device) for name, value in end.items()}
            for end in self.store.snapshots(expert, [epoch, epoch + fields.expert_epochs])
        )
        found = match_trajectory(
            start,
            target,
            images,
            self.set.labels,
            draw_batches(
                len(images), self.seed, self.name, "student", step, batch=self.student_batch, steps=fields.student_steps
            ),
            loss=network_loss(self.network),
            beta=rate,
            grad=fields.grad,
            augment=self.augmentation(step),
            pair=flip_pairs if fields.distil == "fyi" else unpaired,
        )
        if bool(found.finite):
            images.grad, rate.grad = found.images_grad, found.beta_grad
            for optimizer in optimizers.values():
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            with torch.no_grad():
                rate.clamp_(min=SMALLEST_RATE)
        loss = torch.where(found.finite, found.loss, 0.0)
        return {"loss": loss, "passed_over": (~found.finite).float(), "rate": rate.detach().clone()}
