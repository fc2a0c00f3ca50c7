"""Contrast with a queue of keys, less those too similar to the query: Adam-v1 (Hosseinzadeh Taher et al., 2023).

InfoNCE as in MoCo (He et al., 2020): a query is to recognise its own key among those of other pictures, which a queue
remembers. Anatomy repeats, so at finer levels many of them show the same structure; the purposive pruner leaves them out.
Queries and keys are unit vectors, so their products are cosines. The encoders and their average are not here.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

TEMPERATURE = 0.2
THRESHOLD = 0.8


class Queue(NamedTuple):
    """A ring of the latest keys: where it is full, the next ones take the place of the oldest."""

    keys: Float[Tensor, "n d"]
    """Unit vectors."""
    position: Int[Tensor, ""]
    """The row that the next key takes, int64, on the device of `keys`."""


def random_queue(size: int, dim: int, *, generator: torch.Generator) -> Queue:
    """A queue of random directions, float32 on the generator's device: what training starts from."""
    keys = torch.randn(size, dim, generator=generator, device=generator.device)
    return Queue(F.normalize(keys, dim=1), torch.zeros((), dtype=torch.int64, device=generator.device))


@torch.no_grad()
def enqueue(queue: Queue, keys: Float[Tensor, "b d"]) -> Queue:
    """A queue with `keys` (of all processes, gathered) put in order in place of its oldest; the given one stays as it is.

    Any number of keys goes, and need not divide the queue's: of more than it holds, the last remain. Raises ValueError for
    keys of another length.
    """
    size, dim = queue.keys.shape
    if keys.ndim != 2 or keys.shape[1] != dim:
        raise ValueError(f"keys of shape {tuple(keys.shape)}: expected (B, {dim}), as the queue's")
    kept = keys[-size:]
    first = queue.position + (len(keys) - len(kept))
    rows = (first + torch.arange(len(kept), device=keys.device)) % size
    return Queue(queue.keys.index_copy(0, rows, kept.to(queue.keys.dtype)), (queue.position + len(keys)) % size)


def contrast_logits(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "b d"],
    negatives: Float[Tensor, "n d"],
    *,
    temperature: float = TEMPERATURE,
    threshold: float | None = THRESHOLD,
) -> Float[Tensor, "b one_and_n"]:
    """Cosines over `temperature` of each query with its own key, in column 0, and with the queue's; -inf where pruned.

    A query prunes every negative of cosine `threshold` or more, none where that is None, and never its own key. Gradients
    reach the queries only. Raises ValueError for shapes that do not fit and a temperature that is not positive.
    """
    if queries.ndim != 2 or queries.shape != keys.shape or negatives.shape[1:] != queries.shape[1:]:
        raise ValueError(
            f"queries {tuple(queries.shape)}, keys {tuple(keys.shape)}, negatives {tuple(negatives.shape)}: "
            "expected (B, D), (B, D), (N, D)"
        )
    if not temperature > 0:
        raise ValueError(f"temperature {temperature}: expected one above zero")
    dtype = torch.promote_types(queries.dtype, torch.float32)
    queries, keys, negatives = queries.to(dtype), keys.detach().to(dtype), negatives.detach().to(dtype)
    own = (queries * keys).sum(dim=1, keepdim=True)
    with torch.autocast(queries.device.type, enabled=False):  # half precision would move cosines across the threshold
        others = queries @ negatives.T
    if threshold is not None:
        others = others.masked_fill(others >= threshold, -torch.inf)
    return torch.cat([own, others], dim=1) / temperature


def pruned_info_nce(
    queries: Float[Tensor, "b d"],
    keys: Float[Tensor, "b d"],
    negatives: Float[Tensor, "n d"],
    *,
    temperature: float = TEMPERATURE,
    threshold: float | None = THRESHOLD,
) -> Float[Tensor, ""]:
    """Mean over queries of - ln of the own key's share in the softmax of `contrast_logits`; 0 where all else is pruned.

    Without a threshold this is InfoNCE, as for whole pictures. Raises ValueError as `contrast_logits` does.
    """
    logits = contrast_logits(queries, keys, negatives, temperature=temperature, threshold=threshold)
    return F.cross_entropy(logits, torch.zeros(len(logits), dtype=torch.int64, device=logits.device))


@torch.no_grad()
def pruned_share(logits: Float[Tensor, "b one_and_n"]) -> Float[Tensor, ""]:
    """Which share of the negatives the pruner took out of `contrast_logits`; near 1, little is left to learn from."""
    return logits[:, 1:].isneginf().to(logits.dtype).mean()
