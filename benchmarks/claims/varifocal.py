"""Which of Varifocal-Net's steps help on real cells? The claim study of Varifocal-Net.

    python benchmarks/claims/varifocal.py [--data SOURCE] [--arms both two_wholes] [--seeds 0 1 2 3 4] [--threads 1]
    python benchmarks/claims/varifocal.py --summary             (tables of what is there)
    python benchmarks/claims/varifocal.py --quick               (a few steps of every arm on generated cells; no results)

A unit is an arm with a seed. It leaves results/claims/varifocal/cells_ARM_seedN.json, is not repeated where that exists, and
continues where it was. Arms of a seed share its first network, and those with a box its first boxes.

Named before the first run:
primary: karyotype/type_top1 on the test split of the pack, both minus two_wholes, paired by seed, 5 seeds, 95 % interval (t)
above zero: whether a second look at a box is worth more than a second network of another seed.
secondary, with Holm's correction: both minus whole; both minus centre; both minus single_task; both minus rival; optimal
minus greedy case accuracy of both; boxcar, bands and transformer (boxes that follow the second network) each minus both.

Arms: `whole` (the first network alone), `local` (the second alone), `both` (boxes as taught from the chromosomes' extent),
`two_wholes` (the second network sees what the first sees), `centre` (one fixed box in the middle), `boxcar`, `bands`,
`transformer` (boxes follow, by the paper's rule, by signs, by the crop's own gradient), `single_task` (no polarity), `rival`
(a plain ResNet-18 with two heads, as many passes as both networks have), `rival_time` (the same, as long as `both` takes).
Nothing is chosen on the test split, and nothing but the temperature and the price of dispatch on validation.
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

from paired import difference, endpoint_lines, endpoints, paired

from partwise.config import Recipe
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Interrupted, Job, first_steps, run_stages
from partwise.engine.runtime import catch_signals, start
from partwise.engine.stages import Products, TrainStage
from partwise.engine.tracking import Progress, Tracker
from partwise.measure import measure
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.methods.varifocal.learning import Answerer
from partwise.methods.varifocal.method import VarifocalMethod
from partwise.ops import draws
from partwise.run import RunFolder
from record import REPOSITORY, write_result

RECIPE = "varifocal/cells-small"
UNITS = REPOSITORY / "results" / "claims" / "varifocal"
SCRIPT = "python benchmarks/claims/varifocal.py"
TOP1 = "karyotype/type_top1"
WHOLE, BOX, LOCAL, ENSEMBLE = 4, 1, 4, 2
"""Passes of every stage: half of the recipe's or less, so that a unit takes minutes."""
QUICK = "karyotypes:?size=64&train=2&val=1&test=1"
SIZES = (
    "method.units=1",
    f"train.epochs={WHOLE}",
    f"method.box_epochs={BOX}",
    f"method.local_epochs={LOCAL}",
    f"method.ensemble_epochs={ENSEMBLE}",
    "evaluate.every=0",
)
RIVAL = ("method.network=backbone", "model.backbone=resnet18")


@dataclass(frozen=True)
class Arm:
    """What differs from `both`, which earlier stages it shares with others, and whose answer counts."""

    settings: tuple[str, ...] = ()
    shares: tuple[str, ...] = ("whole", "boxes")
    answerer: Answerer | None = None
    """Of the networks of `both`; None: an arm with a training of its own."""


def follows(rule: str, rate: float) -> Arm:
    """Boxes that follow the second network, at a rate at which they stay near the chromosome."""
    return Arm(("method.follow=true", f"method.rule={rule}", f"method.follow_optim.lr={rate}"))


