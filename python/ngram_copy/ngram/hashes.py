"""Hashes of n-grams."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngram_copy import _rust
from ngram_copy._arguments import MAX_N, SEED_LIMIT, as_tokens, integer

MAX_THREADS = 1024
"""The most threads that a call takes."""


def hash_ngrams(
    x: ArrayLike,
    n: SupportsIndex = 4,
    *,
    seed: SupportsIndex = 0,
    threads: SupportsIndex = 1,
    out: NDArray[np.uint64] | None = None,
) -> NDArray[np.uint64]:
    """Hash every n-gram to 64 bits: ``h = finish(offset + Σ_p (c_p·a_p + c'_p·b_p) mod 2^64)``.

    The words a_p have the low 16 bits of tokens 2p and 2p + 1 of the n-gram, the words b_p their high 16 bits; the
    coefficients are odd and drawn independently from the seed, the offset from seed and n; ``finish`` is a bijection
    that stirs the halves of the sum: ``low ^= high² >> 16``, then ``high·2^32 + low·0x9e3779b1``. A hash depends on the
    values of the n tokens, n and the seed alone. N-grams of tokens below 2^16 that differ in one of them, or in two
    that share a word, have different hashes.

    Parameters
    ----------
    x : array of integers, shape (seq_len,) or (batch, seq_len)
        Tokens, 0 … 2^32 - 1, of any integer type, stride and byte order.
    n : int
        Length of the n-grams, 1 … 2^16.
    seed : int
        0 … 2^64 - 1.
    threads : int
        1 … 1024; no influence on the result.
    out : ndarray of uint64, optional
        Where to write the result, an array of its shape.

    Returns
    -------
    ndarray of uint64, shape (seq_len - n + 1,) or (batch, seq_len - n + 1)
        Element i is the hash of tokens i … i + n - 1; empty where n is greater than seq_len. It is ``out`` where that
        is given.

    Raises
    ------
    TypeError
        If ``x`` does not hold integers, or ``out`` is no array of uint64.
    ValueError
        If a token, an argument or the shape of ``out`` is not allowed.
    """
    tokens = as_tokens("x", x, ndim=(1, 2))
    n = integer("n", n, 1, MAX_N + 1)
    seed = integer("seed", seed, 0, SEED_LIMIT)
    threads = integer("threads", threads, 1, MAX_THREADS + 1)
    shape = (*tokens.shape[:-1], max(0, tokens.shape[-1] - n + 1))
    if out is None:
        out = np.empty(shape, np.uint64)
    else:
        _check_out(out, shape)
    direct = out.flags.c_contiguous and out.flags.aligned and not np.may_share_memory(out, tokens)
    hashes = out if direct else np.empty(shape, np.uint64)
    _rust.hash_ngrams(tokens, n, seed, threads, hashes)
    if not direct:
        np.copyto(out, hashes)
    return out


def _check_out(out: NDArray[np.uint64], shape: tuple[int, ...]) -> None:
    if not isinstance(out, np.ndarray):
        raise TypeError(f"out must be an array of uint64, not {type(out).__name__}")
    if out.dtype != np.uint64:
        raise TypeError(f"out must be an array of uint64, not of {out.dtype}")
    if out.shape != shape:
        raise ValueError(f"out must have the shape {shape}, not {out.shape}")
    if not out.flags.writeable:
        raise ValueError("out must be writeable, not read-only")
