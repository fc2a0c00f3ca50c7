"""The `partwise` command on a disk that takes its time: `python slow_disk.py SECONDS train ...`.

Every flush and every rename takes so long, so that a kill at any moment is likely to hit the writing of a file: before it
is flushed, between flush and rename, or after the rename.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from typing import Any


def slowed(call: Callable[..., Any], seconds: float) -> Callable[..., Any]:
    """`call` with half of the wait before and half after it."""

    def wait_and_call(*arguments: Any, **options: Any) -> Any:
        time.sleep(seconds / 2)
        value = call(*arguments, **options)
        time.sleep(seconds / 2)
        return value

    return wait_and_call


if __name__ == "__main__":
    seconds = float(sys.argv.pop(1))
    os.fsync = slowed(os.fsync, seconds)
    os.replace = slowed(os.replace, seconds)
    from partwise.cli import main

    main()
