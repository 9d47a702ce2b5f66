"""Checks of arguments: each names the argument, its value and what is allowed."""

from __future__ import annotations

import math
import operator
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray


def integer(name: str, value: SupportsIndex, low: int) -> int:
    """Return ``value`` as an int of at least ``low``."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{name} must be an integer, not {value!r}") from None
    if number < low:
        raise ValueError(f"{name} must be at least {low}, not {number}")
    return number


def real(name: str, value: float, low: float, high: float = math.inf, *, open_high: bool = False) -> float:
    """Return ``value`` as a float in [low, high], or in [low, high)."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be a number, not {value!r}") from None
    if not low <= number <= high or (open_high and number == high):
        if high == math.inf:
            raise ValueError(f"{name} must be at least {low:g}, not {number}")
        raise ValueError(f"{name} must be in [{low:g}, {high:g}{')' if open_high else ']'}, not {number}")
    return number


def distribution(values: ArrayLike) -> NDArray[np.float64]:
    """Return ``values`` as probabilities, shape (vocab_size,), that sum to 1."""
    p = np.asarray(values, dtype=np.float64)
    if p.ndim != 1 or p.size == 0:
        raise ValueError(f"probabilities must be one row of numbers, not an array of shape {p.shape}")
    total = float(p.sum())
    if not (p.min() >= 0 and abs(total - 1) <= 1e-6):
        raise ValueError(f"probabilities must be >= 0 and sum to 1; the least is {p.min()}, their sum {total}")
    normalised: NDArray[np.float64] = p / total
    return normalised
