"""Does patch learning give better class maps than the same network trained plainly? The claim study of PPL.

    python benchmarks/claims/ppl.py --dry                       (FLOPs and lengths of every arm; trains nothing)
    python benchmarks/claims/ppl.py --tune                      (the rate of every arm; before the first unit)
    python benchmarks/claims/ppl.py [--arms plain ppl] [--seeds 0 1 2 3 4] [--threads 1]
    python benchmarks/claims/ppl.py --source voc3 --data DIR    (DIR: where make_voc_layout.py wrote its VOCdevkit)
    python benchmarks/claims/ppl.py --summary                   (tables of what is there)

A unit is an arm with a seed. It leaves results/claims/ppl/SOURCE_ARM_seedN.json, is not repeated where that exists, and
continues where it was. No weights come from elsewhere: this tests the mechanism, not the paper's number.

Named before the first run:
primary: segmentation/cam_miou on the test split, ppl minus plain, paired by seed, 5 seeds, 95 % interval (t) above zero. Each
side is, of its two arms with batch norm frozen and at work, the one that is better on the seed that chooses rates.
secondary, with Holm's correction: epl minus plain; ppl minus the single position that is best on validation; ppl minus
plain in cam_precision, in cam_recall, in the recall of the telling part and of the other parts (creatures only).
Beside them, without a claim: ppl minus every other arm, each with its uncorrected interval.

Rules. Every seed trains one plain classifier, as weights from ImageNet are in the paper, and every arm continues from it with
the FLOPs of ppl (`plain_long`: twice; `plain_once`: those of both, from random weights in one stage). Every arm chooses its
rate among four, once, on the validation split of a seed that is in no pair; its length among half of its FLOPs and all of
them, by cam_miou on validation; and its background threshold there too. Test pictures are read once, with what was chosen.
Arms: `plain` (batch norm at work), `plain_frozen` (frozen, as where patches are in play), `layercam` (other maps of plain's
network), `single_N`, `ppl`, `ppl_norm` (batch norm at work), `ppl_interleaved`, `epl`, `cutmix`, `puzzle` (Puzzle-CAM).
Trivial rivals: a centred box of the size best on validation, and everything an object.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from paired import ENOUGH
from ppl_arms import KNOBS, Study, arms, quick, total
from ppl_maps import CentreBox, Yardstick, best_miou, measured, seeder
from ppl_summary import MIOU, compared, table

from partwise.engine.loop import Interrupted, NonFiniteLoss
from partwise.engine.runtime import catch_signals
from record import REPOSITORY, write_result

UNITS = REPOSITORY / "results" / "claims" / "ppl"
SCRIPT = "python benchmarks/claims/ppl.py"
SIDES = tuple(step / 20 for step in range(6, 21))
"""Sides of the centred box, as shares of the picture's."""
TUNING = 1000
"""The seed of the trials that choose rates: it is in no pair."""
UNEQUAL = 0.02
"""By how much an arm's FLOPs may differ from the budget: whole steps cannot meet it exactly."""


