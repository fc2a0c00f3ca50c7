"""PPL on one GPU: a ResNet-50 on real photographs, the whole way to a segmentation network, plain against PPL and EPL.

    python benchmarks/gpu/ppl.py --data pets:DIR --out $OUT [--weights FILE] [--seeds 0 1 2]
    python benchmarks/gpu/ppl.py --quick --out DIR          (generated pictures, a few steps, any device)

A unit is an arm with a seed: one run of the recipe, which leaves ppl_ARM_seedN.json in DIR and is not repeated where that
exists; run folders lie beside the repository's own and continue where they were. Plain has twice the passes behind its
warm-up, so that its pictures cost what those of PPL's two branches do, about; stages say what they took. Without
--weights all begin at random: that tests the mechanism, not the paper's number.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partwise import api
from partwise.run import RunFolder
from record import write_result

SCRIPT = "python benchmarks/gpu/ppl.py"
SETTINGS = (
    "model.backbone=resnet50",
    "data.size=224",
    "data.augment.long_side=[192, 320]",
    "method.maps.longest=320",
    "train.epochs=10",
    "method.later_epochs=10",
    "method.warmup_epochs=60",
)
QUICK = (
    "train.epochs=0.1",
    "method.later_epochs=0.1",
    "method.warmup_epochs=0.1",
    "method.affinity.epochs=0.1",
    "method.segmentation.epochs=0.1",
)
ARMS = {
    "plain": ("method.mode=baseline", "train.epochs=60"),
    "ppl": ("method.mode=ppl",),
    "epl": ("method.mode=epl", "train.epochs=20"),
}
SHOWN = tuple(f"segmentation/{name}" for name in ("cam_miou", "cam_precision", "cam_recall", "pseudo_miou", "miou"))


def main() -> None:
    options = arguments()
    recipe, data = ("ppl/smoke", None) if options.quick else ("ppl/pets3", options.data)
    settings = list(QUICK if options.quick else SETTINGS)
    if options.weights:
        settings.append(f"model.weights={options.weights}")
    for seed in options.seeds:
        for arm in options.arms:
            name = f"ppl_{arm}_seed{seed}"
            if (options.out / f"{name}.json").exists():
                continue
            changes = ARMS[arm][:1] if options.quick else ARMS[arm]
            own = [*settings, *changes, f"train.seed={seed}"]
            folder = api.train(recipe, data=data, out=options.runs / name, settings=own)
            summary = RunFolder(folder).read_summary()
            values = {"arm": arm, "seed": seed, "metrics": summary["metrics"], "stages": summary["stages"]}
            words = " ".join(f"--set {setting}" for setting in own)
            write_result(name, f"partwise train {recipe} {words}", values, options.out)
    table(options.out)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="pets:data/pets3")
    parser.add_argument("--out", type=Path, required=True, help="where the units' files go")
    parser.add_argument("--runs", type=Path, default=Path("runs/gpu/ppl"))
    parser.add_argument("--weights", help="a local file of ImageNet weights")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--quick", action="store_true", help="shows that the script works, and nothing else")
    return parser.parse_args()


def table(folder: Path) -> None:
    """Means over the seeds, and what every stage of an arm takes."""
    print(f"{'arm':8}{'seeds':>6}" + "".join(f"{name.split('/')[1]:>15}" for name in SHOWN) + "   seconds of stages")
    for arm in ARMS:
        units: list[dict[str, Any]] = [
            json.loads(path.read_text())["values"] for path in sorted(folder.glob(f"ppl_{arm}_seed*.json"))
        ]
        if units:
            means = [statistics.fmean(unit["metrics"].get(name, float("nan")) for unit in units) for name in SHOWN]
            seconds = ", ".join(f"{stage['name']} {stage['seconds']:.0f}" for stage in units[0]["stages"])
            print(f"{arm:8}{len(units):6}" + "".join(f"{mean:15.4f}" for mean in means) + f"   {seconds}")


if __name__ == "__main__":
    main()
