"""What parts and wholes add: `adam_v2/demo` beside its first phase alone, for as many FLOPs.

    python benchmarks/part_whole.py [--seeds 0 1 2] [--arms parts places] [--threads N]

`parts` is the recipe. `places` spends the FLOPs of the second phase on the first one, at the same levels; afterwards heads that
compose and decompose are fitted to its encoder, which stays as it is, for as many steps as in the recipe, so that their numbers
can be compared too. FLOPs are those of the encoder: pixels of all views, three times where there is a way back. Both are
measured once on the test split. A JSON in `results/` for each arm and seed; those that are there are not repeated.
"""

from __future__ import annotations

import argparse
import copy
import json
import time
from pathlib import Path
from typing import Any

import torch

from partwise.config import Recipe
from partwise.data.anatomy_views import ViewTable, localizability_views, part_whole_views
from partwise.data.loading import PictureData
from partwise.data.sources import open_source
from partwise.engine.loop import Job, run_stages
from partwise.engine.runtime import catch_signals, start
from partwise.engine.tracking import Progress, Tracker
from partwise.measure import measure
from partwise.methods.adam_v2.config import AdamFields, AdamRecipe
from partwise.methods.adam_v2.method import AdamMethod
from partwise.methods.base import DataFacts
from partwise.methods.recipes import resolve
from partwise.ops import draws
from partwise.run import RunFolder
from record import REPOSITORY, write_result

RECIPE = "adam_v2/demo"
ARMS = ("parts", "places")
SCRIPT = "python benchmarks/part_whole.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--runs", type=Path, default=Path("runs/part_whole"))
    options = parser.parse_args()
    for seed in options.seeds:
        for arm in options.arms:
            name = f"part_whole_{arm}_seed{seed}"
            if not (REPOSITORY / "results" / f"{name}.json").exists():
                values = measured(arm, seed, options.threads, options.runs / f"{arm}_seed{seed}")
                write_result(name, f"{SCRIPT} --arms {arm} --seeds {seed}", values)
                print(
                    name,
                    {k: round(v, 4) for k, v in values["metrics"].items() if "margin" in k or "top1" in k},
                    flush=True,
                )


def measured(arm: str, seed: int, threads: int, path: Path) -> dict[str, Any]:
    """Train an arm from where it was and measure it."""
    settings = [f"train.seed={seed}", f"train.threads={threads}", "evaluate.every=0"]
    recipe = resolve(RECIPE, settings=settings)[0]
    assert isinstance(recipe, AdamRecipe)
    if arm == "places":
        epochs = json.dumps(equal_flops(recipe.method))
        recipe = resolve(recipe, settings=[f"method.localize_epochs={epochs}", "method.part_whole_epochs=[]"])[0]
    begun = time.monotonic()
    runtime, progress, folder = start(recipe.train), Progress(), RunFolder(path)
    path.mkdir(parents=True, exist_ok=True)
    source = open_source(recipe.data.source)
    data = PictureData(source, recipe.data, device=runtime.device)
    try:
        torch.manual_seed(draws.derive(seed, "networks"))
        method = AdamMethod(recipe, DataFacts.of(source))
        method.to(runtime.device)
        job = Job(recipe, folder, runtime, progress, Tracker(folder, progress, leads=True))
        with catch_signals(runtime.interruption), folder.lock():
            reports = run_stages(method.stages(data, job), job)
        if arm == "places":
            fit_heads(method, data, job)
        method.eval()
        found = measure(method, data, recipe, "test", recipe.evaluate.suites, runtime=runtime, progress=None)
    finally:
        data.close()
        progress.close()
    return {
        "arm": arm,
        "seed": seed,
        "metrics": found.metrics,
        "stages": reports,
        "flops_relative": flops(recipe),
        "localize_epochs": list(recipe.method.localize_epochs),
        "seconds_with_measuring": round(time.monotonic() - begun, 1),
    }


def cost(table: ViewTable, taught: set[str]) -> int:
    """Pixels of the views: three times for the student, who sees all and learns, once for those that the teacher sees."""
    pixels = {kind.name: kind.size**2 for kind in table.views}
    return 3 * sum(pixels.values()) + sum(size for name, size in pixels.items() if name in taught)


def cost_of_a_pass(fields: AdamFields) -> tuple[int, int]:
    """Of the first and of the second phase."""
    first = localizability_views(fields.view_size, fields.local_size)
    second = part_whole_views(fields.view_size, fields.local_size, fields.num_parts)
    return cost(first, {"g1", "g2"}), cost(second, {"w0", *(f"p{n + 1}" for n in range(fields.num_parts))})


def equal_flops(fields: AdamFields) -> list[float]:
    """Passes of the first phase alone, a level each, that cost what both phases do."""
    first, second = cost_of_a_pass(fields)
    return [
        round(one + two * second / first, 2)
        for one, two in zip(fields.localize_epochs, fields.part_whole_epochs, strict=True)
    ]


def flops(recipe: Recipe) -> float:
    """Of a whole training, in passes of the first phase."""
    assert isinstance(recipe, AdamRecipe)
    first, second = cost_of_a_pass(recipe.method)
    return round(sum(recipe.method.localize_epochs) + sum(recipe.method.part_whole_epochs) * second / first, 2)


def fit_heads(method: AdamMethod, data: PictureData, job: Job) -> None:
    """Heads for parts on an encoder that stays as it is, statistics of batches too."""
    kept = copy.deepcopy(method.encoder.state_dict())
    frozen = {"localize_epochs": [], "part_whole_epochs": [5.0, 15.0], "localize_weight": 0.0, "momentum": 1.0}
    settings = [f"method.{name}={value}" for name, value in frozen.items()]
    recipe = resolve(job.recipe, settings=settings)[0]
    assert isinstance(recipe, AdamRecipe)
    job.recipe, method.fields, method.num_parts = recipe, recipe.method, recipe.method.num_parts
    method.student.load_state_dict(kept)
    for network in (method.student, method.student_head):
        network.requires_grad_(False)
    with job.folder.lock():
        run_stages(method.stages(data, job), job)
    method.encoder.load_state_dict(kept)


if __name__ == "__main__":
    main()
