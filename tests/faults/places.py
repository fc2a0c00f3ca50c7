"""A folder of its own for each case of bad input, with small data sets and a finished run to make worse."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from partwise.run import RunFolder
from tests.miniatures import write_picture

WORLD = "creatures:?size=32&classes=4&train=32&val=16&test=16"
QUICK = [
    "--quiet",
    *("--set", "train.threads=1", "--set", "train.epochs=1", "--set", "train.batch_size=16"),
    *("--set", "data.threads=1", "--set", "train.log_every=1"),
]


def train(*words: object, source: object = WORLD, out: object = "new") -> list[str]:
    """The words of a tiny training."""
    return ["train", "cutmix/smoke", "--data", str(source), "--out", str(out), *QUICK, *(str(word) for word in words)]


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with a hash of its bytes; locks, which every command may take, left out."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        if os.access(path, os.R_OK)
        else "closed"
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != ".lock"
    }


@dataclass(frozen=True)
class Place:
    """Where one case takes place: the working folder `root`, and a finished run elsewhere that cases copy."""

    root: Path
    finished: Path

    def run(self, name: str = "run") -> Path:
        """A copy of the finished run."""
        return Path(shutil.copytree(self.finished, self.root / name))

    def unfinished(self, name: str = "run", *, trained: bool = False) -> Path:
        """The same as it was after its last checkpoint, or (`trained`) after its stage had left its product."""
        run = self.run(name)
        (run / "model.safetensors").unlink()
        (run / "report.html").unlink()
        if not trained:
            shutil.rmtree(run / "products")
        summary = json.loads((run / "summary.json").read_text())
        said = {"recipe": summary["recipe"], "method": summary["method"], "status": "running", "seed": summary["seed"]}
        RunFolder(run).write_summary(said)
        return run

    def write(self, name: str, content: bytes | str) -> Path:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def folder(self, suffix: str = "jpg") -> str:
        """The source string of `pets`: two classes of six pictures each."""
        for number in range(12):
            write_picture(self.root / "pets" / ("cat", "dog")[number % 2] / f"{number}.{suffix}", number)
        return f"imagefolder:{self.root / 'pets'}"

    def table(self, *more: str, header: str = "file,label,split,box,mask") -> str:
        """The source string of `pets.csv`: twelve pictures in three splits, with boxes, and then the rows of `more`."""
        rows = [header]
        for number in range(12):
            write_picture(self.root / "files" / f"{number}.png", number)
            split = ("train", "train", "val", "test")[number // 2 % 4]
            rows.append(f"files/{number}.png,{('cat', 'dog')[number % 2]},{split},2 2 20 20,")
        self.write("pets.csv", "\n".join([*rows, *more]) + "\n")
        return f"csv:{self.root / 'pets.csv'}"


def bomb() -> bytes:
    """A PNG of a few bytes that claims ten thousand million pixels."""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
        + _chunk(b"IEND", b"")
    )


def hollow(width: int = 32, height: int = 24) -> bytes:
    """A PNG with a sound header and a sound end, whose pixels cannot be unpacked: headers alone do not show it."""
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + _chunk(b"IDAT", b"\x78\x9c" + b"\xff" * 40) + _chunk(b"IEND", b"")


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
