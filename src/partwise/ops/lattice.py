"""Gaussian filtering in several dimensions on the permutohedral lattice (Adams, Baek and Davis 2010).

Points are spread over the corners of the simplices that enclose them (splat), the corners are blurred along the
lattice's d + 1 directions, and the points read the corners back (slice). Each step is a matrix with few entries a row,
so a filter is `S B_d ... B_0 S^T x`, and the same on any device. An approximation of `sum_j exp(-|f_i - f_j|^2 / 2) x_j`
up to a constant factor, and the one that published dense-CRF parameters were tuned with (see crf.py).

A corner's d coordinates are packed into one integer, in which every direction of the lattice is a plain offset.
"""

from __future__ import annotations

import math
from copy import copy
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


@dataclass(frozen=True)
class SparseRows:
    """A matrix by rows: row r has `weights[offsets[r]:offsets[r + 1]]` in the columns of the same places.

    `rows @ table` is a gather and a sum for every row: nothing is added atomically, so it is exactly repeatable.
    """

    columns: Int[Tensor, " e"]
    offsets: Int[Tensor, " r_and_one"]
    weights: Float[Tensor, " e"]

    def __matmul__(self, table: Float[Tensor, "k c"]) -> Float[Tensor, "r c"]:
        return F.embedding_bag(
            self.columns, table, self.offsets, mode="sum", per_sample_weights=self.weights, include_last_offset=True
        )


@dataclass(frozen=True)
class Simplices:
    """What encloses each of n points: barycentric weights and packed keys of its d + 1 corners.

    `steps[j]` is what direction j of the lattice adds to a key: 1 to every coordinate, and -d to coordinate j.
    """

    weights: Float[Tensor, "corners n"]
    keys: Int[Tensor, "corners n"]
    steps: Int[Tensor, " corners"]


def enclosing_simplices(features: Float[Tensor, "n d"]) -> Simplices:
    """The simplex of the lattice around every point, for a blur of standard deviation 1 in each feature.

    In float32 every rounding is that of the public C++ code: of points on the border of two simplices, frequent in flat
    parts of a picture, each then falls on the same side, and the same corners exist.
    Raises ValueError for features that are not finite, or span more lattice cells than 63 bits can number.
    """
    num_dims = features.shape[1]
    inverse = 1 / (num_dims + 1)
    elevated = _elevate(features)
    quotient = (elevated * inverse).round()
    rank = _ranks(elevated - quotient * (num_dims + 1)) + quotient.sum(dim=0).long()
    # The rounded point may lie off the plane of zero sum; the coordinates of extreme rank bring it back.
    quotient += (rank < 0).to(quotient.dtype) - (rank > num_dims).to(quotient.dtype)
    rank = rank.remainder(num_dims + 1)

    numbers = torch.arange(num_dims + 1, device=rank.device)[:, None]
    axes = torch.empty_like(rank).scatter_(0, rank, numbers.expand_as(rank))
    falling = axes.flip(0)  # rank d first: a walk over the corners adds its direction first
    ordered = ((elevated - quotient * (num_dims + 1)) * inverse).gather(0, falling)
    weights = ordered - ordered.roll(1, 0)
    weights[0] += 1

    strides, lowest = _packing(quotient[:-1])
    steps = strides.sum() - (num_dims + 1) * F.pad(strides, (0, 1))
    keys = torch.empty_like(rank)
    keys[0] = ((quotient[:-1].long() - lowest[:, None]) * strides[:, None]).sum(dim=0) * (num_dims + 1)
    keys[1:] = keys[0] + steps[falling[:-1]].cumsum(0)
    return Simplices(weights, keys, steps)


def _elevate(features: Float[Tensor, "n d"]) -> Float[Tensor, "d_and_one n"]:
    """The points in the plane of zero sum of d + 1 dimensions, scaled so that the whole filter has deviation 1.

    With `c_i = f_i sqrt(2/3) (d + 1) / sqrt((i + 1)(i + 2))`: `e_j = sum_{i >= j} c_i - j c_{j-1}`.
    """
    num_dims = features.shape[1]
    deviation = torch.tensor(math.sqrt(2 / 3) * (num_dims + 1), dtype=features.dtype).item()
    elevated = features.new_empty(num_dims + 1, features.shape[0])
    tail = features.new_zeros(features.shape[0])
    for axis in range(num_dims, 0, -1):
        scaled = features[:, axis - 1] * (deviation / math.sqrt(axis * (axis + 1)))
        elevated[axis] = tail - axis * scaled
        tail = tail + scaled
    elevated[0] = tail
    return elevated


def _ranks(residual: Float[Tensor, "a n"]) -> Int[Tensor, "a n"]:
    """Of each coordinate: how many are larger, or equal and of a lower axis."""
    ranks = torch.zeros(residual.shape, dtype=torch.long, device=residual.device)
    for axis in range(len(residual)):
        for other in range(axis):
            behind = residual[other] >= residual[axis]
            ranks[axis] += behind
            ranks[other] += ~behind
    return ranks


