"""Optimisers from fields, and schedules as pure functions of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from partwise.config import OptimFields
from partwise.ops.schedules import cosine_schedule


def schedule(fields: OptimFields, progress: float) -> float:
    """The learning rate as a share of `optim.lr` at `progress` in [0, 1] of the phase.

    steps: gamma for each milestone passed. cosine: half a cosine to `final`. one_cycle: linear to the `peak` share and
    linear down to `final`. poly: (1 - progress)^power. `warmup` rises linearly before any of them (not before one_cycle,
    which has its own rise).
    """
    progress = min(progress, 1.0)  # an estimate may take more steps than a short phase has
    if fields.schedule == "one_cycle":
        if progress < fields.peak:
            return progress / fields.peak
        return fields.final + (1 - fields.final) * (1 - progress) / (1 - fields.peak)
    rise = progress / fields.warmup if progress < fields.warmup else 1.0
    if fields.schedule == "steps":
        return rise * math.prod(fields.gamma for milestone in fields.milestones if progress >= milestone)
    after = max(0.0, (progress - fields.warmup) / (1 - fields.warmup))
    if fields.schedule == "cosine":
        return rise * (fields.final + (1 - fields.final) * 0.5 * (1 + math.cos(math.pi * after)))
    if fields.schedule == "poly":
        return float(rise * (fields.final + (1 - fields.final) * (1 - after) ** fields.power))
    return rise


def parameter_groups(
    network: nn.Module, fields: OptimFields, *, head: Iterable[nn.Parameter] = ()
) -> list[dict[str, Any]]:
    """Trainable parameters by rate and decay: `head` at `head_lr` times the rate, norms and biases spared where asked."""
    heads = {id(parameter) for parameter in head}
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for parameter in network.parameters():
        if not parameter.requires_grad:
            continue
        spared = parameter.ndim <= 1 and not fields.decay_norm_and_bias
        key = (fields.head_lr if id(parameter) in heads else 1.0, 0.0 if spared else fields.weight_decay)
        groups.setdefault(key, []).append(parameter)
    return [
        {"params": members, "lr": fields.lr * factor, "lr_factor": factor, "weight_decay": decay}
        for (factor, decay), members in groups.items()
    ]


def build_optimizer(groups: list[dict[str, Any]], fields: OptimFields) -> torch.optim.Optimizer:
    """SGD, Adam or AdamW over parameter groups, in torch's multi-tensor form."""
    if fields.name == "sgd":
        nesterov = fields.nesterov and fields.momentum > 0
        return torch.optim.SGD(groups, lr=fields.lr, momentum=fields.momentum, nesterov=nesterov, foreach=True)
    kind = torch.optim.AdamW if fields.name == "adamw" else torch.optim.Adam
    return kind(groups, lr=fields.lr, betas=(fields.momentum, fields.beta2), foreach=True)


def decay(fields: OptimFields, progress: float) -> float:
    """The weight decay at `progress` in [0, 1] of the phase: half a cosine to `final_weight_decay`, where there is one."""
    start, end = fields.weight_decay, fields.final_weight_decay
    return start if end is None else cosine_schedule(progress, 1.0, start=start, end=end)


def set_rate(optimizer: torch.optim.Optimizer, fields: OptimFields, progress: float) -> float:
    """Apply the schedules to every group (groups without weight decay stay without); returns the base rate."""
    rate = fields.lr * schedule(fields, progress)
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get("lr_factor", 1.0)
        if fields.final_weight_decay is not None and group["weight_decay"]:
            group["weight_decay"] = decay(fields, progress)
    return rate
