"""Pictures of any size: large ones are worked on at a bounded size, and what was found is brought back to their own."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from partwise.ops.cam import upsample

LARGEST = 1024
"""The longer side, in pixels, at which walks, CRFs and the segmentation network work at most: bounds memory and time."""


def within(images: Tensor, longest: int = LARGEST) -> Tensor:
    """Float pictures `(B, C, H, W)` with their longer side brought down to `longest`, averaged as training pictures are.

    Those that are no larger come back as they are.
    """
    height, width = images.shape[-2:]
    scale = longest / max(height, width)
    if scale >= 1:
        return images
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    return F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)


def raised(cells: Tensor, size: tuple[int, int]) -> Tensor:
    """Scores `(k, h, w)` of cells at their picture's `size` (height, width), bilinear.

    Cells of a stride cover the picture and, in the last row and column, may reach beyond it: that is cut off, as IRN
    does. Cells that follow from no stride are spread over the picture.
    """
    (rows, columns), (height, width) = cells.shape[-2:], size
    stride = max(-(-height // rows), -(-width // columns))
    whole = (stride * rows, stride * columns)
    if whole[0] - stride >= height or whole[1] - stride >= width:
        whole = size
    return upsample(cells[None], whole)[0, :, :height, :width]
