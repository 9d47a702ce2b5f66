"""Intervals and exact tests against scipy and brute force."""

import math
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.stats

from ngram_copy import score
from ngram_copy.engines.base import Prediction


def exact_sum_tail(cells, total):
    """P(sum >= total) in whole fractions, one trial after another."""
    pmf = [Fraction(1)]
    for n, share in cells:
        p = Fraction(share)
        for _ in range(n):
            pmf = [
                (pmf[j] * (1 - p) if j < len(pmf) else 0) + (pmf[j - 1] * p if j else 0) for j in range(len(pmf) + 1)
            ]
    return sum(pmf[max(0, total) :], Fraction(0))


@pytest.mark.parametrize(("k", "n"), [(0, 10), (3, 10), (10, 10), (1, 1), (500, 1000), (999_999, 10**6)])
def test_wilson_interval(k, n):
    for confidence in (0.5, 0.95, 0.999):
        low, high = score.wilson_interval(k, n, confidence)
        reference = scipy.stats.binomtest(k, n).proportion_ci(confidence, method="wilson")
        assert (low, high) == pytest.approx((reference.low, reference.high), abs=1e-12)
        assert low == 0 or k > 0
        assert high == 1 or k < n
    assert score.wilson_interval(0, 0) == (0.0, 1.0)


def test_mean_interval_is_students():
    values = np.random.default_rng(3).normal(5, 2, 1000)
    for count, tolerance in [(5, 2e-3), (10, 1e-4), (1000, 1e-9)]:
        x = values[:count]
        for confidence in (0.8, 0.95):
            t = scipy.stats.t.ppf((1 + confidence) / 2, count - 1)
            half = t * x.std(ddof=1) / math.sqrt(count)
            low, high = score.mean_interval(x, confidence)
            assert (low + high) / 2 == pytest.approx(x.mean())
            assert (high - low) / 2 == pytest.approx(half, rel=tolerance)


@pytest.mark.parametrize(
    ("n", "p"),
    [(1, 0.3), (10, 0.2), (40, 0.97), (1000, 0.5), (10_000, 1e-3), (10**6, 0.1), (10**6, 1e-6), (10**6, 0.9999)],
)
def test_binomial_tail_equals_scipy(n, p):
    mean, sd = n * p, math.sqrt(n * p * (1 - p))
    for z in (-8, -3, -1, -0.1, 0, 0.1, 1, 3, 6, 12, 30):
        k = min(n, max(0, round(mean + z * sd)))
        expected = scipy.stats.binom.sf(k - 1, n, p)
        assert score.binomial_tail(k, n, p) == pytest.approx(expected, rel=1e-10)


def test_binomial_tail_equals_fractions():
    for k, p in product(range(14), (0.125, 0.5, 0.75)):
        assert score.binomial_tail(k, 12, p) == pytest.approx(float(exact_sum_tail([(12, p)], k)), rel=1e-13)
    assert score.binomial_tail(10**6, 10**6, 0.999) == pytest.approx(math.exp(10**6 * math.log(0.999)), rel=1e-9)


def test_binomial_tail_at_its_ends():
    assert score.binomial_tail(0, 5, 0.0) == score.binomial_tail(-3, 5, 0.5) == score.binomial_tail(5, 5, 1.0) == 1
    assert score.binomial_tail(1, 5, 0.0) == score.binomial_tail(6, 5, 1.0) == score.binomial_tail(1, 0, 0.5) == 0


def test_binomial_test_is_twice_the_smaller_tail():
    for k in range(13):
        upper, lower = exact_sum_tail([(12, 0.25)], k), 1 - exact_sum_tail([(12, 0.25)], k + 1)
        assert score.binomial_test(k, 12, 0.25) == pytest.approx(float(min(1, 2 * min(upper, lower))), rel=1e-13)
    assert score.binomial_test(0, 5, 1.0) == score.binomial_test(5, 5, 0.0) == 0
    assert score.binomial_test(0, 0, 0.5) == score.binomial_test(5, 5, 1.0) == 1


def test_binomial_test_rejects_a_true_bound_no_more_often_than_it_says():
    for n, p in [(20, 0.3), (50, 0.05)]:
        pmf = scipy.stats.binom.pmf(np.arange(n + 1), n, p)
        p_values = np.array([score.binomial_test(k, n, p) for k in range(n + 1)])
        for alpha in (0.001, 0.01, 0.05, 0.3):
            assert pmf[p_values <= alpha].sum() <= alpha


@pytest.mark.parametrize(
    "cells",
    [
        [(5, 0.25), (7, 0.5)],
        [(3, 1.0), (4, 0.125), (2, 0.0)],
        [(1, 0.9), (1, 0.5), (1, 0.01), (30, 0.001)],
        [(10, 0.999), (10, 0.001)],
        [],
        [(0, 0.5)],
    ],
)
def test_the_tail_over_cells_equals_fractions(cells):
    for total in range(-1, sum(n for n, _ in cells) + 2):
        expected = float(exact_sum_tail(cells, total))
        assert score.poisson_binomial_tail(cells, total) == pytest.approx(expected, rel=1e-9, abs=1e-300)


