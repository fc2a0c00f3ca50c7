"""The karyotypes source: options, persons and cells, and pictures that depend on nothing but their index."""

from __future__ import annotations

import pickle
import re
from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from partwise.config import UserError
from partwise.data.worlds.draws import keys
from partwise.data.worlds.ideogram import bands_400, length
from partwise.data.worlds.karyotypes import Karyotypes
from partwise.data.worlds.karyotypes_cases import ANEUPLOIDIES, CELLS, chromosomes, draw_cells
from partwise.ops.iscn import HEALTHY, TYPES, lists_aneuploidy


@pytest.fixture(scope="module")
def source() -> Karyotypes:
    return Karyotypes(size=48, train=6, val=3, test=4)


@pytest.fixture(scope="module")
def clinic() -> Karyotypes:
    """Many cells, of which nothing is drawn."""
    return Karyotypes(train=1500, val=300, test=300, aneuploid=0.3, incomplete=0.2)


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        ({"size": 8}, ["size=8", "32 to 512"]),
        ({"size": "big"}, ["size=big", "whole number"]),
        ({"size": 64.5}, ["size=64.5", "whole number"]),
        ({"train": -1}, ["train=-1", "0 to"]),
        ({"seed": True}, ["seed=True", "whole number"]),
        ({"aneuploid": 1.5}, ["aneuploid=1.5", "0 to 1"]),
        ({"aneuploid": "some"}, ["aneuploid=some", "0 to 1"]),
        ({"incomplete": float("nan")}, ["incomplete=nan", "0 to 1"]),
        ({"version": 2}, ["version=2", "expected 1"]),
        ({"train": 0, "val": 0, "test": 0}, ["all 0", "at least one"]),
    ],
)
def test_wrong_options_are_named(options: dict[str, int], parts: list[str]) -> None:
    with pytest.raises(UserError) as error:
        Karyotypes(**options)
    for part in parts:
        assert part in str(error.value)


def test_an_unknown_option_is_none() -> None:
    with pytest.raises(TypeError, match="pad"):
        Karyotypes(pad=200)  # type: ignore[call-arg]


def test_options_may_be_text(source: Karyotypes) -> None:
    text = Karyotypes(size="48", train="6", val="3", test="4", aneuploid="0.1", incomplete="0.05")
    assert text.fingerprint() == source.fingerprint()


# -- persons, cells, chromosomes ---------------------------------------------------------------------------------------


