"""Teacher-forced copying and n-gram statistics: tokens a second, beside a Python dictionary on a part."""

from collections import Counter

import numpy as np
import pytest

import ngram_copy as nc

D = 26
BOUNDARIES, END = (D, D + 1), D + 2


@pytest.fixture(params=[300, 100_000], ids=lambda length: f"L={length}")
def tokens(request, benchmark):
    """`<bos> x <copy> x <eos>`, a million data tokens in all."""
    length = request.param
    x = nc.sample.uniform(0, 0, 0, 500_000 // length, length, D)
    marks = np.ones((len(x), 1), np.uint32) * (D, D + 1, D + 2)
    benchmark.group = f"copy, L = {length}"
    benchmark.extra_info["tokens"] = x.size * 2
    return np.hstack([marks[:, :1], x, marks[:, 1:2], x, marks[:, 2:]]).astype(np.uint32)


@pytest.mark.parametrize("policy", ["first", "last", "most_frequent"])
def test_predict(benchmark, tokens, policy):
    copier = nc.NgramCopier(4, policy=policy, boundaries=BOUNDARIES, end=END)
    benchmark(copier.predict, tokens, start=tokens.shape[1] // 2 + 1)


def test_predict_bounded(benchmark, tokens):
    slots = tokens.shape[1]
    copier = nc.BoundedNgramCopier(4, slots=slots, key_bits=8, value_bits=5, boundaries=BOUNDARIES, end=END)
    benchmark(copier.predict, tokens, start=tokens.shape[1] // 2 + 1)


def test_predict_python(benchmark, tokens):
    """The same for one row with a dictionary, first occurrence."""
    row = tokens[0].tolist()
    benchmark.extra_info |= {"tokens": len(row), "peer": "Python dict, first", "of": "predict"}

    def predict():
        seen, key, said = {}, (None,) * 4, []
        for token in row[1:]:
            said.append(seen.get(key, -1))
            if token < D:
                seen.setdefault(key, token)
            key = (None,) * 4 if token in BOUNDARIES else (*key[1:], token)
        return said

    benchmark.pedantic(predict, rounds=3)


@pytest.fixture
def text(benchmark):
    benchmark.group = "statistics, n = 4"
    benchmark.extra_info["tokens"] = 5_000_000
    return nc.sample.zipf(0, 0, 0, 1, 5_000_000, 256)[0].astype(np.uint8)


def test_statistics(benchmark, text):
    benchmark.pedantic(nc.ngram_statistics, (text, 4), rounds=3)


def test_repeat_windows(benchmark, text):
    benchmark.pedantic(nc.repeat_windows, (text, 4, [64, 256, 1024]), rounds=3)


def test_statistics_python(benchmark, text):
    """A tenth of the text with a Counter of slices."""
    part = text[:500_000].tobytes()
    benchmark.extra_info |= {"tokens": len(part), "peer": "Python Counter of slices", "of": "statistics"}
    benchmark.pedantic(lambda: Counter(part[i : i + 4] for i in range(len(part) - 3)), rounds=3)