def test_the_tail_over_cells_equals_one_binomial_if_all_are_alike():
    for total in (250, 300, 310, 400, 999, 1000):
        expected = scipy.stats.binom.sf(total - 1, 1000, 0.3)
        cells = [(100, 0.3)] * 10
        assert score.poisson_binomial_tail(cells, total) == pytest.approx(expected, rel=1e-9)
        apart = [(100, 0.3 + i * 1e-14) for i in range(10)]
        assert score.poisson_binomial_tail(apart, total) == pytest.approx(expected, rel=1e-9)


def test_the_tail_over_hundreds_of_large_cells():
    rng = np.random.default_rng(5)
    cells = [(int(n), float(p)) for n, p in zip(rng.integers(0, 10**4, 400), rng.random(400) ** 4, strict=True)]
    n, p = np.array(cells).T
    mean, sd = float(n @ p), math.sqrt(float(n @ (p * (1 - p))))
    skew = float(n @ (p * (1 - p) * (1 - 2 * p))) / sd**3
    for z in (-3, 0, 2, 4):
        total = round(mean + z * sd)
        x = (total - 0.5 - mean) / sd
        # Edgeworth's first term: good to a part in 10^3 here
        edgeworth = scipy.stats.norm.sf(x) + skew * (x * x - 1) / 6 * scipy.stats.norm.pdf(x)
        assert score.poisson_binomial_tail(cells, total) == pytest.approx(edgeworth, rel=5e-3)
    assert 0 < score.poisson_binomial_tail(cells, round(mean + 30 * sd)) < 1e-150


def test_bits_recalled_p_value_by_its_formula():
    bits, b = np.array([3.0, 5.0, -1.0]), np.array([4.0, 4.0, 2.0])
    product_, mean = 2.0 ** (bits - b).sum(), np.mean(2.0 ** (bits - b))
    assert score.bits_recalled_p_value(bits, b) == min(1, 2 / (product_ + mean))
    assert score.bits_recalled_p_value([13.0], 3) == pytest.approx(2**-10)
    assert score.bits_recalled_p_value([], 3) == 1.0
    assert score.bits_recalled_p_value([5000.0, -np.inf], 0) == 0.0  # one string far above: the mean finds it
    assert score.bits_recalled_p_value([-np.inf, -np.inf], 0) == 1.0
    assert score.bits_recalled_p_value(np.full(1000, 8.1), 8.0) < 1e-29  # a little above, always: the product


def test_bits_recalled_are_evidence_that_no_machine_gathers_unduly():
    """E[2^(B - b)] <= 1 for every encoder of a small source and random predictors: summed over all strings."""
    rng = np.random.default_rng(6)
    answers = np.arange(8)[:, None]
    largest = 0.0
    for _ in range(500):
        p = rng.dirichlet(np.full(8, rng.uniform(0.5, 2)))
        states = rng.integers(0, 3, 8)
        q = rng.dirichlet(np.full(8, rng.uniform(0.5, 2)), size=3)[states, np.arange(8)]
        bits = score.bits_recalled(Prediction(answers, log2_q=np.log2(q)[:, None]), answers, np.log2(p)[:, None])
        e = float(p @ 2.0 ** (bits - math.log2(3)))
        largest = max(largest, e)
        assert e <= 1 + 1e-12
    assert largest > 0.5  # and it is not far from tight


def test_bits_recalled_p_value_is_valid_for_a_machine_at_its_bound():
    """Strings of 6 bits, 3 of them kept; of the eight completions one gets half of the probability."""
    rng = np.random.default_rng(7)
    runs, alpha = 2000, 0.05
    rejected = 0
    for _ in range(runs):
        right = rng.random(20) < 1 / 8
        bits = np.where(right, 6 + math.log2(0.5), 6 + math.log2(0.5 / 7))
        rejected += score.bits_recalled_p_value(bits, 3.0) <= alpha
    assert scipy.stats.binomtest(rejected, runs, alpha, alternative="greater").pvalue > 1e-9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: score.wilson_interval(3, 2), "k must be at most n = 2, not 3"),
        (lambda: score.wilson_interval(1, 2, 1.0), r"confidence must be in \[0, 1\), not 1.0"),
        (lambda: score.mean_interval([1.0]), "at least 2 finite numbers, not .1.0."),
        (lambda: score.mean_interval([1.0, math.inf, 2, 3, 4]), "at least 2 finite numbers, not an array of shape"),
        (lambda: score.binomial_tail(1, -1, 0.5), "n must be at least 0"),
        (lambda: score.binomial_tail(1, 2, 1.5), r"p must be in \[0, 1\]"),
        (lambda: score.binomial_test(3, 2, 0.5), "k must be at most n = 2"),
        (lambda: score.poisson_binomial_tail([(3, -0.1)], 1), r"p must be in \[0, 1\], not -0.1"),
        (lambda: score.bits_recalled_p_value([1.0, 2.0], [1.0]), "shapes"),
        (lambda: score.bits_recalled_p_value([math.nan], 1.0), "NaN"),
        (lambda: score.bits_recalled_p_value([1.0], -1.0), "state_bits must be at least 0"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
