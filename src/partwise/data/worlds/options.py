"""Options of the worlds, which come as text from a source string or as numbers from a program."""

from __future__ import annotations

from partwise.config import UserError


def whole(kind: str, option: str, value: int | str, low: int, high: int) -> int:
    """An option of a world as a whole number within bounds. Raises UserError."""
    try:
        number = int(value) if not isinstance(value, bool) else None
    except (TypeError, ValueError):
        number = None
    if number is None or (number != value and str(number) != value) or not low <= number <= high:
        only = f"{low}" if low == high else f"a whole number from {low} to {high}"
        raise UserError(f"{kind}: option {option}={value}; expected {only}")
    return number
