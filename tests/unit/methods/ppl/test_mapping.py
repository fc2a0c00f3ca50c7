"""Maps of the patch classifier against one picture, one scale and one mirror image at a time."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.config import DataFields
from partwise.data.loading import PictureData
from partwise.data.sample import Record, Source
from partwise.methods.ppl.config import MapFields
from partwise.methods.ppl.mapping import ReadMaps, known_classes, read_maps
from partwise.models.backbones import build_backbone
from partwise.models.patch_learning import PatchLearning


def network(mode: str = "ppl", num_classes: int = 3) -> PatchLearning:
    torch.manual_seed(0)
    return PatchLearning(build_backbone("cifar-resnet", depth=8), num_classes, mode=mode).eval()  # type: ignore[arg-type]


def naive(net: PatchLearning, image: Tensor, present: Tensor, fields: MapFields, grid: tuple[int, int]) -> Tensor:
    """The maps of one picture `(3, H, W)` on a grid, before they are scaled."""
    height, width = image.shape[1:]
    total = torch.zeros(len(present), *grid)
    for scale in fields.scales:
        size = (max(1, round(height * scale)), max(1, round(width * scale)))
        view = image[None]
        if size != (height, width):
            view = F.interpolate(view, size=size, mode="bicubic", align_corners=False)
        for mirrored in (False, True) if fields.flip else (False,):
            turned = view.flip(3) if mirrored else view
            placements = (False, True) if fields.seam_average else (False,)
            raw = sum(net.maps(turned, fields.half, shifted=s)[1][0].relu() for s in placements) / len(placements)
            raw = raw.flip(2) if mirrored else raw
            total += F.interpolate(raw[None], size=grid, mode="bilinear", align_corners=False)[0]
    return total * present[:, None, None]


def scaled(maps: Tensor, present: Tensor, fields: MapFields) -> Tensor:
    rows = []
    for row, shown in zip(maps, present.tolist(), strict=True):
        own = row - row.min() if fields.normalise == "minmax" and shown else row
        rows.append(own / (own.max() + 1e-5))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "fields",
    [
        MapFields(),
        MapFields(scales=(1.0,), flip=False),
        MapFields(half="global", normalise="minmax"),
        MapFields(half="patch", seam_average=True, scales=(1.0, 0.5)),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(32, 32), (37, 22)])
def test_maps_are_those_of_the_naive_version(fields: MapFields, height: int, width: int) -> None:
    net, images = network(), torch.rand(2, 3, height, width)
    present = torch.tensor([[1, 0, 1], [0, 1, 0]])
    found = read_maps(net, images, present, fields, stride=4)
    grids = ((math.ceil(height / 4), math.ceil(width / 4)), (16 * math.ceil(height / 16), 16 * math.ceil(width / 16)))
    with torch.no_grad():
        for row in range(2):
            strided, full = (naive(net, images[row], present[row], fields, grid) for grid in grids)
            expected = scaled(strided, present[row], fields)
            torch.testing.assert_close(found.strided[row], expected, rtol=1e-4, atol=1e-5)
            expected = scaled(full[:, :height, :width], present[row], fields)
            torch.testing.assert_close(found.full[row], expected, rtol=1e-4, atol=1e-5)


def test_each_class_reaches_one_and_others_stay_zero() -> None:
    found = read_maps(network("epl"), torch.rand(4, 3, 24, 40), torch.tensor([[1, 1, 0]] * 4), MapFields()).full
    assert found.shape == (4, 3, 24, 40) and found.min() >= 0
    assert ((found.amax((2, 3))[:, :2] > 1 - 1e-2) & (found.amax((2, 3))[:, :2] <= 1)).all()
    assert (found[:, 2] == 0).all()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 40), (7, 3), (300, 5)])
def test_pictures_of_any_size_have_maps(height: int, width: int) -> None:
    fields = MapFields(longest=64)
    found = read_maps(network(), torch.rand(1, 3, height, width), torch.ones(1, 3), fields)
    assert found.full.shape == (1, 3, height, width) and found.full.isfinite().all()
    assert found.strided.shape == (1, 3, math.ceil(height / 4), math.ceil(width / 4))


def test_a_large_picture_is_reduced_before_the_network() -> None:
    seen: list[int] = []
    net = network()
    run = net.run
    net.run = lambda x, first, last: (seen.append(max(x.shape[-2:])), run(x, first, last))[1]  # type: ignore[method-assign]
    read_maps(net, torch.rand(1, 3, 500, 100), torch.ones(1, 3), MapFields(longest=64, scales=(1.0,)))
    assert max(seen) <= 64


class Scenes(Source):
    """Pictures of two sizes, one of them without any label."""

    kind = name = "scenes"
    classes = ("a", "b", "c")
    multi_label = True

    def __init__(self) -> None:
        labels = [(0,), (0, 2), (), (1,), (0, 1, 2), (2,), (1,)]
        splits = ["train"] * 4 + ["val"] * 2 + ["test"]
        self.records = [
            Record(id=f"p/{n}", split=split, labels=own)
            for n, (own, split) in enumerate(zip(labels, splits, strict=True))
        ]

    def load_image(self, index: int) -> Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, (3, 24, 24 + 8 * (index % 2)), dtype=torch.uint8, generator=generator)


def test_products_do_not_depend_on_what_is_read_together() -> None:
    data = PictureData(Scenes(), DataFields(source="scenes:", size=24, validation=0.1))
    net, fields = network(), MapFields(scales=(1.0, 0.5))
    stage = ReadMaps("maps", net, data, fields, stride=4)
    together = stage._in_batches(stage.items())  # what a GPU does; on a CPU compute_all reads side by side
    assert stage.items() == [f"p/{n}" for n in range(6)]
    for number, (item, made) in enumerate(zip(stage.items(), together, strict=True)):
        (alone,) = stage.compute_all([item])
        for name, tensor in made.items():
            torch.testing.assert_close(tensor, alone[name], rtol=1e-3, atol=1e-3)
        assert made["classes"].tolist() == list(data.source.records[number].labels or ())
        image = data.source.load_image(number)[None].float() / 255
        expected = read_maps(net, image, known_classes(data, [number]), fields, stride=4)
        torch.testing.assert_close(made["strided"], expected.strided[0, made["classes"]], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(made["full"].float(), expected.full[0, made["classes"]], rtol=1e-2, atol=1e-3)
    data.close()
