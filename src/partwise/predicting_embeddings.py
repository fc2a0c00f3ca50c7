"""Embeddings of files and folders: one file for machines, a table of nearest neighbours and pictures for people.

What `OUT` then holds: `embeddings.safetensors` (`embeddings` float32 `(N, D)`, and in its header the `files` as JSON, a row
each), `predictions.csv` (every file with the one whose embedding is nearest) and `pictures/` (each picture coloured by its
dense embeddings).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save
from torch import Tensor

from partwise.config import UserError
from partwise.data.augment import fit, place
from partwise.data.pictures import decode
from partwise.data.sample import FaultySample
from partwise.engine.tracking import Progress
from partwise.methods.trained import TrainedRun
from partwise.predicting import find_pictures, flat_names
from partwise.report.components import colour_components
from partwise.report.predictions import write_rows
from partwise.report.values import EmbeddingPrediction
from partwise.run import write_atomically

BATCH = 32
BLOCK = 1024
"""Rows whose cosines with all others are held at once."""


def predict_embeddings(
    trained: TrainedRun, paths: Sequence[Path], out: Path, progress: Progress
) -> tuple[int, dict[str, str]]:
    """Embed every picture below the paths; returns how many, and the files left out with reasons."""
    files = find_pictures(list(paths))
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    drawn = flat_names(name for _, name in files)
    names: list[str] = []
    embeddings: list[Tensor] = []
    faults: dict[str, str] = {}
    for start in range(0, len(files), BATCH):
        own: list[tuple[str, Tensor]] = []
        for path, name in files[start : start + BATCH]:
            try:
                own.append((name, decode(path)))
            except FaultySample as fault:
                faults[name] = fault.reason
        for (name, image), found in zip(own, _predicted(trained, [image for _, image in own]), strict=True):
            names.append(name)
            embeddings.append(torch.from_numpy(found.embedding))
            picture = colour_components(image.permute(1, 2, 0).numpy(), found.map)
            Image.fromarray(picture).save(out / "pictures" / drawn[name])
        progress.update("predict", min(start + BATCH, len(files)), len(files))
    for file, reason in faults.items():
        progress.say(f"set aside {file}: {reason}")
    if not names:
        raise UserError(f"{', '.join(map(str, paths))}: not one picture can be read")
    together = torch.stack(embeddings)
    write_atomically(out / "embeddings.safetensors", save({"embeddings": together}, {"files": json.dumps(names)}))
    write_rows(out / "predictions.csv", neighbour_rows(names, together))
    return len(names), faults


def _predicted(trained: TrainedRun, images: Sequence[Tensor]) -> list[EmbeddingPrediction]:
    """What the run makes of pictures of any size, in the frame of its recipe."""
    if not images:
        return []
    fields = trained.recipe.data
    device = next(next(iter(trained.method.networks().values())).parameters()).device
    size, resize = fields.size, fields.resize or fields.size
    frames = torch.stack(
        [place(i, fit(*i.shape[1:], size=size, resize=resize, keep_aspect=fields.keep_aspect), size) for i in images]
    )
    found = trained.predict(frames.to(device).float() / 255)
    return [prediction for prediction in found if isinstance(prediction, EmbeddingPrediction)]


def neighbour_rows(names: Sequence[str], embeddings: Tensor) -> list[dict[str, str | float]]:
    """A row a file: the other file whose embedding has the largest cosine with its own, and that cosine."""
    units = F.normalize(embeddings.double(), dim=1)
    alone = len(names) == 1
    rows: list[dict[str, str | float]] = []
    for start in range(0, len(names), BLOCK):
        cosines = units[start : start + BLOCK] @ units.T
        own = torch.arange(len(cosines))
        cosines[own, start + own] = -torch.inf
        best = cosines.max(dim=1)
        rows += [
            {
                "file": names[start + row],
                "nearest": "" if alone else names[int(place)],
                "cosine": "" if alone else round(float(np.clip(float(value), -1, 1)), 6),
            }
            for row, (place, value) in enumerate(zip(best.indices, best.values, strict=True))
        ]
    return rows
