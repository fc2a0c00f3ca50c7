"""Kill a run with SIGKILL at moments drawn uniformly over its life, start it again, and compare it with one left in peace.

python tests/faults/kill.py [--moments 10]     about 20 minutes on one idle core; writes results/faults_sigkill.json

What must be equal, bit for bit: the networks, the last and the best checkpoint, the products, the pictures and their
numbers; and the summary and every line of metrics.jsonl but for what a clock measured. Nothing half written may be left.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open

from partwise.run import RunFolder

ROOT = Path(__file__).resolve().parents[2]
SLOW_DISK = Path(__file__).with_name("slow_disk.py")
RUN = (
    "train.threads=1",
    "train.precision=fp32",
    "train.batch_size=32",
    "train.accumulate=2",
    "train.ema=0.9",
    "train.checkpoint_seconds=0.2",
    "optim.clip_norm=1",
    "optim.lr=0.05",
    "model.backbone=cifar-resnet",
)
LONG = (
    "data.source=creatures:?size=32&classes=4&train=480&val=64&test=64",
    "train.epochs=4",  # 60 steps
    "train.log_every=4",
    "model.arguments.depth=14",
    "evaluate.suites=[classification, localization]",
)
SHORT = (
    "data.source=creatures:?size=32&classes=4&train=320&val=16&test=16",
    "train.epochs=2",  # 20 steps
    "train.log_every=3",
    "model.arguments.depth=8",
    "evaluate.suites=[classification]",
)
LIVES = 12
"""Starts after which a run counts as one that does not end."""


@dataclass(frozen=True)
class Command:
    """The words of a training, and seconds that its disk takes."""

    settings: Sequence[str]
    words: Sequence[str] = ()
    disk_seconds: float = 0.0

    def line(self, out: Path) -> list[str]:
        start = ["-m", "partwise"] if not self.disk_seconds else [str(SLOW_DISK), str(self.disk_seconds)]
        settings = [word for setting in (*RUN, *self.settings) for word in ("--set", setting)]
        return [sys.executable, *start, "train", "cutmix/smoke", "--out", str(out), *settings, *self.words]


@dataclass(frozen=True)
class Life:
    """How one process ended: its status (-9: killed), how long it took, what it said."""

    status: int
    seconds: float
    said: str


def live(line: Sequence[str], *, killed_after: float | None = None, only: Callable[[], bool] = lambda: True) -> Life:
    """Run a command; with `killed_after`, SIGKILL so many seconds after its start, or after `only` first holds."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryFile("w+") as said:
        begun = time.monotonic()
        process = subprocess.Popen(line, stdout=said, stderr=said, env=environment, start_new_session=True)
        try:
            counted_from = None
            while process.poll() is None:
                now = time.monotonic()
                if counted_from is None and only():
                    counted_from = now if now - begun > 0.5 else begun
                if killed_after is not None and counted_from is not None and now - counted_from >= killed_after:
                    os.killpg(process.pid, signal.SIGKILL)
                    break
                time.sleep(0.003)
        finally:
            if process.poll() is None and killed_after is None:
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        seconds = time.monotonic() - begun
        said.seek(0)
        return Life(status, seconds, said.read())


# -- what a run was at -----------------------------------------------------------------------------------------------------


def unfinished(path: Path) -> list[str]:
    """Temporary files below a folder."""
    return sorted(part.relative_to(path).as_posix() for part in path.rglob(".*.part"))


def step_of(checkpoint: Path) -> int:
    with safe_open(checkpoint, framework="pt") as file:
        return int(json.loads(file.metadata()["partwise"])["counters"]["step"])


def doing(path: Path) -> str:
    """What a run was at when it was killed, by what lies in its folder."""
    folder = RunFolder(path)
    writing = "".join(f", writing {part.rsplit('.', 2)[0].replace('/.', '/').lstrip('.')}" for part in unfinished(path))
    if not folder.exists():
        return "starting" + writing
    if not folder.metrics.exists():
        return "preparing or at the first steps" + writing
    if (folder.products / "train" / "index.json").exists():
        if folder.status() == "finished":
            return ("finished" if folder.report.exists() else "writing the report") + writing
        return ("writing pictures and summary" if folder.model.exists() else "measuring on the test split") + writing
    lines = folder.read_metrics()
    last = lines[-1] if lines else {"kind": "step", "step": 0}
    checkpoint = folder.checkpoints / "last.safetensors"
    saved = f"step {step_of(checkpoint)}" if checkpoint.exists() else "none"
    return f"stage train, last line {last['kind']} of step {last['step']}, checkpoint {saved}{writing}"


