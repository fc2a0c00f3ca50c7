"""Ten steps of every way of mixing give the losses that they gave when they were last looked at."""

from __future__ import annotations

import json

import pytest

from tests.golden.regenerate import FILE, RUNS, STEPS, losses

STORED: dict[str, list[float]] = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_run_is_stored_and_differs_from_the_others() -> None:
    assert STORED.keys() == RUNS.keys()
    assert all(len(values) == STEPS for values in STORED.values())
    assert len({tuple(values) for values in STORED.values()}) == len(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_ten_losses_are_as_they_were(name: str) -> None:
    """To 1e-4, for machines add up in different orders. Meant to move? `python tests/golden/regenerate.py`, and say why."""
    assert losses(name) == pytest.approx(STORED[name], rel=1e-4)
