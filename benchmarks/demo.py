"""What a demo takes and reaches, set-up aside: minutes of the whole command, and its summary.

python benchmarks/demo.py [--recipe ppl/demo] [--out DIR]

Without a recipe the one of `make demo`, as results/demo.json; another as results/METHOD_demo.json.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from partwise.run import RunFolder
from record import write_result

MAIN = "cutmix/demo"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default=MAIN)
    parser.add_argument("--out", type=Path, help="default: runs/demo, or runs/RECIPE")
    options = parser.parse_args()
    main_one = options.recipe == MAIN
    out = options.out or Path("runs") / ("demo" if main_one else options.recipe)
    before = os.getloadavg()[0]
    begun = time.monotonic()
    words = ["train", options.recipe, "--out", str(out), "--fresh"]
    subprocess.run([sys.executable, "-m", "partwise", *words], check=True)
    seconds = time.monotonic() - begun
    summary = RunFolder(out).read_summary()
    values = {
        "seconds": round(seconds, 1),
        "metrics": summary["metrics"],
        "stages": summary["stages"],
        "load_average_before": before,
    }
    name = "demo" if main_one else options.recipe.replace("/", "_")
    command = "python benchmarks/demo.py" + ("" if main_one else f" --recipe {options.recipe}")
    write_result(name, command, values)
    print(f"{seconds:.0f} s, {summary['metrics']}")


if __name__ == "__main__":
    main()
