"""Do parts and wholes make a better encoder of real chests, in equal time? The claim study of Adam-v2.

    python benchmarks/claims/adam_v2.py --rates       (first, on an idle machine: how long a step of every arm takes)
    python benchmarks/claims/adam_v2.py [--data SOURCE] [--arms L LCD_fixed] [--seeds 0 1 2 3 4] [--threads 1]
    python benchmarks/claims/adam_v2.py --summary     (tables of what is there)
    python benchmarks/claims/adam_v2.py --quick       (a few steps of every arm on generated chests; no results)

A unit is an arm with a seed. It leaves results/claims/adam_v2/cxr_ARM_seedN.json and is not repeated where that exists.
Encoders learn from the training pictures of both hospitals without labels; test patients are in no training. Arms have
the passes that fit into the same seconds, by the rates of the one machine that measured them.

Named before the first run:
primary: Dice of clavicles of a linear layer on the frozen encoder, learned from 3 pictures of JSRT (mean over five fixed
subsets), on JSRT's test pictures: LCD_fixed minus L, paired by seed, 5 seeds, 95 % interval (t) above zero. It counts only
where LCD_fixed is also above the mean mask and the registered atlas of the same three pictures.
secondary, with Holm's correction: LC, LD, LCD and LCD_fixed each minus L, LCD_fixed minus LCD, minus random and minus moco, all
on the same number; hearts from 3 and clavicles from 12 pictures, LCD_fixed minus L; compose_margin, LCD_fixed minus L.

Arms: `random`; `L` (the first phase alone); `LC`, `LD`, `LCD` (a third of the time for the first phase, shared by a seed, then
the second with composability, decomposability or both, losses as published), `LCD_fixed` (squares summed over dimensions, each
part at unit length alone); `moco`, a rival of another kind from lightly's blocks (needs lightly).
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from moco import train_moco
from paired import difference, endpoint_lines, endpoints

from partwise.config import Recipe
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Interrupted, Job, first_steps, run_stages
from partwise.engine.runtime import catch_signals, start
from partwise.engine.stages import TrainStage
from partwise.engine.tracking import Progress, Tracker
from partwise.measure import measure
from partwise.methods.adam_v2.method import AdamMethod
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.ops import draws
from partwise.run import RunFolder
from record import REPOSITORY, write_result

RECIPE = "adam_v2/cxr-small"
UNITS = REPOSITORY / "results" / "claims" / "adam_v2"
SCRIPT = "python benchmarks/claims/adam_v2.py"
SECONDS = 180.0
"""What every arm may train, on the machine and threads of `--rates`."""
FIRST = 1 / 3
"""The share of it that the first phase has, where there is a second."""
CLAVICLES_3, CLAVICLES_12, HEART_3 = (
    "embedding/fewshot_dice_clavicles_3",
    "embedding/fewshot_dice_clavicles_12",
    "embedding/fewshot_dice_heart_3",
)
MARGIN = "embedding/compose_margin"
SHOWN = (CLAVICLES_3, CLAVICLES_12, HEART_3, MARGIN, "embedding/decompose_top1", "embedding/effective_rank")
PUBLISHED = ("method.decompose_norm=joint", "method.reduction=mean")


@dataclass(frozen=True)
class Arm:
    """What differs from the recipe, and whether there is a second phase behind the shared first one."""

    settings: tuple[str, ...] = ()
    second: bool = True
    trains: bool = True


ARMS = {
    "random": Arm(second=False, trains=False),
    "L": Arm(second=False),
    "LC": Arm((*PUBLISHED, "method.decompose_weight=0")),
    "LD": Arm((*PUBLISHED, "method.compose_weight=0")),
    "LCD": Arm(PUBLISHED),
    "LCD_fixed": Arm(),
    "moco": Arm(second=False),
}
PRIMARY = "LCD_fixed - L"
SECONDARY = {
    "LC - L": ("LC", "L", CLAVICLES_3),
    "LD - L": ("LD", "L", CLAVICLES_3),
    "LCD - L": ("LCD", "L", CLAVICLES_3),
    "LCD_fixed - LCD": ("LCD_fixed", "LCD", CLAVICLES_3),
    "LCD_fixed - random": ("LCD_fixed", "random", CLAVICLES_3),
    "LCD_fixed - moco": ("LCD_fixed", "moco", CLAVICLES_3),
    "LCD_fixed - L, clavicles from 12": ("LCD_fixed", "L", CLAVICLES_12),
    "LCD_fixed - L, heart from 3": ("LCD_fixed", "L", HEART_3),
    "LCD_fixed - L, compose_margin": ("LCD_fixed", "L", MARGIN),
}


def main() -> None:
    options = arguments()
    if options.quick:
        try_out(options)
        return
    if not options.summary:
        study = Study(options)
        try:
            with catch_signals(study.runtime.interruption):
                if options.rates:
                    study.measure_rates()
                    return
                for seed in options.seeds:
                    for name in options.arms:
                        if stored(name, seed) is None:
                            study.unit(name, seed)
        except Interrupted:
            sys.exit("interrupted; the same command continues")
        finally:
            study.close()
    summarise()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cxrmasks:../shared/data/chest_xray_masks", help="what encoders learn from")
    parser.add_argument(
        "--outlined",
        default="cxrmasks:../shared/data/chest_xray_masks?part=jsrt",
        help="what they are asked about, with clavicles",
    )
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims/adam_v2"))
    parser.add_argument("--rates", action="store_true", help="time the steps of every arm, into results/")
    parser.add_argument("--summary", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--quick", action="store_true", help="a few steps of each arm on generated chests; no results")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    return parser.parse_args()


def try_out(options: argparse.Namespace) -> None:
    """Every arm with a few steps, printed: shows that the script works."""
    with tempfile.TemporaryDirectory() as scratch:
        options.runs = Path(scratch)
        options.data = options.outlined = "radiographs:?size=64&train=24&val=4&test=12&classes=organs"
        small = ("data.size=64", "train.batch_size=8", "model.backbone=cifar-resnet", "model.arguments.depth=8")
        study = Study(options, (*small, "method.view_size=32", "method.local_size=16"), dict.fromkeys(ARMS, 60.0))
        try:
            for name in options.arms:
                values = study.measured(name, 0)
                shown = {metric.split("/")[1]: round(values["metrics"].get(metric, -1.0), 3) for metric in SHOWN}
                print(name, values["passes"], shown)
        finally:
            study.close()


class Study:
    """The pictures, the device, and the trainings of every arm and seed; `more`: settings that go before the arms' own."""

    def __init__(
        self, options: argparse.Namespace, more: tuple[str, ...] = (), rates: dict[str, float] | None = None
    ) -> None:
        self.options, self.more, self.rates = options, more, rates
        recipe = self.recipe("L", 0)
        self.runtime = start(recipe.train)
        self.source, self.outlined = open_source(options.data), open_source(options.outlined)
        self.data = PictureData(self.source, recipe.data, device=self.runtime.device)
        self.asked = PictureData(self.outlined, recipe.data, device=self.runtime.device)
        self.data.prepare()
        self.progress = Progress(quiet=options.quiet)

    def close(self) -> None:
        """Stop the decoding threads and the progress line."""
        self.data.close()
        self.asked.close()
        self.progress.close()

    def recipe(self, name: str, seed: int, *more: str) -> Recipe:
        """What an arm trains with a seed."""
        threads = self.options.threads
        own = (f"train.seed={seed}", f"train.threads={threads}", f"data.threads={threads}", "evaluate.every=0")
        own += ("data.storage=resident",)
        settings = [*own, *self.more, *ARMS[name].settings, *more]
        return resolve(RECIPE, data=self.options.data, settings=settings)[0]

    def method(self, recipe: Recipe) -> AdamMethod:
        """An arm's networks, random by the recipe's seed."""
        torch.manual_seed(draws.derive(recipe.train.seed, "networks"))
        method = AdamMethod(recipe, DataFacts.of(self.source))
        method.to(self.runtime.device)
        return method

    def job(self, recipe: Recipe, path: Path) -> Job:
        """What the loop needs, in a folder."""
        path.mkdir(parents=True, exist_ok=True)
        folder = RunFolder(path)
        return Job(recipe, folder, self.runtime, self.progress, Tracker(folder, self.progress, leads=True))

    # -- equal time ----------------------------------------------------------------------------------------------------

    def measure_rates(self) -> None:
        """Pictures a second of both phases of every arm, by some steps of each."""
        found = {}
        for name, arm in ARMS.items():
            if not arm.trains:
                continue
            phases = ("method.localize_epochs=[]", "method.part_whole_epochs=[1.0, 1.0]") if arm.second else ()
            recipe = self.recipe(name, 0, *phases)
            if name == "moco":
                _, rate = train_moco(
                    self.method(recipe), self.data, self.runtime, seed=0, steps=24, level=lambda _: 1, untimed=4
                )
                found[name] = rate
                continue
            with tempfile.TemporaryDirectory() as scratch:
                job = self.job(recipe, Path(scratch))
                stage = self.method(recipe).stages(self.data, job)[0]
                assert isinstance(stage, TrainStage)
                steps = first_steps(stage, job, 24)
                for _ in range(4):
                    next(steps)
                begun = time.perf_counter()
                for _ in steps:
                    pass
                found[name] = 20 * recipe.train.batch_size / (time.perf_counter() - begun)
            print(name, round(found[name], 1))
        write_result("rates", f"{SCRIPT} --rates", {"pictures_per_second": found, "seconds": SECONDS}, folder=UNITS)

    def passes(self, name: str) -> dict[str, list[float]]:
        """The passes of both phases that fit into SECONDS: two at level 0, the others at level 1."""
        rates = self.rates or json.loads((UNITS / "rates.json").read_text())["values"]["pictures_per_second"]
        seconds = SECONDS if self.rates is None else 1.0
        count = len(self.data.splits["train"])
        arm = ARMS[name]
        first = seconds * (FIRST if arm.second else 1.0) * rates["L" if name != "moco" else "moco"] / count
        second = seconds * (1 - FIRST) * rates[name] / count if arm.second else 0.0
        return {"localize_epochs": split(first), "part_whole_epochs": split(second)}

    # -- units ---------------------------------------------------------------------------------------------------------

    def unit(self, name: str, seed: int) -> None:
        """Train an arm, measure it once on the test split and leave the result."""
        values = self.measured(name, seed)
        command = f"{SCRIPT} --data {self.options.data} --arms {name} --seeds {seed}"
        write_result(f"cxr_{name}_seed{seed}", command, values, folder=UNITS)
        print(f"{name} seed {seed}: {values['metrics'][CLAVICLES_3]:.4f}", flush=True)

    def measured(self, name: str, seed: int) -> dict[str, Any]:
        """The values of a unit."""
        passes = self.passes(name) if ARMS[name].trains else {}
        recipe = self.recipe(name, seed, *(f"method.{field}={epochs}" for field, epochs in passes.items() if epochs))
        if not ARMS[name].second:
            recipe = resolve(recipe, settings=["method.part_whole_epochs=[]"])[0]
        method, reports = self.trained(name, seed, recipe)
        method.eval()
        found = measure(
            method, self.asked, recipe, "test", ("fewshot", "embedding"), runtime=self.runtime, progress=self.progress
        )
        beside = {
            metric: {way: found.detail[metric][way] for way in ("mean_mask", "atlas")}
            for metric in (CLAVICLES_3, CLAVICLES_12, HEART_3)
            if metric in found.metrics
        }
        return {
            "arm": name,
            "seed": seed,
            "metrics": found.metrics,
            "beside": beside,
            "threads": torch.get_num_threads(),
            "passes": passes,
            "stages": reports,
        }

    def trained(self, name: str, seed: int, recipe: Recipe) -> tuple[AdamMethod, list[dict[str, Any]]]:
        """An arm's networks after their training; the first phase before a second one is shared by the arms of a seed."""
        method = self.method(recipe)
        if not ARMS[name].trains:
            return method, []
        if name == "moco":
            each = self.data.steps_per_epoch(recipe.train.batch_size)
            coarse, fine = (round(epochs * each) for epochs in self.passes(name)["localize_epochs"])
            steps = max(1, coarse + fine)
            seconds, rate = train_moco(
                method, self.data, self.runtime, seed=seed, steps=steps, level=lambda step: int(step >= coarse)
            )
            return method, [{"name": "moco", "steps": steps, "seconds": seconds, "images_per_second": rate}]
        job = self.job(recipe, self.options.runs / f"{name}_seed{seed}")
        shared = self.options.runs / f"first_seed{seed}" / "localize"
        if ARMS[name].second and shared.exists() and not job.products.folder("localize").exists():
            copied(shared, job.products.folder("localize"))
        with job.folder.lock():
            reports = run_stages(method.stages(self.data, job), job)
        if ARMS[name].second and not shared.exists():
            copied(job.products.folder("localize"), shared)
        return method, reports


