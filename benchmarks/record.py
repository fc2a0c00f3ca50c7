"""What every benchmark leaves behind: one JSON in `results/` with its numbers and what they were measured with.

from record import write_result
write_result("mixing", "python benchmarks/mixing.py", {"seconds": 1.0})
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[1]
RESULTS = REPOSITORY / "results"
PACKAGES = ("torch", "torchvision", "numpy", "timm", "kornia", "lightning", "pydensecrf2")


def write_result(name: str, command: str, values: dict[str, Any], folder: Path = RESULTS) -> Path:
    """Writes `results/<name>.json` (or into another folder) and returns its path; `command` repeats the measurement."""
    record = {
        "name": name,
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        **commit(),
        "hardware": hardware(),
        "threads": torch.get_num_threads(),
        "versions": {"python": platform.python_version(), **versions()},
        "values": values,
    }
    path = folder / f"{name}.json"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def commit() -> dict[str, Any]:
    """The commit measured, and whether tracked or new files differed from it (results themselves left out)."""
    head = _git("rev-parse", "HEAD")
    changes = _git("status", "--porcelain", "--", ".", ":!results")
    return {"commit": head or "unknown", "dirty": bool(changes) or not head}


def hardware() -> dict[str, Any]:
    """Processor, cores this process may use, memory in GiB, and the accelerator if there is one."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": _processor(), "cores": cores, "memory_gib": _memory_gib(), "accelerator": accelerator}


def versions() -> dict[str, str]:
    """Versions of the libraries a number may depend on, where installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        facts = dict(line.split(":", 1) for line in cpuinfo.read_text().splitlines() if ":" in line)
        for key, value in facts.items():
            if key.strip() == "model name":
                return str(value.strip())
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None
    return round(pages * size / 2**30, 1)


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
