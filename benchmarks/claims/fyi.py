"""Does FYI help? DM, DSA and MTT with and without mirror images on real CIFAR-10. The claim study of FYI.

    python benchmarks/claims/fyi.py [--data SOURCE] [--methods dm dsa mtt] [--counts 1 10] [--seeds 0 1 2 3 4] [--threads 1]
    python benchmarks/claims/fyi.py --summary               (tables of what is there)
    python benchmarks/claims/fyi.py --quick                 (a few steps of every arm on generated pictures; no results)

A 32-wide ConvNet, the budgets below, 1 and 10 pictures a class. A unit is a method, a number of pictures, an arm and a seed
(DM: five seeds, DSA and MTT three); it takes minutes, leaves results/claims/fyi/cifar10_METHOD_ipcN_ARM_seedN.json, is not
repeated where that exists, and continues where it was. Arms of a seed share their experts.

Arms: `plain` (the base method), `flip` (the always-drawn flip of FYI's code, without mirror images), `fyi` (with them). Each
is tried with the base method's augmentation and with the always-drawn flip: six numbers. The step size of the pictures is
chosen for each method, number and arm among three, with seed 100 and half the steps, by the mean of both columns on the
validation split (units `..._tuning`).

Named before the first run:
primary: DM, 10 a class, tried with the flip: fyi minus plain, paired by seed, 5 seeds, 95 % interval (t) above zero.
secondary, with Holm's correction: the same at 1 a class; fyi minus flip (what mirror images add to flips), both numbers; fyi
minus plain without the flip; and all of these for DSA and MTT, where three seeds can only show that a difference is seen.
Beside every set stand as many random and k-centre real pictures and all of them, from the arm `plain`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paired import endpoint_lines, endpoints, paired

from partwise import api
from partwise.engine.loop import Interrupted
from partwise.run import RunFolder
from record import REPOSITORY, write_result

UNITS = REPOSITORY / "results" / "claims" / "fyi"
SCRIPT = "python benchmarks/claims/fyi.py"
ARMS, CELLS = ("plain", "flip", "fyi"), ("noflip", "flip")
TUNING_SEED = 100
SEEDS = {"dm": 5, "dsa": 3, "mtt": 3}
RECIPES = {method: f"fyi/cifar10-{method}-small" for method in SEEDS}
RATES = {"dm": (0.3, 1.0, 3.0), "dsa": (0.03, 0.1, 0.3), "mtt": (10.0, 30.0, 100.0)}
BUDGETS: dict[tuple[str, int], tuple[str, ...]] = {
    ("dm", 1): ("method.iterations=600", "method.real_batch=64"),
    ("dm", 10): ("method.iterations=600", "method.real_batch=64"),
    ("dsa", 1): ("method.iterations=300", "method.real_batch=64", "method.outer=1"),
    ("dsa", 10): ("method.iterations=60", "method.real_batch=64", "method.outer=5", "method.inner=10"),
    ("mtt", 1): ("method.iterations=300",),
    ("mtt", 10): ("method.iterations=150",),
}
SHARED = ("evaluate.every=0", "method.trial.networks=3", "method.trial.epochs=300", "method.trial.whole_epochs=5")
QUICK = (
    "data.size=16",
    "data.validation=0.2",
    "model.arguments.width=8",
    "model.arguments.depth=2",
    "model.backbone=convnet",
    "method.iterations=2",
    "method.real_batch=4",
    "method.trial.networks=1",
    "method.trial.epochs=2",
    "method.trial.whole_epochs=1",
    "method.student_steps=2",
    "method.max_start=1",
    "method.expert_epochs=1",
    "method.experts.count=1",
    "method.experts.epochs=1",
)


def main() -> None:
    options = arguments()
    if options.quick:
        try_out(options)
        return
    if not options.summary:
        try:
            study(options)
        except Interrupted:
            sys.exit("interrupted; the same command continues")
    summarise()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10:../shared/data/cifar10")
    parser.add_argument("--methods", nargs="+", choices=list(SEEDS), default=list(SEEDS))
    parser.add_argument("--counts", nargs="+", type=int, choices=(1, 10), default=[1, 10])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims/fyi"))
    parser.add_argument("--summary", action="store_true", help="train nothing, show what is there")
    parser.add_argument(
        "--quick", action="store_true", help="a few steps of each arm on generated pictures; no results"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    return parser.parse_args()


def try_out(options: argparse.Namespace) -> None:
    """Every method and arm with a few steps, printed: shows that the script works."""
    with tempfile.TemporaryDirectory() as scratch:
        options.runs, options.data = Path(scratch), "creatures:?size=32&classes=3&train=60&val=12&test=12"
        for method in options.methods:
            for arm in options.arms:
                values = unit(options, method, 1, arm, 0, RATES[method][1], QUICK)
                print(method, arm, {name: v for name, v in values["metrics"].items() if name.endswith("convnet_top1")})


def study(options: argparse.Namespace) -> None:
    """Every unit that is not there, arm by arm: first the step size, then the seeds."""
    for method in options.methods:
        for count in options.counts:
            for arm in options.arms:
                rate = tuned(options, method, count, arm)
                for seed in [seed for seed in options.seeds if seed < SEEDS[method]]:
                    name = f"cifar10_{method}_ipc{count}_{arm}_seed{seed}"
                    if stored(name) is None:
                        values = unit(options, method, count, arm, seed, rate)
                        command = f"{SCRIPT} --methods {method} --counts {count} --arms {arm} --seeds {seed}"
                        write_result(name, command, values, folder=UNITS)
                        print(name, {cell: round(top1(values, arm, cell), 4) for cell in CELLS}, flush=True)


def tuned(options: argparse.Namespace, method: str, count: int, arm: str) -> float:
    """The step size of an arm: the best of as many for every arm, by the validation split, at half the budget."""
    name = f"cifar10_{method}_ipc{count}_{arm}_tuning"
    found = stored(name)
    if found is None:
        scores = {}
        for rate in RATES[method]:
            values = unit(options, method, count, arm, TUNING_SEED, rate, validation=True)
            scores[str(rate)] = statistics.fmean(top1(values, arm, cell) for cell in CELLS)
        found = {"scores": scores, "rate": float(max(scores, key=lambda rate: scores[rate]))}
        write_result(name, f"{SCRIPT} --methods {method} --counts {count} --arms {arm}", found, folder=UNITS)
    return float(found["rate"])


def unit(
    options: argparse.Namespace,
    method: str,
    count: int,
    arm: str,
    seed: int,
    rate: float,
    more: tuple[str, ...] = (),
    *,
    validation: bool = False,
) -> dict[str, Any]:
    """Distil and try one set; with `validation`, measured on that split alone, once, at the end."""
    budget = BUDGETS[method, count]
    settings = [f"train.seed={seed}", f"train.threads={options.threads}", f"method.distil={arm}", f"optim.lr={rate}"]
    settings += [f"method.images_per_class={count}", *budget, *SHARED, *more]
    settings.append(f"evaluate.best_by=distilled/{arm}-flip/convnet_top1")
    if arm != "plain" or validation:
        settings.append("method.trial.controls=[]")
    if method == "mtt":
        settings.append(f"method.experts.run={experts(options, seed, more)}")
    if validation:
        iterations = next(setting for setting in budget if "iterations" in setting)
        settings.append(f"method.iterations={int(iterations.partition('=')[2]) // 2}")
        settings += ["evaluate.suites=[]", "evaluate.every=100000"]
    out = options.runs / f"{method}_ipc{count}_{arm}_seed{seed}_lr{rate:g}"
    folder = RunFolder(api.train(RECIPES[method], data=options.data, out=out, settings=settings, quiet=options.quiet))
    summary = folder.read_summary()
    metrics = summary["metrics"]
    if validation:
        metrics = [line["metrics"] for line in folder.read_metrics() if line["kind"] == "evaluation"][-1]
    seconds = sum(stage["seconds"] for stage in summary["stages"])
    return {"metrics": metrics, "detail": summary["detail"], "seconds": round(seconds, 1), "settings": settings}


def experts(options: argparse.Namespace, seed: int, more: tuple[str, ...]) -> Path:
    """A run whose experts all arms and numbers of pictures of a seed follow."""
    out: Path = options.runs / f"experts_seed{seed}"
    settings = [f"train.seed={seed}", f"train.threads={options.threads}", *more]
    settings += ["method.iterations=1", "evaluate.suites=[]", "evaluate.during=[]", "method.trial.epochs=1"]
    return api.train(RECIPES["mtt"], data=options.data, out=out, settings=settings, quiet=options.quiet)


# -- results -------------------------------------------------------------------------------------------------------------


def top1(values: dict[str, Any], arm: str, cell: str) -> float:
    """A number of the table of six."""
    return float(values["metrics"][f"distilled/{arm}-{cell}/convnet_top1"])


def stored(name: str) -> dict[str, Any] | None:
    """The values of a unit, if it is there."""
    path = UNITS / f"{name}.json"
    return json.loads(path.read_text())["values"] if path.exists() else None


def found_units(method: str, count: int) -> dict[str, dict[int, dict[str, Any]]]:
    """Arm -> seed -> values."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in ARMS:
        for seed in range(SEEDS[method]):
            values = stored(f"cifar10_{method}_ipc{count}_{arm}_seed{seed}")
            if values is not None:
                found.setdefault(arm, {})[seed] = values
    return found


