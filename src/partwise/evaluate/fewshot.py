"""How much of an organ's outline a frozen encoder needs few pictures to learn, beside what needs no encoder at all.

A linear layer on all stages (ops/linear_decoder.py) is fitted to 3, 6, 12 and 24 pictures and measured on every reported one.
There are five fixed subsets of each size, drawn from the pictures' ids, so that every encoder learns from the same ones;
smaller subsets are the beginnings of larger ones. Beside each number stand those of two rivals that saw the same pictures:
their mean mask, and a registered atlas (ops/few_shot.py). Fine-tuning the encoder too is fewshot_tuning.py's.

Organs are the classes of the masks. Where a source also says what a mask covers (`gives_covered`), areas are whole.
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.data.sample import VOID, Batch, Source
from partwise.evaluate.base import Evaluation, Evaluator, Images, Redraw, Rows
from partwise.evaluate.embedding import DenseEmbedder
from partwise.evaluate.embedding_places import Known
from partwise.ops import draws
from partwise.ops.cam import upsample
from partwise.ops.few_shot import dice, mean_masks, organ_areas, register, registered_atlas
from partwise.ops.linear_decoder import LinearDecoder, fit_decoder

SHOTS = (3, 6, 12, 24)
SUBSETS = 5
ORGANS = ("heart", "right_lung", "left_lung", "clavicles", "right_clavicle", "left_clavicle")
"""Organs whose numbers are announced; those of other organs are recorded too."""
SIDE = 96
"""Areas are learned, and moved, on squares of at most this side."""
MOST_CELLS = 32
"""Cells a side that are kept of a stage's map; finer ones are averaged."""
SMALL = 32
"""The side of the pictures by which an atlas is moved."""
HALF = 6e4
"""The largest number that half precision is trusted with."""
WAYS = ("decoder", "mean_mask", "atlas")
"""The linear layer and its rivals."""
TOGETHER = 16
"""Reported pictures that are decoded at once."""


@runtime_checkable
class StagedEmbedder(Protocol):
    """Gives the maps of all its stages."""

    def stage_maps(self, images: Tensor, /) -> Sequence[Tensor]:
        """Pictures `(B, C, H, W)` in [0, 1] -> maps `(B, C_k, h_k, w_k)`, shallow to deep."""


class StagedOrDense(ABC):  # noqa: B024  told by its hook, as a protocol of which half is enough
    """What the suite needs: maps of all stages, or one dense map."""

    @classmethod
    def __subclasshook__(cls, other: type) -> bool:
        return issubclass(other, (StagedEmbedder, DenseEmbedder))


@dataclass(frozen=True)
class Moves:
    """How each of some learned pictures is moved onto the reported ones `(m, n, 4)` and onto one another `(n, n, 4)`."""

    columns: dict[int, int]
    onto_reported: Tensor
    among: Tensor

    @classmethod
    def between(cls, rows: Rows, learned: Rows | None, places: list[int]) -> Moves:
        """For the learned rows at `places`; once for all subsets, because it takes long."""
        if learned is None or not places:
            return cls({}, torch.empty(0), torch.empty(0))
        atlases = learned["small"][places]
        windows = register(torch.cat([rows["small"], atlases]), atlases)
        count = len(rows["small"])
        return cls({place: column for column, place in enumerate(places)}, windows[:count], windows[count:])

    def of(self, chosen: list[int]) -> tuple[Tensor, Tensor]:
        """Those of some of them: onto the reported pictures, and among one another."""
        columns = torch.tensor([self.columns[place] for place in chosen])
        return self.onto_reported[:, columns], self.among[columns][:, columns]


