"""Counter-based random sampling: row ``i`` of a stream is a function of (seed, stream, i) alone.

The numbers are the same on every machine, for every split into calls and for every number of threads, and
exactly distributed: no bias from a modulo or from floating point. Each call has one ChaCha8 keystream, keyed by
the seed, the kind of draw and its parameters, with ``stream`` as the nonce: calls that differ in any of these
are independent.
"""

from __future__ import annotations

import hashlib
from typing import Any, SupportsIndex, TypeVar

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ngram_copy import _rust
from ngram_copy._arguments import SEED_LIMIT, integer

__all__ = [
    "distinct",
    "integers",
    "markov",
    "markov_chain",
    "stream_id",
    "uniform",
    "zipf",
    "zipf_counts",
]

MAX_VOCAB_SIZE = 2**32
"""Tokens are 0 … 2^32 - 1."""

_Scalar = TypeVar("_Scalar", np.uint32, np.uint64, np.int64)


def stream_id(*names: str | int) -> int:
    """Return the 63-bit id of a stream: the first bits of SHA-256 over the names.

    Parameters
    ----------
    *names : str or int
        What the numbers are for, such as a task, a split and a purpose. ``1`` and ``"1"`` differ.

    Examples
    --------
    >>> stream_id("copy", "test", "tokens") == stream_id("copy", "test", "tokens")
    True
    """
    sha = hashlib.sha256()
    for name in names:
        if not isinstance(name, str | int) or isinstance(name, bool):
            raise TypeError(f"names must be strings or integers, not {name!r}")
        text = (f"s{name!s}" if isinstance(name, str) else f"i{name:d}").encode()
        sha.update(len(text).to_bytes(8, "little") + text)
    return int.from_bytes(sha.digest()[:8], "little") >> 1


def uniform(
    seed: int,
    stream: int,
    start: int,
    count: int,
    seq_len: int,
    vocab_size: int,
    *,
    threads: int = 1,
    out: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint32]:
    """Draw independent uniform tokens in ``0 … vocab_size - 1``.

    Parameters
    ----------
    seed, stream : int
        0 … 2^64 - 1; see :func:`stream_id`.
    start, count : int
        Rows ``start`` … ``start + count - 1`` of the stream; (start + count) · seq_len ≤ 2^63.
    seq_len : int
        Tokens in a row.
    vocab_size : int
        D, 1 … 2^32.
    threads : int
        At least 1; no influence on the result.
    out : ndarray of uint32, shape (count, seq_len), optional
        Written and returned; C-contiguous.

    Returns
    -------
    ndarray of uint32, shape (count, seq_len)

    Raises
    ------
    ValueError
        If an argument is out of its range.
    TypeError
        If an argument that counts something is not an integer.
    """
    rows = _rows(seed, stream, start)
    tokens = _output(count, _length(seq_len), np.uint32, out)
    _rust.sample_uniform(rows, _vocab_size(vocab_size), _threads(threads), tokens)
    return tokens


def zipf_counts(vocab_size: int, exponent: float = 1.0) -> NDArray[np.uint64]:
    """Return the counts of a Zipf distribution, which :func:`zipf` draws from: P(j) = counts[j] / 2^32 exactly.

    P(j) ∝ (j + 1)^-exponent, rounded to less than one count, the same on every machine. Counts of very rare
    tokens may be 0: they are never drawn.

    Parameters
    ----------
    vocab_size : int
        D, 1 … 2^24.
    exponent : float
        Finite, at least 0 (uniform).

    Returns
    -------
    ndarray of uint64, shape (vocab_size,)
        Sums to 2^32.
    """
    return _rust.zipf_counts(_vocab_size(vocab_size), float(exponent))


def zipf(
    seed: int,
    stream: int,
    start: int,
    count: int,
    seq_len: int,
    vocab_size: int,
    exponent: float = 1.0,
    *,
    threads: int = 1,
    out: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint32]:
    """Draw independent tokens with the probabilities of :func:`zipf_counts`; token 0 is the likeliest.

    Arguments, result and errors are those of :func:`uniform` and :func:`zipf_counts`.
    """
    rows = _rows(seed, stream, start)
    tokens = _output(count, _length(seq_len), np.uint32, out)
    _rust.sample_zipf(rows, _vocab_size(vocab_size), float(exponent), _threads(threads), tokens)
    return tokens


