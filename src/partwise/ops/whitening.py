"""ZCA whitening of whole pictures, for experts and distilled sets of the trajectory matching methods (MTT, section 4).

Pictures are rows of D = C * H * W values; with their mean mu and covariance Sigma = U diag(S) U^T

    T = U diag((S + eps)^-1/2) U^T,    x' = (x - mu) T,    x = x' T^-1 + mu.

Distilled and evaluated is x'; the inverse is for looking at pictures. A left-right flip P of x' is the whitened flip of
x only as far as T P = P T. Sigma of real pictures is nearly flip-symmetric, and so is T; a fit with `flips` makes it
exact. Sizes of D beyond some 12,000 (64 x 64 in colour) are out of reach: the matrix has D^2 values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

CHUNK = 2048
"""Pictures in double precision at once: 50 MB of them at 32 x 32 in colour."""


@dataclass(frozen=True)
class Whitening:
    """A fitted transform; `matrix` and `inverse` are symmetric. Rows are pictures in the order of `flatten(1)`."""

    mean: Float[Tensor, " d"]
    matrix: Float[Tensor, "d d"]
    inverse: Float[Tensor, "d d"]

    def to(self, device: torch.device | str) -> Whitening:
        """The same on another device."""
        return Whitening(self.mean.to(device), self.matrix.to(device), self.inverse.to(device))


@torch.no_grad()
def fit_whitening(
    pictures: Shaped[Tensor, "n c h w"], *, eps: float = 0.1, flips: bool = False, chunk: int = CHUNK
) -> Whitening:
    """The transform of the training pictures: floats as they are (published: in [0, 1]), uint8 as value / 255.

    `flips` fits on the pictures and their left-right flips, at no cost. Computed in float64 on the pictures' device,
    `chunk` pictures at a time; the result is float32. Raises ValueError for fewer than two pictures, another layout,
    values that are not finite, or an eps that is not above 0.
    """
    if pictures.ndim != 4 or len(pictures) < 2:
        raise ValueError(f"pictures {tuple(pictures.shape)}: expected at least two, as (N, C, H, W)")
    if not eps > 0:
        raise ValueError(f"eps {eps}: expected a number above 0")
    flip = _flip_order(pictures)
    parts = pictures.split(chunk)
    mean = torch.stack([_rows(part, torch.float64).sum(dim=0) for part in parts]).sum(dim=0) / len(pictures)
    if flips:
        mean = (mean + mean[flip]) / 2
    scatter = mean.new_zeros(len(mean), len(mean))
    for part in parts:
        centred = _rows(part, torch.float64) - mean
        scatter.addmm_(centred.T, centred)
    if not scatter.isfinite().all():
        raise ValueError("pictures hold values that are not finite")
    if flips:  # the other half of the set: the same rows with their columns in the other order
        scatter = scatter + scatter[flip][:, flip]
    values, vectors = torch.linalg.eigh(scatter / (len(pictures) * (2 if flips else 1) - 1))
    values = values.clamp(min=0) + eps  # a singular covariance has eigenvalues a little below 0
    powers = [(vectors * values**power) @ vectors.T for power in (-0.5, 0.5)]
    if flips:  # commute with the flip to the last bit, and not to rounding errors
        powers = [(power + power[flip][:, flip]) / 2 for power in powers]
    matrix, inverse = (power.float() for power in powers)
    return Whitening(mean.float(), matrix, inverse)


@torch.no_grad()
def whiten(pictures: Shaped[Tensor, "n c h w"], whitening: Whitening) -> Float[Tensor, "n c h w"]:
    """x' = (x - mu) T of pictures in the scale of the fit; uint8 is read as value / 255."""
    return _chunked(pictures, lambda rows: (rows - whitening.mean) @ whitening.matrix, whitening)


@torch.no_grad()
def unwhiten(whitened: Float[Tensor, "n c h w"], whitening: Whitening) -> Float[Tensor, "n c h w"]:
    """x = x' T^-1 + mu: pictures to look at, in the scale of the fit and not clipped to it."""
    return _chunked(whitened, lambda rows: torch.addmm(whitening.mean, rows, whitening.inverse), whitening)


def whitening_fingerprint(whitening: Whitening) -> str:
    """A short hash of mean and matrix to the last bit. A second fit on another machine has another one: store the first."""
    digest = hashlib.sha256()
    for tensor in (whitening.mean, whitening.matrix):
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _chunked(pictures: Tensor, transform: Callable[[Tensor], Tensor], whitening: Whitening) -> Tensor:
    """`transform` of the rows of all pictures, a chunk at a time, in their own shape."""
    size = whitening.mean.numel()
    if pictures.ndim != 4 or pictures.shape[1:].numel() != size:
        raise ValueError(f"pictures {tuple(pictures.shape)}: the whitening is of (N, C, H, W) with {size} values each")
    result = torch.empty(pictures.shape, dtype=whitening.mean.dtype, device=pictures.device)
    for part, place in zip(pictures.split(CHUNK), result.split(CHUNK), strict=True):
        place.copy_(transform(_rows(part, result.dtype)).reshape(part.shape))
    return result


def _rows(pictures: Tensor, dtype: torch.dtype) -> Tensor:
    """Pictures as rows of floating values."""
    rows = pictures.flatten(1).to(dtype)
    return rows / 255 if pictures.dtype == torch.uint8 else rows


def _flip_order(pictures: Tensor) -> Tensor:
    """Which value of a row stands where in the row of the flipped picture."""
    shape = pictures.shape[1:]
    return torch.arange(shape.numel(), device=pictures.device).reshape(shape).flip(-1).flatten()
