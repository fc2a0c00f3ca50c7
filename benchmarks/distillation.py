"""A step of distillation against the published loop written out, and the memory of trajectory matching.

    python benchmarks/distillation.py [--data SOURCE] [--repeats 5] [--parts dm dsa memory cosine]
    python benchmarks/distillation.py --quick               (tiny networks and pictures, generated; no results)

CIFAR-10's size: 10 pictures a class, 256 real ones a class and step, a 128-wide ConvNet, all threads, with mirror images.
The rival goes class by class, with plain layers in the usual layout, as a reader of the papers would write it. Both
compute the same loss from the same pictures, networks and augmentation, which is checked before anything is timed.

`dm`, `dsa`: seconds a step, median of the repeats, taken in turns; of `dm` also with the real pictures' features in bfloat16.
`memory`: the peak of a process that takes a step of trajectory matching with 5 and with 50 student steps, less what it has
before. `cosine`: between the full gradient and the one of constant memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from partwise.data.loading import PictureData
from partwise.data.siamese import augment
from partwise.data.sources import open_source
from partwise.engine.loop import Job
from partwise.engine.runtime import start
from partwise.engine.tracking import Progress, Tracker
from partwise.evaluate.fresh_networks import fresh_network
from partwise.methods.base import DataFacts
from partwise.methods.fyi.features import MatchFeatures
from partwise.methods.fyi.gradients import MatchGradients
from partwise.methods.fyi.learning import Distil
from partwise.methods.fyi.method import FyiMethod
from partwise.methods.recipes import resolve
from partwise.ops import draws
from partwise.ops.flips import flip_pairs
from partwise.ops.trajectory import draw_batches, match_trajectory, network_loss
from partwise.run import RunFolder
from record import write_result

SCRIPT = "python benchmarks/distillation.py"
RECIPES = {"dm": "fyi/cifar10-dm-ipc10", "dsa": "fyi/cifar10-dsa-ipc10"}
QUICK = (
    "data.source=creatures:?size=32&classes=10&train=200&val=10&test=40",
    "method.real_batch=8",
    "method.images_per_class=2",
    "model.arguments.width=8",
)
AGREEMENT, SLOPES = 1e-5, 5e-3
"""Largest relative differences of losses and gradients in float32: a rounding beside a ReLU's corner moves single gradients."""
ASKED = {"dm": 2.0, "dm bf16": 3.0, "dsa": 1.3}


