"""The views of Adam-v1 and Adam-v2 against a chain of PIL calls, one picture at a time, and what must hold for all of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import functional as tv
from torchvision.transforms.functional import InterpolationMode

from partwise.config import UserError
from partwise.data import anatomy_views
from partwise.data.anatomy_views import (
    BANDS,
    IMAGENET_MEAN,
    IMAGENET_STD,
    ViewDraws,
    ViewKind,
    ViewTable,
    contrast_views,
    draw_views,
    localizability_views,
    part_whole_views,
    render,
    view_blocks,
)
from partwise.data.sharing import start_threads
from partwise.data.sources import open_source
from partwise.ops import draws
from partwise.ops.view_pixels import Atlas, blur, box_kernels, halved, jitter_colour, pyramid_levels

SIZE = (150, 132)
SMALL = {
    "localizability": localizability_views(48, 24),
    "part_whole": part_whole_views(48, 24),
    "contrast": contrast_views(48),
}
ADJUST = (tv.adjust_brightness, tv.adjust_contrast, tv.adjust_saturation, tv.adjust_hue)


def smooth(count: int, channels: int, *, size: tuple[int, int] = SIZE, seed: int = 0) -> Tensor:
    """Pictures without fine detail, uint8."""
    coarse = torch.rand(count, channels, 4, 4, generator=draws.generator(seed))
    return (F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1) * 255).round().byte()


def drawn(table: ViewTable, count: int, *, size: tuple[int, int] = SIZE, level: int = 0, seed: int = 0) -> ViewDraws:
    return draw_views(count, table, size=size, level=level, generator=draws.generator(seed))


def plainly(numbers: ViewDraws) -> ViewDraws:
    """The same cuts, neither jittered nor turned nor blurred."""
    factors = torch.tensor([1.0, 1.0, 1.0, 0.0]).expand_as(numbers.factors)
    return replace(
        numbers, factors=factors, angle=torch.zeros_like(numbers.angle), sigma=torch.zeros_like(numbers.sigma)
    )


def published_view(
    image: Tensor, numbers: ViewDraws, row: int, view: int, rotation: InterpolationMode = InterpolationMode.NEAREST
) -> Tensor:
    """One view of one picture, uint8 `(C, H, W)`, as the published code makes it from the same numbers."""
    size = numbers.table.views[view].size
    picture = tv.to_pil_image(image).convert("RGB").crop(numbers.boxes[row, view].tolist())
    picture = picture.resize((size, size), Image.Resampling.BICUBIC)
    factors = numbers.factors[row, view].tolist()
    for kind in numbers.order[row, view].tolist():
        if factors[kind] != (0.0 if kind == 3 else 1.0):
            picture = ADJUST[kind](picture, factors[kind])

    def rotated(before: Image.Image) -> Image.Image:
        return tv.rotate(before, math.degrees(float(numbers.angle[row, view])), rotation)

    def blurred(before: Image.Image) -> Image.Image:
        sigma = float(numbers.sigma[row, view])
        return before.filter(ImageFilter.GaussianBlur(sigma)) if sigma else before

    for change in (blurred, rotated) if numbers.table.blur_first else (rotated, blurred):
        picture = change(picture)
    return tv.normalize(tv.to_tensor(picture), IMAGENET_MEAN, IMAGENET_STD)


def differences(images: Tensor, numbers: ViewDraws, rotation: InterpolationMode = InterpolationMode.NEAREST) -> Tensor:
    """Mean absolute differences to the published views, in grey levels of 255, `(B, V)`."""
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    found = [
        [
            ((view[row] - published_view(images[row], numbers, row, number, rotation)) * std).abs().mean() * 255
            for row in range(len(images))
        ]
        for number, view in enumerate(render(images, numbers))
    ]
    return torch.tensor(found).T


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", SMALL)
def test_views_are_those_of_the_published_chain(name: str, channels: int, level: int) -> None:
    """Smooth pictures, small views. Nearest-neighbour rotation is ragged; beside a smooth one the same chain is close."""
    images, numbers = smooth(3, channels), drawn(SMALL[name], 3, level=level)
    published = differences(images, numbers)
    assert published.mean() < 3 and published.max() < 6
    smoothed = differences(images, numbers, InterpolationMode.BILINEAR)
    assert smoothed.mean() < 2 and smoothed.max() < 4


@pytest.mark.parametrize("name", SMALL)
def test_each_change_alone(name: str) -> None:
    """What is left is the resampling; PIL rounds, and cuts off fractions, after every step of the jitter."""
    images, numbers = smooth(3, 1), drawn(SMALL[name], 3)
    plain = plainly(numbers)
    assert differences(images, plain).mean() < 0.6
    assert differences(images, replace(plain, sigma=numbers.sigma)).mean() < 0.7
    assert differences(images, replace(plain, angle=numbers.angle), InterpolationMode.BILINEAR).mean() < 0.7
    assert differences(images, replace(plain, factors=numbers.factors)).mean() < 1.1


@pytest.mark.data
def test_views_of_real_radiographs(pack: Callable[[str], Path]) -> None:
    """Real detail at full size: about one grey level in the mean of a view."""
    source = open_source(f"cxrmasks:{pack('chest_xray_masks')}")
    images = torch.stack([source.load_image(index)[:1] for index in (0, 300)])
    numbers = drawn(part_whole_views(), 2, size=(images.shape[2], images.shape[3]))
    found = differences(images, numbers)
    assert found.mean() < 1.5 and found.max() < 3


def test_which_views_there_are() -> None:
    first, second, older = localizability_views(), part_whole_views(), contrast_views()
    assert [kind.name for kind in first.views] == ["g1", "g2", *(f"l{n}" for n in range(1, 9))]
    assert [kind.name for kind in second.views] == [
        *("w0", "g"),
        *(f"l{n}" for n in range(1, 9)),
        *(f"p{n}" for n in range(1, 5)),
    ]
    assert [kind.name for kind in older.views] == ["q", "k"]
    assert [len(table.views) for table in (first, second, part_whole_views(num_parts=9))] == [10, 14, 19]
    assert second.groups() == {224: [0, 1, 10, 11, 12, 13], 96: list(range(2, 10))}
    assert [kind.blur for kind in first.views] == [1.0, 0.1, *[0.5] * 8]
    assert [kind.blur for kind in second.views] == [0.1, 1.0, *[0.5] * 8, *[0.1] * 4]
    assert {kind.rotation for kind in first.views + older.views} == {30.0}
    assert {kind.rotation for kind in second.views} == {10.0}
    assert (BANDS[0], BANDS[1], BANDS[-1]) == ((0.05, 0.1), (0.1, 0.2), (0.7, 0.8)) and len(BANDS) == 8
    assert (first.jitter, older.jitter) == ((0.4, 0.4, 0.2, 0.1), (0.4, 0.4, 0.4, 0.1))


def test_draws_have_the_distributions_of_the_paper() -> None:
    numbers = drawn(part_whole_views(), 2_000, size=(512, 512))
    changed = (numbers.factors != torch.tensor([1.0, 1.0, 1.0, 0.0])).all(-1)
    assert changed.double().mean() == pytest.approx(0.8, abs=0.01)
    for kind, (low, high) in enumerate([(0.6, 1.4), (0.6, 1.4), (0.8, 1.2), (-0.1, 0.1)]):
        values = numbers.factors[..., kind][changed]
        assert values.min() == pytest.approx(low, abs=2e-3) and values.max() == pytest.approx(high, abs=2e-3)
    assert numbers.angle.abs().max() == pytest.approx(math.radians(10), rel=1e-3)
    assert numbers.angle.mean() == pytest.approx(0, abs=2e-3)
    blurred = numbers.sigma > 0
    assert blurred.double().mean(0).tolist() == pytest.approx([0.1, 1.0, *[0.5] * 8, *[0.1] * 4], abs=0.04)
    assert (
        numbers.sigma[blurred].min() >= 0.1
        and numbers.sigma.max() <= 2
        and numbers.sigma[blurred].mean() == pytest.approx(1.05, abs=0.02)
    )
    assert numbers.order.sort(-1).values.unique(dim=1)[0, 0].tolist() == [0, 1, 2, 3]
    assert len(numbers.order.flatten(0, 1).unique(dim=0)) == 24


def test_a_process_takes_its_rows_of_the_global_draw() -> None:
    """The same numbers and the same pixels as in one process, at any level as many of them drawn."""
    images, numbers = smooth(4, 1), drawn(SMALL["part_whole"], 4)
    whole = render(images, numbers)
    for rows in (slice(0, 2), slice(2, 4)):
        for part, view in zip(render(images[rows], numbers.rows(rows)), whole, strict=True):
            assert torch.equal(part, view[rows])
    finer = drawn(SMALL["part_whole"], 4, level=1)
    assert torch.equal(finer.angle, numbers.angle) and torch.equal(finer.sigma, numbers.sigma)
    assert not torch.equal(drawn(SMALL["part_whole"], 4, seed=1).angle, numbers.angle)


def test_views_lie_where_the_paper_cuts_them() -> None:
    """Local views about the anchor's centre with shares in their bands, parts that tile it, anchors of 1, 1/4 and 1/16."""
    for level in range(3):
        numbers = drawn(part_whole_views(), 50, size=(1024, 1024), level=level)
        anchors, boxes = numbers.anchors, numbers.boxes
        assert ((anchors[:, 2:] - anchors[:, :2]).prod(-1) * 4**level == 1024**2).all()
        assert torch.equal(boxes[:, 0], anchors)
        middle = (boxes[..., :2] + boxes[..., 2:]) / 2
        assert ((middle[:, 1:10] - middle[:, :1]).abs() <= 1).all()
        sides = (boxes[..., 2:] - boxes[..., :2]).double()
        shares = sides.prod(-1) / sides[:, :1].prod(-1)
        ratio = sides[..., 0] / sides[..., 1]
        for number, (low, high) in enumerate([(0.8, 1.0), *BANDS]):
            own, shape = shares[:, 1 + number], ratio[:, 1 + number]
            assert own.min() > low * 0.97 and own.max() < high * 1.03
            least, most = (3 / 4, 4 / 3) if number == 0 else ((2 / 3, 1), (1, 3 / 2))[(number - 1) % 2]
            assert shape.min() > least * 0.97 and shape.max() < most * 1.03
        assert torch.equal(boxes[:, 10, :2], anchors[:, :2]) and torch.equal(boxes[:, 13, 2:], anchors[:, 2:])
        assert (shares[:, 10:] == 0.25).all()
    first = drawn(localizability_views(), 50, size=(300, 200), level=1)
    assert (first.anchors[:, 2:] - first.anchors[:, :2] == 100).all()
    assert (first.boxes[..., :2] >= first.anchors[:, None, :2]).all() and (
        first.boxes[..., 2:] <= first.anchors[:, None, 2:]
    ).all()


