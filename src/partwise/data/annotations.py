"""What samples carry beside their pictures, in the network's frame and side by side in a batch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from partwise.data.augment import Placement, place, place_boxes, place_points
from partwise.data.sample import VOID, Batch, Sample

ANNOTATIONS = frozenset({"boxes", "masks", "parts", "landmarks"})
"""Fields of a batch for which whole samples are read, and not only pictures."""


def in_frame(sample: Sample, placement: Placement, size: int) -> Sample:
    """A sample with picture, boxes, masks and landmarks in the square frame of `size`."""
    return Sample(
        id=sample.id,
        image=place(sample.image, placement, size),
        label=sample.label,
        labels=sample.labels,
        boxes=None if sample.boxes is None else place_boxes(sample.boxes, placement, size),
        mask=None if sample.mask is None else place(sample.mask, placement, size, mask=True),
        parts=None if sample.parts is None else place(sample.parts, placement, size, mask=True),
        landmarks=None if sample.landmarks is None else place_points(sample.landmarks, placement, size),
    )


def annotate(
    batch: Batch,
    samples: Sequence[Sample],
    fields: frozenset[str],
    *,
    num_landmarks: int,
    some_masks: bool,
    device: torch.device,
) -> None:
    """Write what is in `fields` of samples of one size into their batch.

    A picture without a mask has one of void, where `some_masks` of the source are there, and so has one without parts among
    others with parts; one without landmarks, or with another number than `num_landmarks`, has NaN.
    """
    if "boxes" in fields:
        batch.boxes = [torch.zeros(0, 4) if s.boxes is None else s.boxes for s in samples]
    if "masks" in fields and some_masks:
        batch.masks = torch.stack([map_or_void(sample, sample.mask) for sample in samples]).to(device)
    if "parts" in fields and any(s.parts is not None for s in samples):
        batch.parts = torch.stack([map_or_void(sample, sample.parts) for sample in samples]).to(device)
    if "landmarks" in fields:
        batch.landmarks = torch.stack([landmarks_or_nan(sample, num_landmarks) for sample in samples])


def map_or_void(sample: Sample, own: Tensor | None) -> Tensor:
    """A sample's mask or parts; where it has none, what is counted nowhere."""
    return torch.full(sample.image.shape[1:], VOID, dtype=torch.uint8) if own is None else own


def landmarks_or_nan(sample: Sample, count: int) -> Tensor:
    """A sample's landmarks `(count, 2)`; NaN where it has none, or another number."""
    own = sample.landmarks
    return torch.full((count, 2), torch.nan) if own is None or own.shape != (count, 2) else own.float()
