"""Batch norm whose statistics are those of the whole batch, however many processes share it.

torch's SyncBatchNorm refuses CPU tensors, so over gloo this layer does its work; on a GPU torch's own is used. With it
two processes train as one does, also where their slices of the batch differ in size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules.batchnorm import _BatchNorm

Group = dist.ProcessGroup | None


def slice_statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and biased variance of each channel of `(B, C, ...)`, at least float32; zeros where the slice is empty."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    if x.numel() == 0:
        return x.new_zeros(x.shape[1], dtype=dtype), x.new_zeros(x.shape[1], dtype=dtype)
    # buffers of the wider type make torch's own fast kernel return the statistics in it
    scratch = x.new_zeros(2, x.shape[1], dtype=dtype)
    mean, variance = torch.batch_norm_update_stats(x, scratch[0], scratch[1], 1.0)
    return mean, variance


def combine_statistics(counts: Tensor, means: Tensor, variances: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of slices -> of their union: counts `(R,)`, means and biased variances `(R, C)` -> total, mean, variance.

    Chan, Golub and LeVeque's formula: sums of squared distances about each slice's own mean, plus what the means
    differ; no difference of large squares.
    """
    total = counts.sum()
    shares = (counts / total)[:, None]
    mean = (shares * means).sum(0)
    variance = (shares * (variances + (means - mean) ** 2)).sum(0)
    return total, mean, variance


def global_statistics(x: Tensor, group: Group) -> tuple[float, Tensor, Tensor]:
    """Values per channel, mean and biased variance over the slices of all processes, the same bits on each."""
    mean, variance = slice_statistics(x)
    count = x.numel() // max(x.shape[1], 1)
    # float64 carries counts beyond 2^24 and costs nothing for a few numbers a channel
    mine = torch.cat([mean.new_tensor([count], dtype=torch.float64), mean.double(), variance.double()])
    gathered = [torch.empty_like(mine) for _ in range(dist.get_world_size(group))]
    dist.all_gather(gathered, mine, group=group)
    rows = torch.stack(gathered)
    means, variances = rows[:, 1:].chunk(2, dim=1)
    total, mean64, variance64 = combine_statistics(rows[:, 0], means, variances)
    return float(total), mean64.to(mean.dtype), variance64.to(mean.dtype)


class _NormaliseTogether(torch.autograd.Function):
    """(x - mean) / sqrt(variance + eps) * weight + bias with statistics that depend on every process's `x`."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        moments: tuple[float, Tensor, Tensor],
        eps: float,
        group: Group,
    ) -> Tensor:
        total, mean, variance = moments
        ctx.save_for_backward(x, weight, mean, variance)
        ctx.total, ctx.eps, ctx.group = total, eps, group
        if x.numel() == 0:
            return torch.empty_like(x)
        scale, shift = (None if tensor is None else tensor.to(mean.dtype) for tensor in (weight, bias))
        return F.batch_norm(x, mean, variance, scale, shift, training=False, eps=eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """dx = w / s (dy - sum(dy) / N - xhat sum(dy xhat) / N), the two sums over all processes.

        The gradients of weight and bias stay this process's own: whoever adds up gradients over processes adds these
        too.
        """
        x, weight, mean, variance = ctx.saved_tensors
        inverse = (variance + ctx.eps).rsqrt()
        direct, weight_grad, bias_grad = _fixed_statistics_backward(grad, x, weight, mean, variance, inverse, ctx.eps)
        sums = torch.stack([bias_grad, weight_grad])
        dist.all_reduce(sums, group=ctx.group)
        gain = inverse if weight is None else inverse * weight
        # the correction is linear in x: slope * x + offset, one number each a channel
        slope = -gain * inverse * sums[1] / ctx.total
        offset = -gain * sums[0] / ctx.total - slope * mean
        shape = (1, -1, *(1 for _ in range(x.ndim - 2)))
        input_grad = None
        if ctx.needs_input_grad[0]:
            correction = torch.addcmul(offset.to(x.dtype).view(shape), x, slope.to(x.dtype).view(shape))
            input_grad = direct + correction
        return (
            input_grad,
            weight_grad.to(weight.dtype) if weight is not None and ctx.needs_input_grad[1] else None,
            bias_grad.to(weight.dtype) if weight is not None and ctx.needs_input_grad[2] else None,
            None,
            None,
            None,
        )


def _fixed_statistics_backward(
    grad: Tensor, x: Tensor, weight: Tensor | None, mean: Tensor, variance: Tensor, inverse: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients as if the statistics were constants: of x, then the sums of dy xhat (weight) and dy (bias)."""
    if x.numel() == 0:  # torch's kernel divides by the number of pictures
        return torch.empty_like(x), torch.zeros_like(mean), torch.zeros_like(mean)
    # the kernel wants the gradient laid out as x is
    memory = (
        torch.channels_last
        if x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        else torch.contiguous_format
    )
    scale = torch.ones_like(mean) if weight is None else weight.to(mean.dtype)
    direct, weight_grad, bias_grad = torch.ops.aten.native_batch_norm_backward(
        grad.contiguous(memory_format=memory), x, scale, mean, variance, mean, inverse, False, eps, [True, True, True]
    )
    return direct, weight_grad.to(mean.dtype), bias_grad.to(mean.dtype)


