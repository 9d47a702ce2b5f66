"""How likely an n-gram of a uniform string repeats, by Knuth's estimator: every length at once, from few strings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from ngram_copy import _rust
from ngram_copy._arguments import MAX_N, SEED_LIMIT, integer

_MAX_LENGTH = 2**32 - 2
_MAX_VOCAB_SIZE = 2**32
_ROUNDING = 1e-12  # of a variance that is a difference: less is 0


@dataclass(frozen=True, eq=False)
class RepeatFree:
    """Random strings in which no n-gram repeats, and what it took to keep them so.

    At an *event* some tokens would have repeated an n-gram: c of D. Events of a string follow one another; those of all
    strings are concatenated.

    Attributes
    ----------
    vocab_size, n, length : int
        D, the length of the n-grams, and L, to which each string was grown (if not all tokens were forbidden before).
    counts : ndarray of int64, shape (samples,)
        Events of each string.
    positions : ndarray of uint32, shape (events,)
        Tokens before each event.
    forbidden : ndarray of uint32, shape (events,)
        c >= 1, of D next tokens those that repeat an n-gram.
    """

    vocab_size: int
    n: int
    length: int
    counts: NDArray[np.int64]
    positions: NDArray[np.uint32]
    forbidden: NDArray[np.uint32]

    @property
    def samples(self) -> int:
        """Strings."""
        return len(self.counts)

    def steps(self) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
        """The estimate of p_ngram(L), a step function of L.

        A string of L tokens has the weight Π (1 - c/D) over its events before position L; the mean of the weights is
        an unbiased estimate of 1 - p_ngram(L) (Knuth 1975, doi 10.2307/2005469).

        Returns
        -------
        lengths : ndarray of int64, shape (steps,)
            Where it steps up, from 0 on; each value holds until the next length, the last one until ``length``.
        error : ndarray of float64, shape (steps,)
            The estimate of p_ngram.
        standard_error : ndarray of float64, shape (steps,)
            Of the mean; 0 where there is one string.
        """
        factors = 1 - self.forbidden / self.vocab_size
        ends = np.cumsum(self.counts)
        after = np.empty_like(factors)
        for first, end in zip(ends - self.counts, ends, strict=True):
            np.multiply.accumulate(factors[first:end], out=after[first:end])
        before = np.empty_like(after)
        before[1:] = after[:-1]
        before[(ends - self.counts)[self.counts > 0]] = 1.0
        order = np.argsort(self.positions, kind="stable")
        lengths, last = np.unique(self.positions[order][::-1].astype(np.int64), return_index=True)
        last = len(order) - 1 - last
        lost = np.cumsum((before - after)[order])[last]  # of the sum of weights, and of their squares
        lost_squares = np.cumsum((before**2 - after**2)[order])[last]
        error = np.concatenate([[0.0], lost]) / self.samples
        squares = 1 - np.concatenate([[0.0], lost_squares]) / self.samples
        variance = squares - (1 - error) ** 2
        variance[variance < _ROUNDING] = 0
        standard_error = np.sqrt(variance / max(1, self.samples - 1))
        return np.concatenate([[0], lengths + 1]), error, standard_error


def repeat_free(
    vocab_size: SupportsIndex,
    n: SupportsIndex,
    length: SupportsIndex,
    *,
    samples: SupportsIndex,
    seed: int = 0,
    stream: int = 0,
    threads: int = 1,
    progress: Callable[[int], object] | None = None,
) -> RepeatFree:
    """Grow random strings in which no n-gram repeats, each next token uniform among those that repeat none.

    Memory: about 20 bytes a token of ``length`` for each thread. (n-1)-grams are compared token by token: nothing rests
    on their hashes being different.

    Parameters
    ----------
    vocab_size : int
        D, 1 … 2^32.
    n : int
        1 … 65536.
    length : int
        L, 0 … 2^32 - 2.
    samples : int
        Strings, >= 1. String i is a function of (seed, stream, i, D, n) alone: a longer one begins the same.
    seed, stream : int
        0 … 2^64 - 1.
    threads : int
        At least 1; no influence on the result.
    progress : callable, optional
        Called with the number of strings done from time to time; an exception that it raises ends the call.

    Raises
    ------
    ValueError
        If an argument is out of its range.
    MemoryError
        If a string does not fit.
    """
    vocab_size = integer("vocab_size", vocab_size, 1, _MAX_VOCAB_SIZE + 1)
    n = integer("n", n, 1, MAX_N + 1)
    length = integer("length", length, 0, _MAX_LENGTH + 1)
    samples = integer("samples", samples, 1, 2**32)
    rows = (integer("seed", seed, 0, SEED_LIMIT), integer("stream", stream, 0, SEED_LIMIT), 0)
    threads = integer("threads", threads, 1, 2**16)
    events = _rust.repeat_free(rows, samples, n, vocab_size, length, threads, progress)
    return RepeatFree(vocab_size, n, length, *events)
