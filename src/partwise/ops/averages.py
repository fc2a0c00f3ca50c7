"""Means over what a batch holds, when several processes hold slices of it that differ in how much there is to average.

A loss that divides by a count takes an `Average`: the mean of that count over the processes. Since gradients are averaged over
processes too, each then contributes what it would in one process with the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

Average = Callable[[Tensor], Tensor]
"""A count of this process -> its mean over all processes."""


def alone(counts: Tensor) -> Tensor:
    """The mean over processes where there is one."""
    return counts