# -- what must be equal --------------------------------------------------------------------------------------------------


def lines(folder: RunFolder) -> list[dict[str, Any]]:
    """metrics.jsonl without what a clock measured."""
    raw = folder.metrics.read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "images_per_second"} for line in raw]


def summary(folder: RunFolder) -> dict[str, Any]:
    """The summary without what a clock measured."""
    found = folder.read_summary()
    found["stages"] = [(stage["name"], stage["steps"]) for stage in found["stages"]]
    return found


def tensors(path: Path) -> dict[str, bytes]:
    """Every tensor of a file as its bytes."""
    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118  # no mapping


def differences(whole: Path, again: Path) -> list[str]:
    """What two runs do not have in common; [] for equal ones."""
    ours, theirs = RunFolder(whole), RunFolder(again)
    names = {path.relative_to(whole).as_posix() for path in whole.rglob("*") if path.is_file()}
    found = sorted(names ^ {path.relative_to(again).as_posix() for path in again.rglob("*") if path.is_file()})
    exact = ["model.safetensors", "recipe.yaml", "changes.yaml", "checkpoints/best.safetensors"]
    exact += [name for name in names if name.startswith(("products/", "pictures/")) and not name.endswith("index.json")]
    found += [name for name in exact if (whole / name).read_bytes() != (again / name).read_bytes()]
    last = "checkpoints/last.safetensors"  # its header counts seconds
    if tensors(whole / last) != tensors(again / last):
        found.append(last)
    if lines(ours) != lines(theirs):
        found.append("metrics.jsonl")
    if summary(ours) != summary(theirs):
        found.append("summary.json")
    if not theirs.report.read_bytes().rstrip().endswith(b"</html>"):
        found.append("report.html")
    return found


# -- trials --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """One run that was killed: when (seconds after each start), at what, how often it was started, what came out unlike."""

    moments: list[float]
    doing: list[str]
    lives: int
    differs: list[str]

    @property
    def identical(self) -> bool:
        return not self.differs


def undisturbed(command: Command, out: Path) -> float:
    """Run once in peace; returns the seconds of its whole life."""
    life = live(command.line(out))
    assert life.status == 0, life.said
    return life.seconds


def finish(command: Command, out: Path) -> int:
    """Start again until it ends by itself; returns how often it was started."""
    life = live(command.line(out))
    assert life.status == 0, life.said
    return 1


def one_kill(command: Command, whole: Path, out: Path, draw: Callable[[], float]) -> Trial:
    """Kill at a moment, and start again."""
    lives = 0
    while True:  # drawn again where the run was quicker than the one in peace
        moment = draw()
        life = live(command.line(out), killed_after=moment)
        lives += 1
        if life.status == -signal.SIGKILL:
            break
        assert life.status == 0, life.said
        assert lives < LIVES, "no kill came before the end"
        subprocess.run(["rm", "-rf", str(out)], check=True)
        lives = 0
    at = doing(out)
    lives += finish(command, out)
    return Trial([round(moment, 2)], [at], lives, differences(whole, out))


def many_kills(command: Command, whole: Path, out: Path, draw: Callable[[], float]) -> Trial:
    """Kill every life at a moment of its own, until one ends by itself."""
    moments, at = [], []
    for _ in range(LIVES):
        moment = draw()
        life = live(command.line(out), killed_after=moment)
        if life.status == 0:
            return Trial(moments, at, len(moments) + 1, differences(whole, out))
        assert life.status == -signal.SIGKILL, life.said
        moments.append(round(moment, 2))
        at.append(doing(out))
    return Trial(moments, at, len(moments) + finish(command, out), differences(whole, out))


AIMS = {
    "the run is claimed": "recipe.yaml",
    "the first evaluation": "checkpoints/best.safetensors",
    "the stage has left its product": "products/train/index.json",
    "the networks are written": "model.safetensors",
    "the pictures of the test split are being written": "pictures/confusion.png",
    "the page is written": "report.html",
}
"""Kills aimed at what is too short to be met by chance: what has just happened, and the file that shows it."""


