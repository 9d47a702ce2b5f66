"""The hash of n-grams: golden values, kinds of arrays, bad input, and bits that look random."""

import re

import numpy as np
import pytest
from scipy import stats

from ngram_copy.ngram import hash_ngrams

TOKENS = [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 2**32 - 1]


@pytest.mark.parametrize(
    ("n", "seed", "first", "last"),
    [
        (1, 0, 0x3E2C6070B44B0A22, 0xDD8E587903E9E663),
        (4, 0, 0x3448FEFDD46CC5FD, 0x344ABF09B21C0DF3),
        (4, 1, 0x0F99A7381229B963, 0x597F8381153295A5),
        (9, 2**64 - 1, 0x024D6E5311F6627A, 0xDE1F2E34C87489FF),
    ],
)
def test_golden_values(n, seed, first, last):
    hashes = hash_ngrams(TOKENS, n, seed=seed)
    assert (hashes[0], hashes[-1]) == (first, last)
    assert hashes.shape == (len(TOKENS) - n + 1,)


TEXT = np.random.default_rng(0).integers(0, 100, 300)
EXPECTED = hash_ngrams(TEXT, 3, seed=5)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", ">u2", ">u4", ">i4", ">i8", ">u8"])
def test_neither_dtype_nor_byte_order_matters(dtype):
    assert np.array_equal(hash_ngrams(TEXT.astype(dtype), 3, seed=5), EXPECTED)


def test_strided_read_only_and_mapped_arrays(tmp_path):
    wide = np.zeros((len(TEXT), 3), np.int32)
    wide[:, 1] = TEXT
    assert np.array_equal(hash_ngrams(wide[:, 1], 3, seed=5), EXPECTED)
    assert np.array_equal(hash_ngrams(TEXT[::-1].copy()[::-1], 3, seed=5), EXPECTED)
    frozen = TEXT.copy()
    frozen.flags.writeable = False
    assert np.array_equal(hash_ngrams(frozen, 3, seed=5), EXPECTED)
    TEXT.astype("u2").tofile(tmp_path / "tokens")
    mapped = np.memmap(tmp_path / "tokens", dtype="u2", mode="r")
    assert np.array_equal(hash_ngrams(mapped, 3, seed=5), EXPECTED)
    unaligned = np.frombuffer(b"x" + TEXT.astype("i8").tobytes(), dtype="i8", offset=1)
    assert np.array_equal(hash_ngrams(unaligned, 3, seed=5), EXPECTED)
    assert np.array_equal(hash_ngrams(TEXT.tolist(), 3, seed=5), EXPECTED)


@pytest.mark.parametrize("threads", [1, 2, 7])
def test_batches_and_threads(threads):
    batch = TEXT.reshape(10, 30)
    rows = np.stack([hash_ngrams(row, 4) for row in batch])
    assert np.array_equal(hash_ngrams(batch, 4, threads=threads), rows)
    assert np.array_equal(hash_ngrams(np.asfortranarray(batch), 4, threads=threads), rows)
    assert np.array_equal(hash_ngrams(TEXT, 3, seed=5, threads=threads), EXPECTED)


def test_out_is_filled_and_returned():
    out = np.zeros(len(EXPECTED), np.uint64)
    assert hash_ngrams(TEXT, 3, seed=5, out=out) is out
    assert np.array_equal(out, EXPECTED)
    strided = np.zeros(2 * len(EXPECTED), np.uint64)[::2]
    assert hash_ngrams(TEXT, 3, seed=5, out=strided) is strided
    assert np.array_equal(strided, EXPECTED)
    shared = TEXT.astype(np.int64)
    view = shared.view(np.uint64)[: len(EXPECTED)]
    assert np.array_equal(hash_ngrams(shared, 3, seed=5, out=view), EXPECTED)


