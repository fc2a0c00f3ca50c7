"""Pictures for the report: the views that are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from partwise.data.anatomy_views import ViewTable
from partwise.report import canvas, figures
from partwise.run import RunFolder

PICTURES = 3
ORDER = 40
"""Among the pictures of the report, behind those of measurements."""
TITLES = {
    "localize": "Views of the first phase, as the network sees them",
    "parts": "Views of the second phase: the whole, nine views about its centre, its parts",
}


def keep_views(
    folder: RunFolder,
    stage: str,
    table: ViewTable,
    views: Mapping[int, Tensor],
    mean: Sequence[float],
    std: Sequence[float],
) -> None:
    """Write the views of the first pictures of a batch, `(V, B, 3, side, side)` of each side, into the run's folder."""
    places = {number: (side, place) for side, own in table.groups().items() for place, number in enumerate(own)}
    centre, spread = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))
    tiles, titles = [], []
    for picture in range(min(PICTURES, next(iter(views.values())).shape[1])):
        for number, kind in enumerate(table.views):
            side, place = places[number]
            pixels = (views[side][place, picture].float().cpu() * spread + centre).clamp(0, 1) * 255
            tiles.append(canvas.rgb(pixels.round().byte().permute(1, 2, 0).numpy()))
            titles.append(f"{kind.name}, {side} px")
    folder.write_picture(
        f"views_{stage}",
        figures.encode_png(figures.gallery(tiles, titles, columns=len(table.views))),
        title=TITLES.get(stage, "Two views of a patch, as the networks see them"),
        caption="A row a picture. Jittered, rotated and blurred; never mirrored, because left and right differ.",
        order=ORDER,
        rows=[],
    )
