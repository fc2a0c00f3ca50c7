"""The real pictures by class: drawn for a step, as networks see them, and refused where they are too few."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.loading import PictureData
from partwise.models.synthetic_set import SyntheticSet
from partwise.ops import draws


class RealClasses:
    """The training pictures of each class, seen as the synthetic set says."""

    def __init__(self, data: PictureData, synthetic: SyntheticSet) -> None:
        self.data, self.synthetic = data, synthetic
        labels = [data.source.records[i].label for i in data.splits["train"].tolist()]
        known = torch.tensor([-1 if label is None else label for label in labels])
        self.places = [data.splits["train"][known == k] for k in range(len(data.source.classes))]

    def draw(self, count: int, classes: range, seed: int, *key: str | int) -> Tensor:
        """Source positions int64 `(classes, count)`: `count` pictures of each class without replacement."""
        rows = []
        for k in classes:
            own = self.places[k]
            rows.append(own[draws.order(len(own), seed, *key, "class", k)[:count]])
        return torch.stack(rows)

    def pictures(self, places: Tensor) -> Tensor:
        """Positions `(C, n)` -> pictures `(C, n, ch, S, S)` between 0 and 1."""
        return (self.data.pictures(places.flatten()).float() / 255).unflatten(0, places.shape)

    def seen(self, places: Tensor) -> Tensor:
        """Positions `(C, n)` -> pictures `(C, n, ch, S, S)` as networks see them."""
        return self.synthetic.seen(self.pictures(places).flatten(0, 1)).unflatten(0, places.shape)


def check_classes(data: PictureData, needed: dict[str, int]) -> None:
    """Raise UserError where a class has fewer training pictures than a field needs, or the test split none of it.

    `needed`: a field -> how many pictures of each class it asks for.
    """
    source = data.source
    counts = {split: Counter(source.records[i].label for i in own.tolist()) for split, own in data.splits.items()}
    for k, name in enumerate(source.classes):
        for field, count in needed.items():
            if (there := counts["train"][k]) < count:
                raise UserError(
                    f"{field} = {count}: class {name!r} has {there} training pictures; expected at most {there}"
                )
        if not counts["test"][k]:
            raise UserError(f"data.source {source.name}: the test split has no picture of class {name!r}")
