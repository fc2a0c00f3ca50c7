"""How numbers are written for people, and what each metric of METRICS.md means in one line. No layout here."""

from __future__ import annotations

import math
from typing import Any

NOTHING = "–"

# Suite and metric, without the variant between them: what it says, for somebody who meets it for the first time.
MEANINGS: dict[str, str] = {
    "classification/top1": "share of pictures whose most probable class is the right one",
    "classification/top5": "share of pictures with the right class among the five most probable",
    "classification/nll": "mean negative log likelihood of the right class (lower is better)",
    "classification/ece": "calibration error: mean gap of confidence and accuracy in 15 bins (lower is better)",
    "localization/max_box_acc_50": "share of pictures whose box reaches IoU 0.5, threshold from validation",
    "localization/max_box_acc_v2": "share of pictures with a fitting box among all contours, mean of IoU 0.3, 0.5, 0.7",
    "localization/gt_known": "share of pictures whose box (threshold 0.15) has IoU above 0.5, class given",
    "localization/top1_loc": "share of pictures with the class right and the box's IoU above 0.5",
    "localization/pxap": "area under the pixels' precision-recall curve over all thresholds",
    "segmentation/miou": "mean intersection over union of the segmentation network's masks",
    "segmentation/cam_miou": "mean intersection over union of thresholded activation maps",
    "segmentation/cam_precision": "share of the pixels that thresholded maps give a class which have it, mean of classes",
    "segmentation/cam_recall": "share of a class's pixels that thresholded maps find, mean of classes",
    "segmentation/pseudo_miou": "mean intersection over union of the training pictures' pseudo masks",
}
LOWER_IS_BETTER = frozenset({"nll", "ece", "mce", "fpr95", "loss", "correspondence_error", "unequalness"})
# What a reader looks for first, where a run has it.
HEADLINES = (
    "classification/top1",
    "segmentation/miou",
    "localization/max_box_acc_v2",
    "localization/top1_loc",
    "localization/gt_known",
    "localization/pxap",
    "segmentation/pseudo_miou",
    "segmentation/cam_miou",
    "classification/ece",
)


def meaning(metric: str) -> str:
    """One line about a metric, or nothing; a variant or `@source` between suite and name changes nothing of it."""
    parts = metric.split("/")
    return MEANINGS.get(f"{parts[0].partition('@')[0]}/{parts[-1]}", "")


def lower_is_better(metric: str) -> bool:
    """Whether a smaller value of this metric is the better one."""
    return metric.rsplit("/", 1)[-1] in LOWER_IS_BETTER


def as_float(value: Any) -> float | None:
    """A finite number, or None for anything else (a missing value, NaN, text, true or false)."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def number(value: Any) -> str:
    """A number with the digits that mean something: `0.9123`, `12,345`, `3e-05`; a dash for what is none."""
    finite = as_float(value)
    if finite is None:
        return NOTHING
    if isinstance(value, int) and abs(finite) < 1e15:
        return f"{value:,}"
    size = abs(finite)
    if size == 0:
        return "0"
    if size < 1e-3 or size >= 1e7:
        return f"{finite:.3g}"
    if size < 10:
        return f"{finite:.4f}"
    return f"{finite:.2f}" if size < 1000 else f"{finite:,.0f}"


def signed(value: float) -> str:
    """A difference, with its sign."""
    return (f"{value:+.4f}" if abs(value) < 10 else f"{value:+.2f}").replace("-", "−")


def duration(seconds: Any) -> str:
    """A time for people: `4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    finite = as_float(seconds)
    if finite is None or finite < 0:
        return NOTHING
    if finite < 59.95:
        return f"{finite:.1f} s"
    whole = round(finite)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(finite / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def text(value: Any) -> str:
    """Any value read from JSON or YAML as one line of text."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(text(inner) for inner in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text(inner)}" for key, inner in value.items()) or "none"
    return str(value)
