"""Varifocal-Net on real cells: what `varifocal/cells-small` and its plain rival reach, in how long, and what a case takes.

    python benchmarks/varifocal.py [--data SOURCE] [--elsewhere SOURCE] [--arms varifocal backbone] [--seeds 0] [--threads N]

Trains on the split of the pack, measures its test split, then every picture of another laboratory's as the network is, and
times `partwise predict` on one core. A JSON in `results/` for each trained network; units that have one are not repeated.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from partwise import api
from partwise.data.sources import open_source
from partwise.methods.recipes import resolve
from partwise.run import RunFolder
from record import REPOSITORY, write_result

RECIPE = "varifocal/cells-small"
ARMS = {"varifocal": [], "backbone": ["method.network=backbone", "model.backbone=resnet18"]}
FEW, MANY = 2, 8
"""Cases of the two predictions whose difference leaves the start-up out."""


def main() -> None:
    options = arguments()
    for arm in options.arms:
        for seed in options.seeds:
            unit = f"varifocal_cells_{arm}_seed{seed}"
            if (REPOSITORY / "results" / f"{unit}.json").exists():
                continue
            settings = [*ARMS[arm], f"train.seed={seed}"]
            settings += [f"train.threads={options.threads}"] if options.threads else []
            load = os.getloadavg()[0]
            folder = RunFolder(api.train(RECIPE, data=options.data, out=options.runs / unit, settings=settings))
            values = measured(folder) | {"arm": arm, "seed": seed, "load_average_before": load}
            values["elsewhere"] = api.evaluate(folder.path, on=options.elsewhere, quiet=True)
            values["seconds_a_case"] = seconds_a_case(folder.path, options.data)
            changes = " ".join(f"--set {setting}" for setting in settings)
            write_result(unit, f"partwise train {RECIPE} --data {options.data} {changes}", values)
            print(unit, values["train_seconds"], values["metrics"]["karyotype/type_top1"], values["seconds_a_case"])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="chromosomes:../shared/data/chromosomes_cells")
    parser.add_argument("--elsewhere", default="chromosomes:../shared/data/chromosomes_gband/chromosomes_gband.tar.gz")
    parser.add_argument("--runs", type=Path, default=Path("runs/varifocal"))
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=0, help="threads of torch, where the machine is shared; 0: all")
    return parser.parse_args()


def measured(folder: RunFolder) -> dict[str, Any]:
    """What the run's own files say."""
    summary, environment = folder.read_summary(), folder.read_environment()
    curve = [
        [line["stage"], line["step"], line["metrics"]["karyotype/type_top1"]]
        for line in folder.read_metrics()
        if line["kind"] == "evaluation"
    ]
    return {
        "metrics": summary["metrics"],
        "detail": {name: facts for name, facts in summary["detail"].items() if "warning" in name or "trisomy" in name},
        "validation_type_top1": curve,
        "stages": summary["stages"],
        "train_seconds": round(sum(stage["seconds"] for stage in summary["stages"]), 1),
        "threads_of_run": environment["threads"],
        "precision": environment["precision"],
        "commit_of_run": environment["commit"],
    }


def seconds_a_case(run: Path, data: str) -> float:
    """Seconds that one more cell of the test split takes `partwise predict` on one core, start-up aside."""
    source = open_source(resolve(RECIPE, data=data)[0].data.source)
    root = Path(source.root)  # type: ignore[attr-defined]
    cases = sorted({record.case for record in source.records if record.split == "test"})[:MANY]
    own = {case: next(root / Path(r.file).parent for r in source.records if r.case == case) for case in cases}

    def predict(count: int) -> float:
        with tempfile.TemporaryDirectory() as out:
            words = ["predict", str(run), *(str(own[case]) for case in cases[:count]), "--out", out]
            begun = time.monotonic()
            subprocess.run([sys.executable, "-m", "partwise", *words], check=True, env=one_core(), capture_output=True)
            return time.monotonic() - begun

    return round((predict(MANY) - predict(FEW)) / (MANY - FEW), 2)


def one_core() -> dict[str, str]:
    """The environment in which nothing has more than one thread."""
    return os.environ | {name: "1" for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


if __name__ == "__main__":
    main()