ARMS = {
    "both": Arm(),
    "whole": Arm(answerer="whole"),
    "local": Arm(answerer="local"),
    "two_wholes": Arm(("method.second=whole",), ("whole",)),
    "centre": Arm(("method.second=centre",), ("whole",)),
    "rival": Arm((*RIVAL, f"train.epochs={WHOLE + LOCAL}"), ()),
    "rival_time": Arm(RIVAL, ()),
    "single_task": Arm(("method.polarity_weight=0",), ()),
    "boxcar": follows("boxcar", 1e-6),
    "bands": follows("bands", 1e-6),
    "transformer": follows("autograd", 1e-4),
}
SECONDARY = {
    "both - whole": ("both", "whole"),
    "both - centre": ("both", "centre"),
    "both - single_task": ("both", "single_task"),
    "both - rival": ("both", "rival"),
    "both - rival_time": ("both", "rival_time"),
    "boxcar - both": ("boxcar", "both"),
    "bands - both": ("bands", "both"),
    "transformer - both": ("transformer", "both"),
}
DISPATCHES = ("karyotype/case_accuracy", "karyotype/dispatched_case_accuracy", "karyotype/optimal_case_accuracy")


def main() -> None:
    options = arguments()
    if options.quick:
        try_out(options)
        return
    if not options.summary:
        study = Study(options)
        try:
            with catch_signals(study.runtime.interruption):
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
    parser.add_argument("--data", default="chromosomes:../shared/data/chromosomes_cells")
    parser.add_argument("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2, 3, 4])
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its own choice")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims/varifocal"))
    parser.add_argument("--summary", action="store_true", help="train nothing, show what is there")
    parser.add_argument("--quick", action="store_true", help="a few steps of each arm on generated cells; no results")
    parser.add_argument("--quiet", action="store_true", help="no progress line")
    return parser.parse_args()


def try_out(options: argparse.Namespace) -> None:
    """Every arm with a few steps, printed: shows that the script works."""
    with tempfile.TemporaryDirectory() as scratch:
        options.runs, options.data = Path(scratch), QUICK
        study = Study(options, more=("data.size=64", "train.batch_size=23", "model.backbone=resnet10t"))
        try:
            for name in options.arms:
                values = study.measured(name, 0)
                print(name, {stage["name"]: stage["steps"] for stage in values["stages"]}, values["metrics"][TOP1])
        finally:
            study.close()


class Study:
    """The cells, the device, and the trainings of every arm and seed; `more`: settings that go before the arms' own."""

    def __init__(self, options: argparse.Namespace, more: tuple[str, ...] = ()) -> None:
        self.more = more
        self.runs: Path = options.runs
        self.threads: int = options.threads
        self.data_string: str = options.data
        recipe = self.recipe(ARMS["both"], 0)
        self.runtime = start(recipe.train)
        self.source = open_source(recipe.data.source)
        self.data = PictureData(self.source, recipe.data, device=self.runtime.device)
        self.data.prepare()
        self.progress = Progress(quiet=options.quiet)

    def close(self) -> None:
        """Stop the decoding threads and the progress line."""
        self.data.close()
        self.progress.close()

    def recipe(self, arm: Arm, seed: int, *more: str) -> Recipe:
        """What an arm trains with a seed."""
        own = (f"train.seed={seed}", f"train.threads={self.threads}", f"data.threads={self.threads}")
        return resolve(RECIPE, data=self.data_string, settings=[*SIZES, *own, *arm.settings, *self.more, *more])[0]

    def method(self, recipe: Recipe) -> VarifocalMethod:
        """An arm's networks, random by the recipe's seed."""
        torch.manual_seed(draws.derive(recipe.train.seed, "networks"))
        method = VarifocalMethod(recipe, DataFacts.of(self.source))
        method.to(self.runtime.device)
        return method

    def unit(self, name: str, seed: int) -> None:
        """Train an arm, measure it once on the test split and leave the result."""
        values = self.measured(name, seed)
        command = f"{SCRIPT} --data {self.data_string} --arms {name} --seeds {seed}"
        write_result(f"cells_{name}_seed{seed}", command, values, folder=UNITS)
        print(f"{name} seed {seed}: {values['metrics'][TOP1]:.4f}", flush=True)

    def measured(self, name: str, seed: int) -> dict[str, Any]:
        """The values of a unit."""
        arm = ARMS[name]
        trained = "both" if arm.answerer else name
        more = [f"train.epochs={self.equal_time(seed)!r}"] if name == "rival_time" else []
        method = self.method(self.recipe(ARMS[trained], seed, *more))
        job = self.job(method.recipe, self.runs / f"{trained}_seed{seed}")
        if trained != "both" and arm.shares:
            self.share(arm, seed, job.folder)
        with job.folder.lock():
            reports = run_stages(method.stages(self.data, job), job)
        method.eval()
        if arm.answerer:
            method.answerer = arm.answerer
        found = measure(
            method, self.data, method.recipe, "test", ("karyotype",), runtime=self.runtime, progress=self.progress
        )
        settings = [*SIZES, *arm.settings]
        return {"arm": name, "seed": seed, "metrics": found.metrics, "stages": reports, "settings": settings}

    def share(self, arm: Arm, seed: int, folder: RunFolder) -> None:
        """Give a run the first stages of `both` with the same seed, which that arm must have left before."""
        both = self.both(seed)
        for stage in arm.shares:
            if not (folder.products / stage).exists():
                shutil.copytree(both.folder(stage), folder.products / stage)

    def both(self, seed: int) -> Products:
        """What the arm `both` left; ends the script where it was not trained to its end."""
        products = Products(RunFolder(self.runs / f"both_seed{seed}").products)
        if not products.complete("ensemble"):
            sys.exit(f"first: {SCRIPT} --arms both --seeds {seed}")
        return products

    def job(self, recipe: Recipe, path: Path) -> Job:
        """What the loop needs, in a folder."""
        folder = RunFolder(path)
        return Job(recipe, folder, self.runtime, self.progress, Tracker(folder, self.progress, leads=True))

    def equal_time(self, seed: int) -> float:
        """Passes of the rival that take as long as all of `both` took, by the seconds of a few of its steps."""
        spent = sum(self.both(seed).facts(stage)["seconds"] for stage in ("whole", "boxes", "local", "ensemble"))
        method = self.method(self.recipe(ARMS["rival"], seed))
        job = self.job(method.recipe, self.runs / "timing")
        stage = method.stages(self.data, job)[0]
        assert isinstance(stage, TrainStage)
        steps = first_steps(stage, job, 12)
        for _ in range(4):
            next(steps)
        begun = time.perf_counter()
        for _ in range(8):
            next(steps)
        seconds = (time.perf_counter() - begun) / 8
        steps.close()
        return round(spent / seconds) / stage.steps_per_epoch


