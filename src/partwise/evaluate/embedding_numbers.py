"""The numbers of the suite `embedding` from its rows; see embedding.py for the rows and for what is learned where.

Every function records what it can and says why it leaves out the rest. `bank` holds the rows to learn on, None without any.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from partwise.evaluate.base import Evaluation, Rows
from partwise.ops import draws
from partwise.ops.anomaly import auroc, picture_scores, place_distances
from partwise.ops.clusters import k_means, mutual_information, silhouettes
from partwise.ops.correspondence import distances, match, mean_shape, share_within
from partwise.ops.linear_probe import choose_decay, fit_linear
from partwise.ops.neighbours import NEIGHBOURS, TEMPERATURE, find_neighbours, recall_at, vote
from partwise.ops.part_whole import effective_rank
from partwise.ops.part_whole_probes import (
    TIMES,
    Compared,
    compare,
    compare_mirrored,
    compare_scales,
    extrapolate,
    interpolate,
    unit,
)

FAMILY = "embedding/"
NO_BANK = "there are no pictures of other patients to learn on"
NO_LABELS = "no picture's class is known"
NO_LANDMARKS = "there are no landmarks"
NO_STRANGER = "there is no picture of another patient"
MOST_PICTURES = 200
"""Pictures whose landmarks are retrieved, clustered and found; drawn evenly, the same for every encoder."""
MOST_QUERIES = 32
"""Pictures of other patients from which the landmarks of a picture are looked for."""
LANDMARK_DECAY = 1e-2
NORMAL = ("normal", "none", "no finding", "healthy", "no nodule")
"""Names of the class that a picture has where nothing is found, in lower case."""
RECALLS = (1, 5, 10)
REACHES = (0.02, 0.05, 0.1)


def leave_out(found: Evaluation, why: str, *names: str) -> None:
    """Record why numbers are missing."""
    for name in names:
        found.leave_out(FAMILY + name, why)


def record(found: Evaluation, name: str, value: float | Tensor, **facts: Any) -> None:
    """Record a number of the suite."""
    found.found(FAMILY + name, float(value), **facts)


def record_rank(found: Evaluation, rows: Rows) -> None:
    """`effective_rank` of the pictures' embeddings as they are; at most as many as pictures."""
    embeddings = rows["embedding"]
    record(found, "effective_rank", effective_rank(embeddings), n=len(embeddings), dimensions=embeddings.shape[1])


# -- classes -------------------------------------------------------------------------------------------------------------


def record_labels(found: Evaluation, rows: Rows, bank: Rows | None, bank_groups: Tensor) -> None:
    """`knn_top1` and `linear_top1`, or with several labels a picture `knn_auc` and `linear_auc`, the mean over labels."""
    names = ("knn_top1", "linear_top1")
    if "target" not in rows:
        leave_out(found, NO_LABELS, *names)
        return
    several = rows["target"].ndim == 2
    names = ("knn_auc", "linear_auc") if several else names
    if bank is None or "target" not in bank:
        leave_out(found, NO_BANK, *names)
        return
    known = torch.ones(len(rows["target"]), dtype=torch.bool) if several else rows["target"] >= 0
    learned = torch.ones(len(bank["target"]), dtype=torch.bool) if several else bank["target"] >= 0
    if not known.any() or not learned.any():
        leave_out(found, NO_LABELS, *names)
        return
    queries, truth = rows["embedding"][known], rows["target"][known]
    base, labels, groups = bank["embedding"][learned], bank["target"][learned], bank_groups[learned]
    number = labels.shape[1] if several else int(torch.cat([labels, truth]).max()) + 1
    facts = {"n": len(queries), "n_learned": len(base), "chosen_on": "pictures beside the reported ones"}
    shares = vote(find_neighbours(queries, base), labels, number)
    decay = choose_decay(base, labels, number, groups)
    logits = fit_linear(base, labels, number, decay=decay)(queries)
    for name, scores, own in (
        (names[0], shares, {"neighbours": min(NEIGHBOURS, len(base)), "temperature": TEMPERATURE}),
        (names[1], logits, {"decay": decay}),
    ):
        if several:
            _record_areas(found, name, scores, truth > 0.5, **facts, **own)
        else:
            record(found, name, (scores.argmax(1) == truth).double().mean(), **facts, **own)


def _record_areas(found: Evaluation, name: str, scores: Tensor, truth: Tensor, **facts: Any) -> None:
    mixed = [k for k in range(truth.shape[1]) if 0 < int(truth[:, k].sum()) < len(truth)]
    if not mixed:
        leave_out(found, "no label is on some pictures and not on others", name)
        return
    areas = [auroc(scores[:, k], truth[:, k]) for k in mixed]
    record(found, name, sum(areas) / len(areas), labels=len(areas), **facts)


