"""Whether chromosomes are named and turned right, and what becomes of whole cells, with and without dispatch.

A case is a cell: the measured pictures whose record names it, so of a cell that is only partly measured that part counts. A
cell with a picture of unknown type is none. By the karyotype that the data lists, else by its true types, a cell is

- aneuploid: a gain, or sex chromosomes other than XX and XY, is listed; whatever its pictures show;
- else healthy: it has 46 chromosomes, two of each autosome, and XX or XY;
- else incomplete: an autosome is missing, which counts cannot tell from a piece lost on the slide, listed or not;
- else of no group: an extra chromosome, or sex chromosomes other than two, that nothing lists.

Numbers of a group are named `karyotype/healthy/case_accuracy`, those of all `karyotype/case_accuracy`. Without a prefix names
come from each chromosome alone, `dispatched_` is the paper's greedy dispatch and `optimal_` the optimal one; but
`trisomy_kept`, `warning_rate_healthy` and `warning_sensitivity`, which speak of dispatch, are the greedy one's, and
`undispatched_trisomy_kept` is there to compare. The temperature of the probabilities and the price of the optimal dispatch are
chosen on validation.

Each crop is turned by 180 degrees before it is measured, or not, by a coin that belongs to its file's name.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from partwise.data.sample import Batch, Source
from partwise.evaluate.base import Evaluation, Evaluator, Images, Redraw, Rows
from partwise.evaluate.classification import confusion_matrix
from partwise.ops import draws
from partwise.ops.assignment import (
    NUM_AUTOSOMES,
    NUM_TYPES,
    PRICE,
    THRESHOLD,
    X,
    choose_price,
    count_warnings,
    greedy_dispatch,
    is_healthy,
    optimal_dispatch,
    type_counts,
)
from partwise.ops.iscn import TYPES, lists_aneuploidy

GREEDY, OPTIMAL = "dispatched_", "optimal_"
ARMS = ("", GREEDY, OPTIMAL)
"""Ways of naming the chromosomes of a cell, by the prefix of their numbers."""
GROUPS = ("healthy", "aneuploid", "incomplete")
OF_PICTURES = ("type_top1", "type_f1", "polarity_top1", "polarity_recall_0", "polarity_recall_1")
OF_CELLS = tuple(f"{arm}{metric}" for metric in ("case_accuracy", "complete_case_share") for arm in ARMS)
OF_DISPATCH = {"": GREEDY, OPTIMAL: OPTIMAL}
"""Prefixes of the numbers that speak of dispatch -> which dispatch."""
TEMPERATURES = (0.05, 20.0)


@runtime_checkable
class CaseClassifier(Protocol):
    """Names the type of a chromosome, and says which way up it stands."""

    def chromosome_logits(self, images: Tensor, /) -> tuple[Tensor, Tensor]:
        """Grey pictures `(B, 1, H, W)` in [0, 1] -> types `(B, 24)` and polarities `(B, 2)`, 1 for the long arm down."""


@dataclass(frozen=True)
class Cell:
    """A measured cell: `places` of its pictures among the rows, true types, the types that each of ARMS `named`."""

    places: Tensor
    target: Tensor
    named: Mapping[str, Tensor]
    group: str

    def right(self, arm: str) -> float:
        """The share of its chromosomes that are named right."""
        return mean(self.named[arm] == self.target)


@dataclass(frozen=True)
class Chosen:
    """What is chosen before anything is measured, and what `facts` tell of how."""

    temperature: float = 1.0
    price: float = PRICE
    facts: Mapping[str, Any] = field(
        default_factory=lambda: {"chosen_on": "nothing: there are no validation pictures of known type"}
    )

    def of(self, arm: str) -> dict[str, Any]:
        """The facts that belong to the numbers of one way of naming."""
        if not arm:
            return {}
        own = {"threshold": THRESHOLD} if arm == GREEDY else {"price": self.price}
        return {"temperature": self.temperature, **own, **self.facts}


# -- pictures and cells ------------------------------------------------------------------------------------------------


def coin(name: str) -> bool:
    """Whether the crop with this id (its file within the data) is turned: a fair coin that never changes."""
    return bool(draws.derive(0, "polarity", name) & 1)


def turn(images: Tensor, which: Tensor) -> Tensor:
    """Pictures `(B, C, H, W)`, those of bool `which` `(B,)` turned by 180 degrees: a rotation, never a mirror image."""
    return torch.where(which[:, None, None, None], images.flip((2, 3)), images)


def fit_temperature(logits: Tensor, targets: Tensor) -> float:
    """T within TEMPERATURES with the highest likelihood of softmax(logits / T) (Guo et al., 2017); logits `(N, K)`.

    In 1 / T the log likelihood is concave, so its slope, mean(own logit - expected logit), is halved in on.
    """
    scores = logits.double()
    own = scores.gather(1, targets[:, None])[:, 0]
    low, high = (math.log(1 / temperature) for temperature in reversed(TEMPERATURES))
    for _ in range(60):
        middle = (low + high) / 2
        expected = ((math.exp(middle) * scores).softmax(dim=1) * scores).sum(dim=1)
        if (own - expected).mean() < 0:
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)


def group_of(types: Tensor, karyotype: str) -> str:
    """The group of a cell by its true types and the karyotype that the data lists for it; empty for none."""
    if lists_aneuploidy(karyotype):
        return "aneuploid"
    if is_healthy(types):
        return "healthy"
    return "incomplete" if min(type_counts(types)[:NUM_AUTOSOMES]) < 2 else ""


def f1_scores(true: Tensor, named: Tensor) -> Tensor:
    """2PR / (P + R) of every type, float64 `(24,)`; NaN for one that is neither there nor named."""
    matrix = confusion_matrix(true, named, NUM_TYPES).double()
    return 2 * matrix.diagonal() / (matrix.sum(dim=0) + matrix.sum(dim=1))


def extras_kept(true: Tensor, named: Tensor) -> tuple[int, int]:
    """Of a cell's true extra chromosomes (beyond two of an autosome, or of X and Y together) how many are kept, and all.

    Which of three is the extra one cannot be told: as many are kept as are named right beyond two.
    """
    pairs = true.clamp(max=X)  # X and Y count together
    there = torch.bincount(pairs, minlength=X + 1)
    right = torch.bincount(pairs[true == named], minlength=X + 1)
    return int((right - 2).clamp(min=0).sum()), int((there - 2).clamp(min=0).sum())


def deviations(types: Tensor) -> set[tuple[tuple[int, ...], bool]]:
    """What a cell's counts warn of: the types, and whether there are too many."""
    return {(warning.types, warning.count > warning.expected) for warning in count_warnings(types)}


