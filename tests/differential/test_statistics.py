"""Statistics of n-grams against dictionaries and slices."""

import sysconfig
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ngram_copy as nc

TEXTS = st.integers(1, 6).flatmap(lambda vocab_size: st.lists(st.integers(0, vocab_size - 1), max_size=60))


def grams(x, n):
    return [tuple(x[i : i + n]) for i in range(len(x) - n + 1)]


def counted(x, n):
    counts = Counter(grams(x, n))
    twice = [count for count in counts.values() if count > 1]
    most = max(counts.values(), default=0)
    return nc.NgramStatistics(sum(counts.values()), len(counts), len(twice), sum(twice), most)


@given(TEXTS, st.integers(1, 5), st.sampled_from([1, 2, 5]), st.sampled_from(["u1", "u2", "u4", "i4", "i8", ">i2"]))
def test_counts_are_those_of_a_dictionary(x, n, threads, dtype):
    assert nc.ngram_statistics(np.array(x, dtype), n, threads=threads) == counted(x, n)


@given(TEXTS, st.integers(1, 5), st.lists(st.integers(1, 70), max_size=3))
def test_windows_are_those_of_slices(x, n, lengths):
    def repeats(window):
        return len(set(grams(window, n))) < len(grams(window, n))

    for windows, length in zip(nc.repeat_windows(np.array(x, np.uint8), n, lengths), lengths, strict=True):
        slices = [x[i : i + length] for i in range(len(x) - length + 1)]
        assert windows == nc.RepeatWindows(length, sum(map(repeats, slices)), len(slices))


@given(TEXTS, st.integers(1, 5))
def test_first_repeat_and_conflict(x, n):
    seen, repeat = {}, None
    for i, gram in enumerate(grams(x, n)):
        if gram in seen:
            repeat = seen[gram], i
            break
        seen[gram] = i
    assert nc.first_repeat(np.array(x, np.int64), n) == repeat
    seen, conflict = {}, None
    for i, gram in enumerate(grams(x[:-1], n), n):
        if x[seen.setdefault(gram, i)] != x[i]:
            conflict = seen[gram], i
            break
    assert nc.first_conflict(np.array(x, np.int64), n) == conflict


def test_a_part_of_real_text():
    text = (Path(sysconfig.get_path("stdlib")) / "argparse.py").read_bytes()
    x = np.frombuffer(text, np.uint8)
    for n in (2, 4, 9):
        assert nc.ngram_statistics(x, n) == counted(text, n)
    windows = nc.repeat_windows(x, 8, [64, 512])
    sampled = nc.repeat_windows(x, 8, [64, 512], samples=2000, seed=3)
    for every, some in zip(windows, sampled, strict=True):
        p = every.repeating / every.total
        assert some.total == 2000
        assert abs(some.repeating / 2000 - p) < 6 * (p * (1 - p) / 2000) ** 0.5 + 1e-9
    assert sampled == nc.repeat_windows(x, 8, [64, 512], samples=2000, seed=3)
    assert sampled != nc.repeat_windows(x, 8, [64, 512], samples=2000, seed=4)


@pytest.mark.parametrize("threads", [1, 2])
def test_progress_is_told_and_may_stop(threads):
    x = np.zeros(3_000_000, np.uint8)
    done = []
    nc.ngram_statistics(x, 4, threads=threads, progress=done.append)
    assert done == sorted(done)
    assert done[0] == 0
    assert done[-1] == len(x) - 3
    assert len(done) == 4

    def stop(tokens):
        raise RuntimeError(f"enough after {tokens}")

    with pytest.raises(RuntimeError, match="enough after 0"):
        nc.ngram_statistics(x, 4, threads=threads, progress=stop)
    with pytest.raises(RuntimeError, match="enough after 0"):
        nc.repeat_windows(x, 4, [10], progress=stop)


def test_short_texts():
    assert nc.ngram_statistics([], 3) == nc.NgramStatistics(0, 0, 0, 0, 0)
    assert nc.ngram_statistics([1, 2], 3) == nc.NgramStatistics(0, 0, 0, 0, 0)
    assert nc.repeat_windows([1, 2], 3, [1, 2, 3]) == [
        nc.RepeatWindows(1, 0, 2),
        nc.RepeatWindows(2, 0, 1),
        nc.RepeatWindows(3, 0, 0),
    ]
    assert nc.repeat_windows([1, 2], 3, [5], samples=10) == [nc.RepeatWindows(5, 0, 0)]
    assert nc.first_repeat([], 1) is None
    assert nc.first_conflict([1], 1) is None


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: nc.ngram_statistics([1], 0), ValueError, "n must be 1 to 65536, not 0"),
        (lambda: nc.ngram_statistics([0.5], 1), TypeError, "x must be integers, not float64"),
        (lambda: nc.ngram_statistics([[1]], 1), ValueError, "x must have 1 dimension, not 2"),
        (lambda: nc.ngram_statistics([3, -1], 1), ValueError, "token -1 at index 1: tokens must be 0 to 4294967295"),
        (lambda: nc.ngram_statistics([3], 1, threads=0), ValueError, "threads must be 1 to .*, not 0"),
        (lambda: nc.repeat_windows([3], 1, [0]), ValueError, "lengths must be 1 to .*, not 0"),
        (lambda: nc.repeat_windows([3], 1, 8), TypeError, r"lengths must be several integers, such as \[8\], not 8"),
        (lambda: nc.repeat_windows([3], 1, [1], samples=0), ValueError, "samples must be 1 to .*, not 0"),
        (lambda: nc.first_repeat([2**32], 1), ValueError, "token 4294967296 at index 0"),
        (lambda: nc.first_conflict(["a"], 1), TypeError, "x must be integers, not <U1"),
    ],
)
def test_bad_arguments(call, error, text):
    with pytest.raises(error, match=text):
        call()
