"""Malformed TIFFs written by hand: raw bytes where they are certain, a fault where not, and nothing for files in order."""

from __future__ import annotations

import io
import struct
import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tests.miniatures_chromosomes import chromosome, malformed, tiff

from partwise.data.headers import FaultyPicture
from partwise.data.readers.tiff_strips import raw_pixels

PIXELS = chromosome(3, 21, 10)
SIZE = PIXELS.size


def by_pil(data: bytes) -> np.ndarray:
    with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(data)) as image:
        return np.array(image)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("offsets", "counts"),
    [
        ([[48, 48 + SIZE]], [[SIZE, SIZE]]),
        ([[48], [48 + SIZE]], [[SIZE]]),
        ([[48], [60]], [[SIZE], [SIZE]]),
        ([[48]], [[SIZE], [1]]),
        ([[48]], [[SIZE, SIZE]]),
        ([[48]], [[SIZE - 1]]),
    ],
)
def test_malformed_strips_give_the_raw_bytes(offsets: list[list[int]], counts: list[list[int]], order: str) -> None:
    found = raw_pixels(tiff(PIXELS, offsets=offsets, counts=counts, order=order), name="x")
    assert found is not None and found.dtype == np.uint8 and (found == PIXELS).all()


@pytest.mark.parametrize("order", ["<", ">"])
def test_files_in_order_are_left_to_the_decoder(order: str) -> None:
    data = tiff(PIXELS, order=order)
    assert raw_pixels(data, name="x") is None
    assert (by_pil(data) == PIXELS).all()  # so the malformed ones are malformed in what was meant, and in nothing else


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "P", "I;16", "CMYK"])
@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_written_files_of_every_kind_are_in_order(mode: str, compression: str) -> None:
    large = Image.fromarray(np.tile(PIXELS, (40, 40)))
    image = Image.fromarray(np.array(large).astype(np.uint16)) if mode == "I;16" else large.convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", compression=compression)
    assert raw_pixels(buffer.getvalue(), name="x") is None


def test_other_files_are_none_of_its_business() -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, "PNG")
    for data in (buffer.getvalue(), b"", b"II", b"II+\0" + bytes(99)):
        assert raw_pixels(data, name="x") is None


@pytest.mark.parametrize(
    "data",
    [
        tiff(PIXELS, offsets=[[8, 48]], counts=[[SIZE, SIZE]]),
        tiff(PIXELS, offsets=[[48, 50]], compression=5),
        tiff(PIXELS, offsets=[[48, 50]], bits=4),
    ],
)
def test_what_is_uncertain_is_a_fault(data: bytes) -> None:
    with pytest.raises(FaultyPicture, match=r"7_1.tiff: unreadable: the TIFF directory contradicts itself"):
        raw_pixels(data, name="7_1.tiff")


def test_pixels_that_are_not_there() -> None:
    data = malformed(PIXELS)
    for form, tag, kind in (("<HHII", 257, 4), ("<HHIH", 278, 3)):  # height, and rows of a strip
        entry = struct.pack(form, tag, kind, 1, 21)
        assert data.count(entry) == 1
        data = data.replace(entry, struct.pack(form, tag, kind, 1, 30))
    with pytest.raises(FaultyPicture, match=r"x: truncated: no 10 x 30 pixels between byte 48 and the directory"):
        raw_pixels(data, name="x")
    for data in (tiff(PIXELS, offsets=[[500]]), tiff(PIXELS, counts=[[SIZE + 500]])):
        with pytest.raises(FaultyPicture, match="truncated: the file ends before its last strip"):
            raw_pixels(data, name="x")


def test_every_cut_is_a_fault() -> None:
    for data in (malformed(PIXELS), tiff(PIXELS)):
        for length in range(
            8, len(data) - 4
        ):  # the last four bytes point to the next directory, of which there is none
            with pytest.raises(FaultyPicture, match="truncated"):
                raw_pixels(data[:length], name="x")


@given(position=st.integers(4, len(malformed(PIXELS)) - 1), value=st.integers(0, 255), order=st.sampled_from("<>"))
def test_damage_is_a_fault_or_pixels(position: int, value: int, order: str) -> None:
    data = bytearray(tiff(PIXELS, offsets=[[48, 48 + SIZE]], counts=[[SIZE, SIZE]], order=order))
    data[position] = value
    try:
        found = raw_pixels(bytes(data), name="x")
    except FaultyPicture:
        return
    assert found is None or found.size <= SIZE
