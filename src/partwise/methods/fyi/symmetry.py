"""How far classes differ from their mirror images: in real pictures, in what a set began as, and in what it became.

The claim behind FYI is that the statistics of a class are nearly symmetric although single pictures are not. Two measures of
ops/flips.py: the distance of mean features under random networks, in units of the spread (its size by chance alone beside
it), and the share of a picture's energy that is symmetric.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from partwise.data.loading import PictureData
from partwise.evaluate.fresh_networks import fresh_network
from partwise.methods.fyi.real import RealClasses
from partwise.ops import draws
from partwise.ops.flips import feature_unequalness, half_unequalness, symmetry_energy
from partwise.report import figures
from partwise.report.values import Cell, Picture

if TYPE_CHECKING:
    from partwise.methods.fyi.method import FyiMethod

REAL_PICTURES = 128
"""Real pictures of a class that are looked at, at most."""
ENOUGH = 4
"""Pictures of a class below which halves say nothing."""


@torch.no_grad()
def symmetry_picture(method: FyiMethod, data: PictureData, before: Tensor) -> Picture:
    """Both measures as bars, a dot a class, with the numbers."""
    real = RealClasses(data, method.set)
    seed = method.recipe.train.seed
    count = min(REAL_PICTURES, *(len(own) for own in real.places))
    pictures = real.seen(real.draw(count, range(len(method.classes)), seed, "symmetry"))
    sets = {"real": pictures, "begun as": _by_class(method, before), "learned": _by_class(method, method.set.images)}
    energy = {name: [float(symmetry_energy(own).mean()) for own in images] for name, images in sets.items()}
    apart = {name: each for name, each in _unequal(method, sets, seed).items() if each}
    panels = {"share of energy that is symmetric": energy}
    if apart:
        panels["means of features apart, by spread"] = apart
    rows: list[dict[str, Cell]] = [
        {"measure": measure, "pictures": name, "class": method.classes[k], "value": round(value, 6)}
        for measure, panel in panels.items()
        for name, each in panel.items()
        for k, value in enumerate(each)
    ]
    return Picture(
        "symmetry",
        "Left and right",
        "A dot a class. Energy: 1 is a picture that equals its mirror image, 0.5 one whose sides have nothing in common. "
        f"Means: a class's mean features against those of its mirror images, over {method.fields.symmetry_networks} random "
        f"networks; chance: two halves of the real pictures ({count} a class). Few pictures are farther apart by chance alone.",
        figures.bars(panels),
        rows,
    )


def _by_class(method: FyiMethod, images: Tensor) -> Tensor:
    """Pictures of the set's own space as networks see them, `(C, n, ch, S, S)`; packed ones stay packed."""
    synthetic = method.set
    seen = synthetic.normalise(images.to(synthetic.mean)) if synthetic.space == "packed" else images
    return seen.unflatten(0, (-1, synthetic.per_class))


def _unequal(method: FyiMethod, sets: dict[str, Tensor], seed: int) -> dict[str, list[float]]:
    """Feature unequalness of every class, mean over random networks; sets of a single picture a class have none."""
    sums: dict[str, Tensor] = {}
    model, networks = method.recipe.model, method.fields.symmetry_networks
    for number in range(networks):
        network = fresh_network(
            model.backbone,
            model.arguments,
            num_classes=len(method.classes),
            size=method.recipe.data.size,
            channels=method.facts.channels,
            seed=draws.derive(seed, "symmetry", number),
        ).to(method.set.images.device)
        for name, images in sets.items():
            if images.shape[1] < 2:
                continue
            own, mirrored = (torch.stack([network.embed(one) for one in side]) for side in (images, images.flip(-1)))
            found = {name: feature_unequalness(own, mirrored)}
            if name == "real" and images.shape[1] >= ENOUGH:
                found["real, chance"] = half_unequalness(own, draws.generator(seed, "symmetry", "halves", number))
            for key, value in found.items():
                sums[key] = sums.get(key, torch.zeros_like(value)) + value / networks
    return {name: value.tolist() for name, value in sums.items()}
