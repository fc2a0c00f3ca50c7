"""The suite `ood`: every number of every set by hand, means with and without noise, and foreign rows through the runner."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from partwise.data.sample import Batch
from partwise.evaluate.ood import NOISES, NUMBERS, SCORES, OutOfDistribution, noise_pictures
from partwise.evaluate.runner import run_suite
from partwise.ops.ood_scores import OF_LOGITS, TRIVIAL, odin
from partwise.ops.separation import separation


class Model:
    """Logits that are linear in a few pixels."""

    classes: Sequence[str] = ("a", "b", "c")
    training = False

    def logits(self, images: Tensor) -> Tensor:
        return 9 * images[:, :, 2, 1:4].mean(1) - 3 * images[:, :1, 4, 4]


def batch(count: int, seed: int, first: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    index = torch.arange(count) + first
    return Batch(
        [f"{seed}/{i}" for i in index.tolist()], index, torch.rand(count, 3, 8, 8, generator=generator).pow(1 + seed)
    )


def scored(images: Tensor) -> dict[str, Tensor]:
    model = Model()
    found = {name: score(model.logits(images)) for name, score in OF_LOGITS.items()}
    return found | {"odin": odin(model.logits, images)}


def test_every_set_and_the_means() -> None:
    own, foreign = batch(20, 0), {"far": [batch(9, 2), batch(6, 2, 9)], "near": [batch(12, 1)]}
    found = run_suite(OutOfDistribution(Model.classes), Model(), [own], validation=None, foreign=foreign)
    inside = scored(own.images)
    sets = {
        **{noise: scored(noise_pictures(noise, own)) for noise in NOISES},
        "far": scored(torch.cat([part.images for part in foreign["far"]])),
        "near": scored(foreign["near"][0].images),
    }
    for score in SCORES:
        each = {name: separation(inside[score], own_scores[score]) for name, own_scores in sets.items()}
        for number in NUMBERS:
            values = {name: getattr(result, number) for name, result in each.items()}
            for name, value in values.items():
                assert found.metrics[f"ood/{score}@{name}/{number}"] == pytest.approx(value), (score, name)
            assert found.metrics[f"ood/{score}/{number}"] == pytest.approx(sum(values.values()) / 4)
            foreign_mean = (values["far"] + values["near"]) / 2
            assert found.metrics[f"ood/{score}@sources/{number}"] == pytest.approx(foreign_mean)
    assert found.detail["ood/odin@far/auroc"] == {"n": 20, "n_foreign": 15, "temperature": 1000.0, "step": 0.0014}
    assert found.detail["ood/msp@sources/auroc"]["sets"] == ["far", "near"]
    assert {f"ood/{s}@{name}/auroc" for s in TRIVIAL for name in sets} <= set(found.metrics)
    assert all(found.metrics[f"ood/{s}@far/auroc"] >= 0.5 for s in TRIVIAL)


def test_noise_alone_leaves_the_mean_over_sources_out() -> None:
    found = run_suite(OutOfDistribution(Model.classes), Model(), [batch(5, 0)], validation=None)
    assert "ood/msp@sources/auroc" not in found.metrics
    assert "no foreign source" in found.detail["ood/msp@sources/auroc"]["left_out"]


def test_noise_is_the_picture_s_own_and_as_the_paper_has_it() -> None:
    own = batch(200, 0)
    for kind in NOISES:
        drawn = noise_pictures(kind, own)
        part = Batch(own.ids[3:5], own.index[3:5], own.images[3:5])
        assert torch.equal(noise_pictures(kind, part), drawn[3:5]) and drawn.min() >= 0 and drawn.max() <= 1
    uniform, gaussian = (noise_pictures(kind, own) for kind in NOISES)
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.01) and float(uniform.var()) == pytest.approx(
        1 / 12, abs=2e-3
    )
    # Half of a Gaussian of deviation 1 about 0.5 lies within [0, 1] to 38 %; the rest is clipped to either end.
    assert float((gaussian == 0).float().mean()) == pytest.approx(0.3085, abs=0.01)
    assert float((gaussian == 1).float().mean()) == pytest.approx(0.3085, abs=0.01)


def test_a_picture_with_a_row_for_every_score_and_set() -> None:
    own = batch(6, 0)
    suite = OutOfDistribution(Model.classes)
    foreign = {"far": [batch(9, 2)]}
    found = run_suite(suite, Model(), [own], validation=None, foreign=foreign, images=lambda index: own.images)
    (picture,) = found.pictures
    assert picture.name == "ood" and len(picture.rows) == 3 * (len(SCORES) + len(TRIVIAL)) and picture.image.ndim == 3


def test_logits_that_are_not_finite_are_no_scores() -> None:
    class Broken(Model):
        def logits(self, images: Tensor) -> Tensor:
            return super().logits(images) / 0

    with pytest.raises(ValueError, match="not finite"):
        run_suite(OutOfDistribution(Model.classes), Broken(), [batch(3, 0)], validation=None)
