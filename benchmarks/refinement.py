"""Pseudo-mask refinement beside other implementations, on CPU: seconds a picture, and whether the values agree.

    python benchmarks/refinement.py [--part crf] [--repetitions 7]      (writes results/refinement.json)

`crf`: a dense CRF of a photograph (scikit-learn's "china") at 320 x 240, 21 labels, 10 steps, IRN's parameters, against
pydensecrf2 (`pip install pydensecrf2`, needs a compiler). Both build their lattices in the time that counts. Repetitions
are interleaved and numbers are medians, under torch's default threads; pydensecrf2 has one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from partwise.ops.crf import CRF_PRESETS, dense_crf, unary_from_probabilities
from record import write_result
from refinement_walk import measure_walk

COMMAND = "python benchmarks/refinement.py"
HEIGHT, WIDTH, LABELS = 240, 320, 21
SLOWEST, FURTHEST = 3.0, 1e-4
"""What is asked: at most so many times pydensecrf2's time, and no marginal further from its own."""


def photograph() -> Tensor:
    """A picture `(3, 240, 320)` of 8 bits with sky, buildings and trees."""
    from sklearn.datasets import load_sample_image

    pixels = torch.tensor(load_sample_image("china.jpg")).permute(2, 0, 1)[None].float()
    return F.interpolate(pixels, size=(HEIGHT, WIDTH), mode="bilinear", antialias=True)[0].round().to(torch.uint8)


def probabilities(num_labels: int, seed: int = 0) -> Tensor:
    """Smooth random probabilities `(l, 240, 320)`, as a coarse network gives them."""
    logits = torch.randn(1, num_labels, 12, 16, generator=torch.Generator().manual_seed(seed))
    return F.interpolate(3 * logits, size=(HEIGHT, WIDTH), mode="bicubic")[0].softmax(dim=0)


def theirs_crf(image: Tensor, unary: Tensor) -> Tensor:
    """pydensecrf2's marginals `(l, h, w)` with IRN's parameters."""
    from pydensecrf.densecrf import DenseCRF2D

    settings = CRF_PRESETS["irn"]
    field = DenseCRF2D(WIDTH, HEIGHT, len(unary))
    field.setUnaryEnergy(np.ascontiguousarray(unary.flatten(1).numpy()))
    field.addPairwiseGaussian(sxy=settings.spatial_std, compat=settings.spatial_weight)
    field.addPairwiseBilateral(
        sxy=settings.bilateral_std,
        srgb=settings.colour_std,
        rgbim=np.ascontiguousarray(image.permute(1, 2, 0).numpy()),
        compat=settings.bilateral_weight,
    )
    return torch.from_numpy(np.array(field.inference(settings.iterations))).reshape(unary.shape)


def crf(repetitions: int) -> dict[str, Any]:
    """The dense CRF, lattices included on both sides."""
    image, unary = photograph(), unary_from_probabilities(probabilities(LABELS))
    calls = {
        "ours": lambda: dense_crf(image, unary, CRF_PRESETS["irn"]),
        "pydensecrf2": lambda: theirs_crf(image, unary),
    }
    ours, theirs = (call() for call in calls.values())
    seconds = measure(calls, repetitions)
    distance = (ours - theirs).abs().max().item()
    return {
        "size": f"{WIDTH}x{HEIGHT}x{LABELS}",
        "seconds": seconds,
        "largest_difference": distance,
        "differing_labels": int((ours.argmax(0) != theirs.argmax(0)).sum()),
        "agrees": distance <= FURTHEST,
        "compared": compared(seconds, "ours", "pydensecrf2", 1 / SLOWEST),
    }


def measure(calls: Mapping[str, Callable[[], object]], repetitions: int) -> dict[str, list[float]]:
    """Name -> seconds of every repetition, all sides in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repetitions):
        for name, call in calls.items():
            begun = time.perf_counter()
            call()
            seconds[name].append(round(time.perf_counter() - begun, 4))
    return seconds


def compared(seconds: Mapping[str, list[float]], ours: str, theirs: str, least: float) -> dict[str, Any]:
    """How many times as fast ours is, of medians, against what was asked."""
    speed_up = statistics.median(seconds[theirs]) / statistics.median(seconds[ours])
    return {
        "ours": ours,
        "theirs": theirs,
        "speed_up": round(speed_up, 3),
        "asked": round(least, 3),
        "met": speed_up >= least,
    }


def walk(repetitions: int) -> dict[str, Any]:
    """The random walk beside the dense one; see refinement_walk.py."""
    return measure_walk(repetitions=repetitions)


PARTS: dict[str, Callable[[int], dict[str, Any]]] = {"crf": crf, "walk": walk}
"""Name of a part -> what measures it, given the number of repetitions."""


def main() -> None:
    """Measures the parts and, where all were asked for, writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=sorted(PARTS), help="one part alone; nothing is written")
    parser.add_argument("--repetitions", type=int, default=7)
    options = parser.parse_args()
    values: dict[str, Any] = {}
    for name in [options.part] if options.part else PARTS:
        values[name] = PARTS[name](options.repetitions)
        print(name, values[name])
    if options.part is None:
        suffix = (
            "" if options.repetitions == parser.get_default("repetitions") else f" --repetitions {options.repetitions}"
        )
        print(write_result("refinement", COMMAND + suffix, values))


if __name__ == "__main__":
    main()
