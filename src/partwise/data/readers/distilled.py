"""`distilled:RUN`: the pictures of a distilled set for training, and the real ones it stands for to measure on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from partwise.config import UserError
from partwise.data.readers.files import ArraySource
from partwise.data.sample import Record, Source
from partwise.data.sources import open_source
from partwise.data.splits import split_indices
from partwise.models.saved import load_networks
from partwise.models.synthetic_set import SyntheticSet

FILE = "set.safetensors"
PLACES = (f"products/set/{FILE}", FILE)


class DistilledPictures(ArraySource):
    """Training pictures are the set's, as bytes; validation and test pictures those of `real`.

    `real` is a source; without it the one that the set was distilled from, and `none` for no real pictures. Whatever such a set
    holds beyond bytes in [0, 1] (whitened values, a learned step size) is for `partwise evaluate`.
    """

    kind = "distilled"
    layout = f"a run of FYI, or its products/set/{FILE}"
    home = "`partwise train fyi/demo` makes one"

    def __init__(self, path: Path, *, real: str = "") -> None:
        self.name = path.name or path.resolve().name
        self.root = None
        self.broken = {}
        self._pixels, labels, facts = self._read(self._file(path))
        self.classes, self.channels = tuple(facts["classes"]), int(self._pixels.shape[1])
        self.records = [
            Record(id=f"set/{place:05d}", split="train", label=label) for place, label in enumerate(labels.tolist())
        ]
        size = (int(self._pixels.shape[2]), int(self._pixels.shape[3]))
        self.image_size = size
        self._real: Source | None = None
        self._places: list[int] = []
        if real != "none":
            self._take_real(path, real, facts["data"])
            assert self._real is not None
            self.image_size = size if self._real.image_size == size else None

    @classmethod
    def _file(cls, path: Path) -> Path:
        """The set's file of a run, of a folder, or of an archive of either."""
        if path.suffix == ".safetensors" and path.is_file():
            return path

        def held(folder: Path) -> list[Path]:
            return [folder / name for name in PLACES if (folder / name).is_file()]

        return held(cls.locate(path, lambda folder: bool(held(folder))))[0]

    @classmethod
    def _read(cls, file: Path) -> tuple[Tensor, Tensor, dict[str, Any]]:
        """Pictures as bytes, labels, and what the header says of classes and data. Raises UserError."""
        saved = load_networks(file)
        made = saved.networks.get("set")
        try:
            classes = list(json.loads(saved.metadata["facts"])["classes"])
            data = dict(yaml.safe_load(saved.metadata["whole_recipe"])["data"])
        except (KeyError, ValueError, TypeError, yaml.YAMLError):
            classes, data = [], {}
        if not isinstance(made, SyntheticSet) or not classes or len(classes) <= int(made.labels.max()):
            raise UserError(f"{file}: holds no distilled set that says which classes it is of")
        with torch.no_grad():
            pictures, labels = made.pictures()
        return (pictures * 255).round().to(torch.uint8), labels, {"classes": classes, "data": data}

    def _take_real(self, path: Path, named: str, data: dict[str, Any]) -> None:
        """Add the validation and test pictures of a real source."""
        text = named or str(data.get("source", ""))
        try:
            real = open_source(text)
        except UserError as error:
            raise UserError(
                f"distilled:{path}: the real pictures to measure on: {error}; expected distilled:{path}?real=SOURCE, or "
                "real=none"
            ) from None
        if real.classes != self.classes:
            raise UserError(
                f"distilled:{path}: {text} has {len(real.classes)} classes ({', '.join(real.classes[:3])}, ...), the set "
                f"{len(self.classes)} ({', '.join(self.classes[:3])}, ...)"
            )
        shares = {name: float(data[name]) for name in ("validation", "test") if name in data}
        splits = split_indices(real, **shares, seed=int(data.get("split_seed", 0)))
        self._real = real
        self._places = [*splits["val"].tolist(), *splits["test"].tolist()]
        names = ["val"] * len(splits["val"]) + ["test"] * len(splits["test"])
        measured = [replace(real.records[place], split=name) for place, name in zip(self._places, names, strict=True)]
        bare = [Record(id=r.id, split=r.split, label=r.label, group=r.group) for r in measured]
        self.records = [*self.records, *bare]

    def pixels(self) -> Tensor:
        """The pictures of the set, uint8."""
        return self._pixels

    def load_image(self, index: int) -> Tensor:
        if index < len(self._pixels):
            return super().load_image(index)
        assert self._real is not None
        return self._real.load_image(self._places[index - len(self._pixels)])

    def images(self, indices: Any) -> Tensor:
        """Several pictures at once."""
        positions = [int(i) for i in indices]
        if all(i < len(self._pixels) for i in positions):
            return super().images(indices)
        return torch.stack([self.load_image(i) for i in positions])

    def fingerprint(self) -> str:
        """Of the records, every byte of the set, and the real source."""
        digest = hashlib.sha256(super().fingerprint().encode())
        digest.update(self._pixels.numpy().tobytes())
        if self._real is not None:
            digest.update(self._real.fingerprint().encode())
        return digest.hexdigest()[:16]