# -- parts, lines, scales ------------------------------------------------------------------------------------------------


def record_compared(found: Evaluation, name: str, compared: Compared, *, kinds: Sequence[str], **facts: Any) -> None:
    """`NAME_cosine`, `NAME_control`, `NAME_random` and `NAME_margin`, those of `kinds`: means over pictures, then places.

    The margin's detail holds its median and its deviation over pictures.
    """
    facts = {"n": len(compared.cosine), "places": compared.cosine.shape[1], **facts}
    values = {"cosine": compared.cosine, "control": compared.control, "random": compared.random}
    values["margin"] = compared.cosine - compared.control
    for kind in kinds:
        each = values[kind].nanmean(1)
        each = each[~each.isnan()]
        if len(each) == 0:
            leave_out(found, NO_STRANGER, f"{name}_{kind}")
            continue
        spread = {"median": float(each.median()), "std": float(each.std(correction=min(1, len(each) - 1)))}
        record(found, f"{name}_{kind}", each.mean(), **facts | {"n": len(each)}, **spread)


def record_parts(found: Evaluation, rows: Rows, groups: Tensor) -> None:
    """`compose_*`, and for encoders with heads `compose_head_*` and `decompose_*`."""
    heads = ("compose_head_cosine", "compose_head_margin", "decompose_top1", "decompose_cosine")
    if "whole" not in rows:
        leave_out(found, "not asked for", *(f"compose_{k}" for k in ("cosine", "control", "random", "margin")), *heads)
        return
    kinds = ("cosine", "control", "random", "margin")
    record_compared(found, "compose", compare(rows["whole"], rows["mean_of_parts"], groups), kinds=kinds)
    if "composed" not in rows:
        leave_out(found, "the encoder has no heads for parts and wholes", *heads)
        return
    by_head = compare(rows["whole"], rows["composed"], groups)
    record_compared(found, "compose_head", by_head, kinds=("cosine", "margin"))
    confusion, count = rows["confusion"].sum(0), len(rows["whole"])
    right = confusion.diagonal().sum() / confusion.sum()
    record(found, "decompose_top1", right, n=count, confusion=confusion.tolist())
    record(found, "decompose_cosine", rows["slice_cosine"].mean(), n=count)


def record_lines(found: Evaluation, rows: Rows, groups: Tensor) -> None:
    """`interpolate_*` and `extrapolate_*`, means over TIMES, each time in the detail."""
    kinds = ("cosine", "control", "margin")
    for name, own, mix in (("interpolate", "between", interpolate), ("extrapolate", "beyond", extrapolate)):
        if own not in rows:
            leave_out(found, "not asked for", *(f"{name}_{kind}" for kind in kinds))
            continue
        mixed = mix(rows["ends"])
        compared = compare(rows[own].flatten(1, 2), mixed.flatten(1, 2), groups)
        by_time = compared.cosine.unflatten(1, mixed.shape[1:3]).mean((0, 1)).tolist()
        record_compared(found, name, compared, kinds=kinds, cosine_at=dict(zip(map(str, TIMES), by_time, strict=True)))


def record_scales(found: Evaluation, rows: Rows, groups: Tensor) -> None:
    """`scale_*`: windows of different sizes about one centre."""
    kinds = ("cosine", "control", "margin")
    if "scaled" not in rows:
        leave_out(found, "not asked for", *(f"scale_{kind}" for kind in kinds))
        return
    record_compared(found, "scale", compare_scales(rows["scaled"], groups), kinds=kinds)


# -- landmarks -----------------------------------------------------------------------------------------------------------


def evenly(count: int, most: int = MOST_PICTURES) -> Tensor:
    """At most `most` of `count` rows, evenly spaced, int64."""
    kept = min(count, most)
    return torch.arange(kept) * count // max(kept, 1)


