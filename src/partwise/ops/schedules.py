"""Half a cosine from one value to another: what weight decay and a teacher's momentum follow over a phase."""

from __future__ import annotations

import math


def cosine_schedule(step: float, num_steps: float, *, start: float, end: float) -> float:
    """end + (start - end) (1 + cos(pi step / num_steps)) / 2.

    The last of steps 0 ... num_steps - 1 stays just short of `end`; later ones have it.
    """
    progress = min(step / num_steps, 1.0)
    return end + 0.5 * (start - end) * (1 + math.cos(math.pi * progress))
