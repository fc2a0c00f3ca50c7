"""How a kind of bad input is written down: a function from an empty working folder to the words of a command."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from tests.faults.places import Place, contents, train

Case = Callable[[Place], list[str]]

NEEDS_USER = {"marks": pytest.mark.skipif(os.geteuid() == 0, reason="root may read and write everything")}
NEEDS_CPU = {"marks": pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU computes float16")}


@dataclass(frozen=True)
class Kinds:
    """The kinds of one test file, for `pytest.mark.parametrize(("case", "says"), kinds.found)`."""

    found: list[Any] = field(default_factory=list)

    def bad(self, name: str, *says: str, **marks: Any) -> Callable[[Case], Case]:
        """Decorator: a kind of bad input, and the pieces of the answer to it."""

        def register(case: Case) -> Case:
            self.found.append(pytest.param(case, says, id=name.replace(" ", "-"), **marks))
            return case

        return register


class Executed:
    """Its pickle, if it were ever loaded, would leave a folder behind."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, ("EXECUTED",)


def setting(*settings: str) -> list[str]:
    """The words of a tiny training with these fields set."""
    return train(*(word for text in settings for word in ("--set", text)))


def check_refused(case: Case, says: tuple[str, ...], place: Place, refused: Callable[[list[str]], str]) -> None:
    """The command is answered in the right words, runs nothing, and leaves every file as it was."""
    words = case(place)
    before = contents(place.root)
    answer = refused(words)
    for piece in says:
        assert piece in answer
    assert contents(place.root) == before  # nothing lost, nothing half begun
    assert not (place.root / "EXECUTED").exists()
