"""The trial of a distilled set: the protocol against the published loop, controls, scores, and what may not matter."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.sample import Batch
from partwise.data.siamese import augment, draw_per_sample
from partwise.evaluate.distilled import (
    Distilled,
    Exhibit,
    augmentation_robust_score,
    label_robust_score,
    short_name,
)
from partwise.evaluate.fresh_networks import (
    flip_rule,
    fresh_network,
    kcentre_places,
    random_places,
    rate_after,
    share_right,
    train_fresh,
)
from partwise.evaluate.runner import run_suite
from partwise.evaluate.trials import TrialFields

CLASSES = ("a", "b", "c")
SMALL = {"depth": 1, "width": 4}


def network(seed: int = 0) -> nn.Module:
    return fresh_network("convnet", SMALL, num_classes=3, size=8, channels=3, seed=seed)


def pictures(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, 8, 8, generator=generator), torch.arange(count) % 3


def test_training_is_the_published_loop() -> None:
    """DC's evaluation: E + 1 passes, a new optimiser at a tenth of the rate once the pass's number is beyond E // 2 + 1."""
    images, labels = pictures(7)
    rule = flip_rule("dsa", "color_crop_cutout_flip_scale_rotate", flip=True)
    trial = TrialFields(epochs=5, batch_size=3)
    ours = train_fresh(network(), images, labels, trial=trial, rule=rule, lr=0.05, epochs=5, seed=3)

    theirs, generator = network().train(), torch.Generator().manual_seed(3)
    optimizer = torch.optim.SGD(theirs.parameters(), 0.05, momentum=0.9, weight_decay=5e-4)
    for epoch in range(6):
        if epoch == 4:
            optimizer = torch.optim.SGD(theirs.parameters(), 0.005, momentum=0.9, weight_decay=5e-4)
        for index in torch.randperm(7, generator=generator).split(3):
            batch = augment(images[index], draw_per_sample(rule, len(index), generator))
            optimizer.zero_grad()
            F.cross_entropy(theirs(batch), labels[index]).backward()
            optimizer.step()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(own, other, rtol=1e-5, atol=1e-6)


def test_idc_drops_by_a_fifth_twice_and_mixes() -> None:
    trial = TrialFields(schedule="idc", epochs=12, cutmix=1.0)
    rates = [rate_after(trial, epoch, 12) for epoch in range(12)]
    assert rates == pytest.approx([1.0] * 8 + [0.2] * 2 + [0.04] * 2)
    images, labels = pictures(6)
    rule = flip_rule("idc", "flip_color_crop_scale_rotate", flip=True)
    mixed, plain = (
        train_fresh(network(), images, labels, trial=t, rule=rule, lr=0.05, epochs=2, seed=3)
        for t in (trial, trial.model_copy(update={"cutmix": 0.0}))
    )
    assert not torch.equal(next(mixed.parameters()), next(plain.parameters()))


def test_the_columns_differ_in_the_flip_alone() -> None:
    strategy = "color_crop_cutout_flip_scale_rotate"
    base, flip = (flip_rule("dsa", strategy, flip=drawn) for drawn in (False, True))
    assert base.before == () and len(base.choice) == 6 and "flip" in base.choice
    assert flip.before == ("flip",) and set(flip.choice) == set(base.choice) - {"flip"}
    nothing, alone = (flip_rule("dsa", "none", flip=drawn) for drawn in (False, True))
    assert (nothing.before, nothing.choice) == ((), ()) and (alone.before, alone.choice) == (("flip",), ())
    base, flip = (flip_rule("idc", "flip_color_crop_scale_rotate", flip=drawn) for drawn in (False, True))
    assert base.before == ("color",) and flip.before == ("flip", "color") and base.choice == flip.choice


def test_kcentre_takes_the_middle_and_then_the_farthest() -> None:
    features = torch.tensor([[0.0], [1.0], [9.0], [4.0], [100.0], [101.0]])
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    assert kcentre_places(features, labels, 3, 2).tolist() == [3, 2, 0, 4, 5]


