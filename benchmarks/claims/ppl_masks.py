"""What pseudo masks are worth: the segmentation network on pseudo masks, on true masks, and on a few true masks.

    python benchmarks/claims/ppl_masks.py [--seeds 0 1 2] [--threads 1]              (creatures, the recipe ppl/demo)
    python benchmarks/claims/ppl_masks.py --source voc3 --data DIR                   (DIR: where make_voc_layout.py wrote)

A unit is a seed: a run of the whole recipe from image labels to network, then the same network (same start: the run's
classifier; same steps, rates, pictures' order and scales) trained on the true masks of all training pictures, and on those
of FEW: what an hour of drawing gives at the 239.7 s that a picture of PASCAL VOC takes (Bearman et al. 2016, "What's the
Point"). It leaves results/claims/ppl_masks/SOURCE_seedN.json and is not repeated where that exists. Aimed at: mIoU on pseudo
masks at least 0.90 of that on true ones.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partwise import api
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job, run_stages
from partwise.engine.runtime import Runtime, start
from partwise.engine.stages import Products
from partwise.engine.tracking import Progress, Tracker
from partwise.measure import measure
from partwise.methods.ppl.method import PplMethod
from partwise.methods.ppl.segmenting import LearnMasks
from partwise.methods.trained import TrainedRun, load_trained
from partwise.ops import draws
from partwise.run import RunFolder
from record import REPOSITORY, write_result

SCRIPT = "python benchmarks/claims/ppl_masks.py"
UNITS = REPOSITORY / "results" / "claims" / "ppl_masks"
RECIPES = {"creatures": ("ppl/demo", None), "voc3": ("ppl/horses", "voc:{data}?classes=present")}
FEW = 15
ASKED = 0.90
MIOU = "segmentation/miou"


class LearnTrueMasks(LearnMasks):
    """The stage `segmentation` on masks that people drew."""

    def __init__(self, name: str, method: PplMethod, data: PictureData, job: Job, steps: int) -> None:
        super().__init__(method, data, job)
        self.name, self.steps = name, steps
        self.places = {record.id: index for index, record in enumerate(data.source.records)}

    def prepare(self, products: Products) -> None:
        self.method.segmenter.backbone.load_state_dict(self.method.classifier.backbone.state_dict())

    def labels(self, item: str) -> Tensor:
        mask = self.data.source.load(self.places[item]).mask
        assert mask is not None, f"{item} has no mask"
        return mask


def main() -> None:
    options = arguments()
    recipe, data = RECIPES[options.source]
    for seed in options.seeds:
        path = UNITS / f"{options.source}_seed{seed}.json"
        if path.exists():
            continue
        begun = time.monotonic()
        settings = [f"train.seed={seed}"]
        if options.threads:
            settings += [f"train.threads={options.threads}", f"data.threads={options.threads}"]
        run = options.runs / f"{options.source}_seed{seed}"
        api.train(recipe, data=data and data.format(data=options.data), out=run / "pseudo", settings=settings)
        trained = load_trained(run / "pseudo")
        values = {"seed": seed, "pseudo": trained.summary["metrics"]} | {
            name: on_true_masks(trained, run / name, name, limit) for name, limit in (("true", None), ("few", FEW))
        }
        values["share_of_true"] = values["pseudo"][MIOU] / values["true"][MIOU]
        command = f"{SCRIPT} --source {options.source} --seeds {seed}" + (" --data DIR" if data else "")
        write_result(path.stem, command, values | {"unit_seconds": round(time.monotonic() - begun)}, UNITS)
    summarise(options.source)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=list(RECIPES), default="creatures")
    parser.add_argument("--data", default="data/wsss_voc3", help="the folder of VOCdevkit, for --source voc3")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=0, help="of torch and of the loader; 0: their own choice")
    parser.add_argument("--runs", type=Path, default=Path("runs/claims/ppl_masks"))
    return parser.parse_args()


def on_true_masks(trained: TrainedRun, folder: Path, name: str, limit: int | None) -> dict[str, float]:
    """mIoU on the test split of the same network trained on true masks; continues where its folder stands."""
    recipe = trained.recipe
    runtime: Runtime = start(recipe.train)
    source = open_source(recipe.data.source)
    data = PictureData(source, recipe.data.model_copy(update={"train_limit": limit}), device=runtime.device)
    torch.manual_seed(draws.derive(recipe.train.seed, "networks"))
    method = PplMethod(trained.method.recipe, trained.method.facts)
    method.classifier.load_state_dict(trained.method.networks()["classifier"].state_dict())
    method.to(runtime.device)
    progress, run = Progress(), RunFolder(folder)
    job = Job(recipe, run, runtime, progress, Tracker(run, progress, leads=True))
    steps = next(stage["steps"] for stage in trained.summary["stages"] if stage["name"] == "segmentation")
    try:
        with run.lock():
            run_stages([LearnTrueMasks(f"segmentation_{name}", method, data, job, steps)], job)
        method.eval()
        found = measure(method, data, recipe, "test", ("segmentation",), runtime=runtime, progress=progress)
    finally:
        data.close()
        progress.close()
    return {MIOU: found.metrics[MIOU]}


def summarise(source: str) -> None:
    """The ratio over the seeds, printed and written."""
    units = [json.loads(path.read_text())["values"] for path in sorted(UNITS.glob(f"{source}_seed*.json"))]
    if not units:
        return
    mious: dict[str, Any] = {name: [unit[name][MIOU] for unit in units] for name in ("pseudo", "true", "few")}
    share = statistics.fmean(unit["share_of_true"] for unit in units)
    kept = ("segmentation/cam_miou", "segmentation/pseudo_miou")
    values = {
        "seeds": [unit["seed"] for unit in units],
        "miou_of_network_on": mious,
        "of_pseudo_runs": {name: [unit["pseudo"][name] for unit in units] for name in kept},
        "pseudo over true": {"share": round(share, 4), "asked": ASKED},
        "few_masks": FEW,
    }
    print(json.dumps(values, indent=1))
    print(write_result(f"claims_ppl_masks_{source}", f"{SCRIPT} --source {source}", values))


if __name__ == "__main__":
    main()
