"""Scores by which a classifier's doubt shows: the higher, the more a picture looks like the training pictures."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from partwise.ops.attacks import Logits

TEMPERATURE, STEP = 1000.0, 0.0014
"""ODIN's, as its paper has them for CIFAR-10; the step is in pixels of [0, 1], and nothing is tuned on foreign pictures."""


def msp(logits: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The largest softmax probability (Hendrycks and Gimpel, 2017): what the CutMix paper reports."""
    return logits.double().softmax(dim=1).amax(dim=1)


def max_logit(logits: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """The largest logit (Hendrycks et al., 2022)."""
    return logits.double().amax(dim=1)


def energy(logits: Float[Tensor, "b k"]) -> Float[Tensor, " b"]:
    """log sum exp of the logits, the negative energy at temperature 1 (Liu et al., 2020)."""
    return logits.double().logsumexp(dim=1)


def odin(
    logits: Logits, images: Float[Tensor, "b c h w"], *, temperature: float = TEMPERATURE, step: float = STEP
) -> Float[Tensor, " b"]:
    """ODIN (Liang et al., 2018): the largest probability at a high temperature, after a step that raises it.

    x + step sign(d log max softmax(logits / T) / dx); the picture is not clipped, as in the published code.
    """
    with torch.enable_grad():
        asked = images.detach().requires_grad_()
        surest = (logits(asked).float() / temperature).log_softmax(dim=1).amax(dim=1).sum()
        if surest.requires_grad:
            (gradient,) = torch.autograd.grad(surest, asked, allow_unused=True, materialize_grads=True)
        else:
            gradient = torch.zeros_like(images)
    with torch.no_grad():
        moved = logits(images + step * gradient.sign())
    return (moved.double() / temperature).softmax(dim=1).amax(dim=1)


OF_LOGITS: dict[str, Callable[[Tensor], Tensor]] = {"msp": msp, "max_logit": max_logit, "energy": energy}


def roughness(images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """Mean difference of a pixel from the mean of its four neighbours: what a file's compression and noise decide."""
    middle = images[:, :, 1:-1, 1:-1]
    around = images[:, :, :-2, 1:-1] + images[:, :, 2:, 1:-1] + images[:, :, 1:-1, :-2] + images[:, :, 1:-1, 2:]
    return (middle - around / 4).abs().double().mean(dim=(1, 2, 3))


def brightness(images: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
    """The mean of all values."""
    return images.double().mean(dim=(1, 2, 3))


TRIVIAL: dict[str, Callable[[Tensor], Tensor]] = {"roughness": roughness, "brightness": brightness}
"""Statistics that know nothing of classes: a foreign set that these tell apart says little about a classifier."""
