"""DICOM radiographs as pictures. Needs pydicom, the extra `dicom`; nothing else imports it.

What the standard (PS3.3, C.11) does on the way to a screen: stored values, rescaled by the modality, the values of interest
of the first window or table, 8 bits, MONOCHROME1 turned round so that air is dark in every picture. Nothing in a file is
executed.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from partwise.config import UserError
from partwise.data.headers import FaultyPicture, Header, file_size, limit_pixels, verdict
from partwise.data.readers.files import FileSource, is_picture

SUFFIXES = (".dcm", ".dicom")
MONOCHROME = ("MONOCHROME1", "MONOCHROME2")
TAG_AND_LENGTH = 8
"""Bytes before the value of an element, at least."""
END, TAIL = b"\xfe\xff\xdd\xe0", 1 << 16
"""The tag that ends compressed pixels, and within how many bytes of the file's end it is looked for."""

Floats = NDArray[np.float32]


class RadiographSource(FileSource):
    """A source whose pictures may be DICOM files, or any other format."""

    def load_image(self, index: int) -> Tensor:
        """uint8 `(3, H, W)`. Raises FaultyPicture, naming the file below the root."""
        file = self.records[index].file
        return read_dicom(self.root / file, name=file) if is_dicom(file) else super().load_image(index)

    def file_header(self, index: int) -> Header:
        """The header of a record's file. Raises FaultyPicture."""
        file = self.records[index].file
        return probe_dicom(self.root / file, name=file) if is_dicom(file) else super().file_header(index)


def is_dicom(name: str) -> bool:
    """Whether a file is named like a DICOM file."""
    return name.lower().endswith(SUFFIXES)


def is_radiograph(name: str) -> bool:
    """Whether a file is named like a picture or a DICOM file."""
    return is_picture(name) or (is_dicom(name) and not name.startswith("."))


def radiographs_below(folder: Path) -> list[str]:
    """Pictures and DICOM files below a folder at any depth, as paths relative to it with "/", in the order of those paths."""
    files = (file.relative_to(folder) for file in folder.rglob("*") if is_radiograph(file.name))
    return sorted(
        file.as_posix() for file in files if not any(part.startswith((".", "__MACOSX")) for part in file.parts)
    )


def by_stem(root: Path, files: Iterable[str]) -> dict[str, str]:
    """Name without folder and suffix -> path. Raises UserError for two files of one name, of which either could be meant."""
    found: dict[str, str] = {}
    for file in files:
        stem = file.rpartition("/")[2].rpartition(".")[0]
        if stem in found:
            raise UserError(f"{root}: {found[stem]} and {file}; expected one picture called {stem}")
        found[stem] = file
    return found


def file_of(stem: str, files: Mapping[str, str], *, folder: str, suffix: str) -> str:
    """The file of a picture among `files` by stem; for one that is not there, where it should be: as the first of them lies."""
    if stem in files or not files:
        return files.get(stem, f"{folder}/{stem}{suffix}")
    first = PurePosixPath(next(iter(files.values())))
    return (first.parent / f"{stem}{first.suffix}").as_posix()


def require_pydicom(kind: str, files: Iterable[str]) -> None:
    """Raise UserError, naming the extra, where there are DICOM files and no pydicom to read them."""
    first = next((file for file in files if is_dicom(file)), None)
    if first is not None:
        try:
            _pydicom()
        except UserError as error:
            raise UserError(f"{kind}: {first}: {error}") from None


def read_dicom(path: Path, *, name: str = "") -> Tensor:
    """A DICOM file of one grey picture -> uint8 `(3, H, W)`, as a screen would show it.

    The first table or window of interest is applied; where there is neither, the range of the values. Raises FaultyPicture,
    with `name` for the file, for what is missing, cut short, in colour or of several frames, UserError without pydicom.
    """
    name = name or str(path)
    pydicom = _pydicom()
    try:
        _check(path, name)
        dataset = pydicom.dcmread(path)
        shown = shown_values(dataset)
    except UserError:
        raise
    except Exception as error:  # whatever a decoder makes of foreign bytes
        raise _verdict(name, error) from error
    grey = np.rint(255 * shown).astype(np.uint8)
    return torch.from_numpy(np.repeat(grey[None], 3, axis=0))


