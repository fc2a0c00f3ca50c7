"""The 14 views of Adam-v2's second phase: ours beside the published chain of PIL calls; pictures a second.

    python benchmarks/pretraining_views.py [--threads 2]      (writes results/pretraining_views.json; about two minutes)

Pictures of 512 px lie decoded in memory on both sides, and both end with 14 float batches, normalised. The rival is what the
published loader does to each view: crop and bicubic resize, brightness, contrast, saturation and hue (all for 8 views of 10),
rotation, Gaussian blur, tensor, normalisation, then the stacking of a batch. It runs in as many processes as we have threads,
is given its random numbers for nothing, and its batches need not travel to another process; ours draws inside its time and
writes over the batches of the step before, as a training does. "grey" keeps one channel until normalisation (the default for
pictures of one channel), "colour" treats three. Sides take turns, numbers are medians.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing.pool import Pool
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter
from torch import Tensor
from torchvision.transforms import functional as tv
from torchvision.transforms.functional import to_pil_image

from partwise.data.anatomy_views import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ViewDraws,
    draw_views,
    part_whole_views,
    render,
    view_blocks,
)
from partwise.data.sharing import start_threads
from record import write_result

COMMAND = "python benchmarks/pretraining_views.py"
ASKED = 4.0
SIDE, LEVEL = 512, 0
ADJUST: tuple[Callable[[Image.Image, float], Image.Image], ...] = (
    tv.adjust_brightness,
    tv.adjust_contrast,
    tv.adjust_saturation,
    tv.adjust_hue,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=32, help="pictures a batch")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="two turns of a small batch, nothing written")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    turns, batch = (2, 4 * options.threads) if options.quick else (options.turns, options.batch)
    values = measure(threads=options.threads, batch=batch, turns=turns) | {"load_average_before": load}
    for side, rate in values["pictures_per_second"].items():
        print(f"{side:7} {rate:7.1f} pictures a second")
    for name, ratio in values["ratios"].items():
        print(f"{name:18} {ratio:.2f}")
    print(f"asked of grey: {ASKED}, met: {values['met']}")
    if not options.quick:
        print(write_result("pretraining_views", f"{COMMAND} --threads {options.threads}", values))


def measure(*, threads: int = 2, batch: int = 32, turns: int = 7) -> dict[str, Any]:
    """Both sides in turns on the same pictures and numbers: pictures a second, and ours over theirs."""
    torch.set_num_threads(threads)
    images, blocks = pictures(batch), view_blocks(part_whole_views(), batch)
    spawning = multiprocessing.get_context("spawn")
    with spawning.Pool(threads, initializer=prepare, initargs=(batch,)) as processes, start_threads(threads) as pool:
        sides: dict[str, Callable[[], object]] = {
            "grey": partial(ours, images, blocks, pool),
            "colour": partial(ours, images.expand(-1, 3, -1, -1), blocks, pool),
            "pil": partial(theirs, processes, threads, batch),
        }
        for side in sides.values():
            side()
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(turns):
            for name, side in sides.items():
                begun = time.perf_counter()
                side()
                seconds[name].append(time.perf_counter() - begun)
    rates = {name: round(batch / statistics.median(found), 2) for name, found in seconds.items()}
    ratios = {f"{name} over pil": round(rates[name] / rates["pil"], 3) for name in ("grey", "colour")}
    return {
        "pictures_per_second": rates,
        "seconds_a_batch": {name: [round(s, 4) for s in found] for name, found in seconds.items()},
        "ratios": ratios,
        "asked": ASKED,
        "met": ratios["grey over pil"] >= ASKED,
        "batch": batch,
        "threads": threads,
    }


def pictures(count: int) -> Tensor:
    """Pictures of one channel, uint8 `(count, 1, 512, 512)`; what they show does not matter."""
    coarse = torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    return (F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").clamp(0, 1) * 255).byte()


def drawn(count: int, seed: int) -> ViewDraws:
    return draw_views(
        count, part_whole_views(), size=(SIDE, SIDE), level=LEVEL, generator=torch.Generator().manual_seed(seed)
    )


def ours(images: Tensor, blocks: dict[int, Tensor], pool: ThreadPoolExecutor) -> list[Tensor]:
    return render(images, drawn(len(images), 0), out=blocks, pool=pool)


HELD: dict[str, Any] = {}
"""What a process of the rival holds: its pictures, three channels each, and the numbers behind their views."""


def prepare(count: int) -> None:
    torch.set_num_threads(1)
    HELD["pictures"] = [to_pil_image(image).convert("RGB") for image in pictures(count)]
    HELD["draws"] = drawn(count, 0)


def theirs(processes: Pool, workers: int, count: int) -> None:
    """A batch, shared out over the processes."""
    processes.map(their_share, [range(start, count, workers) for start in range(workers)], chunksize=1)


def their_share(rows: range) -> int:
    """One process's pictures as 14 batches, which stay in it."""
    draws: ViewDraws = HELD["draws"]
    views = [
        [one_view(HELD["pictures"][row], draws, row, view) for row in rows] for view in range(len(draws.table.views))
    ]
    return sum(len(torch.stack(view)) for view in views)


def one_view(picture: Image.Image, draws: ViewDraws, row: int, view: int) -> Tensor:
    """A view as the published code makes it."""
    size = draws.table.views[view].size
    box = tuple(draws.boxes[row, view].tolist())
    made = picture.crop(box).resize((size, size), Image.Resampling.BICUBIC)
    factors = draws.factors[row, view].tolist()
    if factors != [1.0, 1.0, 1.0, 0.0]:
        for kind in draws.order[row, view].tolist():
            made = ADJUST[kind](made, factors[kind])
    made = tv.rotate(made, math.degrees(float(draws.angle[row, view])))
    sigma = float(draws.sigma[row, view])
    if sigma > 0:
        made = made.filter(ImageFilter.GaussianBlur(sigma))
    return tv.normalize(tv.to_tensor(made), IMAGENET_MEAN, IMAGENET_STD)


if __name__ == "__main__":
    main()