def main() -> None:
    options = arguments()
    if options.child:
        child(options)
        return
    parts: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
        "dm": dm, "dsa": dsa, "memory": memory, "cosine": cosine
    }  # fmt: skip
    for part in options.parts:
        values = parts[part](options)
        print(part, json.dumps(values), flush=True)
        if not options.quick:
            write_result(f"distillation_{part}", f"{SCRIPT} --parts {part}", values)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10:../shared/data/cifar10")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--parts", nargs="+", choices=("dm", "dsa", "memory", "cosine"), default=["dm", "dsa", "memory", "cosine"]
    )
    parser.add_argument("--no-compile", action="store_true", help="ours without torch.compile")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, generated pictures; no results")
    parser.add_argument("--child", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--grad", choices=("full", "tesla"), default="tesla", help=argparse.SUPPRESS)
    return parser.parse_args()


# -- steps -------------------------------------------------------------------------------------------------------------


class Setting:
    """A stage of a recipe, ready to take steps, in a folder that goes with it."""

    def __init__(self, recipe: str, options: argparse.Namespace, *more: str) -> None:
        settings = [f"train.compile={str(not options.no_compile).lower()}", *(QUICK if options.quick else ()), *more]
        found, _ = resolve(recipe, data=None if options.quick else options.data, settings=settings)
        source = open_source(found.data.source)
        data = PictureData(source, found.data)
        data.prepare()
        torch.manual_seed(draws.derive(found.train.seed, "networks"))
        method = FyiMethod(found, DataFacts.of(source))
        self.scratch = tempfile.TemporaryDirectory()
        folder, progress = RunFolder(self.scratch.name), Progress(quiet=True)
        job = Job(found, folder, start(found.train), progress, Tracker(folder, progress, leads=True))
        self.stage: Distil = next(s for s in method.stages(data, job) if isinstance(s, Distil))
        self.stage.prepare(job.products)
        self.optimizer = self.stage.plans()["pictures"].optimizer

    def plain_network(self, step: int) -> nn.Module:
        """The network of a step as the rival has it: built anew, in the usual layout."""
        stage = self.stage
        return fresh_network(
            stage.recipe.model.backbone,
            stage.recipe.model.arguments,
            num_classes=stage.num_classes,
            size=stage.recipe.data.size,
            channels=3,
            seed=draws.derive(stage.seed, stage.name, "network", step),
        )

    def pairs(self, images: Tensor, k: int) -> Tensor:
        """The pictures of a class and their mirror images."""
        own = images[k * self.stage.set.per_class : (k + 1) * self.stage.set.per_class]
        return torch.cat([own, own.flip(3)])

    def real(self, k: int, *key: int) -> Tensor:
        """The real pictures of a class, normalised."""
        stage = self.stage
        places = stage.real.draw(stage.fields.real_batch, range(k, k + 1), stage.seed, stage.name, "real", *key)
        return stage.real.seen(places)[0]


def rival_dm(setting: Setting, step: int) -> tuple[Tensor, Tensor]:
    """The published loop of DM with FYI: loss and gradient of the pictures."""
    network = setting.plain_network(step).train()
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    images = setting.stage.set.images.detach().clone().requires_grad_()
    every, total = setting.stage.draw(step), torch.zeros(())
    for k in range(setting.stage.num_classes):
        row = every.slice(k, k + 1)
        with torch.no_grad():
            wanted = network.embed(augment(setting.real(k, step), row)).mean(0)  # type: ignore[operator]
        found = network.embed(augment(setting.pairs(images, k), row)).mean(0)  # type: ignore[operator]
        total = total + (wanted - found).square().sum()
    total.backward()
    assert images.grad is not None
    return total.detach(), images.grad


def rival_distance(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    """DC's distance, parameter by parameter."""
    total = torch.zeros(())
    for own, other in zip(found, wanted, strict=True):
        if own.ndim > 1:
            a, b = own.flatten(1), other.flatten(1)
            total = total + (1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1) + 1e-6)).sum()
    return total


def rival_dsa(setting: Setting, step: int) -> tuple[Tensor, Tensor]:
    """The published loop of DSA with FYI, one step of the pictures: loss and gradient."""
    network = setting.plain_network(step).train()
    parameters = list(network.parameters())
    images = setting.stage.set.images.detach().clone().requires_grad_()
    every, total = setting.stage.draw(step, 0), torch.zeros(())
    for k in range(setting.stage.num_classes):
        row = every.slice(k, k + 1)
        real, own = augment(setting.real(k, step, 0), row), augment(setting.pairs(images, k), row)
        loss = F.cross_entropy(network(real), torch.full((len(real),), k))
        wanted = [slope.detach() for slope in torch.autograd.grad(loss, parameters)]
        loss = F.cross_entropy(network(own), torch.full((len(own),), k))
        found = torch.autograd.grad(loss, parameters, create_graph=True)
        total = total + rival_distance(list(found), wanted)
    total.backward()
    assert images.grad is not None
    return total.detach(), images.grad


def ours(setting: Setting, step: int) -> tuple[Tensor, Tensor]:
    """One step of the stage with the pictures left where they are: loss and gradient."""
    stage = setting.stage
    stage.set.images.grad = None
    if isinstance(stage, MatchFeatures):
        network = stage.fresh(step)
        total = stage.distance(network, step)
    else:
        assert isinstance(stage, MatchGradients)
        total = stage.distance(stage.fresh(step).train(), step, 0)
    assert stage.set.images.grad is not None
    return total, stage.set.images.grad


Step = Callable[[Setting, int], tuple[Tensor, Tensor]]


