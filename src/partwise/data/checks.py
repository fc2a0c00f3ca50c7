"""What is wrong with a data set, before hours are spent on it.

`check_source` decodes everything, for `partwise data`; `check_headers` reads headers and labels, for `train` before its first
step. Two weights of finding: a *fault* is a picture that cannot be used; a *note* is worth knowing and decodes all the same.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from partwise.data.findings import (
    Fault,
    box_faults,
    class_faults,
    duplicate_faults,
    group_faults,
    label_faults,
    mode_faults,
)
from partwise.data.headers import FaultyPicture, Header, looks_cut, probe
from partwise.data.pictures import decode_mask, refuse_mask
from partwise.data.readers.files import ArraySource, FileSource
from partwise.data.readers.masked import MaskedSource
from partwise.data.sample import FaultySample, Source

CHUNK = 2000
"""Pictures in flight at once: bounds memory, and how often progress is told."""
PREVIEW_SIDE = 128
REMARKED = 4
"""Pictures of each kind of finding on the contact sheet."""

Result = TypeVar("Result")
Progress = Callable[[int, int], None]
"""Called with (pictures done, pictures in all)."""


@dataclass(frozen=True)
class Preview:
    """A small picture for the contact sheet: uint8 `(H, W, 3)`, boxes in its own frame, and what was found in it."""

    id: str
    split: str
    label: str
    image: NDArray[np.uint8]
    boxes: tuple[tuple[float, float, float, float], ...] = ()
    remark: str = ""


@dataclass(frozen=True)
class DataReport:
    """What a data set holds and what is wrong with it. Sizes are (height, width) of the decoded pictures."""

    source: str
    kind: str
    root: str
    fingerprint: str
    num_pictures: int
    num_bytes: int
    classes: tuple[str, ...]
    multi_label: bool
    counts: Mapping[str, tuple[int, ...]]
    splits: Mapping[str, int]
    sizes: Mapping[tuple[int, int], int]
    modes: Mapping[str, int]
    num_boxes: int
    num_masks: int
    num_groups: int
    faults: Sequence[Fault]
    previews: Sequence[Preview] = field(default=(), repr=False)
    seconds: float = 0.0

    @property
    def num_unusable(self) -> int:
        """Pictures with at least one fault (notes do not count)."""
        return len({fault.index for fault in self.faults if fault.serious and fault.index is not None})

    def lines(self) -> list[str]:
        """The report as a few lines of text."""
        splits = ", ".join(f"{name or 'no split'} {count:,}" for name, count in self.splits.items())
        sides = [sorted(side) for side in zip(*self.sizes, strict=True)][::-1]
        sizes = " x ".join(f"{side[0]}" if side[0] == side[-1] else f"{side[0]}-{side[-1]}" for side in sides)
        kinds: dict[str, list[str]] = {}
        for fault in self.faults:
            kinds.setdefault(f"{'fault' if fault.serious else 'note'}: {fault.kind}", []).append(fault.file)
        return [
            f"{self.source}: {self.num_pictures:,} pictures ({splits}), {len(self.classes):,} classes",
            f"width x height: {sizes or 'none read'}; modes: "
            + ", ".join(f"{mode} {count:,}" for mode, count in self.modes.items()),
            f"boxes {self.num_boxes:,}, masks {self.num_masks:,}, groups {self.num_groups:,}",
            *(
                f"{kind}, {len(files):,}: {', '.join(files[:3])}{', ...' * (len(files) > 3)}"
                for kind, files in kinds.items()
            ),
            f"{self.num_unusable:,} pictures cannot be used" if self.num_unusable else "every picture can be used",
        ]


@dataclass(frozen=True, slots=True)
class _Seen:
    """What one full decode told."""

    digest: bytes = b""
    size: tuple[int, int] | None = None
    grey: bool = False
    header: Header | None = None
    fault: Fault | None = None


def check_headers(source: Source, *, threads: int | None = None) -> list[Fault]:
    """Faults that headers and labels show, without decoding: under a millisecond a file, nothing for arrays in memory.

    A file whose end looks cut off is decoded to be sure. Serious findings only, in the order of the records.
    """
    faults = label_faults(source)
    if isinstance(source, ArraySource):
        source.pixels()
        faults += [
            Fault("unreadable", source.records[i].id, reason, index=i) for i, reason in sorted(source.broken.items())
        ]
    elif source.root is not None:
        sizes: list[tuple[int, int] | None] = []
        for part in _in_threads(lambda index: _glance(source, index), len(source), threads):
            sizes += [size for size, _ in part]
            faults += [fault for _, fault in part if fault is not None]
        faults += [fault for fault in box_faults(source, sizes) if fault.serious]
    return sorted(faults, key=lambda fault: -1 if fault.index is None else fault.index)


def check_source(
    source: Source, *, threads: int | None = None, previews: int = 48, progress: Progress | None = None
) -> DataReport:
    """Decode every picture and mask in threads and tell what is there and what is wrong, with a sheet of `previews`."""
    began = time.perf_counter()
    seen: list[_Seen] = []
    for part in _in_threads(lambda index: _look(source, index), len(source), threads):
        seen += part
        if progress is not None:
            progress(len(seen), len(source))
    faults = [look.fault for look in seen if look.fault is not None]
    faults += label_faults(source) + class_faults(source) + group_faults(source)
    faults += duplicate_faults(source, [look.digest for look in seen])
    faults += mode_faults(source, [look.header for look in seen], [look.grey for look in seen])
    faults += box_faults(source, [look.size for look in seen])
    if isinstance(source, FileSource):
        faults += [Fault("left out", file, why, serious=False) for file, why in source.left_out.items()]
    faults.sort(key=lambda fault: (not fault.serious, fault.kind, -1 if fault.index is None else fault.index))
    modes = Counter(look.header.mode if look.header else "in memory" for look in seen if look.size)
    return DataReport(
        source=source.name,
        kind=source.kind,
        root=str(source.root or ""),
        fingerprint=source.fingerprint(),
        num_pictures=len(source),
        num_bytes=sum(look.header.bytes for look in seen if look.header),
        classes=source.classes,
        multi_label=source.multi_label,
        counts=class_counts(source),
        splits=dict(sorted(Counter(record.split for record in source.records).items(), key=_split_order)),
        sizes=dict(sorted(Counter(look.size for look in seen if look.size).items())),
        modes=dict(modes.most_common()),
        num_boxes=sum(len(record.boxes) for record in source.records),
        num_masks=sum(record.has_mask for record in source.records),
        num_groups=len({record.group for record in source.records} - {""}),
        faults=faults,
        previews=tuple(_previews(source, seen, faults, previews)),
        seconds=time.perf_counter() - began,
    )


def class_counts(source: Source) -> dict[str, tuple[int, ...]]:
    """Split -> pictures of each class; a picture of several classes counts for each."""
    counts = {split: [0] * len(source.classes) for split in ("train", "val", "test", "")}
    for record in source.records:
        for label in record.labels or (() if record.label is None else (record.label,)):
            if 0 <= label < len(source.classes):
                counts[record.split][label] += 1
    present = {record.split for record in source.records}
    return {split: tuple(numbers) for split, numbers in counts.items() if split in present}


def _split_order(pair: tuple[str, int]) -> int:
    return ("train", "val", "test", "").index(pair[0])


def _in_threads(work: Callable[[int], Result], count: int, threads: int | None) -> Iterator[list[Result]]:
    """`work(0)` to `work(count - 1)` in order, a chunk at a time."""
    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        for start in range(0, count, CHUNK):
            yield list(pool.map(work, range(start, min(start + CHUNK, count))))


def _as_fault(error: FaultySample, index: int) -> Fault:
    if isinstance(error, FaultyPicture):
        return Fault(error.kind, error.file, error.detail, index=index)
    return Fault("unreadable", error.file, error.reason, index=index)


def _wrong_size(size: tuple[int, int], wanted: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}, expected {wanted[1]} x {wanted[0]}"


def _glance(source: Source, index: int) -> tuple[tuple[int, int] | None, Fault | None]:
    """The size that headers tell, and what they show to be wrong with a picture or its mask."""
    record = source.records[index]
    if not isinstance(source, FileSource) or not record.file:
        return None, None
    try:
        size = source.header(index).size
        if source.image_size is not None and size != source.image_size:
            return None, Fault("wrong size", record.file, _wrong_size(size, source.image_size), index)
        if index in source.mask_files:
            mask_size = _glance_at_mask(source, index)
            if mask_size != size:
                return None, Fault("wrong size", source.mask_files[index], _wrong_size(mask_size, size), index)
    except FaultySample as error:
        return None, _as_fault(error, index)
    return size, None


def _glance_at_mask(source: FileSource, index: int) -> tuple[int, int]:
    """(height, width) of a picture's mask. Also raises what was wrong with it when the source was opened."""
    if isinstance(source, MaskedSource) and index in source.faulty_masks:
        raise source.faulty_masks[index]
    file = source.mask_files[index]
    header = probe(source.root / file, name=file)
    if looks_cut(source.root / file, header):
        decode_mask(source.root / file, name=file)
    refuse_mask(header.format, header.mode, file)
    return header.size


