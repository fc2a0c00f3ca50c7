"""What the report shows of masks: the maps' numbers against the threshold, and pictures with masks, failures first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from partwise.data.sample import VOID, Batch
from partwise.evaluate.pixels import as_pixels
from partwise.ops.confusion import mean_iou, precision_recall

if TYPE_CHECKING:
    from partwise.report.values import Cell, Picture

NUM_SHOWN = 8


def sweep_curves(counts: Tensor, thresholds: Tensor, chosen: float) -> Picture:
    """mIoU, precision and recall of the maps at every threshold, on the reported pictures; nothing is chosen from it."""
    from partwise.report import figures
    from partwise.report.values import Picture

    along = thresholds.double().numpy()
    precision, recall = (each.nanmean(dim=-1).numpy() for each in precision_recall(counts[:, :, 1:]))
    series = {"mean IoU": mean_iou(counts).numpy(), "precision": precision, "recall": recall}
    table: list[dict[str, Cell]] = [
        {"threshold": round(float(along[place]), 6), **{name: float(values[place]) for name, values in series.items()}}
        for place in range(len(along))
    ]
    return Picture(
        name="map_thresholds",
        title="Maps against the threshold",
        caption=f"A pixel is ground where no map exceeds the threshold. The reported numbers are those at {chosen:.2f}, "
        "which was not chosen from these curves.",
        image=figures.curves(
            {name: (along, values) for name, values in series.items()},
            x="threshold",
            y="share",
            title="Masks of activation maps",
        ),
        rows=table,
    )


def worst(scores: Tensor) -> Tensor:
    """The rows with the lowest scores `(n,)`, lowest first, at most NUM_SHOWN; those that are not measured are left out."""
    order = scores.nan_to_num(nan=2.0).argsort(stable=True)
    return order[: min(NUM_SHOWN, int((~scores.isnan()).sum()))]


def worst_rows(
    name: str,
    title: str,
    batch: Batch,
    classes: Sequence[str],
    masks: Mapping[str, Tensor],
    scores: Mapping[str, Tensor],
) -> Picture:
    """The pictures of a batch, a row each: the picture, every mask with its IoU below, the truth."""
    from partwise.report import masks as drawing
    from partwise.report.values import Picture

    assert batch.masks is not None
    shown = {**masks, "truth": batch.masks.cpu()}
    colours = drawing.class_colours(len(classes))
    tiles = [drawing.fit_tile(image, len(shown) + 1) for image in as_pixels(batch.images)]
    columns = {"picture": tiles} | {
        column: [drawing.overlay_mask(tile, mask.numpy(), colours) for tile, mask in zip(tiles, own, strict=True)]
        for column, own in shown.items()
    }
    named = [", ".join(classes[value - 1] for value in _values(mask)) for mask in shown["truth"]]
    captions = {"picture": named} | {
        column: [f"IoU {value:.2f}" for value in own.tolist()] for column, own in scores.items()
    }
    seen = sorted({value for own in shown.values() for value in _values(own)})
    table: list[dict[str, Cell]] = [
        {
            "index": int(batch.index[row]),
            "id": batch.ids[row],
            "classes": named[row],
            **{f"iou {column}": round(float(own[row]), 4) for column, own in scores.items()},
        }
        for row in range(len(batch))
    ]
    return Picture(
        name=name,
        title=title,
        caption=f"The {len(batch)} pictures with the lowest mean IoU of their classes and the ground. Hatched pixels are "
        "void and counted nowhere.",
        image=drawing.rows_figure(
            columns,
            captions,
            legend={classes[value - 1]: colours[value - 1] for value in seen},
            void=bool((shown["truth"] == VOID).any()),
        ),
        rows=table,
    )


def _values(mask: Tensor) -> list[int]:
    """The classes that a mask shows, as mask values."""
    return [value for value in mask.unique().tolist() if value not in (0, VOID)]
