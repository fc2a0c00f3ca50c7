"""How fast the creatures are drawn, and what a shortcut would reach on them.

    OMP_NUM_THREADS=1 python benchmarks/worlds.py            (writes results/worlds_creatures.json; about three minutes)

A probe learns the class from something that should not give it: colours, the ground, the box, pixels through a linear map.
Chance is 0.1. Two references are measured beside them: what the body's habits alone tell (without the ornament, from the
numbers it was built with, not from pixels), and a small plain network.
"""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.worlds.creatures import Creatures, Rendered

COMMAND = "OMP_NUM_THREADS=1 python benchmarks/worlds.py"


class Split(NamedTuple):
    """Features `(n, d)` and classes `(n,)`."""

    features: Tensor
    classes: Tensor


def probe(train: Split, test: Split, *, num_classes: int = 10, neighbours: int = 15) -> float:
    """Test accuracy of the better of a ridge classifier (its strength chosen on a fifth of `train`) and nearest neighbours."""
    mean, scale = train.features.mean(0), train.features.std(0) + 1e-6
    train = Split((train.features - mean) / scale, train.classes)
    test = Split((test.features - mean) / scale, test.classes)
    cut = len(train.classes) * 4 // 5
    fitted, held = Split(*(t[:cut] for t in train)), Split(*(t[cut:] for t in train))
    strengths = (1e1, 1e2, 1e3, 1e4)
    best = max(strengths, key=lambda strength: _ridge(fitted, held, strength, num_classes))
    return max(_ridge(train, test, best, num_classes), _nearest(train, test, neighbours, num_classes))


def _ridge(train: Split, test: Split, strength: float, num_classes: int) -> float:
    """Least squares on one-hot classes with a penalty, in double precision."""
    features = F.pad(train.features.double(), (0, 1), value=1.0)
    wanted = F.one_hot(train.classes, num_classes).double()
    gram = features.T @ features + strength * torch.eye(features.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, features.T @ wanted)
    found = (F.pad(test.features.double(), (0, 1), value=1.0) @ weights).argmax(1)
    return (found == test.classes).double().mean().item()


def _nearest(train: Split, test: Split, neighbours: int, num_classes: int) -> float:
    """A vote of the nearest in Euclidean distance."""
    closest = torch.cdist(test.features, train.features).topk(neighbours, largest=False).indices
    votes = F.one_hot(train.classes[closest], num_classes).sum(1)
    return (votes.argmax(1) == test.classes).double().mean().item()


def colour_histogram(seen: Rendered) -> Tensor:
    """Shares of 6 x 6 x 6 colours, square-rooted."""
    bins = seen.images.long() * 6 // 256
    codes = (bins[:, 0] * 36 + bins[:, 1] * 6 + bins[:, 2]).flatten(1)
    counts = torch.zeros(len(codes), 216).scatter_add_(1, codes, torch.ones_like(codes, dtype=torch.float32))
    return (counts / codes.shape[1]).sqrt()


def ground_alone(seen: Rendered) -> Tensor:
    """The picture in 8 x 8 cells and its colours, with the whole box of the creature filled by the mean of the rest.

    The box and not the outline: a hole of the creature's shape would show the creature.
    """
    images = seen.images.float().clone()
    size = images.shape[-1]
    place = torch.arange(size)
    x1, y1, x2, y2 = (seen.boxes[:, 0, i, None] for i in range(4))
    inside = ((place >= y1) & (place < y2))[:, :, None] & ((place >= x1) & (place < x2))[:, None, :]
    outside = (~inside)[:, None].float()
    mean = (images * outside).sum((2, 3), keepdim=True) / outside.sum((2, 3), keepdim=True).clamp(min=1)
    images = images * outside + mean * (1 - outside)
    filled = Rendered(**{**_fields(seen), "images": images.byte()})
    return torch.cat([F.adaptive_avg_pool2d(images, 8).flatten(1) / 255, colour_histogram(filled)], dim=1)


def box_alone(seen: Rendered) -> Tensor:
    """Place, size, shape of the box and their products."""
    x1, y1, x2, y2 = seen.boxes[:, 0].unbind(1)
    width, height = x2 - x1, y2 - y1
    plain = torch.stack([(x1 + x2) / 2, (y1 + y2) / 2, width, height], dim=1) / seen.images.shape[-1]
    shape = torch.stack([(width * height).sqrt() / 64, (width / height).log()], dim=1)
    first = torch.cat([plain, shape], dim=1)
    return torch.cat([first, (first[:, :, None] * first[:, None, :]).flatten(1)], dim=1)