def test_views_without_changes_are_the_pictures_own_pixels() -> None:
    """Parts at their own size come back unchanged; twice as large, each pixel is the mean of four."""
    images = torch.randint(0, 256, (2, 1, 64, 64), generator=draws.generator(0)).byte()
    numbers = plainly(drawn(part_whole_views(32, 16), 2, size=(64, 64)))
    views = render(images, numbers, mean=(0, 0, 0), std=(1, 1, 1))
    pixels = images.float() / 255
    for part, (y, x) in zip(views[10:], [(0, 0), (0, 32), (32, 0), (32, 32)], strict=True):
        assert torch.allclose(part, pixels[:, :, y : y + 32, x : x + 32].expand(-1, 3, -1, -1), atol=1e-5)
    assert torch.allclose(views[0][:, :1], F.avg_pool2d(pixels, 2), atol=1e-5)


def test_nothing_beyond_a_crop_shines_in() -> None:
    """Black and white quarters, each enlarged as a part and turned: one colour but for the corners."""
    images = torch.zeros(1, 1, 40, 40, dtype=torch.uint8)
    images[:, :, :20, 20:] = images[:, :, 20:, :20] = 255
    numbers = plainly(drawn(part_whole_views(48, 24), 1, size=(40, 40)))
    for angle, colours in ((0.0, [[0], [1], [1], [0]]), (0.1, [[0], [0, 1], [0, 1], [0]])):
        views = render(images, replace(numbers, angle=numbers.angle + angle), mean=(0, 0, 0), std=(1, 1, 1))
        assert [view.mul(1000).round().div(1000).unique().tolist() for view in views[10:]] == colours


