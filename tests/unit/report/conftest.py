"""Run folders as training leaves them, small: written through RunFolder, so that its layout is the one that is tested."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from partwise.report.figures import encode_png
from partwise.run import RunFolder

METRICS = {"classification/top1": 0.9125, "classification/nll": 0.41, "localization/gt_known": 0.55}


def write_run(
    path: Path,
    *,
    seed: int = 0,
    metrics: Mapping[str, Any] | None = None,
    changes: Mapping[str, tuple[object, object]] | None = None,
    status: str = "finished",
    pictures: int = 2,
    logged: bool = False,
    **summary: Any,
) -> Path:
    """A run of `cutmix/demo`, with lines in metrics.jsonl where `logged`; further keywords replace entries of its summary."""
    folder = RunFolder(path)
    path.mkdir(parents=True)
    folder.recipe.write_text(f"recipe: cutmix/demo\ndata:\n  source: 'creatures:'\ntrain:\n  seed: {seed}\n")
    folder.write_changes(dict(changes or {}))
    folder.write_environment(
        {"torch": "2.14.1", "device": {"type": "cpu", "processes": 1}, "command": "partwise train"}
    )
    values = METRICS if metrics is None else metrics
    for step in range(0, 50, 10) if logged else ():
        folder.append_metrics({"kind": "step", "stage": "train", "step": step, "loss": 2.0 - step / 50, "lr": 0.1})
    for step in (20, 40) if logged else ():
        found = {"classification/top1": step / 50, "classification/nll": 1.0}
        folder.append_metrics({"kind": "evaluation", "stage": "train", "step": step, "split": "val", "metrics": found})
    whole = {
        "recipe": "cutmix/demo",
        "method": "cutmix",
        "status": status,
        "seed": seed,
        "metrics": values,
        "detail": {name: {"split": "test", "n": 2000, "weights": "last"} for name in values},
        "stages": [{"name": "train", "steps": 50, "seconds": 75.2, "images_per_second": 640.4}],
        "paper": [],
        "faults": {},
    }
    folder.write_summary(whole | summary)
    colours = np.random.default_rng(seed).integers(0, 256, (pictures, 3), dtype=np.uint8)
    for number in range(pictures):
        image = np.broadcast_to(colours[number], (8, 12, 3)).copy()
        rows = [{"id": f"test/{number}", "iou": 0.123456789}]
        name, title = f"z{9 - number}", f"Title {number}"
        folder.write_picture(name, encode_png(image), title=title, caption=f"Caption {number}", order=number, rows=rows)
    return path


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Path]:
    """`make_run("name", seed=1, ...)`: the path of a run folder below the test's own."""
    return lambda name="run", **fields: write_run(tmp_path / name, **fields)