def copied(source: Path, target: Path) -> None:
    """A folder at its new place, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        shutil.copytree(source, Path(scratch) / "copy").rename(target)


def split(passes: float) -> list[float]:
    """At level 0 and at level 1."""
    coarse = min(2.0, passes)
    return [round(coarse, 3), round(passes - coarse, 3)] if passes else []


# -- results -------------------------------------------------------------------------------------------------------------


def stored(name: str, seed: int) -> dict[str, Any] | None:
    """The values of a unit, if it is there."""
    path = UNITS / f"cxr_{name}_seed{seed}.json"
    return json.loads(path.read_text())["values"] if path.exists() else None


def summarise() -> None:
    """Means of all arms and the endpoints, into results/claims_adam_v2_cxr.json and onto the screen."""
    found = {name: {s: u for s in range(5) if (u := stored(name, s))} for name in ARMS}
    found = {name: by_seed for name, by_seed in found.items() if by_seed}
    if not found:
        return
    arms: dict[str, Any] = {}
    for name, by_seed in found.items():
        units = [by_seed[seed]["metrics"] for seed in sorted(by_seed)]
        arms[name] = {"seeds": sorted(by_seed)}
        arms[name] |= {metric: [unit[metric] for unit in units if metric in unit] for metric in SHOWN}
    beside = next(iter(next(iter(found.values())).values()))["beside"]
    secondary = {name: difference(found, *pair) for name, pair in SECONDARY.items()}
    values = {"arms": arms, "beside": beside}
    values |= endpoints({PRIMARY: difference(found, "LCD_fixed", "L", CLAVICLES_3)}, secondary)
    best = arms.get("LCD_fixed", {}).get(CLAVICLES_3, [])
    values["above"] = {way: bool(best) and sum(best) / len(best) > least for way, least in beside[CLAVICLES_3].items()}
    if PRIMARY in values["primary"] and not all(values["above"].values()):
        values["primary"][PRIMARY]["verdict"] = "not above what needs no encoder"
    write_result("claims_adam_v2_cxr", f"{SCRIPT} --summary", values)
    for name, arm in arms.items():
        shown = (f"{m.split('/')[1]} {sum(v) / len(v):.4f}" for m, v in arm.items() if m != "seeds" and v)
        print(f"{name:10}", "  ".join(shown))
    print("beside", beside)
    print("\n".join(endpoint_lines(values)))


if __name__ == "__main__":
    main()
