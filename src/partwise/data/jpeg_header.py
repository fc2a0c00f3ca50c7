"""The header of a JPEG from its bytes alone: size, components, EXIF turn. No decoder, no warnings, a few microseconds."""

from __future__ import annotations

from dataclasses import dataclass

ORIENTATION = 0x0112
FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
COMMON_FRAMES = frozenset({0xC0, 0xC1, 0xC2})


@dataclass(frozen=True, slots=True)
class JpegHeader:
    """Size as stored (before the turn). `turn` is EXIF's 1 to 8, and None where XMP may hold one instead.

    `plain`: 8 bits, grey or three components, baseline or progressive: what every decoder reads alike.
    """

    height: int
    width: int
    components: int
    turn: int | None
    plain: bool


def scan_jpeg(data: bytes | bytearray) -> JpegHeader | None:
    """The header, or None where `data` is no JPEG or ends before its frame is described."""
    if data[:2] != b"\xff\xd8":
        return None
    at, turn, in_xmp = 2, 1, False
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker = data[at + 1]
        if marker == 0xFF:  # fill bytes between segments
            at += 1
            continue
        if marker in FRAMES:
            height, width = int.from_bytes(data[at + 5 : at + 7], "big"), int.from_bytes(data[at + 7 : at + 9], "big")
            components = data[at + 9]
            plain = marker in COMMON_FRAMES and data[at + 4] == 8 and components in (1, 3) and height > 0 and width > 0
            return JpegHeader(height, width, components, None if in_xmp and turn == 1 else turn, plain)
        if marker in (0xD8, 0xD9, 0xDA):
            return None
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1:
            segment = bytes(data[at + 4 : end])
            turn = exif_turn(segment) if segment.startswith(b"Exif\0\0") else turn
            in_xmp = in_xmp or b"tiff:Orientation" in segment
        at = end
    return None


def exif_turn(segment: bytes) -> int:
    """The orientation in an APP1 segment's first directory, 1 to 8; 1 where it has none or is damaged."""
    tiff = segment[6:]
    if tiff[:2] not in (b"II", b"MM"):
        return 1
    little = tiff[:2] == b"II"

    def number(start: int, length: int) -> int:
        return int.from_bytes(tiff[start : start + length], "little" if little else "big")

    directory = number(4, 4)
    for entry in range(min(number(directory, 2), 500)):
        start = directory + 2 + 12 * entry
        if number(start, 2) == ORIENTATION:
            turn = number(start + 8, 2)
            return turn if 1 <= turn <= 8 else 1
    return 1
