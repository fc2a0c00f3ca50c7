import math

import pytest

from partwise.report import wording


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.91234, "0.9123"),
        (1, "1"),
        (12345, "12,345"),
        (0.0, "0"),
        (3e-5, "3e-05"),
        (123.456, "123.46"),
        (45678.9, "45,679"),
        (1.5e9, "1.5e+09"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
        (True, "–"),
        ("0.5", "–"),
        (10**400, "–"),
    ],
)
def test_numbers(value: object, expected: str) -> None:
    assert wording.number(value) == expected


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (4.21, "4.2 s"),
        (59.99, "1 min 00 s"),
        (200, "3 min 20 s"),
        (3599.9, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (-1, "–"),
        ("x", "–"),
    ],
)
def test_durations(seconds: object, expected: str) -> None:
    assert wording.duration(seconds) == expected


def test_meanings_are_found_behind_variants_and_know_their_direction() -> None:
    assert wording.meaning("classification@pets/top1") == wording.MEANINGS["classification/top1"]
    assert wording.meaning("made/up") == ""
    assert wording.meaning("classification/hflip@pets/top1") == wording.MEANINGS["classification/top1"]
    assert wording.lower_is_better("classification/nll") and not wording.lower_is_better("classification/top1")
    assert all(map(wording.meaning, wording.HEADLINES))


def test_any_value_becomes_one_line() -> None:
    assert wording.text({"a": [1, 2], "b": None, "c": {}}) == "a: 1, 2, b: –, c: none"
    assert wording.text(True) == "yes" and wording.signed(-0.01) == "−0.0100"
