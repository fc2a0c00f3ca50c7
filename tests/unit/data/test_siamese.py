"""Siamese augmentation against a version that goes picture by picture and pixel by pixel; laws of the draws; presets."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from partwise.config import UserError
from partwise.data.siamese import (
    COLUMNS,
    OPERATIONS,
    PRESETS,
    AugmentDraws,
    AugmentRule,
    augment,
    augment_rule,
    draw_per_class,
    draw_per_sample,
    draw_siamese,
)

SHAPES = [(1, 3, 8, 8), (4, 1, 7, 10), (3, 3, 12, 9), (2, 2, 1, 5)]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(*shape: int, dtype: torch.dtype = torch.float64, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=dtype)


# -- the naive version: one picture as nested lists [channel][row][column] ------------------------------------------------

Picture = list[list[list[float]]]


def pixelwise(image: Picture, value: Callable[[int, int, int], float]) -> Picture:
    channels, height, width = len(image), len(image[0]), len(image[0][0])
    return [[[value(c, y, x) for x in range(width)] for y in range(height)] for c in range(channels)]


def at(image: Picture, c: int, y: int, x: int) -> float:
    inside = 0 <= y < len(image[0]) and 0 <= x < len(image[0][0])
    return image[c][y][x] if inside else 0.0


def naive_color(image: Picture, u: dict[str, float]) -> Picture:
    channels, pixels = len(image), len(image[0]) * len(image[0][0])
    image = pixelwise(image, lambda c, y, x: image[c][y][x] + u["brightness"] - 0.5)
    grey = pixelwise(image[:1], lambda _, y, x: sum(image[c][y][x] for c in range(channels)) / channels)[0]
    own = image
    image = pixelwise(own, lambda c, y, x: grey[y][x] + 2 * u["saturation"] * (own[c][y][x] - grey[y][x]))
    mean = sum(value for plane in image for line in plane for value in line) / (channels * pixels)
    return pixelwise(image, lambda c, y, x: mean + (u["contrast"] + 0.5) * (image[c][y][x] - mean))


def naive_crop(image: Picture, u: dict[str, float]) -> Picture:
    most = [math.floor(side / 8 + 0.5) for side in (len(image[0]), len(image[0][0]))]
    down, across = (math.floor(u[name] * (2 * k + 1)) - k for name, k in zip(("shift_y", "shift_x"), most, strict=True))
    return pixelwise(image, lambda c, y, x: at(image, c, y + down, x + across))


def naive_cutout(image: Picture, u: dict[str, float]) -> Picture:
    covered = []
    for name, side in (("hole_y", len(image[0])), ("hole_x", len(image[0][0]))):
        length = math.floor(side / 2 + 0.5)
        centre = math.floor(u[name] * (side if length % 2 else side + 1))
        covered.append({place for place in range(centre - length // 2, centre - length // 2 + length)})
    return pixelwise(image, lambda c, y, x: 0.0 if y in covered[0] and x in covered[1] else image[c][y][x])


def naive_flip(image: Picture, u: dict[str, float]) -> Picture:
    return [[line[::-1] for line in plane] for plane in image] if u["flip"] < 0.5 else image


def naive_affine(image: Picture, matrix: list[list[float]]) -> Picture:
    """The value at the place that `matrix` takes a pixel's offset from the centre to, bilinear in pixels."""
    cy, cx = (len(image[0]) - 1) / 2, (len(image[0][0]) - 1) / 2

    def value(c: int, y: int, x: int) -> float:
        across, down = x - cx, y - cy
        sx = cx + matrix[0][0] * across + matrix[0][1] * down
        sy = cy + matrix[1][0] * across + matrix[1][1] * down
        left, top = math.floor(sx), math.floor(sy)
        total = 0.0
        for dy in (0, 1):
            for dx in (0, 1):
                weight = (1 - abs(sx - left - dx)) * (1 - abs(sy - top - dy))
                total += weight * at(image, c, top + dy, left + dx)
        return total

    return pixelwise(image, value)


def naive_scale(image: Picture, u: dict[str, float]) -> Picture:
    across, down = (1 / 1.2 + u[name] * (1.2 - 1 / 1.2) for name in ("scale_x", "scale_y"))
    return naive_affine(image, [[across, 0], [0, down]])


