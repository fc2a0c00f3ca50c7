"""Randomness as a function of counters: (seed, stage, epoch or step, ...) -> numbers, never of a generator's history.

That makes workers, prefetching and the number of processes irrelevant, and resuming exact. Not for the draws themselves:
those stand beside what they drive (ops/mixing.py, data/augment.py).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def derive(seed: int, *key: str | int) -> int:
    """A 63-bit seed that is a hash of `seed` and the key; different keys give unrelated streams."""
    text = "/".join([str(seed), *(str(part) for part in key)])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator(seed: int, *key: str | int, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator for one purpose, seeded by `derive`."""
    return torch.Generator(device=device).manual_seed(derive(seed, *key))


def order(count: int, seed: int, *key: str | int) -> Tensor:
    """A permutation of `count` positions, int64 `(count,)`."""
    return torch.randperm(count, generator=generator(seed, *key))