def pixels(seen: Rendered) -> Tensor:
    """The picture at 16 x 16."""
    return F.adaptive_avg_pool2d(seen.images.float(), 16).flatten(1) / 255


PROBES: dict[str, Callable[[Rendered], Tensor]] = {
    "colour_histogram": colour_histogram,
    "ground_alone": ground_alone,
    "box_alone": box_alone,
    "linear_pixels": pixels,
}


def _fields(seen: Rendered) -> dict[str, object]:
    return {name: getattr(seen, name) for name in Rendered.__dataclass_fields__}


def probe_accuracies(source: Creatures, count: int) -> dict[str, float]:
    """Test accuracy of every shortcut, learned on `count` training pictures and asked on all test pictures."""
    starts = {record.split: i for i, record in reversed(list(enumerate(source.records)))}
    train = source.render(range(starts["train"], starts["train"] + count))
    test = source.render(range(starts["test"], len(source)))
    return {
        name: probe(Split(features(train), train.labels[:, 0]), Split(features(test), test.labels[:, 0]))
        for name, features in PROBES.items()
    }


def body_habits(source: Creatures, count: int) -> float:
    """Accuracy from the body's numbers (coat, legs, proportions), all of them known exactly: what the whole body tells."""
    scene = source.scene(range(2 * count))
    features, classes = torch.from_numpy(scene.habits[:, 0]).float(), torch.from_numpy(scene.labels[:, 0])
    features = torch.cat([features, (features[:, :, None] * features[:, None, :]).flatten(1)], dim=1)
    return probe(Split(features[:count], classes[:count]), Split(features[count:], classes[count:]))


def plain_network(source: Creatures, count: int, *, epochs: int = 8) -> float:
    """Test accuracy of four convolutions trained on `count` pictures without augmentation but flips."""
    torch.manual_seed(0)
    index = [i for i, record in enumerate(source.records) if record.split == "train"][:count]
    tests = [i for i, record in enumerate(source.records) if record.split == "test"]
    classes = torch.tensor([record.label for record in source.records])
    images, held = source.images(index), source.images(tests)
    layers: list[nn.Module] = []
    for wide, wider in ((3, 16), (16, 32), (32, 64), (64, 64)):
        layers += [nn.Conv2d(wide, wider, 3, stride=2, padding=1), nn.ReLU()]
    network = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * (source.size // 16) ** 2, len(source.classes)))
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(index)).split(64):
            batch = images[rows].float() / 255 - 0.5
            batch = torch.where((torch.rand(len(rows)) < 0.5)[:, None, None, None], batch.flip(3), batch)
            loss = F.cross_entropy(network(batch), classes[index][rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        found = torch.cat([network(piece.float() / 255 - 0.5).argmax(1) for piece in held.split(250)])
    return (found == classes[tests]).double().mean().item()


def rate(work: Callable[[], object], count: int, *, repeats: int = 7) -> dict[str, float]:
    """Pictures a second, median and best of some repeats, by the wall clock and by this process's own time."""
    work()
    walls, owns = [], []
    for _ in range(repeats):
        wall, own = time.perf_counter(), time.process_time()
        work()
        walls.append(count / (time.perf_counter() - wall))
        owns.append(count / (time.process_time() - own))
    walls.sort()
    owns.sort()
    return {
        "per_second": round(walls[repeats // 2], 1),
        "per_second_best": round(walls[-1], 1),
        "per_cpu_second": round(owns[repeats // 2], 1),
    }


def world_hash(source: Creatures, count: int = 64) -> str:
    """What the first pictures are, pixel for pixel."""
    return hashlib.sha256(source.images(range(count)).numpy().tobytes()).hexdigest()


def main() -> None:
    from record import write_result

    torch.set_num_threads(1)
    source, large, crowd = Creatures(), Creatures(size=128), Creatures(objects=3)
    values = {
        "version": source.version,
        "sha256_of_64_pictures": world_hash(source),
        "images_64px": rate(lambda: source.images(range(512)), 512),
        "images_128px": rate(lambda: large.images(range(128)), 128),
        "images_64px_three_objects": rate(lambda: crowd.images(range(256)), 256),
        "render_64px": rate(lambda: source.render(range(512)), 512),
        "load_64px_in_order": rate(lambda: [source.load(i) for i in range(128)], 128),
        "chance": 1 / len(source.classes),
        "probes": probe_accuracies(source, 4000),
        "body_habits_alone": body_habits(source, 2000),
        "plain_network": plain_network(source, 4000),
    }
    write_result("worlds_creatures", COMMAND, values)
    print(values, file=sys.stderr)


if __name__ == "__main__":
    main()
