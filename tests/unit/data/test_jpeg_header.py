"""A JPEG's header from its bytes, against PIL's reading of the same file."""

from __future__ import annotations

import io

import pytest
from PIL import Image
from tests.miniatures import jpeg, pixels

from partwise.data.jpeg_header import exif_turn, scan_jpeg


def encoded(mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels(1)).convert(mode).save(buffer, "JPEG", **options)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("progressive", [False, True])
def test_size_and_components(mode: str, progressive: bool) -> None:
    header = scan_jpeg(encoded(mode, progressive=progressive))
    assert header is not None
    assert (header.height, header.width, header.components, header.turn) == (
        24,
        32,
        {"RGB": 3, "L": 1, "CMYK": 4}[mode],
        1,
    )
    assert header.plain == (mode != "CMYK")


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("order", [b"II", b"MM"])
def test_the_turn_in_either_byte_order(turn: int, order: bytes) -> None:
    exif = Image.Exif()
    exif.endian = "<" if order == b"II" else ">"
    exif[0x010F] = "a camera"
    exif[0x0112] = turn
    data = encoded(exif=exif.tobytes())
    assert order in data[:40]
    header = scan_jpeg(data)
    assert header is not None and header.turn == turn
    assert Image.open(io.BytesIO(data)).getexif()[0x0112] == turn


def test_a_turn_in_xmp_is_left_to_others() -> None:
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    header = scan_jpeg(encoded(xmp=xmp))
    assert header is not None and header.turn is None and header.plain


@pytest.mark.parametrize("tiff", [b"", b"II", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff", b"no tiff at all"])
def test_a_damaged_tag_turns_nothing(tiff: bytes) -> None:
    assert exif_turn(b"Exif\0\0" + tiff) == 1


def test_torn_headers() -> None:
    data = jpeg(pixels(1))
    frame = data.index(b"\xff\xc0")
    for end in range(frame + 10):
        assert scan_jpeg(data[:end]) is None
    whole = scan_jpeg(data)
    assert whole is not None and scan_jpeg(data[:2] + b"\xff\xff" + data[2:]) == whole  # fill bytes are allowed
    assert scan_jpeg(b"\xff\xd8" + b"\xff" * 50) is None
    assert scan_jpeg(b"\x89PNG" + data) is None