class FewShot(Evaluator):
    """`fewshot_dice_ORGAN_N` for organs and numbers of pictures, and `fewshot_dice_N`, their mean over organs."""

    suite: ClassVar[str] = "fewshot"
    family: ClassVar[str] = "embedding"
    metrics: ClassVar[tuple[str, ...]] = tuple(
        f"fewshot_dice_{organ}{shots}" for organ in ("", *(f"{name}_" for name in ORGANS)) for shots in SHOTS
    )
    needs: ClassVar[type] = StagedOrDense
    wants: ClassVar[frozenset[str]] = frozenset({"masks"})
    optional: ClassVar[frozenset[str]] = frozenset({"parts"})
    uses_validation: ClassVar[bool] = True
    learns_on: ClassVar[str] = "train"
    learns_most: ClassVar[int | None] = 240

    def __init__(self, classes: Sequence[str]) -> None:
        super().__init__(classes)
        self.known = Known()
        self.covers = False

    def attend(self, source: Source) -> None:
        """Ids, patients, and whether `parts` hold what masks cover."""
        self.known = Known.of(source)
        self.covers = bool(getattr(source, "gives_covered", False))

    def measure(self, model: object, batch: Batch) -> Rows:
        """Per picture: its stages in half precision, its masks, and the picture itself, small and grey."""
        assert batch.masks is not None
        if isinstance(model, StagedEmbedder):
            stages = list(model.stage_maps(batch.images))
        else:
            assert isinstance(model, DenseEmbedder)
            stages = [model.dense(batch.images)]
        rows: Rows = {f"stage_{number}": kept_map(maps) for number, maps in enumerate(stages)}
        rows["mask"] = batch.masks
        if self.covers:
            rows["covered"] = torch.zeros_like(batch.masks) if batch.parts is None else batch.parts
        rows["small"] = F.adaptive_avg_pool2d(batch.images.mean(1, keepdim=True), SMALL)[:, 0].float()
        return rows

    # -- concluding ----------------------------------------------------------------------------------------------------

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """Dice of the linear layer at every number of pictures; sizes for which there are too few pictures are left out."""
        found = Evaluation()
        subsets = self.subsets(rows, validation)
        count = int((rows["mask"] != VOID).flatten(1).any(1).sum())
        moves = Moves.between(rows, validation, sorted({p for subset in subsets for p in subset[: max(SHOTS)]}))
        for shots in SHOTS:
            if validation is None or shots > len(subsets[0]):
                why = f"{shots} pictures of other patients with masks are needed to learn from, there are {len(subsets[0])}"
                self._leave_out(found, shots, why)
                continue
            each = [self._scores(rows, validation, subset[:shots], moves) for subset in subsets]
            self._record(found, shots, {way: torch.stack([own[way] for own in each]) for way in WAYS}, count)
        if images is not None and validation is not None and len(subsets[0]) >= min(SHOTS):
            from partwise.evaluate.fewshot_pictures import draw_all

            most = subsets[0][: max(shots for shots in SHOTS if shots <= len(subsets[0]))]
            decoder, size = self.decoder(validation, most), (rows["mask"].shape[-2], rows["mask"].shape[-1])

            def find(places: list[int]) -> tuple[Tensor, Tensor, Tensor]:
                return (decoder(stages_of(rows, places), size) > 0, *self.truth(rows, places))

            found.pictures.extend(draw_all(found, rows, self.classes, self.known, find, len(most), images))
        return found

    def subsets(self, rows: Rows, learned: Rows | None) -> list[list[int]]:
        """Five orders of the learned rows that have masks and whose patients are not reported, each by a hash of ids."""
        if learned is None:
            return [[] for _ in range(SUBSETS)]
        reported = self.known.group_numbers(rows["index"])
        usable = ~torch.isin(self.known.group_numbers(learned["index"]), reported)
        shown = ((learned["mask"] > 0) & (learned["mask"] != VOID)).flatten(1).any(1)
        places = (usable & shown).nonzero()[:, 0].tolist()
        ids = {place: self.known.id_of(int(learned["index"][place])) for place in places}
        return [
            sorted(places, key=lambda place: draws.derive(0, "fewshot", subset, ids[place]))
            for subset in range(SUBSETS)
        ]

    def decoder(self, learned: Rows, chosen: list[int]) -> LinearDecoder:
        """The linear layer fitted to some of the learned rows."""
        areas, counted = self.areas(learned, chosen)
        return fit_decoder(stages_of(learned, chosen), areas, counted)

    def _scores(self, rows: Rows, learned: Rows, chosen: list[int], moves: Moves) -> dict[str, Tensor]:
        """Dice `(V,)` of each of WAYS, means over the reported pictures."""
        areas, _ = self.areas(learned, chosen)
        decoder = self.decoder(learned, chosen)
        mean, at = mean_masks(areas)
        votes, level = registered_atlas(*moves.of(chosen), areas)
        size = (rows["mask"].shape[-2], rows["mask"].shape[-1])
        plain = upsample(mean[None], size) > at[:, None, None]
        found: dict[str, list[Tensor]] = {way: [] for way in WAYS}
        for start in range(0, len(rows["index"]), TOGETHER):
            own = list(range(start, min(start + TOGETHER, len(rows["index"]))))
            truth, counted = self.truth(rows, own)
            masks = (
                decoder(stages_of(rows, own), size) > 0,
                plain.expand_as(truth),
                upsample(votes[own], size) > level[:, None, None],
            )
            for way, mask in zip(WAYS, masks, strict=True):
                found[way].append(dice(mask, truth, counted))
        return {way: torch.cat(own).nanmean(0) for way, own in found.items()}

    def truth(self, rows: Rows, places: list[int]) -> tuple[Tensor, Tensor]:
        """Areas of organs bool `(n, V, H, W)`, and the pixels that count `(n, H, W)`."""
        masks = rows["mask"][places]
        covered = rows["covered"][places] if "covered" in rows else None
        return organ_areas(masks, len(self.classes), covered), masks != VOID

    def areas(self, rows: Rows, places: list[int]) -> tuple[Tensor, Tensor]:
        """The same as shares of larger pixels, float `(n, V, s, s)` and `(n, s, s)`, s at most SIDE."""
        areas, counted = self.truth(rows, places)
        side = min(SIDE, *areas.shape[-2:])
        return F.adaptive_avg_pool2d(areas.float(), side), F.adaptive_avg_pool2d(counted.float(), side)

    def _leave_out(self, found: Evaluation, shots: int, why: str) -> None:
        for organ in ("", *(f"{organ_name(name)}_" for name in self.classes)):
            found.leave_out(f"embedding/fewshot_dice_{organ}{shots}", why)

    def _record(self, found: Evaluation, shots: int, scores: dict[str, Tensor], count: int) -> None:
        """Numbers from Dice `(SUBSETS, V)` of each of WAYS; an organ that no reported picture shows is left out."""
        shown = ~scores["decoder"].isnan().any(0)
        if not shown.any():
            self._leave_out(found, shots, "no reported picture shows an organ")
            return
        columns = {f"{organ_name(name)}_": [k] for k, name in enumerate(self.classes) if shown[k]}
        for k in (~shown).nonzero()[:, 0].tolist():
            name = f"embedding/fewshot_dice_{organ_name(self.classes[k])}_{shots}"
            found.leave_out(name, "no reported picture shows it")
        for lead, own in {"": shown.nonzero()[:, 0].tolist(), **columns}.items():
            each = {way: values[:, own].mean(1) for way, values in scores.items()}
            rivals = {way: float(each[way].mean()) for way in WAYS[1:]}
            facts: dict[str, Any] = {"each": each["decoder"].tolist(), "std": float(each["decoder"].std()), **rivals}
            value = float(each["decoder"].mean())
            found.found(f"embedding/fewshot_dice_{lead}{shots}", value, n=count, subsets=SUBSETS, **facts)


def organ_name(name: str) -> str:
    """An organ in the name of a number: `left_lung`."""
    return name.strip().lower().replace(" ", "_")


def kept_map(maps: Tensor) -> Tensor:
    """A stage's map as rows keep it: at most MOST_CELLS a side, in half precision."""
    if max(maps.shape[-2:]) > MOST_CELLS:
        maps = F.adaptive_avg_pool2d(maps, MOST_CELLS)
    return maps.float().clamp(-HALF, HALF).half()


def stages_of(rows: Rows, places: list[int]) -> list[Tensor]:
    """The stages of some rows, shallow to deep, float32."""
    names = sorted((name for name in rows if name.startswith("stage_")), key=lambda name: int(name.split("_")[1]))
    return [rows[name][places].float() for name in names]