def probe_dicom(path: Path, *, name: str = "") -> Header:
    """The header, without pixels. Raises FaultyPicture, with `name` for the file, UserError without pydicom."""
    name = name or str(path)
    try:
        return _check(path, name)
    except UserError:
        raise
    except Exception as error:  # whatever a decoder makes of foreign bytes
        raise _verdict(name, error) from error


def shown_values(dataset: Any) -> Floats:
    """The values that a screen would show of a dataset of pydicom's: float32 `(H, W)` in [0, 1], 0 black."""
    processing = importlib.import_module("pydicom.pixels.processing")
    values = processing.apply_modality_lut(dataset.pixel_array, dataset)
    if dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        shown = processing.apply_voi(values.astype(np.int64), dataset).astype(np.float32) / (2**bits - 1)
    elif dataset.get("WindowCenter") is not None and dataset.get("WindowWidth") is not None:
        center, width = (_first(dataset[key].value) for key in ("WindowCenter", "WindowWidth"))
        shown = window(values.astype(np.float32), center, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
    else:
        low, high = float(values.min()), float(values.max())
        shown = (values.astype(np.float32) - low) / max(high - low, 1.0)
    return 1 - shown if dataset.PhotometricInterpretation == "MONOCHROME1" else shown


def window(values: Floats, center: float, width: float, function: str = "LINEAR") -> Floats:
    """Values -> [0, 1] by a window of the standard (PS3.3, C.11.2.1.2 and C.11.2.1.3).

    LINEAR: (v - (c - 0.5)) / (w - 1) + 0.5; LINEAR_EXACT: (v - c) / w + 0.5, both cut to [0, 1]; SIGMOID:
    1 / (1 + exp(-4 (v - c) / w)), as a hyperbolic tangent, which cannot overflow. Raises ValueError for another function and a
    width that the standard forbids.
    """
    least = 1.0 if function == "LINEAR" else 0.0
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID") or width < least or width == 0:
        raise ValueError(f"a window of function {function} and width {width:g}")
    if function == "SIGMOID":
        return ((1 + np.tanh(2 * (values - center) / width)) / 2).astype(np.float32)
    middle, slope = (center - 0.5, width - 1) if function == "LINEAR" else (center, width)
    if slope == 0:  # a width of 1 is a step: dark up to the middle
        return (values > middle).astype(np.float32)
    return ((values - middle) / slope + 0.5).clip(0, 1).astype(np.float32)


def _pydicom() -> Any:
    """The package. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("pydicom")
    except ImportError:
        raise UserError(
            "pydicom is not installed, which reads DICOM files; pip install 'partwise[dicom]', or save them as PNG"
        ) from None


def _check(path: Path, name: str) -> Header:
    """Read all but the pixels; refuse what is no single grey picture, and pixels that end too early."""
    size = file_size(path, name)
    with path.open("rb") as file:
        dataset = _pydicom().dcmread(file, stop_before_pixels=True)
        left = size - file.tell()
        file.seek(max(0, size - TAIL))
        tail = file.read()
    height, width, bits = (int(dataset[key].value) for key in ("Rows", "Columns", "BitsAllocated"))
    limit_pixels(name, height, width)
    shown, frames = str(dataset.get("PhotometricInterpretation")), int(dataset.get("NumberOfFrames") or 1)
    if shown not in MONOCHROME or frames != 1:
        raise FaultyPicture(
            name, "unreadable", f"{frames} frames of {shown}; expected one of {' or '.join(MONOCHROME)}"
        )
    syntax = dataset.file_meta.TransferSyntaxUID
    raw = not (syntax.is_compressed or syntax.is_deflated)
    if (raw and left < TAG_AND_LENGTH + height * width * bits // 8) or (syntax.is_encapsulated and END not in tail):
        raise FaultyPicture(name, "truncated", "the file ends before the picture does")
    return Header("DICOM", "L" if bits <= 8 else "I;16", (height, width), exif_rotated=False, bytes=size)


def _first(value: Any) -> float:
    """The first of several windows, or the only one."""
    return float(value[0] if hasattr(value, "__len__") else value)


def _verdict(name: str, error: Exception) -> FaultyPicture:
    """What an exception of pydicom means; its sentences run over several lines."""
    if isinstance(error, KeyError):
        return FaultyPicture(name, "unreadable", f"a DICOM file without {error}")
    if type(error).__name__ == "InvalidDicomError":
        return FaultyPicture(name, "unreadable", "not a DICOM file")
    fault = verdict(name, error)
    return FaultyPicture(name, fault.kind, " ".join(fault.detail.split()))
