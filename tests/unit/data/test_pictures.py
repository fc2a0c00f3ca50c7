"""Decoding against PIL read naively, in every mode, and everything that must be refused."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.miniatures import jpeg, pixels, write_picture

from partwise.data import pictures
from partwise.data.headers import FaultyPicture
from partwise.data.pictures import decode, decode_mask
from partwise.data.sample import FaultySample


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def channels_last(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.dtype == torch.uint8 and tensor.shape[0] == 3
    assert tensor.permute(1, 2, 0).is_contiguous()
    return tensor.permute(1, 2, 0).numpy()


def naive(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@settings(max_examples=30, deadline=None)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    mode=st.sampled_from(["RGB", "L"]),
    progressive=st.booleans(),
    quality=st.sampled_from([30, 75, 100]),
    seed=st.integers(0, 99),
)
def test_both_decoders_agree_on_jpeg(
    height: int, width: int, mode: str, progressive: bool, quality: int, seed: int
) -> None:
    picture = Image.fromarray(pixels(seed, height, width)).convert(mode)
    data = encoded(picture, "JPEG", progressive=progressive, quality=quality)
    fast, careful = channels_last(decode(data)), channels_last(pictures._decode_carefully(data, ""))
    assert (careful == naive(data)).all()
    assert np.abs(fast.astype(int) - careful).max() <= 2  # bit-identical with the same libjpeg; versions may round


def test_the_native_decoder_is_used_and_can_be_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    data = jpeg(pixels(1))
    native = pictures._decode_natively(data)
    assert native is not None and torch.equal(native, decode(data))
    monkeypatch.setattr(pictures, "_native", lambda: None)
    assert torch.equal(decode(data), native)


@pytest.mark.parametrize("mode", ["1", "P", "CMYK", "YCbCr", "HSV"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "GIF"])
def test_other_modes_become_rgb(mode: str, kind: str) -> None:
    picture = Image.fromarray(pixels(3)).convert(mode)
    try:
        data = encoded(picture, kind)
    except (OSError, ValueError):
        pytest.skip(f"{kind} has no {mode}")
    assert (channels_last(decode(data)) == naive(data)).all()


@pytest.mark.parametrize("kind", ["BMP", "WEBP", "PPM", "TIFF", "GIF"])
def test_other_formats_are_read(kind: str) -> None:
    data = encoded(Image.fromarray(pixels(4)), kind)
    assert (channels_last(decode(data)) == naive(data)).all()


def test_transparency_is_laid_on_white() -> None:
    array = np.dstack([pixels(5), np.full((24, 32), 255, np.uint8)])
    array[:5, :, 3] = 0
    array[5:9, :, 3] = 51
    white = np.full_like(array[..., :3], 255)
    share = array[..., 3:] / 255
    expected = np.rint(share * array[..., :3] + (1 - share) * white)
    got = channels_last(decode(encoded(Image.fromarray(array), "PNG")))
    assert np.abs(got - expected).max() <= 1
    assert (got[:5] == 255).all() and (got[9:] == array[9:, :, :3]).all()


def test_a_transparent_palette_entry_and_a_transparent_colour_are_laid_on_white() -> None:
    palette = Image.fromarray(pixels(6)).quantize(4)
    index = np.asarray(palette)
    got = channels_last(decode(encoded(palette, "PNG", transparency=2)))
    assert (got[index == 2] == 255).all() and (got[index != 2] == np.asarray(palette.convert("RGB"))[index != 2]).all()
    flat = Image.fromarray(np.full((4, 4, 3), 9, np.uint8))
    data = encoded(flat, "PNG", transparency=(9, 9, 9))
    assert (channels_last(decode(data)) == 255).all()


def test_sixteen_bits_keep_their_high_byte() -> None:
    values = np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 85
    for kind in ("PNG", "TIFF"):
        got = channels_last(decode(encoded(Image.fromarray(values), kind)))
        assert (got == (values >> 8)[..., None]).all()


def sixteen_bit_rgb_png(values: np.ndarray) -> bytes:
    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour() -> None:
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3))
    got = channels_last(decode(sixteen_bit_rgb_png(values)))
    assert (got == values >> 8).all()


@pytest.mark.parametrize("mode", ["I", "F"])
def test_an_unknown_range_is_refused(mode: str) -> None:
    data = encoded(Image.fromarray(pixels(1)).convert("L").convert(mode), "TIFF")
    with pytest.raises(FaultyPicture, match="no known range"):
        decode(data, name="deep.tif")


TURNS = {  # the picture as stored, for an upright one, by the definition of each value of the tag
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("turn", TURNS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_turns_are_undone(turn: int, kind: str) -> None:
    upright = pixels(8)
    exif = Image.Exif()
    exif[0x0112] = turn
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(np.ascontiguousarray(TURNS[turn](upright)))
    got = channels_last(decode(encoded(stored, kind, exif=exif, **options)))
    assert got.shape == upright.shape
    assert np.abs(got.astype(int) - upright).max() <= (8 if kind == "JPEG" else 0)


def test_a_damaged_exif_tag_does_not_lose_the_picture() -> None:
    data = encoded(Image.fromarray(pixels(1)), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert (channels_last(decode(data)) == channels_last(decode(encoded(Image.fromarray(pixels(1)), "JPEG")))).all()


def test_the_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(pixels(seed)).quantize(64) for seed in range(3)]
    buffer = io.BytesIO()
    frames[0].save(buffer, "GIF", save_all=True, append_images=frames[1:])
    assert (channels_last(decode(buffer.getvalue())) == np.asarray(frames[0].convert("RGB"))).all()


def test_the_bytes_count_not_the_name(tmp_path: Path) -> None:
    path = tmp_path / "really_a_png.jpg"
    path.write_bytes(encoded(Image.fromarray(pixels(2)), "PNG"))
    assert (channels_last(decode(path)) == pixels(2)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_half_a_file_is_refused(kind: str, share: float, tmp_path: Path) -> None:
    data = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), kind)
    path = tmp_path / "torn.img"
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(FaultySample) as caught:
        decode(path, name="torn.img")
    assert caught.value.file == "torn.img"
    if kind in ("JPEG", "PNG"):
        assert caught.value.reason.startswith("truncated")


@settings(max_examples=300, deadline=None)
@given(data=st.data(), kind=st.sampled_from(["JPEG", "PNG"]))
def test_any_damage_is_a_fault_or_a_picture(data: st.DataObject, kind: str) -> None:
    """Never another exception, and never the end of the process (a native PNG decoder did that)."""
    whole = bytearray(encoded(Image.fromarray(pixels(1, 40, 60)), kind))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(FaultyPicture):
        assert decode(whole[: data.draw(st.integers(1, len(whole)))]).shape[0] == 3


def test_each_fault_has_its_kind(tmp_path: Path) -> None:
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "folder.png").mkdir()
    kinds = {}
    for name in ("nowhere.png", "empty.png", "text.png", "folder.png"):
        with pytest.raises(FaultyPicture) as caught:
            decode(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
        kinds[name] = caught.value.kind
    assert kinds == {"nowhere.png": "missing", "empty.png": "empty", "text.png": "unreadable", "folder.png": "missing"}
    with pytest.raises(FaultyPicture, match=r"given\.png: empty"):
        decode(b"", name="given.png")


def header_only_png(side: int, bits: int = 8) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", side, side, bits, 2, 0, 0, 0)
    body = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    idat = b"IDAT" + zlib.compress(b"\0" * 64)
    return b"\x89PNG\r\n\x1a\n" + body + struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("side", [9_460, 12_000, 100_000])
def test_a_decompression_bomb_is_refused_before_it_swells(side: int, bits: int) -> None:
    with pytest.raises(FaultyPicture) as caught:
        decode(header_only_png(side, bits), name="bomb.png")
    assert caught.value.kind == "too large"


def test_a_jpeg_bomb_is_refused() -> None:
    data = bytearray(jpeg(pixels(1)))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", 60_000, 60_000)
    with pytest.raises(FaultyPicture, match="too large"):
        decode(bytes(data))


INDICES = np.array([[0, 1, 2], [20, 254, 255]], np.uint8)


def test_masks_keep_their_indices(tmp_path: Path) -> None:
    palette = Image.fromarray(INDICES).convert("L")
    palette = Image.frombytes("P", (3, 2), INDICES.tobytes())
    palette.putpalette([255 - i // 3 for i in range(768)])
    grey = Image.fromarray(INDICES)
    deep = Image.fromarray(INDICES.astype(np.uint16))
    for number, (image, suffix) in enumerate(((palette, "png"), (grey, "png"), (deep, "png"), (grey, "bmp"))):
        path = tmp_path / f"{number}.{suffix}"
        image.save(path)
        assert decode_mask(path).dtype == torch.uint8
        assert (decode_mask(path).numpy() == INDICES).all(), suffix
    grey.save(tmp_path / "small.gif")
    stored = np.asarray(Image.open(io.BytesIO((tmp_path / "small.gif").read_bytes())))
    assert (decode_mask(tmp_path / "small.gif").numpy() == stored).all()
    path = tmp_path / "bit.png"
    Image.fromarray(INDICES > 1).save(path)
    assert (decode_mask(path).numpy() == (INDICES > 1)).all()


def test_masks_that_say_nothing_certain_are_refused(tmp_path: Path) -> None:
    colour = write_picture(tmp_path / "colour.png", 1)
    blurred = write_picture(tmp_path / "blurred.jpg", 1, mode="L")
    high = tmp_path / "high.png"
    Image.fromarray(np.array([[0, 256]], np.uint16)).save(high)
    torn = tmp_path / "torn.png"
    torn.write_bytes(write_picture(tmp_path / "whole.png", 1, mode="L").read_bytes()[:90])
    for path, word in ((colour, "mode RGB"), (blurred, "JPEG"), (high, "256"), (torn, "truncated")):
        with pytest.raises(FaultyPicture, match=word) as caught:
            decode_mask(path, name=path.name)
        assert caught.value.file == path.name
    with pytest.raises(FaultyPicture, match="missing"):
        decode_mask(tmp_path / "nowhere.png")