def markov_chain(
    vocab_size: int, branching: int = 4, chain_seed: int = 0
) -> tuple[NDArray[np.uint32], NDArray[np.uint64]]:
    """Return the Markov chain that :func:`markov` walks.

    Each token has ``branching`` distinct successors, drawn uniformly, with positive counts that sum to 2^32 (all
    such counts are equally likely). The first token of a walk is uniform.

    Parameters
    ----------
    vocab_size : int
        D, at least 1; D · branching ≤ 2^24.
    branching : int
        1 … D; 1 makes a deterministic chain.
    chain_seed : int
        0 … 2^64 - 1; determines the chain.

    Returns
    -------
    successors : ndarray of uint32, shape (vocab_size, branching)
    counts : ndarray of uint64, shape (vocab_size, branching)
        P(next is ``successors[a, j]`` | ``a``) = ``counts[a, j]`` / 2^32 exactly.
    """
    return _rust.markov_chain(*_chain(vocab_size, branching, chain_seed))


def markov(
    seed: int,
    stream: int,
    start: int,
    count: int,
    seq_len: int,
    vocab_size: int,
    branching: int = 4,
    *,
    chain_seed: int = 0,
    threads: int = 1,
    out: NDArray[np.uint32] | None = None,
) -> NDArray[np.uint32]:
    """Draw walks of the chain of :func:`markov_chain`, one in each row.

    Arguments, result and errors are those of :func:`uniform` and :func:`markov_chain`.
    """
    rows = _rows(seed, stream, start)
    tokens = _output(count, _length(seq_len), np.uint32, out)
    _rust.sample_markov(rows, *_chain(vocab_size, branching, chain_seed), _threads(threads), tokens)
    return tokens


def distinct(
    seed: int, stream: int, start: int, count: int, k: int, high: int, *, threads: int = 1
) -> NDArray[np.uint64]:
    """Draw rows of ``k`` distinct values in ``0 … high - 1``, in random order.

    Each ordered choice is equally likely.

    Parameters
    ----------
    seed, stream, start, count, threads : int
        As in :func:`uniform`.
    k : int
        Values in a row, 0 … high.
    high : int
        1 … 2^64 - 1.

    Returns
    -------
    ndarray of uint64, shape (count, k)

    Raises
    ------
    ValueError
        If ``k > high`` or an argument is out of its range.
    """
    rows = _rows(seed, stream, start)
    high = integer("high", high, 1, SEED_LIMIT)
    values = _output(count, integer("k", k, 0, high + 1), np.uint64, None)
    _rust.sample_distinct(rows, high, _threads(threads), values)
    return values


def integers(
    seed: int, stream: int, start: int, count: int, low: int, high: int, *, threads: int = 1
) -> NDArray[np.int64]:
    """Draw one uniform integer in ``low … high - 1`` for each row, such as a length or a position.

    Parameters
    ----------
    seed, stream, start, count, threads : int
        As in :func:`uniform`.
    low, high : int
        -2^63 … 2^63 - 1, ``low < high``.

    Returns
    -------
    ndarray of int64, shape (count,)
    """
    rows = _rows(seed, stream, start)
    low, high = integer("low", low, -(2**63), 2**63), integer("high", high, -(2**63), 2**63)
    values = _output(count, 1, np.int64, None)
    _rust.sample_integers(rows, low, high, _threads(threads), values)
    return values.reshape(-1)


def _seed(name: str, value: SupportsIndex) -> int:
    return integer(name, value, 0, SEED_LIMIT)


def _rows(seed: int, stream: int, start: int) -> tuple[int, int, int]:
    return _seed("seed", seed), _seed("stream", stream), integer("start", start, 0, 2**63)


def _length(seq_len: int) -> int:
    return integer("seq_len", seq_len, 0, 2**63)


def _vocab_size(vocab_size: int) -> int:
    return integer("vocab_size", vocab_size, 1, MAX_VOCAB_SIZE + 1)


def _chain(vocab_size: int, branching: int, chain_seed: int) -> tuple[int, int, int]:
    branching = integer("branching", branching, 1, MAX_VOCAB_SIZE + 1)
    return _seed("chain_seed", chain_seed), _vocab_size(vocab_size), branching


def _threads(threads: int) -> int:
    return integer("threads", threads, 1, 2**16)


def _output(count: int, width: int, dtype: type[_Scalar], out: NDArray[_Scalar] | None) -> NDArray[_Scalar]:
    count = integer("count", count, 0, 2**63)
    if out is None:
        return np.empty((count, width), dtype)
    _check_out(out, (count, width), dtype)
    return out


def _check_out(out: Any, shape: tuple[int, int], dtype: DTypeLike) -> None:
    if not isinstance(out, np.ndarray) or out.dtype != dtype:
        raise TypeError(f"out must be an array of {np.dtype(dtype)}, not {getattr(out, 'dtype', type(out).__name__)}")
    if out.shape != shape:
        raise ValueError(f"out must have shape {shape}, not {out.shape}")
    if not (out.flags.c_contiguous and out.flags.writeable and out.flags.aligned):
        raise ValueError("out must be C-contiguous, writeable and aligned")
