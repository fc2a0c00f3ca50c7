"""The arms of the claim study of PPL: what each trains, for how long, and what that costs. The protocol is in ppl.py.

Every seed first trains one plain classifier: what weights from ImageNet are in the paper. Each arm continues from it with the
FLOPs that `ppl` takes (`plain_long`: twice): convolutions and matrix products of one real step of every stage as torch counts
them, times its steps. `plain_once` has the FLOPs of both in one stage, from random weights.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from puzzle_cam import PuzzleCam
from torch.utils.flop_counter import FlopCounterMode

from partwise.config import Recipe, override, to_yaml
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job, first_steps, run_stages
from partwise.engine.runtime import start
from partwise.engine.stages import TrainStage
from partwise.engine.tracking import Progress, Tracker
from partwise.methods.base import DataFacts, Method
from partwise.methods.cutmix.config import CutMixFields, CutMixRecipe
from partwise.methods.cutmix.method import CutMixMethod
from partwise.methods.ppl.config import PplRecipe
from partwise.methods.ppl.method import PplMethod
from partwise.methods.recipes import resolve
from partwise.ops import draws
from partwise.run import RunFolder


@dataclass(frozen=True)
class Knobs:
    """Everything of a study that can be turned. Change it before the first unit: units of other knobs are refused."""

    recipe: str
    """Where network, optimiser, rates and map settings come from."""
    source: str
    tiny: str
    """The source with fewer pictures, for --quick."""
    settings: tuple[str, ...]
    """What differs from the recipe."""
    start_epochs: float
    """Passes of the classifier that all arms continue from."""
    first_epochs: float
    later_epochs: float
    """Passes of `ppl` at length 1: its first cut, every later cut. They make the budget of all arms."""
    positions: tuple[int, ...]
    """Blocks behind which maps are cut."""
    lengths: tuple[float, ...] = (0.5, 1.0)
    """Shares of the budget among which every arm chooses on validation."""
    rates: tuple[float, ...] = (0.03, 0.1, 0.3, 1.0)
    """Multiples of the recipe's rate among which every arm chooses, once, on the validation split of a seed of its own."""
    cutmix_p: float = 0.5
    batch: int = 16
    """Pictures that are measured together."""

    def on(self, data: str) -> Knobs:
        """With the folder of the pictures put into the source, where it takes one."""
        return replace(self, source=self.source.format(data=data), tiny=self.tiny.format(data=data))

    def identity(self) -> dict[str, str]:
        """What two units of one study share: the knobs, and what of the recipe has a say in maps."""
        fields = self.base().model_dump(mode="json", include={"data", "model", "optim", "train", "method"})
        for later in ("affinity", "pseudo", "segmentation"):
            del fields["method"][later]
        if fields["optim"]["final_weight_decay"] is None:  # younger than the first units
            del fields["optim"]["final_weight_decay"]
        recipe = hashlib.blake2b(json.dumps(fields, sort_keys=True).encode(), digest_size=8).hexdigest()
        return {"knobs": repr(self), "recipe": f"{self.recipe} {recipe}"}

    def base(self, threads: int = 0) -> PplRecipe:
        """The recipe of the arm `ppl` at length 1."""
        own = [
            "method.until=maps",
            "method.mode=ppl",
            f"method.positions=[{', '.join(map(str, self.positions))}]",
            "method.warmup_epochs=0",
            "method.later_lr=1",
            "method.freeze_norm=true",
            f"train.epochs={self.first_epochs}",
            f"method.later_epochs={self.later_epochs}",
            "evaluate.suites=[classification, segmentation]",
            "evaluate.every=0",
            f"train.threads={threads}",
            f"data.threads={threads}",
        ]
        found, _ = resolve(self.recipe, data=self.source, settings=[*self.settings, *own])
        assert isinstance(found, PplRecipe)
        return found


