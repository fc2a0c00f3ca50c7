"""Counts of chromosomes <-> the line that cytogeneticists write: `47,XX,+21`.

Only what counts can say. Structural changes (deletions, translocations, ...) are neither written nor read, and a line from
the counts of one cell is a draft. Types are numbered as in assignment.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from partwise.ops.assignment import NUM_AUTOSOMES, NUM_TYPES, X, Y

TYPES = (*(str(number) for number in range(1, NUM_AUTOSOMES + 1)), "X", "Y")
"""The names of the 24 types."""
HEALTHY = ("46,XX", "46,XY")
UNKNOWN_SEX = "?"


def karyotype_text(counts: Sequence[int]) -> str:
    """The draft line of one cell: total, sex chromosomes, then every autosome too many (+) or missing (-), in order.

    `counts` of the 24 types. An autosome stands once for each copy that is too many or missing; sex chromosomes are only
    written in their place, `?` where there is none. Raises ValueError for counts that are not 24, or negative.
    """
    if len(counts) != NUM_TYPES or min(counts) < 0:
        raise ValueError(f"counts {list(counts)}: expected {NUM_TYPES}, none negative")
    sex = "X" * counts[X] + "Y" * counts[Y] or UNKNOWN_SEX
    changes = [
        f"{'+' if count > 2 else '-'}{name}"
        for name, count in zip(TYPES[:NUM_AUTOSOMES], counts[:NUM_AUTOSOMES], strict=True)
        for _ in range(abs(count - 2))
    ]
    return ",".join([str(sum(counts)), sex, *changes])


def mosaic_text(lines: Iterable[str]) -> str:
    """The line of several cells of one person, with the cells of each kind in brackets: `mos 47,XX,+21[12]/46,XX[18]`.

    Aberrant kinds come first, the most frequent leading, and healthy ones last. Raises ValueError where there is no cell.
    """
    found = Counter(lines)
    if not found:
        raise ValueError("a mosaic of no cells")
    order = sorted(found, key=lambda line: (line in HEALTHY, -found[line], line))
    return ("mos " if len(found) > 1 else "") + "/".join(f"{line}[{found[line]}]" for line in order)


def lists_aneuploidy(text: str) -> bool:
    """Whether a line, of one cell or of several, has a gain, or sex chromosomes other than XX and XY.

    The loss of an autosome alone is none: lines written from counts have it wherever a piece was lost on the slide.
    """
    cells = [cell.partition("[")[0].split(",") for cell in text.removeprefix("mos ").split("/")]
    gains = any(part.strip().startswith("+") for cell in cells for part in cell)
    return gains or any(cell[1].strip() not in ("XX", "XY", UNKNOWN_SEX) for cell in cells if len(cell) > 1)