@pytest.mark.parametrize("name", SMALL)
def test_left_stays_left(name: str) -> None:
    """A picture that brightens to the right and is dark below: no view is mirrored."""
    across, down = torch.linspace(0, 200, 96), torch.linspace(55, 0, 80)
    images = (across[None, :] + down[:, None]).byte().expand(6, 1, 80, 96)
    for view in render(images, drawn(SMALL[name], 6, size=(80, 96))):
        middle = view[:, 0, view.shape[2] // 4 : -view.shape[2] // 4]
        half = middle.shape[2] // 2
        assert (middle[..., half:].mean((1, 2)) > middle[..., :half].mean((1, 2))).all()


def test_corners_are_black_after_jitter() -> None:
    """Turned by 30 degrees: zero before normalisation, whatever the jitter; with blur first their edges are sharp."""
    table = ViewTable("margin", (ViewKind("v", 32, "whole", 30.0, 1.0),))
    images = torch.full((2, 1, 40, 40), 100, dtype=torch.uint8)
    for blur_first in (True, False):
        numbers = drawn(replace(table, blur_first=blur_first), 2, size=(40, 40))
        numbers = replace(numbers, angle=torch.full((2, 1), math.radians(30)), sigma=torch.full((2, 1), 2.0))
        view = render(images, numbers, mean=(0, 0, 0), std=(1, 1, 1))[0]
        assert (view[:, :, [0, 0, -1, -1], [0, -1, 0, -1]] < 0.01).all() and (view[:, :, 16, 16] > 0.2).all()
        assert (len(view[0].mul(1000).round().unique()) == 2) == blur_first


@pytest.mark.parametrize("name", SMALL)
def test_grey_pictures_take_either_way(name: str) -> None:
    """One channel, three equal ones, and three treated as one give the same views: saturation and hue do nothing to grey."""
    images, numbers = smooth(3, 1), drawn(SMALL[name], 3)
    fast = render(images, numbers)
    for other in (
        render(images, numbers, grey=False),
        render(images.expand(-1, 3, -1, -1), numbers),
        render(images.expand(-1, 3, -1, -1), numbers, grey=True),
    ):
        for mine, view in zip(fast, other, strict=True):
            assert torch.allclose(mine, view, atol=2e-4)


def test_floats_halves_and_blocks_of_either() -> None:
    images, numbers = smooth(3, 1), drawn(SMALL["part_whole"], 3)
    wanted = render(images, numbers)
    for view, other in zip(wanted, render(images.double() / 255, numbers), strict=True):
        assert torch.allclose(view, other, atol=1e-4)
    for view, other in zip(wanted, render((images.float() / 255).half(), numbers), strict=True):
        assert torch.allclose(view, other, atol=0.02)
    blocks = view_blocks(numbers.table, 3, dtype=torch.float16)
    halves = render(images, numbers, out=blocks)
    assert all(
        torch.allclose(view, half.float(), atol=2e-3) and half.dtype == torch.float16
        for view, half in zip(wanted, halves, strict=True)
    )
    assert blocks[48].shape == (6, 3, 3, 48, 48) and halves[10].data_ptr() == blocks[48][2].data_ptr()


@pytest.mark.parametrize("grey", [True, False])
def test_a_picture_alone_is_the_same_as_in_a_batch(grey: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are made at once, and with memory that holds other views."""
    images, numbers = smooth(5, 1 if grey else 3), drawn(SMALL["localizability"], 5)
    blocks = view_blocks(numbers.table, 5)
    whole = [view.clone() for view in render(images, numbers, out=blocks)]
    alone = [render(images[row : row + 1], numbers.rows(slice(row, row + 1))) for row in range(5)]
    monkeypatch.setattr(anatomy_views, "PICTURES_A_THREAD", 5)
    for view, single, again in zip(whole, zip(*alone, strict=True), render(images, numbers, out=blocks), strict=True):
        assert torch.allclose(view, torch.cat(single), atol=1e-5) and torch.allclose(view, again, atol=1e-5)


def test_threads_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images, numbers = smooth(5, 1), drawn(SMALL["localizability"], 5)
    whole = render(images, numbers)
    with start_threads(2) as pool:
        main, torch_threads = torch.get_num_threads(), torch.get_num_threads
        assert isinstance(pool, ThreadPoolExecutor) and main == 1
        monkeypatch.setattr(torch, "get_num_threads", lambda: 2 * torch_threads())
        for view, other in zip(whole, render(images, numbers, pool=pool), strict=True):
            assert torch.equal(view, other)


def test_pictures_that_are_not_square_and_small_ones() -> None:
    for size in ((37, 90), (91, 21), (9, 8)):
        for table in SMALL.values():
            views = render(smooth(1, 3, size=size), drawn(table, 1, size=size))
            assert [view.shape[2] for view in views] == [kind.size for kind in table.views]
            assert all(view.isfinite().all() for view in views)


def test_what_is_refused() -> None:
    numbers = drawn(SMALL["part_whole"], 2)
    with pytest.raises(UserError, match=r"pictures of 12 x 10 pixels at level 2: parts of 1 x 1 pixels.*fewer parts"):
        drawn(SMALL["part_whole"], 1, size=(10, 12), level=2)
    with pytest.raises(UserError, match="expected a square number"):
        drawn(part_whole_views(48, 24, num_parts=6), 1)
    for images in (smooth(3, 1), smooth(2, 2), smooth(2, 1, size=(150, 131)), smooth(2, 1)[0]):
        with pytest.raises(UserError, match=r"expected \(2, 1, 150, 132\)"):
            render(images, numbers)
    with pytest.raises(UserError, match=r"torch\.int64: expected uint8, or floats"):
        render(smooth(2, 1).long(), numbers)
    with pytest.raises(UserError, match="as view_blocks gives them"):
        render(smooth(2, 1), numbers, out=view_blocks(numbers.table, 3))


def test_an_atlas_holds_the_pyramid_and_nothing_else() -> None:
    """Levels by plain means, the border repeated; what is no level is zero, so that it can be multiplied by zero."""
    images = torch.randint(0, 256, (1, 1, 11, 6), generator=draws.generator(0)).byte()
    atlas = Atlas.blank((11, 6), 3, 1, 1, torch.device("cpu"))
    atlas.fill(images)
    level, rest = images[0, 0].double(), atlas.pixels.clone()
    for x, y, width, height in atlas.places:
        assert torch.allclose(atlas.pixels[0, 0, y : y + height, x : x + width].double(), level)
        rest[0, 0, y : y + height, x : x + width] = 0
        rows, columns = -(-level.shape[0] // 2), -(-level.shape[1] // 2)
        means = torch.zeros(rows, columns, dtype=torch.float64)
        for i in range(rows):
            for j in range(columns):
                at = [
                    (min(2 * i + a, level.shape[0] - 1), min(2 * j + b, level.shape[1] - 1))
                    for a in (0, 1)
                    for b in (0, 1)
                ]
                means[i, j] = sum(float(level[place]) for place in at) / 4
        assert torch.allclose(halved(level.float()[None, None])[0, 0].double(), means)
        level = means
    assert (rest == 0).all() and [place[2:] for place in atlas.places] == [(6, 11), (3, 6), (2, 3)]


def test_levels_are_the_nearest() -> None:
    boxes = torch.tensor([[0, 0, side, side] for side in (20, 100, 141, 142, 282, 283, 400)])
    assert pyramid_levels(boxes, torch.full((7,), 100.0)).tolist() == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("sigma", [0.1, 0.4, 1.0, 1.4, 1.5, 2.0, 4.0])
def test_kernels_have_their_variance_and_are_boxes_three_times(sigma: float) -> None:
    kernel = box_kernels(torch.tensor([sigma]))[0].double().numpy()
    reach = len(kernel) // 2
    assert kernel.sum() == pytest.approx(1) and (kernel == kernel[::-1]).all()
    assert (kernel * np.arange(-reach, reach + 1) ** 2).sum() == pytest.approx(sigma**2, rel=1e-5)
    whole = reach // 3 - 1
    share = kernel[0] ** (1 / 3) if kernel[0] > 0 else 0.0
    box = np.array([share, *[(1 - 2 * share) / (2 * whole + 1)] * (2 * whole + 1), share])
    assert np.allclose(np.convolve(np.convolve(box, box), box), kernel, atol=1e-6)


def test_kernels_leave_what_is_not_blurred() -> None:
    kernels = box_kernels(torch.tensor([[0.0, 2.0]]))
    assert kernels.shape == (1, 2, 13) and kernels[0, 0].tolist() == [0.0] * 6 + [1.0] + [0.0] * 6


def test_blur_pixel_by_pixel() -> None:
    pixels = torch.rand(3, 2, 9, 7, generator=draws.generator(1), dtype=torch.float64).mul(255)
    kernels, chosen = box_kernels(torch.tensor([1.0, 0.0, 0.6])).double(), torch.tensor([True, False, True])
    found, reach = pixels.clone(), kernels.shape[1] // 2
    blur(found, kernels, chosen)
    assert torch.equal(found[1], pixels[1])
    for row, channel, y, x in np.ndindex(3, 2, 9, 7):
        total = 0.0
        for dy, dx in np.ndindex(2 * reach + 1, 2 * reach + 1):
            at = pixels[row, channel, min(max(y + dy - reach, 0), 8), min(max(x + dx - reach, 0), 6)]
            total += float(kernels[row, dy] * kernels[row, dx] * at)
        if chosen[row]:
            assert float(found[row, channel, y, x]) == pytest.approx(total)


def test_colours_are_those_of_torchvision() -> None:
    """Each picture with its own amounts, in its own order, on floats."""
    generator = draws.generator(2)
    pixels = torch.rand(24, 3, 5, 6, generator=generator)
    pixels[:, :, 0] = pixels[:, :1, 0]  # a row of greys
    pixels[:, 1:, 1] = 0  # and one of pure red
    factors = torch.rand(24, 4, generator=generator) * torch.tensor([0.8, 0.8, 0.8, 0.2]) + torch.tensor(
        [0.6, 0.6, 0.6, -0.1]
    )
    factors[0], order = torch.tensor([1.0, 1.0, 1.0, 0.0]), torch.rand(24, 4, generator=generator).argsort(-1)
    found = pixels * 255
    jitter_colour(found, factors, order)
    for row in range(24):
        wanted = pixels[row]
        for kind in order[row].tolist():
            wanted = ADJUST[kind](wanted, float(factors[row, kind]))
        # torchvision's own weights of grey are rounded a little differently.
        assert torch.allclose(found[row] / 255, wanted, atol=2e-3)
