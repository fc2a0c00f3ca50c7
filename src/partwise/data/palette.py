"""Masks as other tools take them: PNG files with VOC's colours, and COCO's run lengths and annotations.

A mask is uint8 `(H, W)`: 0 background, 1 to K the classes, 255 void. As a palette PNG it keeps these numbers and still
looks like something, as VOC's own files and its evaluation server want it; decode_mask of pictures.py reads it back.
Nothing here reads or writes a file.
"""

from __future__ import annotations

import functools
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import VOID

FIRST_LETTER = 48
"""COCO writes a group of bits as the letter this far up: 0 is "0"."""
GROUP_BITS = 5
SIGN, MORE = 1 << (GROUP_BITS - 1), 1 << GROUP_BITS


@functools.cache
def voc_palette() -> NDArray[np.uint8]:
    """The colour of each of 256 classes, `(256, 3)`: (0, 0, 0), (128, 0, 0), (0, 128, 0), ...; 255 is (224, 224, 192).

    Bits 0, 3 and 6 of the class are the leading bits of red, 1, 4 and 7 of green, 2 and 5 of blue. Not to be written to.
    """
    classes = np.arange(256)
    colours = np.zeros((256, 3), dtype=np.uint8)
    for bit in range(8):
        place, channel = divmod(bit, 3)
        colours[:, channel] |= (((classes >> bit) & 1) << (7 - place)).astype(np.uint8)
    colours.flags.writeable = False
    return colours


def encode_palette_png(mask: UInt8[Tensor, "h w"]) -> bytes:
    """A mask as the bytes of a PNG of 8-bit indices with VOC's palette. Raises ValueError for anything but uint8 `(H, W)`."""
    if mask.dtype != torch.uint8 or mask.ndim != 2:
        raise ValueError(f"encode_palette_png: expected a uint8 mask (H, W), got {mask.dtype} {tuple(mask.shape)}")
    image = Image.fromarray(mask.cpu().contiguous().numpy())
    image.putpalette(voc_palette().tobytes())
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def run_lengths(mask: Bool[Tensor, "h w"]) -> list[int]:
    """Lengths of the runs of a mask read column by column, beginning with one of zeros, which may be 0 long.

    COCO's uncompressed counts: their sum is H * W.
    """
    flat = mask.bool().T.reshape(-1)
    changes = (flat[1:] != flat[:-1]).nonzero().flatten() + 1
    ends = [0, *changes.tolist(), len(flat)]
    runs = [end - start for start, end in itertools.pairwise(ends)]
    return [0, *runs] if len(flat) and bool(flat[0]) else runs


def encode_rle(mask: Bool[Tensor, "h w"]) -> str:
    """COCO's compressed run lengths: each count (from the fourth on, less that two before) in letters of five bits.

    Little end first; a letter's 32 says that more follow, and the 16 of the last is the sign.
    """
    counts = run_lengths(mask)
    steps = [count - counts[at - 2] if at > 2 else count for at, count in enumerate(counts)]
    return "".join(letter for step in steps for letter in _letters(step))


def _letters(value: int) -> Iterator[str]:
    while True:
        group = value & (MORE - 1)
        value >>= GROUP_BITS
        last = value == (-1 if group & SIGN else 0)
        yield chr(FIRST_LETTER + (group if last else group | MORE))
        if last:
            return


def decode_rle(text: str, size: tuple[int, int]) -> Bool[Tensor, "h w"]:
    """The mask of `size` (height, width) that encode_rle made `text` of.

    Raises UserError for letters that are none of COCO's, a text cut short, and counts that do not fill the size.
    """
    counts: list[int] = []
    for step in _steps(text):
        counts.append(step + counts[-2] if len(counts) > 2 else step)
    height, width = size
    if min(counts, default=0) < 0 or sum(counts) != height * width:
        raise UserError(f"run lengths {_shown(text)}: they do not fill a mask of {height}x{width}")
    values = torch.arange(len(counts)) % 2 == 1
    return values.repeat_interleave(torch.tensor(counts, dtype=torch.int64)).reshape(width, height).T


def _steps(text: str) -> Iterator[int]:
    """The numbers that the letters stand for."""
    value, shift = 0, 0
    for letter in text:
        group = ord(letter) - FIRST_LETTER
        if not 0 <= group < 2 * MORE:
            raise UserError(f"run lengths {_shown(text)}: {letter!r} is no letter of COCO's run lengths")
        value |= (group & (MORE - 1)) << shift
        shift += GROUP_BITS
        if not group & MORE:
            yield value - (1 << shift) if group & SIGN else value
            value, shift = 0, 0
    if shift:
        raise UserError(f"run lengths {_shown(text)}: cut short")


def _shown(text: str) -> str:
    return repr(text if len(text) <= 24 else text[:24] + "...")


def coco_annotations(
    mask: UInt8[Tensor, "h w"], classes: Sequence[str], *, image_id: int, first_id: int = 1
) -> list[dict[str, Any]]:
    """One annotation for each class in a mask, as plain values for a COCO file's `annotations`.

    `classes` names the mask's values from 1 on; background and void get none. `category_id` is the value, as in
    coco_categories; `bbox` is x, y, width, height in pixels; ids count up from `first_id`. Raises UserError for a value
    that is no class.
    """
    values = [value for value in mask.unique().tolist() if value not in (0, VOID)]
    if values and values[-1] > len(classes):
        raise UserError(f"mask of picture {image_id}: holds class {values[-1]}, but there are {len(classes)} classes")
    annotations = []
    for number, value in enumerate(values):
        region = mask == value
        annotations.append(
            {
                "id": first_id + number,
                "image_id": image_id,
                "category_id": value,
                "segmentation": {"size": list(mask.shape), "counts": encode_rle(region)},
                "area": int(region.sum()),
                "bbox": _bounds(region),
                "iscrowd": 0,
            }
        )
    return annotations


def coco_categories(classes: Sequence[str]) -> list[dict[str, Any]]:
    """The `categories` that coco_annotations refers to: ids from 1 on, in the order of `classes`."""
    return [{"id": value, "name": name} for value, name in enumerate(classes, start=1)]


def _bounds(region: Bool[Tensor, "h w"]) -> list[int]:
    """x, y, width and height of the smallest box round the region, which is not empty."""
    rows, columns = (region.any(dim=axis).nonzero().flatten() for axis in (1, 0))
    left, top, right, bottom = (int(end) for end in (columns[0], rows[0], columns[-1], rows[-1]))
    return [left, top, right - left + 1, bottom - top + 1]
