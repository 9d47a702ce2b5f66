"""Sampling tokens a second, beside NumPy's Generator (PCG64), which is not addressed by a counter.

NumPy cannot draw integers into an array of the caller; it gets the sizes and dtype that we get.
"""

import numpy as np
import pytest

from ngram_copy import sample

SHAPES = [pytest.param((500_000, 20), id="L=20"), pytest.param((10, 1_000_000), id="L=10^6")]


@pytest.fixture(params=SHAPES)
def shape(request, benchmark):
    count, seq_len = request.param
    benchmark.group = f"10M tokens, L = {seq_len}"
    benchmark.extra_info["tokens"] = count * seq_len
    return request.param


def test_uniform(benchmark, shape):
    out = np.zeros(shape, np.uint32)
    benchmark(sample.uniform, 0, 0, 0, *shape, 26, out=out)


def test_zipf(benchmark, shape):
    out = np.zeros(shape, np.uint32)
    benchmark(sample.zipf, 0, 0, 0, *shape, 32000, out=out)


def test_markov(benchmark, shape):
    out = np.zeros(shape, np.uint32)
    benchmark(sample.markov, 0, 0, 0, *shape, 26, out=out)


def test_numpy_uniform(benchmark, shape):
    benchmark.extra_info |= {"peer": "NumPy integers", "of": "uniform"}
    benchmark(np.random.default_rng(0).integers, 0, 26, shape, dtype=np.uint32)


def test_numpy_zipf(benchmark, shape):
    benchmark.extra_info |= {"peer": "NumPy search in cumulative Zipf", "of": "zipf"}
    p = np.arange(1, 32001.0) ** -1.0
    cumulative, draw = np.cumsum(p / p.sum()), np.random.default_rng(0).random
    benchmark.pedantic(lambda: np.searchsorted(cumulative, draw(shape), side="right"), rounds=3)
