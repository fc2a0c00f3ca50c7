"""The single findings of a data check, each a pure function of what was read: labels, groups, duplicates, modes, boxes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from partwise.data.headers import Header
from partwise.data.sample import Source

ROUNDING = 1.0
"""Pixels by which a box may leave its picture unmentioned: what is lost when pictures and boxes are scaled."""
PLAIN_MODES = ("RGB", "L")
MODE_KINDS = {
    "P": "palette",
    "PA": "palette",
    "1": "1 bit",
    "CMYK": "CMYK",
    "RGBA": "transparency",
    "LA": "transparency",
    "RGBa": "transparency",
    "La": "transparency",
}
SUFFIXES = {
    "JPEG": ("jpg", "jpeg", "jpe", "jfif"),
    "MPO": ("jpg", "jpeg", "mpo"),
    "PNG": ("png",),
    "GIF": ("gif",),
    "BMP": ("bmp",),
    "TIFF": ("tif", "tiff"),
    "WEBP": ("webp",),
    "PPM": ("ppm", "pgm", "pbm"),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One finding: its `kind`, the `file` (or id, class, group) it is about, the `detail`, and the picture's position.

    `serious`: the picture cannot be used as it is. Otherwise the finding is a note.
    """

    kind: str
    file: str
    detail: str
    index: int | None = None
    serious: bool = True

    @property
    def reason(self) -> str:
        """Kind and detail in one."""
        return f"{self.kind}: {self.detail}"


def _name(source: Source, index: int) -> str:
    record = source.records[index]
    return record.file or record.id


def label_faults(source: Source) -> list[Fault]:
    """Pictures without a label in a source with classes, labels that name no class, ids that occur twice."""
    faults = []
    times = Counter(record.id for record in source.records)
    last = len(source.classes) - 1
    for index, record in enumerate(source.records):
        file = _name(source, index)
        if times[record.id] > 1:
            faults.append(Fault("id twice", file, f"id {record.id!r} occurs {times[record.id]} times", index))
        labels = record.labels if record.labels is not None else () if record.label is None else (record.label,)
        if source.classes and record.label is None and record.labels is None:
            faults.append(Fault("no label", file, "no label, in a source with classes", index))
        for label in labels:
            if not 0 <= label <= last:
                faults.append(Fault("bad label", file, f"label {label}; expected 0 to {last}", index))
    return faults


def class_faults(source: Source) -> list[Fault]:
    """Classes without a picture in a split."""
    present: dict[str, set[int]] = defaultdict(set)
    for record in source.records:
        present[record.split].update(record.labels or (() if record.label is None else (record.label,)))
    return [
        Fault("empty class", name, f"no picture in {split or 'the source'}", serious=False)
        for split, found in sorted(present.items())
        for number, name in enumerate(source.classes)
        if number not in found
    ]


def group_faults(source: Source) -> list[Fault]:
    """Groups (persons, specimens, slides) that stand in more than one split."""
    splits: dict[str, Counter[str]] = defaultdict(Counter)
    for record in source.records:
        if record.group:
            splits[record.group][record.split] += 1
    faults = []
    for group, counts in splits.items():
        if len(counts) > 1:
            where = ", ".join(f"{split or 'no split'} ({count})" for split, count in counts.items())
            faults.append(Fault("leakage of a group", group, f"in {where}", serious=False))
    return faults


def duplicate_faults(source: Source, digests: Sequence[bytes]) -> list[Fault]:
    """Pictures with the same pixels as an earlier one: in another split, with another label, or plainly again."""
    first: dict[bytes, int] = {}
    faults = []
    for index, digest in enumerate(digests):
        if not digest:
            continue
        earlier = first.setdefault(digest, index)
        if earlier == index:
            continue
        a, b = source.records[earlier], source.records[index]
        kind = "duplicate"
        if (a.label, a.labels) != (b.label, b.labels):
            kind = "duplicate with another label"
        if a.split != b.split:
            kind = "leakage between splits"
        detail = f"same pixels as {_name(source, earlier)}" + (f" in {a.split}" if a.split != b.split else "")
        faults.append(Fault(kind, _name(source, index), detail, index, serious=False))
    return faults


def mode_faults(source: Source, headers: Sequence[Header | None], grey: Sequence[bool]) -> list[Fault]:
    """Pictures that decode but were stored otherwise than the rest: modes, turns, misnamed formats, grey among colour."""
    faults = []
    colour = sum(1 for header, plain in zip(headers, grey, strict=True) if header and not plain)
    for index, header in enumerate(headers):
        if header is None:
            continue
        file = _name(source, index)
        kind = "16 bit" if "16" in header.mode else MODE_KINDS.get(header.mode)
        if header.mode not in PLAIN_MODES:
            faults.append(Fault(kind or "unusual mode", file, f"mode {header.mode}", index, serious=False))
        elif grey[index] and 2 * colour > len(headers):
            faults.append(Fault("grey among colour", file, f"mode {header.mode}", index, serious=False))
        if header.exif_rotated:
            faults.append(Fault("EXIF-rotated", file, "turned upright when read", index, serious=False))
        suffix = PurePosixPath(file).suffix.lower().lstrip(".")
        if header.format in SUFFIXES and suffix not in SUFFIXES[header.format]:
            faults.append(Fault("misnamed", file, f"a {header.format} named .{suffix}", index, serious=False))
    return faults


def box_faults(source: Source, sizes: Sequence[tuple[int, int] | None]) -> list[Fault]:
    """Boxes that leave their picture by more than rounding (they are cut to it), or are empty once cut."""
    faults = []
    for index, size in enumerate(sizes):
        for box in source.records[index].boxes if size else ():
            assert size is not None
            x1, y1, x2, y2 = box
            height, width = size
            where = f"({x1:g}, {y1:g}, {x2:g}, {y2:g}) in {width} x {height}"
            if min(x2, width) <= max(x1, 0) or min(y2, height) <= max(y1, 0):
                faults.append(Fault("empty box", _name(source, index), where, index))
            elif max(-x1, -y1, x2 - width, y2 - height) > ROUNDING:
                faults.append(Fault("box leaves its picture", _name(source, index), where, index, serious=False))
    return faults