def test_fewer_tokens_than_n():
    assert hash_ngrams([], 2).shape == (0,)
    assert hash_ngrams([1, 2], 3).shape == (0,)
    assert hash_ngrams(np.zeros((4, 2), np.uint8), 3).shape == (4, 0)
    assert hash_ngrams(np.zeros((0, 5), np.uint8), 3).shape == (0, 3)
    assert hash_ngrams(np.zeros((5, 0), np.uint8), 3).shape == (5, 0)
    with pytest.raises(ValueError, match="token -1 at index 1"):
        hash_ngrams([3, -1], 5)


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        ({"x": [1.0]}, TypeError, "x must be integers, not float64"),
        ({"x": [True]}, TypeError, "x must be integers, not bool"),
        ({"x": ["a"]}, TypeError, "x must be integers, not <U1"),
        ({"x": 5}, ValueError, "x must have 1 or 2 dimensions, not 0"),
        ({"x": np.zeros((1, 1, 1), int)}, ValueError, "x must have 1 or 2 dimensions, not 3"),
        ({"x": [1, 2, -3, 4]}, ValueError, "token -3 at index 2: tokens must be 0 to 4294967295"),
        ({"x": [2**32]}, ValueError, "token 4294967296 at index 0"),
        ({"x": [[1, 2], [3, -4]]}, ValueError, "token -4 at index [1, 1]"),
        ({"x": np.array([0, 2**63], np.uint64)}, ValueError, "x[1] must be 0 to 2^32 - 1, not 9223372036854775808"),
        ({"n": 0}, ValueError, "n must be 1 to 65536, not 0"),
        ({"n": -1}, ValueError, "n must be 1 to 65536, not -1"),
        ({"n": 2**16 + 1}, ValueError, "n must be 1 to 65536, not 65537"),
        ({"n": 1.5}, TypeError, "n must be an integer, not 1.5"),
        ({"seed": -1}, ValueError, "seed must be 0 to 2^64 - 1, not -1"),
        ({"threads": 0}, ValueError, "threads must be 1 to 1024, not 0"),
        ({"out": np.zeros(3, np.uint64)}, ValueError, "out must have the shape (5,), not (3,)"),
        ({"out": np.zeros(5, np.int64)}, TypeError, "out must be an array of uint64, not of int64"),
        ({"out": np.zeros(5, ">u8")}, TypeError, "out must be an array of uint64, not of >u8"),
        ({"out": [0] * 5}, TypeError, "out must be an array of uint64, not list"),
    ],
)
def test_bad_arguments_are_named(arguments, error, text):
    with pytest.raises(error, match=re.escape(text)):
        hash_ngrams(**{"x": [1, 2, 3, 4, 5], "n": 1, **arguments})


def test_read_only_out_is_refused():
    out = np.zeros(5, np.uint64)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out must be writeable"):
        hash_ngrams([1, 2, 3, 4, 5], 1, out=out)


def all_ngrams(vocab_size, n):
    return np.stack(np.meshgrid(*[np.arange(vocab_size)] * n, indexing="ij"), axis=-1).reshape(-1, n)


def runs():
    """a^k b^(16 - k) for all a ≠ b below 200."""
    a, b, k = np.meshgrid(np.arange(200), np.arange(200), np.arange(1, 16), indexing="ij")
    a, b, k = (values[a != b][:, None] for values in (a, b, k))
    return np.where(np.arange(16) < k, a, b)


STRUCTURED = {
    "2 letters, n=20": lambda: all_ngrams(2, 20),
    "26 letters, n=4": lambda: all_ngrams(26, 4),
    "700 letters, n=2": lambda: all_ngrams(700, 2),
    "numbers, n=1": lambda: np.arange(2**19)[:, None],
    "multiples of 256": lambda: all_ngrams(26, 4) * 256,
    "multiples of 65536": lambda: all_ngrams(26, 4) * 65536,
    "multiples of 2^24": lambda: all_ngrams(26, 4) << 24,
    "0 and 2^31, n=20": lambda: all_ngrams(2, 20) << 31,
    "numbers times 4096, n=1": lambda: np.arange(2**19)[:, None] * 4096,
    "runs": runs,
    "runs of multiples of 256": lambda: runs() * 256,
}


@pytest.mark.parametrize("kind", STRUCTURED)
def test_any_16_bits_are_uniform_on_structured_inputs(kind):
    ngrams = STRUCTURED[kind]().astype(np.uint32)
    rng = np.random.default_rng(1)
    contiguous = [np.arange(first, first + 16) for first in range(0, 49, 8)]
    choices = [*contiguous, *(rng.choice(64, 16, replace=False) for _ in range(4))]
    for seed in (0, 1, 2**63):
        hashes = hash_ngrams(ngrams, ngrams.shape[1], seed=seed)[:, 0]
        for bits in choices:
            numbers = sum(((hashes >> np.uint64(bit)) & np.uint64(1)) << np.uint64(i) for i, bit in enumerate(bits))
            p = stats.chisquare(np.bincount(numbers.astype(np.int64), minlength=2**16)).pvalue
            # 363 tests: a random function is outside once in 1,400 such suites.
            assert 1e-6 < p < 1 - 1e-6, (seed, bits)
