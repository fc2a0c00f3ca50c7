"""FYI on one GPU: the paper's own settings of DM and DSA on CIFAR-10, 10 pictures a class, as far as the time goes.

    python benchmarks/gpu/fyi.py --data cifar10:DIR --out $OUT [--methods dm dsa] [--arms plain flip fyi] [--minutes 9]
    python benchmarks/gpu/fyi.py --quick --out DIR          (generated pictures, a few steps, any device)

A unit is a method with an arm: one run, whose folder lies beside the repository's own and continues where it was; after
`--minutes` the script stops, and the same command goes on. A unit that is finished leaves fyi_METHOD_ARM_seedN.json in DIR.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partwise import api
from partwise.engine.loop import Interrupted
from partwise.run import RunFolder
from record import write_result

SCRIPT = "python benchmarks/gpu/fyi.py"
RECIPES = {"dm": "fyi/cifar10-dm-ipc10", "dsa": "fyi/cifar10-dsa-ipc10"}
ARMS = ("plain", "flip", "fyi")
SETTINGS = ("method.trial.networks=5", "method.trial.others=[]", "evaluate.every=0", "train.checkpoint_seconds=30")
QUICK = (
    "data.source=creatures:?size=32&classes=10&train=200&val=20&test=60",
    "model.arguments.width=8",
    "method.iterations=2",
    "method.real_batch=8",
    "method.images_per_class=2",
    "method.outer=1",
    "method.symmetry_networks=1",
    "method.trial.networks=1",
    "method.trial.epochs=1",
    "method.trial.whole_epochs=1",
    "method.trial.control_lrs=[]",
)


def main() -> None:
    options = arguments()
    timer = threading.Timer(options.minutes * 60, os.kill, (os.getpid(), signal.SIGTERM))
    timer.daemon = True
    timer.start()
    try:
        for seed in options.seeds:
            for method in options.methods:
                for arm in options.arms:
                    unit(options, method, arm, seed)
    except Interrupted:
        print("stopped after its time; the same command continues")
    finally:
        timer.cancel()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10:data/cifar10")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu/fyi"))
    parser.add_argument("--methods", nargs="+", choices=list(RECIPES), default=list(RECIPES))
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--quick", action="store_true")
    return parser.parse_args()


def unit(options: argparse.Namespace, method: str, arm: str, seed: int) -> None:
    """One run to its end, unless its result is there; the controls are those of the plain arm."""
    name = f"fyi_{method}_{arm}_seed{seed}"
    if (options.out / f"{name}.json").exists():
        return
    settings = [f"train.seed={seed}", f"method.distil={arm}", *SETTINGS]
    settings += [*QUICK] if options.quick else []
    settings += ["method.trial.controls=[]"] if arm != "plain" else []
    data = None if options.quick else options.data
    folder = RunFolder(api.train(RECIPES[method], data=data, out=options.runs / name, settings=settings, quiet=True))
    summary, environment = folder.read_summary(), folder.read_environment()
    values = {
        "metrics": summary["metrics"],
        "detail": summary["detail"],
        "stages": summary["stages"],
        "paper": summary["paper"],
        "device": environment["device"],
    }
    write_result(name, f"{SCRIPT} --methods {method} --arms {arm} --seeds {seed}", values, folder=options.out)
    print(
        name, {key: round(value, 4) for key, value in summary["metrics"].items() if key.endswith("_top1")}, flush=True
    )


if __name__ == "__main__":
    main()
