"""Statistics of the n-grams of a text: how many, how often, and within how many tokens one comes again.

Memory besides the text: at most 27 bytes for each distinct n-gram, and 8 more where they are counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import SupportsIndex

from numpy.typing import ArrayLike

from ngram_copy import _rust
from ngram_copy._arguments import MAX_N, SEED_LIMIT, as_tokens, integer


@dataclass(frozen=True)
class NgramStatistics:
    """Counts of the n-grams of a text.

    Attributes
    ----------
    total : int
        All n-grams.
    distinct : int
        Different ones.
    repeated : int
        Different ones that occur at least twice.
    occurrences_of_repeated : int
        All n-grams that occur at least twice.
    most_common : int
        Occurrences of the most frequent one; 0 where there is none.
    """

    total: int
    distinct: int
    repeated: int
    occurrences_of_repeated: int
    most_common: int


@dataclass(frozen=True)
class RepeatWindows:
    """Windows of one length.

    Attributes
    ----------
    length : int
        L, tokens in a window.
    repeating : int
        Windows in which some n-gram occurs at least twice.
    total : int
        All windows that were looked at.
    """

    length: int
    repeating: int
    total: int


def ngram_statistics(
    x: ArrayLike, n: int, *, threads: int = 1, progress: Callable[[int], object] | None = None
) -> NgramStatistics:
    """Count the n-grams of a text exactly.

    Parameters
    ----------
    x : array of integers, shape (seq_len,)
        Tokens 0 … 2^32 - 1.
    n : int
        1 … 65536.
    threads : int
        At least 1; no influence on the result.
    progress : callable, optional
        Called with the number of tokens done about every million; an exception that it raises ends the call.

    Returns
    -------
    NgramStatistics
        All zeros where n > seq_len.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    TypeError
        If tokens are not integers.
    """
    tokens = as_tokens("x", x, ndim=1)
    return NgramStatistics(*_rust.ngram_statistics(tokens, _n(n), integer("threads", threads, 1, 2**16), progress))


def repeat_windows(
    x: ArrayLike,
    n: int,
    lengths: Iterable[int],
    *,
    samples: int | None = None,
    seed: int = 0,
    progress: Callable[[int], object] | None = None,
) -> list[RepeatWindows]:
    """Count the windows of L tokens in which some n-gram repeats: p_ngram(L) of a text, for several L at once.

    Parameters
    ----------
    x : array of integers, shape (seq_len,)
        Tokens 0 … 2^32 - 1.
    n : int
        1 … 65536.
    lengths : iterable of int
        L, each at least 1.
    samples : int, optional
        Look at so many windows of each length, drawn with replacement; otherwise at all, in one pass over the text.
    seed : int
        Of the sample.
    progress : callable, optional
        Called with the number of tokens done about every million; an exception that it raises ends the call.

    Returns
    -------
    list of RepeatWindows
        One for each length; none looked at where L > seq_len.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    TypeError
        If tokens are not integers.
    """
    tokens = as_tokens("x", x, ndim=1)
    if not isinstance(lengths, Iterable):
        raise TypeError(f"lengths must be several integers, such as [{lengths!r}], not {lengths!r}")
    lengths = [integer("lengths", length, 1, 2**63) for length in lengths]
    if samples is not None:
        samples = integer("samples", samples, 1, 2**63)
    seed = integer("seed", seed, 0, SEED_LIMIT)
    windows = _rust.repeat_windows(tokens, _n(n), lengths, samples, seed, progress)
    return [RepeatWindows(length, *counts) for length, counts in zip(lengths, windows, strict=True)]


def first_repeat(x: ArrayLike, n: int) -> tuple[int, int] | None:
    """Find the first n-gram that occurred before.

    Parameters
    ----------
    x : array of integers, shape (seq_len,)
        Tokens 0 … 2^32 - 1.
    n : int
        1 … 65536.

    Returns
    -------
    (earlier, later) or None
        Where the two equal n-grams start; ``later`` is the smallest possible.
    """
    return _rust.first_pair(as_tokens("x", x, ndim=1), _n(n), False)


def first_conflict(x: ArrayLike, n: int) -> tuple[int, int] | None:
    """Find the first token that differs from what followed an equal n-gram before: where n-gram copying first fails.

    Parameters
    ----------
    x : array of integers, shape (seq_len,)
        Tokens 0 … 2^32 - 1.
    n : int
        1 … 65536.

    Returns
    -------
    (earlier, later) or None
        ``x[earlier] != x[later]`` after equal n-grams; ``later`` is the smallest possible, and ``earlier`` follows the
        first occurrence.
    """
    return _rust.first_pair(as_tokens("x", x, ndim=1), _n(n), True)


def _n(n: SupportsIndex) -> int:
    return integer("n", n, 1, MAX_N + 1)
