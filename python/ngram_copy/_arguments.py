"""Checks of plain arguments: an error says what was wrong, which value, and what is allowed."""

from __future__ import annotations

import math
import operator
import sys
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

SIZE_LIMIT = 2**63
"""Lengths and counts are below 2^63."""

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
    except OverflowError:
        raise ValueError(f"{name} must be at most {sys.float_info.max:.3g}, and is far beyond it") from None
    if not low <= number <= high or (open_high and number == high):
        if high == math.inf:
            raise ValueError(f"{name} must be at least {low:g}{' and finite' if open_high else ''}, not {number}")
        raise ValueError(f"{name} must be in [{low:g}, {high:g}{')' if open_high else ']'}, not {number}")
    return number


def _show(number: int) -> str:
    """Large powers of two as such."""
    for power in (32, 63, 64):
        names = {2**power: f"2^{power}", 2**power - 1: f"2^{power} - 1", -(2**power): f"-2^{power}"}
        if number in names:
            return names[number]
    return str(number)


MAX_N = 2**16
"""The longest n-gram."""

MAX_TOKEN = 2**32 - 1
"""Tokens are 0 … 2^32 - 1."""

# Kinds and sizes, as the name of a dtype takes long to make.
_NATIVE = {("u", 1), ("u", 2), ("u", 4), ("i", 4), ("i", 8)}


def as_tokens(name: str, tokens: ArrayLike, *, ndim: int | tuple[int, ...]) -> NDArray[Any]:
    """Return tokens as an aligned C-contiguous array of native uint8, uint16, uint32, int32 or int64.

    Arrays that are such are not copied; the core checks their values.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If they have another rank, or do not fit.
    """
    array = np.asarray(tokens)
    if array.size == 0 and not isinstance(tokens, np.ndarray):
        array = array.astype(np.uint32)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be integers, not {array.dtype}")
    ranks = (ndim,) if isinstance(ndim, int) else ndim
    if array.ndim not in ranks:
        allowed = " or ".join(map(str, ranks))
        raise ValueError(f"{name} must have {allowed} dimension{'s'[: ranks[-1] > 1]}, not {array.ndim}")
    native = array.dtype.newbyteorder("=")
    if (native.kind, native.itemsize) not in _NATIVE:
        if native == np.uint64:
            _check_tokens(name, array)
        native = np.dtype(np.int64)
    return np.require(array, native, ["C", "A"])


def as_uint32(name: str, tokens: ArrayLike, *, ndim: int) -> NDArray[np.uint32]:
    """Return tokens as a C-contiguous array of native uint32.

    Raises
    ------
    TypeError
        If they are not integers.
    ValueError
        If they have another rank, or one is not 0 … 2^32 - 1.
    """
    array = as_tokens(name, tokens, ndim=ndim)
    if array.dtype.kind == "i":
        _check_tokens(name, array)
    return array.astype(np.uint32, copy=False)


def _check_tokens(name: str, array: NDArray[Any]) -> None:
    bad = (array < 0) | (array > MAX_TOKEN)
    if bad.any():
        at = np.unravel_index(int(bad.argmax()), array.shape)
        index = ", ".join(str(int(i)) for i in at)
        raise ValueError(f"{name}[{index}] must be 0 to 2^32 - 1, not {array[at]}")
