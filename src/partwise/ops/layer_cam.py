"""LayerCAM (Jiang et al. 2021): class maps of any layer, every cell weighted by its own gradient.

Grad-CAM (cam.py) weights a channel by its mean gradient, which is right only where gradients hardly differ between
cells: at the last map. A weight of its own for each cell gives maps of earlier, finer layers too.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from partwise.ops.cam import _with_features


def layer_cam(
    model: nn.Module,
    images: Float[Tensor, "b c h w"],
    *,
    layer: nn.Module,
    classes: Int[Tensor, "b n"] | None = None,
) -> Float[Tensor, "b n gh gw"]:
    """`map_c = ReLU(sum_d ReLU(dlogit_c / dA_d) * A_d)` of the output A of `layer`, cell by cell, without a graph.

    `classes` names the wanted ones of each picture; None means all, from one forward pass and one batched backward pass
    through what lies behind the layer. The model stays in the mode it is in (use eval) and keeps no hook. Raises
    ValueError where `layer` does not give one map `(B, D, h, w)`, or lies on no path to the logits.
    """
    with torch.inference_mode(False), torch.enable_grad():
        pictures = images.clone() if images.is_inference() else images
        logits, features = _with_features(model, pictures, layer)
        every = torch.arange(logits.shape[1], device=logits.device).expand(len(images), -1)
        chosen = F.one_hot((every if classes is None else classes).T, logits.shape[1]).to(logits.dtype)
        gradients = torch.autograd.grad(logits, features, chosen, is_grads_batched=True, allow_unused=True)[0]
        if gradients is None:
            raise ValueError("layer_cam: the layer's output does not reach the logits")
    return torch.einsum("nbdhw,bdhw->bnhw", gradients.relu(), features.detach()).relu()
