"""Checks of plain arguments: an error says what was wrong, which value, and what is allowed."""

from __future__ import annotations

import operator
from typing import SupportsIndex

SEED_LIMIT = 2**64
"""Seeds, streams and counters are 0 … 2^64 - 1."""


def integer(name: str, value: SupportsIndex, low: int, high: int) -> int:
    """Return ``value`` as an int in ``low`` … ``high - 1``.

    Raises
    ------
    TypeError
        If it is not an integer.
    ValueError
        If it is out of range.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, got {value!r}") from None
    if not low <= number < high:
        raise ValueError(f"{name} must be {_show(low)} to {_show(high - 1)}, got {number}")
    return number


def _show(number: int) -> str:
    for power in (63, 64):
        for text, value in (
            (f"2^{power}", 2**power),
            (f"2^{power} - 1", 2**power - 1),
            (f"-2^{power}", -(2**power)),
        ):
            if number == value:
                return text
    return str(number)
