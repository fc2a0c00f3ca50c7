"""What an encoder's embeddings know, without training it: classes, parts and wholes, places of the body, what is not normal.

Patients are the groups of the source. Two kinds of number come from two kinds of row:

- What is learned from labels (neighbours that vote, linear layers, the bank of normal pictures) is learned on the rows that
  the runner hands over beside the reported ones, of training pictures, less those of patients who are also reported. So
  nothing is fitted to the split that is reported, and patients are disjoint whatever the source says. Training pictures and
  not the validation split, because they are many; nothing here is tuned on either but the decay of linear layers, by folds.
- Controls and correspondences compare reported pictures with those of all other patients of the same split: both sides of a
  difference then come from the same patients, and nothing is learned.

Windows and pairs are the same in all pictures (embedding_places.py), because only then is the same window of another patient
a control: see ops/part_whole_probes.py. Rows hold embeddings; memory grows with pictures x about 100 embeddings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, Literal, Protocol, get_args, runtime_checkable

import torch
from torch import Tensor

from partwise.data.sample import Batch, Source
from partwise.evaluate.base import Evaluation, Evaluator, Images, Redraw, Rows
from partwise.evaluate.embedding_numbers import (
    record_anomaly,
    record_correspondence,
    record_labels,
    record_landmarks,
    record_lines,
    record_parts,
    record_rank,
    record_scales,
    record_symmetry,
)
from partwise.evaluate.embedding_places import (
    Known,
    Places,
    choose_landmarks,
    embed_grid,
    embed_landmarks,
    embed_lines,
    embed_scales,
    embed_windows,
    mirror_pairs,
    sample_landmarks,
    second_view_errors,
)
from partwise.ops.part_whole_probes import decompose_confusion, decompose_cosines

Probe = Literal["parts", "lines", "scales", "landmarks", "dense"]
Dense = Literal["map", "windows"]
GRID = 16
"""Windows a side of a dense map made of windows."""
NUM_PARTS = 4


@runtime_checkable
class Embedder(Protocol):
    """Turns a picture into one embedding."""

    def embed(self, images: Tensor, /) -> Tensor:
        """Pictures `(B, C, H, W)` in [0, 1], of any size -> `(B, D)`."""


@runtime_checkable
class DenseEmbedder(Protocol):
    """Also gives an embedding for every cell of a picture."""

    def dense(self, images: Tensor, /) -> Tensor:
        """Pictures `(B, C, H, W)` in [0, 1] -> `(B, D, h, w)`, cells that divide the picture evenly."""


@runtime_checkable
class PartWhole(Protocol):
    """Has heads that make embeddings of parts out of that of a whole, and the reverse.

    Heads for another number of parts, which `num_parts` says, are not asked.
    """

    def decompose(self, embeddings: Tensor, /) -> Tensor:
        """Of wholes `(B, D)` -> of their 2 x 2 parts in reading order `(B, 4, D)`."""

    def compose(self, parts: Tensor, /) -> Tensor:
        """Of 2 x 2 parts in reading order `(B, 4, D)` -> of their wholes `(B, D)`."""


class Embedding(Evaluator):
    """Neighbours, linear probes, composition, decomposition, lines, scales, landmarks, correspondence, symmetry, anomalies."""

    suite: ClassVar[str] = "embedding"
    metrics: ClassVar[tuple[str, ...]] = (
        *("knn_top1", "knn_auc", "linear_top1", "linear_auc", "effective_rank"),
        *(f"compose_{kind}" for kind in ("cosine", "control", "random", "margin")),
        *("compose_head_cosine", "compose_head_margin", "decompose_top1", "decompose_cosine"),
        *(f"{line}_{k}" for line in ("interpolate", "extrapolate", "scale") for k in ("cosine", "control", "margin")),
        *(f"landmark_{kind}" for kind in ("knn_top1", "linear_top1", "silhouette", "nmi")),
        *("retrieval_recall_1", "retrieval_recall_5", "retrieval_recall_10"),
        *("symmetry_cosine", "symmetry_control", "symmetry_margin"),
        *("correspondence_error", "pck_05", "position_error", "position_pck_05", "view_error", "view_pck_05"),
        *("anomaly_auroc", "anomaly_top_auroc"),
    )
    needs: ClassVar[type] = Embedder
    optional: ClassVar[frozenset[str]] = frozenset({"targets", "landmarks"})
    uses_validation: ClassVar[bool] = True
    learns_on: ClassVar[str] = "train"
    learns_most: ClassVar[int | None] = 2000

    def __init__(
        self,
        classes: Sequence[str],
        *,
        probes: Sequence[Probe] = get_args(Probe),
        dense: Dense = "map",
    ) -> None:
        """`probes`: what is asked beside classes. `dense`: correspondence on the encoder's own map, or on embeddings of a grid
        of windows, which works with any encoder and is GRID^2 times as slow."""
        super().__init__(classes)
        for name, given, known in (("probes", probes, get_args(Probe)), ("dense", (dense,), get_args(Dense))):
            if unknown := sorted(set(given) - set(known)):
                raise ValueError(f"{name} {unknown[0]!r}: expected one of {', '.join(known)}")
        self.probes = frozenset(probes)
        self.dense_from: Dense = dense
        self.places = Places.drawn()
        self.known = Known()

    def attend(self, source: Source) -> None:
        """Ids, patients and the names of landmarks."""
        self.known = Known.of(source)

    # -- measuring -----------------------------------------------------------------------------------------------------

    def measure(self, model: Embedder, batch: Batch) -> Rows:
        """Per picture: its embedding and label, and what the probes need of its windows, landmarks and dense map."""
        images = batch.images
        size = window_size(model, images)
        rows = self._pictures(model, batch)
        if "parts" in self.probes:
            rows |= self._parts(model, images, size)
        if "lines" in self.probes:
            rows |= embed_lines(model.embed, images, self.places.lines, size)
        if "scales" in self.probes:
            rows["scaled"] = embed_scales(model.embed, images, self.places.centres, size)
        if "points" in rows and "landmarks" in self.probes:
            rows |= embed_landmarks(model.embed, images, rows["points"], self._pairs(rows["points"].shape[1]), size)
        find_map = self._map_finder(model, size)
        if "dense" in self.probes and find_map is not None:
            rows["dense"] = dense_map(find_map, images)
            if "points" in rows:
                rows |= self._queries(model, find_map, images, rows, size)
        return rows

    def measure_learned(self, model: Embedder, batch: Batch) -> Rows:
        """Per picture: what voters, linear layers and the bank of normal pictures need of it."""
        images = batch.images
        size = window_size(model, images)
        rows = self._pictures(model, batch)
        if "points" in rows and "landmarks" in self.probes:
            rows |= embed_landmarks(model.embed, images, rows["points"], [], size)
        find_map = self._map_finder(model, size)
        if "dense" in self.probes and find_map is not None:
            rows["dense"] = dense_map(find_map, images)
        return rows

    def _pictures(self, model: Embedder, batch: Batch) -> Rows:
        rows: Rows = {"embedding": checked(model.embed, len(batch), ndim=2)(batch.images).float()}
        if batch.targets is not None:
            rows["target"] = batch.targets
        points = self._points(batch)
        return rows if points is None else rows | {"points": points}

    def _parts(self, model: Embedder, images: Tensor, size: int) -> Rows:
        whole = embed_windows(model.embed, images, self.places.windows, size)
        parts = embed_windows(model.embed, images, self.places.parts.flatten(0, 1), size)
        parts = parts.unflatten(1, (-1, NUM_PARTS))
        rows = {"whole": whole, "mean_of_parts": parts.mean(2)}
        if isinstance(model, PartWhole) and getattr(model, "num_parts", NUM_PARTS) == NUM_PARTS:
            slices = model.decompose(whole.flatten(0, 1)).float()
            composed = model.compose(parts.flatten(0, 1)).float()
            wanted = (len(slices), NUM_PARTS, whole.shape[-1])
            if slices.shape != wanted or composed.shape != wanted[::2]:
                raise ValueError(
                    f"decompose and compose give {tuple(slices.shape)} and {tuple(composed.shape)}; "
                    f"expected {wanted} and {wanted[::2]}"
                )
            cosines = decompose_cosines(slices.view_as(parts), parts)
            rows["composed"] = composed.view_as(whole)
            rows["confusion"] = decompose_confusion(cosines)
            rows["slice_cosine"] = cosines.diagonal(dim1=-2, dim2=-1).mean((1, 2))
        return rows

    def _points(self, batch: Batch) -> Tensor | None:
        """The chosen landmarks `(B, L, 2)` in sides of the picture, NaN outside it; None without any."""
        if batch.landmarks is None or not self.probes & {"landmarks", "dense"}:
            return None
        chosen = self.chosen(batch.landmarks.shape[1])
        if not chosen:
            return None
        extent = torch.tensor([batch.images.shape[-1], batch.images.shape[-2]])
        points = batch.landmarks[:, chosen].float().cpu() / extent
        inside = ((points >= 0) & (points <= 1)).all(-1, keepdim=True)
        return torch.where(inside, points, torch.nan)

    def chosen(self, count: int) -> list[int]:
        """Which of a source's landmarks are used."""
        return choose_landmarks([self.known.landmark_name(k) for k in range(count)])

    def landmark_names(self, num_chosen: int) -> list[str]:
        """The names of the chosen ones."""
        total = len(self.known.landmarks) or num_chosen
        return [self.known.landmark_name(k) for k in self.chosen(total)][:num_chosen]

    def _pairs(self, num_chosen: int) -> list[tuple[int, int]]:
        return mirror_pairs(self.landmark_names(num_chosen))

    def _map_finder(self, model: Embedder, size: int) -> Callable[[Tensor], Tensor] | None:
        """What makes dense maps; None for an encoder that has none."""
        if self.dense_from == "windows":
            return lambda images: embed_grid(model.embed, images, GRID, size)
        return model.dense if isinstance(model, DenseEmbedder) else None

    def _queries(
        self, model: Embedder, find_map: Callable[[Tensor], Tensor], images: Tensor, rows: Rows, size: int
    ) -> Rows:
        """Embeddings by which landmarks are looked for, and how far off they are found in a second view of the picture."""
        points = rows["points"].to(images.device)
        if self.dense_from == "map":
            queries = sample_landmarks(rows["dense"], points)
        else:
            queries = embed_landmarks(model.embed, images, points, [], size)["landmark"]
        return {"query": queries, "view_error": second_view_errors(find_map, images, queries, points)}

    # -- concluding ----------------------------------------------------------------------------------------------------

    def conclude(
        self, rows: Rows, validation: Rows | None, *, images: Images | None = None, redraw: Redraw | None = None
    ) -> Evaluation:
        """All numbers that the rows allow; why others are left out."""
        found = Evaluation()
        groups = self.known.group_numbers(rows["index"])
        bank, bank_groups = self._bank(groups, validation)
        record_rank(found, rows)
        record_labels(found, rows, bank, bank_groups)
        record_parts(found, rows, groups)
        record_lines(found, rows, groups)
        record_scales(found, rows, groups)
        names = self.landmark_names(rows["points"].shape[1]) if "points" in rows else []
        record_landmarks(found, rows, groups, bank, names)
        record_symmetry(found, rows, mirror_pairs(names))
        record_correspondence(found, rows, groups, names, dense=self.dense_from, classes=self.classes)
        record_anomaly(found, rows, bank, self.classes)
        if images is not None:
            from partwise.evaluate.embedding_pictures import draw_all

            found.pictures.extend(draw_all(rows, groups, names, self.classes, self.known, images))
        return found

    def _bank(self, groups: Tensor, validation: Rows | None) -> tuple[Rows | None, Tensor]:
        """The rows to learn on, without patients who are reported, and their groups; None where none are left."""
        if validation is None:
            return None, groups[:0]
        own = self.known.group_numbers(validation["index"])
        kept = ~torch.isin(own, groups)
        if not kept.any():
            return None, groups[:0]
        return {name: values[kept] for name, values in validation.items()}, own[kept]


def window_size(model: object, images: Tensor) -> int:
    """The side to which windows are resized: an encoder's `input_size` where it has a fixed one, else the frame's."""
    size = getattr(model, "input_size", None)
    return int(size) if size else int(images.shape[-1])


def dense_map(find_map: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """Maps with values of at most 1, in half precision: only directions are compared, and maps are most of what is kept."""
    maps = checked(find_map, len(images), ndim=4)(images).float()
    return (maps / maps.abs().amax((1, 2, 3), keepdim=True).clamp(min=1e-12)).half()


def checked(function: Callable[[Tensor], Tensor], count: int, *, ndim: int) -> Callable[[Tensor], Tensor]:
    """`function`, refused with ValueError where it gives no embeddings of `count` pictures, or such that are not finite."""

    def call(images: Tensor) -> Tensor:
        given = function(images)
        if given.ndim != ndim or len(given) != count:
            expected = "(B, D)" if ndim == 2 else "(B, D, h, w)"
            raise ValueError(f"the encoder gives {tuple(given.shape)} for {count} pictures; expected {expected}")
        if not given.isfinite().all():
            raise ValueError("the encoder's embeddings are not finite")
        return given

    return call
