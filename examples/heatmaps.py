"""Heatmaps of the likeliest classes of some pictures, side by side, from a finished run.

    python examples/heatmaps.py RUN PICTURE... [--classes 3] [--out heatmaps]

`partwise predict` draws the likeliest class alone; this shows how to get at the maps of all of them.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import partwise as pw
from partwise.ops.cam import normalise, upsample
from partwise.report.figures import overlay


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path, nargs="+")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("heatmaps"))
    options = parser.parse_args()
    run = pw.load(options.run)
    network = run.method.networks()["classifier"]
    size = run.recipe.data.size
    options.out.mkdir(parents=True, exist_ok=True)
    for file in options.pictures:
        picture = np.asarray(Image.open(file).convert("RGB").resize((size, size)))
        image = torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.inference_mode():
            logits, maps = network.maps(image)
        probabilities = logits.softmax(1)[0]
        chosen = probabilities.argsort(descending=True)[: options.classes]
        heat = normalise(upsample(maps[:, chosen], (size, size)))[0]
        shown = [picture, *(overlay(picture, one.numpy()) for one in heat)]
        Image.fromarray(np.concatenate(shown, axis=1)).save(options.out / f"{file.stem}.png")
        named = ", ".join(f"{run.classes[k]} {probabilities[k]:.2f}" for k in chosen.tolist())
        print(f"{options.out / file.stem}.png: {named}")


if __name__ == "__main__":
    main()
