"""Predictions for files and folders: decode, bring into the network's frame where it has one, predict, write what it gives."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

import torch
from PIL import Image

from partwise.config import UserError
from partwise.data.augment import fit, place, unplace_boxes
from partwise.data.palette import coco_annotations, coco_categories, encode_palette_png
from partwise.data.pictures import SUFFIXES, decode
from partwise.data.sample import FaultySample
from partwise.engine.tracking import Progress
from partwise.methods.trained import TrainedRun
from partwise.report.masks import class_colours, overlay_mask
from partwise.report.predictions import Box, located_picture, mask_row, prediction_row, write_rows
from partwise.report.values import MaskPrediction, Prediction
from partwise.run import write_atomically

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
        stem = chosen = str(PurePosixPath(name).with_suffix("")).replace("/", "_")
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
    masks = MaskFiles(out, trained.classes) if trained.method.native else None
    batch = 1 if masks is not None else BATCH
    for start in range(0, len(files), batch):
        own = files[start : start + batch]
        rows += (
            _predict_batch(trained, own, drawn, faults) if masks is None else masks.predict(trained, own, drawn, faults)
        )
        progress.update("predict", min(start + batch, len(files)), len(files))
    write_rows(out / "predictions.csv", rows)
    if masks is not None:
        masks.finish()
    for file, reason in faults.items():
        progress.say(f"set aside {file}: {reason}")
    return len(rows), faults


class MaskFiles:
    """Masks of pictures at their own size: palette PNGs in `OUT/masks`, and all of them as COCO annotations in one file."""

    def __init__(self, out: Path, classes: Sequence[str]) -> None:
        self.out, self.classes = out, classes
        self.images: list[dict[str, object]] = []
        self.annotations: list[dict[str, object]] = []
        (out / "masks").mkdir(parents=True, exist_ok=True)

    def predict(
        self, trained: TrainedRun, files: list[tuple[Path, str]], drawn: dict[str, Path], faults: dict[str, str]
    ) -> list[dict[str, str | float]]:
        """Predict pictures one by one and write the mask and the overlay of each; returns the rows of the table."""
        rows = []
        device = next(iter(trained.method.networks().values())).parameters().__next__().device
        for path, name in files:
            try:
                image = decode(path)
            except FaultySample as fault:
                faults[name] = fault.reason
                continue
            (found,) = trained.predict(image.to(device)[None].float() / 255)
            assert isinstance(found, MaskPrediction)
            mask = torch.from_numpy(found.mask)
            write_atomically(self.out / "masks" / drawn[name].name, encode_palette_png(mask))
            picture = overlay_mask(image.permute(1, 2, 0).numpy(), found.mask, class_colours(len(self.classes)))
            Image.fromarray(picture).save(drawn[name])
            self._note(name, mask)
            rows.append(mask_row(name, found, self.classes))
        return rows

    def _note(self, name: str, mask: torch.Tensor) -> None:
        number, first = len(self.images) + 1, len(self.annotations) + 1
        self.images.append({"id": number, "file_name": name, "height": mask.shape[0], "width": mask.shape[1]})
        self.annotations += coco_annotations(mask, self.classes, image_id=number, first_id=first)

    def finish(self) -> None:
        """Write `OUT/coco.json`: images, categories, and a run-length annotation for each class of each picture."""
        content = {
            "images": self.images,
            "categories": coco_categories(self.classes),
            "annotations": self.annotations,
        }
        write_atomically(self.out / "coco.json", json.dumps(content).encode())


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
        assert isinstance(prediction, Prediction)
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
