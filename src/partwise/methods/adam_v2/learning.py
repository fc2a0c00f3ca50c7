"""The two phases of Adam-v2: localizability alone, then with parts and wholes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from partwise.data.anatomy_views import ViewTable, localizability_views, part_whole_views
from partwise.data.loading import PictureData
from partwise.engine.loop import Job
from partwise.engine.stages import Losses, StepOutput
from partwise.methods.adam_v2.viewing import LearnViews, ViewBatch, follow
from partwise.methods.adam_v2.watching import Collapse, describe_collapse
from partwise.models.encoders import Encoder
from partwise.ops.part_whole import (
    centre_norm,
    clip_each,
    composition_loss,
    decomposition_loss,
    divergence,
    entropy,
    spread,
    teacher_probabilities,
    update_centre,
    view_cross_entropy,
)
from partwise.ops.schedules import cosine_schedule

if TYPE_CHECKING:
    from partwise.methods.adam_v2.config import AdamFields
    from partwise.methods.adam_v2.method import AdamMethod

WARMUP_SHARE = 0.2
"""Of a phase, in which nothing is said of a collapse: every run starts close to one."""


class LearnPlaces(LearnViews):
    """A phase with a teacher: gradients clipped each, prototypes that stay at first, the teacher's average and its centre."""

    loss: LocalizeLoss
    _said = False

    def networks(self) -> dict[str, nn.Module]:
        return self.method.teaching()

    def after_backward(self, step: int) -> None:
        if step < self.fields.freeze_epochs * self.steps_per_epoch:
            self.method.student_head.prototypes.grad = None
        if self.fields.clip_each is not None:
            clip_each((parameter.grad for parameter in self.learners()), max_norm=self.fields.clip_each)

    def after_step(self, step: int) -> None:
        method, fields = self.method, self.fields
        momentum = cosine_schedule(step, self.steps, start=fields.momentum, end=1.0)
        follow([method.encoder, method.head], [method.student, method.student_head], momentum=momentum)
        if self.loss.answers:
            answers = torch.stack(self.loss.answers)[None]
            self.loss.answers.clear()
            centre, average = method.centre.value, self.job.runtime.average
            centre.copy_(update_centre(centre, answers, momentum=fields.centre_momentum, average=average))
        if (step + 1) % self.recipe.train.log_every == 0 and step > WARMUP_SHARE * self.steps:
            self._look()

    def _look(self) -> None:
        """Say so, once, where the networks give every picture the same answer."""
        if self.rows.stop - self.rows.start < 2:
            return  # a picture alone has no others to differ from
        words = describe_collapse(self.loss.seen, num_prototypes=self.fields.num_prototypes)
        if words and not self._said:
            self.job.progress.say(f"{self.name}: {words}")
            self._said = True


class LearnLocalizability(LearnPlaces):
    """The first phase: ten views of a square anchor, each to be told from the two large ones."""

    def __init__(self, method: AdamMethod, data: PictureData, job: Job) -> None:
        fields = method.fields
        table = localizability_views(fields.view_size, fields.local_size)
        super().__init__(method, data, job, name="localize", table=table, passes=fields.localize_epochs)

    def loss_module(self) -> nn.Module:
        self.loss = LocalizeLoss(self.method)
        return self.loss


class LearnPartsAndWholes(LearnPlaces):
    """The second phase: nine views about the anchor's centre against the whole of it, and its parts against the whole."""

    def __init__(self, method: AdamMethod, data: PictureData, job: Job) -> None:
        fields = method.fields
        super().__init__(method, data, job, name="parts", table=needed_views(fields), passes=fields.part_whole_epochs)

    def networks(self) -> dict[str, nn.Module]:
        return self.method.teaching() | {"parts": self.method.parts}

    def loss_module(self) -> nn.Module:
        self.loss = PartWholeLoss(self.method)
        return self.loss


def needed_views(fields: AdamFields) -> ViewTable:
    """The views of the second phase, less those that no branch of positive weight looks at."""
    table = part_whole_views(fields.view_size, fields.local_size, fields.num_parts)
    wanted = {"whole"}
    if fields.localize_weight:
        wanted.add("centred")
    if fields.compose_weight or fields.decompose_weight:
        wanted.add("part")
    return replace(table, views=tuple(kind for kind in table.views if kind.cut in wanted))


