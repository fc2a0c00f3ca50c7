"""What `predict` writes: a CSV of labels, probabilities and boxes, and a picture of each with its heatmap and box."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from partwise.report import figures
from partwise.report.values import MaskPrediction, Prediction

Box = tuple[float, float, float, float]


def prediction_row(
    file: str, prediction: Prediction, classes: Sequence[str], box: Box | None
) -> dict[str, str | float]:
    """One CSV row: the file, its label with probability, the box in the picture's own pixels, every class's probability."""
    row: dict[str, str | float] = {
        "file": file,
        "label": classes[prediction.label],
        "probability": round(float(prediction.probabilities[prediction.label]), 6),
    }
    corners = ("", "", "", "") if box is None else tuple(round(value, 1) for value in box)
    row |= dict(zip(("x1", "y1", "x2", "y2"), corners, strict=True))
    return row | {f"p({name})": round(float(p), 6) for name, p in zip(classes, prediction.probabilities, strict=True)}


def mask_row(file: str, prediction: MaskPrediction, classes: Sequence[str]) -> dict[str, str | float]:
    """One CSV row: the file, the classes of its mask, and for each class its share of the pixels and its probability."""
    found = [name for name, share in zip(classes, prediction.shares, strict=True) if share > 0]
    row: dict[str, str | float] = {"file": file, "label": ";".join(found)}
    row |= {f"share({name})": round(float(s), 6) for name, s in zip(classes, prediction.shares, strict=True)}
    return row | {f"p({name})": round(float(p), 6) for name, p in zip(classes, prediction.probabilities, strict=True)}


def write_rows(path: Path, rows: Sequence[dict[str, str | float]]) -> None:
    """Rows of one shape as CSV."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]) if rows else ["file", "label", "probability"])
        writer.writeheader()
        writer.writerows(rows)


def located_picture(
    image: NDArray[np.uint8], heatmap: NDArray[np.float32], window: Box, box: Box | None
) -> NDArray[np.uint8]:
    """The picture `(H, W, 3)` under its heatmap, with the box; the map covers `window`, what the network saw of it."""
    height, width = image.shape[:2]
    x1, y1 = max(round(window[0]), 0), max(round(window[1]), 0)
    x2, y2 = min(round(window[2]), width), min(round(window[3]), height)
    raised = Image.fromarray(heatmap).resize((max(x2 - x1, 1), max(y2 - y1, 1)), Image.Resampling.BILINEAR)
    whole = np.zeros((height, width), np.float32)
    whole[y1:y2, x1:x2] = np.asarray(raised)[: y2 - y1, : x2 - x1]
    shown = figures.overlay(image, whole)
    if box is not None:
        shown = figures.draw_boxes(shown, np.array([box], np.float32), figures.FOUND_BOX)
    return shown
