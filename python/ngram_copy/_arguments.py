"""Checks of plain arguments: an error says what was wrong, which value, and what is allowed."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

SEED_LIMIT = 2**64
"""Seeds, streams and counters are 0 … 2^64 - 1."""


def integer(name: str, value: SupportsIndex, low: int, high: int | None = None) -> int:
    """Return ``value`` as an int in ``low`` … ``high - 1``, or of at least ``low``.

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
        raise TypeError(f"{name} must be an integer, not {value!r}") from None
    if number < low or (high is not None and number >= high):
        allowed = f"at least {low}" if high is None else f"{_show(low)} to {_show(high - 1)}"
        raise ValueError(f"{name} must be {allowed}, not {number}")
    return number


def real(name: str, value: float, low: float, high: float = math.inf, *, open_high: bool = False) -> float:
    """Return ``value`` as a float in [low, high], or in [low, high).

    Raises
    ------
    TypeError
        If it is not a number.
    ValueError
        If it is out of range.
    """
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a number, not {value!r}") from None
    if not low <= number <= high or (open_high and number == high):
        if high == math.inf:
            raise ValueError(f"{name} must be at least {low:g}, not {number}")
        raise ValueError(f"{name} must be in [{low:g}, {high:g}{')' if open_high else ']'}, not {number}")
    return number


def _show(number: int) -> str:
    """Large powers of two as such."""
    for power in (32, 63, 64):
        names = {2**power: f"2^{power}", 2**power - 1: f"2^{power} - 1", -(2**power): f"-2^{power}"}
        if number in names:
            return names[number]
    return str(number)
