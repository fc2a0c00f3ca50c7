"""CutMix beside torchvision's, kornia's and timm's: milliseconds a batch of 128, targets included, in one process.

    python benchmarks/mixing.py                               (writes results/mixing.json; about a minute)

Like is compared with like: a copy with a copy (timm, which works in place, is given a clone), in place with in place. All mix
with probability 1 and alpha 1 under torch's default threads. Ours, torchvision and timm return soft labels; kornia returns
`(own, partner's, lambda)` and is not charged for making soft labels of them. Repetitions are interleaved, so that a busy
machine slows all alike; numbers are medians. A fresh 77 MB result costs mostly page faults: `out=` is for that.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import kornia.augmentation
import timm.data.mixup
import torch
from torch import Tensor
from torchvision.transforms import v2

from partwise.ops.mixing import cutmix
from record import write_result

COMMAND = "python benchmarks/mixing.py"
BATCH = 128
SIZES = {32: 10, 224: 1000}
"""Side in pixels -> classes."""

PAIRINGS = {
    "batch": ("ours batch", "torchvision", 1.0),
    "sample against kornia": ("ours sample", "kornia", 1.0),
    "sample against timm elem, copies": ("ours sample", "timm elem of a clone", None),
    "sample against timm elem, in place": ("ours sample in place", "timm elem in place", None),
}
"""What is compared -> (ours, theirs, least speed-up asked); None: 3 at 32 px, 1 at 224 px."""


def contestants(side: int, num_classes: int) -> dict[str, Callable[[], object]]:
    """Name -> one call on the same images and targets; those that work in place have images of their own."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, side, side, generator=generator)
    targets = torch.randint(num_classes, (BATCH,), generator=generator)
    buffer, place, timm_place = torch.empty_like(images), images.clone(), images.clone()

    def ours(mode: str, out: Tensor | None = None) -> object:
        return cutmix(images if out is not place else place, targets, num_classes=num_classes, mode=mode, out=out)

    def timms(mode: str) -> timm.data.mixup.Mixup:
        return timm.data.mixup.Mixup(
            mixup_alpha=0.0, cutmix_alpha=1.0, mode=mode, label_smoothing=0.0, num_classes=num_classes
        )

    torchvisions = v2.CutMix(num_classes=num_classes)
    kornias = kornia.augmentation.RandomCutMixV2(data_keys=["input", "class"], use_correct_lambda=True)
    elem, pair, batch = timms("elem"), timms("pair"), timms("batch")
    return {
        "ours batch": lambda: ours("batch"),
        "torchvision": lambda: torchvisions(images, targets),
        "ours batch in place": lambda: ours("batch", place),
        "timm batch in place": lambda: batch(timm_place, targets),
        "ours sample": lambda: ours("sample"),
        "ours sample into a buffer": lambda: ours("sample", buffer),
        "kornia": lambda: kornias(images, targets),
        "timm elem of a clone": lambda: elem(images.clone(), targets),
        "ours sample in place": lambda: ours("sample", place),
        "timm elem in place": lambda: elem(timm_place, targets),
        "ours pair in place": lambda: ours("pair", place),
        "timm pair in place": lambda: pair(timm_place, targets),
        "one clone": images.clone,
        "one copy into a buffer": lambda: buffer.copy_(images),
    }


def measure(calls: dict[str, Callable[[], object]], repetitions: int, warm_up: int = 3) -> dict[str, dict[str, float]]:
    """Name -> milliseconds of a call: median and quartiles over interleaved repetitions."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for repetition in range(warm_up + repetitions):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if repetition >= warm_up:
                times[name].append(1e3 * (time.perf_counter() - start))
    return {name: summary(values) for name, values in times.items()}


def summary(values: list[float]) -> dict[str, float]:
    """Median and quartiles, to a microsecond."""
    lower, median, upper = statistics.quantiles(values, n=4)
    return {"median_ms": round(median, 3), "lower_ms": round(lower, 3), "upper_ms": round(upper, 3)}


def compared(measured: dict[str, dict[str, float]], side: int) -> dict[str, dict[str, object]]:
    """Each pairing's speed-up against what was asked."""
    result: dict[str, dict[str, object]] = {}
    for what, (ours, theirs, asked) in PAIRINGS.items():
        least = asked if asked is not None else (3.0 if side == min(SIZES) else 1.0)
        speed_up = measured[theirs]["median_ms"] / measured[ours]["median_ms"]
        result[what] = {
            "ours": ours,
            "theirs": theirs,
            "speed_up": round(speed_up, 2),
            "asked": least,
            "met": speed_up >= least,
        }
    return result


def main() -> None:
    """Measures every size and writes the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=51, help="at 32 px; a third of them at 224 px")
    repetitions = parser.parse_args().repetitions
    # kornia announces a change of its defaults at every call.
    warnings.simplefilter("ignore")
    values: dict[str, object] = {}
    for side, num_classes in SIZES.items():
        count = repetitions if side == min(SIZES) else max(repetitions // 3, 3)
        measured = measure(contestants(side, num_classes), count)
        verdicts = compared(measured, side)
        values[f"{BATCH}x3x{side}x{side}"] = {"repetitions": count, "calls": measured, "compared": verdicts}
        print(f"\n{BATCH} x 3 x {side} x {side}, {num_classes} classes, median of {count}")
        for name, row in measured.items():
            print(f"  {name:28} {row['median_ms']:9.3f} ms")
        for what, verdict in verdicts.items():
            print(f"  {what}: {verdict['speed_up']} times as fast, asked {verdict['asked']}: {verdict['met']}")
    command = COMMAND if repetitions == parser.get_default("repetitions") else f"{COMMAND} --repetitions {repetitions}"
    print(f"\n{write_result('mixing', command, values)}")


if __name__ == "__main__":
    main()