# -- results -------------------------------------------------------------------------------------------------------------


def stored(name: str, seed: int) -> dict[str, Any] | None:
    """The values of a unit, if it is there."""
    path = UNITS / f"cells_{name}_seed{seed}.json"
    return json.loads(path.read_text())["values"] if path.exists() else None


def summarise() -> None:
    """Means of all arms and the endpoints, into results/claims_varifocal_cells.json and onto the screen."""
    found = {name: {s: u for s in range(5) if (u := stored(name, s))} for name in ARMS}
    found = {name: by_seed for name, by_seed in found.items() if by_seed}
    if not found:
        return
    arms: dict[str, Any] = {}
    for name, by_seed in found.items():
        units = [by_seed[seed]["metrics"] for seed in sorted(by_seed)]
        arms[name] = {"seeds": sorted(by_seed)}
        for metric in (TOP1, "karyotype/type_f1", "karyotype/polarity_top1", *DISPATCHES):
            arms[name][metric] = [unit[metric] for unit in units if metric in unit]
    secondary = {name: difference(found, *pair, TOP1) for name, pair in SECONDARY.items()}
    secondary["optimal - greedy dispatch of both"] = dispatches(found.get("both", {}))
    primary = {"both - two_wholes": difference(found, "both", "two_wholes", TOP1)}
    values = {"arms": arms, **endpoints(primary, secondary)}
    write_result("claims_varifocal_cells", f"{SCRIPT} --summary", values)
    for name, arm in arms.items():
        print(
            f"{name:14}",
            "  ".join(f"{m.split('/')[1]} {sum(v) / len(v):.4f}" for m, v in arm.items() if m != "seeds" and v),
        )
    print("\n".join(endpoint_lines(values)))


def dispatches(both: dict[int, Any]) -> Any:
    """Optimal minus greedy case accuracy of one arm; None for fewer than two seeds."""
    if len(both) < 2:
        return None
    _, greedy, optimal = DISPATCHES
    return paired([u["metrics"][optimal] for u in both.values()], [u["metrics"][greedy] for u in both.values()])


if __name__ == "__main__":
    main()
