"""What the report shows of organs from few pictures: Dice against their number, and outlines, worst first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

from partwise.evaluate.base import Evaluation, Images, Rows
from partwise.evaluate.embedding_places import Known
from partwise.evaluate.pixels import as_pixels
from partwise.ops.few_shot import dice

if TYPE_CHECKING:
    from partwise.report.values import Cell, Picture

Find: TypeAlias = "Callable[[list[int]], tuple[Tensor, Tensor, Tensor]]"
"""Rows -> areas found and true ones bool `(n, V, H, W)`, and the pixels that count `(n, H, W)`."""

NUM_SHOWN = 6
NAMES = {"decoder": "linear layer", "mean_mask": "mean mask", "atlas": "registered atlas"}


def draw_all(
    found: Evaluation,
    rows: Rows,
    classes: Sequence[str],
    known: Known,
    find: Find,
    shots: int,
    images: Images,
) -> list[Picture]:
    """The curves, and the outlines that `find` gives after `shots` pictures."""
    curves = dice_curves(found)
    return [*([] if curves is None else [curves]), outlines(rows, classes, known, find, shots, images)]


def dice_curves(found: Evaluation) -> Picture | None:
    """Mean Dice over organs against the number of pictures, for the linear layer and its rivals; None with nothing measured."""
    from partwise.report import figures
    from partwise.report.values import Picture

    table: list[dict[str, Cell]] = []
    for name, value in found.metrics.items():
        organ, _, shots = name.removeprefix("embedding/fewshot_dice_").rpartition("_")
        facts = found.detail[name]
        each = {"decoder": value, "mean_mask": facts["mean_mask"], "atlas": facts["atlas"]}
        table.append({"organ": organ or "mean", "pictures": int(shots), **{NAMES[way]: each[way] for way in NAMES}})
    means = sorted((row for row in table if row["organ"] == "mean"), key=lambda row: int(row["pictures"]))
    if not means:
        return None
    along = [row["pictures"] for row in means]
    return Picture(
        name="few_shot_curves",
        title="Organs from few pictures",
        caption="Mean Dice over organs of a linear layer on the frozen encoder, fitted to so many pictures, the mean of five "
        "subsets; beside it what the same pictures give without any encoder. The table has every organ.",
        image=figures.curves(
            {label: (along, [row[label] for row in means]) for label in NAMES.values()},
            x="pictures learned from",
            y="Dice",
            title="Organs from few pictures",
        ),
        rows=table,
    )


def outlines(rows: Rows, classes: Sequence[str], known: Known, find: Find, shots: int, images: Images) -> Picture:
    """Areas that are found and the true ones, the pictures with the lowest mean Dice first."""
    from partwise.report import masks as drawing
    from partwise.report.values import Picture

    scores = torch.cat([dice(*find([place])).nanmean(1) for place in range(len(rows["index"]))])
    order = scores.nan_to_num(nan=2.0).argsort(stable=True)[:NUM_SHOWN].tolist()
    colours = drawing.class_colours(len(classes))
    columns: dict[str, list[Any]] = {"picture": [], "found": [], "truth": []}
    captions: dict[str, list[str]] = {"picture": [], "found": []}
    table: list[dict[str, Cell]] = []
    for place in order:
        index, score = int(rows["index"][place]), float(scores[place])
        picture = images([index]).float().cpu()
        pixels = as_pixels(picture.expand(-1, 3, -1, -1) if picture.shape[1] == 1 else picture)[0]
        tile = drawing.fit_tile(pixels, len(columns))
        areas, truth, _ = find([place])
        columns["picture"].append(tile)
        for column, own in (("found", areas[0]), ("truth", truth[0])):
            columns[column].append(drawing.overlay_mask(tile, topmost(own).numpy(), colours))
        captions["picture"].append(known.id_of(index))
        captions["found"].append(f"Dice {score:.2f}")
        table.append({"index": index, "id": known.id_of(index), "dice": round(score, 4)})
    return Picture(
        name="few_shot_outlines",
        title="Organs found after few pictures, worst first",
        caption=f"A linear layer on the frozen encoder after {shots} pictures; the {len(order)} with the lowest mean Dice. "
        "Where organs overlap the last one is shown.",
        image=drawing.rows_figure(columns, captions, legend=dict(zip(classes, colours, strict=True))),
        rows=table,
    )


def topmost(areas: Tensor) -> Tensor:
    """Areas bool `(V, H, W)` -> a mask uint8 `(H, W)`: k + 1 for the last organ that is there."""
    values = torch.arange(1, len(areas) + 1, dtype=torch.uint8)[:, None, None]
    return (areas * values).amax(0)
