"""Steps that look for flat minima: GSAM (Zhuang et al. 2022) as FTD (Du et al. 2023) trains its experts.

With the gradient g at the weights w, a step of GSAM

    e = rho T(w)^2 g / ||T(w) g||      T(w) = |w| where adaptive, 1 where not
    g' = gradient at w + e
    g'' = g' - alpha (g - <g, u> u)    u = g' / ||g'||

hands g'' to the optimiser. Norms are over all parameters of a network. With rho = 0 and alpha = 0, g'' is g to the last
bit. Both gradients must see the same batch under the same augmentation; a network with running statistics would count
every batch twice.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

Parameters = Mapping[str, Tensor]
TINY = 1e-12
"""Added to norms that are divided by."""


def gsam_gradient(
    parameters: Parameters,
    gradient: Callable[[Parameters], Parameters],
    *,
    rho: float,
    alpha: float,
    adaptive: bool = True,
) -> dict[str, Tensor]:
    """g'' of a network whose gradients `gradient` gives (`torch.func.grad` of a loss); may be mapped over many networks.

    FTD: rho 0.01, alpha 0.3 or 1, adaptive. The cost is that of two gradients.
    """
    plain = gradient(parameters)
    offsets = perturbation(parameters, plain, rho=rho, adaptive=adaptive)
    sharp = gradient({name: value + offsets[name] for name, value in parameters.items()})
    return surrogate(plain, sharp, alpha=alpha)


def perturbation(
    parameters: Parameters, gradient: Parameters, *, rho: float, adaptive: bool = True
) -> dict[str, Tensor]:
    """e: the step of length rho, in the metric of T(w), along which the loss rises most."""
    weights = {name: value.abs() if adaptive else torch.ones_like(value) for name, value in parameters.items()}
    scale = rho / (_norm(weights[name] * slope for name, slope in gradient.items()) + TINY)
    return {name: scale * weights[name] ** 2 * slope for name, slope in gradient.items()}


def surrogate(plain: Parameters, sharp: Parameters, *, alpha: float) -> dict[str, Tensor]:
    """g'': the gradient at the perturbed weights less alpha times what of the plain one stands at right angles to it."""
    norm = _norm(sharp.values()) + TINY
    along = torch.stack([(plain[name] * slope).sum() for name, slope in sharp.items()]).sum() / norm
    return {name: slope - alpha * (plain[name] - along / norm * slope) for name, slope in sharp.items()}


def gsam_step(
    optimizer: torch.optim.Optimizer,
    loss: Callable[[], Tensor],
    *,
    rho: float,
    alpha: float,
    adaptive: bool = True,
) -> Tensor:
    """One step of `optimizer` along g''; returns the loss at the weights before it, without its graph.

    `loss` is called twice and must depend on every parameter of the optimiser that is trained. Weights are as they
    were where it raises.
    """
    weights = [p for group in optimizer.param_groups for p in group["params"] if p.requires_grad]
    parameters = {str(place): weight for place, weight in enumerate(weights)}
    with torch.enable_grad():
        value = loss()
        plain = _gradients(value, parameters)
    with torch.no_grad():
        held = {name: weight.clone() for name, weight in parameters.items()}
        offsets = perturbation(parameters, plain, rho=rho, adaptive=adaptive)
    try:
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.add_(offsets[name])
        with torch.enable_grad():
            sharp = _gradients(loss(), parameters)
    finally:  # copied back and not subtracted: w + e - e is not w
        with torch.no_grad():
            for name, weight in parameters.items():
                weight.copy_(held[name])
    for name, slope in surrogate(plain, sharp, alpha=alpha).items():
        parameters[name].grad = slope
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return value.detach()


def _gradients(value: Tensor, parameters: Parameters) -> dict[str, Tensor]:
    return dict(zip(parameters, torch.autograd.grad(value, list(parameters.values())), strict=True))


def _norm(tensors: Iterable[Tensor]) -> Tensor:
    """The Euclidean norm of all values together."""
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).square().sum().sqrt()
