"""The suite on encoders that can be followed by hand: every number from loops over pictures, windows and landmarks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.data.sample import Batch, Record, Source
from partwise.evaluate.base import Evaluation
from partwise.evaluate.embedding import DenseEmbedder, Embedder, Embedding, PartWhole
from partwise.evaluate.embedding_numbers import normal_pictures, query_pictures
from partwise.evaluate.embedding_places import (
    LANDMARK_SIDE,
    SCALES,
    Known,
    Places,
    choose_landmarks,
    embed_grid,
    mirror_pairs,
)
from partwise.evaluate.runner import run_suite
from partwise.ops.part_whole_probes import TIMES, cut, line_points, split_windows, square_windows

SIDE = 24
NAMES = ("left lung", "right lung", "heart", "left hilum", "right hilum")
CLASSES = ("none", "nodule", "effusion")


class Encoder:
    """Means over a 3 x 3 grid, turned by a fixed matrix; dense: the colours of 8 x 8 cells, turned by another."""

    def __init__(self, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.turn, self.spread = torch.randn(27, 16, generator=generator), torch.randn(3, 12, generator=generator)

    def embed(self, images: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(images, 3).flatten(1) @ self.turn

    def dense(self, images: Tensor) -> Tensor:
        return torch.einsum("bchw,cd->bdhw", F.adaptive_avg_pool2d(images, 8), self.spread)


class Flat:
    """No map and no heads."""

    def embed(self, images: Tensor) -> Tensor:
        return images.mean((2, 3))


class Headed(Encoder):
    """Heads with knowledge of nothing but the embedding."""

    def decompose(self, embeddings: Tensor) -> Tensor:
        return torch.stack([embeddings.roll(k, 1) for k in range(4)], dim=1)

    def compose(self, parts: Tensor) -> Tensor:
        return parts[:, 0] - 0.5 * parts[:, 3]


class Body(Source):
    """Patients with two pictures each."""

    kind = name = "body"
    landmark_names = NAMES

    def __init__(self, count: int, *, grouped: bool = True) -> None:
        self.records = [Record(id=f"p{i}", group=f"patient {i // 2}" if grouped else "") for i in range(count)]

    def load_image(self, index: int) -> Tensor:
        raise NotImplementedError


def batch(count: int, seed: int = 0, *, first: int = 0, landmarks: bool = True) -> Batch:
    """Smooth pictures in which a class shows, and landmarks with gaps."""
    generator = torch.Generator().manual_seed(seed)
    images = F.interpolate(torch.rand(count, 3, 5, 5, generator=generator), size=(SIDE, SIDE), mode="bilinear")
    labels = torch.randint(3, (count,), generator=generator)
    images[:, 0] = 0.7 * images[:, 0] + 0.1 * labels[:, None, None]
    points = SIDE * torch.rand(count, len(NAMES), 2, generator=generator)
    points[0, 2] = math.nan
    points[min(1, count - 1), 0] = torch.tensor([-3.0, 5.0])
    index = first + torch.arange(count)
    return Batch(
        [f"p{i}" for i in index.tolist()],
        index,
        images,
        labels,
        landmarks=points if landmarks else None,
    )


def suite(source: Source | None = None, **options: Any) -> Embedding:
    evaluator = Embedding(CLASSES, **options)
    if source is not None:
        evaluator.attend(source)
    return evaluator


def measured(
    data: Batch, learned: Batch | None, model: object | None = None, *, evaluator: Embedding | None = None
) -> Evaluation:
    given = None if learned is None else [learned]
    return run_suite(evaluator or suite(Body(60)), model or Encoder(), [data], validation=given)


def cosine(a: Tensor, b: Tensor) -> float:
    return float(torch.cosine_similarity(a.double(), b.double(), dim=0))


def alone(model: Any, image: Tensor, window: Tensor) -> Tensor:
    """The embedding of one window of one picture."""
    return model.embed(cut(image[None], window[None], SIDE)[:, 0])[0]


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def test_the_protocols() -> None:
    assert isinstance(Encoder(), Embedder) and isinstance(Encoder(), DenseEmbedder)
    assert not isinstance(Encoder(), PartWhole) and isinstance(Headed(), PartWhole)
    assert not isinstance(Flat(), DenseEmbedder)
    for options in ({"probes": ("part",)}, {"dense": "maps"}):
        with pytest.raises(ValueError, match="expected one of"):
            Embedding(CLASSES, **options)  # type: ignore[arg-type]


# -- classes -------------------------------------------------------------------------------------------------------------


def test_neighbours_vote_one_picture_at_a_time() -> None:
    data, learned = batch(12), batch(30, 1, first=20)
    found = measured(data, learned, evaluator=suite(Body(60), probes=()))
    assert data.targets is not None and learned.targets is not None
    model, right = Encoder(), 0
    for image, label in zip(data.images, data.targets.tolist(), strict=True):
        query = model.embed(image[None])[0]
        each = sorted(
            ((cosine(query, model.embed(other[None])[0]), k) for k, other in enumerate(learned.images)), reverse=True
        )[:20]
        votes = [sum(math.exp(c / 0.07) for c, k in each if learned.targets[k] == name) for name in range(3)]
        right += votes.index(max(votes)) == label
    assert found.metrics["embedding/knn_top1"] == right / 12
    facts = found.detail["embedding/knn_top1"]
    assert (facts["n"], facts["n_learned"], facts["neighbours"], facts["temperature"]) == (12, 30, 20, 0.07)
    assert found.metrics["embedding/linear_top1"] > 0.4 and found.detail["embedding/linear_top1"]["decay"] > 0


def test_patients_who_are_reported_are_not_learned_from() -> None:
    """Pictures 10 and 11 are those of one patient; an encoder that knows faces must not profit."""
    data = batch(11)
    both = batch(30, 1, first=11)
    both.images[0] = data.images[10]
    found = measured(data, both, evaluator=suite(Body(60), probes=()))
    assert found.detail["embedding/knn_top1"]["n_learned"] == 29
    without = measured(data, batch(1, 2, first=11), evaluator=suite(Body(60), probes=()))
    assert "other patients" in without.detail["embedding/knn_top1"]["left_out"]
    alone = measured(data, both, evaluator=suite(Body(60, grouped=False), probes=()))
    assert alone.detail["embedding/knn_top1"]["n_learned"] == 30, "a picture without a group is its own"


def test_unknown_classes_are_passed_over() -> None:
    data, learned = batch(8), batch(20, 1, first=20)
    assert data.targets is not None and learned.targets is not None
    data.targets[3] = learned.targets[4] = learned.targets[5] = -1
    facts = measured(data, learned, evaluator=suite(Body(60), probes=())).detail["embedding/linear_top1"]
    assert (facts["n"], facts["n_learned"]) == (7, 18)


def test_several_labels_a_picture() -> None:
    data, learned = batch(14), batch(24, 1, first=20)
    for own in (data, learned):
        assert own.targets is not None
        own.targets = F.one_hot(own.targets, 3).float()
        own.targets[:, 2] = 1  # on all pictures: not measured
    found = measured(data, learned, evaluator=suite(Body(60), probes=()))
    assert {"embedding/knn_auc", "embedding/linear_auc"} <= set(found.metrics)
    assert "embedding/knn_top1" not in found.detail and found.detail["embedding/knn_auc"]["labels"] == 2
    assert found.metrics["embedding/linear_auc"] > 0.6


def test_without_other_pictures_or_labels() -> None:
    found = measured(batch(6), None)
    assert "learn on" in found.detail["embedding/knn_top1"]["left_out"]
    data = batch(6)
    data.targets = None
    found = measured(data, None)
    assert "class is known" in found.detail["embedding/linear_top1"]["left_out"]
    assert found.metrics["embedding/effective_rank"] > 1


# -- parts, lines, scales ------------------------------------------------------------------------------------------------


def test_composition_window_by_window() -> None:
    data, model = batch(5), Encoder()
    found = measured(data, None, evaluator=suite(Body(60), probes=("parts",)))
    places = Places.drawn()
    whole = [[alone(model, image, w) for w in places.windows] for image in data.images]
    parts = [
        [torch.stack([alone(model, image, p) for p in split_windows(w)]).mean(0) for w in places.windows]
        for image in data.images
    ]
    patient = [i // 2 for i in range(5)]
    count = range(len(places.windows))
    strangers = [[j for j in range(5) if patient[j] != patient[i]] for i in range(5)]
    own = [mean([cosine(whole[i][w], parts[i][w]) for w in count]) for i in range(5)]
    control = [mean([cosine(whole[i][w], parts[j][w]) for w in count for j in strangers[i]]) for i in range(5)]
    random = [
        mean([cosine(whole[i][w], parts[j][v]) for w in count for v in count if v != w for j in strangers[i]])
        for i in range(5)
    ]
    assert found.metrics["embedding/compose_cosine"] == pytest.approx(mean(own), abs=1e-5)
    assert found.metrics["embedding/compose_control"] == pytest.approx(mean(control), abs=1e-5)
    assert found.metrics["embedding/compose_random"] == pytest.approx(mean(random), abs=1e-5)
    assert found.metrics["embedding/compose_margin"] == pytest.approx(mean(own) - mean(control), abs=1e-5)
    assert found.detail["embedding/compose_margin"]["n"] == 5
    assert "no heads" in found.detail["embedding/decompose_top1"]["left_out"]


def test_heads_window_by_window() -> None:
    data, model = batch(4), Headed()
    found = measured(data, None, model, evaluator=suite(Body(60), probes=("parts",)))
    confusion, slices_right, composed = torch.zeros(4, 4), [], []
    for image, window in product(data.images, Places.drawn().windows):
        whole = alone(model, image, window)
        parts = torch.stack([alone(model, image, p) for p in split_windows(window)])
        slices = model.decompose(whole[None])[0]
        composed.append(cosine(whole, model.compose(parts[None])[0]))
        for k in range(4):
            each = [cosine(slices[k], part) for part in parts]
            confusion[k, each.index(max(each))] += 1
            slices_right.append(each[k])
    assert found.detail["embedding/decompose_top1"]["confusion"] == confusion.long().tolist()
    right = float(confusion.diagonal().sum() / confusion.sum())
    assert found.metrics["embedding/decompose_top1"] == pytest.approx(right) and 0 < right < 1
    assert found.metrics["embedding/decompose_cosine"] == pytest.approx(mean(slices_right), abs=1e-5)
    assert found.metrics["embedding/compose_head_cosine"] == pytest.approx(mean(composed), abs=1e-5)


def test_lines_point_by_point() -> None:
    data, model = batch(4), Encoder()
    found = measured(data, None, evaluator=suite(Body(60), probes=("lines",)))
    lines = Places.drawn().lines
    between, beyond = line_points(lines)

    def at(i: int, centre: Tensor) -> Tensor:
        return alone(model, data.images[i], square_windows(centre, LANDMARK_SIDE))

    inner, outer, control, early = [], [], [], []
    for i, k, (place, t) in product(range(4), range(len(lines)), enumerate(TIMES)):
        a, b = (at(i, centre) for centre in lines[k])
        inner.append(cosine(at(i, between[k, place]), (1 - t) * a + t * b))
        outer.append(cosine(at(i, beyond[k, place]), b + t * (b - a)))
        early += inner[-1:] if place == 0 else []
        for j in range(4):
            if j // 2 != i // 2:
                a, b = (at(j, centre) for centre in lines[k])
                control.append(cosine(at(i, between[k, place]), (1 - t) * a + t * b))
    assert found.metrics["embedding/interpolate_cosine"] == pytest.approx(mean(inner), abs=1e-5)
    assert found.metrics["embedding/extrapolate_cosine"] == pytest.approx(mean(outer), abs=1e-5)
    assert found.metrics["embedding/interpolate_control"] == pytest.approx(mean(control), abs=1e-5)
    assert found.detail["embedding/interpolate_cosine"]["cosine_at"]["0.25"] == pytest.approx(mean(early), abs=1e-5)


def test_scales_pair_by_pair() -> None:
    data, model = batch(4), Encoder()
    found = measured(data, None, evaluator=suite(Body(60), probes=("scales",)))
    each = []
    for image, centre in product(data.images, Places.drawn().centres):
        own = [alone(model, image, square_windows(centre, side)) for side in SCALES]
        each += [cosine(own[a], own[b]) for a in range(5) for b in range(5) if a != b]
    assert found.metrics["embedding/scale_cosine"] == pytest.approx(mean(each), abs=1e-5)


def test_a_single_patient_gives_no_control() -> None:
    found = measured(batch(2), None, evaluator=suite(Body(60)))
    assert "embedding/compose_cosine" in found.metrics
    for name in ("compose_control", "compose_random", "compose_margin", "scale_margin", "correspondence_error"):
        assert "another patient" in found.detail[f"embedding/{name}"]["left_out"], name


# -- landmarks -----------------------------------------------------------------------------------------------------------


def test_landmarks_are_chosen_evenly_and_in_pairs() -> None:
    assert choose_landmarks(NAMES, 24) == [0, 1, 2, 3, 4]
    assert choose_landmarks(NAMES, 3) == [2], "one of three units, the middle one"
    names = [f"{side} {k}" for k in range(20) for side in ("right", "left")] + [f"spine {k}" for k in range(10)]
    chosen = choose_landmarks(names, 24)
    assert 20 <= len(chosen) <= 24 and chosen == sorted(set(chosen))
    pairs = mirror_pairs([names[k] for k in chosen])
    singles = [k for k in chosen if k >= 40]
    assert 2 * len(pairs) + len(singles) == len(chosen) and len(singles) >= 3 and len(pairs) >= 7
    assert choose_landmarks([f"point {k}" for k in range(166)], 24)[::8] == [3, 58, 114]
    assert choose_landmarks([], 24) == [] and mirror_pairs(NAMES) == [(0, 1), (3, 4)]
    assert mirror_pairs(("left a", "right b")) == []


def present(data: Batch) -> list[tuple[int, int, Tensor]]:
    """(picture, landmark, window) of all landmarks that lie in the picture."""
    assert data.landmarks is not None
    found = []
    for i, k in product(range(len(data)), range(len(NAMES))):
        point = data.landmarks[i, k] / SIDE
        if ((point >= 0) & (point <= 1)).all():
            found.append((i, k, square_windows(point, LANDMARK_SIDE)))
    return found


def test_landmarks_window_by_window() -> None:
    data, learned, model = batch(7), batch(8, 1, first=20), Encoder()
    found = measured(data, learned, evaluator=suite(Body(60), probes=("landmarks",)))
    windows, base = present(data), present(learned)
    assert len(windows) == 7 * 5 - 2, "one is unknown, one outside"
    own = [alone(model, data.images[i], w) for i, _, w in windows]
    known = [alone(model, learned.images[i], w) for i, _, w in base]
    right, hits = 0, []
    for query, (i, k, _) in zip(own, windows, strict=True):
        each = sorted(((cosine(query, other), base[n][1]) for n, other in enumerate(known)), reverse=True)[:20]
        votes = [sum(math.exp(c / 0.07) for c, name in each if name == own_name) for own_name in range(5)]
        right += votes.index(max(votes)) == k
        ranked = sorted(
            ((cosine(query, other), m) for other, (j, m, _) in zip(own, windows, strict=True) if j // 2 != i // 2),
            reverse=True,
        )
        hits.append(any(m == k for _, m in ranked[:5]))
    assert found.metrics["embedding/landmark_knn_top1"] == pytest.approx(right / 33)
    assert found.metrics["embedding/retrieval_recall_5"] == pytest.approx(mean([float(h) for h in hits]))
    assert found.detail["embedding/landmark_nmi"] == {"n": 7, "landmarks": 5, "windows": 33}
    names = {"landmark_silhouette", "landmark_linear_top1", "retrieval_recall_1", "retrieval_recall_10"}
    assert {f"embedding/{name}" for name in names} <= set(found.metrics)


def test_symmetry_pair_by_pair() -> None:
    data, model = batch(6), Encoder()
    found = measured(data, None, evaluator=suite(Body(60), probes=("landmarks",)))
    windows = {(i, k): w for i, k, w in present(data)}
    own, control = [], []
    for i in range(6):
        cosines: dict[tuple[int, int], float] = {}
        shown = [pair for pair in ((0, 1), (3, 4)) if all((i, k) in windows for k in pair)]
        for (left, _), (_, right) in product(shown, shown):
            mirrored = cut(data.images[i][None], windows[i, left][None], SIDE)[:, 0].flip(-1)
            opposite = alone(model, data.images[i], windows[i, right])
            cosines[left, right] = cosine(model.embed(mirrored)[0], opposite)
        own.append(mean([cosines[pair] for pair in shown]))
        if len(shown) > 1:
            control.append(mean([cosines[0, 4], cosines[3, 1]]))
    assert len(control) == 5, "one picture lacks a landmark"
    assert found.metrics["embedding/symmetry_cosine"] == pytest.approx(mean(own), abs=1e-5)
    assert found.metrics["embedding/symmetry_control"] == pytest.approx(mean(control), abs=1e-5)


def test_without_landmarks_or_pairs() -> None:
    found = measured(batch(6, landmarks=False), None)
    for name in ("landmark_silhouette", "retrieval_recall_1", "symmetry_cosine", "correspondence_error", "view_error"):
        assert "no landmarks" in found.detail[f"embedding/{name}"]["left_out"], name
    data = batch(6)
    assert data.landmarks is not None
    data.landmarks[:] = math.nan
    found = measured(data, None)
    assert "no landmarks" in found.detail["embedding/landmark_nmi"]["left_out"]
    assert "embedding/correspondence_error" not in found.metrics and "embedding/view_error" not in found.metrics


# -- dense maps ----------------------------------------------------------------------------------------------------------


def bilinear(map: Tensor, x: float, y: float) -> Tensor:
    rows, columns = map.shape[1:]
    x, y = min(max(x * columns - 0.5, 0), columns - 1), min(max(y * rows - 0.5, 0), rows - 1)
    left, top = min(int(x), columns - 2), min(int(y), rows - 2)
    dx, dy = x - left, y - top
    upper = (1 - dx) * map[:, top, left] + dx * map[:, top, left + 1]
    lower = (1 - dx) * map[:, top + 1, left] + dx * map[:, top + 1, left + 1]
    return (1 - dy) * upper + dy * lower


def test_correspondence_point_by_point() -> None:
    data, model = batch(5), Encoder()
    assert data.landmarks is not None
    found = measured(data, None, evaluator=suite(Body(60), probes=("dense",)))
    points = data.landmarks / SIDE
    points[1, 0] = math.nan
    maps = model.dense(data.images)
    keys, shapes, near = [], [], []
    for key in range(5):
        errors, own_shapes = [], []
        for k in range(5):
            if points[key, k].isnan().any():
                continue
            others = [j for j in range(5) if j // 2 != key // 2 and not points[j, k].isnan().any()]
            middle = torch.stack([points[j, k] for j in others]).mean(0)
            own_shapes.append(float((middle - points[key, k]).norm()))
            for j in others:
                query = bilinear(maps[j], *points[j, k].tolist())
                each = {
                    ((x + 0.5) / 32, (y + 0.5) / 32): cosine(query, bilinear(maps[key], (x + 0.5) / 32, (y + 0.5) / 32))
                    for x, y in product(range(32), range(32))
                }
                best = max(each, key=lambda place: each[place])
                errors.append(float((torch.tensor(best) - points[key, k]).norm()))
        keys.append(mean(errors))
        near.append(mean([float(e <= 0.05) for e in errors]))
        shapes.append(mean(own_shapes))
    # maps are kept in half precision, so that the best of close cells may be another
    assert found.metrics["embedding/correspondence_error"] == pytest.approx(mean(keys), abs=0.02)
    assert found.metrics["embedding/pck_05"] == pytest.approx(mean(near), abs=0.03)
    assert found.metrics["embedding/position_error"] == pytest.approx(mean(shapes), abs=1e-5)
    facts = found.detail["embedding/correspondence_error"]
    assert facts["n"] == 5 and facts["dense"] == "map" and set(facts["each"]) == set(NAMES)
    assert found.detail["embedding/position_error"]["copied_error"] > found.metrics["embedding/position_error"]


def marked(count: int, seed: int) -> Batch:
    """Grey pictures with a disc of its own colour about every landmark."""
    data = batch(count, seed)
    assert data.landmarks is not None
    data.landmarks = 4 + 16 * torch.rand(count, 5, 2, generator=torch.Generator().manual_seed(seed + 1))
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    colours = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]])
    data.images = torch.full_like(data.images, 0.3)
    for i, k in product(range(count), range(5)):
        near = (x - data.landmarks[i, k, 0]) ** 2 + (y - data.landmarks[i, k, 1]) ** 2 < 9
        data.images[i][:, near] = colours[k][:, None]
    return data


class Colours(Flat):
    """A map in which every colour is a place."""

    def dense(self, images: Tensor) -> Tensor:
        return images - 0.25


def test_an_encoder_that_knows_places_finds_them() -> None:
    data = marked(6, 3)
    found = measured(data, None, Colours(), evaluator=suite(Body(60), probes=("dense",)))
    assert found.metrics["embedding/correspondence_error"] < 0.6 * found.metrics["embedding/position_error"]
    assert found.metrics["embedding/view_error"] < 0.16
    assert found.metrics["embedding/pck_05"] > 2 * found.metrics["embedding/position_pck_05"]


def test_a_grid_of_windows_serves_an_encoder_without_maps() -> None:
    data, model = batch(4), Flat()
    assert "no dense map" in measured(data, None, model).detail["embedding/correspondence_error"]["left_out"]
    grid = embed_grid(model.embed, data.images, 4, SIDE)
    assert grid.shape == (4, 3, 4, 4)
    centre = torch.tensor([1.5 / 4, 2.5 / 4])
    assert torch.allclose(grid[2, :, 2, 1], alone(model, data.images[2], square_windows(centre, LANDMARK_SIDE)))
    found = measured(data, None, model, evaluator=suite(Body(60), probes=("dense",), dense="windows"))
    assert found.detail["embedding/correspondence_error"]["dense"] == "windows"
    assert found.metrics["embedding/view_error"] < 0.7


def test_queries_are_of_other_patients_and_the_same_each_time() -> None:
    groups = torch.arange(90) // 2
    chosen = query_pictures(7, groups)
    assert len(chosen) == 32 and torch.equal(chosen, chosen.sort().values) and not {6, 7} & set(chosen.tolist())
    assert torch.equal(chosen, query_pictures(7, groups)) and not torch.equal(chosen, query_pictures(8, groups))
    assert query_pictures(0, groups[:2]).tolist() == []


def test_findings_stand_out_from_normal_pictures() -> None:
    data, learned = batch(12), batch(20, 1, first=20)
    for own in (data, learned):
        assert own.targets is not None
        own.images = 0.5 + 0.02 * own.images
        for i in range(len(own)):
            if own.targets[i] > 0:
                own.images[i, :, 8:13, 8:13] = torch.tensor([1.0, 0, 0])[:, None, None]
    found = measured(data, learned, evaluator=suite(Body(60), probes=("dense",)))
    assert found.metrics["embedding/anomaly_auroc"] == found.metrics["embedding/anomaly_top_auroc"] == 1.0
    assert data.targets is not None and learned.targets is not None
    facts = found.detail["embedding/anomaly_auroc"]
    assert facts["n_learned"] == int((learned.targets == 0).sum())
    assert facts["abnormal"] == int((data.targets > 0).sum())
    data.targets = torch.zeros_like(data.targets)
    lone = measured(data, learned, evaluator=suite(Body(60), probes=("dense",)))
    assert "normal" in lone.detail["embedding/anomaly_auroc"]["left_out"]


def test_what_is_normal() -> None:
    rows = {"target": torch.tensor([0, 1, -1])}
    assert normal_pictures(rows, ("No_Finding", "b")) is not None
    assert normal_pictures(rows, ("a", "b")) is None and normal_pictures({}, CLASSES) is None
    one = normal_pictures(rows, CLASSES)
    assert one is not None and one.tolist() == [1, 0, -1]
    several = normal_pictures({"target": torch.tensor([[1.0, 0], [0, 1], [0, 0]])}, ("normal", "b"))
    assert several is not None and several.tolist() == [1, 0, 1]


# -- the suite -----------------------------------------------------------------------------------------------------------


def test_everything_is_measured_and_named() -> None:
    found = measured(batch(8), batch(12, 1, first=20), Headed())
    wanted = {f"embedding/{name}" for name in Embedding.metrics} - {"embedding/knn_auc", "embedding/linear_auc"}
    assert set(found.metrics) == set(found.detail) == wanted
    assert all(math.isfinite(value) for value in found.metrics.values())


def test_learned_rows_hold_what_is_learned_from() -> None:
    evaluator = suite(Body(60))
    whole = evaluator.measure(Headed(), batch(3))
    fewer = evaluator.measure_learned(Headed(), batch(3))
    assert set(fewer) == {"embedding", "target", "points", "landmark", "dense"} < set(whole)
    for name, values in fewer.items():
        assert torch.equal(values.nan_to_num(), whole[name].nan_to_num()), name


def test_encoders_that_give_no_embeddings_are_refused() -> None:
    class Odd(Flat):
        def __init__(self, given: Tensor) -> None:
            self.given = given

        def embed(self, images: Tensor) -> Tensor:
            return self.given

    for given in (torch.ones(3, 2, 1), torch.ones(2, 5)):
        with pytest.raises(ValueError, match=r"expected \(B, D\)"):
            measured(batch(3), None, Odd(given))
    with pytest.raises(ValueError, match="not finite"):
        measured(batch(3), None, Odd(torch.full((3, 2), math.nan)))

    class OddHeads(Headed):
        def compose(self, parts: Tensor) -> Tensor:
            return parts

    with pytest.raises(ValueError, match="decompose and compose give"):
        measured(batch(3), None, OddHeads())


def test_windows_are_cut_at_the_encoders_own_size() -> None:
    sizes = []

    class Fixed(Flat):
        input_size = 10

        def embed(self, images: Tensor) -> Tensor:
            sizes.append(images.shape[-1])
            return super().embed(images)

    measured(batch(3), None, Fixed(), evaluator=suite(probes=("parts",)))
    assert sizes[0] == SIDE and set(sizes[1:]) == {10}


def test_places_are_the_same_for_everybody() -> None:
    first, second = Places.drawn(), Places.drawn()
    assert torch.equal(first.windows, second.windows) and torch.equal(first.lines, second.lines)
    known = Known.of(Body(6))
    assert known.group_numbers(torch.tensor([5, 4, 0])).tolist() == [0, 0, 1]
    assert Known().group_numbers(torch.tensor([7, 3])).tolist() == [7, 3] and Known().id_of(7) == "7"


def test_pictures_of_the_report() -> None:
    data, learned = batch(8), batch(12, 1, first=20)
    found = run_suite(
        suite(Body(60)),
        Encoder(),
        [data],
        validation=[learned],
        images=lambda indices: data.images[torch.as_tensor(list(indices))],
    )
    shown = {picture.name: picture for picture in found.pictures}
    assert set(shown) == {"embedding_map", "landmark_map", "retrieved_windows", "correspondence", "common_regions"}
    for picture in found.pictures:
        assert picture.image.ndim == 3 and picture.image.shape[2] == 3 and picture.rows
    assert len(shown["retrieved_windows"].rows) == 5 * 6
    assert {row["group"] for row in shown["landmark_map"].rows} == set(NAMES)
    grey = measured(batch(6, landmarks=False), None)
    assert grey.pictures == []


def test_pictures_of_grey_data_without_anything_else() -> None:
    class Grey(Flat):
        def dense(self, images: Tensor) -> Tensor:
            return F.adaptive_avg_pool2d(images, 4)

    data = batch(4, landmarks=False)
    data.targets, data.images = None, data.images[:, :1]
    found = run_suite(
        suite(),
        Grey(),
        [data],
        validation=None,
        images=lambda indices: data.images[torch.as_tensor(list(indices))],
    )
    assert [picture.name for picture in found.pictures] == ["embedding_map", "common_regions"]
