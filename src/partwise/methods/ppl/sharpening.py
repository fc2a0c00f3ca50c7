"""Labels and probabilities drawn to the edges of a picture: by a dense CRF with published settings, or by PAMR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.methods.ppl.config import Sharpener
from partwise.ops.crf import CRF_PRESETS, crf_labels, dense_crf, unary_from_probabilities
from partwise.ops.pamr import pamr


def sharpen_labels(image: Tensor, labels: Tensor, count: int, by: Sharpener) -> Tensor:
    """Labels `(H, W)` from 0 to `count` of a picture uint8 `(3, H, W)`; all of them take part, whether or not they occur."""
    if by == "none" or count == 0:
        return labels
    if by == "pamr":
        every = F.one_hot(labels.long(), count + 1).permute(2, 0, 1).float()
        return sharpen_probabilities(image, every, by).argmax(0).to(labels.dtype)
    return crf_labels(image, labels, CRF_PRESETS[by], classes=range(count + 1))


def sharpen_probabilities(image: Tensor, probabilities: Tensor, by: Sharpener) -> Tensor:
    """Probabilities `(L, H, W)` of a picture uint8 `(3, H, W)`."""
    if by == "none":
        return probabilities
    if by == "pamr":
        return pamr(image[None].float() / 255, probabilities[None])[0]
    return dense_crf(image, unary_from_probabilities(probabilities), CRF_PRESETS[by])


def to_bytes(images: Tensor) -> Tensor:
    """Float pictures in [0, 1] -> uint8, rounded."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
