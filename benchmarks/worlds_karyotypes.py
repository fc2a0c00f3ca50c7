"""How fast the karyotypes are drawn, and what a shortcut would reach on them.

    OMP_NUM_THREADS=1 python benchmarks/worlds_karyotypes.py      (writes results/worlds_karyotypes.json; about two minutes)

A probe names the type from something that should not suffice: how much of which grey there is, how large the chromosome is,
pixels through a linear map. Chance is 0.043. Types do differ in size, so size alone has to tell something. A small plain
network on the pictures as they are is measured beside them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.worlds.karyotypes import Karyotypes
from worlds import Split, probe, rate, world_hash

COMMAND = "OMP_NUM_THREADS=1 python benchmarks/worlds_karyotypes.py"


def grey_histogram(images: Tensor) -> Tensor:
    """How many of the dark pixels have each of 32 greys, as shares, square-rooted; the amount of ground is left out."""
    bins = (images.long() // 8).flatten(1)
    dark = (images < 250).flatten(1).float()
    counts = torch.zeros(len(bins), 32).scatter_add_(1, bins, dark)
    return (counts / dark.sum(1, keepdim=True).clamp(min=1)).sqrt()


def size_alone(images: Tensor) -> Tensor:
    """Height, width and area of what is darker than the ground, their logarithms and products."""
    dark = images[:, 0] < 245
    side = images.shape[-1]
    lines, columns = dark.any(2).float(), dark.any(1).float()
    extents = [side - edges.argmax(1) - edges.flip(1).argmax(1) for edges in (lines, columns)]
    plain = torch.stack([*(extent.float() / side for extent in extents), dark.float().mean((1, 2)) * 10], dim=1)
    first = torch.cat([plain, plain.clamp(min=1e-3).log()], dim=1)
    return torch.cat([first, (first[:, :, None] * first[:, None, :]).flatten(1)], dim=1)


def pixels(images: Tensor) -> Tensor:
    """The middle of the picture, half of it wide, in 32 x 16 cells."""
    quarter = images.shape[-1] // 4
    return F.adaptive_avg_pool2d(images[..., quarter:-quarter].float(), (32, 16)).flatten(1) / 255


PROBES: dict[str, Callable[[Tensor], Tensor]] = {
    "grey_histogram": grey_histogram,
    "size_alone": size_alone,
    "linear_pixels": pixels,
}


def of_split(source: Karyotypes, split: str) -> tuple[Tensor, Tensor]:
    """Pictures and types of a split."""
    index = [i for i, record in enumerate(source.records) if record.split == split]
    return source.images(index), torch.tensor([source.records[i].label for i in index])


def probe_accuracies(source: Karyotypes) -> dict[str, float]:
    """Test accuracy of every shortcut, learned on all training pictures."""
    (images, types), (held, wanted) = of_split(source, "train"), of_split(source, "test")
    return {
        name: probe(Split(features(images), types), Split(features(held), wanted), num_classes=24)
        for name, features in PROBES.items()
    }


def plain_network(source: Karyotypes, *, epochs: int = 8, widths: tuple[int, ...] = (1, 16, 32, 64, 64)) -> float:
    """Test accuracy of four convolutions trained without augmentation but flips and shifts."""
    torch.manual_seed(0)
    (images, types), (held, wanted) = of_split(source, "train"), of_split(source, "test")
    layers: list[nn.Module] = []
    for wide, wider in pairwise(widths):
        layers += [nn.Conv2d(wide, wider, 3, stride=2, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(widths[-1] * (source.size // 16) ** 2, 24))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(images)).split(64):
            batch = 1 - images[rows].float() / 255
            batch = torch.where((torch.rand(len(rows)) < 0.5)[:, None, None, None], batch.flip(3), batch)
            shift = torch.randint(-2, 3, (2,)).tolist()
            loss = F.cross_entropy(network(batch.roll(shift, (2, 3))), types[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        found = torch.cat([network(1 - piece.float() / 255).argmax(1) for piece in held.split(256)])
    return (found == wanted).double().mean().item()


def main() -> None:
    from record import write_result

    torch.set_num_threads(1)
    source, large = Karyotypes(train=211, val=0, test=69), Karyotypes(size=128)
    values = {
        "version": source.version,
        "sha256_of_64_pictures": world_hash(source),
        "images_64px": rate(lambda: source.images(range(1024)), 1024),
        "images_128px": rate(lambda: large.images(range(256)), 256),
        "alone_64px": rate(lambda: [source.load_image(i) for i in range(64)], 64),
        "chance": 1 / 23,
        "probes": probe_accuracies(source),
        "plain_network": plain_network(source),
    }
    write_result("worlds_karyotypes", COMMAND, values)
    print(values, file=sys.stderr)


if __name__ == "__main__":
    main()
