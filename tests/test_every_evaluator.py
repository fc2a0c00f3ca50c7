"""Every evaluator of the table, on models whose scores are known: perfect, constant, and noise.

A new suite is found by itself; all it adds here is a line in KNOWN.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from partwise.data.sample import Batch
from partwise.evaluate.base import SUITES, Evaluation, Evaluator, find_evaluator
from partwise.evaluate.distilled import Distilled, Exhibit
from partwise.evaluate.embedding import Embedding
from partwise.evaluate.fewshot import SHOTS, FewShot
from partwise.evaluate.karyotype import GROUPS, OF_CELLS, OF_DISPATCH, OF_PICTURES, coin
from partwise.evaluate.ood import NOISES, NUMBERS, SCORES, OutOfDistribution, noise_pictures
from partwise.evaluate.robustness import Robustness
from partwise.evaluate.runner import run_suite
from partwise.evaluate.trials import TrialFields
from partwise.ops.iscn import TYPES
from partwise.ops.ood_scores import TRIVIAL

CLASSES = tuple("abcdefg")
SIDE = 16
COUNT = 23

# The names of METRICS.md, and `map`, which stands in for them where a picture has several labels.
DEFINED = {
    "classification": {"top1", "top5", "nll", "ece", "map"},
    "localization": {"max_box_acc_50", "max_box_acc_v2", "gt_known", "top1_loc", "pxap"},
    "ood": set(OutOfDistribution.metrics),
    "robustness": set(Robustness.metrics),
    "segmentation": {"cam_miou", "cam_precision", "cam_recall", "miou"},
    "pseudo_masks": {"pseudo_miou"},
    "karyotype": {
        "undispatched_trisomy_kept",
        *(f"{kind}{name}" for kind in ("", *(f"{g}/" for g in GROUPS)) for name in (*OF_PICTURES, *OF_CELLS)),
        *(f"{way}{m}" for way in OF_DISPATCH for m in ("trisomy_kept", "warning_rate_healthy", "warning_sensitivity")),
    },
    "embedding": set(Embedding.metrics),
    "fewshot": set(FewShot.metrics),
    "distilled": set(Distilled.metrics),
}
OOD_SETS = ("sources", *NOISES)
OPEN = {
    "ood": {
        *(f"{score}@{name}/{number}" for score in SCORES for name in OOD_SETS for number in NUMBERS),
        *(f"{statistic}@{name}/auroc" for statistic in TRIVIAL for name in NOISES),
    },
    "fewshot": {f"fewshot_dice_{organ}_{shots}" for organ in CLASSES for shots in SHOTS},
}
"""Names that depend on the classes."""
UNBOUNDED = {"classification/nll", "embedding/effective_rank", "distilled/unequalness"}
SIGNED = ("_cosine", "_control", "_random", "_margin", "_silhouette")
ALWAYS_THERE = {
    "classification": {"top1", "top5", "nll", "ece"},
    "localization": {"max_box_acc_50", "max_box_acc_v2", "gt_known", "top1_loc", "pxap"},
    "ood": set(OutOfDistribution.metrics),
    "robustness": {"fgsm_top1", "pgd_top1", "occlusion_centre_top1", "occlusion_boundary_top1", "corruption_top1"},
    "segmentation": {"cam_miou", "cam_precision", "cam_recall", "miou"},
    "pseudo_masks": {"pseudo_miou"},
    "karyotype": set(OF_PICTURES),
    "embedding": {"knn_top1", "linear_top1", "compose_cosine"},
    "fewshot": {"fewshot_dice_3", "fewshot_dice_6", "fewshot_dice_12"},
    "distilled": {f"fyi-{cell}/convnet_top1{end}" for cell in ("flip", "noflip") for end in ("", "_std")},
}
IN_REACH: dict[str, set[str]] = {"robustness": {"fgsm_top1", "pgd_top1"}, "ood": set()}
"""What a model that is right of pictures as they are reaches, where that is not everything."""
SMALLER_IS_BETTER = {"nll", "ece", "fyi-flip/convnet_top1_std", "fyi-noflip/convnet_top1_std"}
TRUTH: dict[str, Tensor] = {}
"""The masks of every scene by name: pseudo masks are asked for by name alone."""


def full(suite: str, name: str) -> str:
    """What a number of a suite is called."""
    return f"{find_evaluator(suite).family or suite}/{name}"


def classes_of(suite: str) -> tuple[str, ...]:
    return TYPES if suite == "karyotype" else CLASSES


def scene(suite: str, seed: int) -> Batch:
    """What a suite measures."""
    kinds = {"karyotype": chromosomes, "fewshot": bodies, "distilled": colours}
    return kinds.get(suite, pictures)(seed)


def bodies(seed: int, count: int = COUNT) -> Batch:
    """Pictures that show every class as a stripe at a place of its own: the first channel names it."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(count, 3, SIDE, SIDE, generator=generator)
    images[:, :2] = 0
    for row in range(count):
        for k in range(len(CLASSES)):
            first = int(torch.randint(12, (1,), generator=generator))
            images[row, 0, first : first + 3, 2 * k : 2 * k + 2] = (k + 1) / 10
    masks = (images[:, 0] * 10).round().to(torch.uint8)
    masks[:, -1] = 255
    index = torch.arange(count) * 3 + 5 + 1000 * seed
    return Batch([f"{seed}/{i}" for i in index.tolist()], index, images, None, masks)


