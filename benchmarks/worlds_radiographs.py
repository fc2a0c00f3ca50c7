"""How fast the radiographs are drawn, and what a shortcut would reach on them.

    OMP_NUM_THREADS=1 python benchmarks/worlds_radiographs.py      (writes results/worlds_radiographs.json; about a minute)

A probe names the finding from something that should not suffice: how much of which grey there is, what lies around the
lungs, how large the lungs are and where, pixels through a linear map. Chance is 0.25. A heart that is large is a finding, so
what the heart's width tells is measured beside them, from numbers and not from pixels; and a small plain network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.worlds.radiographs import LANDMARKS, LAYERS, Radiographs, Rendered
from worlds import Split, probe, rate, world_hash

COMMAND = "OMP_NUM_THREADS=1 python benchmarks/worlds_radiographs.py"
LUNGS = (LAYERS.index("right lung"), LAYERS.index("left lung"))


def grey_histogram(seen: Rendered) -> Tensor:
    """Shares of 32 greys, square-rooted."""
    return _histogram(seen.images)


def _histogram(images: Tensor) -> Tensor:
    bins = (images.long() // 8).flatten(1)
    counts = torch.zeros(len(bins), 32).scatter_add_(1, bins, torch.ones_like(bins, dtype=torch.float32))
    return (counts / bins.shape[1]).sqrt()


def ground_alone(seen: Rendered) -> Tensor:
    """The picture in 12 x 12 cells and its greys, with the box around lungs and heart filled by the mean of the rest."""
    images, place = seen.images.float(), torch.arange(seen.images.shape[-1])
    organs = seen.boxes[:, [*LUNGS, LAYERS.index("heart")]]
    x1, y1 = organs[:, :, :2].amin(1).split(1, dim=1)
    x2, y2 = organs[:, :, 2:].amax(1).split(1, dim=1)
    inside = ((place >= y1) & (place < y2))[:, :, None] & ((place >= x1) & (place < x2))[:, None, :]
    outside = (~inside)[:, None].float()
    mean = (images * outside).sum((2, 3), keepdim=True) / outside.sum((2, 3), keepdim=True)
    images = images * outside + mean * (1 - outside)
    return torch.cat([F.adaptive_avg_pool2d(images, 12).flatten(1) / 255, _histogram(images.byte())], dim=1)


def lungs_alone(seen: Rendered) -> Tensor:
    """Boxes and areas of both lungs and their products; below a fluid a lung goes on."""
    side = seen.images.shape[-1]
    boxes = seen.boxes[:, list(LUNGS)].flatten(1) / side
    areas = seen.layers[:, list(LUNGS)].float().mean((2, 3)) * 5
    first = torch.cat([boxes, areas], dim=1)
    return torch.cat([first, (first[:, :, None] * first[:, None, :]).flatten(1)], dim=1)


def pixels(seen: Rendered) -> Tensor:
    """The picture in 24 x 24 cells."""
    return F.adaptive_avg_pool2d(seen.images.float(), 24).flatten(1) / 255


PROBES: dict[str, Callable[[Rendered], Tensor]] = {
    "grey_histogram": grey_histogram,
    "ground_alone": ground_alone,
    "lungs_alone": lungs_alone,
    "linear_pixels": pixels,
}


def heart_width(seen: Rendered) -> Tensor:
    """The width of the heart as a share of the chest's."""
    at = {name: seen.landmarks[:, LANDMARKS.index(name), 0] for name in LANDMARKS}
    chest = at["left costophrenic angle"] - at["right costophrenic angle"]
    return ((at["heart left border"] - at["heart right border"]) / chest)[:, None]


def of_split(source: Radiographs, split: str) -> Rendered:
    """Everything of a split."""
    return source.render([i for i, record in enumerate(source.records) if record.split == split])


def probe_accuracies(train: Rendered, test: Rendered) -> dict[str, float]:
    """Test accuracy of every shortcut, and of the heart's width, learned on all training pictures."""
    return {
        name: probe(Split(features(train), train.labels), Split(features(test), test.labels), num_classes=4)
        for name, features in {**PROBES, "heart_width": heart_width}.items()
    }


def plain_network(
    train: Rendered, test: Rendered, *, epochs: int = 10, widths: tuple[int, ...] = (1, 16, 32, 64, 64)
) -> dict[str, float]:
    """Test accuracy of four convolutions trained without augmentation but shifts, and its recall of each finding."""
    torch.manual_seed(0)
    layers: list[nn.Module] = []
    for wide, wider in pairwise(widths):
        layers += [nn.Conv2d(wide, wider, 3, stride=2, padding=1), nn.ReLU()]
    cells = (train.images.shape[-1] // 16) ** 2
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * cells, 4))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(train.images)).split(64):
            batch = (train.images[rows].float() / 255 - 0.5).roll(torch.randint(-2, 3, (2,)).tolist(), (2, 3))
            loss = F.cross_entropy(network(batch), train.labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        found = torch.cat([network(piece.float() / 255 - 0.5).argmax(1) for piece in test.images.split(250)])
    right = (found == test.labels).double()
    names = Radiographs(train=1, val=0, test=0).classes
    recall = {name: right[test.labels == k].mean().item() for k, name in enumerate(names)}
    return {"top1": right.mean().item(), **{f"recall_{name}": value for name, value in recall.items()}}


def main() -> None:
    from record import write_result

    torch.set_num_threads(1)
    source, large = Radiographs(size=64, train=4000, val=0, test=1000), Radiographs(size=128)
    train, test = of_split(source, "train"), of_split(source, "test")
    values = {
        "version": source.version,
        "sha256_of_64_pictures": world_hash(source),
        "images_64px": rate(lambda: source.images(range(512)), 512),
        "images_128px": rate(lambda: large.images(range(128)), 128),
        "render_64px": rate(lambda: source.render(range(256)), 256, repeats=5),
        "load_64px_in_order": rate(lambda: [source.load(i) for i in range(128)], 128, repeats=5),
        "alone_64px": rate(lambda: [source.load_image(i) for i in range(32)], 32, repeats=5),
        "chance": 1 / len(source.classes),
        "probes": probe_accuracies(train, test),
        "plain_network": plain_network(train, test),
    }
    write_result("worlds_radiographs", COMMAND, values)
    print(values, file=sys.stderr)


if __name__ == "__main__":
    main()
