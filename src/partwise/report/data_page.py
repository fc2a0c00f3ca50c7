"""One self-contained page of what a data set holds and what is wrong with it, with a contact sheet.

Draws the report of a data check as a value; it never opens the data itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from partwise.report.figures import encode_png
from partwise.report.reading import data_address
from partwise.report.rendering import render, save

MOST_FAULTS = 200
"""Findings of one kind that the page lists; the others are counted."""
TINY = 128
"""Pixels up to which a small picture is magnified by a whole number."""
SIZE_ROWS = 12


class FaultView(Protocol):
    """What the page shows of a finding."""

    @property
    def kind(self) -> str: ...
    @property
    def file(self) -> str: ...
    @property
    def detail(self) -> str: ...
    @property
    def index(self) -> int | None: ...
    @property
    def serious(self) -> bool: ...


class PreviewView(Protocol):
    """What the page shows of a picture: uint8 `(H, W, 3)` with boxes in its frame."""

    @property
    def id(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def image(self) -> NDArray[np.uint8]: ...
    @property
    def boxes(self) -> tuple[tuple[float, float, float, float], ...]: ...
    @property
    def remark(self) -> str: ...


class DataView(Protocol):
    """What the page needs of a data check; `partwise.data.checks.DataReport` has it."""

    @property
    def source(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def root(self) -> str: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def num_pictures(self) -> int: ...
    @property
    def num_unusable(self) -> int: ...
    @property
    def num_bytes(self) -> int: ...
    @property
    def num_boxes(self) -> int: ...
    @property
    def num_masks(self) -> int: ...
    @property
    def num_groups(self) -> int: ...
    @property
    def multi_label(self) -> bool: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def counts(self) -> Mapping[str, tuple[int, ...]]: ...
    @property
    def splits(self) -> Mapping[str, int]: ...
    @property
    def sizes(self) -> Mapping[tuple[int, int], int]: ...
    @property
    def modes(self) -> Mapping[str, int]: ...
    @property
    def faults(self) -> Sequence[FaultView]: ...
    @property
    def previews(self) -> Sequence[PreviewView]: ...


def write_data_page(data: DataView, target: Path) -> Path:
    """Write the page, whole or not at all. Raises UserError where the place cannot be written."""
    return save(target, data_page(data))


def data_page(data: DataView) -> str:
    """The page as HTML: pictures inside, no script, nothing from the network."""
    return render(
        "data.html",
        {
            "data": data,
            "verdict": _verdict(data),
            "byline": [
                part for part in (data.kind, data.root and f"in {data.root}", f"fingerprint {data.fingerprint}") if part
            ],
            "cards": list(_cards(data)),
            "groups": list(_fault_groups(data.faults)),
            "sheet": [_shown(preview) for preview in data.previews],
            "splits": [split or "no split" for split in data.counts],
            "classes": [
                {"name": name, "counts": [counts[number] for counts in data.counts.values()]}
                for number, name in enumerate(data.classes)
            ],
            "histograms": [
                {"title": "Width x height", "rows": _rails(_size_rows(data.sizes))},
                {"title": "Mode", "rows": _rails(data.modes)},
            ],
        },
    )


def _verdict(data: DataView) -> dict[str, str]:
    if data.num_unusable:
        return {"word": f"{data.num_unusable:,} unusable", "tone": "bad"}
    if any(fault.serious for fault in data.faults):
        return {"word": "faults", "tone": "bad"}
    return {"word": "with notes", "tone": "busy"} if data.faults else {"word": "clean", "tone": "good"}


def _cards(data: DataView) -> Iterator[dict[str, str]]:
    splits = ", ".join(f"{name or 'no split'} {count:,}" for name, count in data.splits.items())
    amount = f"{data.num_bytes / 2**20:,.1f} MiB" if data.num_bytes >= 2**20 else f"{data.num_bytes / 2**10:,.1f} KiB"
    size = f"{amount} in files" if data.num_bytes else "in memory"
    yield {"name": "Pictures", "value": f"{data.num_pictures:,}", "note": f"{splits}; {size}"}
    classes = "several labels a picture" if data.multi_label else "one label a picture" if data.classes else "no labels"
    yield {"name": "Classes", "value": f"{len(data.classes):,}", "note": classes}
    serious = sum(fault.serious for fault in data.faults)
    yield {"name": "Faults", "value": f"{serious:,}", "note": f"{data.num_unusable:,} pictures cannot be used"}
    yield {
        "name": "Notes",
        "value": f"{len(data.faults) - serious:,}",
        "note": "worth knowing; the pictures can be used",
    }
    extras = {"boxes": data.num_boxes, "masks": data.num_masks, "groups": data.num_groups}
    for name, count in extras.items():
        if count:
            yield {"name": name.capitalize(), "value": f"{count:,}", "note": f"in {data.num_pictures:,} pictures"}


def _fault_groups(faults: Sequence[FaultView]) -> Iterator[dict[str, Any]]:
    """Findings by kind in the order they come, each with its first MOST_FAULTS."""
    kinds: dict[tuple[bool, str], list[FaultView]] = {}
    for fault in faults:
        kinds.setdefault((fault.serious, fault.kind), []).append(fault)
    for (serious, kind), found in kinds.items():
        yield {
            "kind": kind,
            "serious": serious,
            "word": "fault" if serious else "note",
            "tone": "bad" if serious else "busy",
            "what": "File" if found[0].index is not None else "What",
            "total": f"{len(found):,}",
            "faults": found[:MOST_FAULTS],
            "left_out": f"{len(found) - MOST_FAULTS:,}" if len(found) > MOST_FAULTS else "",
        }


def _shown(preview: PreviewView) -> dict[str, Any]:
    """A tile of the contact sheet; boxes as left, top, width, height in percent of the picture, cut to it."""
    height, width = preview.image.shape[:2]
    grow = max(1, TINY // max(height, width))
    boxes = []
    for x1, y1, x2, y2 in preview.boxes:
        left, right = (100 * min(max(x, 0), width) / width for x in (x1, x2))
        top, bottom = (100 * min(max(y, 0), height) / height for y in (y1, y2))
        boxes.append([round(value, 2) for value in (left, top, right - left, bottom - top)])
    return {
        "id": preview.id,
        "split": preview.split,
        "label": preview.label,
        "remark": preview.remark,
        "source": data_address(encode_png(preview.image), "image/png"),
        "width": width * grow,
        "height": height * grow,
        "style": "tiny" if grow > 1 else "",
        "boxes": boxes,
    }


def _size_rows(sizes: Mapping[tuple[int, int], int]) -> dict[str, int]:
    """Each size where they are few, the most frequent and the rest in one row otherwise."""
    ordered = sorted(sizes.items(), key=lambda pair: (-pair[1], pair[0]))
    rows = {f"{width} x {height}": count for (height, width), count in ordered[:SIZE_ROWS]}
    rest = ordered[SIZE_ROWS:]
    if rest:
        sides = [side for size, _ in rest for side in size]
        rows[f"{len(rest):,} other sizes, sides {min(sides)} to {max(sides)}"] = sum(count for _, count in rest)
    return rows


def _rails(rows: Mapping[str, int]) -> list[dict[str, Any]]:
    most = max(rows.values(), default=1)
    return [
        {"name": name, "count": f"{count:,}", "share": round(100 * count / most, 2)} for name, count in rows.items()
    ]