KNOBS = {
    "creatures": Knobs(
        recipe="ppl/demo",
        source="creatures:?size=64&classes=6&objects=3&train=2000&val=200&test=400",
        tiny="creatures:?size=64&classes=6&objects=3&train=64&val=24&test=24",
        settings=("model.arguments.depth=14", "data.size=64", "data.augment.padding=6"),
        start_epochs=24,
        first_epochs=4,
        later_epochs=4,
        positions=(0, 1),
    ),
    "voc3": Knobs(
        recipe="ppl/horses",
        source="voc:{data}?classes=present",
        tiny="voc:{data}?classes=present",
        settings=("data.validation=0.2",),
        start_epochs=24,
        first_epochs=3,
        later_epochs=3,
        positions=(0, 1, 2),
    ),
}


def quick(knobs: Knobs) -> Knobs:
    """The same with a few steps of everything: shows that the script works."""
    return replace(knobs, source=knobs.tiny, start_epochs=0.2, first_epochs=0.1, later_epochs=0.1)


@dataclass(frozen=True)
class Arm:
    """How an arm differs from `ppl`: settings, what trains it, what its maps are read from, how long it may be."""

    settings: tuple[str, ...] = ()
    kind: Literal["ppl", "puzzle", "cutmix"] = "ppl"
    maps: Literal["own", "layers"] = "own"
    longer: float = 1.0
    anchor: bool = False
    """Whether the budget is what this arm costs: its stages have the lengths of the knobs."""
    like: str | None = None
    """The arm whose rate this one takes, where it trains alike."""
    alone: bool = False
    """Whether it begins with random weights, and has the FLOPs of the shared classifier for itself."""


PLAIN = ("method.mode=baseline", "method.freeze_norm=false")
"""No patches, batch norm at work, as one trains a classifier."""


START = Arm(PLAIN, alone=True)
"""The classifier that all arms continue from."""


def arms(knobs: Knobs) -> dict[str, Arm]:
    """Every arm by name, in the order in which they are best run."""
    singles = {
        f"single_{position}": Arm(("method.mode=single", f"method.positions=[{position}]"))
        for position in knobs.positions
    }
    return {
        "plain": Arm(PLAIN),
        "ppl": Arm(anchor=True),
        "ppl_norm": Arm(("method.freeze_norm=false",), anchor=True),
        "epl": Arm(("method.mode=epl",)),
        **singles,
        "plain_once": Arm(PLAIN, alone=True),
        "plain_long": Arm(PLAIN, longer=2.0, like="plain"),
        "plain_frozen": Arm(("method.mode=baseline",)),
        "layercam": Arm(PLAIN, maps="layers", like="plain"),
        "ppl_interleaved": Arm(("method.schedule=interleaved",)),
        "cutmix": Arm(PLAIN, kind="cutmix"),
        "puzzle": Arm(PLAIN, kind="puzzle"),
    }


def with_cutmix(recipe: PplRecipe, p: float) -> CutMixRecipe:
    """The same pictures, network, optimiser and length, trained by the method `cutmix`."""
    shared = {name: getattr(recipe, name) for name in ("data", "model", "optim", "train", "evaluate")}
    return CutMixRecipe(recipe="cutmix/demo", method=CutMixFields(loss="bce", p=p), **shared)


@dataclass(frozen=True)
class Cost:
    """One stage: FLOPs and seconds of a step, and steps of a pass over the training pictures."""

    flops: float
    seconds: float
    steps_per_epoch: int
    turns: int = 1


def total(costs: Mapping[str, Cost], steps: Mapping[str, int]) -> float:
    """FLOPs of all steps of all stages."""
    return sum(costs[name].flops * count for name, count in steps.items())