class LocalizeLoss(nn.Module):
    """L_loc of the first phase. The teacher is no part of this module, so that no strategy reduces its gradients."""

    def __init__(self, method: AdamMethod, *, places: bool = True) -> None:
        super().__init__()
        self.fields = method.fields
        self.student = method.student
        # What no branch of positive weight asks is no part of the module: a strategy would wait for its gradients.
        self.head = method.student_head if places else None
        self._teacher = (method.encoder, method.head)
        self._centre = (method.centre,)
        self.channels_last = method.recipe.train.channels_last
        self.answers: list[Tensor] = []
        """Mean logits of the teacher, one entry a part of the step."""
        self.seen = Collapse.nothing()

    def train(self, mode: bool = True) -> LocalizeLoss:
        """The teacher too."""
        for network in self._teacher:
            network.train(mode)
        super().train(mode)
        return self

    def forward(self, batch: ViewBatch) -> StepOutput:
        large, small = batch.views[self.fields.view_size], batch.views[self.fields.local_size]
        embedded = self.embed(self.student, large) + self.embed(self.student, small)
        with torch.no_grad():
            taught = self.embed(self._teacher[0], large)
        loss, logs = self.localize(embedded, taught, skip_same=True)
        return {"localize": loss}, logs

    def localize(self, embedded: list[Tensor], taught: list[Tensor], *, skip_same: bool) -> tuple[Tensor, Losses]:
        """L_loc of the student's views against the teacher's, and what shows a collapse."""
        fields, (_, head), (centre,) = self.fields, self._teacher, self._centre
        assert self.head is not None
        answers = self.head(torch.cat(embedded)).chunk(len(embedded))
        with torch.no_grad():
            logits = head(torch.cat(taught)).unflatten(0, (len(taught), -1))
        q = teacher_probabilities(logits, centre.value, temperature=fields.teacher_temperature)
        loss = view_cross_entropy(answers, q, temperature=fields.student_temperature, skip_same=skip_same)
        self.answers.append(logits.float().mean(dim=(0, 1)))
        own = entropy(q)
        self.seen = Collapse(own, entropy(q.mean(dim=1)) - own, divergence(loss, q), spread(taught[0]))
        return loss, self.seen.logs() | {"centre_norm": centre_norm(centre.value)}

    def embed(self, encoder: Encoder, views: Tensor | Sequence[Tensor], *, together: bool = True) -> list[Tensor]:
        """Embeddings `(B, D)` of each of some views of one size, `(V, B, 3, s, s)`, in one pass or one by one."""
        if not len(views):
            return []
        if not together:
            return [self.embed(encoder, view[None])[0] for view in views]
        pixels = views.flatten(0, 1) if isinstance(views, Tensor) else torch.cat(list(views))
        if self.channels_last:
            pixels = pixels.contiguous(memory_format=torch.channels_last)
        return list(encoder.backbone.pooled(pixels).chunk(len(views)))


class PartWholeLoss(LocalizeLoss):
    """L_loc, L_comp and L_dec of the second phase, each where its weight is positive."""

    def __init__(self, method: AdamMethod) -> None:
        fields = method.fields
        super().__init__(method, places=bool(fields.localize_weight))
        self.compose = method.parts.compose if fields.compose_weight else None
        self.decompose = method.parts.decompose if fields.decompose_weight else None

    def forward(self, batch: ViewBatch) -> StepOutput:
        fields = self.fields
        together = fields.passes == "together"
        places, composes, decomposes = self.head is not None, self.compose is not None, self.decompose is not None
        large = list(batch.views[fields.view_size])
        whole, centre, parts = large[:1], large[1:2] if places else [], large[2:] if places else large[1:]
        # What the student sees: the whole only to take it apart, the parts only to put them together.
        seen = [whole if decomposes else [], centre, parts if composes else []]
        flat = self.embed(self.student, [view for group in seen for view in group], together=together)
        split = [len(group) for group in seen]
        own_whole, own_centre, own_parts = flat[: split[0]], flat[split[0] : sum(split[:2])], flat[sum(split[:2]) :]
        with torch.no_grad():
            taught = self.embed(self._teacher[0], whole + (parts if decomposes else []), together=together)
        losses: Losses = {}
        logs: Losses = {}
        if places:
            small = self.embed(self.student, batch.views[fields.local_size])
            loss, logs = self.localize(own_centre + small, taught[:1], skip_same=False)
            losses["localize"] = fields.localize_weight * loss
        else:
            self.seen = Collapse.nothing()._replace(spread=spread(taught[0]))
            logs["embedding_spread"] = self.seen.spread
        if self.compose is not None:
            composed = self.compose(torch.stack(own_parts, dim=1))
            losses["compose"] = fields.compose_weight * composition_loss(
                composed, taught[0], reduction=fields.reduction
            )
        if self.decompose is not None:
            apart = self.decompose(own_whole[0])
            losses["decompose"] = fields.decompose_weight * decomposition_loss(
                apart, torch.stack(taught[1:], dim=1), norm=fields.decompose_norm, reduction=fields.reduction
            )
        return losses, logs
