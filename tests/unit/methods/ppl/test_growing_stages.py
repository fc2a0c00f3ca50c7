"""Confident labels with a CRF, losses pair by pair, and the stages between maps and walk."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from partwise.config import DataFields
from partwise.data.loading import PictureData
from partwise.data.sample import VOID, Batch
from partwise.engine.loop import run_stages
from partwise.engine.stages import Products
from partwise.methods.ppl import growing
from partwise.methods.ppl.config import AffinityFields, PplFields
from partwise.methods.ppl.growing import (
    HIGH_POWER,
    LOW_POWER,
    ConfidentLabels,
    LearnAffinity,
    PairLoss,
    Walk,
    confident_labels,
    walked,
)
from partwise.methods.ppl.mapping import empty_maps
from partwise.methods.ppl.sizing import LARGEST
from partwise.models.affinity import AffinityNet, IrnNetwork
from partwise.models.backbones import build_backbone
from partwise.ops.crf import CRF_PRESETS, crf_labels, dense_crf
from partwise.ops.random_walk import affinity_walk, with_background
from tests.unit.methods.ppl.small import Sizes, run

STATISTICS = {"mean": (0.5,) * 3, "std": (0.2,) * 3}


def affinity(kind: str = "irn", *, stride: int = 4, displacement: bool = False) -> IrnNetwork | AffinityNet:
    torch.manual_seed(0)
    backbone = build_backbone("cifar-resnet", depth=8, widths=[4, 6, 8])
    if kind == "irn":
        return IrnNetwork(backbone, stride=stride, displacement=displacement, **STATISTICS).eval()
    return AffinityNet(backbone, **STATISTICS).eval()


def scene() -> tuple[Tensor, Tensor]:
    """A bright object on dark ground, and two maps that know it roughly."""
    generator = torch.Generator().manual_seed(2)
    image = torch.randint(0, 60, (3, 20, 24), dtype=torch.uint8, generator=generator)
    image[:, 5:14, 6:16] += 150
    maps = 0.2 * torch.rand(2, 20, 24, generator=generator)
    maps[1, 6:12, 8:18] += 0.6
    return image, maps


# -- confident labels ----------------------------------------------------------------------------------------------------


def test_irns_labels_by_hand_with_a_field() -> None:
    image, maps = scene()
    fields, classes = AffinityFields(crf="irn"), torch.tensor([3, 7])
    found = confident_labels(image, maps, classes, fields)
    hard = []
    for threshold in (0.30, 0.05):  # the greatest of a constant ground and the maps; equal is ground
        stack = torch.cat([torch.full((1, 20, 24), threshold), maps])
        hard.append(crf_labels(image, stack.argmax(0).to(torch.uint8), CRF_PRESETS["irn"], classes=[0, 1, 2]))
    expected = torch.full((20, 24), VOID, dtype=torch.uint8)
    for y in range(20):
        for x in range(24):
            if hard[0][y, x]:
                expected[y, x] = (4, 8)[int(hard[0][y, x]) - 1]
            elif not hard[1][y, x]:
                expected[y, x] = 0
    assert torch.equal(found, expected)
    assert {0, 8, VOID} <= set(found.unique().tolist())


def test_affinitynets_labels_by_hand_with_a_field() -> None:
    image, maps = scene()
    found = confident_labels(image, maps, torch.tensor([0, 1]), AffinityFields(kind="affinitynet", crf="psa"))
    best = []
    for alpha in (4, 32):
        stack = torch.cat([(1 - maps.amax(0, keepdim=True)) ** alpha, maps])
        shares = stack / stack.sum(0)
        best.append(dense_crf(image, -shares.clamp(1e-5, 1).log(), CRF_PRESETS["psa"]).argmax(0))
    low, high = best
    expected = low.clone()
    expected[low == 0] = VOID
    expected[high == 0] = 0
    assert torch.equal(found.long(), expected)
    assert (LOW_POWER, HIGH_POWER) == (4, 32)


def test_who_is_right_where_a_field_makes_the_two_contradict_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object by the strict map, ground by the lax one: IRN has the object, AffinityNet the ground."""
    strict, lax = torch.tensor([[1, 0, 0, 1]], dtype=torch.uint8), torch.tensor([[0, 0, 1, 1]], dtype=torch.uint8)
    image, maps, classes = torch.zeros(3, 1, 4, dtype=torch.uint8), torch.rand(1, 1, 4), torch.tensor([5])
    answers = iter([strict, lax])
    monkeypatch.setattr(growing, "sharpen_labels", lambda *_: next(answers))
    assert confident_labels(image, maps, classes, AffinityFields()).tolist() == [[6, 0, VOID, 6]]
    shares = iter([torch.stack([1.0 - hard, hard.float()]) for hard in (strict, lax)])
    monkeypatch.setattr(growing, "sharpen_probabilities", lambda *_: next(shares))
    assert confident_labels(image, maps, classes, AffinityFields(kind="affinitynet")).tolist() == [[0, 0, VOID, 6]]