PALETTE = torch.tensor([[k >> bit & 1 for bit in range(3)] for k in range(len(CLASSES))]).float()
"""A colour a class."""


def colours(seed: int, count: int = COUNT) -> Batch:
    """Pictures of one colour each, which names the class, and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % len(CLASSES)
    images = 0.9 * PALETTE[labels][:, :, None, None] + 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    index = torch.arange(count) * 3 + 5 + 1000 * seed
    return Batch([f"{seed}/{i}" for i in index.tolist()], index, images, labels)


def exhibit(images: Tensor, labels: Tensor, *, controls: bool) -> Exhibit:
    """A set that a network without norm learns in no time."""
    fields = TrialFields(
        networks=2,
        epochs=60,
        batch_size=7,
        strategy="none",
        whole_epochs=30,
        controls=("random", "whole") if controls else (),
    )
    arguments = {"depth": 1, "width": 8, "norm": "none", "pooling": "none"}
    return Exhibit(images, labels, 1, "fyi", "convnet", arguments, 0.01, fields, 0)


def chromosomes(seed: int, count: int = COUNT) -> Batch:
    """Grey pictures of no case: the outermost rows name the type, the row below the upper one says which way is up."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(TYPES), (count,), generator=generator)
    images = torch.rand(count, 1, SIDE, SIDE, generator=generator)
    images[:, :, 0] = images[:, :, -1] = labels[:, None, None] / 30
    images[:, :, 1], images[:, :, -2] = 1, 0
    index = torch.arange(count) * 3 + 5
    ids = [f"{seed}/{i}" for i in index.tolist()]
    return Batch(ids, index, images, labels, polarities=torch.ones(count, dtype=torch.int64))