def naive_rotate(image: Picture, u: dict[str, float]) -> Picture:
    angle = math.radians(-15 + 30 * u["angle"])
    return naive_affine(image, [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])


NAIVE = {
    "color": naive_color,
    "crop": naive_crop,
    "cutout": naive_cutout,
    "flip": naive_flip,
    "scale": naive_scale,
    "rotate": naive_rotate,
}


def naive_augment(images: Tensor, draws: AugmentDraws) -> Tensor:
    made = []
    for place, picture in enumerate(images):
        row = 0 if len(draws) == 1 else place
        u = dict(zip(COLUMNS, draws.uniforms[row].tolist(), strict=True))
        image = picture.tolist()
        for name in (*draws.rule.before, *draws.chosen[row : row + 1], *draws.rule.after):
            image = NAIVE[name](image, u)
        made.append(torch.tensor(image, dtype=images.dtype))
    return torch.stack(made)


# -- application ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_pixel_by_pixel(name: str, shape: tuple[int, ...], align_corners: bool) -> None:
    rule = AugmentRule((), (name,), (), align_corners)
    if align_corners and name in ("scale", "rotate") and 1 in shape[2:]:
        return  # torch warns about a side of one pixel there
    images = pictures(*shape)
    for seed in range(3):
        for draws in (draw_siamese(rule, seeded(seed)), draw_per_sample(rule, shape[0], seeded(seed))):
            found = augment(images, draws)
            assert found.shape == images.shape and found.dtype == torch.float64
            torch.testing.assert_close(found, naive_augment(images, draws), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_presets_picture_by_picture(preset: str, dtype: torch.dtype) -> None:
    rule = augment_rule(preset)
    images = pictures(4, 3, 8, 8, dtype=dtype)
    for seed in range(8):
        for draws in (draw_siamese(rule, seeded(seed)), draw_per_sample(rule, 4, seeded(seed))):
            found = augment(images, draws)
            assert found.dtype == dtype
            torch.testing.assert_close(found, naive_augment(images, draws), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preset", ["vico", "fyi", "idc"])
def test_classes_at_once_are_class_by_class(preset: str) -> None:
    rule = augment_rule(preset)
    draws = draw_per_class(rule, 9, seeded(2))
    if rule.choice:
        assert len(set(draws.chosen)) > 3 or preset == "idc"
    real, synthetic = pictures(9, 5, 3, 8, 8), pictures(9, 2, 3, 8, 8, seed=1)
    for images in (real, synthetic):
        found = augment(images, draws)
        assert found.shape == images.shape
        for number in range(9):
            own = augment(images[number], draws.slice(number, number + 1))
            torch.testing.assert_close(found[number], own, rtol=1e-5, atol=1e-5)
    shared = draw_siamese(rule, seeded(3))
    torch.testing.assert_close(augment(real, shared), augment(real.flatten(0, 1), shared).unflatten(0, (9, 5)))


def test_siamese_numbers_are_shared_by_all_pictures() -> None:
    rule = augment_rule("fyi")
    image = pictures(1, 3, 8, 8)
    for seed in range(10):
        draws = draw_siamese(rule, seeded(seed))
        together = augment(image.expand(5, -1, -1, -1), draws)
        torch.testing.assert_close(together, augment(image, draws).expand_as(together))


def test_per_sample_numbers_are_not() -> None:
    images = pictures(1, 3, 16, 16).expand(40, -1, -1, -1)
    for name in OPERATIONS:
        found = augment(images, draw_per_sample(AugmentRule((), (name,), (), False), 40, seeded(1)))
        different = len({row[0, 3, 3].item() for row in found})
        assert different == 2 if name in ("cutout", "flip") else different > 10, name


@pytest.mark.parametrize("name", OPERATIONS)
def test_gradients_are_those_of_finite_differences(name: str) -> None:
    images = pictures(2, 2, 5, 6).requires_grad_()
    draws = draw_per_sample(AugmentRule((), (name,), (), True), 2, seeded(4))
    assert torch.autograd.gradcheck(lambda x: augment(x, draws), (images,))
    classes = pictures(3, 1, 2, 4, 4).requires_grad_()
    mixed = draw_per_class(augment_rule("fyi"), 3, seeded(5))
    assert torch.autograd.gradcheck(lambda x: augment(x, mixed), (classes,))


def test_align_corners_changes_rounding_alone() -> None:
    """Scale and rotate turn about the centre, which both conventions put in the same place."""
    images = pictures(6, 3, 32, 32)
    for strategy in ("scale", "rotate"):
        found = []
        for align_corners in (False, True):
            rule = augment_rule("vico", strategy=strategy, align_corners=align_corners)
            found.append(augment(images, draw_per_sample(rule, 6, seeded(6))))
        torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found[0], images, atol=0.1)


def test_what_lies_outside_is_zero() -> None:
    ones = torch.ones(400, 1, 32, 32)
    moved = augment(ones, draw_per_sample(augment_rule("vico", strategy="crop"), 400, seeded()))
    assert set(moved.unique().tolist()) == {0, 1}
    margins = Counter(int((32 - row[0].sum(0).count_nonzero()).item()) for row in moved)
    assert set(margins) == {0, 1, 2, 3, 4}
    holes = augment(ones, draw_per_sample(augment_rule("vico", strategy="cutout"), 400, seeded()))
    areas = 1024 - holes.sum((1, 2, 3))
    assert areas.max() == 256 and areas.min() >= 64


# -- draws ---------------------------------------------------------------------------------------------------------------


def share(count: int, total: int, expected: float) -> bool:
    """Within four standard deviations of a binomial law."""
    return abs(count / total - expected) < 4 * math.sqrt(expected * (1 - expected) / total)


@pytest.mark.parametrize(("preset", "flipped"), [("vico", 1 / 12), ("mtt", 1 / 12), ("fyi", 1 / 2), ("idc", 0)])
def test_how_often_pictures_are_flipped(preset: str, flipped: float) -> None:
    rule, count = augment_rule(preset), 3000
    draws = draw_per_class(rule, count, seeded(7))
    coins = draws.uniforms[:, COLUMNS.index("flip")] < 0.5
    always = "flip" in rule.before
    happened = sum(bool(coin) and (always or draws.chosen[row] == "flip") for row, coin in enumerate(coins))
    assert share(happened, count, flipped) if flipped else happened == 0


def test_operations_are_drawn_alike() -> None:
    for preset, choices in (("vico", 6), ("fyi", 5)):
        drawn = Counter(draw_per_class(augment_rule(preset), 60_000, seeded(8)).chosen)
        assert len(drawn) == choices and all(share(n, 60_000, 1 / choices) for n in drawn.values())
        once = Counter(draw_siamese(augment_rule(preset), seeded(seed)).chosen[0] for seed in range(600))
        assert len(once) == choices and all(share(n, 600, 1 / choices) for n in once.values())


def test_shifts_and_holes_are_drawn_alike() -> None:
    """Every whole shift of -4 to 4, and every centre from 0 to 32, by where a ramp's centre goes."""
    ramp = torch.arange(1.0, 33).expand(4000, 1, 32, 32)
    moved = augment(ramp, draw_per_sample(augment_rule("vico", strategy="crop"), 4000, seeded(9)))
    middle = moved[:, 0, 16, 16] - 17
    counts = Counter(middle.int().tolist())
    assert sorted(counts) == list(range(-4, 5)) and all(share(n, 4000, 1 / 9) for n in counts.values())
    holes = augment(
        torch.ones(4000, 1, 32, 32), draw_per_sample(augment_rule("vico", strategy="cutout"), 4000, seeded(9))
    )
    columns = (holes == 0).any(2)[:, 0]
    bounds = Counter(zip(columns.int().argmax(1).tolist(), columns.sum(1).tolist(), strict=True))
    expected = {(max(c - 8, 0), min(c + 8, 32) - max(c - 8, 0)) for c in range(33)}
    assert set(bounds) == expected and all(share(n, 4000, 1 / 33) for n in bounds.values())


def test_per_sample_draws_one_operation_a_call() -> None:
    for seed in range(20):
        assert len(set(draw_per_sample(augment_rule("vico"), 7, seeded(seed)).chosen)) == 1


@given(below=st.sampled_from([0.0, 0.5, 1 - 2**-24]), side=st.integers(1, 40))
@settings(max_examples=60, deadline=None)
def test_extreme_uniforms_stay_in_range(below: float, side: int) -> None:
    """The largest float32 uniform times a count stays below the count."""
    assert (torch.tensor(below) * torch.arange(1, 100_000) < torch.arange(1, 100_000)).all()
    uniforms = torch.full((2, len(COLUMNS)), below)
    for name in ("crop", "cutout"):
        draws = AugmentDraws(AugmentRule((), (name,), (), False), uniforms, (name, name))
        assert augment(torch.ones(2, 1, side, side), draws).shape == (2, 1, side, side)


def test_draws_depend_on_their_generator_alone() -> None:
    rule = augment_rule("vico")
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = draw_per_sample(rule, 4, seeded(3))
    torch.manual_seed(2)
    two = draw_per_sample(rule, 4, seeded(3))
    assert torch.equal(one.uniforms, two.uniforms) and one.chosen == two.chosen
    torch.manual_seed(1)
    augment(pictures(4, 3, 8, 8), draw_per_sample(rule, 4, seeded(5)))
    assert torch.equal(torch.get_rng_state(), before)


def test_a_share_of_the_global_batch() -> None:
    images = pictures(6, 3, 8, 8)
    for seed in range(6):
        draws = draw_per_sample(augment_rule("fyi"), 6, seeded(seed))
        torch.testing.assert_close(augment(images, draws)[2:5], augment(images[2:5], draws.slice(2, 5)))


def test_rows_that_do_not_fit_are_refused() -> None:
    draws = draw_per_sample(augment_rule("vico"), 3, seeded())
    with pytest.raises(ValueError, match="3 rows of draws for 4 pictures"):
        augment(pictures(4, 3, 8, 8), draws)
    with pytest.raises(ValueError, match="3 rows of draws for 2 classes"):
        augment(pictures(2, 3, 3, 8, 8), draws)


# -- rules ---------------------------------------------------------------------------------------------------------------


def test_published_rules() -> None:
    six = ("color", "crop", "cutout", "flip", "scale", "rotate")
    assert augment_rule("vico") == augment_rule("mtt") == AugmentRule((), six, (), False)
    assert augment_rule("fyi") == AugmentRule(("flip",), ("color", "crop", "cutout", "scale", "rotate"), (), True)
    assert augment_rule("idc") == AugmentRule(("color",), ("crop",), ("cutout",), False)
    evaluation = augment_rule("idc", strategy="color_crop_flip_scale_rotate")
    assert evaluation == AugmentRule(("flip", "color"), ("crop", "scale", "rotate"), (), False)


def test_strategies() -> None:
    digits = augment_rule("fyi", strategy="color_crop_cutout_scale_rotate")
    assert digits.before == () and "flip" not in digits.choice
    assert augment_rule("vico", strategy="flip", align_corners=True) == AugmentRule((), ("flip",), (), True)
    images = pictures(2, 3, 8, 8)
    for nothing in ("", "none"):
        rule = augment_rule("vico", strategy=nothing)
        assert torch.equal(augment(images, draw_per_sample(rule, 2, seeded())), images)
    only = draw_per_class(augment_rule("fyi", strategy="flip"), 2, seeded(1))
    assert only.chosen == () and augment(images, only).shape == images.shape


@pytest.mark.parametrize(
    ("preset", "strategy", "message"),
    [
        ("vicco", None, "unknown augmentation preset 'vicco'; nearest: 'vico'"),
        ("vico", "colour_crop", "operation 'colour'; nearest: 'color'"),
        ("vico", "crop_crop", "'crop' is named twice"),
        ("vico", "zzz", "known: color, crop, cutout, flip, scale, rotate"),
        ("vico", "color__crop", "operation ''"),
    ],
)
def test_mistakes_are_answered(preset: str, strategy: str | None, message: str) -> None:
    with pytest.raises(UserError) as caught:
        augment_rule(preset, strategy=strategy)
    assert message in str(caught.value)
