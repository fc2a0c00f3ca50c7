"""Pairs with mirror images: what FYI rests on, fact by fact; and the measures of symmetry against loops."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from partwise.data.siamese import augment, augment_rule, draw_siamese
from partwise.models.distillation import FlatClassifier, build_flat_classifier
from partwise.ops.flips import (
    feature_unequalness,
    flip_pairs,
    gradient_unequalness,
    half_unequalness,
    picture_unequalness,
    symmetry_energy,
)
from partwise.ops.matching import gradient_distance, mean_feature_distance
from partwise.ops.per_class import class_gradients


def pictures(*lead: int, side: int = 8, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*lead, 3, side, side, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture(scope="module")
def network() -> FlatClassifier:
    torch.manual_seed(1)
    arguments = {"depth": 2, "width": 6}
    return build_flat_classifier(architecture="convnet", num_classes=4, size=8, arguments=arguments).double()


def dm_loss(network: FlatClassifier, synthetic: Tensor, real: Tensor) -> Tensor:
    return mean_feature_distance(network.embed(synthetic), network.embed(real))


def dc_loss(network: FlatClassifier, synthetic: Tensor, real: Tensor) -> Tensor:
    def found(images: Tensor) -> list[Tensor]:
        return class_gradients(network, images[None], torch.full((1, len(images)), 2), how="loop")

    return gradient_distance(found(synthetic), [g.detach() for g in found(real)], classes=True).sum()


LOSSES = {"dm": dm_loss, "dc": dc_loss}


def test_layout_of_pairs() -> None:
    images = torch.arange(2 * 3 * 2 * 3).reshape(2, 3, 2, 3)
    pairs, labels = flip_pairs(images, torch.tensor([7, 8]))
    assert torch.equal(pairs[:2], images) and labels.tolist() == [7, 8, 7, 8]
    for row in range(2):
        for column in range(3):
            assert torch.equal(pairs[2 + row, :, :, column], images[row, :, :, 2 - column])
    assert torch.equal(flip_pairs(images), pairs)
    soft = torch.rand(2, 5)
    assert torch.equal(flip_pairs(images, soft)[1], torch.cat([soft, soft]))


def test_pairs_of_classes_are_pairs_class_by_class() -> None:
    images, labels = pictures(4, 2), torch.arange(8).reshape(4, 2)
    pairs, repeated = flip_pairs(images, labels, dim=1)
    for number in range(4):
        own, truth = flip_pairs(images[number], labels[number])
        assert torch.equal(pairs[number], own) and torch.equal(repeated[number], truth)


def test_pairs_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="no such axis"):
        flip_pairs(pictures(2), dim=1)
    with pytest.raises(ValueError, match=r"targets of shape \(3,\)"):
        flip_pairs(pictures(2), torch.arange(3))


def test_gradient_comes_through_both_halves(network: FlatClassifier) -> None:
    """dL/ds = J(s)^T r + flip(J(flip s)^T r) with r = dL/df of DM, from one vector-Jacobian product a picture."""
    synthetic, real = pictures(3, seed=1).requires_grad_(), pictures(5, seed=2)
    (found,) = torch.autograd.grad(dm_loss(network, flip_pairs(synthetic), real), synthetic)
    with torch.no_grad():
        difference = network.embed(flip_pairs(synthetic)).mean(0) - network.embed(real).mean(0)
    residual = 2 * difference / 6  # six pictures share the mean
    for row in range(3):
        picture = synthetic[row : row + 1].detach()
        _, through_own = torch.autograd.functional.vjp(network.embed, picture, residual[None])
        _, through_mirror = torch.autograd.functional.vjp(network.embed, picture.flip(-1), residual[None])
        expected = through_own + through_mirror.flip(-1)
        torch.testing.assert_close(found[row : row + 1], expected)
        assert (through_mirror.norm() > 0.1 * through_own.norm()).item()


@pytest.mark.parametrize("name", LOSSES)
def test_gradient_is_that_of_finite_differences(name: str) -> None:
    torch.manual_seed(2)
    small = build_flat_classifier(
        architecture="convnet", num_classes=3, size=4, arguments={"depth": 1, "width": 2, "activation": "swish"}
    ).double()
    real, synthetic = pictures(3, side=4, seed=5), pictures(2, side=4, seed=6).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: LOSSES[name](small, flip_pairs(s), real), (synthetic,))


@pytest.mark.parametrize("name", LOSSES)
@given(flipped=st.lists(st.booleans(), min_size=4, max_size=4))
@settings(max_examples=16, deadline=None)
def test_flipping_any_of_the_pictures_changes_nothing(network: FlatClassifier, name: str, flipped: list[bool]) -> None:
    synthetic, real = pictures(4, seed=3), pictures(6, seed=4)
    other = torch.stack([s.flip(-1) if flip else s for s, flip in zip(synthetic, flipped, strict=True)])
    expected = LOSSES[name](network, flip_pairs(synthetic), real)
    torch.testing.assert_close(LOSSES[name](network, flip_pairs(other), real), expected, rtol=1e-8, atol=1e-10)
    if any(flipped):  # without pairs it does matter
        assert not torch.allclose(LOSSES[name](network, other, real), LOSSES[name](network, synthetic, real), rtol=1e-8)


@pytest.mark.parametrize("name", LOSSES)
def test_for_symmetric_pictures_pairs_are_the_pictures(network: FlatClassifier, name: str) -> None:
    synthetic, real = pictures(3, seed=7), pictures(6, seed=8)
    symmetric = ((synthetic + synthetic.flip(-1)) / 2).requires_grad_()
    plain, paired = LOSSES[name](network, symmetric, real), LOSSES[name](network, flip_pairs(symmetric), real)
    torch.testing.assert_close(paired, plain)
    # the gradient is the symmetric part of the plain one: a picture stays symmetric
    own, both = (torch.autograd.grad(loss, symmetric)[0] for loss in (plain, paired))
    torch.testing.assert_close(both, (own + own.flip(-1)) / 2)


def test_a_siamese_flip_maps_pairs_onto_themselves(network: FlatClassifier) -> None:
    rule = augment_rule("vico", strategy="flip")
    synthetic, real = pictures(3, seed=9), pictures(5, seed=10)
    pairs = flip_pairs(synthetic)
    seen = set()
    for seed in range(6):
        draws = draw_siamese(rule, torch.Generator().manual_seed(seed))
        turned = augment(pairs, draws)
        flipped = not torch.equal(turned, pairs)
        seen.add(flipped)
        assert torch.equal(turned, torch.cat([pairs[3:], pairs[:3]]) if flipped else pairs)
        for loss in LOSSES.values():
            torch.testing.assert_close(loss(network, turned, real), loss(network, pairs, real))
    assert seen == {True, False}


# -- measures ------------------------------------------------------------------------------------------------------------


def test_symmetry_energy_pixel_by_pixel() -> None:
    images = pictures(3, side=5)
    for found, image in zip(symmetry_energy(images).tolist(), images, strict=True):
        own = symmetric = 0.0
        for channel in image.tolist():
            for line in channel:
                for value, mirrored in zip(line, reversed(line), strict=True):
                    own += value**2
                    symmetric += ((value + mirrored) / 2) ** 2
        assert found == pytest.approx(symmetric / own)


def test_symmetry_energy_of_known_pictures() -> None:
    images = pictures(1, side=64)
    assert symmetry_energy(images + images.flip(-1)).item() == pytest.approx(1)
    assert symmetry_energy(images - images.flip(-1)).item() == pytest.approx(0)
    assert symmetry_energy(images).item() == pytest.approx(0.5, abs=0.03)
    assert symmetry_energy(torch.zeros(1, 3, 4, 4)).item() == 1
    parts = symmetry_energy(images), symmetry_energy(images.flip(-1))
    torch.testing.assert_close(*parts)


def test_picture_unequalness_pixel_by_pixel() -> None:
    images = pictures(2, side=5)
    for found, image in zip(picture_unequalness(images).tolist(), images, strict=True):
        difference = deviation = 0.0
        for channel in image.tolist():
            mean = sum(map(sum, channel)) / 25
            for line in channel:
                difference += sum(abs(a - b) for a, b in zip(line, reversed(line), strict=True))
                deviation += sum(abs(a - mean) for a in line)
        assert found == pytest.approx(difference / deviation)
    moved = 3 * images + torch.tensor([1.0, -2.0, 5.0]).view(1, 3, 1, 1)
    torch.testing.assert_close(picture_unequalness(moved), picture_unequalness(images))
    symmetric = images + images.flip(-1)
    assert picture_unequalness(symmetric).tolist() == [0, 0]
    assert picture_unequalness(torch.ones(1, 1, 2, 2)).tolist() == [0]


def test_feature_unequalness_set_by_set() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 6, 4, generator=generator, dtype=torch.float64)
    others = torch.randn(2, 3, 5, 4, generator=generator, dtype=torch.float64) + 1
    found = feature_unequalness(features, others)
    assert found.shape == (2, 3)
    for place in ((0, 0), (1, 2)):
        own, other = features[place], others[place]
        spread = (torch.cov(own.T).trace() + torch.cov(other.T).trace()) / 2
        expected = (own.mean(0) - other.mean(0)).norm() ** 2 / spread
        torch.testing.assert_close(found[place], expected)
    torch.testing.assert_close(feature_unequalness(5 * features, 5 * others), found)
    assert feature_unequalness(torch.ones(3, 2), torch.ones(3, 2)).item() == 0
    with pytest.raises(ValueError, match="at least 2"):
        feature_unequalness(features[..., :1, :], others)


def test_chance_alone_gives_the_stated_unequalness() -> None:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(400, 40, 8, generator=generator)
    others = torch.randn(400, 20, 8, generator=generator)
    assert feature_unequalness(features, others).mean().item() == pytest.approx(1 / 40 + 1 / 20, rel=0.1)
    assert half_unequalness(features, generator).mean().item() == pytest.approx(4 / 40, rel=0.1)


def test_halves_are_a_partition() -> None:
    features = torch.arange(7.0)[:, None]
    found = half_unequalness(features, torch.Generator().manual_seed(3)).item()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3)).tolist()
    one, two = torch.tensor(order[:3]).double(), torch.tensor(order[3:6]).double()
    assert found == pytest.approx(((one.mean() - two.mean()) ** 2 / ((one.var() + two.var()) / 2)).item())
    with pytest.raises(ValueError, match="at least 4"):
        half_unequalness(features[:3], torch.Generator())


def test_gradient_unequalness_channel_by_channel(network: FlatClassifier) -> None:
    images, labels = pictures(2, 5, seed=11), torch.randint(4, (2, 5), generator=torch.Generator().manual_seed(0))
    own, mirrored = (class_gradients(network, x, labels, create_graph=False) for x in (images, images.flip(-1)))
    found = gradient_unequalness(own, mirrored, classes=True)
    layers = [place for place, g in enumerate(own) if g.ndim > 2]
    assert found.shape == (3, 2) == (len(layers), 2)
    for row, place in enumerate(layers):
        for number in range(2):
            rows = zip(own[place][number].flatten(1), mirrored[place][number].flatten(1), strict=True)
            values = [1 - F.cosine_similarity(a, b, dim=0).item() for a, b in rows]
            assert found[row, number].item() == pytest.approx(sum(values) / len(values), rel=1e-3)
    assert gradient_unequalness(own, own, classes=True).abs().max() < 1e-3


def test_symmetric_weights_see_no_difference() -> None:
    """A network whose kernels are symmetric gives the mirror image's features mirrored: averaged ones agree."""
    torch.manual_seed(3)
    convolution = nn.Conv2d(3, 4, 3, padding=1).double()
    images = pictures(6, seed=12)

    def measure() -> float:
        with torch.no_grad():
            features, mirrored = (convolution(x).relu().mean((2, 3)) for x in (images, images.flip(-1)))
        return feature_unequalness(features, mirrored).item()

    assert measure() > 1e-4
    with torch.no_grad():
        convolution.weight.add_(convolution.weight.flip(-1)).div_(2)
    assert measure() == pytest.approx(0, abs=1e-20)