def pictures(seed: int, count: int = COUNT) -> Batch:
    """Pictures that say everything: the first channel names the class, the second shows the object."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(CLASSES), (count,), generator=generator)
    images = torch.zeros(count, 3, SIDE, SIDE)
    boxes = []
    for row in range(count):
        x1, y1 = torch.randint(0, 7, (2,), generator=generator).tolist()
        w, h = torch.randint(2, 9, (2,), generator=generator).tolist()
        images[row, 1, y1 : y1 + h, x1 : x1 + w] = 1
        boxes.append(torch.tensor([[x1, y1, x1 + w, y1 + h]]).float())
    images[:, 0] = labels[:, None, None] / 10
    images[:, 2] = torch.rand(count, SIDE, SIDE, generator=generator)
    masks = images[:, 1].to(torch.uint8) * (labels[:, None, None] + 1).to(torch.uint8)
    masks[:, -1] = 255
    index = torch.arange(count) * 3 + 5 + 1000 * seed
    ids = [f"{seed}/{i}" for i in index.tolist()]
    TRUTH.update(zip(ids, masks, strict=True))
    landmarks = SIDE * torch.rand(count, 3, 2, generator=generator)
    return Batch(ids, index, images, labels, masks, boxes, landmarks=landmarks)


class Perfect:
    """Reads the answers off the picture."""

    classes: Sequence[str] = CLASSES

    def logits(self, images: Tensor) -> Tensor:
        labels = (images[:, 0, 0, 0] * 10).round().long().clamp(max=len(CLASSES) - 1)
        return 100.0 * torch.nn.functional.one_hot(labels, len(CLASSES)).float()

    def maps(self, images: Tensor) -> Tensor:
        return images[:, 1:2].expand(-1, len(CLASSES), -1, -1) * 3.0

    def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
        return images[:, 1:2] * labels[:, :, None, None]

    def segment(self, images: Tensor) -> Tensor:
        return (images[:, 1] * ((images[:, 0] * 10).round() + 1)).to(torch.uint8)

    def pseudo_mask(self, id: str) -> Tensor | None:
        return TRUTH[id]

    def embed(self, images: Tensor) -> Tensor:
        return self.logits(images[:, :, SIDE // 2 :, SIDE // 2 :])

    def exhibit(self) -> Exhibit:
        labels = torch.arange(len(CLASSES))
        return exhibit(PALETTE[:, :, None, None].expand(-1, -1, SIDE, SIDE), labels, controls=True)

    def seen(self, images: Tensor) -> Tensor:
        return images

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        value = (images[:, :1] * 10).round()
        return [(value == torch.arange(1, len(CLASSES) + 1)[:, None, None]).float()]

    def chromosome_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        types, down = (images[:, 0, 0, 0] * 30).round().long(), images[:, 0, 1, 0].round().long()
        one_hot = torch.nn.functional.one_hot
        return 100.0 * one_hot(types, len(TYPES)).float(), 100.0 * one_hot(down, 2).float()


class Constant(Perfect):
    """Knows nothing: every class and every place alike."""

    def logits(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), len(CLASSES))

    def maps(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), len(CLASSES), 4, 4)

    def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
        return labels[:, :, None, None].expand(-1, -1, SIDE, SIDE)

    def segment(self, images: Tensor) -> Tensor:
        return torch.zeros(len(images), SIDE, SIDE, dtype=torch.uint8)

    def pseudo_mask(self, id: str) -> Tensor | None:
        return torch.full((SIDE, SIDE), 255, dtype=torch.uint8)

    def embed(self, images: Tensor) -> Tensor:
        return torch.ones(len(images), 5)

    def exhibit(self) -> Exhibit:
        return exhibit(torch.ones(7, 3, SIDE, SIDE), torch.zeros(7, dtype=torch.int64), controls=False)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        return [torch.ones(len(images), 2, 4, 4)]

    def chromosome_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros(len(images), len(TYPES)), torch.zeros(len(images), 2)


class Noise(Perfect):
    """Arbitrary, but a function of each picture alone."""

    def logits(self, images: Tensor) -> Tensor:
        return images[:, 2, 0, : len(CLASSES)] * 4 + images[:, 0, 0, :1]

    def maps(self, images: Tensor) -> Tensor:
        return images[:, 2:3, 2:8, 2:8] - torch.linspace(0, 1, len(CLASSES))[:, None, None]

    def seeds(self, images: Tensor, labels: Tensor) -> Tensor:
        return images[:, 2:3] * labels[:, :, None, None]

    def segment(self, images: Tensor) -> Tensor:
        return (images[:, 2] * (len(CLASSES) + 1)).to(torch.uint8)

    def pseudo_mask(self, id: str) -> Tensor | None:
        return TRUTH[id].roll(int(id.split("/")[1]), dims=1)

    def embed(self, images: Tensor) -> Tensor:
        return images[:, :, 3::5, 3::5].flatten(1) - 0.3

    def exhibit(self) -> Exhibit:
        noise = torch.rand(7, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(9))
        return exhibit(noise, torch.arange(7), controls=True)

    def stage_maps(self, images: Tensor) -> list[Tensor]:
        return [images[:, 2:] - 0.5, images[:, 2:, ::4, ::4]]

    def chromosome_logits(self, images: Tensor) -> tuple[Tensor, Tensor]:
        noise = images[:, 0, 3:-3].flatten(1)
        return 4 * noise[:, : len(TYPES)], 4 * noise[:, -2:]


def evaluate(suite: str, model: object, batches: list[Batch], validation: list[Batch]) -> Evaluation:
    return run_suite(find_evaluator(suite)(classes_of(suite)), model, batches, validation=validation)


def split(batch: Batch, order: Sequence[int], size: int) -> list[Batch]:
    """The same pictures in another order, in batches of `size`."""
    parts = []
    for start in range(0, len(order), size):
        rows = list(order[start : start + size])

        def own(tensor: Tensor | None, rows: list[int] = rows) -> Tensor | None:
            return None if tensor is None else tensor[rows]

        parts.append(
            Batch(
                [batch.ids[i] for i in rows],
                batch.index[rows],
                batch.images[rows],
                own(batch.targets),
                own(batch.masks),
                None if batch.boxes is None else [batch.boxes[i] for i in rows],
                polarities=own(batch.polarities),
                landmarks=own(batch.landmarks),
            )
        )
    return parts


def full_frame_share(batch: Batch) -> float:
    """How often the whole picture as a box overlaps the true one by more than a half."""
    assert batch.boxes is not None
    shares = [float((box[0, 2] - box[0, 0]) * (box[0, 3] - box[0, 1])) / SIDE**2 for box in batch.boxes]
    return sum(share > 0.5 for share in shares) / len(shares)


def trivial_classification(batch: Batch) -> dict[str, float]:
    assert batch.targets is not None
    first = (batch.targets == 0).double().mean().item()
    return {
        "top1": first,
        "top5": (batch.targets < 5).double().mean().item(),
        "nll": math.log(len(CLASSES)),
        "ece": abs(first - 1 / len(CLASSES)),
    }


def trivial_localization(batch: Batch) -> dict[str, float]:
    assert batch.targets is not None and batch.masks is not None
    kept = batch.masks != 255
    covered = full_frame_share(batch)
    return {
        "max_box_acc_50": 0.0,
        "max_box_acc_v2": 0.0,
        "gt_known": covered,
        "top1_loc": covered * (batch.targets == 0).double().mean().item(),
        "pxap": ((batch.masks > 0) & kept).sum().item() / kept.sum().item(),
    }


def trivial_ood(batch: Batch) -> dict[str, float]:
    """All pictures have one score: nothing is told apart, but for the statistics without a network."""
    numbers = {"auroc": 0.5, "aupr_in": 0.5, "aupr_out": 0.5, "tnr95": 0.0, "fpr95": 1.0, "detection_accuracy": 0.5}
    sets = ("", *(f"@{noise}" for noise in NOISES))
    found = {f"{score}{name}/{number}": value for score in SCORES for name in sets for number, value in numbers.items()}
    for name, statistic in TRIVIAL.items():
        for noise in NOISES:
            inside, outside = statistic(batch.images), statistic(noise_pictures(noise, batch))
            wins = (inside[:, None] > outside).double() + 0.5 * (inside[:, None] == outside)
            found[f"{name}@{noise}/auroc"] = max(wins.mean().item(), 1 - wins.mean().item())
    return found


def trivial_robustness(batch: Batch) -> dict[str, float]:
    """The first class, whatever is done to the picture."""
    first = trivial_classification(batch)["top1"]
    return {name: first for name in Robustness.metrics if not name.startswith("between")}


def mean_over_shown(batch: Batch, each: Callable[[int, Tensor], float]) -> float:
    """The mean of a number over the classes that are shown; it is given the class and which pictures show it."""
    assert batch.targets is not None
    shown = batch.targets.unique().tolist()
    return sum(each(k, batch.targets == k) for k in shown) / len(shown)


def trivial_segmentation(batch: Batch) -> dict[str, float]:
    """Maps find each picture's class everywhere, the network finds ground everywhere."""
    assert batch.targets is not None and batch.masks is not None
    masks, kept = batch.masks, batch.masks != 255
    covered = mean_over_shown(batch, lambda k, own: ((masks == k + 1).sum() / kept[own].sum()).item())
    num_shown = len(batch.targets.unique())
    return {
        "cam_miou": covered * num_shown / (num_shown + 1),
        "cam_precision": covered,
        "cam_recall": 1.0,
        "miou": ((masks == 0).sum() / kept.sum()).item() / (num_shown + 1),
    }


