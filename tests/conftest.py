"""Fixtures shared by all tests: packs of real pictures beside the repository, and one thread a test."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Small tensors gain nothing from threads, and tests run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def pack() -> Callable[[str], Path]:
    """`pack("cifar10")`: the folder of a pack of real pictures, or a skip where it is not there."""

    def find(name: str) -> Path:
        folder = REPOSITORY.parent / "shared" / "data" / name
        if not folder.is_dir():
            pytest.skip(f"pack {name} is not beside the repository")
        return folder

    return find
