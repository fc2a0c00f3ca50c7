"""What a picture and its labels are called everywhere: records, samples, sources and batches.

Boxes are `(x1, y1, x2, y2)` in pixels, half-open, in the frame of the picture they come with. Masks hold 0 for the ground,
class k as k + 1 and 255 for void. Readers (data/readers) and worlds (data/worlds) make these; nothing here knows a file layout.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

VOID = 255
"""The mask value of pixels that belong to no class and are counted nowhere."""


class FaultySample(Exception):
    """A picture or mask that cannot be read: `file` names it, `reason` says why."""

    def __init__(self, file: str, reason: str) -> None:
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Record:
    """What is known of a sample without decoding its pixels."""

    id: str
    split: str = ""
    label: int | None = None
    labels: tuple[int, ...] | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    group: str = ""
    case: str = ""
    polarity: int | None = None
    file: str = ""
    has_mask: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """One decoded picture with everything its source knows of it.

    `image` is uint8 `(C, H, W)`; `labels` float32 multi-hot `(K,)`; `mask` and `parts` uint8 `(H, W)`; `boxes` float32
    `(n, 4)`; `landmarks` float32 `(n, 2)` as x, y. `group` is what a split must not cut: a person, specimen or slide.
    """

    id: str
    image: Tensor
    label: int | None = None
    labels: Tensor | None = None
    mask: Tensor | None = None
    parts: Tensor | None = None
    boxes: Tensor | None = None
    landmarks: Tensor | None = None
    group: str = ""
    case: str = ""
    polarity: int | None = None
    split: str = ""
    caption: str = ""


@dataclass(slots=True)
class Batch:
    """Samples side by side: `images` `(B, C, H, W)`, uint8 from a loader, float32 in [0, 1] once augmented.

    `polarities` int64 `(B,)`: 1 for a long arm that points down, 0 for up, -1 where nobody knows. `landmarks` float32
    `(B, L, 2)` as x, y, in the order of the source's `landmark_names`, NaN where a picture lacks one.
    """

    ids: list[str]
    index: Tensor
    images: Tensor
    targets: Tensor | None = None
    masks: Tensor | None = None
    boxes: list[Tensor] | None = None
    parts: Tensor | None = None
    polarities: Tensor | None = None
    landmarks: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def pictures(self) -> Tensor:
        """The pictures as floats in [0, 1], whether or not they still are bytes."""
        return self.images if self.images.is_floating_point() else self.images.float() / 255

    def to(self, device: torch.device) -> Batch:
        """The same batch with its tensors on `device`; boxes and landmarks, which are read one by one, stay on the host."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device, non_blocking=True)

        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=move(self.targets),
            polarities=move(self.polarities),
            masks=move(self.masks),
            parts=move(self.parts),
        )


class Source(ABC):
    """A whole data set, all splits together, addressed by position in `records`."""

    kind: str
    name: str
    root: Path | None = None
    classes: tuple[str, ...] = ()
    multi_label: bool = False
    image_size: tuple[int, int] | None = None
    """(height, width) if all pictures share one, else None."""
    channels: int = 3
    records: Sequence[Record] = ()
    landmark_names: Sequence[str] = ()
    """Names of the landmarks that all annotated pictures share; those of a side of the body begin with `left ` or `right `."""

    def __len__(self) -> int:
        return len(self.records)

    @abstractmethod
    def load_image(self, index: int) -> Tensor:
        """The picture alone: uint8 `(C, H, W)`. Raises FaultySample where it cannot be read."""

    def load(self, index: int) -> Sample:
        """The picture with its labels; sources with masks, parts or landmarks override this."""
        record = self.records[index]
        return Sample(
            id=record.id,
            image=self.load_image(index),
            label=record.label,
            labels=self.multi_hot(record.labels),
            boxes=torch.tensor(record.boxes, dtype=torch.float32).reshape(-1, 4) if record.boxes else None,
            group=record.group,
            case=record.case,
            polarity=record.polarity,
            split=record.split,
        )

    def images(self, indices: Sequence[int]) -> Tensor:
        """Several pictures of one size as uint8 `(N, C, H, W)`; array-backed sources override this with a slice."""
        assert self.image_size is not None, "only for sources whose pictures share one size"
        return torch.stack([self.load_image(int(i)) for i in indices])

    def multi_hot(self, labels: tuple[int, ...] | None) -> Tensor | None:
        """Class indices -> float32 `(K,)` of zeros and ones."""
        if labels is None:
            return None
        hot = torch.zeros(len(self.classes))
        hot[list(labels)] = 1.0
        return hot

    def fingerprint(self) -> str:
        """A short hash of what the source holds: classes, ids, splits and labels (and file sizes where there are files)."""
        digest = hashlib.sha256(repr(self.classes).encode())
        for record in self.records:
            digest.update(repr((record.id, record.split, record.label, record.labels)).encode())
            if self.root is not None and record.file:
                path = self.root / record.file
                digest.update(str(path.stat().st_size if path.exists() else -1).encode())
        return digest.hexdigest()[:16]