def _packing(quotient: Float[Tensor, "d n"]) -> tuple[Int[Tensor, " d"], Int[Tensor, " d"]]:
    """(strides, lowest quotients) that number all corners and their neighbours without a collision.

    Corners lie up to d from the nearest points and neighbours up to d further, so two keys differ in a coordinate by
    its span plus at most 3 d.
    """
    num_dims = len(quotient)
    lowest, highest = quotient.aminmax(dim=1)
    spans = ((highest - lowest) * (num_dims + 1)).tolist()
    radices = [int(span) + 3 * num_dims + 1 if math.isfinite(span) else 2**63 for span in spans]
    if math.prod(radices) >= 2**62:
        raise ValueError("lattice: features must be finite and span fewer cells; divide by a larger deviation")
    strides = [math.prod(radices[axis + 1 :]) for axis in range(num_dims)]
    return torch.tensor(strides, device=quotient.device), lowest.long()


class Permutohedral:
    """The lattice of n points `(n, d)`, built once for many values: `filter((n, c)) -> (n, c)`.

    Features are in units of the kernel's deviation; values have their dtype. Raises ValueError as
    `enclosing_simplices`, and for no points.
    """

    def __init__(self, features: Float[Tensor, "n d"]) -> None:
        if features.ndim != 2 or 0 in features.shape:
            raise ValueError(f"lattice: features of shape {tuple(features.shape)}; expected (points, dimensions)")
        simplices = enclosing_simplices(features)
        corners, count = simplices.keys.shape
        ordered, order = simplices.keys.flatten().sort(stable=True)
        first = ordered.diff(prepend=ordered[:1] - 1) != 0
        vertices = ordered[first]
        vertex_of = torch.empty_like(order).scatter_(0, order, first.cumsum(0) - 1)
        offsets = F.pad(first.nonzero()[:, 0], (0, 1), value=len(order))
        self._splat = _rows(order % count, offsets, simplices.weights.flatten()[order])
        self._blurs = _blurs(vertices, simplices.steps, features.dtype)
        # The last factor makes up for what the blurs add.
        self._slice = _rows(
            vertex_of.reshape(corners, count).T.flatten(),
            torch.arange(0, len(order) + 1, corners, device=order.device),
            simplices.weights.T.flatten() / (1 + 2.0 ** (1 - corners)),
        )

    @property
    def num_vertices(self) -> int:
        """How many corners at least one point has a share in."""
        return len(self._splat.offsets) - 1

    def splat(self, values: Float[Tensor, "n c"]) -> Float[Tensor, "m c"]:
        """Every corner's sum of the values around it, by barycentric weight."""
        return self._splat @ values

    def blur(self, table: Float[Tensor, "m c"]) -> Float[Tensor, "m c"]:
        """`[1/2, 1, 1/2]` along each direction in turn; corners without a point count as 0."""
        for rows in self._blurs:
            table = rows @ table
        return table

    def slice(self, table: Float[Tensor, "m c"]) -> Float[Tensor, "n c"]:
        """Every point's mean of its corners by barycentric weight, divided by `1 + 2^-d`."""
        return self._slice @ table

    def filter(self, values: Float[Tensor, "n c"]) -> Float[Tensor, "n c"]:
        """The Gaussian sum at every point, its own value included."""
        return self.slice(self.blur(self.splat(values)))

    def normalised(self, weight: float = 1.0) -> Permutohedral:
        """The lattice whose filter is `weight D^-1/2 G D^-1/2`, with G this one's and D the diagonal of G times ones."""
        ones = self._slice.weights.new_ones(len(self._slice.offsets) - 1, 1)
        norm = (self.filter(ones)[:, 0] + 1e-20).rsqrt()
        corners = len(self._blurs)
        made = copy(self)
        made._splat = replace(self._splat, weights=self._splat.weights * norm[self._splat.columns])
        made._slice = replace(self._slice, weights=self._slice.weights * (weight * norm).repeat_interleave(corners))
        return made


def _rows(columns: Tensor, offsets: Tensor, weights: Tensor) -> SparseRows:
    """With indices of 32 bits, which halve what a product reads beside its table."""
    return SparseRows(columns.int(), offsets.int(), weights.contiguous())


def _blurs(vertices: Int[Tensor, " m"], steps: Int[Tensor, " a"], dtype: torch.dtype) -> tuple[SparseRows, ...]:
    """For every direction the rows `x + (up + down) / 2` over sorted keys; a missing neighbour is the row itself, times 0."""
    count = len(vertices)
    own = torch.arange(count, device=vertices.device)
    wanted = vertices + steps[:, None]
    places = torch.searchsorted(vertices, wanted).clamp_(max=count - 1)
    exists = vertices[places] == wanted
    offsets = torch.arange(0, 3 * count + 1, 3, device=own.device)
    made = []
    for up, has_up in zip(places, exists, strict=True):
        # Who is above whom, read backwards; the last place takes those without one.
        below = own.new_full((count + 1,), -1).scatter_(0, torch.where(has_up, up, count), own)[:count]
        has_below = below >= 0
        columns = torch.stack([own, torch.where(has_up, up, own), torch.where(has_below, below, own)], dim=1)
        shares = torch.stack([torch.ones_like(has_up), has_up, has_below], dim=1).to(dtype)
        weights = shares * torch.tensor([1, 0.5, 0.5], dtype=dtype, device=own.device)
        made.append(_rows(columns.flatten(), offsets, weights.flatten()))
    return tuple(made)