def _landmarks_of(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """Of the present landmarks of some pictures: embeddings `(m, D)`, which landmark, and which row."""
    places = evenly(len(rows["index"]))
    present = ~rows["points"][places].isnan().any(-1)
    row, label = present.nonzero(as_tuple=True)
    return rows["landmark"][places[row], label], label, places[row]


def record_landmarks(found: Evaluation, rows: Rows, groups: Tensor, bank: Rows | None, names: Sequence[str]) -> None:
    """`landmark_*` and `retrieval_recall_*`: whether windows about one landmark lie together, across patients."""
    learned = ("landmark_knn_top1", "landmark_linear_top1")
    own = ("landmark_silhouette", "landmark_nmi", *(f"retrieval_recall_{k}" for k in RECALLS))
    embeddings = label = row = torch.empty(0)
    if "landmark" in rows:
        embeddings, label, row = _landmarks_of(rows)
    if len(embeddings) == 0:
        leave_out(found, NO_LANDMARKS, *learned, *own)
        return
    facts = {"n": len(row.unique()), "landmarks": len(label.unique()), "windows": len(row)}
    if len(label.unique()) < 2:
        leave_out(found, "there is only one landmark", *learned, *own)
        return
    _record_landmark_probes(found, embeddings, label, bank, len(names), facts)
    record(found, "landmark_silhouette", silhouettes(embeddings, label).mean(), **facts)
    clusters = k_means(
        unit(embeddings).float(), len(label.unique()), draws.generator(0, "embedding", "landmark clusters")
    )
    record(found, "landmark_nmi", mutual_information(clusters.labels, label), **facts)
    recalls = recall_at(embeddings, label, groups[row], ks=RECALLS)
    for place, k in enumerate(RECALLS):
        each = recalls[:, place][~recalls[:, place].isnan()]
        if len(each):
            record(found, f"retrieval_recall_{k}", each.mean(), **facts)
        else:
            leave_out(found, NO_STRANGER, f"retrieval_recall_{k}")


def _record_landmark_probes(
    found: Evaluation, embeddings: Tensor, label: Tensor, bank: Rows | None, count: int, facts: dict[str, Any]
) -> None:
    base = base_label = torch.empty(0)
    if bank is not None and "landmark" in bank:
        base, base_label, _ = _landmarks_of(bank)
    if len(base) == 0:
        leave_out(found, NO_BANK, "landmark_knn_top1", "landmark_linear_top1")
        return
    facts = {**facts, "windows_learned": len(base)}
    named = vote(find_neighbours(embeddings, base), base_label, count).argmax(1)
    record(found, "landmark_knn_top1", (named == label).double().mean(), **facts)
    logits = fit_linear(base, base_label, count, decay=LANDMARK_DECAY)(embeddings)
    right = (logits.argmax(1) == label).double().mean()
    record(found, "landmark_linear_top1", right, decay=LANDMARK_DECAY, **facts)


def record_symmetry(found: Evaluation, rows: Rows, pairs: Sequence[tuple[int, int]]) -> None:
    """`symmetry_*`: the mirrored window about a left landmark and the window about the right one of the same picture."""
    kinds = ("cosine", "control", "margin")
    if "mirrored" not in rows or not pairs:
        why = "no landmark has an opposite" if "landmark" in rows else NO_LANDMARKS
        leave_out(found, why, *(f"symmetry_{kind}" for kind in kinds))
        return
    left, right = (torch.tensor([pair[side] for pair in pairs]) for side in (0, 1))
    known = ~rows["points"].isnan().any(-1)
    cosine, control = compare_mirrored(rows["mirrored"], rows["landmark"][:, right], known[:, left] & known[:, right])
    compared = Compared(cosine, control, control)
    if cosine.isnan().all():
        leave_out(found, "no picture shows both of a pair", *(f"symmetry_{kind}" for kind in kinds))
        return
    record_compared(found, "symmetry", compared, kinds=("cosine",))
    if control.isnan().all():
        leave_out(found, "no picture shows two pairs", "symmetry_control", "symmetry_margin")
    else:
        record_compared(found, "symmetry", compared, kinds=("control", "margin"))


# -- dense maps ----------------------------------------------------------------------------------------------------------


def record_correspondence(
    found: Evaluation,
    rows: Rows,
    groups: Tensor,
    names: Sequence[str],
    *,
    dense: str,
    classes: Sequence[str],
) -> None:
    """`correspondence_error`, `pck_05`, what position alone gives, and `view_*` of two views of one picture.

    Errors are means over keys: pictures in whose map the landmarks of up to MOST_QUERIES other patients' pictures are looked
    for, each by its own embedding. Position alone says the mean of the other patients, which is better than to say the
    query's own place (`copied_error` in the detail).
    """
    between = ("correspondence_error", "pck_05", "position_error", "position_pck_05")
    if "query" not in rows:
        why = NO_LANDMARKS if "dense" in rows else "the encoder gives no dense map"
        leave_out(found, why, *between, "view_error", "view_pck_05")
        return
    _record_views(found, rows)
    queries, points = rows["query"], rows["points"]
    errors, copied, keys, across = [], [], [], []
    normal = normal_pictures(rows, classes)
    for key in evenly(len(points)).tolist():
        chosen = query_pictures(key, groups)
        if len(chosen) == 0:
            continue
        found_at = match(queries[chosen].flatten(0, 1), rows["dense"][key].float()).unflatten(0, (len(chosen), -1))
        own = distances(found_at, points[key]).masked_fill(points[chosen].isnan().any(-1), math.nan)
        if own.isnan().all():
            continue
        errors.append(own)
        copied.append(distances(points[chosen], points[key]))
        keys.append(key)
        if normal is not None:
            across.append(own[normal[chosen] + normal[key] == 1].flatten())
    if not errors:
        leave_out(found, NO_STRANGER, *between)
        return
    shapes = distances(mean_shape(points, groups)[keys], points[keys])
    facts = {"n": len(keys), "landmarks": len(names), "dense": dense}
    unlike = torch.cat(across) if across else torch.empty(0)
    beyond = {"across_findings": float(unlike.nanmean())} if (~unlike.isnan()).any() else {}
    by_name = torch.stack([each.nanmean(0) for each in errors]).nanmean(0).tolist()
    each = {name: value for name, value in zip(names, by_name, strict=True) if not math.isnan(value)}
    record(found, "correspondence_error", _mean([e.nanmean() for e in errors]), **facts, **beyond, each=each)
    within = {reach: _mean([share_within(e, reach) for e in errors]) for reach in REACHES}
    record(found, "pck_05", within[0.05], **facts, pck_02=float(within[0.02]), pck_10=float(within[0.1]))
    known = ~shapes.isnan().all(1)
    if known.any():
        copied_error = float(_mean([e.nanmean() for e in copied if not e.isnan().all()]))
        record(found, "position_error", shapes[known].nanmean(1).mean(), **facts, copied_error=copied_error)
        record(found, "position_pck_05", _mean([share_within(e, 0.05) for e in shapes[known]]), **facts)
    else:
        leave_out(found, NO_STRANGER, "position_error", "position_pck_05")


def query_pictures(key: int, groups: Tensor) -> Tensor:
    """Rows of other patients than the key's from which its landmarks are looked for: at most MOST_QUERIES, drawn by its row."""
    strangers = (groups != groups[key]).nonzero()[:, 0]
    order = draws.order(len(strangers), 0, "embedding", "queries", key)
    return strangers[order[:MOST_QUERIES].sort().values]


def _mean(values: Sequence[Tensor]) -> Tensor:
    return torch.stack(list(values)).mean()


def _record_views(found: Evaluation, rows: Rows) -> None:
    errors = rows["view_error"]
    known = ~errors.isnan().all(1)
    if not known.any():
        leave_out(found, NO_LANDMARKS, "view_error", "view_pck_05")
        return
    record(found, "view_error", errors[known].nanmean(1).mean(), n=int(known.sum()))
    record(found, "view_pck_05", _mean([share_within(e, 0.05) for e in errors[known]]), n=int(known.sum()))


def normal_pictures(rows: Rows, classes: Sequence[str]) -> Tensor | None:
    """1 for pictures without a finding, 0 for others, -1 where nobody knows, int64 `(n,)`; None where no class tells.

    Normal is the class with such a name (NORMAL), or where pictures have several labels, to have no other label.
    """
    named = [k for k, name in enumerate(classes) if name.strip().lower().replace("_", " ") in NORMAL]
    if "target" not in rows or (rows["target"].ndim == 1 and not named):
        return None
    target = rows["target"]
    if target.ndim == 1:
        return torch.where(target < 0, -1, torch.isin(target, torch.tensor(named)).long())
    others = [k for k in range(target.shape[1]) if k not in named]
    return (target[:, others] <= 0.5).all(1).long()


def record_anomaly(found: Evaluation, rows: Rows, bank: Rows | None, classes: Sequence[str]) -> None:
    """`anomaly_auroc` and `anomaly_top_auroc`: findings told from normal pictures by the farthest cell, or the top 1 %."""
    names = ("anomaly_auroc", "anomaly_top_auroc")
    if "dense" not in rows:
        leave_out(found, "the encoder gives no dense map", *names)
        return
    if bank is None:
        leave_out(found, NO_BANK, *names)
        return
    normal, healthy = normal_pictures(rows, classes), normal_pictures(bank, classes)
    if normal is None or healthy is None or not (healthy == 1).any() or not {0, 1} <= set(normal.tolist()):
        leave_out(found, f"there are not both normal pictures (a class {NORMAL[0]!r} or alike) and others", *names)
        return
    sure = normal >= 0
    base = bank["dense"][healthy == 1]
    scores = picture_scores(place_distances(rows["dense"][sure], base))
    facts = {"n": int(sure.sum()), "n_learned": len(base), "abnormal": int((normal == 0).sum())}
    for name, own in zip(names, scores, strict=True):
        record(found, name, auroc(own, normal[sure] == 0), **facts)
