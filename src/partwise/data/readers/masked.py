"""What readers of pictures with masks share: the values a mask may hold, what they become, labels and boxes taken from it.

Every mask leaves a reader in one form: 0 for the ground, class k as k + 1, VOID (255) for pixels that are counted nowhere.
A *table* says which stored value becomes which of these; a value without an entry is a fault that names file and value.
Masks drawn from shapes (COCO) are not files and have no part in this.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from partwise.data.headers import FaultyPicture
from partwise.data.pictures import decode_mask
from partwise.data.readers.files import FileSource
from partwise.data.sample import VOID, Record, Sample

Table = Mapping[int, int]
BLOCK = 1 << 20
"""Pixels that are counted at once: bounds memory for large masks."""


class MaskedSource(FileSource):
    """Pictures with a mask file each (or some), by position in `masks`.

    A picture of one class that has a mask and no annotated box gets the extent of the object as its box, when loaded.
    `faulty_masks` holds what was wrong with masks that were read when the source was opened.
    """

    boxes_from_masks = True

    def __init__(
        self,
        path: Path,
        root: Path,
        records: Sequence[Record],
        classes: Sequence[str],
        *,
        masks: Mapping[int, str],
        faulty: Mapping[int, FaultyPicture] | None = None,
    ) -> None:
        super().__init__(path, root, records, classes)
        self.mask_files = dict(masks)
        self.faulty_masks = dict(faulty or {})

    def table(self, index: int) -> Table:
        """Stored value -> mask value for one picture; unless a layout says otherwise masks are stored as they are returned."""
        return plain_table(len(self.classes))

    def object_pixels(self, mask: Tensor) -> Tensor:
        """Where the object of a picture of one class is, bool `(H, W)`."""
        return (mask != 0) & (mask != VOID)

    def load(self, index: int) -> Sample:
        """The picture with its labels, mask and boxes. Raises FaultyPicture for a mask with a value that is no class."""
        sample = super().load(index)
        if sample.mask is None:
            return sample
        mask = translate(sample.mask, self.table(index), name=self.mask_files[index])
        boxes = sample.boxes
        if boxes is None and sample.label is not None and self.boxes_from_masks:
            boxes = extent(self.object_pixels(mask))
        return replace(sample, mask=mask, boxes=boxes)


@dataclass
class MaskValues:
    """What mask files hold, by position: the values of those that can be read, the fault of each that cannot."""

    files: Mapping[int, str]
    values: dict[int, frozenset[int]]
    faults: dict[int, FaultyPicture]

    def labels(self, table: Table) -> dict[int, tuple[int, ...]]:
        """The classes in each mask, ascending; nothing for a faulty one. A value that `table` lacks makes a mask faulty."""
        labels: dict[int, tuple[int, ...]] = {index: () for index in self.faults}
        for index, values in self.values.items():
            try:
                refuse_unknown(values, table, name=self.files[index])
                labels[index] = tuple(sorted({table[value] - 1 for value in values if table[value] not in (0, VOID)}))
            except FaultyPicture as fault:
                self.faults[index] = fault
                labels[index] = ()
        return labels


def read_values(root: Path, files: Mapping[int, str]) -> MaskValues:
    """Decode masks (position -> file below `root`) in threads, a few milliseconds each, for the values they hold."""

    def look(index: int) -> frozenset[int] | FaultyPicture:
        try:
            return values_in(decode_mask(root / files[index], name=files[index]))
        except FaultyPicture as fault:
            return fault

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        seen = dict(zip(files, pool.map(look, files), strict=True))
    return MaskValues(
        files,
        {index: found for index, found in seen.items() if not isinstance(found, FaultyPicture)},
        {index: found for index, found in seen.items() if isinstance(found, FaultyPicture)},
    )


def values_in(mask: Tensor) -> frozenset[int]:
    """The values that occur in a uint8 mask of any shape."""
    pixels = mask.numpy().ravel()
    counts = np.zeros(256, np.int64)
    for start in range(0, pixels.size, BLOCK):
        counts += np.bincount(pixels[start : start + BLOCK], minlength=256)
    return frozenset(counts.nonzero()[0].tolist())


def plain_table(num_classes: int) -> dict[int, int]:
    """0 to `num_classes` and VOID as themselves."""
    return {value: value for value in (*range(num_classes + 1), VOID)}


def translate(mask: Tensor, table: Table, *, name: str) -> Tensor:
    """A mask as stored, uint8 `(H, W)`, -> the same with each value replaced by its entry in `table`.

    Raises FaultyPicture, with `name` for the file, where a value has none.
    """
    entries = np.full(256, -1, np.int16)
    entries[list(table)] = list(table.values())
    found = entries.take(mask.numpy())
    if found.size and int(found.min()) < 0:
        refuse_unknown(values_in(mask), table, name=name)
    return torch.from_numpy(found.astype(np.uint8))


def refuse_unknown(values: Iterable[int], known: Collection[int], *, name: str) -> None:
    """Raise FaultyPicture for a mask with values that are not `known`."""
    unknown = sorted(set(values) - set(known))
    if unknown:
        several = f"values {', '.join(map(str, unknown[:5]))}{', ...' * (len(unknown) > 5)}"
        what = f"value {unknown[0]}" if len(unknown) == 1 else several
        raise FaultyPicture(name, "unreadable", f"mask {what}; expected {spell_out(known)}")


def spell_out(values: Collection[int]) -> str:
    """Whole numbers in words, runs drawn together: `0 to 20, 255`."""
    runs: list[list[int]] = []
    for value in sorted(values):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(
        f"{first} to {last}" if last > first + 1 else ", ".join(map(str, range(first, last + 1)))
        for first, last in runs
    )


def extent(inside: Tensor) -> Tensor | None:
    """The box round all true pixels of `(H, W)`: float32 `(1, 4)`, half-open; None where there is none."""
    rows, columns = inside.any(dim=1).nonzero()[:, 0], inside.any(dim=0).nonzero()[:, 0]
    if not len(rows):
        return None
    return torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()[None]
