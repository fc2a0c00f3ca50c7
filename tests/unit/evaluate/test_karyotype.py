"""The suite `karyotype` against plain loops over cells, on rows whose logits are made by hand."""

from __future__ import annotations

import csv
import io
import json
import math
import tarfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.sample import Batch, Record
from partwise.evaluate.base import Evaluation
from partwise.evaluate.karyotype import (
    ARMS,
    GROUPS,
    OF_PICTURES,
    CaseClassifier,
    Karyotype,
    coin,
    deviations,
    extras_kept,
    fit_temperature,
    group_of,
    turn,
)
from partwise.evaluate.runner import collect, run_suite
from partwise.ops.assignment import PRICE, choose_price, greedy_dispatch, optimal_dispatch, type_counts
from partwise.ops.iscn import TYPES, karyotype_text

MALE = [*range(22), *range(22), 22, 23]
FEMALE = [*range(22), *range(22), 22, 22]
SIDE = 8

Cells = Mapping[str, Sequence[int]]
SOME: Cells = {
    "well/a": MALE,
    "well/b": FEMALE,
    "well/c": MALE,
    "down/a": [*MALE, 20],
    "down/b": [*FEMALE[1:], 20],  # and a lost 1
    "klinefelter": [*MALE, 22],
    "lost/a": FEMALE[1:],
    "lost/b": FEMALE[3:],
    "turner": FEMALE[:-1],
    "unlisted": [*MALE, 5],
}
LISTED = {
    "well/a": "46,XY",
    "down/a": "47,XY,+21",
    "down/b": "46,XX,-1,+21",
    "klinefelter": "47,XXY",
    "turner": "45,X",
    "lost/a": "45,XX,-1",
}
GROUP = {
    **dict.fromkeys(["well/a", "well/b", "well/c"], "healthy"),
    **dict.fromkeys(["down/a", "down/b", "klinefelter", "turner"], "aneuploid"),
    **dict.fromkeys(["lost/a", "lost/b"], "incomplete"),
    "unlisted": "",
}


