"""Each corruption against a plain version of one picture, by NumPy, SciPy, PIL and OpenCV where it is installed."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage, stats
from torch import Tensor

from partwise.config import UserError
from partwise.ops import corruption_blurs, corruption_weather, corruptions
from partwise.ops.corruption_tables import LARGE, SMALL
from partwise.ops.corruptions import CORRUPTIONS, corrupted
from partwise.ops.sampling import bilinear, gaussian_blurred, zoomed


def pictures(count: int = 2, height: int = 32, width: int = 32, seed: int = 0) -> Tensor:
    """Smooth pictures with some noise, in whole steps of 1/255."""
    noise = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return (255 * (0.7 * gaussian_blurred(noise, 2.0) + 0.3 * noise)).round() / 255


def generators(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def array(picture: Tensor) -> np.ndarray:
    """`(H, W, C)` float64."""
    return picture.permute(1, 2, 0).double().numpy()


def close(found: Tensor, expected: np.ndarray, atol: float = 2e-5) -> None:
    np.testing.assert_allclose(array(found), expected, atol=atol)


@pytest.mark.parametrize("name", list(CORRUPTIONS))
@pytest.mark.parametrize("size", [(32, 32), (72, 66)])
def test_a_picture_s_corruption_is_its_own_and_in_whole_steps(name: str, size: tuple[int, int]) -> None:
    images = pictures(3, *size)
    for severity in (1, 5):
        together = corrupted(images, name, severity, generators(1, 2, 3))
        alone = corrupted(images[1:2], name, severity, generators(2))
        assert together.shape == images.shape and together.dtype == torch.float32
        torch.testing.assert_close(together[1:2], alone, atol=1.1 / 255, rtol=0)
        assert ((together[1:2] - alone).abs() > 1e-6).float().mean() < 0.01  # sums in another order, cut off
        steps = 255 * together
        torch.testing.assert_close(steps, steps.round(), atol=1e-3, rtol=0)
        assert together.min() >= 0 and together.max() <= 1
    drawn = name not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    other = corrupted(images, name, 5, generators(4, 5, 6))
    assert torch.equal(other, together) is not drawn


def test_higher_severities_change_more() -> None:
    images = pictures(12)
    seeds = range(12)
    for name in CORRUPTIONS:
        change = [float((corrupted(images, name, s, generators(*seeds)) - images).abs().mean()) for s in (1, 3, 5)]
        assert change[0] < change[2] or name == "elastic_transform", name  # the paper's bend differently, not more


def test_the_tables_have_five_of_each() -> None:
    assert list(SMALL) == list(LARGE) == list(CORRUPTIONS) and len(CORRUPTIONS) == 15
    assert all(len(levels) == 5 for table in (SMALL, LARGE) for levels in table.values())
    ends = {"small": (1.06, 1.11, 1.16, 1.21, 1.26), "large": (1.11, 1.16, 1.21, 1.26, 1.31)}
    for table, stops in ((SMALL, ends["small"]), (LARGE, ends["large"])):
        for (count, distance), stop in zip(table["zoom_blur"], stops, strict=True):
            assert len(np.arange(1, stop, distance)) == count


def test_wrong_names_are_answered() -> None:
    with pytest.raises(UserError, match="did you mean 'frost'"):
        corrupted(pictures(), "frosty", 1, generators(0, 1))
    with pytest.raises(UserError, match="severity"):
        corrupted(pictures(), "fog", 6, generators(0, 1))
    with pytest.raises(UserError, match="1 generators for 2"):
        corrupted(pictures(), "fog", 1, generators(0))


# -- noise ---------------------------------------------------------------------------------------------------------------


def test_noise_has_its_law() -> None:
    grey = torch.full((1, 3, 200, 200), 0.5)
    noise = (corruptions.gaussian_noise(grey, 0.08, generators(0)) - grey).flatten()
    assert stats.kstest(noise.numpy(), "norm", args=(0, 0.08)).pvalue > 1e-3
    shot = corruptions.shot_noise(grey, 60, generators(0)).flatten() * 60
    torch.testing.assert_close(shot, shot.round())
    assert float(shot.mean()) == pytest.approx(30, abs=0.1) and float(shot.var()) == pytest.approx(30, rel=0.03)
    hit = corruptions.impulse_noise(grey, 0.1, generators(0)).flatten()
    assert set(hit.unique().tolist()) == {0.0, 0.5, 1.0}
    assert float((hit != 0.5).float().mean()) == pytest.approx(0.1, abs=0.004)
    assert float((hit == 1).float().sum() / (hit != 0.5).sum()) == pytest.approx(0.5, abs=0.02)


# -- blurs ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma", [0.05, 0.7, 1.5])
def test_gaussian_blur_is_scipy_s(sigma: float) -> None:
    image = pictures(1)
    expected = ndimage.gaussian_filter(array(image[0]), (sigma, sigma, 0), mode="nearest", truncate=4.0)
    close(gaussian_blurred(image, sigma)[0], expected)


@pytest.mark.parametrize("amounts", [(0.3, 0.4), (1.5, 0.1), (3, 0.1), (10, 0.5)])
def test_defocus_is_a_softened_disk(amounts: tuple[float, float]) -> None:
    image = pictures(1, 40, 36)
    radius, softness = amounts
    reach = max(8, int(radius))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (x**2 + y**2 <= radius**2).astype(np.float64)
    kernel /= kernel.sum()
    places = np.arange(-1, 2) if radius <= 8 else np.arange(-2, 3)
    line = np.exp(-(places**2) / (2 * softness**2))
    line /= line.sum()
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, line, axis=axis, mode="mirror")
    expected = np.stack([ndimage.correlate(array(image[0])[..., c], kernel, mode="mirror") for c in range(3)], -1)
    close(corruption_blurs.defocus_blur(image, amounts, generators(0))[0], expected)
    cv2 = pytest.importorskip("cv2")
    aliased = (x**2 + y**2 <= radius**2).astype(np.float32)
    soft = cv2.GaussianBlur(aliased / aliased.sum(), ksize=(len(places), len(places)), sigmaX=softness)
    np.testing.assert_allclose(corruption_blurs.disk(*amounts).numpy(), soft, atol=1e-6)


@pytest.mark.parametrize(("distance", "times"), [(1, 1), (1, 2), (2, 1), (3, 2)])
def test_glass_copies_near_pixels_one_after_the_other(distance: int, times: int) -> None:
    image = pictures(1, 14, 12)
    steps = torch.randint(
        -distance, distance, (times, 14 - 2 * distance, 12 - 2 * distance, 2), generator=generators(9)[0]
    )
    x = np.floor(255 * np.clip(ndimage.gaussian_filter(array(image[0]), (0.7, 0.7, 0), mode="nearest"), 0, 1) + 1e-3)
    for time in range(times):
        for i, h in enumerate(range(14 - distance, distance, -1)):
            for j, w in enumerate(range(12 - distance, distance, -1)):
                dx, dy = steps[time, i, j].tolist()
                x[h, w] = x[h + dy, w + dx]
    expected = ndimage.gaussian_filter(x / 255, (0.7, 0.7, 0), mode="nearest")
    close(corruption_blurs.glass_blur(image, (0.7, distance, times), generators(9))[0], expected)


@pytest.mark.parametrize("angle", [-45.0, 0.0, 13.0, 90.0, -100.0])
def test_motion_sums_shifted_pictures(angle: float) -> None:
    image, radius, sigma = pictures(1, 20, 24), 6, 2.0
    width = 2 * radius + 1
    weights = np.exp(-(np.arange(width) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    expected = np.zeros((20, 24, 3))
    for i, weight in enumerate(weights):
        down, right = (math.ceil(i * f(math.radians(angle)) - 0.5) for f in (math.sin, math.cos))
        for y in range(20):
            for x in range(24):
                expected[y, x] += weight * array(image[0])[min(max(y + down, 0), 19), min(max(x + right, 0), 23)]
    close(corruption_blurs.motion_blurred(image, radius, sigma, [angle])[0], expected)


@pytest.mark.parametrize("factor", [1.0, 1.05, 1.3, 2.5])
def test_zoom_is_scipy_s(factor: float) -> None:
    image = pictures(1, 30, 30)
    side = math.ceil(30 / factor)
    top = (30 - side) // 2
    large = ndimage.zoom(array(image[0])[top : top + side, top : top + side], (factor, factor, 1), order=1)
    trim = (large.shape[0] - 30) // 2
    close(zoomed(image, factor)[0], large[trim : trim + 30, trim : trim + 30])


def test_zoom_blur_averages_factors() -> None:
    image = pictures(1)
    factors = np.arange(1, 1.06, 0.01)
    expected = (image + sum(zoomed(image, float(f)) for f in factors)) / (len(factors) + 1)
    torch.testing.assert_close(corruption_blurs.zoom_blur(image, SMALL["zoom_blur"][0], generators(0)), expected)


# -- weather -------------------------------------------------------------------------------------------------------------


def plasma_point_by_point(side: int, decay: float, noise: np.ndarray) -> np.ndarray:
    heights = np.zeros((side, side))
    step, reach = side, 100.0
    while step >= 2:
        half = step // 2
        for y in range(half, side, step):
            for x in range(half, side, step):
                around = [heights[(y + a) % side, (x + b) % side] for a in (-half, half) for b in (-half, half)]
                heights[y, x] = sum(around) / 4 + reach**2 * noise[y, x]
        for y in range(0, side, half):
            for x in range(0, side, half):
                if (y // half + x // half) % 2:
                    around = [
                        heights[(y + a) % side, (x + b) % side]
                        for a, b in ((-half, 0), (half, 0), (0, -half), (0, half))
                    ]
                    heights[y, x] = sum(around) / 4 + reach**2 * noise[y, x]
        step, reach = half, reach / decay
    heights -= heights.min()
    return heights / heights.max()


@pytest.mark.parametrize("side", [2, 4, 16])
def test_plasma_is_diamonds_and_squares(side: int) -> None:
    noise = 2 * torch.rand(side, side, generator=generators(3)[0], dtype=torch.float64) - 1
    expected = plasma_point_by_point(side, 1.7, noise.numpy())
    np.testing.assert_allclose(corruption_weather.plasma(side, 1.7, generators(3)[0]).numpy(), expected, atol=1e-6)


def test_fog_keeps_the_brightest_and_frost_adds_its_share() -> None:
    images = pictures(2, 20, 28)
    found = corruption_weather.fog(images, (1.5, 2), generators(1, 2))
    for row, seed in enumerate((1, 2)):
        clouds = corruption_weather.plasma(32, 2, generators(seed)[0])[:20, :28]
        most = images[row].max()
        torch.testing.assert_close(found[row], (images[row] + 1.5 * clouds) * most / (most + 1.5))
    ice = corruption_weather.frost(images, (0.8, 0.6), generators(1, 2)) - 0.8 * images
    assert ice.min() >= 0.6 * 0.35 * 0.8 - 1e-6 and ice.max() <= 0.6 + 1e-6
    black = corruption_weather.frost(torch.zeros(1, 1, 8, 8), (1, 0.5), generators(0))
    assert black.shape == (1, 1, 8, 8)


def test_snow_falls_on_a_paler_picture() -> None:
    image = pictures(1)
    still = corruption_weather.snow(image, (-5.0, 0.1, 2, 0.5, 4, 2, 0.7), generators(0))
    grey = array(image[0]) @ np.array([0.299, 0.587, 0.114])
    paler = np.maximum(array(image[0]), 1.5 * grey[..., None] + 0.5)
    close(still[0], 0.7 * array(image[0]) + 0.3 * paler)
    falling = corruption_weather.snow(image, SMALL["snow"][2], generators(0))
    flakes = falling - corruption_weather.snow(image, (-5.0, 0.1, *SMALL["snow"][2][2:]), generators(0))
    torch.testing.assert_close(flakes, flakes.rot90(2, (2, 3)))
    assert flakes.min() >= -1e-6 and flakes.max() > 0.2


# -- colour and digital --------------------------------------------------------------------------------------------------


def test_brightness_raises_the_value_of_hsv() -> None:
    import colorsys

    image = pictures(1, 6, 6)
    image[0, :, 0, 0] = 0
    found = corruptions.brightness(image, 0.3, generators(0))
    for y in range(6):
        for x in range(6):
            hue, saturation, value = colorsys.rgb_to_hsv(*image[0, :, y, x].tolist())
            expected = colorsys.hsv_to_rgb(hue, saturation, min(value + 0.3, 1))
            assert found[0, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


def test_contrast_shrinks_towards_the_mean() -> None:
    image = pictures(1)
    mean = array(image[0]).mean((0, 1))
    close(corruptions.contrast(image, 0.2, generators(0))[0], (array(image[0]) - mean) * 0.2 + mean)


@pytest.mark.parametrize("amounts", [(0, 0, 0.08), (0.08, 0.06, 0.06), (2.0, 0.7, 0.1)])
def test_elastic_is_an_affine_map_and_shifts(amounts: tuple[float, float, float]) -> None:
    image, side = pictures(1, 24, 24), 24.0
    generator = generators(5)[0]
    corners = torch.rand(3, 2, generator=generator).double().numpy()
    noise = torch.rand(2, 24, 24, generator=generator).double().numpy()
    points = np.array([[20, 20], [20, 4], [4, 4]], float)
    targets = points + amounts[2] * side * (2 * corners - 1)
    # A (2, 3) with A [point, 1] = target, and its inverse map.
    affine = np.linalg.solve(np.c_[points, np.ones(3)], targets).T
    inverse = np.linalg.inv(affine[:, :2])
    y, x = np.mgrid[:24, :24]
    source = np.einsum("ij,jyx->iyx", inverse, np.stack((x - affine[0, 2], y - affine[1, 2])))

    def read(pixels: np.ndarray, ys: np.ndarray, xs: np.ndarray, mode: str) -> np.ndarray:
        return np.stack([ndimage.map_coordinates(pixels[..., c], (ys, xs), order=1, mode=mode) for c in range(3)], -1)

    warped = read(array(image[0]), source[1], source[0], "mirror")
    dx, dy = (
        amounts[0] * side * ndimage.gaussian_filter(2 * one - 1, amounts[1] * side, mode="reflect", truncate=3)
        for one in noise
    )
    expected = read(warped, y + dy, x + dx, "reflect")
    close(corruptions.elastic_transform(image, amounts, generators(5))[0], expected, atol=2e-3)


@pytest.mark.parametrize("share", [0.95, 0.65, 0.25])
@pytest.mark.parametrize("size", [(32, 32), (32, 64)])
def test_pixelate_is_pil_s_box(share: float, size: tuple[int, int]) -> None:
    image = pictures(1, *size)
    whole = Image.fromarray((255 * array(image[0])).round().astype(np.uint8))
    small = whole.resize((int(size[1] * share), int(size[0] * share)), Image.Resampling.BOX)
    expected = np.asarray(small.resize(whole.size, Image.Resampling.BOX)) / 255
    found = array(corruptions.pixelate(image, share, generators(0))[0])
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("quality", [80, 7])
def test_jpeg_is_pil_s(quality: int) -> None:
    image = pictures(1, 40, 33)
    buffer = io.BytesIO()
    Image.fromarray((255 * array(image[0])).round().astype(np.uint8)).save(buffer, "JPEG", quality=quality)
    expected = np.asarray(Image.open(buffer)) / 255
    found = array(corruptions.jpeg_compression(image, quality, generators(0))[0])
    assert np.abs(found - expected).mean() < 0.5 / 255  # decoders may differ by a step


@pytest.mark.parametrize(("border", "mode"), [("mirror", "mirror"), ("reflect", "reflect"), ("edge", "nearest")])
def test_borders_are_scipy_s(border: Any, mode: str) -> None:
    image = pictures(1, 5, 7)
    y, x = (8 * torch.rand(2, 1, 40, 3, generator=generators(8)[0]) - 3).unbind(0)
    expected = [
        ndimage.map_coordinates(array(image[0])[..., c], (y[0].numpy(), x[0].numpy()), order=1, mode=mode)
        for c in range(3)
    ]
    close(bilinear(image, y, x, border=border)[0], np.stack(expected, -1))
