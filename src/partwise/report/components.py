"""A picture coloured by its dense embeddings: their first three principal components as red, green and blue."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from partwise.report import canvas
from partwise.report.canvas import Pixels

SHARE = 0.55
"""How much of the picture the colours cover."""


def colour_components(image: NDArray[np.uint8], map: NDArray[np.float32]) -> Pixels:
    """The picture uint8 `(H, W, 3)` or `(H, W, 1)` under the components of its own `map` `(h, w, D)`, each from 0 to 255.

    Cells of one colour have embeddings that point the same way. Colours of one picture say nothing of another's.
    """
    picture = canvas.rgb(np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image)
    height, width = map.shape[:2]
    cells = map.reshape(height * width, -1).astype(np.float64)
    cells = cells / np.maximum(np.linalg.norm(cells, axis=1, keepdims=True), 1e-12)
    cells = cells - cells.mean(axis=0)
    _, _, axes = np.linalg.svd(cells, full_matrices=False)
    axes = axes[:3] * np.sign(axes[:3].sum(axis=1, keepdims=True) + 1e-12)  # a component's sign is arbitrary
    values = np.zeros((height * width, 3))
    values[:, : len(axes)] = cells @ axes.T
    low, high = values.min(axis=0), values.max(axis=0)
    colours = ((values - low) / np.where(high > low, high - low, 1) * 255).reshape(height, width, 3)
    raised = Image.fromarray(np.rint(colours).astype(np.uint8)).resize(
        (picture.shape[1], picture.shape[0]), Image.Resampling.BILINEAR
    )
    mixed = picture * (1 - SHARE) + np.asarray(raised) * SHARE
    return np.rint(mixed).astype(np.uint8)
