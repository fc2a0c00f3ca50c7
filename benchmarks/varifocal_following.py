"""What becomes of the second network's answers when its boxes follow it for one pass, by every rule and at two rates.

    python benchmarks/varifocal_following.py --run runs/varifocal/varifocal_cells_varifocal_seed0

Takes the networks of a finished run of `varifocal/cells-small`, whose boxes are as taught, and lets the locator alone learn
through the frozen second network. Local answers on validation before and after, and where the boxes went.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from partwise.config import override
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job, first_steps
from partwise.engine.runtime import Runtime, start
from partwise.engine.tracking import Progress, Tracker
from partwise.measure import measure
from partwise.methods.base import DataFacts
from partwise.methods.trained import load_trained
from partwise.methods.varifocal.learning import LearnLocal
from partwise.methods.varifocal.method import VarifocalMethod
from partwise.models.varifocal import VarifocalNet
from partwise.run import RunFolder
from record import write_result

TRIED = {
    "boxcar, 1e-5": ("boxcar", True, 1e-5),
    "boxcar, 1e-4": ("boxcar", True, 1e-4),
    "boxcar as it is, 1e-4": ("boxcar", False, 1e-4),
    "bands, 1e-5": ("bands", True, 1e-5),
    "bands, 1e-4": ("bands", True, 1e-4),
    "autograd, 1e-4": ("autograd", True, 1e-4),
}


class Following(LearnLocal):
    """A pass that is the locator's alone."""

    def locates(self, step: int) -> bool:
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/varifocal/varifocal_cells_varifocal_seed0"))
    options = parser.parse_args()
    trained = load_trained(options.run)
    runtime = start(override(trained.recipe, ["train.threads=0"]).train)
    source = open_source(trained.recipe.data.source)
    data = PictureData(source, trained.recipe.data, device=runtime.device)
    data.prepare()
    progress = Progress(quiet=True)
    found: dict[str, Any] = {}
    for name, (rule, normalise, rate) in TRIED.items():
        recipe = override(
            trained.recipe,
            [
                "train.threads=0",
                "method.follow=true",
                f"method.rule={rule}",
                f"method.normalise={normalise}",
                f"method.follow_optim.lr={rate}",
                "method.follow_optim.schedule=constant",
            ],
        )
        method = VarifocalMethod(recipe, DataFacts.of(source))
        method.load(trained.method.networks())
        method.answerer = "local"
        with tempfile.TemporaryDirectory() as scratch:
            folder = RunFolder(Path(scratch))
            job = Job(recipe, folder, runtime, progress, Tracker(folder, progress, leads=True))
            stage = Following(method, data, job, epochs=1)
            if "before" not in found:
                found["before"] = look(method, data, runtime)
            for _ in first_steps(stage, job, stage.steps_per_epoch):
                pass
            found[name] = look(method, data, runtime)
        print(name, found[name], flush=True)
    data.close()
    write_result("varifocal_following", f"python benchmarks/varifocal_following.py --run {options.run}", found)


def look(method: VarifocalMethod, data: PictureData, runtime: Runtime) -> dict[str, Any]:
    """How many validation pictures the second network names right, and where its boxes are."""
    method.eval()
    found = measure(method, data, method.recipe, "val", ("karyotype",), runtime=runtime, progress=None)
    return {"type_top1": found.metrics["karyotype/type_top1"], "mean_u": mean_box(method, data)}


@torch.inference_mode()
def mean_box(method: VarifocalMethod, data: PictureData) -> list[float]:
    """The mean of u, which ops/varifocal.py explains, over 512 validation pictures."""
    net = method.network
    assert isinstance(net, VarifocalNet)
    images = data.pictures(data.splits["val"][:512]).float() / 255
    u = net.locate(net.global_net.features(net.standardise(images)))
    assert u is not None
    return [round(value, 3) for value in u.mean(0).tolist()]


if __name__ == "__main__":
    main()