def test_the_last_of_eighty_classes_keeps_its_number() -> None:
    image, classes = torch.zeros(3, 2, 2, dtype=torch.uint8), torch.tensor([0, 79])
    maps = torch.tensor([[[0.9, 0.0], [0.1, 0.0]], [[0.0, 0.9], [0.2, 0.01]]])
    assert confident_labels(image, maps, classes, AffinityFields(crf="none")).tolist() == [[1, 80], [VOID, 0]]


def test_labels_are_made_of_every_training_picture(tmp_path: Path) -> None:
    sizes, labels = [(1, 1), (9, 14), (9, 14), (30, 6), (8, 8), (8, 8)], [(1,), (), (0, 2), (2,), (0,), (1,)]
    source = Sizes(sizes, labels, broken=(3,))
    data = PictureData(source, DataFields(source="sizes:", size=8, on_fault="skip"))
    products = Products(tmp_path)
    for number, (size, own) in enumerate(zip(sizes, labels, strict=True)):
        full = torch.rand(len(own), *size, generator=torch.Generator().manual_seed(number)).half()
        kept = {"classes": torch.tensor(own, dtype=torch.int64), "strided": torch.zeros(len(own), 1, 1), "full": full}
        products.write("maps", f"p/{number}", empty_maps() if number == 3 else kept)
    for kind in ("irn", "affinitynet"):
        stage = ConfidentLabels(data, AffinityFields(kind=kind, crf="pamr"))  # type: ignore[arg-type]
        stage.prepare(products)
        assert stage.items() == [f"p/{n}" for n in range(4)], "validation pictures teach nothing"
        made = {item: stage.compute(item)["labels"] for item in stage.items()}
        assert made["p/3"].tolist() == [[VOID]]
        assert torch.equal(made["p/1"], torch.zeros(9, 14, dtype=torch.uint8)), "no class: all of it is ground"
        assert made["p/0"].shape == (1, 1)
        assert made["p/2"].shape == (9, 14) and set(made["p/2"].unique().tolist()) <= {0, 1, 3, VOID}
    data.close()


# -- losses, pair by pair ------------------------------------------------------------------------------------------------


def batch_of(side: int) -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 3, side, side), dtype=torch.uint8, generator=generator)
    masks = torch.randint(0, 3, (2, side, side), dtype=torch.uint8, generator=generator)
    masks[:, :, :2] = VOID
    return Batch(["a", "b"], torch.arange(2), images, None, masks)


def pairs_of(labels: Tensor, radius: int) -> list[tuple[tuple[int, int], tuple[int, int], str]]:
    """(source, target, kind) of every labelled pair; sources keep `radius - 1` cells from below, left and right."""
    height, width = labels.shape
    found = []
    for y in range(height - radius + 1):
        for x in range(radius - 1, width - radius + 1):
            for dy in range(radius):
                for dx in range(1 - radius, radius):
                    if (dy == 0 and dx <= 0) or dy * dy + dx * dx >= radius * radius:
                        continue
                    one, other = int(labels[y, x]), int(labels[y + dy, x + dx])
                    if VOID in (one, other):
                        continue
                    kind = "negative" if one != other else ("ground" if one == 0 else "object")
                    found.append(((y, x), (y + dy, x + dx), kind))
    return found


def barrier(edge: Tensor, a: tuple[int, int], b: tuple[int, int]) -> float:
    """The greatest boundary on the grid points that lie closer than 1 to the segment, within its rectangle."""
    length = math.dist(a, b)
    most = 0.0
    for y in range(min(a[0], b[0]), max(a[0], b[0]) + 1):
        for x in range(min(a[1], b[1]), max(a[1], b[1]) + 1):
            away = abs((b[0] - a[0]) * (x - a[1]) - (b[1] - a[1]) * (y - a[0])) / length
            if away < 1 - 1e-9:
                most = max(most, float(edge[y, x]))
    return most


def cross_entropy_of_pairs(values: dict[str, list[float]]) -> float:
    """Ground / 4 + object / 4 + negative / 2 of `-log(a + 1e-5)` or `-log(1 + 1e-5 - a)`."""
    means = {}
    for kind, affinities in values.items():
        terms = [-math.log((1 - a if kind == "negative" else a) + 1e-5) for a in affinities]
        means[kind] = sum(terms) / (len(terms) + 1e-5)
    return means["ground"] / 4 + means["object"] / 4 + means["negative"] / 2