def trivial_pseudo_masks(batch: Batch) -> dict[str, float]:
    """Undecided everywhere, which counts as ground."""
    return {"pseudo_miou": trivial_segmentation(batch)["miou"]}


def trivial_karyotype(batch: Batch) -> dict[str, float]:
    """The first type and polarity 0 of all; no cells."""
    assert batch.targets is not None
    first = (batch.targets == 0).double().mean().item()
    kinds = len({0, *batch.targets.tolist()})
    upside_down = sum(coin(name) for name in batch.ids) / len(batch)
    return {
        "type_top1": first,
        "type_f1": 2 * first / (1 + first) / kinds,
        "polarity_top1": upside_down,
        "polarity_recall_0": 1.0,
        "polarity_recall_1": 0.0,
    }


def trivial_embedding(batch: Batch) -> dict[str, float]:
    """All pictures and windows are alike: neighbours are the first 20, and the linear layer names the commonest class."""
    bank = pictures(8).targets
    assert batch.targets is not None and bank is not None
    named = [torch.bincount(own, minlength=len(CLASSES)).argmax() for own in (bank[:20], bank)]
    knn, linear = ((batch.targets == name).double().mean().item() for name in named)
    asked = ("compose", "interpolate", "extrapolate", "scale")
    kinds = {"cosine": 1.0, "control": 1.0, "margin": 0.0}
    return {
        "knn_top1": knn,
        "linear_top1": linear,
        "effective_rank": 1.0,
        "compose_random": 1.0,
        **{f"{name}_{kind}": value for name in asked for kind, value in kinds.items()},
        "landmark_knn_top1": 1 / 3,
        "landmark_linear_top1": 1 / 3,
        "landmark_silhouette": 0.0,
        "landmark_nmi": 0.0,
        "retrieval_recall_1": 1 / 3,
        "retrieval_recall_5": 1.0,
        "retrieval_recall_10": 1.0,
    }


