"""Where a run computes: device, precision, processes, threads and interruption, on Lightning Fabric.

Everything here is decided once, before the first stage, and says why. The loop that uses it is engine/loop.py.
"""

from __future__ import annotations

import os
import platform
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy
from torch import Tensor

from partwise.config import TrainFields, UserError
from partwise.data.sharing import Share

Precision = Literal["64-true", "32-true", "bf16-mixed", "16-mixed"]


@dataclass
class Interruption:
    """Set by SIGINT or SIGTERM; the loop looks at it after every step."""

    requested: bool = False


@dataclass(frozen=True)
class Runtime:
    """One process's device, precision and place among the processes."""

    fabric: Fabric
    precision: Precision
    reason: str
    interruption: Interruption = field(default_factory=Interruption)

    @property
    def device(self) -> torch.device:
        return torch.device(self.fabric.device)

    @property
    def share(self) -> Share:
        """This process's part of every batch."""
        return Share(int(self.fabric.global_rank), int(self.fabric.world_size))

    @property
    def leads(self) -> bool:
        """Whether this process writes files and prints."""
        return self.share.rank == 0

    def gather(self, tensor: Tensor) -> Tensor:
        """Rows of all processes, in order of rank; their numbers may differ."""
        if self.share.world == 1:
            return tensor
        sizes: list[Any] = [None] * self.share.world
        dist.all_gather_object(sizes, tensor.shape[0])
        longest = max(sizes)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: tensor.shape[0]] = tensor
        where = self.device if dist.get_backend() == "nccl" else torch.device("cpu")
        pieces = [torch.empty_like(padded, device=where) for _ in sizes]
        dist.all_gather(pieces, padded.to(where).contiguous())
        return torch.cat([p[:n] for p, n in zip(pieces, sizes, strict=True)]).to(tensor.device)

    def gather_rows(self, rows: dict[str, Tensor]) -> dict[str, Tensor]:
        """`gather` for every tensor of a mapping; all processes hold the same names, or nothing."""
        if self.share.world == 1:
            return rows
        names: list[Any] = [None] * self.share.world
        dist.all_gather_object(names, {name: (rows[name].dtype, rows[name].shape[1:]) for name in rows})
        known: dict[str, Any] = next((entry for entry in names if entry), {})
        empty = {name: torch.empty(0, *shape, dtype=dtype) for name, (dtype, shape) in known.items()}
        return {name: self.gather(rows.get(name, empty[name])) for name in known}

    def gather_notes(self, notes: dict[str, str]) -> dict[str, str]:
        """The text that every process noted, under one roof."""
        if self.share.world == 1:
            return notes
        each: list[Any] = [None] * self.share.world
        dist.all_gather_object(each, notes)
        return {name: text for own in each for name, text in own.items()}

    def mean(self, scalars: dict[str, Tensor]) -> dict[str, Tensor]:
        """Scalars averaged over the processes, which hold equal shares of every batch."""
        if self.share.world == 1 or not scalars:
            return scalars
        together = torch.stack(list(scalars.values()))
        dist.all_reduce(together)
        return dict(zip(scalars, together / self.share.world, strict=True))

    def average(self, count: Tensor) -> Tensor:
        """A number that differs between the processes -> its mean over them, without a gradient."""
        if self.share.world == 1:
            return count
        together = count.detach().clone()
        dist.all_reduce(together)
        return together / self.share.world

    def agree(self, flag: bool) -> bool:
        """Whether any process says so."""
        return self.agree_on(flag)[0]

    def agree_on(self, *flags: bool) -> list[bool]:
        """Of each flag whether any process raises it, in one exchange."""
        if self.share.world == 1:
            return list(flags)
        said = torch.tensor([float(flag) for flag in flags], device=self.device)
        dist.all_reduce(said, op=dist.ReduceOp.MAX)
        return [bool(value) for value in said.tolist()]


def choose_precision(wanted: str, device: torch.device) -> tuple[Precision, str]:
    """The arithmetic for a device and the reason in words. Raises UserError where the device cannot do what was asked."""
    if wanted == "fp16" and device.type == "cpu":
        raise UserError("train.precision = 'fp16': needs a GPU; expected 'auto', 'fp32' or 'bf16' on a CPU")
    named: dict[str, Precision] = {"fp64": "64-true", "fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
    if wanted != "auto":
        return named[wanted], "asked for"
    if device.type == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return "bf16-mixed", f"{torch.cuda.get_device_name(device)} computes bfloat16"
        return "16-mixed", f"{torch.cuda.get_device_name(device)} has no bfloat16, float16 with a scaled loss instead"
    if device.type == "cpu" and computes_bfloat16():
        return "bf16-mixed", "this CPU has bfloat16 units"
    return "32-true", f"this {device.type.upper()} has no bfloat16 units"


def computes_bfloat16() -> bool:
    """Whether the CPU multiplies bfloat16 in hardware (AVX-512 BF16 or AMX); without, it is far slower than float32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def start(fields: TrainFields) -> Runtime:
    """Set up device, precision and processes for this process, joining an outer `torchrun` where there is one."""
    if fields.threads:
        torch.set_num_threads(fields.threads)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if (
        world > 1
        and accelerator == "cuda"
        and int(os.environ.get("LOCAL_WORLD_SIZE", world)) > torch.cuda.device_count()
    ):
        accelerator = "cpu"
    device = torch.device(accelerator)
    precision, reason = choose_precision(fields.precision, device)
    strategy: Any = "auto"
    if world > 1:
        strategy = DDPStrategy(
            process_group_backend="nccl" if accelerator == "cuda" else "gloo", timeout=timedelta(minutes=30)
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fabric = Fabric(
            accelerator=accelerator,
            devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
            num_nodes=int(os.environ.get("GROUP_WORLD_SIZE", "1")),
            strategy=strategy,
            precision=precision,
        )
        fabric.launch()
    return Runtime(fabric, precision, reason)


def finish(runtime: Runtime) -> None:
    """End the process group; without this a process under `torchrun` aborts at exit."""
    if dist.is_available() and dist.is_initialized() and runtime.share.world > 1:
        dist.destroy_process_group()


@contextmanager
def catch_signals(interruption: Interruption) -> Iterator[None]:
    """Within this, the first SIGINT or SIGTERM asks the loop to save and stop; a second one ends the process at once."""

    def request(number: int, frame: FrameType | None) -> None:
        if interruption.requested:
            signal.default_int_handler(number, frame)
        interruption.requested = True

    try:
        before = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: signals go to whoever is
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def environment(runtime: Runtime) -> dict[str, object]:
    """Versions, device, arithmetic and threads, for environment.json."""
    import lightning
    import torchvision

    device = runtime.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    return {
        "versions": {
            "partwise": version("partwise"),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "lightning": lightning.__version__,
        },
        "platform": platform.platform(),
        "device": {"type": device.type, "name": name, "processes": runtime.share.world},
        "precision": {"used": runtime.precision, "reason": runtime.reason},
        "threads": torch.get_num_threads(),
        "command": " ".join(["partwise", *sys.argv[1:]]),
    }


def processor_name() -> str:
    """The processor as the system names it, with its widest vector units and number of cores."""
    name = platform.processor() or platform.machine()
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            name = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"