def nearest_labels(masks: Tensor, cells: int) -> Tensor:
    side = masks.shape[-1]
    at = [int((i + 0.5) * side / cells) for i in range(cells)]
    return masks[:, at][:, :, at]


def test_the_loss_of_boundaries_pair_by_pair() -> None:
    network, batch, radius = affinity(stride=2, displacement=True), batch_of(24), 3
    assert batch.masks is not None
    losses, _ = PairLoss(network, AffinityFields(radius=radius))(batch)
    with torch.no_grad():
        output = network(batch.images.float() / 255)
    edges, field = output.boundary.sigmoid()[:, 0], output.displacement
    labels = nearest_labels(batch.masks, edges.shape[-1])
    values: dict[str, list[float]] = {"ground": [], "object": [], "negative": []}
    apart: dict[str, list[float]] = {"ground": [], "object": []}
    for row in range(2):
        for a, b, kind in pairs_of(labels[row], radius):
            values[kind].append(1 - barrier(edges[row], a, b))
            if kind == "negative":
                continue
            difference = field[row, :, a[0], a[1]] - field[row, :, b[0], b[1]]
            if kind == "object":
                difference = difference - torch.tensor([b[0] - a[0], b[1] - a[1]])
            apart[kind] += [float(v) for v in difference.abs()]
    assert all(values.values())
    assert losses["boundary"].item() == pytest.approx(cross_entropy_of_pairs(values), rel=1e-4)
    expected = sum(sum(part) / len(part) for part in apart.values()) / 2
    assert losses["displacement"].item() == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_features_pair_by_pair() -> None:
    network, batch, radius = affinity("affinitynet"), batch_of(32), 3
    assert batch.masks is not None
    losses, _ = PairLoss(network, AffinityFields(kind="affinitynet", radius=radius))(batch)
    with torch.no_grad():
        features = network(batch.images.float() / 255)
    labels = nearest_labels(batch.masks, features.shape[-1])
    values: dict[str, list[float]] = {"ground": [], "object": [], "negative": []}
    for row in range(2):
        for a, b, kind in pairs_of(labels[row], radius):
            away = (features[row, :, a[0], a[1]] - features[row, :, b[0], b[1]]).abs().mean()
            values[kind].append(math.exp(-float(away)))
    assert all(values.values())
    assert losses["affinity"].item() == pytest.approx(cross_entropy_of_pairs(values), rel=1e-4)


def test_labels_that_are_all_void_teach_nothing() -> None:
    for network in (affinity(), affinity("affinitynet")):
        batch = batch_of(32)
        assert batch.masks is not None
        batch.masks.fill_(VOID)
        (loss,) = PairLoss(network, AffinityFields(radius=3))(batch)[0].values()
        loss.backward()
        assert loss.item() == 0
        assert all(p.grad is None or not p.grad.any() for p in network.parameters())


# -- learning and walking ------------------------------------------------------------------------------------------------


def rates(stage: LearnAffinity) -> dict[int, float]:
    optimizer = stage.plans()["affinity"].optimizer
    return {id(p): group["lr_factor"] for group in optimizer.param_groups for p in group["params"]}


def only(stages: list[Any], kind: type) -> Any:
    (found,) = [stage for stage in stages if isinstance(stage, kind)]
    return found


def test_what_learns_and_at_which_rate(tmp_path: Path) -> None:
    words = ("method.until=masks", "method.affinity.optim.head_lr=3")
    method, stages, _ = run(tmp_path / "a", *words)
    network, found = method.affinity, rates(only(stages, LearnAffinity))
    assert isinstance(network, IrnNetwork)
    assert found == {id(p): 3.0 for p in network.boundary.parameters()}, "the backbone stays as it is"

    method, stages, _ = run(tmp_path / "b", *words, "method.affinity.displacement=true")
    network, found = method.affinity, rates(only(stages, LearnAffinity))
    assert isinstance(network, IrnNetwork) and network.displacement is not None
    fast = {id(p): 10.0 for p in network.displacement.parameters()}  # IRN's 1.0 beside 0.1
    assert found == {id(p): 1.0 for p in network.boundary.parameters()} | fast

    method, stages, _ = run(tmp_path / "c", *words, "method.affinity.kind=affinitynet", "method.affinity.radius=2")
    network, found = method.affinity, rates(only(stages, LearnAffinity))
    assert isinstance(network, AffinityNet)
    assert {found[id(p)] for p in network.head.parameters()} == {3.0}
    norms = {id(p) for m in network.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in m.parameters()}
    backbone = {id(p) for p in network.backbone.parameters()}
    assert {found[p] for p in backbone - norms} == {1.0} and not norms & found.keys()


