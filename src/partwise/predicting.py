"""Predictions for files and folders: decode, bring into the network's frame, predict, write CSV and pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import torch
from PIL import Image

from partwise.config import UserError
from partwise.data.augment import fit, place, unplace_boxes
from partwise.data.pictures import SUFFIXES, decode
from partwise.data.sample import FaultySample
from partwise.engine.tracking import Progress
from partwise.methods.trained import TrainedRun
from partwise.report.predictions import Box, located_picture, prediction_row, write_rows

BATCH = 64


def find_pictures(paths: list[Path]) -> list[tuple[Path, str]]:
    """Every picture file below the paths, each once, with the name it is reported under: its path where two share one."""
    found: dict[Path, str] = {}
    for path in paths:
        if path.is_dir():
            own = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
            if not own:
                raise UserError(f"{path}: holds no pictures (looked for {', '.join(sorted(SUFFIXES))})")
            found |= {p: p.relative_to(path).as_posix() for p in own}
        elif path.is_file():
            found[path] = path.name
        else:
            raise UserError(f"{path}: there is no such file or folder")
    times = Counter(found.values())
    return [(path, path.as_posix() if times[name] > 1 else name) for path, name in found.items()]


def flat_names(names: Iterable[str]) -> dict[str, str]:
    """Names with folders in them -> names of files in one folder, each its own."""
    flat: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        stem = chosen = name.replace("/", "_")
        number = 2
        while chosen in taken:
            chosen, number = f"{stem}-{number}", number + 1
        taken.add(chosen)
        flat[name] = f"{chosen}.png"
    return flat


def predict_files(trained: TrainedRun, paths: list[Path], out: Path, progress: Progress) -> tuple[int, dict[str, str]]:
    """Predict every picture below `paths`; returns how many, and the files set aside with reasons."""
    files = find_pictures(paths)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    drawn = {name: out / "pictures" / flat for name, flat in flat_names(name for _, name in files).items()}
    rows: list[dict[str, str | float]] = []
    faults: dict[str, str] = {}
    for start in range(0, len(files), BATCH):
        rows += _predict_batch(trained, files[start : start + BATCH], drawn, faults)
        progress.update("predict", min(start + BATCH, len(files)), len(files))
    write_rows(out / "predictions.csv", rows)
    for file, reason in faults.items():
        progress.say(f"set aside {file}: {reason}")
    return len(rows), faults


def _predict_batch(
    trained: TrainedRun, files: list[tuple[Path, str]], drawn: dict[str, Path], faults: dict[str, str]
) -> list[dict[str, str | float]]:
    fields = trained.recipe.data
    size, resize = fields.size, fields.resize or fields.size
    decoded = []
    for path, name in files:
        try:
            image = decode(path)
        except FaultySample as fault:
            faults[name] = fault.reason
            continue
        decoded.append((name, image, fit(*image.shape[1:], size=size, resize=resize, keep_aspect=fields.keep_aspect)))
    if not decoded:
        return []
    device = next(iter(trained.method.networks().values())).parameters().__next__().device
    frames = torch.stack([place(image, placement, size) for _, image, placement in decoded]).to(device)
    rows = []
    for (name, image, placement), prediction in zip(decoded, trained.predict(frames.float() / 255), strict=True):
        box: Box | None = None
        if prediction.box is not None:
            x1, y1, x2, y2 = unplace_boxes(torch.tensor([prediction.box]), placement, size)[0].tolist()
            height, width = image.shape[1:]
            box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        rows.append(prediction_row(name, prediction, trained.classes, box))
        window = unplace_boxes(torch.tensor([[0.0, 0.0, size, size]]), placement, size)[0].tolist()
        corners: Box = (window[0], window[1], window[2], window[3])
        shown = located_picture(image.permute(1, 2, 0).numpy(), prediction.heatmap, corners, box)
        Image.fromarray(shown).save(drawn[name])
    return rows
