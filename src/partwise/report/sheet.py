"""A page of words, strokes and pictures at exact places, drawn as pixels or as a PDF of the same. No meaning here.

Boxes are `(x1, y1, x2, y2)`, half-open, whole pixels of the sheet. Lengths are stated for a sheet of REFERENCE pixels in
width, which is 200 dots an inch on A4, and follow the width of the sheet from there.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from PIL.ImageFont import FreeTypeFont

from partwise.config import UserError, did_you_mean
from partwise.report import canvas
from partwise.report.canvas import INK, WHITE, Colour

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Box = tuple[int, int, int, int]
Anchor = Literal["l", "m", "r"]

PAPERS = {"a4": (297.0, 210.0), "letter": (279.4, 215.9)}
"""Width and height in millimetres, landscape."""
REFERENCE = 2339
MARGIN = 66
INCH = 25.4
PDF_SETTINGS = {"pdf.fonttype": 42, "pdf.compression": 6, "text.usetex": False}
"""matplotlib's, whatever the user's matplotlibrc says; 42 embeds the font itself, so that words can be searched and copied."""


@dataclass(frozen=True)
class Words:
    """One line of text: `x` is its left end, middle or right end (anchor `l`, `m`, `r`), `y` its baseline, `size` pixels."""

    x: int
    y: int
    text: str
    size: int
    bold: bool
    colour: Colour
    anchor: Anchor


@dataclass(frozen=True)
class Stroke:
    """A rectangle with a line of that many pixels along its inner edge, or filled where `line` is 0."""

    box: Box
    colour: Colour
    line: int = 0


@dataclass(frozen=True)
class Pasted:
    """A grey picture uint8 `(h, w)`, at the size of its box."""

    image: NDArray[np.uint8]
    box: Box


@dataclass
class Sheet:
    """A page that is being filled; `paper` is its width and height in millimetres."""

    width: int
    height: int
    paper: tuple[float, float]
    strokes: list[Stroke] = field(default_factory=list)
    pictures: list[Pasted] = field(default_factory=list)
    words: list[Words] = field(default_factory=list)

    def px(self, length: float) -> int:
        """A length of the reference sheet in pixels of this one, at least 1."""
        return max(1, round(length * self.width / REFERENCE))

    @property
    def room(self) -> int:
        """The width between the margins."""
        return self.width - 2 * self.px(MARGIN)

    @property
    def dots(self) -> float:
        """Pixels an inch on paper."""
        return self.width / self.paper[0] * INCH

    def write(
        self,
        x: int,
        y: int,
        text: str,
        size: float,
        *,
        bold: bool = False,
        colour: Colour = INK,
        anchor: Anchor = "l",
        room: int = 0,
    ) -> int:
        """Put a line of text down, cut to `room` pixels where that is given; returns how wide it is."""
        pixels = self.px(size)
        face = canvas.font(pixels, bold)
        shown = canvas.fit_text(plain(text), room, face) if room else plain(text)
        self.words.append(Words(x, y, shown, pixels, bold, colour, anchor))
        return round(face.getlength(shown))

    def lines(self, text: str, size: float, room: int, most: int, *, bold: bool = False) -> list[str]:
        """Text wrapped into at most `most` lines of `room` pixels; the last ends in an ellipsis where there were more."""
        face = canvas.font(self.px(size), bold)
        lines = wrap(text, room, face)
        if len(lines) <= most:
            return lines
        return [*lines[: most - 1], canvas.fit_text(" ".join(lines[most - 1 :]), room, face)]


def new_sheet(width: int, paper: str) -> Sheet:
    """An empty landscape page, `width` pixels wide. Raises UserError for a paper that is not known."""
    if paper not in PAPERS:
        raise UserError(f"paper {paper!r}: expected one of {', '.join(PAPERS)}{did_you_mean(paper, PAPERS)}")
    assert width >= 400, f"a sheet must be at least 400 pixels wide, not {width}"
    wide, high = PAPERS[paper]
    return Sheet(width, round(width * high / wide), (wide, high))


def plain(text: str) -> str:
    """Text as one line: what cannot be printed becomes a blank, and runs of blanks become one."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def wrap(text: str, width: int, face: FreeTypeFont) -> list[str]:
    """Text in lines of at most `width` pixels, broken between words; a word too long for a line after a comma or anywhere."""
    lines, line = [], ""
    for word in plain(text).split():
        joined = f"{line} {word}" if line else word
        if face.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        *whole, line = _pieces(word, width, face)
        lines += whole
    return [*lines, line] if line else lines


