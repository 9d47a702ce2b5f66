"""Sampling against a ChaCha8 in plain NumPy, its errors, and what its rows depend on."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ngram_copy import sample


def chacha8_words(key: bytes, stream: int, first: int, count: int) -> np.ndarray:
    """Words first … first + count - 1 of a ChaCha8 keystream (64-bit counter, 64-bit nonce)."""
    blocks = np.arange(first // 16, (first + count - 1) // 16 + 1, dtype=np.uint64)
    state = np.zeros((16, len(blocks)), np.uint32)
    state[:12] = np.frombuffer(b"expand 32-byte k" + key, "<u4")[:, None]
    state[12:14] = blocks & np.uint64(2**32 - 1), blocks >> np.uint64(32)
    state[14:] = np.array([[stream & (2**32 - 1)], [stream >> 32]], np.uint32)
    x = state.copy()

    def quarter(a: int, b: int, c: int, d: int) -> None:
        for i, j, k, turn in ((a, b, d, 16), (c, d, b, 12), (a, b, d, 8), (c, d, b, 7)):
            x[i] += x[j]
            x[k] ^= x[i]
            x[k] = x[k] << np.uint32(turn) | x[k] >> np.uint32(32 - turn)

    for _ in range(4):
        for column in range(4):
            quarter(column, 4 + column, 8 + column, 12 + column)
        for column in range(4):
            quarter(column, 4 + (column + 1) % 4, 8 + (column + 2) % 4, 12 + (column + 3) % 4)
    words = (x + state).T.ravel()
    return words[first % 16 :][:count]


def key(seed: int, kind: int, level: int, row_len: int, span: int) -> bytes:
    return b"".join(
        n.to_bytes(size, "little") for n, size in ((seed, 8), (kind, 4), (level, 4), (row_len, 8), (span, 8))
    )


def uniform(seed: int, stream: int, start: int, count: int, seq_len: int, vocab_size: int) -> np.ndarray:
    first = start * seq_len
    words = chacha8_words(key(seed, 1, 0, seq_len, vocab_size), stream, first, count * seq_len)
    tokens = []
    for position, word in enumerate(words.tolist(), first):
        level, again = 0, [word]
        while all(w * vocab_size % 2**32 < 2**32 % vocab_size for w in again):
            level += 1
            again = chacha8_words(key(seed, 1, level, seq_len, vocab_size), stream, 16 * position, 16).tolist()
        accepted = next(w for w in again if w * vocab_size % 2**32 >= 2**32 % vocab_size)
        tokens.append(accepted * vocab_size >> 32)
    return np.array(tokens, np.uint32).reshape(count, seq_len)


COUNTERS = {
    "seed": st.integers(0, 2**64 - 1),
    "stream": st.integers(0, 2**64 - 1),
    "start": st.integers(0, 2**50),
}


@given(
    **COUNTERS,
    count=st.integers(0, 4),
    seq_len=st.integers(1, 12),
    vocab_size=st.sampled_from([1, 2, 3, 26, 2**31 + 1, 3 * 2**30, 2**32 - 1, 2**32]) | st.integers(1, 2**32),
)
def test_uniform_is_lemire_over_chacha8(seed, stream, start, count, seq_len, vocab_size):
    arguments = (seed, stream, start, count, seq_len, vocab_size)
    expected = uniform(*arguments) if count else np.empty((0, seq_len), np.uint32)
    np.testing.assert_array_equal(sample.uniform(*arguments), expected)


@given(**COUNTERS, count=st.integers(1, 5), low=st.integers(-(2**63), 2**63 - 2), span=st.integers(1, 1000))
def test_integers_are_64_bit_draws(seed, stream, start, count, low, span):
    high = min(low + span, 2**63 - 1)
    words = chacha8_words(key(seed, 5, 0, 1, high - low), stream, 2 * start, 2 * count).astype(object)
    expected = [low + ((a + (b << 32)) * (high - low) >> 64) for a, b in zip(words[::2], words[1::2], strict=True)]
    assert sample.integers(seed, stream, start, count, low, high).tolist() == expected


@pytest.mark.parametrize("draw", [sample.uniform, sample.zipf, sample.markov])
def test_threads_and_out_do_not_matter(draw):
    arguments = (1, 2, 3, 5000, 20, 26)
    expected = draw(*arguments)
    out = np.empty((5000, 20), np.uint32)
    assert draw(*arguments, threads=2, out=out) is out
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(draw(1, 2, 4, 10, 20, 26), expected[1:11])


def test_zipf_counts_are_close_to_ideal():
    counts = sample.zipf_counts(1000, 1.5)
    weights = np.arange(1, 1001.0) ** -1.5
    assert counts.dtype == np.uint64
    assert counts.sum() == 2**32
    assert np.abs(counts - weights / weights.sum() * 2**32).max() < 1.001
    assert sample.zipf_counts(3, 0.0).tolist() == [1431655765, 1431655766, 1431655765]


def test_markov_walks_its_own_chain():
    successors, counts = sample.markov_chain(12, 3, 9)
    assert (counts.sum(axis=1) == 2**32).all()
    assert (counts > 0).all()
    assert all(len(set(row)) == 3 for row in successors.tolist())
    walks = sample.markov(0, 0, 0, 100, 50, 12, 3, chain_seed=9)
    assert (walks[:, 1:, None] == successors[walks[:, :-1]]).any(axis=2).all()
    np.testing.assert_array_equal(sample.markov_chain(5, 1)[1], np.full((5, 1), 2**32))


def test_distinct_rows():
    values = sample.distinct(0, 0, 0, 50, 20, 25)
    assert values.shape == (50, 20)
    assert values.max() < 25
    assert all(len(set(row)) == 20 for row in values.tolist())
    assert sorted(sample.distinct(0, 0, 0, 1, 30, 30)[0].tolist()) == list(range(30))
    assert sample.distinct(0, 0, 0, 3, 0, 5).shape == (3, 0)


def test_calls_that_differ_are_independent():
    base = sample.uniform(0, 0, 0, 1, 64, 2**32).ravel()
    others = [
        sample.uniform(1, 0, 0, 1, 64, 2**32),
        sample.uniform(0, 1, 0, 1, 64, 2**32),
        sample.uniform(0, 0, 0, 2, 32, 2**32),
        sample.uniform(0, 0, 0, 1, 64, 2**32 - 1),
    ]
    for other in others:
        assert (base == other.ravel()).sum() == 0


def test_stream_id():
    assert stream_ids_are_distinct(("copy", "test"), ("copyt", "est"), ("copy", "test", ""), ("1",), (1,), ())
    assert (
        sample.stream_id("copy", np.str_("test"), 3)
        == int.from_bytes(hashlib.sha256(_field(b"scopy") + _field(b"stest") + _field(b"i3")).digest()[:8], "little")
        >> 1
    )
    with pytest.raises(TypeError, match=r"names must be strings or integers, not 1\.5"):
        sample.stream_id(1.5)  # type: ignore[arg-type]


def _field(text):
    return len(text).to_bytes(8, "little") + text


def stream_ids_are_distinct(*names):
    ids = {sample.stream_id(*name) for name in names}
    return len(ids) == len(names) and all(0 <= i < 2**63 for i in ids)


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: sample.uniform(-1, 0, 0, 1, 1, 2), ValueError, r"seed must be 0 to 2\^64 - 1, not -1"),
        (
            lambda: sample.uniform(0, 2**64, 0, 1, 1, 2),
            ValueError,
            r"stream must be 0 to 2\^64 - 1, not 18446744073709551616",
        ),
        (lambda: sample.uniform(0, 0, -1, 1, 1, 2), ValueError, r"start must be 0 to 2\^63 - 1, not -1"),
        (lambda: sample.uniform(0, 0, 0, -1, 1, 2), ValueError, "count must be 0 to .*, not -1"),
        (lambda: sample.uniform(0, 0, 0, 1, -1, 2), ValueError, "seq_len must be 0 to .*, not -1"),
        (lambda: sample.uniform(0, 0, 0, 1, 1, 0), ValueError, "vocab_size must be 1 to 2\\^32, not 0"),
        (lambda: sample.uniform(0, 0, 0, 1, 1, 2**32 + 1), ValueError, "vocab_size .* not 4294967297"),
        (lambda: sample.uniform(0, 0, 0, 1, 1, 2.0), TypeError, r"vocab_size must be an integer, not 2\.0"),
        (lambda: sample.uniform(0, 0, 0, 1, 1, 2, threads=0), ValueError, "threads must be 1 to .*, not 0"),
        (
            lambda: sample.uniform(0, 0, 2**62, 1, 4, 2),
            ValueError,
            r"at most 2\^63, not start = 4611686018427387904",
        ),
        (
            lambda: sample.zipf(0, 0, 0, 1, 1, 2, -1.0),
            ValueError,
            "exponent must be finite and at least 0, not -1",
        ),
        (lambda: sample.zipf_counts(2**24 + 1), ValueError, r"vocab_size must be 1 to 2\^24, not 16777217"),
        (
            lambda: sample.markov(0, 0, 0, 1, 1, 3, 4),
            ValueError,
            r"branching must be 1 to vocab_size \(3\), not 4",
        ),
        (lambda: sample.markov_chain(2**22, 8), ValueError, r"at most 2\^24, not 33554432"),
        (lambda: sample.distinct(0, 0, 0, 1, 4, 3), ValueError, "k must be 0 to 3, not 4"),
        (
            lambda: sample.integers(0, 0, 0, 1, 5, 5),
            ValueError,
            "low must be less than high, not low = 5, high = 5",
        ),
        (
            lambda: sample.integers(0, 0, 0, 1, 0, 2**63),
            ValueError,
            "high must be .*, not 9223372036854775808",
        ),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()


@pytest.mark.parametrize(
    ("out", "error", "text"),
    [
        ([[0]], TypeError, "out must be an array of uint32, not list"),
        (np.empty((1, 1), np.int32), TypeError, "out must be an array of uint32, not int32"),
        (np.empty((1, 1), ">u4"), TypeError, "out must be an array of uint32, not >u4"),
        (np.empty((2, 1), np.uint32), ValueError, r"out must have shape \(1, 1\), not \(2, 1\)"),
        (np.broadcast_to(np.uint32(0), (1, 1)), ValueError, "out must be C-contiguous, writeable"),
    ],
)
def test_bad_out(out, error, text):
    with pytest.raises(error, match=text):
        sample.uniform(0, 0, 0, 1, 1, 2, out=out)


def test_another_process_draws_the_same():
    code = "from ngram_copy import sample; print(sample.markov(1, 2, 3, 2, 9, 26).tolist())"
    seen = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert seen.strip() == str(sample.markov(1, 2, 3, 2, 9, 26).tolist())