def epochs_left(cost: Cost, flops: float) -> float:
    """Passes of a stage that come nearest to so many FLOPs, whole steps of every turn, one at least."""
    steps = max(1, round(flops / (cost.flops * cost.turns)))
    return steps / (cost.steps_per_epoch // cost.turns)


@dataclass(frozen=True)
class Trained:
    """A finished training."""

    method: Method
    recipe: Recipe
    flops: float
    stages: list[dict[str, Any]]


class Study:
    """The pictures, the device and the arms of one source; costs are counted once, when first asked for."""

    def __init__(self, knobs: Knobs, runs: Path, *, threads: int = 0, quiet: bool = False) -> None:
        self.knobs, self.runs = knobs, runs
        self.base = knobs.base(threads)
        self.arms = arms(knobs)
        self.runtime = start(self.base.train)
        self.source = open_source(self.base.data.source)
        self.data = PictureData(self.source, self.base.data, device=self.runtime.device)
        self.facts = DataFacts.of(self.source)
        self.progress = Progress(quiet=quiet)
        self._costs: dict[tuple[object, ...], dict[str, Cost]] = {}

    def close(self) -> None:
        """Stop the decoding threads and the progress line."""
        self.data.close()
        self.progress.close()

    # -- lengths ---------------------------------------------------------------------------------------------------------

    def lengths(self, arm: Arm) -> tuple[float, ...]:
        """What an arm chooses among, in budgets."""
        return tuple(arm.longer * length for length in self.knobs.lengths)

    def scaled(self, arm: Arm, length: float) -> PplRecipe:
        """The arm's settings with every stage `length` times as long; FLOPs are not looked at."""
        base = self.base
        settings = [
            f"train.epochs={length * base.train.epochs}",
            f"method.later_epochs={length * base.method.later_epochs}",
        ]
        return override(base, [*settings, *arm.settings])

    def recipe(self, arm: Arm, length: float, rate: float, seed: int) -> PplRecipe:
        """The arm at a multiple of the recipe's rate, as long as the FLOPs allow."""
        own = [f"train.seed={seed}", f"optim.lr={rate * self.base.optim.lr!r}"]
        recipe = override(self.scaled(arm, length), own)
        if arm.anchor:
            return recipe
        (cost,) = self.costs(arm).values()
        return override(recipe, [f"train.epochs={epochs_left(cost, self.asked(arm, length))!r}"])

    @cached_property
    def start_flops(self) -> float:
        """What the classifier that all continue from costs."""
        (cost,) = self.costs(START).values()
        return cost.flops * round(self.knobs.start_epochs * cost.steps_per_epoch)

    def budget(self, length: float) -> float:
        """FLOPs of the arm `ppl` at a length."""
        anchor = self.anchor
        return total(self.costs(anchor), self.steps(anchor, self.scaled(anchor, length)))

    def asked(self, arm: Arm, length: float) -> float:
        """FLOPs that an arm is to take."""
        return self.budget(length) + (self.start_flops if arm.alone else 0.0)

    @cached_property
    def anchor(self) -> Arm:
        """The arm whose cost is the budget."""
        return next(arm for arm in self.arms.values() if arm.anchor)

    def steps(self, arm: Arm, recipe: PplRecipe) -> dict[str, int]:
        """Steps of every stage of a recipe, in order."""
        method = self.method(arm, recipe)
        with tempfile.TemporaryDirectory() as scratch:
            stages = method.stages(self.data, self.job(method.recipe, Path(scratch)))
        return {stage.name: stage.steps for stage in stages if isinstance(stage, TrainStage)}

    def costs(self, arm: Arm) -> dict[str, Cost]:
        """The cost of a real step of every stage; the steps are thrown away."""
        key = (arm.settings, arm.kind)
        if key not in self._costs:
            method = self.method(arm, self.scaled(arm, 1.0))
            with tempfile.TemporaryDirectory() as scratch:
                job = self.job(method.recipe, Path(scratch))
                stages = [stage for stage in method.stages(self.data, job) if isinstance(stage, TrainStage)]
                self._costs[key] = {stage.name: step_cost(stage, job) for stage in stages}
        return self._costs[key]

    # -- training --------------------------------------------------------------------------------------------------------

    def method(self, arm: Arm, recipe: PplRecipe) -> Method:
        """The arm's networks, random by the recipe's seed; arms with the same backbone begin with the same weights."""
        torch.manual_seed(draws.derive(recipe.train.seed, "networks"))
        makers: dict[str, Callable[[], Method]] = {
            "ppl": lambda: PplMethod(recipe, self.facts),
            "puzzle": lambda: PuzzleCam(recipe, self.facts),
            "cutmix": lambda: CutMixMethod(with_cutmix(recipe, self.knobs.cutmix_p), self.facts),
        }
        method = makers[arm.kind]()
        method.to(self.runtime.device)
        return method

    def job(self, recipe: Recipe, folder: Path) -> Job:
        """What the loop needs, in a folder."""
        run = RunFolder(folder)
        return Job(recipe, run, self.runtime, self.progress, Tracker(run, self.progress, leads=True))

    def train(self, arm: Arm, length: float, rate: float, seed: int) -> Trained:
        """The arm trained, continued from wherever its folder stands; arms that train alike share a folder."""
        recipe = self.recipe(arm, length, rate, seed)
        method = self.method(arm, recipe)
        if not arm.alone:
            begin_with(method, self.start(seed))
        reports = self._run(method, f"{arm.kind}_{length:g}_seed{seed}")
        costs = self.costs(arm)
        flops = total(costs, {report["name"]: report["steps"] for report in reports})
        stages = [dict(report, epochs=report["steps"] / costs[report["name"]].steps_per_epoch) for report in reports]
        return Trained(method, method.recipe, flops, stages)

    def start(self, seed: int) -> PatchLearning:
        """The classifier of a seed that all arms continue from."""
        recipe = override(self.scaled(START, 1.0), [f"train.seed={seed}", f"train.epochs={self.knobs.start_epochs}"])
        method = self.method(START, recipe)
        self._run(method, f"start_seed{seed}")
        assert isinstance(method, PplMethod)
        return method.classifier

    def _run(self, method: Method, name: str) -> list[dict[str, Any]]:
        """A method's stages, in a folder that belongs to its recipe."""
        known = hashlib.blake2b(to_yaml(method.recipe).encode(), digest_size=6).hexdigest()
        job = self.job(method.recipe, self.runs / f"{name}_{known}")
        with job.folder.lock():
            reports = run_stages(method.stages(self.data, job), job)
        method.eval()
        return reports


def begin_with(method: Method, start: PatchLearning) -> None:
    """Give a method the weights of a plain classifier, shared out evenly among the branches it has."""
    weight = start.weight()[:, :, None, None]
    with torch.no_grad():
        if isinstance(method, CutMixMethod):
            method.network.backbone.load_state_dict(start.backbone.state_dict())
            method.network.fc.weight.copy_(weight[:, :, 0, 0])
            method.network.fc.bias.zero_()
            return
        assert isinstance(method, PplMethod)
        network = method.classifier
        network.backbone.load_state_dict(start.backbone.state_dict())
        branches = network.num_patch_branches + 1
        network.classifier.weight.copy_(weight.repeat(1, branches, 1, 1) / branches)


def step_cost(stage: TrainStage, job: Job) -> Cost:
    """FLOPs counted over, and seconds taken by, a step of every turn of a stage, behind a step to warm up."""
    turns = getattr(stage, "turns", 1)
    steps = first_steps(stage, job, 1 + 2 * turns)
    next(steps)
    begun = time.perf_counter()
    for _ in range(turns):
        next(steps)
    seconds = (time.perf_counter() - begun) / turns
    with FlopCounterMode(display=False) as counter:
        for _ in range(turns):
            next(steps)
    steps.close()
    return Cost(counter.get_total_flops() / turns, seconds, stage.steps_per_epoch, turns)