def _pieces(word: str, width: int, face: FreeTypeFont) -> list[str]:
    """A word in pieces that fit, at least a letter each."""
    pieces = []
    while len(word) > 1 and face.getlength(word) > width:
        letters = _num_letters(word, width, face)
        cut = word.rfind(",", 0, letters) + 1 or letters
        pieces.append(word[:cut])
        word = word[cut:]
    return [*pieces, word]


def _num_letters(word: str, width: int, face: FreeTypeFont) -> int:
    """How many letters of a word that is too long fit a line; at least one."""
    low, high = 1, len(word) - 1
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if face.getlength(word[:middle]) <= width else (low, middle - 1)
    return low


def draw(sheet: Sheet) -> Image.Image:
    """The page as an RGB picture: pictures lowest, then strokes, then words."""
    page = Image.new("RGB", (sheet.width, sheet.height), WHITE)
    for picture in sheet.pictures:
        page.paste(Image.fromarray(picture.image).convert("RGB"), picture.box[:2])
    pen = ImageDraw.Draw(page)
    for stroke in sheet.strokes:
        x1, y1, x2, y2 = stroke.box
        corners = (x1, y1, x2 - 1, y2 - 1)
        if stroke.line:
            pen.rectangle(corners, outline=stroke.colour, width=stroke.line)
        else:
            pen.rectangle(corners, fill=stroke.colour)
    for words in sheet.words:
        face = canvas.font(words.size, words.bold)
        pen.text((words.x, words.y), words.text, fill=words.colour, font=face, anchor=f"{words.anchor}s")
    return page


def encode(sheet: Sheet) -> bytes:
    """The page as PNG bytes that know their size on paper; the same bytes for the same page."""
    buffer = io.BytesIO()
    draw(sheet).save(buffer, format="PNG", dpi=(sheet.dots, sheet.dots))
    return buffer.getvalue()


def encode_pdf(sheet: Sheet, title: str) -> bytes:
    """The page as PDF bytes: exactly its paper, text as text, pictures without loss; no time stamp."""
    from matplotlib import rc_context
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    about = {"Title": plain(title), "Creator": "partwise", "Producer": None, "CreationDate": None}
    with rc_context(PDF_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure = Figure(figsize=(sheet.paper[0] / INCH, sheet.paper[1] / INCH), facecolor="white")
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_axis_off()
        _fill(axes, sheet)
        axes.set(xlim=(0, sheet.width), ylim=(sheet.height, 0), aspect="auto")
        FigureCanvasPdf(figure).print_pdf(buffer, metadata=about)
    return buffer.getvalue()


def _fill(axes: Axes, sheet: Sheet) -> None:
    """Put everything on matplotlib axes whose units are the sheet's pixels."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.patches import Rectangle

    point = 72 / sheet.dots
    for picture in sheet.pictures:
        x1, y1, x2, y2 = picture.box
        colours = np.repeat(picture.image[..., None], 3, axis=2)
        axes.imshow(colours, extent=(x1, x2, y2, y1), origin="upper", interpolation="none", zorder=1)
    for stroke in sheet.strokes:
        x1, y1, x2, y2 = stroke.box
        half, colour = stroke.line / 2, _share(stroke.colour)
        corner, size = (x1 + half, y1 + half), (x2 - x1 - stroke.line, y2 - y1 - stroke.line)
        axes.add_patch(
            Rectangle(
                corner,
                *size,
                facecolor="none" if stroke.line else colour,
                edgecolor=colour if stroke.line else "none",
                linewidth=stroke.line * point,
                joinstyle="miter",
                zorder=2,
            )
        )
    sides = {"l": "left", "m": "center", "r": "right"}
    for words in sheet.words:
        face = FontProperties(fname=str(canvas.font(words.size, words.bold).path), size=words.size * point)
        axes.text(
            words.x,
            words.y,
            words.text,
            fontproperties=face,
            color=_share(words.colour),
            ha=sides[words.anchor],
            va="baseline",
            parse_math=False,
            zorder=3,
        )


def _share(colour: Colour) -> tuple[float, float, float]:
    red, green, blue = colour
    return red / 255, green / 255, blue / 255
