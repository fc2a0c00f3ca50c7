"""What `make demo` takes and reaches, set-up aside: minutes of the whole command, and its summary.

python benchmarks/demo.py [--out DIR]
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/demo"))
    options = parser.parse_args()
    before = os.getloadavg()[0]
    begun = time.monotonic()
    words = ["train", "cutmix/demo", "--out", str(options.out), "--fresh"]
    subprocess.run([sys.executable, "-m", "partwise", *words], check=True)
    seconds = time.monotonic() - begun
    summary = RunFolder(options.out).read_summary()
    values = {
        "seconds": round(seconds, 1),
        "metrics": summary["metrics"],
        "stages": summary["stages"],
        "load_average_before": before,
    }
    write_result("demo", "python benchmarks/demo.py", values)
    print(f"{seconds:.0f} s, {summary['metrics']}")


if __name__ == "__main__":
    main()
