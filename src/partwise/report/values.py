"""Typed values that the rest of the package hands to the report."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Cell = str | int | float


@dataclass(frozen=True)
class Picture:
    """A picture of the report with the numbers behind it: `image` is uint8 `(H, W, 3)`, `rows` become a CSV file."""

    name: str
    title: str
    caption: str
    image: NDArray[np.uint8]
    rows: list[dict[str, Cell]] = field(default_factory=list)


@dataclass(frozen=True)
class MaskPrediction:
    """What a method that makes masks says of one picture, at the picture's own size.

    `mask` uint8 `(H, W)`, 0 for the ground and k + 1 for class k; `shares` float32 `(K,)`, the share of the picture's pixels
    that each class has; `probabilities` float32 `(K,)` that the picture shows it.
    """

    mask: NDArray[np.uint8]
    shares: NDArray[np.float32]
    probabilities: NDArray[np.float32]


@dataclass(frozen=True)
class ChromosomePrediction:
    """What a method says of one chromosome: `types` float32 `(24,)` and `polarities` float32 `(2,)` (1: long arm down) are
    probabilities; `box` `(x1, y1, x2, y2)` in the network's frame is where it looked closer, None where it did not."""

    types: NDArray[np.float32]
    polarities: NDArray[np.float32]
    box: tuple[float, float, float, float] | None


@dataclass(frozen=True)
class EmbeddingPrediction:
    """What an encoder makes of one picture: `embedding` float32 `(D,)`, and one for each cell of it, `map` `(h, w, D)`."""

    embedding: NDArray[np.float32]
    map: NDArray[np.float32]


@dataclass(frozen=True)
class Prediction:
    """What a classifier that locates says of one picture, in the network's frame.

    `probabilities` float32 `(K,)`; `label` the index named; `heatmap` float32 `(S, S)` in [0, 1] for that label; `box`
    `(x1, y1, x2, y2)` round the hottest region, half-open pixels, or None where the map is empty.
    """

    label: int
    probabilities: NDArray[np.float32]
    heatmap: NDArray[np.float32]
    box: tuple[float, float, float, float] | None


AnyPrediction = Prediction | MaskPrediction | ChromosomePrediction | EmbeddingPrediction
"""What `predict` of one method or another gives for a picture."""
