"""What the report shows of masks: the maps' numbers against the threshold, and pictures with masks, failures first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from partwise.data.sample import VOID, Batch
from partwise.evaluate.pixels import as_pixels
from partwise.ops.confusion import mean_iou, precision_recall

if TYPE_CHECKING:
    from partwise.report.values import Cell, Picture

NUM_SHOWN = 6


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


@dataclass(frozen=True)
class Row:
    """One picture as a batch of one, the masks found in it uint8 `(H, W)` by name, and their IoU by the same names."""

    batch: Batch
    masks: Mapping[str, Tensor]
    scores: Mapping[str, float]

    @property
    def truth(self) -> Tensor:
        """The true mask, on the host."""
        assert self.batch.masks is not None
        return self.batch.masks[0].cpu()


def worst_rows(name: str, title: str, rows: Sequence[Row], classes: Sequence[str]) -> Picture:
    """One picture a line: itself, every mask with its IoU below, the truth."""
    from partwise.report import masks as drawing
    from partwise.report.values import Picture

    colours = drawing.class_colours(len(classes))
    columns: dict[str, list[Any]] = {}
    captions: dict[str, list[str]] = {}
    seen: set[int] = set()
    for row in rows:
        shown = {**row.masks, "truth": row.truth}
        tile = drawing.fit_tile(as_pixels(row.batch.images)[0], len(shown) + 1)
        columns.setdefault("picture", []).append(tile)
        captions.setdefault("picture", []).append(_named(row.truth, classes))
        for column, mask in shown.items():
            columns.setdefault(column, []).append(drawing.overlay_mask(tile, mask.numpy(), colours))
            seen.update(_values(mask))
        for column, score in row.scores.items():
            captions.setdefault(column, []).append(f"IoU {score:.2f}")
    table: list[dict[str, Cell]] = [
        {
            "index": int(row.batch.index[0]),
            "id": row.batch.ids[0],
            "classes": _named(row.truth, classes),
            **{f"iou {column}": round(score, 4) for column, score in row.scores.items()},
        }
        for row in rows
    ]
    return Picture(
        name=name,
        title=title,
        caption=f"The {len(rows)} pictures with the lowest mean IoU of their classes and the ground. Hatched pixels are "
        "void and counted nowhere.",
        image=drawing.rows_figure(
            columns,
            captions,
            legend={classes[value - 1]: colours[value - 1] for value in sorted(seen)},
            void=any(bool((row.truth == VOID).any()) for row in rows),
        ),
        rows=table,
    )


def _values(mask: Tensor) -> list[int]:
    """The classes that a mask shows, as mask values."""
    return [value for value in mask.unique().tolist() if value not in (0, VOID)]


def _named(mask: Tensor, classes: Sequence[str]) -> str:
    return ", ".join(classes[value - 1] for value in _values(mask))
