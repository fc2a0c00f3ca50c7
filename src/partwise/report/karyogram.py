"""The karyogram of a case on one page: a picture to look at and a PDF to print.

Chromosomes stand in the cells of their classes, group by group, the long arm down and all at one scale. What a person must
look at carries a mark that does without colour: frames round doubtful ones, words at those that dispatch moved, counts at
classes that are short or have too many. Draws typed values; it never sees a network.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from partwise.report import sheet as pages
from partwise.report.canvas import FAINT, INK, WHITE
from partwise.report.case import DRAFT, NO_DEVICE, Case
from partwise.report.karyogram_rows import DOUBTFUL, MOVED, WRONG, Places, place_rows
from partwise.report.sheet import MARGIN, REFERENCE, Sheet, Stroke
from partwise.run import write_atomically

MOST_ISCN_LINES, MOST_LEFT_OUT_LINES, MOST_WARNING_LINES = 2, 2, 4
LONGEST_STEM = 100


@dataclass(frozen=True)
class Layout:
    """A karyogram with everything on its sheet, not yet drawn."""

    sheet: Sheet
    places: Places


def lay_out(case: Case, *, width: int = REFERENCE, paper: str = "a4") -> Layout:
    """Everything on the page of a case, `width` pixels wide, landscape on `a4` or `letter`.

    Raises UserError for another paper, and where a case has far too many chromosomes for one page.
    """
    sheet = pages.new_sheet(width, paper)
    top, bottom = _header(case, sheet), _footer(case, sheet)
    return Layout(sheet, place_rows(case, sheet, top, bottom))


def draw_karyogram(case: Case, *, width: int = REFERENCE, paper: str = "a4") -> Image.Image:
    """The karyogram as an RGB picture, the same pixels for the same case; errors as in `lay_out`."""
    return pages.draw(lay_out(case, width=width, paper=paper).sheet)


def save_karyogram(case: Case, folder: Path, *, width: int = REFERENCE, paper: str = "a4") -> tuple[Path, Path]:
    """Write STEM.png and STEM.pdf into a folder, each whole or not at all, and return where they are.

    STEM is `file_stem` of the case's name. The PDF has exactly the size of the paper and keeps its text as text.
    """
    sheet = lay_out(case, width=width, paper=paper).sheet
    stem = file_stem(case.name)
    png, pdf = folder / f"{stem}.png", folder / f"{stem}.pdf"
    write_atomically(png, pages.encode(sheet))
    write_atomically(pdf, pages.encode_pdf(sheet, f"{case.name}, draft karyogram"))
    return png, pdf


def file_stem(name: str) -> str:
    """A case's name where it can be that of a file, else the nearest that can, with a mark that keeps it apart from others."""
    stem = re.sub(r"[^\w.+-]+", "_", name).strip("._")[:LONGEST_STEM]
    if stem and stem == name:
        return stem
    mark = hashlib.sha256(name.encode("utf-8", errors="surrogatepass")).hexdigest()[:8]
    return f"{stem}-{mark}" if stem else f"case-{mark}"


def _header(case: Case, sheet: Sheet) -> int:
    """Name, counts and the draft of the karyotype; returns where the header ends."""
    left, right, column = sheet.px(MARGIN), sheet.width - sheet.px(MARGIN), sheet.px(620)
    y = left + sheet.px(30)
    count = len(case.chromosomes)
    sheet.write(left, y, case.name, 44, bold=True, room=sheet.room - column)
    words = f"{count:,} chromosome{'' if count == 1 else 's'}"
    sheet.write(right, y, words, 34, bold=True, anchor="r", room=column)
    y += sheet.px(58)
    facts = f"{case.num_doubtful} doubtful  ·  {case.num_moved} moved  ·  {case.num_turned} turned"
    sheet.write(right, y, facts, 24, colour=FAINT, anchor="r", room=column)
    chip = sheet.px(124)
    sheet.strokes.append(Stroke((left, y - sheet.px(32), left + chip, y + sheet.px(10)), DOUBTFUL))
    sheet.write(left + chip // 2, y - sheet.px(2), "DRAFT", 26, bold=True, colour=WHITE, anchor="m")
    room = sheet.room - column - chip - sheet.px(20)
    for number, line in enumerate(sheet.lines(case.iscn, 36, room, MOST_ISCN_LINES, bold=True)):
        y += sheet.px(46) if number else 0
        sheet.write(left + chip + sheet.px(20), y, line, 36, bold=True)
    y += sheet.px(40)
    sheet.write(left, y, DRAFT, 22, colour=FAINT, room=sheet.room)
    return y + sheet.px(10)


def _footer(case: Case, sheet: Sheet) -> int:
    """Warnings, files left out, the legend and what this is not, from the bottom upwards; returns where it begins."""
    left, y = sheet.px(MARGIN), sheet.height - sheet.px(MARGIN)
    sheet.write(left, y, NO_DEVICE, 22, bold=True, room=sheet.room)
    y -= sheet.px(38)
    _legend(sheet, y)
    y -= sheet.px(36)
    left_out = "  •  ".join(f"{file}: {reason}" for file, reason in case.left_out)
    for lead, text, most, colour, bold in (
        ("Left out:", left_out, MOST_LEFT_OUT_LINES, INK, False),
        ("Check:", "  •  ".join(case.warnings), MOST_WARNING_LINES, WRONG, True),
    ):
        for line in reversed(sheet.lines(f"{lead} {text}", 24, sheet.room, most, bold=bold) if text else []):
            sheet.write(left, y, line, 24, bold=bold, colour=colour)
            y -= sheet.px(32)
    return y


def _legend(sheet: Sheet, y: int) -> None:
    """One line that says what the marks mean, each written as it stands on the page."""
    x = sheet.px(MARGIN)
    for mark, meaning, colour, framed in (
        ("or", "doubtful, with its second type", DOUBTFUL, True),
        ("from", "moved here by dispatch, with the type it had first", MOVED, True),
        ("↻", "turned by 180°", INK, False),
        ("×3", "a count to check", WRONG, False),
        ("98 %", "probability of the type", INK, False),
    ):
        if framed:
            sheet.strokes.append(Stroke((x, y - sheet.px(20), x + sheet.px(20), y + sheet.px(5)), colour, sheet.px(3)))
            x += sheet.px(28)
        x += sheet.write(x, y, mark, 20, bold=True, colour=colour) + sheet.px(8)
        x += sheet.write(x, y, meaning, 20, colour=FAINT) + sheet.px(40)