def main() -> None:
    options = arguments()
    knobs = KNOBS[options.source]
    chosen = options.arms or list(arms(knobs))
    if unknown := [arm for arm in chosen if arm not in arms(knobs)]:
        sys.exit(f"--arms {unknown[0]}: expected some of {', '.join(arms(knobs))}")
    if options.summary:
        summarise(options.source)
        return
    runs = options.runs / (f"{options.source}_quick" if options.quick else options.source)
    used = (quick(knobs) if options.quick else knobs).on(options.data)
    study = Study(used, runs, threads=options.threads, quiet=options.quiet)
    tuning = Tuning(options.source)
    try:
        with catch_signals(study.runtime.interruption):
            if options.dry:
                show_lengths(study, chosen)
            elif options.quick:
                try_out(study, chosen)
            elif options.tune:
                tuning.choose(study, chosen)
            else:
                run_units(study, tuning, options.source, chosen, options.seeds)
                summarise(options.source)
    except Interrupted:
        sys.exit("interrupted; the same command continues")
    finally:
        study.close()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=list(KNOBS), default="creatures")
    parser.add_argument("--data", default="data/wsss_voc3", help="the folder of VOCdevkit, for --source voc3")
    parser.add_argument("--arms", nargs="+", help="default: all of the source")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=0, help="of torch and of the loader; 0: their own choice")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims/ppl"))
    parser.add_argument("--dry", action="store_true", help="FLOPs and lengths alone")
    parser.add_argument("--tune", action="store_true", help="choose the rates of the arms, on a seed of its own")
    parser.add_argument("--summary", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--quick", action="store_true", help="a few steps of each arm; no results")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    return parser.parse_args()


class Tuning:
    """The rate of every arm: tried at length 1 with the seed TUNING, kept in SOURCE_tuning.json as it goes."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.command = f"{SCRIPT} --source {source} --tune"

    def choose(self, study: Study, chosen: list[str]) -> None:
        """Try every rate of every arm that has one of its own and is not there yet."""
        yardstick = Yardstick(study.data, study.source.classes, study.knobs.batch)
        for name in chosen:
            arm = study.arms[name]
            for rate in study.knobs.rates if arm.like is None else ():
                found = self.found()
                if str(rate) in found.get(name, {}):
                    continue
                score = self._score(study, yardstick, name, rate)
                print(f"{name} at {rate:g} times the rate: {score:.4f} on validation", flush=True)
                found.setdefault(name, {})[str(rate)] = score
                write(self.source, "tuning", self.command, {"study": KNOBS[self.source].identity(), "tried": found})

    def _score(self, study: Study, yardstick: Yardstick, name: str, rate: float) -> float:
        """cam_miou on validation at a rate; 0 where the training breaks down."""
        arm = study.arms[name]
        try:
            trained = study.train(arm, 1.0, rate, TUNING)
        except NonFiniteLoss as failure:
            print(failure, flush=True)
            return 0.0
        model = seeder(trained.method, arm.maps, study.base.method.maps)
        return best_miou(yardstick.rows(model, yardstick.batches("val")))

    def found(self) -> dict[str, dict[str, float]]:
        """Arm -> rate -> cam_miou on validation, of what was tried so far."""
        values = stored(self.source, "tuning")
        return values["tried"] if values else {}

    def better(self, *names: str) -> str:
        """Of some arms the one with the best score at its best rate; the first where nothing was tried."""
        found = self.found()
        return max(names, key=lambda name: max(found.get(name, {}).values(), default=0.0))

    def rate(self, study: Study, name: str) -> float:
        """The best rate of an arm, the lowest of equal ones. Ends the script where not all were tried."""
        tried = self.found().get(study.arms[name].like or name, {})
        if len(tried) < len(study.knobs.rates):
            sys.exit(
                f"{name}: its rate is not chosen yet; first: {self.command} --arms {study.arms[name].like or name}"
            )
        return float(max(tried, key=lambda rate: (tried[rate], -float(rate))))


# -- units ---------------------------------------------------------------------------------------------------------------


def run_units(study: Study, tuning: Tuning, source: str, chosen: list[str], seeds: list[int]) -> None:
    """Every unit that is not there yet, seed by seed, so that pairs are complete early."""
    yardstick = Yardstick(study.data, study.source.classes, study.knobs.batch)
    command = f"{SCRIPT} --source {source}" + (" --data DIR" if source != "creatures" else "")
    own = {"study": KNOBS[source].identity()}
    if stored(source, "trivial") is None:
        write(source, "trivial", command, own | {"rivals": trivial(yardstick)})
    for seed in seeds:
        for name in chosen:
            if stored(source, f"{name}_seed{seed}") is None:
                found = unit(study, yardstick, name, seed, tuning.rate(study, name), unequal=UNEQUAL)
                values = own | {"arm": name, "seed": seed} | found
                write(source, f"{name}_seed{seed}", f"{command} --arms {name} --seeds {seed}", values)


def try_out(study: Study, chosen: list[str]) -> None:
    """Every arm with a few steps, printed."""
    yardstick = Yardstick(study.data, study.source.classes, study.knobs.batch)
    for name in chosen:
        found = unit(study, yardstick, name, 0, 1.0, unequal=math.inf)
        print(json.dumps({key: found[key] for key in ("metrics", "trials", "unit_seconds")}))
    print(json.dumps({name: found["metrics"] for name, found in trivial(yardstick).items()}))


def unit(study: Study, yardstick: Yardstick, name: str, seed: int, rate: float, *, unequal: float) -> dict[str, Any]:
    """Train an arm at each of its lengths, choose one on validation, and score it once on the test split.

    Ends the script where the FLOPs differ from the budget by more than the share `unequal`.
    """
    arm, begun = study.arms[name], time.monotonic()
    trials: list[dict[str, Any]] = []
    best: tuple[Any, ...] = ()
    for length in study.lengths(arm):
        trained = study.train(arm, length, rate, seed)
        budgets = trained.flops / study.asked(arm, length)
        if abs(budgets - 1) > unequal:
            sys.exit(f"{name} at length {length:g}: {budgets:.3f} times the budget's FLOPs; its stages are too short")
        model = seeder(trained.method, arm.maps, study.base.method.maps)
        rows = yardstick.rows(model, yardstick.batches("val"))
        trial = {"length": length, "validation_cam_miou": best_miou(rows), "training_flops": trained.flops}
        trials.append(trial | {"budgets": budgets, "stages": trained.stages})
        if not best or trial["validation_cam_miou"] > best[0]["validation_cam_miou"]:
            best = (trials[-1], trained.method, model, rows)
    chosen, method, model, rows = best
    found = measured(yardstick.classified(method), yardstick.score(model, rows))
    print(f"{name} seed {seed}: length {chosen['length']:g}, {MIOU} {found['metrics'][MIOU]:.4f}", flush=True)
    return {
        **found,
        "rate": rate,
        "chosen": chosen,
        "trials": trials,
        "precision": study.runtime.precision,
        "training_seconds": round(sum(stage["seconds"] for one in trials for stage in one["stages"]), 1),
        "unit_seconds": round(time.monotonic() - begun, 1),
    }


def trivial(yardstick: Yardstick) -> dict[str, Any]:
    """The rivals that see nothing; the box's side is chosen on validation."""
    batches = list(yardstick.batches("val"))
    rows = {side: yardstick.rows(CentreBox(side), batches) for side in SIDES}
    side = max(SIDES, key=lambda side: best_miou(rows[side]))
    box = measured(yardstick.score(CentreBox(side), rows[side])) | {"side": side}
    return {"centre_box": box, "all_foreground": measured(yardstick.score(CentreBox(1.0), rows[1.0]))}


def stored(source: str, name: str) -> dict[str, Any] | None:
    """The values of a finished unit. Ends the script where it is of a study with other knobs or another recipe."""
    path = UNITS / f"{source}_{name}.json"
    if not path.exists():
        return None
    values: dict[str, Any] = json.loads(path.read_text())["values"]
    own = KNOBS[source].identity()
    if differing := [key for key in own if values["study"].get(key) != own[key]]:
        sys.exit(f"{path}: was measured with another {differing[0]}; move the units of that study away first")
    return values


def write(source: str, name: str, command: str, values: dict[str, Any]) -> None:
    """Leave a unit's file."""
    UNITS.mkdir(parents=True, exist_ok=True)
    write_result(f"claims/ppl/{source}_{name}", command, values)


# -- what is shown -------------------------------------------------------------------------------------------------------


def show_lengths(study: Study, chosen: list[str]) -> None:
    """FLOPs of a step, steps and epochs of every stage at length 1, and what the arm takes of the budget."""
    print(f"the shared classifier: {study.start_flops:.3e} FLOPs; budget behind it: {study.budget(1.0):.3e}")
    for name in chosen:
        arm = study.arms[name]
        minutes = 0.0
        for length in study.lengths(arm):
            costs, steps = study.costs(arm), study.steps(arm, study.recipe(arm, length, 1.0, 0))
            share = total(costs, steps) / study.asked(arm, length)
            seconds = sum(costs[stage].seconds * count for stage, count in steps.items())
            minutes += seconds / 60
            print(f"{name:16} length {length:g}: {share:.4f} of what is asked, about {seconds / 60:.1f} min")
            for stage, count in steps.items():
                epochs = count / costs[stage].steps_per_epoch
                print(f"    {stage:12} {costs[stage].flops:.3e} FLOPs a step, {count:6,} steps, {epochs:6.2f} epochs")
        print(f"{name:16} training of a unit: about {minutes:.1f} min")


def summarise(source: str) -> None:
    """Print what the units say; the record is written once the primary endpoint has its seeds."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for name in arms(KNOBS[source]):
        for path in UNITS.glob(f"{source}_{name}_seed*.json"):
            seed = int(path.stem.rpartition("seed")[2])
            if values := stored(source, f"{name}_seed{seed}"):
                found.setdefault(name, {})[seed] = values
    tuning = Tuning(source)
    sides = [tuning.better(*names) for names in (("ppl", "ppl_norm"), ("plain", "plain_frozen"))]
    summary = compared(found, *sides)
    rivals = (stored(source, "trivial") or {"rivals": {}})["rivals"]
    summary["trivial"] = {name: found["metrics"] for name, found in rivals.items()}
    print(table(summary))
    if any(result["n"] >= ENOUGH for result in summary["primary"].values()):
        print(write_result(f"claims_ppl_{source}", f"{SCRIPT} --source {source}", summary))


if __name__ == "__main__":
    main()