def test_random_pictures_are_balanced_and_belong_to_the_seed() -> None:
    labels = torch.arange(30) % 3
    first, again, other = (random_places(labels, 4, 3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.bincount(labels[first]).tolist() == [4, 4, 4] and len(set(first.tolist())) == 12


def test_scores_are_ddrankings_on_shares() -> None:
    """IOR = 0.55 - 0.3, HLR = 0.85 - 0.55."""
    alpha = 0.5 * 0.25 - 0.5 * 0.3
    expected = (math.exp(alpha) - math.exp(-1)) / (math.exp(1) - math.exp(-1))
    assert label_robust_score(0.55, 0.3, 0.85) == pytest.approx(expected)
    assert label_robust_score(1.0, 0.0, 1.0, weight=1.0) == pytest.approx(1.0)
    assert augmentation_robust_score(-1.0, -1.0) == pytest.approx(0.0, abs=1e-12)


def test_names() -> None:
    assert [short_name(n) for n in ("convnet-d3", "convnet", "resnet18-ap")] == ["convnet", "convnet", "resnet18_ap"]


class Shown:
    """A set, and pictures as they are."""

    classes = CLASSES

    def __init__(self, **changes: object) -> None:
        images, labels = pictures(6, seed=5)
        fields = TrialFields(networks=2, epochs=2, batch_size=4, whole_epochs=2, control_lrs=(0.001, 0.1))
        made = Exhibit(images, labels, 2, "fyi", "convnet", SMALL, 0.01, fields, 0)
        self.made = replace(made, **changes)  # type: ignore[arg-type]

    def exhibit(self) -> Exhibit:
        return self.made

    def seen(self, images: Tensor) -> Tensor:
        return images


def batch(count: int, seed: int) -> Batch:
    images, labels = pictures(count, seed)
    return Batch([str(i) for i in range(count)], torch.arange(count), images.sigmoid(), labels)


def test_a_trial_trains_what_it_says_and_repeats_itself() -> None:
    suite = Distilled(CLASSES)
    found, again = (run_suite(suite, Shown(), [batch(12, 1)], validation=[batch(30, 2)]) for _ in range(2))
    assert found.metrics == again.metrics and found.detail == again.detail
    detail = found.detail["distilled/fyi-flip/convnet_top1"]
    assert len(detail["each"]) == 2 and detail["epochs"] == 2
    assert found.detail["distilled/flip/random_top1"]["lr"] in (0.001, 0.1)
    assert found.detail["distilled/flip/whole_top1"]["pictures"] == 30
    # by hand: the second network of the column without the flip
    from partwise.ops import draws

    shown = Shown().made
    seeds = [draws.derive(0, "trial", *key, "convnet", 1) for key in (("weights",), ("order", "noflip"))]
    trained = train_fresh(
        network(seeds[0]),
        shown.images,
        shown.labels,
        trial=shown.fields,
        rule=flip_rule("dsa", shown.fields.strategy, flip=False),
        lr=0.01,
        epochs=2,
        seed=seeds[1],
    )
    pixels = (batch(12, 1).images * 255).round().to(torch.uint8)
    share = share_right(trained, pixels, batch(12, 1).targets, lambda part: part.float() / 255)  # type: ignore[arg-type]
    assert found.detail["distilled/fyi-noflip/convnet_top1"]["each"][1] == share


def test_other_architectures_and_a_single_network() -> None:
    fields = TrialFields(networks=1, epochs=1, others=("lenet",), controls=())
    big = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    shown = Shown(images=big, labels=torch.arange(3), fields=fields, per_class=1)
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    tested = Batch(list("abcde"), torch.arange(5), images, torch.arange(5) % 3)
    found = run_suite(Distilled(CLASSES), shown, [tested], validation=[tested])
    assert "distilled/fyi-flip/lenet_top1" in found.metrics and "distilled/flip/random_top1" not in found.metrics
    assert found.detail["distilled/fyi-flip/convnet_top1_std"] == {"left_out": "there is only one network"}
