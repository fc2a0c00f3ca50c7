"""`--devices N`: start N processes of the same command through torchrun's own launcher."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence


def inside_launcher() -> bool:
    """Whether this process is one of several already."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def launch(devices: int, arguments: Sequence[str]) -> int:
    """Run `partwise ARGUMENTS` in `devices` processes of this machine; returns the first failure's exit status, or 0."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    # The launcher's own account of a failure is a page of traceback; the processes say what went wrong themselves.
    for name in ("torch.distributed", "torch.distributed.elastic", "torch.distributed.run"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // devices)))
    options = ["--standalone", f"--nproc-per-node={devices}", "--module", "partwise.cli", *arguments]
    try:
        run(parse_args(options))
    except ChildFailedError as error:
        statuses = [failure.exitcode for failure in error.failures.values()]
        return next((status for status in statuses if status > 0), 1)
    except (SignalException, KeyboardInterrupt):
        return 130
    sys.stdout.flush()
    return 0
