"""CIFAR-10 with a ResNet-20: CutMix against no mixing at equal epochs, a JSON in `results/` for each trained network.

    python benchmarks/cifar10.py --data cifar10:../shared/data/cifar10 [--runs DIR] [--arms cutmix none] [--seeds 0 1 2]

Each unit is a run that continues where it was; units with a JSON at the same number of epochs are not repeated. Accuracy
is that of the last weights on the test split, which nothing was chosen on.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

from partwise import api
from partwise.methods.recipes import resolve
from partwise.run import RunFolder
from record import REPOSITORY, write_result

RECIPE = "cutmix/cifar10-resnet20"
ARMS = {"cutmix": [], "none": ["method.mix=none"]}


def main() -> None:
    options = arguments()
    settings = [f"train.epochs={options.epochs}"] if options.epochs else []
    settings += [f"train.threads={options.threads}"] if options.threads else []
    epochs = resolve(RECIPE, settings=settings)[0].train.epochs
    for arm in options.arms:
        for seed in options.seeds:
            unit = f"cifar10_resnet20_{arm}_{epochs:g}ep_seed{seed}"
            if (REPOSITORY / "results" / f"{unit}.json").exists():
                continue
            own = [*settings, *ARMS[arm], f"train.seed={seed}"]
            folder = api.train(RECIPE, data=options.data, out=options.runs / unit, settings=own)
            values = measured(RunFolder(folder)) | {"arm": arm, "seed": seed, "epochs": epochs}
            write_result(unit, command(own, options.data), values)
    table(epochs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10:../shared/data/cifar10")
    parser.add_argument("--runs", type=Path, default=Path("runs/cifar10"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=None, help="another budget than the recipe's")
    parser.add_argument("--threads", type=int, default=0, help="threads of torch, where the machine is shared; 0: all")
    return parser.parse_args()


def command(settings: list[str], data: str) -> str:
    """The one command that repeats a unit."""
    changes = " ".join(f"--set {setting}" for setting in settings)
    return f"partwise train {RECIPE} --data {data} {changes}"


def measured(folder: RunFolder) -> dict[str, Any]:
    """What the run's own files say: metrics on the test split, the curve on validation, time and rate."""
    summary = folder.read_summary()
    stage = summary["stages"][0]
    curve = [
        [line["step"], line["metrics"]["classification/top1"]]
        for line in folder.read_metrics()
        if line["kind"] == "evaluation"
    ]
    return {
        "metrics": summary["metrics"],
        "validation_top1": curve,
        "train_seconds": stage["seconds"],
        "images_per_second": stage["images_per_second"],
        "load_average": os.getloadavg()[0],
        "threads_of_run": folder.read_environment()["threads"],
        "precision": folder.read_environment()["precision"],
        "commit_of_run": folder.read_environment()["commit"],
    }


def table(epochs: float) -> None:
    """Print every arm's median over its seeds."""
    for arm in ARMS:
        found = sorted((REPOSITORY / "results").glob(f"cifar10_resnet20_{arm}_{epochs:g}ep_seed*.json"))
        units = [json.loads(path.read_text())["values"] for path in found]
        if units:
            top1 = [unit["metrics"]["classification/top1"] for unit in units]
            minutes = [unit["train_seconds"] / 60 for unit in units]
            print(
                f"{arm:8} {epochs:g} epochs  top1 median {statistics.median(top1):.4f} {top1}  "
                f"minutes {statistics.median(minutes):.1f}"
            )


if __name__ == "__main__":
    main()
