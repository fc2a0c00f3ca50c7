"""Pictures as the report draws them."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor


def as_pixels(images: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Float pictures `(n, C, H, W)` in [0, 1] -> uint8 `(n, H, W, C)` on the host."""
    return (images.float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
