"""Checks of arrays that all recurrences share: an error names the argument, what it is, and what is expected."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from ngram_copy._arguments import integer
from ngram_copy.ngram.hashes import MAX_THREADS

Padding = Literal["left", "right"]

Floats = NDArray[Any]
"""float32 or float64; within one call all of one type."""

Steps = tuple[int, int, NDArray[np.int64] | None, bool, NDArray[np.bool_] | None]
"""Batch, seq_len, lengths, whether padding is on the left, resets: as the core takes them."""

BLOCK = 64
"""Steps between two states that are kept for a backward pass."""


def as_threads(threads: SupportsIndex) -> int:
    """Return a number of threads that the core takes."""
    return integer("threads", threads, 1, MAX_THREADS + 1)


def common_dtype(**arrays: ArrayLike | None) -> np.dtype[Any]:
    """Return float32 where all arrays are of it, else float64.

    Raises
    ------
    TypeError
        If one is neither float32 nor float64, nor integers; the text names it.
    """
    wide = False
    for name, array in arrays.items():
        if array is None:
            continue
        dtype = np.asarray(array).dtype
        if dtype.kind not in "fiub" or (dtype.kind == "f" and dtype.itemsize not in (4, 8)):
            raise TypeError(f"{name} must be float32 or float64, not {dtype}")
        wide |= dtype.newbyteorder("=") != np.float32
    return np.dtype(np.float64 if wide else np.float32)


def as_floats(name: str, array: ArrayLike, dtype: DTypeLike, shape: Sequence[int | str], **sizes: int) -> Floats:
    """Return an aligned C-contiguous array of ``dtype``; one that is such is not copied.

    Parameters
    ----------
    name : str
        For messages.
    array : array_like
    dtype : dtype
    shape : sequence of int or str
        What is expected; a name stands for a size of ``sizes``, or for any size where it is not there.
    **sizes : int
        Sizes by name.

    Raises
    ------
    ValueError
        If the shape is another one.
    """
    found = np.asarray(array)
    expected = [sizes.get(size, size) if isinstance(size, str) else size for size in shape]
    fits = len(expected) == found.ndim and all(
        isinstance(size, str) or size == is_ for size, is_ in zip(expected, found.shape, strict=True)
    )
    if not fits:
        names = ", ".join(map(str, shape))
        known = ", ".join(map(str, expected))
        wanted = f"({names})" + (f" = ({known})" if known != names else "")
        raise ValueError(f"{name} must have the shape {wanted}, not {found.shape}")
    return np.require(found, dtype, ["C", "A"])


def optional_floats(
    name: str, array: ArrayLike | None, dtype: DTypeLike, shape: Sequence[int | str], **sizes: int
) -> Floats | None:
    """Return :func:`as_floats` of an array that may not be there."""
    return None if array is None else as_floats(name, array, dtype, shape, **sizes)


def as_steps(
    batch: int,
    seq_len: int,
    lengths: ArrayLike | None = None,
    padding: Padding = "right",
    resets: ArrayLike | None = None,
) -> Steps:
    """Return which steps of a batch there are, as the core takes it.

    Raises
    ------
    TypeError
        If ``lengths`` are not integers or ``resets`` not booleans.
    ValueError
        If one has another shape, a length is not 0 … seq_len, or ``padding`` is not ``"left"`` or ``"right"``.
    """
    if padding not in ("left", "right"):
        raise ValueError(f"padding must be 'left' or 'right', not {padding!r}")
    checked_lengths = checked_resets = None
    if lengths is not None:
        given = np.asarray(lengths)
        if given.dtype.kind not in "iu":
            raise TypeError(f"lengths must be integers, not {given.dtype}")
        if given.shape != (batch,):
            raise ValueError(f"lengths must have the shape (batch) = ({batch}), not {given.shape}")
        wrong = np.flatnonzero((given < 0) | (given > seq_len))
        if wrong.size:
            row = int(wrong[0])
            raise ValueError(f"lengths[{row}] must be 0 to seq_len = {seq_len}, not {given[row]}")
        checked_lengths = np.require(given, np.int64, ["C", "A"])
    if resets is not None:
        given = np.asarray(resets)
        if given.dtype != np.bool_:
            raise TypeError(f"resets must be booleans, not {given.dtype}")
        if given.shape != (batch, seq_len):
            raise ValueError(f"resets must have the shape (batch, seq_len) = ({batch}, {seq_len}), not {given.shape}")
        checked_resets = np.require(given, np.bool_, ["C", "A"])
    return batch, seq_len, checked_lengths, padding == "left", checked_resets
