"""Checks of complex arrays, and how they go to the core: as floats, twice as many along the last axis."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ngram_copy.ssm._arrays import Floats, as_floats

Complexes = NDArray[Any]
"""complex64 or complex128."""


def common_dtypes(**arrays: ArrayLike | None) -> tuple[np.dtype[Any], np.dtype[Any], bool]:
    """Return float32 and complex64 where all arrays are of these, else float64 and complex128.

    Returns
    -------
    real, complex : dtype
    any_complex : bool
        Whether one is complex.

    Raises
    ------
    TypeError
        If one is of none of them, nor integers; the text names it.
    """
    wide = any_complex = False
    for name, array in arrays.items():
        if array is None:
            continue
        dtype = np.asarray(array).dtype
        if dtype.kind not in "fciub" or dtype.newbyteorder("=") in (np.float16, np.longdouble, np.clongdouble):
            raise TypeError(f"{name} must be float32, float64, complex64 or complex128, not {dtype}")
        wide |= dtype.newbyteorder("=") not in (np.float32, np.complex64)
        any_complex |= dtype.kind == "c"
    if wide:
        return np.dtype(np.float64), np.dtype(np.complex128), any_complex
    return np.dtype(np.float32), np.dtype(np.complex64), any_complex


def as_real(name: str, array: ArrayLike, dtype: DTypeLike, shape: Sequence[int | str], **sizes: int) -> Floats:
    """Return :func:`as_floats` of an array that must not be complex.

    Raises
    ------
    TypeError
        If it is complex.
    ValueError
        If the shape is another one.
    """
    if np.iscomplexobj(array):
        raise TypeError(f"{name} must be real, not {np.asarray(array).dtype}")
    return as_floats(name, array, dtype, shape, **sizes)


def scalars(array: NDArray[Any]) -> Floats:
    """Return the floats of a contiguous array, without a copy; of complex numbers, real and imaginary parts in turn."""
    return array.view(array.real.dtype)


def optional_scalars(array: NDArray[Any] | None) -> Floats | None:
    """Return :func:`scalars` of an array that may not be there."""
    return None if array is None else scalars(array)
