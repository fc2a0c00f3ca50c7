"""Features and parameter gradients of one network for the pictures of C classes at once, each class a batch of its own.

Distillation asks for the gradient of every class's mean loss, and differentiates through it. Pictures come as
`(C, n, ch, h, w)`; a gradient comes back with a leading axis of classes, as `matching` takes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, get_args, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

How = Literal["loop", "grouped", "vmap"]
Loss = Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]


@runtime_checkable
class LayerChain(Protocol):
    """A network that is one layer after the other and can name them."""

    def chain(self) -> list[tuple[str, nn.Module]]:
        """Every layer with its name among the network's modules, in the order in which they run."""
        ...


def class_features(embed: Callable[[Tensor], Tensor], images: Float[Tensor, "c n ch h w"]) -> Float[Tensor, "c n d"]:
    """`embed` of the pictures of all classes, in one pass over all of them.

    Batch norm in training mode sees all classes at once, as DM's code wants it.
    """
    features: Tensor = embed(images.flatten(0, 1)).unflatten(0, images.shape[:2])
    return features


def class_gradients(
    network: nn.Module,
    images: Float[Tensor, "c n ch h w"],
    targets: Int[Tensor, "c n"] | Float[Tensor, "c n k"],
    *,
    how: How = "grouped",
    create_graph: bool = True,
) -> list[Float[Tensor, "c ..."]]:
    """The gradient of each class's mean cross-entropy for every parameter, in the order of `network.parameters()`.

    With `create_graph` the gradients can be differentiated with respect to `images` and soft `targets`; parameters are
    taken as they stand and get no gradient themselves. All ways give the same numbers: `"loop"` goes class by class and
    takes any network; `"grouped"` makes each convolution one of C groups, for chains of convolutions, group norms and
    linear layers (a `LayerChain`); `"vmap"` is torch.func's, which also takes residual networks. Batch norm in training
    mode is for the loop alone. Raises ValueError for an unknown way, for shapes that do not fit and for networks that
    are no such chain.
    """
    if how not in get_args(How):
        raise ValueError(f"how {how!r}: expected one of {', '.join(get_args(How))}")
    if images.ndim != 5 or targets.shape[:2] != images.shape[:2]:
        shapes = f"{tuple(images.shape)} with targets {tuple(targets.shape)}"
        raise ValueError(f"pictures {shapes}: expected (C, n, ch, h, w) with (C, n) or (C, n, K)")
    if not create_graph:
        images, targets = images.detach(), targets.detach()
    parameters = {name: parameter.detach() for name, parameter in network.named_parameters()}
    with torch.enable_grad():
        if how == "grouped":
            return _by_groups(network, parameters, images, targets, create_graph=create_graph)
        loss = _loss_of(network)
        if how == "loop":
            return _by_loop(loss, parameters, images, targets, create_graph=create_graph)
        found = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, images, targets)
        return [found[name] for name in parameters]


def _loss_of(network: nn.Module) -> Loss:
    """Parameters, pictures and targets of one batch -> its mean cross-entropy."""

    def loss(parameters: dict[str, Tensor], images: Tensor, targets: Tensor) -> Tensor:
        return _cross_entropy(functional_call(network, parameters, (images,)), targets)

    return loss


def _cross_entropy(logits: Float[Tensor, "*c n k"], targets: Tensor) -> Float[Tensor, " *c"]:
    """The mean over the last axis of pictures; targets are classes, or shares of classes."""
    logs = logits.log_softmax(-1)
    if targets.ndim == logits.ndim:
        return -(logs * targets).sum(-1).mean(-1)
    return -logs.gather(-1, targets[..., None])[..., 0].mean(-1)


def _by_loop(
    loss: Loss, parameters: dict[str, Tensor], images: Tensor, targets: Tensor, *, create_graph: bool
) -> list[Tensor]:
    """One backward pass a class."""
    leaves = {name: parameter.requires_grad_() for name, parameter in parameters.items()}
    each = [
        torch.autograd.grad(loss(leaves, own, truth), list(leaves.values()), create_graph=create_graph)
        for own, truth in zip(images, targets, strict=True)
    ]
    return [torch.stack(column) for column in zip(*each, strict=True)]


def _by_groups(
    network: nn.Module, parameters: dict[str, Tensor], images: Tensor, targets: Tensor, *, create_graph: bool
) -> list[Tensor]:
    """Every class has a copy of the parameters (a view of the same numbers), so one backward pass tells them apart."""
    if not isinstance(network, LayerChain):
        raise ValueError(f"how 'grouped': {type(network).__name__} is no chain of layers; use 'vmap' or 'loop'")
    classes = images.shape[0]
    copies = {
        name: parameter.expand(classes, *parameter.shape).requires_grad_() for name, parameter in parameters.items()
    }
    losses = _cross_entropy(_grouped_forward(network, copies, images), targets)
    return list(torch.autograd.grad(losses.sum(), list(copies.values()), create_graph=create_graph))


def _grouped_forward(network: LayerChain, copies: dict[str, Tensor], images: Tensor) -> Float[Tensor, "c n k"]:
    """The logits of all classes. Maps are `(n, C channels, h, w)`, and vectors `(C, n, d)`."""
    classes = images.shape[0]
    x = images.transpose(0, 1).flatten(1, 2)
    for name, layer in network.chain():
        weight, bias = copies.get(f"{name}.weight"), copies.get(f"{name}.bias")
        if isinstance(layer, nn.Conv2d) and weight is not None:
            groups = classes * layer.groups
            own = None if bias is None else bias.flatten()
            x = F.conv2d(x, weight.flatten(0, 1), own, layer.stride, layer.padding, layer.dilation, groups)
        elif isinstance(layer, nn.GroupNorm) and weight is not None and bias is not None:
            x = F.group_norm(x, classes * layer.num_groups, weight.flatten(), bias.flatten(), layer.eps)
        elif isinstance(layer, nn.Flatten):
            x = _vectors(x, classes)
        elif isinstance(layer, nn.Linear) and weight is not None:
            x = _vectors(x, classes) @ weight.mT
            x = x if bias is None else x + bias[:, None]
        elif not layer.state_dict():
            x = layer(x)  # activations, pools and borders treat channels apart
        else:
            raise ValueError(f"how 'grouped': layer {name} is a {type(layer).__name__}; use 'vmap' or 'loop'")
    return x


def _vectors(x: Tensor, classes: int) -> Float[Tensor, "c n d"]:
    """Maps as one vector a picture; vectors as they are."""
    return x.unflatten(1, (classes, -1)).flatten(2).transpose(0, 1) if x.ndim == 4 else x
