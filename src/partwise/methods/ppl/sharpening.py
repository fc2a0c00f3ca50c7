"""Labels and probabilities drawn to the edges of a picture: by a dense CRF with published settings, or by PAMR."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.methods.ppl.config import Sharpener
from partwise.methods.ppl.sizing import LARGEST, within
from partwise.ops.cam import upsample
from partwise.ops.crf import CRF_PRESETS, crf_labels, dense_crf, unary_from_probabilities
from partwise.ops.pamr import pamr
from partwise.ops.segmentation_losses import resize_labels


def sharpen_labels(image: Tensor, labels: Tensor, count: int, by: Sharpener) -> Tensor:
    """Labels `(H, W)` from 0 to `count` of a picture uint8 `(3, H, W)`; all of them take part, whether or not they occur.

    Those of a picture with a longer side than LARGEST are sharpened at that size.
    """
    if by == "none" or count == 0:
        return labels
    if max(labels.shape) > LARGEST:
        small = _reduced(image)
        found = sharpen_labels(small, resize_labels(labels[None], (small.shape[1], small.shape[2]))[0], count, by)
        return resize_labels(found[None], (labels.shape[0], labels.shape[1]))[0]
    if by == "pamr":
        every = F.one_hot(labels.long(), count + 1).permute(2, 0, 1).float()
        return sharpen_probabilities(image, every, by).argmax(0).to(labels.dtype)
    return crf_labels(image, labels, CRF_PRESETS[by], classes=range(count + 1))


def sharpen_probabilities(image: Tensor, probabilities: Tensor, by: Sharpener) -> Tensor:
    """Probabilities `(L, H, W)` of a picture uint8 `(3, H, W)`; of a large one at the size of LARGEST, as labels."""
    if by == "none":
        return probabilities
    size = (image.shape[1], image.shape[2])
    if max(size) > LARGEST:
        small = _reduced(image)
        found = upsample(probabilities[None], (small.shape[1], small.shape[2]))[0]
        return upsample(sharpen_probabilities(small, found, by)[None], size)[0]
    if by == "pamr":
        return pamr(image[None].float() / 255, probabilities[None])[0]
    return dense_crf(image, unary_from_probabilities(probabilities), CRF_PRESETS[by])


def _reduced(image: Tensor) -> Tensor:
    return to_bytes(within(image[None].float() / 255))[0]


def to_bytes(images: Tensor) -> Tensor:
    """Float pictures in [0, 1] -> uint8, rounded."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)
