"""ZCA against its definition by singular values, its inverse, and how it goes with flips."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from partwise.ops.whitening import Whitening, fit_whitening, unwhiten, whiten, whitening_fingerprint

SHAPE = (3, 6, 7)


def smooth(count: int, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Tensor:
    """Pictures in [0, 1] whose neighbours are alike, brighter towards the upper border: nothing prefers left or right."""
    channels, height, width = shape
    noise = torch.randn(count, channels, height + 4, width + 4, generator=torch.Generator().manual_seed(seed))
    light = torch.linspace(1, -1, height)[:, None]
    return (0.6 * F.avg_pool2d(noise, 5, stride=1) * 5 + light).sigmoid()


def naive_whitening(pictures: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, T and T^-1 from the singular values of the pictures themselves."""
    rows = pictures.double().flatten(1)
    mean = rows.mean(dim=0)
    _, singular, vectors = torch.linalg.svd(rows - mean, full_matrices=True)
    values = torch.zeros(rows.shape[1], dtype=torch.float64)
    values[: len(singular)] = singular**2 / (len(rows) - 1)
    return mean, *(vectors.T @ torch.diag((values + eps) ** power) @ vectors for power in (-0.5, 0.5))


@pytest.mark.parametrize(("count", "eps"), [(400, 0.1), (20, 0.1), (400, 1e-3)])
def test_transform_is_its_definition(count: int, eps: float) -> None:
    """Also with fewer pictures than values, where the covariance is singular."""
    pictures = smooth(count)
    found = fit_whitening(pictures, eps=eps, chunk=37)
    for own, expected in zip((found.mean, found.matrix, found.inverse), naive_whitening(pictures, eps), strict=True):
        assert own.dtype == torch.float32
        torch.testing.assert_close(own.double(), expected, rtol=1e-5, atol=1e-5)


def test_directions_without_variance_may_have_any_eps() -> None:
    """Rounding gives them eigenvalues a little below 0."""
    assert fit_whitening(smooth(20), eps=1e-20).matrix.isfinite().all()


def test_chunks_do_not_matter() -> None:
    pictures = smooth(100)
    one, many = (fit_whitening(pictures, chunk=chunk) for chunk in (100, 7))
    torch.testing.assert_close(one.matrix, many.matrix, rtol=1e-6, atol=1e-6)


def test_whitened_pictures_have_covariance_one_but_for_eps() -> None:
    pictures = smooth(2000)
    rows = whiten(pictures, fit_whitening(pictures, eps=1e-6)).double().flatten(1)
    covariance = rows.T @ rows / (len(rows) - 1)
    torch.testing.assert_close(covariance, torch.eye(math.prod(SHAPE), dtype=torch.float64), rtol=0, atol=2e-2)
    assert rows.mean(dim=0).abs().max() < 1e-3
    damped = whiten(pictures, fit_whitening(pictures)).flatten(1)
    assert (damped.var(dim=0) < 0.9).all(), "eps 0.1 damps what varies little"


def test_round_trip() -> None:
    fitted = fit_whitening(smooth(300))
    fresh = smooth(50, seed=1)
    whitened = whiten(fresh, fitted)
    assert whitened.shape == fresh.shape and whitened.dtype == torch.float32
    assert (whitened - fresh).abs().max() > 0.5
    torch.testing.assert_close(unwhiten(whitened, fitted), fresh, rtol=0, atol=1e-5)


def test_rows_are_transformed_one_by_one() -> None:
    fitted = fit_whitening(smooth(300))
    for picture in smooth(3, seed=1):
        expected = (picture.reshape(-1) - fitted.mean) @ fitted.matrix
        torch.testing.assert_close(whiten(picture[None], fitted).reshape(-1), expected, rtol=1e-5, atol=1e-5)


