"""Class maps of the patch classifier: the stage `maps` of PPL beside a plain loop, one view at a time; pictures a second.

    python benchmarks/maps.py                                  (writes results/maps.json; about two minutes)

Both use the network of `ppl/demo` (its weights do not matter here), the same scales and mirror images, float32 and torch's
default threads, and give the same maps. The rival takes each picture, each scale and each mirror image on its own, as the
published pipelines do. Sides take turns; numbers are medians.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.config import DataFields
from partwise.data.loading import PictureData
from partwise.data.sample import Record, Source
from partwise.methods.ppl.config import MapFields
from partwise.methods.ppl.mapping import ReadMaps
from partwise.methods.ppl.picturewise import CHUNK
from partwise.models.backbones import build_backbone
from partwise.models.patch_learning import PatchLearning
from record import write_result

COMMAND = "python benchmarks/maps.py"
SIDES = {96: 32, 224: 8}
"""Side of the pictures -> how many."""
CLASSES, ASKED, TURNS = 6, 1.3, 5
FURTHEST = 1e-3
"""Products are kept in float16."""


def one_at_a_time(network: PatchLearning, images: Tensor, present: Tensor, fields: MapFields) -> Tensor:
    """The same maps `(B, K, H, W)` in plain loops."""
    rows = []
    for image, shown in zip(images, present, strict=True):
        height, width = image.shape[1:]
        total = torch.zeros(1, len(shown), height, width)
        for scale in fields.scales:
            size = (round(height * scale), round(width * scale))
            view = F.interpolate(image[None], size=size, mode="bicubic") if scale != 1 else image[None]
            for mirrored in (False, True):
                raw = network.maps(view.flip(3) if mirrored else view)[1].relu()
                total += F.interpolate(raw.flip(3) if mirrored else raw, size=(height, width), mode="bilinear")
        own = total[0] * shown[:, None, None]
        rows.append(own / (own.amax((1, 2), keepdim=True) + 1e-5))
    return torch.stack(rows)


class Noise(Source):
    """Pictures of noise with several labels each."""

    kind = name = "noise"
    classes = tuple("abcdef")
    multi_label = True

    def __init__(self, side: int, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.noise = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)
        self.present = torch.rand(count, CLASSES, generator=generator) < 0.3
        rows = [tuple(row.nonzero()[:, 0].tolist()) for row in self.present]
        splits = ["train"] * (count - 1) + ["test"]
        self.records = [
            Record(id=f"{n}", split=split, labels=row) for n, (split, row) in enumerate(zip(splits, rows, strict=True))
        ]

    def load_image(self, index: int) -> Tensor:
        return self.noise[index]


@torch.inference_mode()
def measure(network: PatchLearning, side: int, count: int) -> dict[str, Any]:
    """Both sides in turns on the same pictures."""
    fields, source = MapFields(), Noise(side, count + 1)
    data = PictureData(source, DataFields(source="noise:", size=side, validation=0.0))
    stage = ReadMaps("maps", network, data, fields, stride=4)
    items = stage.items()

    def ours() -> list[Tensor]:
        chunks = (items[start : start + CHUNK] for start in range(0, count, CHUNK))
        return [made["full"].float() for chunk in chunks for made in stage.compute_all(chunk)]

    def theirs() -> Tensor:
        return one_at_a_time(network, source.noise[:count].float() / 255, source.present[:count].float(), fields)

    rows = zip(ours(), theirs(), source.present[:count], strict=True)
    distance = max(float((mine - other[shown]).abs().max()) for mine, other, shown in rows if shown.any())
    rates: dict[str, list[float]] = {"ours": [], "one at a time": []}
    for _ in range(TURNS):
        for name, call in (("ours", ours), ("one at a time", theirs)):
            begun = time.perf_counter()
            call()
            rates[name].append(round(count / (time.perf_counter() - begun), 2))
    speed_up = statistics.median(rates["ours"]) / statistics.median(rates["one at a time"])
    return {
        "pictures_per_second": rates,
        "largest_difference": distance,
        "agrees": distance <= FURTHEST,
        "compared": {
            "ours": "ours",
            "theirs": "one view at a time",
            "speed_up": round(speed_up, 2),
            "asked": ASKED,
            "met": speed_up >= ASKED,
        },
    }


def main() -> None:
    torch.manual_seed(0)
    backbone = build_backbone("cifar-resnet", depth=20, stem_stride=2, last_stride=1)
    network = PatchLearning(backbone, CLASSES, mode="ppl").eval().to(memory_format=torch.channels_last)
    values = {f"{side} px": measure(network, side, count) for side, count in SIDES.items()}
    for name, found in values.items():
        print(name, found["compared"], "difference", found["largest_difference"])
    print(write_result("maps", COMMAND, values))


if __name__ == "__main__":
    main()
