"""Trajectory matching: pictures on which a student, started from an expert, arrives where the expert did (MTT, eq. 2).

From the expert's weights theta_0 after t epochs the student takes T steps theta_{i+1} = theta_i - beta g_i, where g_i is
the gradient of its loss on a batch of the synthetic pictures, and with the expert's weights theta* after t + M epochs

    L = ||theta_T - theta*||^2 / ||theta_0 - theta*||^2

is differentiated by the pictures and by beta. Two engines:

- `full` keeps the graph of all steps: MTT's gradient; memory grows with T.
- `tesla` (Cui et al. 2023) takes theta_i as given in g_i, so that with G = sum g_i and rho = theta_0 - beta G - theta*

      dL/dS = sum_i -2 beta <rho, dg_i/dS> / ||theta_0 - theta*||^2,  dL/dbeta = -2 <rho, G> / ||theta_0 - theta*||^2.

  A first pass gives G; a second repeats the steps and has the graph of one at a time, so that memory does not depend on
  T and augmentations are called again with the same step. Exact for T = 1. (The factor 2 is right here and in the
  published code of FYI and DATM; that of TESLA has half of it.)

Networks, augmentations and pairing are the caller's; so is keeping beta above 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn

from partwise.ops.draws import derive, order

Parameters = Mapping[str, Tensor]
Loss = Callable[[Parameters, Tensor, Tensor], Tensor]
"""(parameters by name, pictures, labels) -> the mean loss of the batch; twice differentiable."""
Augment = Callable[[Tensor, int], Tensor]
"""(pictures, number of the step) -> pictures, differentiable; the same draw whenever a step is asked for again."""
Pair = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(pictures, labels) -> what a step sees of them: FYI appends their flips."""
Engine = Literal["full", "tesla"]


@dataclass(frozen=True)
class Match:
    """Loss and gradients of one iteration; `finite` is false where any of them is not, and they must not be used."""

    loss: Float[Tensor, ""]
    images_grad: Float[Tensor, "n c h w"]
    beta_grad: Float[Tensor, ""]
    finite: Bool[Tensor, ""]


def unaugmented(images: Tensor, step: int) -> Tensor:
    """No augmentation."""
    return images


