"""How sets of single chromosomes lie on a disk, found by looking: a table, three published trees, plain folders of cases."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from partwise.config import UserError
from partwise.data.readers.chromosomes_table import CASES, LABELS, read_karyotypes, read_labels
from partwise.data.readers.files import is_picture, pictures_below, visible
from partwise.data.sample import Record
from partwise.ops.iscn import TYPES

Ground = Literal["auto", "white", "black"]


@dataclass(frozen=True)
class Crops:
    """What a layout holds. `ground` is "auto" where the layout does not say; `left_out` names pictures that are no crop."""

    records: list[Record]
    labelled: bool = True
    ground: Ground = "auto"
    karyotypes: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Layout:
    """Whether a folder is the root of this layout, and what is read from it."""

    found: Callable[[Path], bool]
    read: Callable[[Path], Crops]


@dataclass(frozen=True)
class Tree:
    """A published layout in which the paths tell everything.

    `path` matches the path of a crop below the root, `depth` names long, with the groups `type` (1 to 24), `case` and, where it
    is known, `specimen`; `polarity` is that of every crop, None where it was not annotated.
    """

    path: re.Pattern[str]
    depth: int
    ground: Ground
    polarity: int | None

    def found(self, folder: Path) -> bool:
        """Whether any picture lies where a crop would."""
        return any(self.path.fullmatch(path) for path in _at_depth(folder, self.depth))

    def read(self, root: Path) -> Crops:
        """Every picture is a crop or is left out."""
        records: list[Record] = []
        left_out: dict[str, str] = {}
        for file in pictures_below(root):
            match = self.path.fullmatch(file)
            if match is None:
                left_out[file] = "not named as the crops of this layout"
            elif not 1 <= int(match["type"]) <= len(TYPES):
                left_out[file] = f"type {match['type']} is none of 1 to {len(TYPES)}, such as a marker"
            else:
                case = match["case"]
                group = match.groupdict().get("specimen", case)
                label = int(match["type"]) - 1
                records.append(Record(file, label=label, group=group, case=case, polarity=self.polarity, file=file))
        return Crops(records, ground=self.ground, left_out=left_out)


CIR_NET = Tree(
    re.compile(r"0*(?P<type>\d+)/0*(?P=type)_\d+_(?P<case>(?P<specimen>\d+)_\d+_\d+)\.\w+"),
    depth=2,
    ground="white",
    polarity=1,
)
"""`<k>/<k>_<copy>_<patient>_<slide>_<metaphase>.tiff`: upright crops, mostly malformed TIFFs."""
BIOIMLAB = Tree(
    re.compile(r"(?P<case>[^/]+)/(?P=case) (?P<type>\d{1,2})[ab]?\.\w+", re.IGNORECASE),
    depth=2,
    ground="black",
    polarity=None,
)
"""`<cell>/<cell> <k><a|b>.bmp`: Q-bands, bright on black; the way up was not annotated, the persons are not told."""
CELLS = Tree(
    re.compile(
        r"(?P<case>(?P<specimen>[^/]+)\.\d+)(?:\.tiff?)?/clase(?P<type>\d+)/clase(?P=type)_\d+_(?P=case)\.\w+",
        re.IGNORECASE,
    ),
    depth=3,
    ground="white",
    polarity=1,
)
"""`<specimen>.<cell>.tiff/clase<k>/clase<k>_<i>_<specimen>.<cell>.tiff`: upright crops; clase25 holds markers."""


def recognise(folder: Path) -> Layout | None:
    """The layout of which a folder is the root. Plain pictures are one only where nothing labelled lies there or below."""
    for layout in LABELLED:
        if layout.found(folder):
            return layout
    folders = [entry for entry in visible(folder) if entry.is_dir()]
    if _is_plain(folder) and not any(layout.found(below) for below in folders for layout in LABELLED):
        return Layout(_is_plain, _read_plain)
    return None


def _is_table(folder: Path) -> bool:
    return (folder / LABELS).is_file()


def _read_tables(root: Path) -> Crops:
    records = read_labels(root / LABELS)
    listed = read_karyotypes(root / CASES)
    cases = sorted({record.case for record in records} - {""})
    return Crops(records, karyotypes={case: listed.get(case, "") for case in cases})


LABELLED = (
    Layout(_is_table, _read_tables),
    *(Layout(tree.found, tree.read) for tree in (CIR_NET, BIOIMLAB, CELLS)),
)


def _at_depth(folder: Path, depth: int) -> Iterator[str]:
    """Paths of pictures that lie exactly `depth` names below a folder, with "/"."""
    for entry in visible(folder):
        if depth == 1:
            if is_picture(entry.name) and entry.is_file():
                yield entry.name
        elif entry.is_dir():
            yield from (f"{entry.name}/{path}" for path in _at_depth(entry, depth - 1))


def _is_plain(folder: Path) -> bool:
    """Whether pictures lie in a folder, or in folders in it (and it is not just wrapped around one of these)."""
    if next(_at_depth(folder, 1), None) is not None:
        return True
    wrapped = len(visible(folder)) == 1
    return not wrapped and next(_at_depth(folder, 2), None) is not None


def _read_plain(root: Path) -> Crops:
    """Unlabelled crops: those in a folder are one case. Raises UserError for crops beside folders of crops."""
    own, below = list(_at_depth(root, 1)), list(_at_depth(root, 2))
    if own and below:
        raise UserError(
            f"chromosomes: {root}: holds crops ({own[0]}) beside folders of crops ({below[0]}); "
            "expected the crops of one case, or a folder of crops for each case"
        )
    files = own or below
    whole = root.resolve().name
    records = [
        Record(file, group=case, case=case, file=file)
        for file, case in ((file, file.rpartition("/")[0] or whole) for file in files)
    ]
    deeper = sorted(set(pictures_below(root)).difference(files))
    left_out = dict.fromkeys(deeper, "lies deeper than the folder of a case")
    return Crops(records, labelled=False, left_out=left_out)
