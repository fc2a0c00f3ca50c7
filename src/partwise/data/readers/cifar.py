"""`cifar10:PATH` and `cifar100:PATH`: the published binary and python batches, and a pack of JPEGs in one `.npz`.

PATH is the folder of the batches, one above it, an archive, or the `.npz`. All pictures stand in memory as one array.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partwise.config import UserError
from partwise.data.pictures import FaultyPicture, decode
from partwise.data.readers.files import ArraySource, read_lines
from partwise.data.readers.plain_pickle import read_plain
from partwise.data.sample import Record

SIDE = 32
PIXELS = 3 * SIDE * SIDE
HOME = "CIFAR is to be had from Alex Krizhevsky's page at the University of Toronto"
Array = NDArray[np.uint8]


@dataclass(frozen=True)
class _Part:
    """One split: class indices and `images` uint8 `(N, 3, 32, 32)`, or for a pack the bytes of each file instead."""

    split: str
    labels: NDArray[np.int64]
    images: Array
    files: list[bytearray] | None = None


@dataclass(frozen=True)
class _Format:
    """Where one layout keeps what: batch files for each split, the file of class names and the names' key in it."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    names: str
    key: str


class _Cifar(ArraySource):
    """32 x 32 RGB in memory; ids are `train/00000` and so on in the order of the batches."""

    image_size = (SIDE, SIDE)
    home = HOME
    binary: _Format
    python: _Format
    label_column = 0
    label_columns = 1
    label_key = "labels"

    def __init__(self, path: Path) -> None:
        self.name = path.name or path.resolve().name
        self.root = None
        pack = _find_pack(path, self.kind)
        parts, self.classes = self._read_pack(pack) if pack else self._read_batches(path)
        self.records = [
            Record(id=f"{part.split}/{i:05d}", split=part.split, label=label)
            for part in parts
            for i, label in enumerate(part.labels.tolist())
        ]
        self._check_labels(path)
        self.broken = {}
        self._parts = parts
        self._pixels: Tensor | None = None
        self._lock = threading.Lock()

    def pixels(self) -> Tensor:
        """All pictures, uint8 `(N, 3, 32, 32)`; a pack is decoded at the first call (seconds), in threads."""
        with self._lock:
            if self._pixels is None:
                self._pixels = torch.from_numpy(np.concatenate([self._part_pixels(part) for part in self._parts]))
        return self._pixels

    def _part_pixels(self, part: _Part) -> Array:
        if part.files is None:
            return part.images
        first = 0 if part is self._parts[0] else len(self._parts[0].labels)
        pixels, broken = decode_all(part.files)
        self.broken.update({first + i: reason for i, reason in broken.items()})
        return pixels

    def fingerprint(self) -> str:
        """Of classes, labels and every byte of the pictures as stored."""
        digest = hashlib.sha256(super().fingerprint().encode())
        for part in self._parts:
            for file in part.files if part.files is not None else ():
                digest.update(file)
            digest.update(part.images.tobytes())
        return digest.hexdigest()[:16]

    def _check_labels(self, path: Path) -> None:
        for record in self.records:
            if record.label is None or not 0 <= record.label < len(self.classes):
                raise UserError(f"{path}: {record.id} has label {record.label}; expected 0 to {len(self.classes) - 1}")

    def _read_batches(self, path: Path) -> tuple[list[_Part], tuple[str, ...]]:
        formats = (self.binary, self.python)
        first = [form.train[0] for form in formats]
        root = self.locate(path, lambda folder: any((folder / name).is_file() for name in first))
        form = next(form for form in formats if (root / form.train[0]).is_file())
        for name in (*form.train, *form.test, form.names):
            if not (root / name).is_file():
                raise self.not_found(root, f"{name} is not there")
        read = self._read_binary if form is self.binary else self._read_python
        parts = []
        for split, files in (("train", form.train), ("test", form.test)):
            pairs = [read(root / name) for name in files]
            parts.append(_Part(split, np.concatenate([p[0] for p in pairs]), np.concatenate([p[1] for p in pairs])))
        return parts, self._names(root / form.names, form)

    def _names(self, path: Path, form: _Format) -> tuple[str, ...]:
        if form is self.binary:
            return tuple(line.strip() for line in read_lines(path))
        names = _field(read_plain(path.read_bytes(), str(path)), form.key, path)
        return tuple(str(name) for name in names)

    def _read_binary(self, path: Path) -> tuple[NDArray[np.int64], Array]:
        row = self.label_columns + PIXELS
        data = np.fromfile(path, np.uint8)
        if not data.size or data.size % row:
            raise UserError(
                f"{path}: {data.size:,} bytes, not a multiple of {row:,} (label and pixels): cut short or not CIFAR"
            )
        rows = data.reshape(-1, row)
        images = rows[:, self.label_columns :].reshape(-1, 3, SIDE, SIDE)
        return rows[:, self.label_column].astype(np.int64), images

    def _read_python(self, path: Path) -> tuple[NDArray[np.int64], Array]:
        batch = read_plain(path.read_bytes(), str(path))
        labels, data = _field(batch, self.label_key, path), _field(batch, "data", path)
        if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape != (len(labels), PIXELS):
            raise UserError(f"{path}: 'data' is not an array of {len(labels):,} x {PIXELS:,} bytes")
        return _as_labels(labels, path), data.reshape(-1, 3, SIDE, SIDE)

    def _read_pack(self, path: Path) -> tuple[list[_Part], tuple[str, ...]]:
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as pack:
                arrays = {name: pack[name] for name in pack.files}
        except Exception as error:  # damaged zips and forbidden pickles raise many kinds of error
            raise UserError(f"{path}: cannot be read as a pack of pictures: {error}") from error
        parts = []
        for split in ("train", "test"):
            blob, offsets = (_field(arrays, f"{split}_{name}", path) for name in ("bytes", "offsets"))
            labels = _as_labels(_field(arrays, f"{split}_labels", path), path)
            _check_offsets(path, split, blob, offsets, len(labels))
            files = [bytearray(blob[a:b]) for a, b in pairwise(offsets.tolist())]
            parts.append(_Part(split, labels, np.empty((0, 3, SIDE, SIDE), np.uint8), files))
        return parts, tuple(str(name) for name in _field(arrays, "class_names", path))