def unpaired(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Pictures and labels as they are: MTT without FYI."""
    return images, labels


def network_loss(network: nn.Module) -> Loss:
    """Cross-entropy of `network` with other parameters in place of its own; labels are classes or probabilities."""

    def loss(parameters: Parameters, images: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(torch.func.functional_call(network, dict(parameters), (images,)), labels)

    return loss


@torch.enable_grad()
def match_trajectory(
    start: Parameters,
    target: Parameters,
    images: Float[Tensor, "n c h w"],
    labels: Shaped[Tensor, " n *k"],
    batches: Sequence[Int[Tensor, " b"]],
    *,
    loss: Loss,
    beta: Float[Tensor, ""],
    grad: Engine = "full",
    augment: Augment = unaugmented,
    pair: Pair = unpaired,
) -> Match:
    """L, dL/dS and dL/dbeta of one student that takes a step on each of `batches`; nothing given is changed.

    Every step sees `augment(*pair(images[batch], labels[batch]), step)`. With FYI's flips in `pair` a step costs the
    same as without where the caller halves the batches. `start` and `target` are one network's parameters by name, as
    `loss` takes them; start = target gives a match that is not finite. Raises ValueError for parameters that do not
    agree, no batches, a beta that is no scalar, or an unknown engine.
    """
    if grad not in ("full", "tesla"):
        raise ValueError(f"grad {grad!r}: expected 'full' or 'tesla'")
    if not batches or beta.ndim != 0:
        raise ValueError(f"{len(batches)} batches, beta of {tuple(beta.shape)}: expected at least one, and a scalar")
    shapes = _shapes(start, target)
    first, last = (torch.cat([end[name].detach().reshape(-1) for name in shapes]) for end in (start, target))
    steps = [batch.to(images.device) for batch in batches]
    engine = _full if grad == "full" else _tesla
    student = _Student(shapes, loss, augment, pair, labels)
    value, by_images, by_beta = engine(student, first, last, images.detach(), steps, beta.detach())
    return Match(value, by_images, by_beta, value.isfinite() & by_images.isfinite().all() & by_beta.isfinite())


@dataclass(frozen=True)
class _Student:
    """What a step does with pictures; its parameters are one flat vector."""

    shapes: Mapping[str, torch.Size]
    loss: Loss
    augment: Augment
    pair: Pair
    labels: Tensor

    def gradient(self, theta: Tensor, pixels: Tensor, batch: Tensor, step: int, *, graph: bool) -> Tensor:
        """g_i at `theta` on the pictures of a batch; with its own graph where it is to be differentiated."""
        seen, answers = self.pair(pixels, self.labels.index_select(0, batch))
        pieces = theta.split([shape.numel() for shape in self.shapes.values()])
        parameters = {name: piece.view(shape) for piece, (name, shape) in zip(pieces, self.shapes.items(), strict=True)}
        value = self.loss(parameters, self.augment(seen, step), answers)
        (slope,) = torch.autograd.grad(value, theta, create_graph=graph)
        return slope


Gradients = tuple[Tensor, Tensor, Tensor]
"""L, dL/dS, dL/dbeta."""


def _full(
    student: _Student, start: Tensor, target: Tensor, images: Tensor, steps: Sequence[Tensor], beta: Tensor
) -> Gradients:
    """Through all steps at once."""
    pixels, rate, theta = images.requires_grad_(), beta.requires_grad_(), start.requires_grad_()
    for step, batch in enumerate(steps):
        theta = theta - rate * student.gradient(theta, pixels.index_select(0, batch), batch, step, graph=True)
    value = (theta - target).square().sum() / (start - target).square().sum()
    by_images, by_beta = torch.autograd.grad(value, (pixels, rate))
    return value.detach(), by_images, by_beta


def _tesla(
    student: _Student, start: Tensor, target: Tensor, images: Tensor, steps: Sequence[Tensor], beta: Tensor
) -> Gradients:
    """Step by step: once for where the student arrives, and once more for what each step had to do with it."""
    theta, total = start, torch.zeros_like(start)
    for step, batch in enumerate(steps):
        place = theta.detach().requires_grad_()
        slope = student.gradient(place, images.index_select(0, batch), batch, step, graph=False)
        theta, total = place.detach() - beta * slope, total + slope
    span = (start - target).square().sum()
    residual = theta - target
    by_images, theta = torch.zeros_like(images), start
    for step, batch in enumerate(steps):
        place, pixels = theta.detach().requires_grad_(), images.index_select(0, batch).requires_grad_()
        slope = student.gradient(place, pixels, batch, step, graph=True)
        (part,) = torch.autograd.grad(slope, pixels, -2 * beta / span * residual)
        by_images.index_add_(0, batch, part)
        theta = place.detach() - beta * slope.detach()
    return residual.square().sum() / span, by_images, -2 * (residual @ total) / span


def _shapes(start: Parameters, target: Parameters) -> dict[str, torch.Size]:
    """The parameters of both by name, which must be those of one network."""
    shapes, others = ({name: value.shape for name, value in end.items()} for end in (start, target))
    if odd := [name for name in shapes | others if shapes.get(name) != others.get(name)]:
        raise ValueError(f"start and target are not of one network: they differ in {', '.join(odd[:3])}")
    return shapes


def draw_batches(num_images: int, seed: int, *key: str | int, batch: int, steps: int) -> list[Int[Tensor, " b"]]:
    """The pictures of each step: pieces of random permutations, a new one when the last is used up.

    The last piece of a permutation is smaller where `batch` does not divide `num_images`. A function of seed and key
    alone. Raises ValueError for sizes below 1.
    """
    if min(num_images, batch, steps) < 1:
        raise ValueError(f"{num_images} pictures, batch {batch}, {steps} steps: expected at least 1 of each")
    pieces: list[Tensor] = []
    while len(pieces) < steps:
        pieces += order(num_images, seed, *key, len(pieces)).split(batch)
    return pieces[:steps]


def draw_start(
    iteration: int, seed: int, *key: str | int, num_experts: int, min_start: int = 0, max_start: int
) -> tuple[int, int]:
    """(expert, epoch t) of an iteration: experts in random order, all before one comes again; min_start <= t < max_start.

    MTT's min_start is 0. Raises ValueError where there is nothing to draw from.
    """
    if num_experts < 1 or not 0 <= min_start < max_start:
        raise ValueError(f"{num_experts} experts, epochs from {min_start} to before {max_start}: none to draw from")
    turn, place = divmod(iteration, num_experts)
    expert = int(order(num_experts, seed, *key, "experts", turn)[place])
    return expert, min_start + derive(seed, *key, "epoch", iteration) % (max_start - min_start)
