"""The exponential moving average of a network: a teacher beside a student, or the weights that are evaluated.

Schedules of the decay are not here: each update is given its own.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

Buffers = Literal["copy", "average", "keep"]


@torch.no_grad()
def lerp_into(targets: Sequence[Tensor], sources: Sequence[Tensor], *, decay: float) -> None:
    """targets <- decay * targets + (1 - decay) * sources, in place, in one fused call for all tensors."""
    if targets:
        torch._foreach_lerp_(list(targets), list(sources), 1.0 - decay)


class ModuleAverage(nn.Module):
    """A copy of `module` that follows it: theta <- decay theta + (1 - decay) theta_module after each step.

    `buffers`: "copy" takes batch norm's running statistics as they are, "average" averages the floating ones (and
    copies counters), "keep" leaves them to the copy's own forward passes, as a teacher in training mode needs. The copy
    has no gradients and begins in evaluation mode. `state_dict` holds plain tensors under `module.`.
    """

    def __init__(self, module: nn.Module, *, buffers: Buffers = "copy") -> None:
        super().__init__()
        self.module = copy.deepcopy(module).eval().requires_grad_(False)
        self.buffer_rule = buffers

    def forward(self, *inputs: Tensor) -> Tensor:
        output: Tensor = self.module(*inputs)
        return output

    @torch.no_grad()
    def update(self, module: nn.Module, *, decay: float) -> None:
        """One step towards `module`, which must be the averaged one (unwrapped); `decay` 1 freezes, 0 copies."""
        assert 0.0 <= decay <= 1.0, decay
        ours, theirs = dict(self.module.named_parameters()), dict(module.named_parameters())
        assert ours.keys() == theirs.keys(), "the average follows another network than it was made from"
        names = list(ours)
        lerp_into([ours[name] for name in names], [theirs[name] for name in names], decay=decay)
        if self.buffer_rule != "keep":
            self._update_buffers(module, decay=decay)

    def _update_buffers(self, module: nn.Module, *, decay: float) -> None:
        theirs = dict(module.named_buffers())
        averaged: list[tuple[Tensor, Tensor]] = []
        copied: list[tuple[Tensor, Tensor]] = []
        for name, buffer in self.module.named_buffers():
            floating = buffer.is_floating_point() and self.buffer_rule == "average"
            (averaged if floating else copied).append((buffer, theirs[name]))
        lerp_into([mine for mine, _ in averaged], [other for _, other in averaged], decay=decay)
        if copied:
            torch._foreach_copy_([mine for mine, _ in copied], [other for _, other in copied])


@torch.no_grad()
def exchange(first: nn.Module, second: nn.Module) -> None:
    """Swap all parameters and buffers of two networks of one shape, in place: averaged weights for an evaluation."""
    # by name and not by state_dict, which lists a shared tensor twice and would swap it back
    ours, theirs = named_tensors(first), named_tensors(second)
    assert ours.keys() == theirs.keys(), "only networks of one shape can be exchanged"
    for name, mine in ours.items():
        held = mine.clone()
        mine.copy_(theirs[name])
        theirs[name].copy_(held)


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once."""
    return dict(module.named_parameters()) | dict(module.named_buffers())
