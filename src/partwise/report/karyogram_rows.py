"""The rows of a karyogram: chromosomes as large as the page allows, all at one scale, each standing in the cell of its class.

Pure arithmetic from a case to places on a sheet.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate, pairwise

import numpy as np
from numpy.typing import NDArray

from partwise.config import UserError
from partwise.report import canvas
from partwise.report.canvas import FAINT, INK, Colour
from partwise.report.case import Case, Chromosome, by_type, percent, unusual_types
from partwise.report.sheet import MARGIN, REFERENCE, Box, Pasted, Sheet, Stroke

Groups = Sequence[tuple[str, Sequence[str]]]

ROWS: tuple[tuple[tuple[str, tuple[str, ...]], ...], ...] = (
    (("A", ("1", "2", "3")), ("B", ("4", "5"))),
    (("C", ("6", "7", "8", "9", "10", "11", "12")),),
    (("D", ("13", "14", "15")), ("E", ("16", "17", "18"))),
    (("F", ("19", "20")), ("G", ("21", "22")), ("", ("X", "Y"))),
)
"""Groups and types row by row; X and Y stand at the end, although by size they belong to C and G."""

DOUBTFUL: Colour = (213, 94, 0)
MOVED: Colour = (0, 98, 160)
WRONG: Colour = (163, 30, 36)
BAR: Colour = (120, 127, 137)

# Lengths of the reference sheet.
LABEL, LABEL_STEP, LABEL_FOOT = 20, 25, 7
NUMBER_ROOM = 50
PAD = 8
NARROWEST = 150
FIRST_GAP, GROUP_GAP, CELL_GAP, TILE_GAP, ROW_GAP = 50, 100, 30, 24, 22
MOST_MAGNIFIED = 4.0
"""Pixels of the reference sheet for one of the file, at most: beyond, a small picture only gets blurred."""
SHRINK, STEPS = 0.99, 400


@dataclass(frozen=True)
class Label:
    """A line below a chromosome."""

    text: str
    colour: Colour = INK
    bold: bool = False


@dataclass(frozen=True)
class Tile:
    """A chromosome with its labels before its scale is known: its place in the case, its upright image uint8 `(h, w)`, the
    width of its widest label in pixels of the sheet."""

    place: int
    image: NDArray[np.uint8]
    labels: tuple[Label, ...]
    label_width: int
    frame: Colour | None

    def size(self, scale: float) -> tuple[int, int]:
        """Height and width of the drawn chromosome."""
        height, width = self.image.shape
        return max(1, round(height * scale)), max(1, round(width * scale))


@dataclass(frozen=True)
class Row:
    """A row at one scale: `cells[c]` are the lines of cell c, each a list of tiles."""

    sheet: Sheet
    scale: float
    cells: list[list[list[Tile]]]

    def tile_width(self, tile: Tile) -> int:
        return max(tile.size(self.scale)[1] + 2 * self.sheet.px(PAD), tile.label_width)

    def line_width(self, line: Sequence[Tile]) -> int:
        return sum(map(self.tile_width, line)) + self.sheet.px(TILE_GAP) * (len(line) - 1)

    def cell_width(self, lines: Sequence[Sequence[Tile]]) -> int:
        return max([self.sheet.px(NARROWEST), *map(self.line_width, lines)])

    @cached_property
    def label_room(self) -> int:
        """The height of the labels: as many lines as any chromosome of the row has, so that all stand on one level."""
        most = max((len(tile.labels) for lines in self.cells for line in lines for tile in line), default=1)
        return self.sheet.px(LABEL_STEP) * most + self.sheet.px(LABEL_FOOT)

    def line_height(self, line: Sequence[Tile]) -> int:
        return max(tile.size(self.scale)[0] for tile in line) + 2 * self.sheet.px(PAD) + self.label_room

    @cached_property
    def height(self) -> int:
        """From the top of the tallest cell to below the numbers."""
        heights = [sum(map(self.line_height, lines)) for lines in self.cells]
        return max(heights) + self.sheet.px(NUMBER_ROOM)


@dataclass(frozen=True)
class Places:
    """Where the chromosomes stand: `scale` is pixels of the sheet for one of the files, `cells` the box of each of the 24
    types, `boxes[i]` that of chromosome i of the case."""

    scale: float
    cells: dict[str, Box]
    boxes: dict[int, Box]


def place_rows(case: Case, sheet: Sheet, top: int, bottom: int) -> Places:
    """Put all chromosomes of a case on a sheet between two heights, with labels, frames, bars, numbers and group letters.

    The scale is the largest, in steps of one percent, at which all rows fit; a cell with more chromosomes than fit beside
    one another is broken into lines. Raises UserError where a case is far too large for a page.
    """
    tiles = {name: [_tile(case, place, sheet) for place in places] for name, places in by_type(case).items()}
    rows = _fit(case, tiles, sheet, bottom - top)
    unusual = unusual_types(case)
    found = Places(rows[0].scale, {}, {})
    gap = (bottom - top - sum(row.height for row in rows)) / (len(rows) + 1)
    y: float = top
    for groups, row in zip(ROWS, rows, strict=True):
        y += gap
        for name, lines, box in _boxes(groups, row, round(y)):
            found.cells[name] = box
            _draw_class(name, sum(map(len, lines)), sheet, box, name in unusual)
            found.boxes.update(_place_lines(row, lines, box))
        y += row.height
    return found


def _tile(case: Case, place: int, sheet: Sheet) -> Tile:
    """A chromosome with what stands below it."""
    chromosome = case.chromosomes[place]
    labels = tuple(_labels(chromosome))
    wide = max(canvas.font(sheet.px(LABEL), label.bold).getlength(label.text) for label in labels)
    frame = DOUBTFUL if chromosome.doubtful else MOVED if chromosome.moved else None
    return Tile(place, chromosome.upright, labels, int(wide) + 1, frame)


def _labels(chromosome: Chromosome) -> Iterator[Label]:
    turned, doubtful = " ↻" if chromosome.turned else "", chromosome.doubtful
    yield Label(percent(chromosome.probability) + turned, DOUBTFUL if doubtful else INK, doubtful)
    other, probability = chromosome.second
    if chromosome.moved:
        yield Label(f"from {other}, {percent(probability)}", MOVED, True)
    elif doubtful:
        yield Label(f"or {other}, {percent(probability)}", DOUBTFUL)


def _fit(case: Case, tiles: dict[str, list[Tile]], sheet: Sheet, room: int) -> list[Row]:
    """The rows at the largest scale at which they fit a height."""

    def rows(step: int) -> list[Row]:
        """All rows at a scale, or none where one of them or all together do not fit."""
        scale = MOST_MAGNIFIED * sheet.width / REFERENCE * SHRINK**step
        found = [row for groups in ROWS if (row := _break_row(groups, tiles, sheet, scale)) is not None]
        gaps = sheet.px(ROW_GAP) * (len(ROWS) + 1)
        fits = len(found) == len(ROWS) and sum(row.height for row in found) + gaps <= room
        return found if fits else []

    step = bisect_left(range(STEPS), True, key=lambda step: bool(rows(step)))
    if step == STEPS:
        count = f"{len(case.chromosomes):,} chromosomes"
        raise UserError(f"case {case.name}: {count} do not fit one page; a case is one cell, of about 46")
    return rows(step)


def _break_row(groups: Groups, tiles: dict[str, list[Tile]], sheet: Sheet, scale: float) -> Row | None:
    """A row at a scale, its cells broken into lines, always the widest, until it fits the page; None where it never does."""
    own = [tiles[name] for _, names in groups for name in names]
    row = Row(sheet, scale, [[members] if members else [] for members in own])
    room = sheet.room - sum(_gaps(groups, sheet))
    widths = [row.cell_width(lines) for lines in row.cells]
    while sum(widths) > room:
        widest = max(range(len(own)), key=lambda cell: widths[cell])
        lines = max(len(row.cells[widest]) + 1, row.line_width(own[widest]) // room)
        if lines > len(own[widest]):
            return None
        row.cells[widest] = broken(own[widest], lines)
        widths[widest] = row.cell_width(row.cells[widest])
    return row


def broken(tiles: Sequence[Tile], lines: int) -> list[list[Tile]]:
    """Tiles in that many lines, the first ones a tile longer where they do not come out even."""
    ends = accumulate((len(tiles) // lines + (line < len(tiles) % lines) for line in range(lines)), initial=0)
    return [list(tiles[start:end]) for start, end in pairwise(ends)]


def _gaps(groups: Groups, sheet: Sheet) -> list[int]:
    """The room before each cell of a row: wider where a group begins, for its letter stands there."""
    first = [FIRST_GAP, *[GROUP_GAP] * (len(groups) - 1)]
    return [
        sheet.px(CELL_GAP if number else first[group])
        for group, (_, names) in enumerate(groups)
        for number in range(len(names))
    ]


def _boxes(groups: Groups, row: Row, top: int) -> Iterator[tuple[str, list[list[Tile]], Box]]:
    """The cells of a row from left to right, spread over the width of the sheet, each with its lines and its box."""
    sheet = row.sheet
    names = [name for _, names in groups for name in names]
    letters = {names[0]: letter for letter, names in groups}
    widths, gaps = list(map(row.cell_width, row.cells)), _gaps(groups, sheet)
    spare = (sheet.room - sum(widths) - sum(gaps)) / len(widths)
    left: float = sheet.px(MARGIN)
    for name, lines, width, gap in zip(names, row.cells, widths, gaps, strict=True):
        left += gap
        box = (round(left), top, round(left + width + spare), top + row.height)
        left += width + spare
        if letters.get(name):
            y = box[3] - sheet.px(NUMBER_ROOM - 12)
            sheet.write(box[0] - sheet.px(16), y, letters[name], 34, bold=True, colour=FAINT, anchor="r")
        yield name, lines, box


def _draw_class(name: str, count: int, sheet: Sheet, box: Box, unusual: bool) -> None:
    """The bar that the chromosomes of a class stand on, and its number; with their count where that is to be checked."""
    x1, _, x2, y2 = box
    bar = y2 - sheet.px(NUMBER_ROOM)
    colour = WRONG if unusual else INK
    sheet.strokes.append(Stroke((x1, bar, x2, bar + sheet.px(6 if unusual else 3)), WRONG if unusual else BAR))
    words = f"{name}  ×{count}" if unusual else name
    sheet.write((x1 + x2) // 2, bar + sheet.px(38), words, 30, bold=True, colour=colour, anchor="m")


def _place_lines(row: Row, lines: Sequence[Sequence[Tile]], box: Box) -> Iterator[tuple[int, Box]]:
    """Put the lines of a cell above its bar, the last one lowest; gives the place in the case and the box of each tile."""
    sheet = row.sheet
    x1, _, x2, y2 = box
    bottom = y2 - sheet.px(NUMBER_ROOM)
    for line in reversed(lines):
        left = (x1 + x2 - row.line_width(line)) // 2
        for tile in line:
            yield tile.place, _place_tile(row, tile, left, bottom)
            left += row.tile_width(tile) + sheet.px(TILE_GAP)
        bottom -= row.line_height(line)


def _place_tile(row: Row, tile: Tile, left: int, bottom: int) -> Box:
    """A chromosome standing above its labels, in its frame where it has one; returns its box."""
    sheet, pad = row.sheet, row.sheet.px(PAD)
    height, width = tile.size(row.scale)
    middle = left + row.tile_width(tile) // 2
    ground = bottom - row.label_room - pad
    x1 = middle - width // 2
    box = (x1, ground - height, x1 + width, ground)
    sheet.pictures.append(Pasted(canvas.resize(tile.image, height, width), box))
    if tile.frame is not None:
        sheet.strokes.append(Stroke((x1 - pad, box[1] - pad, x1 + width + pad, ground + pad), tile.frame, sheet.px(3)))
    for number, label in enumerate(tile.labels):
        y = ground + pad + sheet.px(LABEL_STEP) * number + sheet.px(LABEL + 2)
        sheet.write(middle, y, label.text, LABEL, bold=label.bold, colour=label.colour, anchor="m")
    return box
