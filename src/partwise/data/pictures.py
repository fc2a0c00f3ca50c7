"""Picture files to tensors: every picture becomes upright 8-bit RGB, every mask keeps its indices.

Two decoders that give the same pixels: torchvision's native operator for plain JPEG (faster, and without the interpreter
lock), PIL for everything else: other formats, palette, 16 bit, CMYK, transparency, EXIF turns. A file that cannot be read
in full raises FaultyPicture; nothing is ever filled in. Headers alone: `probe`, from data/headers.py.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from partwise.data.headers import (
    FaultyPicture,
    Header,
    check_strips,
    file_size,
    limit_pixels,
    orientation,
    probe,
    verdict,
)
from partwise.data.jpeg_header import scan_jpeg

__all__ = ["SUFFIXES", "FaultyPicture", "Header", "decode", "decode_mask", "probe", "refuse_mask"]

SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm", ".pbm"}
)
"""How the names of pictures end, in lower case."""
RGB_MODE = 3  # torchvision's number for "convert to RGB"
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIXTEEN_BIT = ("I;16", "I;16L", "I;16B", "I;16N")
MASK_MODES = ("1", "L", "P", *SIXTEEN_BIT)


def decode(picture: Path | str | bytes | bytearray, *, name: str = "") -> Tensor:
    """A file or its bytes -> uint8 `(3, H, W)`, RGB, turned as its EXIF tag says; channels innermost in memory.

    Grey is repeated over the channels; 16 bits keep their high byte; transparency is laid on white, as a page would show it;
    of an animation the first frame is taken. Raises FaultyPicture (with `name` for the file) for a file that is missing,
    empty, cut short, damaged, of unknown range (32 bits a channel) or of more than MAX_PIXELS pixels.
    """
    name = name or (str(picture) if isinstance(picture, (str, Path)) else "picture")
    data = _read(picture, name) if isinstance(picture, (str, Path)) else picture
    if not data:
        raise FaultyPicture(name, "empty", "0 bytes")
    jpeg = scan_jpeg(data)
    if jpeg is not None and jpeg.plain and jpeg.turn == 1:
        limit_pixels(name, jpeg.height, jpeg.width)
        image = _decode_natively(data)
        if image is not None:
            return image
    return _decode_carefully(data, name, jpeg.turn if jpeg is not None else None)


def decode_mask(path: Path, *, name: str = "") -> Tensor:
    """A mask file -> uint8 `(H, W)` with its values as stored: palette indices, grey levels, 0 and 1 for one bit.

    Raises FaultyPicture where the file cannot be read, is coloured (RGB: which colour is which class is not known), has
    values above 255, or is a JPEG (whose compression blurs indices).
    """
    name = name or str(path)
    file_size(path, name)
    try:
        with Image.open(path) as image:
            limit_pixels(name, image.height, image.width)
            refuse_mask(image.format, image.mode, name)
            array = np.array(_turn_upright(image, orientation(image)))
    except Exception as error:  # whatever a decoder makes of foreign bytes
        raise verdict(name, error) from error
    if array.size and int(array.max()) > 255:
        raise FaultyPicture(name, "unreadable", f"mask values reach {int(array.max())}; at most 255 fit")
    return torch.from_numpy(array.astype(np.uint8))


def refuse_mask(format: str | None, mode: str, name: str) -> None:
    """Raise FaultyPicture, with `name` for the file, where format and mode of its header say that it holds no indices."""
    if format in ("JPEG", "MPO"):
        raise FaultyPicture(name, "unreadable", "a JPEG mask has blurred values; save it as PNG")
    if mode not in MASK_MODES:
        raise FaultyPicture(name, "unreadable", f"a mask must hold indices (grey or palette), this one has mode {mode}")


def _read(path: Path | str, name: str) -> bytearray:
    try:
        with open(path, "rb") as file:  # noqa: PTH123  # a Path made only to open it costs more than a small file
            return bytearray(file.read())
    except OSError as error:
        raise FaultyPicture(name, "missing", error.strerror or "cannot be opened") from error


@functools.cache
def _native() -> Callable[[Tensor, int, bool], Tensor] | None:
    """torchvision's JPEG decoder, or None in a build without.

    The operator itself: its wrapper warns since torchvision 0.29 that it will move elsewhere. Not so for PNG: there the
    native decoder ends the process on some damaged files (torchvision 0.29: one changed byte is enough).
    """
    try:
        import torchvision.io  # noqa: F401  (registers the operator)

        return torch.ops.image.decode_jpeg
    except (ImportError, AttributeError, RuntimeError):
        return None


def _decode_natively(data: bytes | bytearray) -> Tensor | None:
    """The picture, or None where the native decoder cannot and the careful one must judge."""
    native = _native()
    if native is None:
        return None
    writable = data if isinstance(data, bytearray) else bytearray(data)
    try:
        return native(torch.frombuffer(writable, dtype=torch.uint8), RGB_MODE, False)
    except RuntimeError:
        return None


def _decode_carefully(data: bytes | bytearray, name: str, turn: int | None = None) -> Tensor:
    """By PIL; `turn` where the EXIF turn is known already."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            limit_pixels(name, image.height, image.width)
            check_strips(image, name)
            image.load()
            array = _rgb(_turn_upright(image, orientation(image) if turn is None else turn), name)
    except Exception as error:  # whatever a decoder makes of foreign bytes
        raise verdict(name, error) from error
    return torch.from_numpy(array).permute(2, 0, 1)


def _turn_upright(image: Image.Image, turn: int) -> Image.Image:
    return image.transpose(UPRIGHT[turn]) if turn != 1 else image


def _rgb(image: Image.Image, name: str) -> NDArray[np.uint8]:
    """uint8 `(H, W, 3)` of any mode of known range."""
    if image.mode in SIXTEEN_BIT:
        high = (np.array(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.repeat(high[..., None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise FaultyPicture(name, "unreadable", f"32 bits a channel (mode {image.mode}) have no known range")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return np.array(Image.alpha_composite(white, image.convert("RGBA")).convert("RGB"))
    return np.array(image.convert("RGB"))
