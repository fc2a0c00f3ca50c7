"""Pictures of other sources beside a run's own: in the same frame, through the same compression, without its classes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from partwise.config import UserError
from partwise.data.loading import PictureData
from partwise.data.sample import Batch, Source
from partwise.data.sources import open_source
from partwise.ops import draws
from partwise.ops.corruptions import jpeg_compression


class ForeignData:
    """Other sources, `kind:PATH?key=value` each, beside the data of a run; `quality`: of the JPEG that they go through first.

    Raises UserError for a source that cannot be opened, or whose pictures have other channels.
    """

    def __init__(self, texts: Sequence[str], own: PictureData, *, quality: int | None = None) -> None:
        self.own, self.quality = own, quality
        self.sets: dict[str, PictureData] = {}
        fields = own.fields.model_copy(update={"train_limit": None, "folds": 0})
        for text in texts:
            source = open_source(text)
            if source.channels != own.source.channels:
                wanted = own.source.channels
                raise UserError(
                    f"evaluate.foreign {text}: has pictures of {source.channels} channels; expected {wanted}"
                )
            self.sets[self._name(source)] = PictureData(source, fields, device=own.device, share=own.share)

    def _name(self, source: Source) -> str:
        """The name of a source as numbers carry it; the second of a name is numbered."""
        name = re.sub(r"[^a-z0-9]+", "_", source.name.lower()).strip("_") or source.kind
        number, free = 2, name
        while free in self.sets:
            free, number = f"{name}_{number}", number + 1
        return free

    def batches(self, batch_size: int, *, most: int | None) -> Mapping[str, Iterator[Batch]]:
        """Name -> this process's share of its foreign pictures, float32 in [0, 1], `most` of them at most."""
        return {name: self._batches(name, batch_size, most) for name in self.sets}

    def foreign(self, name: str) -> Tensor:
        """Positions of the pictures, of all splits, whose class the run does not know. Raises UserError where none is left."""
        data = self.sets[name]
        known = {label.lower() for label in self.own.source.classes}
        shared = {k for k, label in enumerate(data.source.classes) if label.lower() in known}
        left = []
        for index in sorted(i for split in data.splits.values() for i in split.tolist()):
            record = data.source.records[index]
            if shared.isdisjoint((record.label, *(record.labels or ()))):
                left.append(index)
        if not left:
            raise UserError(f"evaluate.foreign {name}: every picture is of a class that the run knows")
        return torch.tensor(left)

    def _batches(self, name: str, batch_size: int, most: int | None) -> Iterator[Batch]:
        data, left = self.sets[name], self.foreign(name)
        if most is not None and len(left) > most:
            left = left[draws.order(len(left), 0, "foreign", name)[:most]].sort().values
        own = left[data.share.rank :: data.share.world]
        data.prepare()
        for start in range(0, len(own), batch_size):
            batch = data.evaluation_batch(own[start : start + batch_size], frozenset())
            if batch is None:
                continue
            if self.quality is not None:
                batch.images = jpeg_compression(batch.images, self.quality, ())
            yield batch

    def close(self) -> None:
        """Stop the decoding threads."""
        for data in self.sets.values():
            data.close()