# -- the suite ---------------------------------------------------------------------------------------------------------


class Karyotype(Evaluator):
    """Types, polarity, whole cells before and after either dispatch, trisomies, and warnings."""

    suite: ClassVar[str] = "karyotype"
    metrics: ClassVar[tuple[str, ...]] = (
        *(f"{group}{metric}" for group in ("", *(f"{g}/" for g in GROUPS)) for metric in (*OF_PICTURES, *OF_CELLS)),
        "undispatched_trisomy_kept",
        *(f"{arm}{m}" for m in ("trisomy_kept", "warning_rate_healthy", "warning_sensitivity") for arm in OF_DISPATCH),
    )
    needs: ClassVar[type] = CaseClassifier
    wants: ClassVar[frozenset[str]] = frozenset({"targets"})
    one_class: ClassVar[bool] = True
    uses_validation: ClassVar[bool] = True

    def __init__(
        self, classes: Sequence[str], *, cases: Sequence[str] = (), karyotypes: Mapping[str, str] | None = None
    ) -> None:
        """`cases` by position in the source, empty for none; `karyotypes` by case, where one is listed."""
        super().__init__(classes)
        self.cases, self.karyotypes = cases, karyotypes or {}

    def attend(self, source: Source) -> None:
        """Which pictures make a case, and the karyotypes, which only some sources list."""
        self.cases = [record.case for record in source.records]
        self.karyotypes = getattr(source, "karyotypes", {})

    def why_not(self, model: object, batch: Batch) -> str | None:
        """Also refuses classes that are not the 24 types in their order, and pictures that are not grey."""
        refusal = super().why_not(model, batch)
        if refusal is None and self.classes != TYPES:
            return f"suite {self.suite!r} needs the classes {', '.join(TYPES)}, in this order, and the data has others"
        if refusal is None and batch.images.shape[1] != 1:
            return f"suite {self.suite!r} needs grey pictures, and these have {batch.images.shape[1]} channels"
        return refusal

    def measure(self, model: CaseClassifier, batch: Batch) -> Rows:
        """Per picture, after its coin: logits of type and polarity, and what both truly are, -1 where unknown."""
        assert batch.targets is not None
        turned = torch.tensor([coin(name) for name in batch.ids])
        upright = torch.full((len(batch),), -1) if batch.polarities is None else batch.polarities.cpu()
        types, polarities = model.chromosome_logits(turn(batch.images, turned.to(batch.images.device)))
        for logits, number in ((types, NUM_TYPES), (polarities, 2)):
            if logits.shape != (len(batch), number):
                raise ValueError(f"the model's logits are {tuple(logits.shape)}; expected {(len(batch), number)}")
            if not logits.isfinite().all():
                raise ValueError("the model's logits are not finite")
        return {
            "type_logits": types.float().cpu(),
            "polarity_logits": polarities.float().cpu(),
            "target": batch.targets.cpu(),
            "polarity": torch.where(upright < 0, upright, upright ^ turned.long()),
        }

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """All numbers; those of a group that has no cell are left out."""
        found = Evaluation()
        chosen = self._choose(validation)
        cells = self._cells(rows, chosen)
        everything = torch.arange(len(rows["index"]))
        self._record_pictures(found, "", rows, everything, cells)
        self._record_cells(found, "", cells, chosen)
        for group in GROUPS:
            own = [cell for cell in cells if cell.group == group]
            places = torch.cat([cell.places for cell in own]) if own else everything[:0]
            self._record_pictures(found, f"{group}/", rows, places, own)
            self._record_cells(found, f"{group}/", own, chosen)
        self._record_trisomies(found, cells, chosen)
        self._record_warnings(found, cells, chosen)
        return found

    # -- what is measured ----------------------------------------------------------------------------------------------

    def _places(self, rows: Rows) -> dict[str, Tensor]:
        """Case -> places of its pictures among the rows; pictures without a case are in none."""
        found: dict[str, list[int]] = {}
        for place, index in enumerate(rows["index"].tolist()):
            if case := self.cases[index] if self.cases else "":
                found.setdefault(case, []).append(place)
        places = {case: torch.tensor(own) for case, own in found.items()}
        return {case: own for case, own in places.items() if (rows["target"][own] >= 0).all()}

    def _choose(self, validation: Rows | None) -> Chosen:
        """The temperature with the highest likelihood of the validation pictures, then the best price of their cells."""
        if validation is None or not (known := validation["target"] >= 0).any():
            return Chosen()
        logits, target = validation["type_logits"], validation["target"]
        temperature = fit_temperature(logits[known], target[known])
        probabilities = (logits.double() / temperature).softmax(dim=1)
        own = list(self._places(validation).values())
        price = choose_price([probabilities[p] for p in own], [target[p] for p in own]) if own else PRICE
        facts = {"chosen_on": "validation", "n_validation": int(known.sum()), "cells_validation": len(own)}
        return Chosen(temperature, price, facts)

    def _cells(self, rows: Rows, chosen: Chosen) -> list[Cell]:
        probabilities = (rows["type_logits"].double() / chosen.temperature).softmax(dim=1)
        cells = []
        for case, places in self._places(rows).items():
            own, target = probabilities[places], rows["target"][places]
            named = {
                "": rows["type_logits"][places].argmax(dim=1),
                GREEDY: greedy_dispatch(own),
                OPTIMAL: optimal_dispatch(own, price=chosen.price),
            }
            cells.append(Cell(places, target, named, group_of(target, self.karyotypes.get(case, ""))))
        return cells

    # -- what is recorded ----------------------------------------------------------------------------------------------

    def _record_pictures(
        self, found: Evaluation, prefix: str, rows: Rows, places: Tensor, cells: Sequence[Cell]
    ) -> None:
        lead = f"{self.suite}/{prefix}"
        if len(places) == 0:
            for metric in OF_PICTURES:
                found.leave_out(lead + metric, no_cell(prefix))
            return
        target, named = rows["target"][places], rows["type_logits"][places].argmax(dim=1)
        known = target >= 0
        if known.any():
            facts = {"n": int(known.sum()), "cells": len(cells)}
            found.found(f"{lead}type_top1", mean(named[known] == target[known]), **facts)
            each = f1_scores(target[known], named[known])
            shown = {name: value for name, value in zip(TYPES, each.tolist(), strict=True) if not math.isnan(value)}
            found.found(f"{lead}type_f1", fmean(shown.values()), **facts, types=len(shown), each=shown)
        else:
            for metric in ("type_top1", "type_f1"):
                found.leave_out(lead + metric, "no picture's type is known")
        polarity = rows["polarity"][places]
        right = rows["polarity_logits"][places].argmax(dim=1) == polarity
        for metric, own in {
            "polarity_top1": polarity >= 0,
            "polarity_recall_0": polarity == 0,
            "polarity_recall_1": polarity == 1,
        }.items():
            if own.any():
                found.found(lead + metric, mean(right[own]), n=int(own.sum()), cells=len(cells))
            else:
                found.leave_out(lead + metric, "no picture has such a polarity")

    def _record_cells(self, found: Evaluation, prefix: str, cells: Sequence[Cell], chosen: Chosen) -> None:
        lead = f"{self.suite}/{prefix}"
        if not cells:
            for metric in OF_CELLS:
                found.leave_out(lead + metric, no_cell(prefix))
            return
        for arm in ARMS:
            facts = count(cells) | chosen.of(arm)
            shares = [cell.right(arm) for cell in cells]
            spread = {"std": stdev(shares)} if len(shares) > 1 else {}
            found.found(f"{lead}{arm}case_accuracy", fmean(shares), **facts, **spread)
            found.found(f"{lead}{arm}complete_case_share", fmean(share == 1 for share in shares), **facts)

    def _record_trisomies(self, found: Evaluation, cells: Iterable[Cell], chosen: Chosen) -> None:
        """Only of cells whose karyotype is listed: elsewhere an extra chromosome is most likely a wrong label."""
        own = [cell for cell in cells if cell.group == "aneuploid" and extras_kept(cell.target, cell.target)[1]]
        for prefix, arm in {"undispatched_": "", **OF_DISPATCH}.items():
            name = f"{self.suite}/{prefix}trisomy_kept"
            if not own:
                found.leave_out(name, "no cell with a listed gain or loss has an extra chromosome")
                continue
            kept, extras = (sum(part) for part in zip(*(extras_kept(c.target, c.named[arm]) for c in own), strict=True))
            found.found(name, kept / extras, **count(own), **chosen.of(arm), kept=kept, extras=extras)

    def _record_warnings(self, found: Evaluation, cells: Sequence[Cell], chosen: Chosen) -> None:
        """False alarms of healthy cells; and of the deviations that aneuploid cells have, those that are warned of."""
        healthy = [cell for cell in cells if cell.group == "healthy"]
        changed = [cell for cell in cells if cell.group == "aneuploid" and deviations(cell.target)]
        for prefix, arm in OF_DISPATCH.items():
            name = f"{self.suite}/{prefix}warning_rate_healthy"
            if healthy:
                warned = [bool(deviations(cell.named[arm])) for cell in healthy]
                found.found(name, fmean(warned), **count(healthy), **chosen.of(arm))
            else:
                found.leave_out(name, no_cell("healthy/"))
            name = f"{self.suite}/{prefix}warning_sensitivity"
            if not changed:
                found.leave_out(name, "no cell with a listed gain or loss shows one")
                continue
            changes = sum(len(deviations(cell.target)) for cell in changed)
            seen = sum(len(deviations(cell.target) & deviations(cell.named[arm])) for cell in changed)
            cells_warned = sum(bool(deviations(cell.named[arm])) for cell in changed)
            facts = count(changed) | chosen.of(arm)
            found.found(name, seen / changes, **facts, changes=changes, seen=seen, cells_warned=cells_warned)


def mean(which: Tensor) -> float:
    """The share of a bool tensor that is true."""
    return which.double().mean().item()


def count(cells: Sequence[Cell]) -> dict[str, int]:
    """How many pictures and cells a number stands on."""
    return {"n": sum(len(cell.places) for cell in cells), "cells": len(cells)}


def no_cell(prefix: str) -> str:
    """Why the numbers of a group, or of all cells, are missing."""
    return f"no cell is {prefix.rstrip('/')}" if prefix else "the data names no cells"
