"""Hashing every n-gram of 10M letters, beside NumPy and beside a copy of the same bytes; all outputs are there before.

The copy reads and writes together as many bytes as the hash does: tokens read, hashes written.
"""

import numpy as np
import pytest

import ngram_copy as nc

TOKENS = 10_000_000
ROUNDS = {"rounds": 25, "warmup_rounds": 3}


@pytest.fixture(params=[2, 4, 8], ids=lambda n: f"n={n}")
def n(request):
    return request.param


@pytest.fixture(params=["uint16", "uint32"])
def letters(request, benchmark, n):
    x = np.random.default_rng(0).integers(0, 26, TOKENS, dtype=request.param)
    benchmark.group = f"hash every n-gram of 10M {request.param}, n = {n}"
    benchmark.extra_info["tokens"] = TOKENS
    benchmark.extra_info["bytes"] = x.nbytes + 8 * TOKENS
    return x


def test_hash_ngrams(benchmark, letters, n):
    out = np.ones(TOKENS - n + 1, np.uint64)
    benchmark.pedantic(nc.hash_ngrams, (letters, n), {"out": out}, **ROUNDS)


def test_copy(benchmark, letters, n):
    half = benchmark.extra_info["bytes"] // 2
    source, target = np.ones(half, np.uint8), np.zeros(half, np.uint8)
    benchmark.extra_info |= {"peer": "copy of the same bytes", "memory": True}
    benchmark.pedantic(np.copyto, (target, source), **ROUNDS)


def test_numpy_horner(benchmark, letters, n):
    """h = h·c + x for each of the n tokens, without a finaliser."""
    count = TOKENS - n + 1
    out, c = np.ones(count, np.uint64), np.uint64(0x9E3779B97F4A7C15)
    benchmark.extra_info["peer"] = "NumPy Horner"

    def horner():
        np.copyto(out, letters[:count])
        for j in range(1, n):
            np.multiply(out, c, out=out)
            np.add(out, letters[j : j + count], out=out)

    benchmark.pedantic(horner, rounds=5, warmup_rounds=1)


def test_numpy_windows(benchmark, letters, n):
    """Sliding windows times coefficients."""
    count = TOKENS - n + 1
    out = np.ones(count, np.uint64)
    coefficients = np.random.default_rng(1).integers(0, 2**64, n, dtype=np.uint64) | np.uint64(1)
    benchmark.extra_info["peer"] = "NumPy sliding windows"
    windows = np.lib.stride_tricks.sliding_window_view(letters, n)
    benchmark.pedantic(np.matmul, (windows, coefficients), {"out": out}, rounds=3)
