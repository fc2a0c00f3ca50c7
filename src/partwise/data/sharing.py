"""How the work on a batch is shared out: a process's rows, decoding threads, and small work kept from teams of threads.

Not for what is done with the rows; see loading.py.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from partwise.config import UserError


@dataclass(frozen=True)
class Share:
    """This process's part of the work: `rank` of `world`."""

    rank: int = 0
    world: int = 1

    def rows(self, total: int) -> slice:
        """This process's rows of a batch of `total`. Raises UserError where they cannot be shared out evenly."""
        if total % self.world:
            raise UserError(
                f"train.batch_size: {total} pictures a part cannot be split over {self.world} processes; "
                f"the nearest that can is {max(1, round(total / self.world)) * self.world}"
            )
        each = total // self.world
        return slice(self.rank * each, (self.rank + 1) * each)


def start_threads(count: int) -> ThreadPoolExecutor:
    """Decoding threads that each compute alone: torch would give every one of them a team as large as the trainer's."""
    before = torch.get_num_threads()
    pool = ThreadPoolExecutor(count, "decode", initializer=torch.set_num_threads, initargs=(1,))
    together = threading.Barrier(count)
    for job in [pool.submit(together.wait) for _ in range(count)]:
        job.result()
    # The number holds for the thread that sets it, and for every thread that asks for the first time afterwards.
    torch.set_num_threads(before)
    return pool


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch do a batch's small work in the calling thread: a team waits for cores that are decoding pictures."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
