"""The collapse monitor: numbers of a step, and what they mean in words.

Self-distillation has two ways out that cost nothing: the same answer to every picture, either all prototypes alike or one of
them alone. Both show in what a teacher's answer tells of its picture, the mutual information H(mean q) - mean H(q).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from partwise.engine.stages import Losses

LEAST_INFORMATION = 0.02
"""Nats below which answers tell nothing of their pictures."""
LEAST_SPREAD = 0.02
"""Spread of embeddings, 1 where they fill their space, below which all pictures have the same."""
UNIFORM, ONE = 0.9, 0.1
"""Shares of the largest entropy, ln K, above and below which a collapse is called by its name."""


class Collapse(NamedTuple):
    """Scalars, on the device, of one step."""

    entropy: Tensor
    """Of the teacher's answer to a view, nats."""
    information: Tensor
    """What an answer tells of its picture, nats: at most ln of the pictures in a batch."""
    divergence: Tensor
    """KL of the student's answers from the teacher's, nats."""
    spread: Tensor
    """Of the teacher's embeddings."""

    @classmethod
    def nothing(cls) -> Collapse:
        """Of a step that has not been."""
        return cls(*(torch.full((), math.nan) for _ in range(4)))

    def logs(self) -> Losses:
        """As they are logged."""
        names = ("teacher_entropy", "teacher_information", "divergence", "embedding_spread")
        return dict(zip(names, self, strict=True))


def describe_collapse(seen: Collapse, *, num_prototypes: int) -> str:
    """What has happened and what to try; empty where nothing has. Waits for the device."""
    entropy, information, _, spread = (float(value) for value in seen)
    if spread < LEAST_SPREAD:
        return (
            f"COLLAPSE: embeddings of different pictures are nearly the same (spread {spread:.3f} of 1). "
            "Try a lower optim.lr, a higher method.momentum, or larger batches"
        )
    if not information < LEAST_INFORMATION:
        return ""
    share = entropy / math.log(num_prototypes)
    found = f"the teacher's answers tell nothing of their pictures ({information:.3f} nats)"
    if share > UNIFORM:
        return (
            f"COLLAPSE: {found}: all prototypes are alike (entropy {share:.0%} of ln {num_prototypes}). "
            "Try fewer method.num_prototypes, a lower method.teacher_temperature, a lower method.momentum or a higher optim.lr"
        )
    if share < ONE:
        return (
            f"COLLAPSE: {found}: one prototype stands for all (entropy {share:.0%} of ln {num_prototypes}). "
            "Try a lower method.centre_momentum, a higher method.teacher_temperature or a lower optim.lr"
        )
    return f"COLLAPSE: {found}. Try larger batches, fewer method.num_prototypes or a higher optim.lr"
