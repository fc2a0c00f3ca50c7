"""Headers tell what decoding finds, without decoding."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.miniatures import pixels, write_picture

from partwise.data.headers import FaultyPicture, Header, looks_cut, probe
from partwise.data.pictures import decode


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1", "RGBA", "LA"])
def test_a_header_is_what_decoding_finds(mode: str, tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", 1, mode=mode)
    header = probe(path)
    assert header == Header("PNG", mode, (24, 32), False, path.stat().st_size)
    assert tuple(decode(path).shape[1:]) == header.size


def test_sixteen_bits_show(tmp_path: Path) -> None:
    for name in ("deep.png", "deep.tif"):
        Image.fromarray(np.zeros((3, 4), np.uint16)).save(tmp_path / name)
        assert "16" in probe(tmp_path / name).mode
    from tests.unit.data.test_pictures import sixteen_bit_rgb_png

    (tmp_path / "colour.png").write_bytes(sixteen_bit_rgb_png(np.zeros((3, 4, 3), np.uint16)))
    assert probe(tmp_path / "colour.png").mode == "RGB;16"


@pytest.mark.parametrize("turn", range(1, 9))
def test_the_size_is_that_of_the_upright_picture(turn: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = turn
    path = tmp_path / "a.jpg"
    Image.fromarray(pixels(1)).save(path, exif=exif)
    header = probe(path)
    assert header.exif_rotated == (turn != 1)
    assert header.size == tuple(decode(path).shape[1:]) == ((24, 32) if turn < 5 else (32, 24))


def test_the_format_is_that_of_the_bytes(tmp_path: Path) -> None:
    path = write_picture(tmp_path / "a.png", 1).rename(tmp_path / "a.jpg")
    assert probe(path).format == "PNG"


@pytest.mark.parametrize("suffix", ["jpg", "png", "gif"])
def test_a_missing_end_is_suspected(suffix: str, tmp_path: Path) -> None:
    path = write_picture(tmp_path / f"a.{suffix}", 1, height=200, width=200)
    assert not looks_cut(path, probe(path))
    data = path.read_bytes()
    path.write_bytes(data + b"trailing bytes of a careless camera")
    assert not looks_cut(path, probe(path))
    if suffix != "gif":  # one byte marks the end of a GIF; it occurs within it as well
        path.write_bytes(data[: len(data) // 2])
        assert looks_cut(path, probe(path))


def test_faults_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("words")
    for name, kind in (("text.jpg", "unreadable"), ("nowhere.jpg", "missing")):
        with pytest.raises(FaultyPicture) as caught:
            probe(tmp_path / name, name=name)
        assert (caught.value.file, caught.value.kind) == (name, kind)


def test_a_tiff_with_a_tag_twice_is_refused(tmp_path: Path) -> None:
    """Two strip offsets for one strip: decoders choose differently, one of them wrong."""
    entries = [
        (256, 4, 1, 6),
        (257, 4, 1, 5),
        (258, 3, 1, 8),
        (259, 3, 1, 1),
        (262, 3, 1, 1),
        (273, 4, 2, 200),  # two offsets, where one strip holds the picture
        (278, 4, 1, 5),
        (279, 4, 1, 30),
    ]
    body = struct.pack("<2sHI", b"II", 42, 8) + struct.pack("<H", len(entries))
    body += b"".join(struct.pack("<HHII", *entry) for entry in entries) + bytes(4)
    data = bytearray(body + bytes(300 - len(body)))
    data[200:208] = struct.pack("<II", 220, 250)
    path = tmp_path / "twice.tif"
    path.write_bytes(data)
    for read in (probe, decode):
        with pytest.raises(FaultyPicture, match="2 strips for a picture of 1"):
            read(path, name="twice.tif")
    struct.pack_into("<HHII", data, 10 + 12 * 5, 273, 4, 1, 220)
    path.write_bytes(data)
    assert probe(path).size == tuple(decode(path).shape[1:]) == (5, 6)
