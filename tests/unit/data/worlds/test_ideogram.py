"""The band tables, against a second reading of the files, and the 400-band level against the 850-band level."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

import partwise
from partwise.data.worlds import ideogram
from partwise.data.worlds.ideogram import ACROCENTRIC, STAINS, Band, bands_400, bands_850, centromere, length, parts
from partwise.ops.iscn import TYPES

FOLDER = Path(partwise.__file__).parent / "data" / "worlds"


def naive(file: str) -> dict[str, list[list[str]]]:
    """Rows by chromosome, by splitting text."""
    found: dict[str, list[list[str]]] = {}
    lines = [line for line in (FOLDER / file).read_text().split("\n") if line and line[0] != "#"]
    assert lines[0].split("\t") == ["chrom", "start", "end", "band", "stain"]
    for line in lines[1:]:
        cells = line.split("\t")
        found.setdefault(cells[0][3:], []).append(cells)
    return found


@pytest.mark.parametrize(("file", "bands"), [("cytoband_hg38.tsv", bands_850), ("ideogram_400.tsv", bands_400)])
def test_the_bands_are_those_of_the_file(file: str, bands: Callable[[], ideogram.Ideogram]) -> None:
    rows = naive(file)
    assert tuple(rows) == TYPES
    for kind, read in bands().items():
        assert [["chr" + kind, str(b.start), str(b.end), b.name, b.stain] for b in read] == rows[kind]


@pytest.mark.parametrize("bands", [bands_850, bands_400])
def test_bands_tile_every_chromosome(bands: Callable[[], ideogram.Ideogram]) -> None:
    for read in bands().values():
        at = 0
        for band in read:
            assert band.start == at and band.end > band.start and len(band) == band.end - band.start
            assert band.stain in STAINS
            at = band.end
        assert at == length(read)
        arms = "".join(band.arm for band in read)
        assert arms == "p" * arms.count("p") + "q" * arms.count("q") and set(arms) == {"p", "q"}
        assert [b.arm for b in read if b.stain == "acen"] == ["p", "q"]
        assert read[arms.count("p")].start == centromere(read)


def test_counts_by_stain() -> None:
    many = Counter(band.stain for bands in bands_850().values() for band in bands)
    assert many == {
        "gneg": 414,
        "gpos50": 121,
        "gpos75": 89,
        "gpos25": 87,
        "gpos100": 81,
        "acen": 48,
        "gvar": 17,
        "stalk": 5,
    }
    few = Counter(band.stain for bands in bands_400().values() for band in bands)
    assert sum(few.values()) == 393 and few["acen"] == 48 and few["stalk"] == 5
    assert {kind: len(bands) for kind, bands in bands_400().items() if kind in ("1", "18", "X", "Y")} == {
        "1": 28,
        "18": 9,
        "X": 19,
        "Y": 6,
    }


def test_lengths_and_centromeres_that_everybody_knows() -> None:
    assert length(bands_850()["1"]) == 248_956_422 and length(bands_850()["Y"]) == 57_227_415
    assert length(bands_400()["1"]) == 15100 and length(bands_400()["21"]) == 3200
    indices = {kind: centromere(bands) / length(bands) for kind, bands in bands_400().items()}
    expected = {"1": 0.490, "2": 0.393, "4": 0.277, "13": 0.185, "18": 0.280, "19": 0.456, "X": 0.376, "Y": 0.242}
    for kind, index in expected.items():
        assert indices[kind] == pytest.approx(index, abs=5e-4)
    assert max(length(bands) for bands in bands_400().values()) == length(bands_400()["1"])


def test_every_band_is_a_union_of_rows() -> None:
    for kind in TYPES:
        joined: list[Band] = []
        for band in bands_400()[kind]:
            rows = parts(kind, band)
            assert rows and all(row.name.startswith(band.name) and row.arm == band.arm for row in rows)
            joined += rows
        assert tuple(joined) == bands_850()[kind]


def test_acrocentric_types_are_those_with_a_stalk() -> None:
    assert {k for k, bands in bands_400().items() if any(b.stain == "stalk" for b in bands)} == set(ACROCENTRIC)


@pytest.mark.data
def test_the_table_is_that_of_the_pack(pack: Callable[[str], Path]) -> None:
    text = (FOLDER / "cytoband_hg38.tsv").read_text()
    table = "".join(line for line in text.splitlines(keepends=True) if line[0] != "#")
    assert table == (pack("ideogram") / "cytoband_hg38.tsv").read_text()


def test_the_tables_name_their_source_and_licence() -> None:
    for file in ("cytoband_hg38.tsv", "ideogram_400.tsv"):
        head = [line for line in (FOLDER / file).read_text().splitlines() if line.startswith("#")]
        assert "eweitz/ideogram" in " ".join(head) and "CC0" in " ".join(head)
    assert ideogram.bands_400() is ideogram.bands_400()