class Cifar10(_Cifar):
    """50,000 training and 10,000 test pictures of 10 classes."""

    kind = "cifar10"
    layout = (
        "cifar-10-batches-bin/ (data_batch_1.bin ...), cifar-10-batches-py/ (data_batch_1 ...), or cifar10_jpeg.npz"
    )
    binary = _Format(tuple(f"data_batch_{i}.bin" for i in range(1, 6)), ("test_batch.bin",), "batches.meta.txt", "")
    python = _Format(tuple(f"data_batch_{i}" for i in range(1, 6)), ("test_batch",), "batches.meta", "label_names")


class Cifar100(_Cifar):
    """50,000 training and 10,000 test pictures of 100 classes, or by `labels=coarse` of their 20 superclasses."""

    kind = "cifar100"
    layout = "cifar-100-binary/ (train.bin, test.bin, fine_label_names.txt) or cifar-100-python/ (train, test, meta)"
    label_columns = 2

    def __init__(self, path: Path, *, labels: Literal["fine", "coarse"] = "fine") -> None:
        self.label_column = ("coarse", "fine").index(labels)
        self.label_key = f"{labels}_labels"
        self.binary = _Format(("train.bin",), ("test.bin",), f"{labels}_label_names.txt", "")
        self.python = _Format(("train",), ("test",), "meta", f"{labels}_label_names")
        super().__init__(path)


def decode_all(files: Sequence[bytearray]) -> tuple[Array, dict[int, str]]:
    """32 x 32 pictures, uint8 `(N, 3, 32, 32)`, and the reasons for those that could not be read (left black)."""
    pixels = np.zeros((len(files), 3, SIDE, SIDE), np.uint8)
    broken: dict[int, str] = {}

    def decode_some(start: int) -> None:
        for i in range(start, min(start + 500, len(files))):
            try:
                picture = decode(files[i], name=str(i))
                if picture.shape != (3, SIDE, SIDE):
                    raise FaultyPicture(str(i), "wrong size", f"{picture.shape[2]} x {picture.shape[1]} pixels")
                pixels[i] = picture.numpy()
            except FaultyPicture as fault:
                broken[i] = fault.reason

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(decode_some, range(0, len(files), 500)))
    return pixels, broken


def _find_pack(path: Path, kind: str) -> Path | None:
    """The `.npz` that `path` is, or that lies in it under the data set's name."""
    if path.suffix == ".npz" and path.is_file():
        return path
    found = sorted(path.glob(f"{kind}*.npz")) if path.is_dir() else []
    return found[0] if found else None


def _field(mapping: Any, name: str, path: Path) -> Any:
    if not isinstance(mapping, dict) or name not in mapping:
        raise UserError(f"{path}: {name!r} is not in it")
    return mapping[name]


def _as_labels(values: Any, path: Path) -> NDArray[np.int64]:
    labels = np.asarray(values)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise UserError(f"{path}: labels are not a list of whole numbers")
    return labels.astype(np.int64)


def _check_offsets(path: Path, split: str, blob: Any, offsets: Any, count: int) -> None:
    """Refuse a pack whose offsets do not cut its bytes into `count` files."""
    whole = offsets.ndim == 1 and offsets.dtype.kind in "iu" and blob.ndim == 1 and blob.dtype == np.uint8
    if (
        not whole
        or len(offsets) != count + 1
        or offsets[0] != 0
        or offsets[-1] != len(blob)
        or (np.diff(offsets) < 0).any()
    ):
        raise UserError(f"{path}: {split}_offsets do not cut {split}_bytes into {count:,} pictures: torn or not a pack")