def aimed_kill(command: Command, whole: Path, out: Path, file: str) -> Trial:
    """Kill as soon as a file is there, and start again."""
    life = live(command.line(out), killed_after=0, only=(out / file).exists)
    assert life.status == -signal.SIGKILL, life.said
    at = doing(out)
    return Trial([round(life.seconds, 2)], [at], 1 + finish(command, out), differences(whole, out))


def second_cell(command: Command, whole: Path, out: Path, draw: Callable[[], float]) -> Trial:
    """Kill a study during its second cell: the first is left alone, the second goes on, and the study sums up."""
    cells = sorted(path.parent.name for path in whole.glob("*/recipe.yaml"))
    first, second = cells
    moment = draw()
    line = command.line(out)
    life = live(line, killed_after=moment, only=(out / second / "recipe.yaml").exists)
    assert life.status == -signal.SIGKILL, life.said
    at = f"{second}: {doing(out / second)}"
    before = {path: path.stat().st_mtime_ns for path in (out / first).rglob("*") if path.is_file()}
    lives = 1 + finish(command, out)
    found = [f"{cell}/{name}" for cell in cells for name in differences(whole / cell, out / cell)]
    after = {path: path.stat().st_mtime_ns for path in (out / first).rglob("*") if path.is_file()}
    found += [f"{path.relative_to(out)} written again" for path in after if before.get(path) != after[path]]
    found = [name for name in found if not name.endswith(".lock written again")]
    if (whole / "summary.json").read_bytes() != (out / "summary.json").read_bytes():
        found.append("summary.json of the study")
    if not (out / "report.html").is_file():
        found.append("report.html of the study")
    return Trial([round(moment, 2)], [at], lives, found)


def uniform(seed: int, seconds: float) -> Callable[[], float]:
    """Moments drawn uniformly over a duration."""
    numbers = random.Random(seed)
    return lambda: numbers.uniform(0, seconds)


def campaign(work: Path, moments: int) -> Iterator[tuple[str, float, Trial]]:
    """(kind, seconds in peace, trial) of the whole programme."""
    plain, slow = Command(LONG), Command(LONG, disk_seconds=0.2)
    seconds = undisturbed(plain, work / "peace")
    draw = uniform(0, seconds)
    for number in range(moments):
        yield "one kill", seconds, one_kill(plain, work / "peace", work / f"one-{number}", draw)
    yield "a kill in every life", seconds, many_kills(plain, work / "peace", work / "many", uniform(1, seconds))
    slow_seconds = undisturbed(slow, work / "slow-peace")
    draw = uniform(2, slow_seconds)
    for number in range(moments):
        yield "one kill, slow disk", slow_seconds, one_kill(slow, work / "peace", work / f"slow-{number}", draw)
    for number, (when, file) in enumerate(AIMS.items()):
        trial = aimed_kill(slow, work / "peace", work / f"aimed-{number}", file)
        yield f"one kill, slow disk, when {when}", slow_seconds, trial
    study = Command(SHORT, ("--grid", "method.mix=cutmix,none"))
    study_seconds = undisturbed(study, work / "study-peace")
    for number in range(2):
        draw = uniform(10 + number, study_seconds / 4)
        yield "study", study_seconds, second_cell(study, work / "study-peace", work / f"study-{number}", draw)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--moments", type=int, default=10, help="kills of each kind")
    parser.add_argument("--work", type=Path, help="where the runs go; default: a temporary folder")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from record import write_result

    with tempfile.TemporaryDirectory() as scratch:
        rows = []
        for kind, seconds, trial in campaign(options.work or Path(scratch), options.moments):
            row = {"kind": kind, "seconds_in_peace": round(seconds, 1), **asdict(trial), "identical": trial.identical}
            rows.append(row)
            print(json.dumps(row), flush=True)  # noqa: T201  # a program of its own
            values = {
                "settings": [*RUN, *LONG],
                "kills": sum(len(row["moments"]) for row in rows),
                "trials": len(rows),
                "bit_identical": sum(row["identical"] for row in rows),
                "rows": rows,
            }
            write_result("faults_sigkill", f"python tests/faults/kill.py --moments {options.moments}", values)


if __name__ == "__main__":
    main()
