"""What the stages between classifier and segmentation network share: they take pictures one by one, several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from threading import Lock

from torch import Tensor

from partwise.data.loading import PictureData
from partwise.engine.stages import ComputeStage

CHUNK = 16
"""Pictures that are in work together."""
MOST_PIXELS = 16 * 128 * 128
"""Pixels that are worked on at once: keeps memory in bounds with large pictures."""


class PictureStage(ComputeStage):
    """Computes each picture's product alone. On a CPU in as many threads as decode pictures: a team of threads on one small
    picture waits more than it works."""

    def __init__(self, data: PictureData) -> None:
        self.data = data
        self.chunk = CHUNK
        self.large = Lock()

    def compute_all(self, items: Sequence[str]) -> Sequence[Mapping[str, Tensor] | bytes]:
        if self.data.device.type != "cpu":
            return super().compute_all(items)
        return list(self.data.pool.map(self.compute, items))

    def taking(self, pixels: int) -> AbstractContextManager[object]:
        """Large pictures wait for one another: side by side they could take all memory."""
        return self.large if pixels > MOST_PIXELS else nullcontext()