@pytest.mark.parametrize("kind", ["irn", "affinitynet"])
def test_the_network_begins_with_the_classifier_and_learns_from_the_labels(kind: str, tmp_path: Path) -> None:
    words = ("method.until=masks", f"method.affinity.kind={kind}", "method.affinity.radius=2")
    method, stages, job = run(tmp_path, *words, "method.affinity.batch_size=8", "data.augment.crop=none")
    stage = only(stages, LearnAffinity)
    stored = {}
    for index in stage.data.splits["train"].tolist():
        item = stage.data.source.records[index].id
        generator = torch.Generator().manual_seed(index)
        stored[item] = torch.randint(0, 4, (32, 32), dtype=torch.uint8, generator=generator)
        job.products.write("labels", item, {"labels": stored[item]})
    stage.prepare(job.products)
    backbone, wanted = method.affinity.backbone.state_dict(), method.classifier.backbone.state_dict()
    assert all(torch.equal(backbone[n], wanted[n]) for n in wanted)
    batch = next(stage.batches(0))
    assert batch.masks is not None and len(batch) == 8 and not stage.measured
    for row, item in enumerate(batch.ids):
        assert any(torch.equal(batch.masks[row], view) for view in (stored[item], stored[item].flip(-1)))
    learned = method.affinity.boundary if isinstance(method.affinity, IrnNetwork) else method.affinity.head
    before = [p.detach().clone() for p in learned.parameters()]
    run_stages([stage], job)
    frozen = [n for n in wanted if kind == "irn" or ".bn" in n or n.startswith("bn")]
    after = method.affinity.backbone.state_dict()
    assert frozen and all(torch.equal(after[n], wanted[n]) for n in frozen)
    assert all(not torch.equal(p, q) for p, q in zip(learned.parameters(), before, strict=True))


def test_the_ground_is_taken_before_maps_are_pooled_to_the_walks_cells() -> None:
    network, image = affinity("affinitynet"), torch.rand(1, 3, 16, 24)
    fields = AffinityFields(kind="affinitynet", walk_radius=2, steps=4)
    maps = torch.rand(2, 12, 18)
    with torch.no_grad():
        features = network(image)[0]
    pooled = torch.nn.functional.adaptive_avg_pool2d(with_background(maps)[None], features.shape[1:])[0]
    expected = affinity_walk(pooled, features, radius=2, beta=10, steps=4)
    torch.testing.assert_close(walked(network, image, maps, fields), expected)


def walking(path: Path, source: Sizes, kind: str, network: IrnNetwork | AffinityNet) -> Walk:
    data = PictureData(source, DataFields(source="sizes:", size=8, on_fault="skip"))
    products = Products(path)
    for number, (height, width) in enumerate(source.sizes):
        own = torch.tensor(source.records[number].labels, dtype=torch.int64)
        size = (math.ceil(height / 4), math.ceil(width / 4))
        strided = torch.rand(len(own), *size, generator=torch.Generator().manual_seed(number))
        full = torch.zeros(len(own), height, width).half()
        kept = empty_maps() if number in source.broken else {"classes": own, "strided": strided, "full": full}
        products.write("maps", f"p/{number}", kept)
    fields = PplFields(affinity=AffinityFields(kind=kind, walk_radius=2, steps=4))  # type: ignore[arg-type]
    method: Any = SimpleNamespace(affinity=network, fields=fields)
    stage = Walk(method, data)
    stage.prepare(products)
    return stage


@pytest.mark.parametrize("kind", ["irn", "affinitynet"])
def test_pictures_of_every_size_are_walked(kind: str, tmp_path: Path) -> None:
    sizes = [(1, 1), (2, 30), (17, 22), (24, 24), (2100, 3), (24, 24), (8, 8), (8, 8)]
    labels: list[tuple[int, ...]] = [(1,), (0, 2), (1,), (), (2,), (0,), (1,), (2,)]
    source = Sizes(sizes, labels, broken=(5,))
    network = affinity(kind).train()
    stage = walking(tmp_path, source, kind, network)
    assert stage.items() == [f"p/{n}" for n in range(7)], "not those that are reported on"
    for number, item in enumerate(stage.items()):
        found = stage.compute(item)
        assert found["scores"].dtype == torch.float16 and found["scores"].isfinite().all()
        count = 0 if number == 5 else len(labels[number])
        assert len(found["classes"]) == count
        assert len(found["scores"]) == (count + 1 if kind == "affinitynet" and count else count)
        if count:
            assert found["scores"].min() >= 0 and found["scores"].max() <= 1
            assert kind == "affinitynet" or found["scores"].max() == 1
    assert not network.training
    tall = stage.compute("p/4")["scores"].shape[-2:]
    assert tuple(tall) == (LARGEST // network.stride, 1), "a long side is reduced"
    stage.data.close()
