"""Dense CRF against the public code's numbers, its Python package where installed, and all pairs of pixels."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.ops.crf import (
    CRF_PRESETS,
    CrfSettings,
    DenseCrf,
    crf_labels,
    dense_crf,
    unary_from_labels,
    unary_from_probabilities,
)

IRN = CRF_PRESETS["irn"]
PICKED = ((0, 0), (2, 1), (3, 4), (5, 5))
TABLE = [
    ("irn", 1, (0.903255, 0.715817, 0.441291, 0.115147)),
    ("irn", 10, (0.999989, 0.999940, 0.000103, 0.000016)),
    ("psa", 1, (0.902422, 0.715474, 0.441973, 0.114757)),
    ("deeplab", 1, (0.825531, 0.532811, 0.636210, 0.186405)),
    ("deeplab", 10, (0.999105, 0.997402, 0.004814, 0.001007)),
]
"""(preset, iterations, the public code's marginals of label 0 at PICKED)."""


def halves() -> tuple[Tensor, Tensor]:
    """Black and light grey side by side, 6 x 6; two labels with a doubtful pixel on each side."""
    image = torch.zeros(3, 6, 6, dtype=torch.uint8)
    image[:, :, 3:] = 200
    first = torch.full((6, 6), 0.4)
    first[:, :3] = 0.6
    first[2, 1], first[3, 4] = 0.3, 0.8
    return image, -torch.stack([first, 1 - first]).log()


def scene(height: int, width: int, num_labels: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """A picture of smooth colours with a little noise, and smooth probabilities."""
    generator = torch.Generator().manual_seed(seed)
    coarse = 255 * torch.rand(1, 3, 4, 5, generator=generator)
    colours = F.interpolate(coarse, size=(height, width), mode="bilinear")[0]
    image = (colours + 4 * torch.randn(colours.shape, generator=generator)).clamp(0, 255).to(torch.uint8)
    logits = F.interpolate(2 * torch.randn(1, num_labels, 5, 6, generator=generator), size=(height, width))[0]
    return image, unary_from_probabilities(logits.softmax(dim=0))


@pytest.mark.parametrize(("preset", "iterations", "expected"), TABLE)
def test_marginals_of_the_public_code(preset: str, iterations: int, expected: tuple[float, ...]) -> None:
    image, unary = halves()
    marginals = dense_crf(image, unary, replace(CRF_PRESETS[preset], iterations=iterations))
    found = [marginals[0, y, x].item() for y, x in PICKED]
    assert found == pytest.approx(expected, abs=1e-5)
    assert torch.allclose(marginals.sum(dim=0), torch.ones(6, 6))


@pytest.mark.oracle
@pytest.mark.parametrize("preset", CRF_PRESETS)
@pytest.mark.parametrize("flat", [False, True])
def test_the_public_package(preset: str, flat: bool) -> None:
    """Also where many points lie on borders of simplices, which only equal rounding puts into the same ones."""
    pydensecrf = pytest.importorskip("pydensecrf.densecrf")
    settings = CRF_PRESETS[preset]
    image, unary = scene(48, 64, 4)
    if flat:
        image = image // 64 * 64
    field = pydensecrf.DenseCRF2D(64, 48, 4)
    field.setUnaryEnergy(np.ascontiguousarray(unary.flatten(1).numpy()))
    field.addPairwiseGaussian(sxy=settings.spatial_std, compat=settings.spatial_weight)
    pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
    field.addPairwiseBilateral(
        sxy=settings.bilateral_std, srgb=settings.colour_std, rgbim=pixels, compat=settings.bilateral_weight
    )
    theirs = torch.from_numpy(np.array(field.inference(settings.iterations))).reshape(4, 48, 64)
    assert torch.allclose(dense_crf(image, unary, settings), theirs, atol=1e-5)


def all_pairs(image: Tensor, unary: Tensor, settings: CrfSettings) -> Tensor:
    """Mean field with exact kernels, as dense matrices."""
    height, width = image.shape[1:]
    y, x = np.mgrid[:height, :width]
    position = torch.from_numpy(np.stack([x, y], axis=-1).reshape(-1, 2)).double()
    colour = image.flatten(1).T.double()
    bilateral = torch.cat([position / settings.bilateral_std, colour / settings.colour_std], dim=1)
    pair = torch.zeros(len(position), len(position), dtype=torch.float64)
    for features, weight in (
        (position / settings.spatial_std, settings.spatial_weight),
        (bilateral, settings.bilateral_weight),
    ):
        gauss = (-(features[:, None] - features[None]).square().sum(-1) / 2).exp()
        scale = gauss.sum(1).rsqrt()
        pair += weight * scale[:, None] * gauss * scale
    energy = unary.flatten(1).double()
    marginals = (-energy).softmax(dim=0)
    for _ in range(settings.iterations):
        marginals = (-energy + marginals @ pair).softmax(dim=0)
    return marginals.reshape(unary.shape).float()


def test_all_pairs_of_a_small_picture() -> None:
    """The lattice only approximates the Gaussian, so closely where kernels are wide."""
    image, unary = scene(20, 24, 3)
    settings = replace(CRF_PRESETS["psa"], iterations=1)
    exact, found = all_pairs(image, unary, settings), dense_crf(image, unary, settings)
    assert (found - exact).abs().mean() < 0.02
    assert (found.argmax(0) == exact.argmax(0)).float().mean() > 0.97
    assert (exact - unary.neg().softmax(0)).abs().mean() > 0.1, "there was something to find out"


def test_without_weights_or_steps_only_the_evidence_counts() -> None:
    image, unary = scene(10, 12, 4)
    for settings in (replace(IRN, spatial_weight=0, bilateral_weight=0), replace(IRN, iterations=0)):
        assert torch.allclose(dense_crf(image, unary, settings), (-unary).softmax(dim=0))


def test_each_kernel_alone() -> None:
    image, unary = scene(12, 10, 3)
    for part in (replace(IRN, spatial_weight=0, iterations=1), replace(IRN, bilateral_weight=0, iterations=1)):
        tiny = replace(part, spatial_weight=part.spatial_weight or 1e-6, bilateral_weight=part.bilateral_weight or 1e-6)
        assert torch.allclose(dense_crf(image, unary, part), dense_crf(image, unary, tiny), atol=1e-4)


def test_labels_have_no_order() -> None:
    image, unary = scene(16, 18, 5)
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.allclose(dense_crf(image, unary[order], IRN), dense_crf(image, unary, IRN)[order], atol=1e-5)


def test_a_plain_picture_keeps_strong_evidence() -> None:
    image = torch.full((3, 20, 20), 90, dtype=torch.uint8)
    labels = torch.zeros(20, 20, dtype=torch.long)
    labels[:, 10:] = 1
    unary = unary_from_labels(labels, 2, confidence=1 - 1e-7)
    assert torch.equal(dense_crf(image, unary, replace(CRF_PRESETS["deeplab"], iterations=3)).argmax(0), labels)


def test_one_label_and_one_pixel() -> None:
    image, unary = scene(8, 9, 1)
    assert torch.equal(dense_crf(image, unary, IRN), torch.ones(1, 8, 9))
    assert torch.allclose(dense_crf(image[:, :1, :1], torch.zeros(2, 1, 1), IRN), torch.full((2, 1, 1), 0.5))


def test_the_field_serves_many_unaries() -> None:
    image, unary = scene(14, 15, 6)
    field = DenseCrf(image, IRN)
    for some in (unary, unary[:2], unary + 7):
        assert torch.equal(field.infer(some), dense_crf(image, some, IRN))
    assert torch.allclose(field.infer(unary + 7), field.infer(unary), atol=1e-5), "only differences of energies count"


def test_unaries_are_left_as_they_were() -> None:
    image, unary = scene(8, 9, 3)
    kept = unary.clone()
    found = dense_crf(image, unary.requires_grad_(), IRN)
    assert torch.equal(unary, kept) and not found.requires_grad


@pytest.mark.parametrize(
    ("image", "unary", "match"),
    [
        (torch.zeros(3, 4, 5), torch.zeros(2, 4, 5), "uint8"),
        (torch.zeros(4, 5, 3, dtype=torch.uint8), torch.zeros(2, 4, 5), r"\(3, H, W\)"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), torch.zeros(2, 5, 4), "labels, 4, 5"),
        (torch.zeros(3, 4, 5, dtype=torch.uint8), torch.zeros(0, 4, 5), "labels, 4, 5"),
        (torch.zeros(3, 0, 5, dtype=torch.uint8), torch.zeros(2, 0, 5), r"\(3, H, W\)"),
    ],
)
def test_wrong_shapes_are_refused(image: Tensor, unary: Tensor, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        dense_crf(image, unary, IRN)


@pytest.mark.parametrize(
    "change", [{"spatial_std": 0}, {"colour_std": -1}, {"bilateral_weight": -1}, {"iterations": -1}]
)
def test_bad_settings_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        replace(IRN, **change)


def test_energies_of_labels_pixel_by_pixel() -> None:
    labels = torch.tensor([[0, 2, 255], [1, 1, 0]], dtype=torch.uint8)
    found = unary_from_labels(labels, 3, confidence=0.7)
    for place, y, x in np.ndindex(3, 2, 3):
        label = labels[y, x].item()
        expected = 0.0 if label == 255 else -np.log(0.7 if place == label else 0.15)
        assert found[place, y, x].item() == pytest.approx(expected, abs=1e-6)
    assert torch.equal(unary_from_labels(torch.tensor([[0, 255]]), 1, confidence=0.7), torch.zeros(1, 1, 2))


@pytest.mark.parametrize(
    ("label", "confidence", "match"),
    [(3, 0.7, "0 .. 2"), (-1, 0.7, "0 .. 2"), (0, 1.0, "confidence"), (0, 0.0, "conf")],
)
def test_bad_labels_are_refused(label: int, confidence: float, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        unary_from_labels(torch.tensor([[label]]), 3, confidence=confidence)


def test_energies_of_probabilities() -> None:
    found = unary_from_probabilities(torch.tensor([0.0, 1e-7, 0.25, 1.0]).reshape(4, 1, 1)).flatten()
    assert found.tolist() == pytest.approx([-np.log(1e-5), -np.log(1e-5), -np.log(0.25), 0.0], rel=1e-6)


def spotted() -> tuple[Tensor, Tensor]:
    """Two colours; labels 3 and 9 with a wrong and a void pixel."""
    image = torch.zeros(3, 12, 12, dtype=torch.uint8)
    image[:, :, 6:] = 200
    labels = torch.full((12, 12), 3, dtype=torch.uint8)
    labels[:, 6:] = 9
    labels[4, 2], labels[7, 9] = 9, 255
    return image, labels


def test_hard_labels_are_mended() -> None:
    image, labels = spotted()
    mended = crf_labels(image, labels, IRN)
    assert mended.dtype == torch.uint8
    assert mended[:, :6].eq(3).all() and mended[:, 6:].eq(9).all()
    assert torch.equal(crf_labels(image, labels.T.contiguous().T, IRN), mended), "whatever their strides"


def test_hard_labels_by_hand() -> None:
    """The places of present labels, a unary of them, and back."""
    image, labels = spotted()
    weak = replace(IRN, iterations=1, bilateral_weight=0.5, spatial_weight=0.5)
    for classes, num_labels in ((None, 2), ((0, 3, 9), 3)):
        places = torch.where(labels == 3, num_labels - 2, torch.where(labels == 9, num_labels - 1, 255))
        best = dense_crf(image, unary_from_labels(places, num_labels, confidence=0.6), weak).argmax(0)
        expected = torch.where(best == num_labels - 2, 3, 9).to(torch.uint8)
        assert torch.equal(crf_labels(image, labels, weak, confidence=0.6, classes=classes), expected)


def test_hard_labels_with_nothing_to_choose() -> None:
    image, labels = spotted()
    void, single = torch.full_like(labels, 255), torch.where(labels == 255, 255, 4).to(torch.uint8)
    assert torch.equal(crf_labels(image, void, IRN), void)
    assert torch.equal(crf_labels(image, single, IRN), torch.full_like(labels, 4))
    with pytest.raises(ValueError, match="classes"):
        crf_labels(image, labels, IRN, classes=(0, 3))


def test_presets_are_those_of_the_papers() -> None:
    published = {
        "irn": (3, 3, 50, 5, 10, 10),
        "puzzle_cam": (3, 3, 50, 5, 10, 1),
        "psa": (3, 3, 80, 13, 10, 10),
        "seam": (3, 3, 32, 13, 10, 1),
        "deeplab": (1, 3, 67, 3, 4, 10),
        "afa": (3, 3, 64, 5, 4, 10),
        "toco": (1, 1, 121, 5, 4, 10),
    }
    found = {
        name: (s.spatial_std, s.spatial_weight, s.bilateral_std, s.colour_std, s.bilateral_weight, s.iterations)
        for name, s in CRF_PRESETS.items()
    }
    assert found == published


@pytest.mark.gpu
def test_on_an_accelerator() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no accelerator")
    image, unary = scene(48, 64, 5)
    found = dense_crf(image.cuda(), unary.cuda(), IRN).cpu()
    assert torch.allclose(found, dense_crf(image, unary, IRN), atol=1e-4)
