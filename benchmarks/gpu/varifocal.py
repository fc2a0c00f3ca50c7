"""Varifocal-Net on one GPU: real cells at half the paper's width and its whole frame, each network alone, both, and rivals.

    python benchmarks/gpu/varifocal.py --data chromosomes:DIR --out $OUT [--width 5] [--seeds 0 1 2] [--minutes 9]
    python benchmarks/gpu/varifocal.py --quick --out DIR        (generated cells, a few steps, any device)

A unit is an arm with a seed: one run of `varifocal/paper` at `--width`, which leaves varifocal_ARM_seedN.json in DIR and is not
repeated where that exists; run folders continue where they were. After `--minutes` the script saves, prints its table and
ends; the same command continues. Arms of a seed share the first network, and those with a box the first boxes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import threading
from pathlib import Path
from types import FrameType
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partwise import api
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Interrupted
from partwise.engine.runtime import start
from partwise.measure import measure
from partwise.methods.trained import TrainedRun
from partwise.methods.varifocal.learning import Answerer
from partwise.methods.varifocal.method import VarifocalMethod
from partwise.run import RunFolder
from record import write_result

SCRIPT = "python benchmarks/gpu/varifocal.py"
ARMS = {
    "both": ("method.follow=false",),
    "boxcar": ("method.follow=true",),
    "two_wholes": ("method.second=whole",),
    "rival": ("method.network=backbone", "model.backbone=resnet50", "train.epochs=60"),
}
SHARED = {"boxcar": ("whole", "boxes"), "two_wholes": ("whole",)}
"""Stages that an arm takes over from `both` of its seed."""
ALONE: tuple[Answerer, ...] = ("whole", "local")
"""Answers of `both` that are measured beside its own."""
QUICK_RIVAL = ("model.backbone=resnet10t", "train.epochs=1")
SHOWN = {
    "type": "karyotype/type_top1",
    "polarity": "karyotype/polarity_top1",
    "case": "karyotype/case_accuracy",
    "case, greedy": "karyotype/dispatched_case_accuracy",
    "case, optimal": "karyotype/optimal_case_accuracy",
}
"""Heads of the table's columns."""


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, interrupt)  # between runs; within one the loop saves first
    timer = threading.Timer(60 * options.minutes, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    if options.minutes:
        timer.start()
    try:
        for seed in options.seeds:
            for arm in options.arms:
                if timer.finished.is_set():  # while a run was measured, which goes on to its end
                    raise Interrupted
                if not unit_file(options, arm, seed).exists():
                    unit(options, arm, seed)
    except Interrupted:
        print("interrupted; the same command continues")
    table(options.out)


def interrupt(number: int, frame: FrameType | None) -> None:
    """End what is being done now."""
    raise Interrupted


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="chromosomes:data/chromosomes_cells")
    parser.add_argument("--out", type=Path, required=True, help="where the units' files go")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu/varifocal"))
    parser.add_argument("--width", type=int, default=5, help="of both networks; the paper's is 10")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--minutes", type=float, default=0, help="save and end after so long; 0: at the end")
    parser.add_argument("--quick", action="store_true", help="shows that the script works, and nothing else")
    return parser.parse_args()


def unit_file(options: argparse.Namespace, arm: str, seed: int) -> Path:
    """Where a unit leaves its numbers."""
    return Path(options.out) / f"varifocal_{arm}_seed{seed}.json"


def run_folder(options: argparse.Namespace, arm: str, seed: int) -> RunFolder:
    """Where a unit trains."""
    return RunFolder(options.runs / ("quick" if options.quick else f"width{options.width}") / f"{arm}_seed{seed}")


def unit(options: argparse.Namespace, arm: str, seed: int) -> None:
    """Train an arm with a seed to its end, measure it and leave its numbers."""
    recipe, data = ("varifocal/smoke", None) if options.quick else ("varifocal/paper", options.data)
    own = [*ARMS[arm], f"train.seed={seed}"]
    if options.quick:
        own += QUICK_RIVAL if arm == "rival" else ()
    else:
        own += ["evaluate.every=5", *(() if arm == "rival" else (f"method.width={options.width}",))]
    folder = run_folder(options, arm, seed)
    share(options, arm, seed, folder)
    api.train(recipe, data=data, out=folder.path, settings=own)
    summary = folder.read_summary()
    values = {"arm": arm, "seed": seed, "metrics": summary["metrics"], "stages": summary["stages"]}
    if arm == "both":
        values["alone"] = alone(folder)
    words = " ".join(f"--set {setting}" for setting in own)
    given = f"--data {data} " if data else ""
    write_result(unit_file(options, arm, seed).stem, f"partwise train {recipe} {given}{words}", values, options.out)


def share(options: argparse.Namespace, arm: str, seed: int, folder: RunFolder) -> None:
    """Copy what `both` of this seed left of the stages that are the same, where it got so far."""
    source = run_folder(options, "both", seed)
    for stage in SHARED.get(arm, ()):
        if (source.products / stage / "index.json").exists() and not (folder.products / stage).exists():
            shutil.copytree(source.products / stage, folder.products / stage)


def alone(folder: RunFolder) -> dict[str, dict[str, float]]:
    """What each of the two networks says by itself: the numbers of the test split."""
    trained = api.load(folder.path)
    assert isinstance(trained, TrainedRun) and isinstance(trained.method, VarifocalMethod)
    recipe, method = trained.recipe, trained.method
    runtime = start(recipe.train)
    method.to(runtime.device)
    data = PictureData(open_source(recipe.data.source), recipe.data, device=runtime.device)
    found = {}
    try:
        data.prepare()
        for answerer in ALONE:
            method.answerer = answerer
            found[answerer] = measure(
                method, data, recipe, "test", ("karyotype",), runtime=runtime, progress=None
            ).metrics
    finally:
        data.close()
    return found


def table(folder: Path) -> None:
    """Means over the seeds, and what every stage of an arm takes."""
    print(f"{'arm':12}{'seeds':>6}" + "".join(f"{head:>15}" for head in SHOWN) + "   seconds of stages")
    for arm in ARMS:
        units: list[dict[str, Any]] = [
            json.loads(path.read_text())["values"] for path in sorted(folder.glob(f"varifocal_{arm}_seed*.json"))
        ]
        for answerer in ALONE if units and arm == "both" else ():
            print(row(answerer, [one["alone"][answerer] for one in units]))
        if units:
            seconds = ", ".join(f"{stage['name']} {stage['seconds']:.0f}" for stage in units[0]["stages"])
            print(row(arm, [one["metrics"] for one in units]) + f"   {seconds}")


def row(name: str, found: list[dict[str, float]]) -> str:
    """A line of the table."""
    means = [statistics.fmean(one.get(metric, float("nan")) for one in found) for metric in SHOWN.values()]
    return f"{name:12}{len(found):6}" + "".join(f"{mean:15.4f}" for mean in means)


if __name__ == "__main__":
    main()
