"""What a picture file says of itself before a pixel is decoded: format, mode, size, turn, and whether its end is there.

Not for decoding (data/pictures.py). The format is what the bytes say, whatever the file is called.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image, UnidentifiedImageError

from partwise.data.jpeg_header import ORIENTATION, scan_jpeg
from partwise.data.sample import FaultySample

MAX_PIXELS = 89_478_485
"""The most pixels a picture may claim: PIL's own limit, a quarter of a gigabyte of RGB."""

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
HEAD = TAIL = 1 << 16
ENDINGS = {"JPEG": b"\xff\xd9", "MPO": b"\xff\xd9", "PNG": b"IEND", "GIF": b"\x3b"}

FaultKind = Literal["missing", "empty", "truncated", "unreadable", "too large", "wrong size"]


class FaultyPicture(FaultySample):
    """A picture or mask that cannot be read, with the kind of fault beside the sentence."""

    def __init__(self, file: str, kind: FaultKind, detail: str) -> None:
        super().__init__(file, f"{kind}: {detail}")
        self.kind: FaultKind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Header:
    """`mode` is PIL's name, with ";16" where a channel has 16 bits; `size` is (height, width) as `decode` gives it."""

    format: str
    mode: str
    size: tuple[int, int]
    exif_rotated: bool
    bytes: int


def probe(path: Path, *, name: str = "") -> Header:
    """Read the header alone, in well under a millisecond. Raises FaultyPicture, with `name` for the file."""
    name = name or str(path)
    size = file_size(path, name)
    try:
        with path.open("rb") as file:
            jpeg = scan_jpeg(file.read(HEAD))
        if jpeg is not None and jpeg.plain and jpeg.turn is not None:
            mode, kind, turn = ("L" if jpeg.components == 1 else "RGB"), "JPEG", jpeg.turn
            height, width = jpeg.height, jpeg.width
        else:
            with Image.open(path) as image:
                check_strips(image, name)
                height, width = image.height, image.width
                mode, kind = full_mode(image), image.format or ""
                turn = 1 if kind == "PNG" and not _png_may_turn(path) else orientation(image)
    except Exception as error:  # whatever a decoder makes of foreign bytes
        raise verdict(name, error) from error
    limit_pixels(name, height, width)
    return Header(kind, mode, (width, height) if turn >= 5 else (height, width), turn != 1, size)


def file_size(path: Path, name: str) -> int:
    """Bytes of a file that is there and not empty; FaultyPicture otherwise."""
    try:
        size = path.stat().st_size
    except OSError as error:
        raise FaultyPicture(name, "missing", error.strerror or "cannot be opened") from error
    if path.is_dir():
        raise FaultyPicture(name, "missing", "is a folder")
    if not size:
        raise FaultyPicture(name, "empty", "0 bytes")
    return size


def limit_pixels(name: str, height: int, width: int) -> None:
    """Refuse a picture that claims more than MAX_PIXELS: decoding it could take all memory."""
    if height * width > MAX_PIXELS:
        raise FaultyPicture(name, "too large", f"claims {width} x {height} pixels, the limit is {MAX_PIXELS:,} in all")


def verdict(name: str, error: Exception) -> FaultyPicture:
    """What a decoder's exception means for the file called `name`."""
    if isinstance(error, FaultyPicture):
        return error
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return FaultyPicture(name, "too large", f"claims more than {MAX_PIXELS:,} pixels")
    if isinstance(error, UnidentifiedImageError):
        return FaultyPicture(name, "unreadable", "not a picture in a known format")
    text = str(error).lower()
    if isinstance(error, EOFError) or any(word in text for word in ("truncated", "incomplete", "unexpected end")):
        return FaultyPicture(name, "truncated", "the file ends before the picture does")
    return FaultyPicture(name, "unreadable", str(error) or type(error).__name__)


def orientation(image: Image.Image) -> int:
    """The EXIF turn, 1 to 8; 1 (upright) where there is none or the tag is damaged."""
    try:
        turn = image.getexif().get(ORIENTATION, 1)
    except Exception:  # a damaged tag must not lose the picture
        return 1
    return turn if isinstance(turn, int) and 1 <= turn <= 8 else 1


def check_strips(image: Image.Image, name: str) -> None:
    """Refuse a TIFF whose directory names more strips than the picture has: of a tag given twice PIL takes any."""
    tags = getattr(image, "tag_v2", None)
    if image.format != "TIFF" or not tags or 273 not in tags:
        return
    planes = len(tags.get(258, (8,))) if tags.get(284, 1) == 2 else 1
    strips = planes * -(-image.height // max(1, min(tags.get(278, image.height), image.height)))
    named = len(tags[273])
    if named > strips:
        raise FaultyPicture(name, "unreadable", f"the TIFF directory names {named} strips for a picture of {strips}")


def _png_may_turn(path: Path) -> bool:
    """Whether a PNG has a chunk that could hold a turn, found by stepping over the others; PIL would decode it all to know."""
    with path.open("rb", buffering=0) as file:
        at = len(PNG_SIGNATURE)
        while True:
            file.seek(at)
            head = file.read(8)
            if len(head) < 8 or head[4:] == b"IEND":
                return False
            if head[4:] in (b"eXIf", b"iTXt"):
                return True
            at += 12 + int.from_bytes(head[:4], "big")


def full_mode(image: Image.Image) -> str:
    """PIL's mode, with ";16" for the 16-bit colour pictures that PIL calls plain RGB."""
    return f"{image.mode};16" if "16" not in image.mode and _bits(image) == 16 else image.mode


def _bits(image: Image.Image) -> int:
    if image.format == "TIFF":
        bits = getattr(image, "tag_v2", {}).get(258, (8,))
        return int(max(bits)) if isinstance(bits, tuple) else int(bits)
    rawmodes = [str(tile[3]) for tile in getattr(image, "tile", ())] if image.format == "PNG" else []
    return 16 if any(";16" in rawmode for rawmode in rawmodes) else 8


def looks_cut(path: Path, header: Header) -> bool:
    """Whether the mark that ends this format is missing near the end of the file: a suspicion, for decoding to confirm.

    Of PPM, which has no such mark, whether there are fewer bytes than pixels of 8 bits take.
    """
    if header.format == "PPM":
        return header.bytes < header.size[0] * header.size[1] * {"L": 1, "RGB": 3}.get(header.mode, 0)
    ending = ENDINGS.get(header.format)
    if ending is None:
        return False
    with path.open("rb") as file:
        file.seek(max(0, header.bytes - TAIL))
        return ending not in file.read()