def _look(source: Source, index: int) -> _Seen:
    record = source.records[index]
    try:
        header = source.file_header(index) if isinstance(source, FileSource) and record.file else None
        image = source.load(index).image
        size = (image.shape[1], image.shape[2])
        if source.image_size is not None and size != source.image_size:
            wrong = _wrong_size(size, source.image_size)
            return _Seen(header=header, fault=Fault("wrong size", record.file or record.id, wrong, index))
    except FaultySample as error:
        return _Seen(fault=_as_fault(error, index))
    return _Seen(_digest(image), size, _is_grey(image), header)


def _digest(image: Tensor) -> bytes:
    pixels = np.ascontiguousarray(image.numpy())
    return hashlib.blake2b(pixels.tobytes(), digest_size=16, person=repr(pixels.shape).encode()[:16]).digest()


def _is_grey(image: Tensor) -> bool:
    return image.shape[0] == 1 or bool((image[0] == image[1]).all() and (image[0] == image[2]).all())


def _previews(source: Source, seen: Sequence[_Seen], faults: Sequence[Fault], count: int) -> Iterator[Preview]:
    """Pictures with a remark first (a few of each kind), then the classes in turn."""
    remarks: dict[int, str] = {}
    kinds: dict[str, list[int]] = {}
    for fault in faults:
        if fault.index is not None and seen[fault.index].size:
            remarks.setdefault(fault.index, fault.kind)
            kinds.setdefault(fault.kind, []).append(fault.index)
    chosen = list(dict.fromkeys(index for found in kinds.values() for index in found[:REMARKED]))[: count // 2]
    for index in _in_turn(source, seen):
        if len(chosen) >= count:
            break
        if index not in chosen:
            chosen.append(index)
    for index in chosen:
        record = source.records[index]
        image, scale = _shrink(source.load_image(index))
        labels = record.labels if record.labels is not None else () if record.label is None else (record.label,)
        names = ", ".join(source.classes[label] for label in labels if 0 <= label < len(source.classes))
        boxes = tuple((x1 * scale, y1 * scale, x2 * scale, y2 * scale) for x1, y1, x2, y2 in record.boxes)
        yield Preview(record.id, record.split, names, image, boxes, remarks.get(index, ""))


def _in_turn(source: Source, seen: Sequence[_Seen]) -> Iterator[int]:
    """Readable pictures, one of each class, then the next of each class; spread over the order within a class."""
    queues: dict[object, list[int]] = {}
    for index, record in enumerate(source.records):
        if seen[index].size:
            queues.setdefault(record.labels or record.label, []).append(index)
    spread = [sorted(queue, key=lambda i: (i * 2654435761) % 2**32) for queue in queues.values()]
    for place in range(max(map(len, spread), default=0)):
        for queue in spread:
            if place < len(queue):
                yield queue[place]


def _shrink(image: Tensor) -> tuple[NDArray[np.uint8], float]:
    """uint8 `(H, W, 3)` with the long side at most PREVIEW_SIDE, and the scale."""
    array = np.ascontiguousarray(image.expand(3, -1, -1).permute(1, 2, 0).numpy())
    height, width = array.shape[:2]
    scale = min(1.0, PREVIEW_SIDE / max(height, width))
    if scale < 1:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        array = np.asarray(Image.fromarray(array).resize(size, Image.Resampling.BOX, reducing_gap=2.0))
    return array, scale
