"""The losses of Adam-v2 (Hosseinzadeh Taher et al., 2024), what keeps them going, and numbers that show a collapse.

Localizability is DINO's self-distillation between views of one anchor; composability asks that the embedding of a whole
follows from those of its parts, decomposability the reverse. With g and t the encoders of student and teacher, h_C and h_D
the heads for parts, w the whole and p_1 ... p_n its parts in reading order, N L2 normalisation, c a centre and T temperatures,

    L_loc  = mean over pairs of views of - sum_k q_k ln p_k
             q = softmax((teacher's logits - c) / T_teacher), p = softmax(student's logits / T_student)
    L_comp = MSE(N(h_C([g(p_1) ... g(p_n)])), N(t(w)))
    L_dec  = mean over i of MSE(u_i, N(t(p_i)))
             u = h_D(g(w)), its n slices normalised as one vector ("joint") or each alone ("per_part")

Targets never carry a gradient. Everything is computed in at least float32. Networks are models/part_whole_heads.py's; the
teacher's average is models/averaging.py's, the rate's schedule engine/optim.py's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from partwise.ops.averages import Average, alone

Norm = Literal["joint", "per_part"]
"""What of a decomposed vector is brought to unit length: all slices as one vector, as published, or each alone."""
Reduction = Literal["mean", "sum_dim"]
"""Squared differences averaged over batch and dimensions, as published, or summed over dimensions: D times as much."""
Views = Sequence[Float[Tensor, "b k"]] | Float[Tensor, "v b k"]
"""Logits of every view of a batch, a list or a stack."""

TEACHER_TEMPERATURE, STUDENT_TEMPERATURE = 0.04, 0.1
LARGEST_NORM = 3.0


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _stacked(views: Views) -> Float[Tensor, "v b k"]:
    """A list or a stack of views as a stack; ValueError for anything else."""
    shapes = {tuple(view.shape) for view in views}
    if len(shapes) != 1 or len(next(iter(shapes))) != 2:
        found = ", ".join(map(str, sorted(shapes))) or "none"
        raise ValueError(f"views of shape {found}: expected one or more, all (B, K)")
    return views if isinstance(views, Tensor) else torch.stack(list(views))


# -- localizability ------------------------------------------------------------------------------------------------------


@torch.no_grad()
def teacher_probabilities(
    teachers: Views, centre: Float[Tensor, " k"], *, temperature: float = TEACHER_TEMPERATURE
) -> Float[Tensor, "t b k"]:
    """q = softmax((logits - centre) / temperature) of every teacher view.

    Raises ValueError for views that differ in shape, another number of prototypes or a temperature that is not positive.
    """
    logits = _stacked(teachers)
    if centre.shape != logits.shape[-1:]:
        raise ValueError(f"centre {tuple(centre.shape)}: expected ({logits.shape[-1]},), a value for each prototype")
    _check_temperature(temperature)
    return ((_wide(logits) - centre) / temperature).softmax(dim=-1)


def view_cross_entropy(
    students: Views,
    probabilities: Float[Tensor, "t b k"],
    *,
    temperature: float = STUDENT_TEMPERATURE,
    skip_same: bool,
) -> Float[Tensor, ""]:
    """Mean over pairs of views, and over the batch, of - sum_k q_k ln softmax(student / temperature)_k.

    `skip_same` leaves out the pairs of student view i and teacher view i, which are one picture: with 10 students and 2
    teachers 18 pairs remain. Raises ValueError where none does, for students of another shape than the teachers and for a
    temperature that is not positive.
    """
    _check_temperature(temperature)
    together, losses, pairs = probabilities.sum(dim=0), [], 0
    for index, logits in enumerate(students):
        if logits.shape != probabilities.shape[1:]:
            raise ValueError(
                f"student view {index} of shape {tuple(logits.shape)}: expected {tuple(probabilities.shape[1:])}, "
                "as the teacher's"
            )
        target, partners = together, len(probabilities)
        if skip_same and index < len(probabilities):
            target, partners = torch.cat([probabilities[:index], probabilities[index + 1 :]]).sum(dim=0), partners - 1
        # The cross entropy is linear in its target: one for the sum of all partners is the sum of one for each.
        losses.append(F.cross_entropy(_wide(logits) / temperature, target))
        pairs += partners
    if not pairs:
        raise ValueError(f"{len(losses)} student and {len(probabilities)} teacher views: expected a pair that differs")
    return torch.stack(losses).sum() / pairs


def self_distillation(
    students: Views,
    teachers: Views,
    centre: Float[Tensor, " k"],
    *,
    student_temperature: float = STUDENT_TEMPERATURE,
    teacher_temperature: float = TEACHER_TEMPERATURE,
    skip_same: bool,
) -> Float[Tensor, ""]:
    """L_loc from logits: `view_cross_entropy` against `teacher_probabilities`.

    Adam-v2's first phase gives two teacher views and skips the same ones (18 terms), its second gives the whole anchor as
    the only teacher view, which no student view is, and counts all nine. Raises ValueError as both functions do.
    """
    probabilities = teacher_probabilities(teachers, centre, temperature=teacher_temperature)
    return view_cross_entropy(students, probabilities, temperature=student_temperature, skip_same=skip_same)


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: expected one above zero")


@torch.no_grad()
def update_centre(
    centre: Float[Tensor, " k"], teachers: Views, *, momentum: float = 0.9, average: Average = alone
) -> Float[Tensor, " k"]:
    """momentum * centre + (1 - momentum) * mean of the raw teacher logits over views and batch; for after the loss.

    `average` (the mean of a tensor over the processes) makes it that of the whole batch, where all hold equally many rows.
    """
    mean = average(_wide(_stacked(teachers)).mean(dim=(0, 1)))
    return (momentum * centre + (1 - momentum) * mean).to(centre.dtype)


# -- composability and decomposability -----------------------------------------------------------------------------------


def composition_loss(
    composed: Float[Tensor, "b d"], whole: Float[Tensor, "b d"], *, reduction: Reduction = "mean"
) -> Float[Tensor, ""]:
    """L_comp of what the student composes and the teacher's embedding of the whole: (2 - 2 cos) / D, or 2 - 2 cos summed.

    Raises ValueError for embeddings of different shapes and an unknown reduction.
    """
    _check_embeddings(composed, whole, ndim=2, expected="(B, D)")
    difference = F.normalize(_wide(composed), dim=-1) - F.normalize(_wide(whole.detach()), dim=-1)
    return _mean_square(difference, reduction)


def decomposition_loss(
    decomposed: Float[Tensor, "b n d"],
    parts: Float[Tensor, "b n d"],
    *,
    norm: Norm = "joint",
    reduction: Reduction = "mean",
) -> Float[Tensor, ""]:
    """L_dec of what the student makes of a whole and the teacher's embeddings of its parts, both in reading order.

    "joint" leaves (1 - 1 / sqrt(n))^2 / D even where every slice points to its target: slices share one unit of length that
    the targets have each. "per_part" is (2 - 2 cos) / D, averaged. Times D under "sum_dim". Raises ValueError for
    embeddings of different shapes, an unknown norm or reduction.
    """
    _check_embeddings(decomposed, parts, ndim=3, expected="(B, n, D)")
    if norm not in ("joint", "per_part"):
        raise ValueError(f"norm {norm!r}: expected 'joint' or 'per_part'")
    wide = _wide(decomposed)
    unit = F.normalize(wide.flatten(1), dim=1).view_as(wide) if norm == "joint" else F.normalize(wide, dim=-1)
    return _mean_square(unit - F.normalize(_wide(parts.detach()), dim=-1), reduction)


def _check_embeddings(found: Tensor, target: Tensor, *, ndim: int, expected: str) -> None:
    if found.ndim != ndim or found.shape != target.shape:
        raise ValueError(
            f"embeddings {tuple(found.shape)} against {tuple(target.shape)}: expected {expected}, twice the same"
        )


def _mean_square(difference: Tensor, reduction: Reduction) -> Tensor:
    if reduction not in ("mean", "sum_dim"):
        raise ValueError(f"reduction {reduction!r}: expected 'mean' or 'sum_dim'")
    squared = difference.square()
    return squared.mean() if reduction == "mean" else squared.sum(dim=-1).mean()


# -- optimisation --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def clip_each(gradients: Iterable[Tensor | None], *, max_norm: float = LARGEST_NORM) -> Float[Tensor, " n"]:
    """Shorten, in place, every gradient whose own L2 norm is above `max_norm`; the norms from before, `(n,)`.

    Each tensor is scaled alone, unlike torch's clip_grad_norm_, by min(1, max_norm / (norm + 1e-6)). Parameters without a
    gradient may stand as None and do not count. Nothing waits for the device.
    """
    tensors = [gradient for gradient in gradients if gradient is not None]
    if not tensors:
        return torch.zeros(0)
    norms = torch.stack(torch._foreach_norm(tensors))
    torch._foreach_mul_(tensors, (max_norm / (norms + 1e-6)).clamp(max=1.0).unbind())
    return norms


# -- signs of a collapse -------------------------------------------------------------------------------------------------
# Uniform answers: the loss and the teacher's entropy stay at ln K and the divergence at 0. One answer to all pictures: entropy
# and divergence fall to 0, spread to 0 and effective rank to 1.


@torch.no_grad()
def entropy(probabilities: Float[Tensor, "*n k"]) -> Float[Tensor, ""]:
    """Mean of - sum_k q_k ln q_k, in nats: from 0, one prototype for each row, to ln K, all alike."""
    rows: Tensor = torch.special.entr(_wide(probabilities)).sum(dim=-1)
    return rows.mean()


@torch.no_grad()
def divergence(loss: Float[Tensor, ""], probabilities: Float[Tensor, "t b k"]) -> Float[Tensor, ""]:
    """Mean KL(q || p) of the pairs of which `view_cross_entropy` is `loss`: cross entropy minus entropy of q.

    Exact where every teacher view stands in equally many pairs, as it does with as many students as teachers or more.
    """
    return loss.detach() - entropy(probabilities)


@torch.no_grad()
def centre_norm(centre: Float[Tensor, " k"]) -> Float[Tensor, ""]:
    """L2 norm of the centre; it grows as teacher logits agree over pictures."""
    norm: Tensor = torch.linalg.vector_norm(_wide(centre))
    return norm


@torch.no_grad()
def spread(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """Deviation of L2-normalised embeddings, mean over dimensions, against 1 / sqrt(D): about 1 spread evenly, 0 collapsed.

    A single embedding has none: 0.
    """
    units = F.normalize(_wide(embeddings), dim=1)
    return units.std(dim=0, correction=min(1, len(units) - 1)).mean() * math.sqrt(units.shape[1])


@torch.no_grad()
def effective_rank(embeddings: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
    """exp of the entropy of the singular values over their sum (Roy and Vetterli, 2007), from 1 to min(n, d).

    Embeddings are taken as they are: centre or normalise them before where that is wanted. A decomposition, which waits for
    the device: not for every step.
    """
    values = torch.linalg.svdvals(_wide(embeddings))
    shares = values / values.sum().clamp(min=torch.finfo(values.dtype).tiny)
    nats: Tensor = torch.special.entr(shares).sum()
    return nats.exp()