def trivial_fewshot(batch: Batch) -> dict[str, float]:
    """No organ is likelier than not anywhere, so that none is found."""
    return {f"fewshot_dice_{organ}{n}": 0.0 for organ in ("", *(f"{c}_" for c in CLASSES)) for n in SHOTS[:3]}


def trivial_distilled(batch: Batch) -> dict[str, float]:
    """A set of one class teaches to name that one; its pictures are flat."""
    assert batch.targets is not None
    first = (batch.targets == 0).double().mean().item()
    cells = {f"fyi-{cell}/convnet_top1": first for cell in ("flip", "noflip")}
    return cells | {f"{name}_std": 0.0 for name in cells} | {"unequalness": 0.0}


KNOWN: dict[str, Callable[[Batch], dict[str, float]]] = {
    "classification": trivial_classification,
    "localization": trivial_localization,
    "ood": trivial_ood,
    "robustness": trivial_robustness,
    "segmentation": trivial_segmentation,
    "pseudo_masks": trivial_pseudo_masks,
    "karyotype": trivial_karyotype,
    "embedding": trivial_embedding,
    "fewshot": trivial_fewshot,
    "distilled": trivial_distilled,
}


@pytest.fixture(params=sorted(SUITES))
def suite(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_contract(suite: str) -> None:
    evaluator = find_evaluator(suite)
    assert issubclass(evaluator, Evaluator) and evaluator.suite == suite
    assert set(evaluator.metrics) == DEFINED[suite], "METRICS.md and the evaluator must agree"
    assert isinstance(Perfect(), evaluator.needs) and not isinstance(object(), evaluator.needs)
    assert evaluator.wants | evaluator.optional <= {"targets", "boxes", "masks", "parts", "landmarks"}
    assert not evaluator.wants & evaluator.optional
    assert evaluator.__doc__


def test_names_values_and_detail(suite: str) -> None:
    found = evaluate(suite, Noise(), [scene(suite, 0)], [scene(suite, 1)])
    defined = {full(suite, name) for name in DEFINED[suite] | OPEN.get(suite, set())}
    assert {full(suite, name) for name in ALWAYS_THERE[suite]} <= set(found.metrics) <= defined
    assert set(found.metrics) <= set(found.detail) <= defined
    for name, value in found.metrics.items():
        assert type(value) is float and math.isfinite(value) and (value >= 0 or name.endswith(SIGNED))
        assert name in UNBOUNDED or abs(value) <= 1
        assert found.detail[name]["n"] == COUNT or "_recall_" in name  # of one side alone
    assert json.loads(json.dumps(found.detail)) == found.detail
    assert found.pictures == [], "without pictures to draw on nothing is drawn"


def test_batches_and_order_do_not_matter(suite: str) -> None:
    data, validation = scene(suite, 2), scene(suite, 3)
    whole = evaluate(suite, Noise(), [data], [validation])
    order = torch.randperm(COUNT, generator=torch.Generator().manual_seed(4)).tolist()
    parts = evaluate(suite, Noise(), split(data, order, 4), split(validation, order, 7))
    assert parts.metrics == pytest.approx(whole.metrics, rel=1e-12)
    assert parts.detail.keys() == whole.detail.keys()


def test_repeated_pictures_count_once(suite: str) -> None:
    """Samplers repeat pictures to give every process as many."""
    data, validation = scene(suite, 2), scene(suite, 3)
    once = evaluate(suite, Noise(), [data], [validation])
    more = evaluate(suite, Noise(), [data, *split(data, [0, 5, 5], 2)], [validation])
    assert more.metrics == pytest.approx(once.metrics, rel=1e-12)


def test_a_perfect_model(suite: str) -> None:
    found = evaluate(suite, Perfect(), [scene(suite, 5)], [scene(suite, 6)])
    for name in IN_REACH.get(suite, ALWAYS_THERE[suite]):
        best = 0.0 if name in SMALLER_IS_BETTER else 1.0
        assert found.metrics[full(suite, name)] == pytest.approx(best, abs=1e-6)


def test_a_model_that_knows_nothing(suite: str) -> None:
    data = scene(suite, 7)
    found = evaluate(suite, Constant(), [data], [scene(suite, 8)])
    expected = {full(suite, name): value for name, value in KNOWN[suite](data).items()}
    assert found.metrics == pytest.approx(expected, abs=1e-6)


def test_data_without_what_it_wants_is_refused(suite: str) -> None:
    evaluator = find_evaluator(suite)(classes_of(suite))
    assert evaluator.why_not(Perfect(), scene(suite, 0)) is None
    for name in evaluator.wants:
        refusal = evaluator.why_not(Perfect(), replace(scene(suite, 0), **{name: None}))
        assert refusal is not None and suite in refusal and name in refusal and "\n" not in refusal
    for name in evaluator.optional:
        assert evaluator.why_not(Perfect(), replace(scene(suite, 0), **{name: None})) is None
    refusal = evaluator.why_not(object(), scene(suite, 0))
    assert refusal is not None and evaluator.needs.__name__ in refusal