class SyncedBatchNorm(_BatchNorm):
    """nn.BatchNorm1d/2d/3d with batch statistics over all processes of `group`; same parameters, buffers and names.

    Without processes, or in evaluation mode, it is plain batch norm. Children (the dropout and activation that timm
    hangs into its batch norms) run after it.
    """

    def __init__(self, num_features: int, *, group: Group = None, **arguments: Any) -> None:
        super().__init__(num_features, **arguments)
        self.group = group

    def _check_input_dim(self, input: Tensor) -> None:
        if input.ndim < 2:
            raise ValueError(f"expected (B, C, ...), got {tuple(input.shape)}")

    def forward(self, input: Tensor) -> Tensor:
        own_statistics = self.training or self.running_mean is None
        if own_statistics and dist.is_initialized() and dist.get_world_size(self.group) > 1:
            output = self._normalise_together(input)
        else:
            output = super().forward(input)
        for child in self.children():
            output = child(output)
        return output

    def _normalise_together(self, x: Tensor) -> Tensor:
        self._check_input_dim(x)
        with torch.no_grad():
            moments = global_statistics(x.detach(), self.group)
            if self.training and self.track_running_stats:
                self._follow(*moments)
        if moments[0] <= 1:
            raise ValueError(f"batch norm needs more than one value a channel over all processes, got {tuple(x.shape)}")
        output: Tensor = _NormaliseTogether.apply(x, self.weight, self.bias, moments, self.eps, self.group)
        return output

    def _follow(self, total: float, mean: Tensor, variance: Tensor) -> None:
        """Running statistics: the variance unbiased with the global count; a mean over batches without a momentum."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        unbiased = variance * (total / max(total - 1.0, 1.0))
        self.running_mean.mul_(1.0 - rate).add_(mean, alpha=rate)
        self.running_var.mul_(1.0 - rate).add_(unbiased, alpha=rate)


def synchronise_batchnorm(module: nn.Module, *, group: Group = None) -> nn.Module:
    """`module` with every batch norm synchronised over processes: torch's layer on a GPU, ours on the CPU.

    Parameters and buffers are the same objects under the same names. A batch norm itself comes back as a new layer;
    anything else is changed in place.
    """
    tensor = next(module.parameters(), None)
    if tensor is not None and tensor.device.type == "cuda":
        return _synchronise_on_gpu(module, group)
    if isinstance(module, _BatchNorm) and not isinstance(module, SyncedBatchNorm | nn.SyncBatchNorm):
        return _converted(module, group)
    for name, child in module.named_children():
        setattr(module, name, synchronise_batchnorm(child, group=group))
    return module


def _converted(layer: _BatchNorm, group: Group) -> SyncedBatchNorm:
    new = SyncedBatchNorm(
        layer.num_features,
        group=group,
        eps=layer.eps,
        momentum=layer.momentum,
        affine=layer.affine,
        track_running_stats=layer.track_running_stats,
    )
    for name, parameter in layer.named_parameters(recurse=False):
        setattr(new, name, parameter)
    for name, buffer in layer.named_buffers(recurse=False):
        setattr(new, name, buffer)
    for name, child in layer.named_children():
        new.add_module(name, child)
    return new.train(layer.training)


def _synchronise_on_gpu(module: nn.Module, group: Group) -> nn.Module:
    """torch's conversion, or timm's where a batch norm carries an activation that torch's would lose."""
    if any(isinstance(layer, _BatchNorm) and any(True for _ in layer.children()) for layer in module.modules()):
        from timm.layers import convert_sync_batchnorm

        converted: nn.Module = convert_sync_batchnorm(module, group)
        return converted
    return nn.SyncBatchNorm.convert_sync_batchnorm(module, group)