def cells_of(source: Karyotypes) -> dict[str, Counter[str]]:
    """Case -> how many of each type, from the records alone."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for record in source.records:
        assert record.label is not None
        found[record.case][TYPES[record.label]] += 1
    return found


def read_karyotype(text: str) -> Counter[str]:
    """What a karyotype says there is of each type, read by hand."""
    total, sex, *changes = text.split(",")
    counts = Counter({kind: 2 for kind in TYPES if kind.isdigit()})
    counts.update(sex)
    for change in changes:
        counts[change[1:]] += {"+": 1, "-": -1}[change[0]]
    assert sum(counts.values()) == int(total)
    return counts


def test_records(source: Karyotypes) -> None:
    assert source.classes == TYPES and source.channels == 1 and source.image_size == (48, 48)
    assert len({record.id for record in source.records}) == len(source)
    cases = {split: {r.case for r in source.records if r.split == split} for split in ("train", "val", "test")}
    assert {split: len(found) for split, found in cases.items()} == {"train": 6, "val": 3, "test": 4}
    assert set(source.karyotypes) == set.union(*cases.values())
    for record in source.records:
        assert record.polarity == 1 and record.file == "" and record.labels is None
        match = re.fullmatch(r"((train|val|test)/\d{5})\.([012])/([0-9XY]+)_(\d)", record.id)
        assert match is not None and record.label is not None
        assert (match[1], match[2]) == (record.group, record.split) and record.case == f"{match[1]}.{match[3]}"
        assert match[4] == TYPES[record.label]


def test_a_cell_holds_what_its_person_has_but_for_what_it_lost(clinic: Karyotypes) -> None:
    cells = cells_of(clinic)
    assert set(cells) == set(clinic.karyotypes)
    for case, shown in cells.items():
        has = read_karyotype(clinic.karyotypes[case])
        lost = has - shown
        assert not shown - has
        assert sum(lost.values()) == (case in clinic.incomplete)
        for kind in lost:
            assert kind.isdigit() and has[kind] == 2, "an autosome, and never one of three"


def test_karyotypes_are_those_that_clinics_meet(clinic: Karyotypes) -> None:
    of_person = {case.partition(".")[0]: text for case, text in clinic.karyotypes.items()}
    for case, text in clinic.karyotypes.items():
        assert of_person[case.partition(".")[0]] == text, "one karyotype a person"
    changed = Counter(text for text in of_person.values() if text not in HEALTHY)
    autosomal = {f"47,{sex},+{n}" for sex in ("XX", "XY") for n in (13, 18, 21)}
    assert set(changed) == autosomal | {"47,XXY", "47,XXX", "47,XYY", "45,X"}
    assert all(lists_aneuploidy(text) for text in changed)
    persons, number = len(of_person), sum(changed.values())
    assert number / persons == pytest.approx(0.3, abs=0.04)
    assert len(clinic.incomplete) / len(clinic.karyotypes) == pytest.approx(0.2, abs=0.03)
    for name, share in ANEUPLOIDIES.items():
        own = sum(n for text, n in changed.items() if text.endswith(f",{name}"))
        assert own / number == pytest.approx(share, abs=0.07), name
    sexes = Counter(text for text in of_person.values() if text in HEALTHY)
    assert sexes["46,XX"] / sum(sexes.values()) == pytest.approx(0.5, abs=0.05)
    many = Counter(Counter(case.partition(".")[0] for case in clinic.karyotypes).values())
    for cells, share in enumerate(CELLS, start=1):
        assert many[cells] / persons == pytest.approx(share, abs=0.04)


def test_shares_of_nothing_and_of_everything() -> None:
    plain = Karyotypes(train=80, val=0, test=0, aneuploid=0, incomplete=0)
    assert set(plain.karyotypes.values()) == set(HEALTHY) and not plain.incomplete
    assert set(Counter(record.case for record in plain.records).values()) == {46}
    every = Karyotypes(train=80, val=0, test=0, aneuploid=1, incomplete=1)
    assert not set(every.karyotypes.values()) & set(HEALTHY) and every.incomplete == set(every.karyotypes)


def test_splits_share_no_person_and_do_not_depend_on_their_sizes(clinic: Karyotypes) -> None:
    groups = {split: {r.group for r in clinic.records if r.split == split} for split in ("train", "val", "test")}
    assert not (groups["train"] & groups["val"] or groups["val"] & groups["test"] or groups["train"] & groups["test"])
    few = Karyotypes(train=20, val=5, test=30, aneuploid=0.3, incomplete=0.2)
    for case, text in few.karyotypes.items():
        assert clinic.karyotypes[case] == text and (case in few.incomplete) == (case in clinic.incomplete)
    world = keys(1, 0)
    seen = [draw_cells(world, split, 500, aneuploid=0.1, incomplete=0.1) for split in range(3)]
    assert len(set(np.concatenate([cells.cell_keys for cells in seen]).tolist())) == 1500
    assert len({key for cells in seen for key in cells.person_keys.tolist()}) == sum(
        len(set(cells.person.tolist())) for cells in seen
    )


def test_chromosomes_against_loops() -> None:
    counts = np.random.default_rng(0).integers(0, 4, (5, 24))
    found = chromosomes(counts)
    naive = [(cell, kind, copy) for cell in range(5) for kind in range(24) for copy in range(counts[cell, kind])]
    assert list(zip(found.cell.tolist(), found.type.tolist(), found.copy.tolist(), strict=True)) == naive


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_picture_alone_equals_the_picture_in_any_batch(source: Karyotypes) -> None:
    whole = source.images(range(len(source)))
    assert whole.dtype == torch.uint8 and whole.shape == (len(source), 1, 48, 48)
    for index in (0, 17, 141, *range(300, 330), len(source) - 1):
        assert torch.equal(source.load_image(index), whole[index]), index
    assert torch.equal(source.images([50, 3, 3]), whole[[50, 3, 3]])
    assert torch.equal(source.load(-1).image, whole[-1])
    assert source.images([]).shape == (0, 1, 48, 48)
    with pytest.raises(IndexError):
        source.load(len(source))


def test_pictures_differ_and_do_not_depend_on_sizes_of_splits_or_shares(source: Karyotypes) -> None:
    whole = source.images(range(len(source)))
    assert len({picture.numpy().tobytes() for picture in whole}) == len(source)
    other = Karyotypes(size=48, train=2, val=5, test=1, aneuploid=0.9, incomplete=0)
    mine = {record.id: i for i, record in enumerate(source.records)}
    shared = [i for i, record in enumerate(other.records) if record.id in mine]
    assert len(shared) > 200
    assert torch.equal(other.images(shared), whole[[mine[other.records[i].id] for i in shared]])


def test_the_seed_changes_everything(source: Karyotypes) -> None:
    other = Karyotypes(size=48, train=6, val=3, test=4, seed=1)
    assert not torch.equal(other.load_image(0), source.load_image(0))
    prints = {s.fingerprint() for s in (source, other, Karyotypes(size=64, train=6, val=3, test=4))}
    assert len(prints) == 3


def test_load_and_pickle(source: Karyotypes) -> None:
    copied = pickle.loads(pickle.dumps(source))
    for index in (0, 100, 400):
        sample, record = copied.load(index), source.records[index]
        assert torch.equal(sample.image, source.load_image(index))
        assert (sample.id, sample.label, sample.case, sample.group, sample.polarity) == (
            record.id,
            record.label,
            record.case,
            record.group,
            1,
        )


def test_black_on_white(source: Karyotypes) -> None:
    whole = source.images(range(len(source)))
    ground = (whole == 255).flatten(1).float().mean(1)
    assert ground.min() > 0.5
    assert (whole.flatten(1).min(1).values < 110).all(), "every chromosome is dark somewhere"
    middle = whole[:, 0, 16:32, 16:32].flatten(1).min(1).values
    assert (middle < 200).all(), "and in the middle of the picture"


@pytest.fixture(scope="module")
def heights() -> dict[str, float]:
    """Mean height of each type in pixels of 64, of a hundred cells."""
    source = Karyotypes(train=100, val=0, test=0, aneuploid=0)
    images = source.images(range(len(source)))[:, 0, :, 12:52]
    dark = (images < 245).any(2)
    tall = dark.sum(1).float()
    types = torch.tensor([record.label for record in source.records])
    return {name: float(tall[types == place].mean()) for place, name in enumerate(TYPES)}


def test_sizes_follow_the_ideogram(heights: dict[str, float]) -> None:
    assert heights["1"] / 64 == pytest.approx(0.56, abs=0.025)
    for short, long in (("21", "13"), ("19", "16"), ("18", "12"), ("12", "5"), ("5", "3"), ("3", "1"), ("Y", "X")):
        assert heights[short] < heights[long]
    lengths = {kind: length(bands) for kind, bands in bands_400().items()}
    soft = 1.5  # pixels that the tips' blur adds
    for kind in ("3", "6", "11", "17", "20", "X"):
        ratio = (heights[kind] - soft) / (heights["1"] - soft)
        assert ratio == pytest.approx(lengths[kind] / lengths["1"], rel=0.07)
    # The satellites that the ideogram draws long are shorter here.
    assert 0.8 < (heights["21"] - soft) / (heights["1"] - soft) / (lengths["21"] / lengths["1"]) < 1.0
