"""What the report shows of localization: box accuracy against the threshold, and heatmaps with boxes, failures first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from partwise.evaluate.base import Images, Redraw, Rows
from partwise.evaluate.pixels import as_pixels
from partwise.ops.cam import Upsampling, normalise, upsample

if TYPE_CHECKING:
    from partwise.report.values import Cell, Picture

NUM_SHOWN = 6
"""Pictures of each kind: worst, any, best."""


def accuracy_curves(rows: Rows, thresholds: Tensor, levels: Sequence[float]) -> Picture:
    """The share of found objects at every threshold, on the reported pictures; nothing is chosen from it."""
    from partwise.report import figures
    from partwise.report.values import Picture

    along = thresholds.double().numpy()
    series = {"largest region, IoU 0.5": (rows["iou_largest"] >= 0.5).double().mean(dim=0).numpy()}
    for level in levels:
        series[f"any region, IoU {level}"] = (rows["iou_any"] >= level).double().mean(dim=0).numpy()
    table: list[dict[str, Cell]] = [
        {"threshold": round(float(along[place]), 6), **{name: float(values[place]) for name, values in series.items()}}
        for place in range(len(along))
    ]
    return Picture(
        name="box_accuracy",
        title="Box accuracy against the threshold",
        caption="Share of pictures whose box overlaps a true one enough, at each threshold of the scaled map. "
        "The reported numbers use thresholds chosen on the validation split, not the tops of these curves.",
        image=figures.curves(
            {name: (along, values) for name, values in series.items()},
            x="threshold",
            y="share of pictures",
            title="Box accuracy",
        ),
        rows=table,
    )


def choose(overlaps: Tensor, each: int) -> dict[int, str]:
    """Rows to show -> why: the `each` lowest overlaps first, then some at random, then the highest; none twice."""
    order = overlaps.argsort(stable=True).tolist()
    worst = order[:each]
    best = order[max(each, len(order) - each) :][::-1]
    middle = order[each : len(order) - each]
    shuffled = torch.randperm(len(middle), generator=torch.Generator().manual_seed(0)).tolist()
    random = [middle[place] for place in shuffled[:each]]
    return {row: why for group, why in ((worst, "worst"), (random, "random"), (best, "best")) for row in group}


def heatmaps(rows: Rows, classes: Sequence[str], images: Images, redraw: Redraw, mode: Upsampling) -> Picture:
    """Pictures with the true class's map, the true box and the found one: failures, then any, then successes."""
    from partwise.report import figures
    from partwise.report.values import Picture

    chosen = choose(rows["iou"], NUM_SHOWN)
    places = torch.tensor(list(chosen))
    indices = rows["index"][places].tolist()
    pictures = images(indices)
    own = redraw(indices).float()[torch.arange(len(places)), rows["target"][places]]
    size = (pictures.shape[-2], pictures.shape[-1])
    scores = normalise(upsample(own[:, None], size, mode=mode))[:, 0]
    table = [_row(rows, classes, place, why) for place, why in chosen.items()]
    return Picture(
        name="heatmaps",
        title="Where the network looks",
        caption=f"Maps of the true class with the true box and the one found at 0.15 of the maximum: the "
        f"{NUM_SHOWN} lowest overlaps, {NUM_SHOWN} at random, the {NUM_SHOWN} highest.",
        image=figures.heatmap_gallery(
            as_pixels(pictures),
            scores.numpy().astype(np.float32),
            [rows["true_box"][place : place + 1].numpy() for place in chosen],
            [rows["box"][place : place + 1].numpy() for place in chosen],
            [_title(row) for row in table],
            columns=NUM_SHOWN,
        ),
        rows=table,
    )


def _row(rows: Rows, classes: Sequence[str], place: int, why: str) -> dict[str, Cell]:
    row: dict[str, Cell] = {
        "index": int(rows["index"][place]),
        "shown_as": why,
        "label": classes[int(rows["target"][place])],
    }
    if "predicted" in rows:
        row["prediction"] = classes[int(rows["predicted"][place])]
    row["iou"] = round(float(rows["iou"][place]), 4)
    for corner, found, true in zip(("x1", "y1", "x2", "y2"), rows["box"][place], rows["true_box"][place], strict=True):
        row[f"found_{corner}"], row[f"true_{corner}"] = float(found), float(true)
    return row


def _title(row: dict[str, Cell]) -> str:
    """Three short lines: the label, the prediction where it differs, the overlap."""
    named = "" if row.get("prediction", row["label"]) == row["label"] else f"called {row['prediction']}, "
    return f"{row['label']}\n{named}IoU {row['iou']:.2f}"