class Reader:
    """Reads type and polarity off the picture, with an error that is the picture's own."""

    def __init__(self, noise: float = 0.0, *, sure: float = 6.0) -> None:
        self.noise, self.sure = noise, sure

    def chromosome_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """The upper left corner holds the type of an upright picture, the lower right that of one turned."""
        corners = torch.stack([images[:, 0, 0, 0], images[:, 0, -1, -1]], dim=1)
        types = (corners.max(dim=1).values * 30).round().long() - 1
        polarity = corners.argmin(dim=1)  # as the mark says: it stands above where the long arm is down
        seeds = [int(picture.mean() * 1e8) for picture in images]
        error = torch.stack([torch.randn(26, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        type_logits = self.sure * torch.nn.functional.one_hot(types, 24) + self.noise * error[:, :24]
        return type_logits, 2 * torch.nn.functional.one_hot(polarity, 2) + 0.5 * self.noise * error[:, 24:]


def pictures(cells: Cells, seed: int, polarity: Callable[[int], int] = lambda i: 1) -> tuple[Batch, list[str]]:
    """Every chromosome of the cells as a picture, in an arbitrary order, and the case of each position of the source."""
    every = [(case, kind) for case, types in cells.items() for kind in types]
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(len(every), 1, SIDE, SIDE, generator=generator) / 100
    polarities = torch.tensor([polarity(i) for i in range(len(every))])
    for place, (_, kind) in enumerate(every):
        row = 0 if polarities[place] != 0 else -1
        images[place, 0, row, row] = (kind + 1) / 30
    order = torch.randperm(len(every), generator=generator)
    ids = [f"{seed}/{every[place][0]}/{place}.png" for place in order.tolist()]
    targets = torch.tensor([kind for _, kind in every])
    data = Batch(ids, order, images[order], targets[order], polarities=polarities[order])
    return data, [case for case, _ in every]


def parts(data: Batch, size: int) -> list[Batch]:
    return [some(data, slice(i, i + size)) for i in range(0, len(data), size)]


def some(data: Batch, own: slice) -> Batch:
    assert data.targets is not None and data.polarities is not None
    tensors = {"index": data.index, "images": data.images, "targets": data.targets, "polarities": data.polarities}
    return Batch(data.ids[own], **{name: values[own] for name, values in tensors.items()})


# -- the numbers again, cell by cell ------------------------------------------------------------------------------------


def naive_temperature(logits: list[list[float]], targets: list[int]) -> float:
    """The best of many temperatures."""

    scores, own = torch.tensor(logits, dtype=torch.float64), torch.arange(len(targets))

    def loss(temperature: float) -> float:
        powers = (scores / temperature).exp()
        return float(-(powers[own, targets] / powers.sum(dim=1)).log().sum())

    grid = [math.exp(step / 400) for step in range(-1200, 1201)]
    return min(grid, key=loss)


def softmax(row: Tensor, temperature: float) -> list[float]:
    powers = [math.exp(value / temperature) for value in row.double().tolist()]
    return [power / sum(powers) for power in powers]


def by_case(data: Batch, cases: Sequence[str]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place in data.index.argsort().tolist():
        found.setdefault(cases[int(data.index[place])], []).append(place)
    return found


def answers(data: Batch, model: Reader) -> tuple[Tensor, list[int], list[int]]:
    """Logits of the types, polarities as the model says, and true ones, after the coin."""
    types, named, true = [], [], []
    for place, name in enumerate(data.ids):
        image = data.images[place]
        if coin(name):
            image = torch.stack([torch.stack([row.flip(0) for row in channel.flip(0)]) for channel in image])
        kind, polarity = model.chromosome_logits(image[None])
        types.append(kind[0])
        named.append(int(polarity[0, 1] > polarity[0, 0]))
        own = int(data.polarities[place])  # type: ignore[index]
        true.append(1 - own if coin(name) else own)
    return torch.stack(types), named, true


def naive_extras(true: Sequence[int], named: Sequence[int]) -> tuple[int, int]:
    kept = extras = 0
    for group in (*((k,) for k in range(22)), (22, 23)):
        members = [i for i, k in enumerate(true) if k in group]
        if len(members) > 2:
            extras += len(members) - 2
            kept += max(sum(named[i] == true[i] for i in members) - 2, 0)
    return kept, extras


def naive_unusual(types: Sequence[int]) -> set[tuple[str, str]]:
    counts = Counter(types)
    found = {(TYPES[k], "gain" if counts[k] > 2 else "loss") for k in range(22) if counts[k] != 2}
    sexes = counts[22] + counts[23]
    return found if sexes == 2 else found | {("sex", "gain" if sexes > 2 else "loss")}


def naive_f1(true: Sequence[int], named: Sequence[int]) -> float:
    scores = []
    for k in range(24):
        both = sum(t == k == n for t, n in zip(true, named, strict=True))
        there, said = sum(t == k for t in true), sum(n == k for n in named)
        if there or said:
            precision, recall = both / said if said else 0.0, both / there if there else 0.0
            scores.append(2 * precision * recall / (precision + recall) if both else 0.0)
    return sum(scores) / len(scores)


def naive(
    data: Batch, cases: Sequence[str], model: Reader, temperature: float, price: float, group: Mapping[str, str] = GROUP
) -> dict[str, float]:
    assert data.targets is not None
    logits, polarity, true_polarity = answers(data, model)
    target = data.targets.tolist()
    found: dict[str, float] = {}
    cells = {}
    for case, places in by_case(data, cases).items():
        probabilities = torch.tensor([softmax(logits[i], temperature) for i in places], dtype=torch.float64)
        cells[case] = (
            places,
            [target[i] for i in places],
            {
                "": [max(range(24), key=lambda k, i=i: logits[i, k]) for i in places],
                "dispatched_": greedy_dispatch(probabilities).tolist(),
                "optimal_": optimal_dispatch(probabilities, price=price).tolist(),
            },
        )
    for wanted in ("", *GROUPS):
        lead = f"karyotype/{wanted}/" if wanted else "karyotype/"
        own = [cell for case, cell in cells.items() if not wanted or group[case] == wanted]
        places = [i for cell in own for i in cell[0]]
        if not own:
            continue
        named = [max(range(24), key=lambda k, i=i: logits[i, k]) for i in places]
        found[f"{lead}type_top1"] = sum(n == target[i] for n, i in zip(named, places, strict=True)) / len(places)
        found[f"{lead}type_f1"] = naive_f1([target[i] for i in places], named)
        found[f"{lead}polarity_top1"] = sum(polarity[i] == true_polarity[i] for i in places) / len(places)
        for side in (0, 1):
            there = [i for i in places if true_polarity[i] == side]
            found[f"{lead}polarity_recall_{side}"] = sum(polarity[i] == side for i in there) / len(there)
        for arm in ARMS:
            shares = [sum(map(int.__eq__, true, said[arm])) / len(true) for _, true, said in own]
            found[f"{lead}{arm}case_accuracy"] = sum(shares) / len(shares)
            found[f"{lead}{arm}complete_case_share"] = sum(said[arm] == true for _, true, said in own) / len(own)
    changed = [cell for case, cell in cells.items() if group[case] == "aneuploid"]
    healthy = [cell for case, cell in cells.items() if group[case] == "healthy"]
    for prefix, arm in (("undispatched_", ""), ("", "dispatched_"), ("optimal_", "optimal_")):
        pairs = [naive_extras(true, said[arm]) for _, true, said in changed]
        found[f"karyotype/{prefix}trisomy_kept"] = sum(kept for kept, _ in pairs) / sum(extras for _, extras in pairs)
        if prefix == "undispatched_":
            continue
        alarms = [len(naive_unusual(said[arm])) > 0 for _, _, said in healthy]
        found[f"karyotype/{prefix}warning_rate_healthy"] = sum(alarms) / len(alarms)
        changes = [(change, naive_unusual(said[arm])) for _, true, said in changed for change in naive_unusual(true)]
        seen = sum(change in warned for change, warned in changes)
        found[f"karyotype/{prefix}warning_sensitivity"] = seen / len(changes)
    return found


def evaluate(
    data: Batch, cases: Sequence[str], model: object, validation: Batch | None = None, size: int = 37
) -> Evaluation:
    """Positions mean the same cells in both splits, which is all the same to the suite."""
    evaluator = Karyotype(TYPES, cases=cases, karyotypes=LISTED)
    return run_suite(evaluator, model, parts(data, size), validation=None if validation is None else [validation])


@pytest.mark.parametrize("noise", [1.5, 2.2, 3.5])
def test_every_number_cell_by_cell(noise: float) -> None:
    data, cases = pictures(SOME, 1)
    validation, _ = pictures(SOME, 2)
    model = Reader(noise)
    found = evaluate(data, cases, model, validation)
    chosen = found.detail["karyotype/optimal_case_accuracy"]
    assert chosen["temperature"] != 1 and chosen["chosen_on"] == "validation"
    assert found.metrics == pytest.approx(naive(data, cases, model, chosen["temperature"], chosen["price"]), rel=1e-12)
    assert set(found.metrics) == {f"karyotype/{name}" for name in Karyotype.metrics}


def test_the_arms_differ() -> None:
    """Else the comparison above would say little."""
    data, cases = pictures(SOME, 1)
    found = evaluate(data, cases, Reader(1.7), pictures(SOME, 2)[0]).metrics
    for metric in ("case_accuracy", "healthy/case_accuracy", "aneuploid/case_accuracy", "incomplete/case_accuracy"):
        group, _, name = metric.rpartition("/")
        lead = f"karyotype/{group}/" if group else "karyotype/"
        plain, greedy, optimal = (found[f"{lead}{arm}{name}"] for arm in ARMS)
        assert len({plain, greedy, optimal}) == 3 and optimal > plain
    assert found["karyotype/healthy/complete_case_share"] < found["karyotype/healthy/optimal_complete_case_share"]


def test_temperature_and_price_come_from_validation() -> None:
    data, cases = pictures(SOME, 1)
    validation, _ = pictures(SOME, 2)
    model = Reader(2.5)
    facts = evaluate(data, cases, model, validation).detail["karyotype/optimal_case_accuracy"]
    logits, _, _ = answers(validation, model)
    assert validation.targets is not None
    expected = naive_temperature(logits.tolist(), validation.targets.tolist())
    assert facts["temperature"] == pytest.approx(expected, rel=1 / 400)
    own = by_case(validation, cases).values()
    probabilities = [torch.tensor([softmax(logits[i], facts["temperature"]) for i in places]) for places in own]
    assert facts["price"] == choose_price(probabilities, [validation.targets[places] for places in own])
    assert facts["n_validation"] == len(validation) and facts["cells_validation"] == len(SOME)
    # Nothing that is reported has a say in it.
    other = evaluate(pictures(SOME, 9)[0], cases, Reader(2.5), validation).detail["karyotype/optimal_case_accuracy"]
    assert (other["temperature"], other["price"]) == (facts["temperature"], facts["price"])


def test_without_validation_nothing_is_chosen() -> None:
    data, cases = pictures(SOME, 1)
    model = Reader(2.2)
    found = evaluate(data, cases, model)
    assert found.metrics == pytest.approx(naive(data, cases, model, 1.0, PRICE), rel=1e-12)
    facts = found.detail["karyotype/optimal_case_accuracy"]
    assert (facts["temperature"], facts["price"]) == (1, PRICE) and "no validation" in facts["chosen_on"]
    assert found.detail["karyotype/dispatched_case_accuracy"]["threshold"] == 0.9


def test_a_perfect_model() -> None:
    data, cases = pictures(SOME, 3)
    found = evaluate(data, cases, Reader(sure=20.0), pictures(SOME, 4)[0])
    alarms = {"karyotype/warning_rate_healthy", "karyotype/optimal_warning_rate_healthy"}
    assert all(value == (0 if name in alarms else 1) for name, value in found.metrics.items())
    assert found.detail["karyotype/trisomy_kept"]["extras"] == 3
    assert found.detail["karyotype/warning_sensitivity"]["changes"] == 5
    assert found.detail["karyotype/case_accuracy"] == {"n": len(data), "cells": len(SOME), "std": 0.0}
    assert json.loads(json.dumps(found.detail)) == found.detail


def test_batches_and_order_do_not_matter() -> None:
    data, cases = pictures(SOME, 1)
    one, many = (evaluate(data, cases, Reader(2.0), pictures(SOME, 2)[0], size) for size in (1000, 11))
    assert one == many


# -- what is counted, and where -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SOME)
def test_groups(case: str) -> None:
    assert group_of(torch.tensor(SOME[case]), LISTED.get(case, "")) == GROUP[case]


def test_groups_where_nothing_is_listed() -> None:
    assert group_of(torch.tensor([*MALE, 20]), "") == "", "an extra chromosome alone may be a wrong label"
    assert group_of(torch.tensor([*MALE, 20])[1:], "") == "incomplete"
    assert group_of(torch.tensor(MALE), "47,XY,+21") == "aneuploid", "listed, whatever part was measured"
    assert group_of(torch.tensor([*MALE[:-2], 23, 23]), "") == "", "YY is not healthy"


@pytest.mark.data
def test_cells_of_the_real_pack(pack: Callable[[str], Path]) -> None:
    """The 14 aneuploid cells that its description names, and every line that its table has, written from the counts."""
    tables = {}
    with tarfile.open(pack("chromosomes_cells") / "chromosomes_cells.tar.gz") as archive:
        for name in ("labels", "cases"):
            stream = archive.extractfile(f"chromosomes_cells/{name}.csv")
            assert stream is not None
            tables[name] = list(csv.DictReader(io.TextIOWrapper(stream)))
    cells: dict[str, list[int]] = {}
    for row in tables["labels"]:
        cells.setdefault(row["case"], []).append(TYPES.index(row["type"]))
    listed = {row["case"]: row["karyotype_by_count"] for row in tables["cases"]}
    groups = Counter(group_of(torch.tensor(types), listed[case]) for case, types in cells.items())
    assert groups == {"healthy": 282, "aneuploid": 14, "incomplete": 16}
    assert all(karyotype_text(type_counts(torch.tensor(types))) == listed[case] for case, types in cells.items())


def test_a_part_of_a_cell_counts_as_it_is() -> None:
    data, cases = pictures({"well": MALE, "other": FEMALE}, 1)
    found = evaluate(parts(data, 60)[0], cases, Reader(sure=20.0))
    assert found.detail["karyotype/incomplete/case_accuracy"]["cells"] == 2
    assert found.detail["karyotype/incomplete/case_accuracy"]["n"] == 60
    assert found.detail["karyotype/healthy/case_accuracy"] == {"left_out": "no cell is healthy"}
    assert found.detail["karyotype/trisomy_kept"]["left_out"].startswith("no cell with a listed")


def test_pictures_without_a_case_count_as_pictures() -> None:
    data, cases = pictures({"well": MALE, "other": FEMALE}, 1)
    found = evaluate(data, ["" if case == "other" else case for case in cases], Reader(sure=20.0))
    assert found.detail["karyotype/type_top1"]["n"] == 92 and found.detail["karyotype/case_accuracy"]["n"] == 46
    none = run_suite(Karyotype(TYPES), Reader(), [data], validation=[data])
    assert none.metrics.keys() == {f"karyotype/{m}" for m in OF_PICTURES} and none.detail[
        "karyotype/case_accuracy"
    ] == {"left_out": "the data names no cells"}


def test_what_is_not_known_is_not_counted() -> None:
    data, cases = pictures({"well": MALE, "other": FEMALE}, 1)
    assert data.targets is not None and data.polarities is not None
    first = int((data.index < 46).nonzero()[0, 0])
    targets, polarities = data.targets.clone(), data.polarities.clone()
    targets[first], polarities[:7] = -1, -1
    data = replace(data, targets=targets, polarities=polarities)
    found = evaluate(data, cases, Reader(sure=20.0), data)
    assert found.detail["karyotype/optimal_case_accuracy"]["n_validation"] == 91
    assert found.detail["karyotype/type_top1"]["n"] == 91 and found.metrics["karyotype/type_top1"] == 1
    assert found.detail["karyotype/polarity_top1"]["n"] == 85 and found.metrics["karyotype/polarity_top1"] == 1
    assert found.detail["karyotype/case_accuracy"]["cells"] == 1, "a cell with an unknown chromosome is none"
    assert found.detail["karyotype/case_accuracy"]["n"] == 46
    bare = run_suite(Karyotype(TYPES), Reader(), [replace(data, polarities=None)], validation=None)
    assert bare.detail["karyotype/polarity_recall_0"] == {"left_out": "no picture has such a polarity"}
    unknown = replace(data, targets=torch.full_like(targets, -1))
    found = evaluate(unknown, cases, Reader(sure=20.0), unknown)
    assert set(found.metrics) == {f"karyotype/polarity_{name}" for name in ("top1", "recall_0", "recall_1")}


def test_types_that_are_neither_there_nor_named_are_no_part_of_f1() -> None:
    data, cases = pictures({"female": FEMALE}, 1)
    found = evaluate(data, cases, Reader(sure=20.0))
    assert found.metrics["karyotype/type_f1"] == 1 and set(found.detail["karyotype/type_f1"]["each"]) == set(TYPES[:23])


@pytest.mark.parametrize(
    ("true", "named", "kept"),
    [
        ([*MALE, 20], [*MALE, 20], (1, 1)),
        ([*MALE, 20], [*MALE, 21], (0, 1)),
        ([20, 20, 20], [20, 20, 21], (0, 1)),
        ([20, 20, 20, 20], [20, 20, 20, 7], (1, 2)),
        ([20, 20, 20, 20], [20, 7, 7, 7], (0, 2)),
        ([22, 22, 23], [22, 22, 23], (1, 1)),
        ([22, 22, 23], [22, 22, 22], (0, 1)),
        ([22, 22, 22, 23], [22, 22, 22, 0], (1, 2)),
        (MALE, [*MALE[:-1], 22], (0, 0)),
        ([4, 5, 6], [20, 20, 20], (0, 0)),
        ([], [], (0, 0)),
    ],
)
def test_extra_chromosomes_that_are_kept(true: list[int], named: list[int], kept: tuple[int, int]) -> None:
    assert extras_kept(torch.tensor(true).long(), torch.tensor(named).long()) == kept == naive_extras(true, named)


def test_a_gain_that_is_taken_for_a_loss_is_not_seen() -> None:
    gain, loss = torch.tensor([*MALE, 20]), torch.tensor([k for k in [*MALE, 22] if k != 20])
    assert deviations(gain) == {((20,), True)} and deviations(torch.tensor(MALE)) == set()
    assert deviations(loss) == {((20,), False), ((22, 23), True)}


# -- turning ------------------------------------------------------------------------------------------------------------


def test_the_coin_is_fair_and_stays() -> None:
    names = [f"cells/97002558.{cell}/{k}_{copy}.png" for cell in range(60) for k in range(1, 23) for copy in (0, 1)]
    tossed = [coin(name) for name in names]
    assert abs(sum(tossed) / len(tossed) - 0.5) < 3 * 0.5 / math.sqrt(len(tossed))
    assert tossed[:8] == [True, True, False, True, False, False, True, False], "measured numbers hang on these"


def test_turned_by_half_a_turn_and_not_mirrored() -> None:
    images = torch.arange(12.0).reshape(2, 1, 2, 3)
    found = turn(images, torch.tensor([True, False]))
    assert found[0, 0].tolist() == torch.rot90(images[0, 0], 2).tolist() == [[5, 4, 3], [2, 1, 0]]
    assert torch.equal(found[1], images[1])


def test_polarity_is_that_of_the_turned_picture() -> None:
    """Pictures of both polarities, which the coin swaps."""
    data, cases = pictures(SOME, 5, polarity=lambda i: i % 2)
    evaluator = Karyotype(TYPES, cases=cases)
    rows, _ = collect(evaluator, Reader(), [data])
    order = data.index.argsort()
    for place, own in zip(order.tolist(), rows["polarity"].tolist(), strict=True):
        assert data.polarities is not None and own == int(data.polarities[place]) ^ coin(data.ids[place])
    assert torch.equal(rows["polarity_logits"].argmax(dim=1), rows["polarity"])
    assert 0.4 < rows["polarity"].double().mean() < 0.6


# -- temperature --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_the_temperature_that_the_labels_were_drawn_at_is_found(temperature: float) -> None:
    logits = 2 * torch.randn(20_000, 24, generator=(generator := torch.Generator().manual_seed(0)))
    targets = torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]
    assert fit_temperature(logits, targets) == pytest.approx(temperature, rel=0.03)
    few = slice(0, 80)
    expected = naive_temperature(logits[few].tolist(), targets[few].tolist())
    assert fit_temperature(logits[few], targets[few]) == pytest.approx(expected, rel=1 / 400)


def test_temperatures_have_bounds() -> None:
    logits = torch.eye(24)
    assert fit_temperature(logits, torch.arange(24)) == pytest.approx(0.05)
    assert fit_temperature(logits, torch.arange(24).roll(1)) == pytest.approx(20)


# -- what it takes ------------------------------------------------------------------------------------------------------


def test_what_it_cannot_measure_is_refused_in_one_line() -> None:
    data, _ = pictures({"well": MALE}, 1)
    with pytest.raises(UserError, match="needs a CaseClassifier, and object is none"):
        run_suite(Karyotype(TYPES), object(), [data], validation=None)
    with pytest.raises(UserError, match=r"needs the classes 1, 2, .*X, Y, in this order"):
        run_suite(Karyotype(TYPES[::-1]), Reader(), [data], validation=None)
    coloured = replace(data, images=data.images.expand(-1, 3, -1, -1))
    for bad, why in ((coloured, "grey pictures, and these have 3 channels"), (replace(data, targets=None), "targets")):
        with pytest.raises(UserError, match=f"'karyotype' needs {why}"):
            run_suite(Karyotype(TYPES), Reader(), [bad], validation=None)
    assert isinstance(Reader(), CaseClassifier)


def test_a_model_that_breaks_its_promise() -> None:
    data, _ = pictures({"well": MALE}, 1)
    for types, why in (
        (torch.zeros(46, 23), r"\(46, 23\); expected \(46, 24\)"),
        (torch.ones(46, 24) / 0, "not finite"),
    ):
        model = SimpleNamespace(chromosome_logits=lambda images, types=types: (types, torch.zeros(46, 2)))
        with pytest.raises(ValueError, match=f"the model's logits are {why}"):
            run_suite(Karyotype(TYPES), model, [data], validation=None)


def test_cases_and_karyotypes_of_a_source() -> None:
    evaluator = Karyotype(TYPES)
    records = [Record("a.png", case="one"), Record("b.png")]
    evaluator.attend(SimpleNamespace(records=records, karyotypes={"one": "45,X"}))  # type: ignore[arg-type]
    assert evaluator.cases == ["one", ""] and evaluator.karyotypes == {"one": "45,X"}
    evaluator.attend(SimpleNamespace(records=records))  # type: ignore[arg-type]
    assert evaluator.karyotypes == {}