def compared(
    rival: Step, setting: Setting, options: argparse.Namespace, *, tolerance: float, slopes: float = SLOPES
) -> dict[str, Any]:
    """That both agree, and what each takes: in turns, the first step of each aside, which compiles."""
    (loss, slope), (own_loss, own_slope) = rival(setting, 0), ours(setting, 0)
    loss_error = float((own_loss - loss).abs() / loss.abs())
    slope_error = float((own_slope - slope).norm() / slope.norm())
    if loss_error > tolerance or slope_error > slopes:
        sys.exit(f"the two do not agree: loss {loss_error:.1e}, gradient {slope_error:.1e}")
    seconds: dict[str, list[float]] = {"rival": [], "ours": []}
    for step in range(1, 1 + (1 if options.quick else options.repeats)):
        for name, take in (("rival", rival), ("ours", ours)):
            begun = time.perf_counter()
            take(setting, step)
            seconds[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    return {
        "rival_seconds": seconds["rival"],
        "ours_seconds": seconds["ours"],
        "times_as_fast": medians["rival"] / medians["ours"],
        "loss_error": loss_error,
        "gradient_error": slope_error,
    }


def dm(options: argparse.Namespace) -> dict[str, Any]:
    """DM with FYI, in float32 and with the real pictures in bfloat16."""
    found = {"fp32": compared(rival_dm, Setting(RECIPES["dm"], options), options, tolerance=AGREEMENT)}
    half = Setting(RECIPES["dm"], options, "method.real_precision=bf16")
    found["bf16"] = compared(rival_dm, half, options, tolerance=0.05, slopes=0.3)
    return found | {"asked": {"fp32": ASKED["dm"], "bf16": ASKED["dm bf16"]}}


def dsa(options: argparse.Namespace) -> dict[str, Any]:
    """DSA with FYI, one step of the pictures, by each way to the gradients."""
    found: dict[str, Any] = {}
    for how in ("loop", "grouped", "vmap"):
        setting = Setting(RECIPES["dsa"], options, f"method.gradients={how}")
        found[how] = compared(rival_dsa, setting, options, tolerance=10 * AGREEMENT)  # cosines of float32 gradients
    return found | {"asked": ASKED["dsa"]}


# -- trajectory matching -------------------------------------------------------------------------------------------------


def trajectory(options: argparse.Namespace, steps: int, grad: str) -> tuple[Tensor, float]:
    """The gradient of one step at CIFAR-10's size from random weights to others, and the peak beyond the start, MiB."""
    width, count = (8, 20) if options.quick else (128, 100)
    ends = [
        fresh_network("convnet-d3", {"width": width}, num_classes=10, size=32, channels=3, seed=seed) for seed in (0, 1)
    ]
    first, second = ({name: value.detach() for name, value in end.named_parameters()} for end in ends)
    target = {name: 0.99 * first[name] + 0.01 * second[name] for name in first}
    images = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(count) % 10

    def take(number: int) -> Tensor:
        return match_trajectory(
            first,
            target,
            images,
            labels,
            draw_batches(count, 0, "memory", batch=count // 2, steps=number),
            loss=network_loss(ends[0]),
            beta=torch.tensor(0.01),
            grad=grad,  # type: ignore[arg-type]
            pair=flip_pairs,
        ).images_grad

    before = _peak()
    slope = take(steps)
    return slope, _peak() - before


def _peak() -> float:
    """The most memory that this process has had, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(options: argparse.Namespace) -> None:
    """A process of its own: its peak is that of one number of steps."""
    _, peak = trajectory(options, options.child, options.grad)
    print(json.dumps({"peak": peak}))


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """MiB at 5 and at 50 student steps; the full gradient at 5 and 10 beside it."""
    found: dict[str, Any] = {}
    for grad, few, many in (("tesla", 5, 50), ("full", 5, 10)):
        peaks = []
        for steps in (few, many):
            words = [sys.executable, __file__, "--child", str(steps), "--grad", grad]
            words += ["--quick"] if options.quick else []
            done = subprocess.run(words, check=True, capture_output=True, text=True)
            peaks.append(json.loads(done.stdout.splitlines()[-1])["peak"])
        found[grad] = {"steps": [few, many], "mib": peaks, "ratio": max(peaks[1], 1.0) / max(peaks[0], 1.0)}
    return found | {"asked": {"tesla ratio at most": 1.2}}


def cosine(options: argparse.Namespace) -> dict[str, Any]:
    """How far the two gradients point the same way."""
    found = {}
    for steps in (1, 5) if options.quick else (1, 5, 10):
        full, short = (trajectory(options, steps, grad)[0].flatten() for grad in ("full", "tesla"))
        found[str(steps)] = float(F.cosine_similarity(full, short, dim=0))
    return found


if __name__ == "__main__":
    main()