def test_bytes_are_read_as_shares_of_255() -> None:
    stored = (smooth(60) * 255).round().to(torch.uint8)
    bytes_, floats = fit_whitening(stored), fit_whitening(stored.float() / 255)
    torch.testing.assert_close(bytes_.matrix, floats.matrix, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(whiten(stored, bytes_), whiten(stored.float() / 255, bytes_))


def flip_matrix(shape: tuple[int, int, int]) -> Tensor:
    """P: its row of a picture is the row of the flipped one."""
    size = math.prod(shape)
    return torch.eye(size).reshape(size, *shape).flip(-1).reshape(size, size)


def defect(fitted: Whitening, shape: tuple[int, int, int] = SHAPE) -> float:
    """||T P - P T|| / ||T||."""
    flip = flip_matrix(shape)
    return float((fitted.matrix @ flip - flip @ fitted.matrix).norm() / fitted.matrix.norm())


def test_pictures_without_a_preferred_side_almost_commute_with_flips() -> None:
    assert 0 < defect(fit_whitening(smooth(4000))) < 0.02
    lopsided = smooth(4000) * torch.linspace(0, 2, SHAPE[-1])
    assert defect(fit_whitening(lopsided)) > 0.1, "the measure sees nothing"


@pytest.mark.data
def test_real_pictures_almost_commute_with_flips(pack: Callable[[str], Path]) -> None:
    """CIFAR-10's photographs, shrunk; as a fit without flips takes for granted."""
    with np.load(pack("cifar10") / "cifar10_jpeg.npz") as arrays:
        blob, offsets = arrays["train_bytes"], arrays["train_offsets"]
    files = (io.BytesIO(blob[offsets[i] : offsets[i + 1]].tobytes()) for i in range(3000))
    pictures = torch.stack([torch.from_numpy(np.array(Image.open(file).resize((12, 12)))) for file in files])
    pictures = pictures.permute(0, 3, 1, 2)
    assert 0 < defect(fit_whitening(pictures), (3, 12, 12)) < 0.03
    assert defect(fit_whitening(pictures, flips=True), (3, 12, 12)) == 0


@pytest.mark.parametrize(("count", "eps"), [(200, 0.1), (20, 1e-8)])
def test_a_fit_with_flips_commutes_exactly(count: int, eps: float) -> None:
    pictures = smooth(count) * torch.linspace(0.2, 1, SHAPE[-1])
    assert defect(fit_whitening(pictures, flips=True, eps=eps)) == 0


def test_a_fit_with_flips_whitens_flips_to_flips() -> None:
    fitted = fit_whitening(smooth(200) * torch.linspace(0.2, 1, SHAPE[-1]), flips=True)
    assert torch.equal(fitted.mean, fitted.mean.reshape(SHAPE).flip(-1).reshape(-1))
    fresh = smooth(10, seed=1)
    torch.testing.assert_close(whiten(fresh.flip(-1), fitted), whiten(fresh, fitted).flip(-1), rtol=0, atol=1e-5)


def test_a_fit_with_flips_is_that_of_the_doubled_set() -> None:
    pictures = smooth(90) * torch.linspace(0.2, 1, SHAPE[-1])
    fitted, doubled = fit_whitening(pictures, flips=True), fit_whitening(torch.cat([pictures, pictures.flip(-1)]))
    for name in ("mean", "matrix", "inverse"):
        torch.testing.assert_close(getattr(fitted, name), getattr(doubled, name), rtol=1e-5, atol=1e-5)


def test_fingerprints_tell_fits_apart() -> None:
    pictures = smooth(100)
    same = [whitening_fingerprint(fit_whitening(pictures)) for _ in range(2)]
    others = [
        whitening_fingerprint(fit_whitening(pictures[:99])),
        whitening_fingerprint(fit_whitening(pictures, eps=0.2)),
    ]
    assert same[0] == same[1] and len({same[0], *others}) == 3 and len(same[0]) == 16
    assert whitening_fingerprint(fit_whitening(pictures).to("cpu")) == same[0]


@pytest.mark.parametrize(
    ("pictures", "options", "message"),
    [
        (torch.rand(1, 3, 4, 4), {}, "at least two"),
        (torch.rand(5, 48), {}, r"\(N, C, H, W\)"),
        (torch.rand(5, 3, 4, 4), {"eps": 0.0}, "eps 0.0"),
        (torch.full((5, 3, 4, 4), float("nan")), {}, "not finite"),
    ],
)
def test_what_cannot_be_fitted_is_refused(pictures: Tensor, options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fit_whitening(pictures, **options)


def test_pictures_of_another_size_are_refused() -> None:
    fitted = fit_whitening(smooth(30))
    with pytest.raises(ValueError, match="126 values"):
        whiten(torch.rand(2, 3, 8, 8), fitted)
    with pytest.raises(ValueError, match="126 values"):
        unwhiten(torch.rand(2, 126), fitted)


@pytest.mark.oracle
def test_kornia_agrees() -> None:
    """The library behind MTT's preprocessing."""
    kornia = pytest.importorskip("kornia")
    pictures = smooth(500)
    found = fit_whitening(pictures)
    matrix, mean, inverse = kornia.enhance.zca_mean(pictures.double(), eps=0.1, return_inverse=True)
    for own, other in ((found.mean, mean[0]), (found.matrix, matrix), (found.inverse, inverse)):
        torch.testing.assert_close(own.double(), other, rtol=1e-5, atol=1e-5)