def difference(found: dict[str, dict[int, Any]], first: str, second: str, cell: str) -> Any:
    """`first - second` in a column, over the seeds that both have; None for fewer than two."""
    one, two = found.get(first, {}), found.get(second, {})
    seeds = [seed for seed in sorted(one) if seed in two]
    if len(seeds) < 2:
        return None
    return paired([top1(one[s], first, cell) for s in seeds], [top1(two[s], second, cell) for s in seeds])


def summarise() -> None:
    """The tables of six and the endpoints, into results/claims_fyi_cifar10.json and onto the screen."""
    tables: dict[str, Any] = {}
    results = {}
    for method in SEEDS:
        for count in (1, 10):
            found = found_units(method, count)
            if not found:
                continue
            table: dict[str, Any] = {
                f"{arm}-{cell}": [top1(values, arm, cell) for values in by_seed.values()]
                for arm, by_seed in found.items()
                for cell in CELLS
            }
            for name in (f"{cell}/{control}_top1" for cell in CELLS for control in ("random", "kcentre", "whole")):
                own = [v["metrics"][f"distilled/{name}"] for v in found.get("plain", {}).values()]
                table[name] = own
            tables[f"{method}, {count} a class"] = table
            for pair, cell in ((("fyi", "plain"), "flip"), (("fyi", "flip"), "flip"), (("fyi", "plain"), "noflip")):
                result = difference(found, *pair, cell)
                if result is not None:
                    results[f"{method}, {count} a class, {cell}: {pair[0]} - {pair[1]}"] = result
    if not tables:
        return
    primary = {name: result for name, result in results.items() if name == "dm, 10 a class, flip: fyi - plain"}
    secondary = {name: result for name, result in results.items() if name not in primary}
    values = {"tables": tables, **endpoints(primary, secondary)}
    write_result("claims_fyi_cifar10", f"{SCRIPT} --summary", values)
    for name, table in tables.items():
        print(name, "  ".join(f"{cell} {statistics.fmean(each):.4f}" for cell, each in table.items() if each))
    print("\n".join(endpoint_lines(values)))


if __name__ == "__main__":
    main()
