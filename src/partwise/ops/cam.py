"""Class activation maps: where in a picture a network finds its classes. Pure, on the device of what they are given.

Plain CAM (Zhou et al. 2016) gives all classes in one product; Grad-CAM (Selvaraju et al. 2017) works for any network
and layer. Not for boxes or masks from maps (localize.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

Upsampling = Literal["bilinear", "bicubic"]
MapFunction = Callable[[Tensor], Tensor]
"""Pictures `(B, C, H, W)` -> maps `(B, K, h, w)` at whatever resolution the network has."""


def class_maps(features: Float[Tensor, "b d h w"], weight: Float[Tensor, "k d"]) -> Float[Tensor, "b k h w"]:
    """`map_c = sum_d weight[c, d] * features_d` for every class c, raw.

    With global average pooling and one linear layer, the mean of a map plus the class's bias is its logit.
    """
    return torch.einsum("bdhw,kd->bkhw", features, weight)


def cam(model: nn.Module, images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k gh gw"]:
    """Plain class activation maps of all classes, raw, in one pass through a classifier that can be asked for its parts.

    That is a model with timm's `forward_features` and `get_classifier` (global average pooling and one linear layer), in
    the mode it is in. Raises ValueError for any other, for which `grad_cam` with a layer gives maps.
    """
    extract: Any = getattr(model, "forward_features", None)
    find_classifier: Any = getattr(model, "get_classifier", None)
    if extract is None or find_classifier is None:
        raise ValueError(
            f"cam: {type(model).__name__} has no forward_features and get_classifier; use grad_cam with a layer"
        )
    features, classifier = extract(images), find_classifier()
    if not isinstance(classifier, nn.Linear) or features.ndim != 4 or features.shape[1] != classifier.in_features:
        raise ValueError(
            f"cam: {type(model).__name__} does not pool one map into one linear layer; use grad_cam with a layer"
        )
    return class_maps(features, classifier.weight)


def grad_cam(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    *,
    layer: nn.Module,
    classes: Int[Tensor, "b n"] | None = None,
    differentiable: bool = False,
) -> Float[Tensor, "b n gh gw"]:
    """Grad-CAM at the output of `layer`: its channels, weighted by the logit's mean gradient and summed, then ReLU.

    `classes` names the wanted ones of each picture; None means all, from one forward pass and one batched backward
    pass through what lies behind the layer. `differentiable` keeps the graph, gradients of gradients included. The
    model stays in the mode it is in (use eval) and keeps no hook. Raises ValueError where `layer` does not give one
    map `(B, D, h, w)`, or lies on no path to the logits.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pictures = images.clone() if images.is_inference() else images
        logits, features = _with_features(model, pictures, layer)
        rows = (
            torch.arange(logits.shape[1], device=logits.device).expand(len(images), -1) if classes is None else classes
        )
        chosen = F.one_hot(rows.T, logits.shape[1]).to(logits.dtype)
        gradients = torch.autograd.grad(
            logits, features, chosen, is_grads_batched=True, create_graph=differentiable, allow_unused=True
        )[0]
        if gradients is None:
            raise ValueError("grad_cam: the layer's output does not reach the logits")
        weights = gradients.mean(dim=(-2, -1))  # (n, b, d)
        maps = torch.einsum("nbd,bdhw->bnhw", weights, features).relu()
    return maps if differentiable else maps.detach()


def _with_features(model: nn.Module, images: Tensor, layer: nn.Module) -> tuple[Tensor, Tensor]:
    """Logits and the output of `layer`, with a graph between them even where every weight is frozen."""
    seen: list[object] = []

    def keep(_module: nn.Module, _inputs: object, output: object) -> object:
        if isinstance(output, Tensor) and not output.requires_grad:
            output = output.detach().requires_grad_()
        # A copy goes on, so that an activation that works in place behind the layer leaves what is kept alone.
        seen.append(output)
        return output.clone() if isinstance(output, Tensor) else output

    handle = layer.register_forward_hook(keep)
    try:
        logits = model(images)
    finally:
        handle.remove()
    features = seen[0] if len(seen) == 1 else None
    if not isinstance(features, Tensor) or features.ndim != 4:
        got = f"{len(seen)} outputs" if len(seen) != 1 else getattr(seen[0], "shape", type(seen[0]).__name__)
        raise ValueError(f"grad_cam: the layer must give one map (B, D, h, w) in a forward pass, not {got}")
    return logits, features


def upsample(
    maps: Float[Tensor, "b k h w"], size: tuple[int, int], *, mode: Upsampling = "bilinear"
) -> Float[Tensor, "b k oh ow"]:
    """Maps at `size` (height, width), by the centres of their cells; maps that have that size come back unchanged."""
    if tuple(maps.shape[-2:]) == tuple(size):
        return maps
    return F.interpolate(maps, size=size, mode=mode, align_corners=False)


def normalise(maps: Float[Tensor, "*b h w"]) -> Float[Tensor, "*b h w"]:
    """Each map scaled to [0, 1] by its own least and greatest value; a constant map becomes 0."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    span = high - low
    # NaN must stay NaN, to be refused by whoever thresholds: hence not `span > 0`.
    return (maps - low) / torch.where(span == 0, 1.0, span)


def multi_scale(
    function: MapFunction,
    images: Float[Tensor, "b c h w"],
    *,
    scales: Sequence[float] = (1.0,),
    flip: bool = True,
    size: tuple[int, int] | None = None,
    mode: Upsampling = "bilinear",
) -> Float[Tensor, "b k oh ow"]:
    """The mean of a network's maps over resized pictures and, with `flip`, their mirror images, all at `size`.

    `size` is (height, width), by default that of the pictures. Raises ValueError where no scale is given.
    """
    if not scales:
        raise ValueError("multi_scale: expected at least one scale")
    height, width = images.shape[-2:]
    target = (height, width) if size is None else size
    total: Tensor | None = None
    for scale in scales:
        sides = (max(1, round(height * scale)), max(1, round(width * scale)))
        view = upsample(images, sides)
        maps = upsample(function(view), target, mode=mode)
        if flip:
            maps = maps + upsample(function(view.flip(-1)).flip(-1), target, mode=mode)
        total = maps if total is None else total + maps
    assert total is not None
    return total / (len(scales) * (2 if flip else 1))
