"""What must hold of scores and tests for any input."""

import math
from fractions import Fraction

import numpy as np
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from ngram_copy import score

probabilities = st.floats(0, 1)


@given(st.integers(0, 10**6), st.floats(1e-9, 1 - 1e-9), st.floats(0, 1))
def test_binomial_tail_equals_scipy(n, p, place):
    k = round(place * n)
    expected = scipy.stats.binom.sf(k - 1, n, p)
    assert math.isclose(score.binomial_tail(k, n, p), expected, rel_tol=1e-8, abs_tol=1e-290)


@given(st.integers(0, 200), st.integers(0, 200), probabilities)
def test_tails_add_up_and_the_two_sided_test_is_symmetric(k, n, p):
    k = min(k, n)
    at_least, more = score.binomial_tail(k, n, p), score.binomial_tail(k + 1, n, p)
    assert more <= at_least + 1e-12
    pmf = math.comb(n, k) * p**k * (1 - p) ** (n - k)
    assert math.isclose(at_least - more, pmf, rel_tol=1e-6, abs_tol=1e-12)
    half = round(p * 64) / 64  # 1 - p without rounding
    assert math.isclose(score.binomial_test(k, n, half), score.binomial_test(n - k, n, 1 - half), rel_tol=1e-12)


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 64)), max_size=5), st.integers(-1, 32))
def test_the_tail_over_cells_equals_a_convolution_of_fractions(cells, total):
    pmf = [Fraction(1)]
    for n, sixtyfourths in cells:
        p = Fraction(sixtyfourths, 64)
        for _ in range(n):
            pmf = [
                (pmf[j] * (1 - p) if j < len(pmf) else 0) + (pmf[j - 1] * p if j else 0) for j in range(len(pmf) + 1)
            ]
    expected = float(sum(pmf[max(0, total) :], Fraction(0)))
    found = score.poisson_binomial_tail([(n, q / 64) for n, q in cells], total)
    assert math.isclose(found, expected, rel_tol=1e-9)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0.01, 0.999))
def test_wilson_intervals_hold_the_share_and_widen_with_confidence(k, n, confidence):
    k = min(k, n)
    low, high = score.wilson_interval(k, n, confidence)
    wider = score.wilson_interval(k, n, (1 + confidence) / 2)
    assert 0 <= wider[0] <= low <= high <= wider[1] <= 1
    assert n == 0 or low <= k / n <= high


tables = st.integers(0, 6).flatmap(
    lambda width: st.lists(
        st.tuples(*(st.lists(st.integers(-1, 3), min_size=width, max_size=width),) * 2), min_size=1, max_size=8
    ).map(lambda rows: np.array(rows, dtype=np.int64).reshape(len(rows), 2, width))
)


@given(tables, tables, st.integers(2, 9))
def test_smoothing_and_match_agree_with_loops(fit, test, vocab_size):
    p = 1 / vocab_size
    smoothing = score.Smoothing.fit(fit[:, 0], fit[:, 1], np.full(fit[:, 1].shape, math.log2(p)))
    assert np.all((smoothing.error > 0) & (smoothing.error <= 1))
    assert 0 < smoothing.pooled <= 1
    tokens, answers = test[:, 0], test[:, 1]
    bits = smoothing.bits(tokens, answers, np.full(answers.shape, math.log2(p)))
    match = score.exact_match(tokens, answers)
    for row in range(len(tokens)):
        used = [t for t in range(tokens.shape[1]) if answers[row, t] >= 0]
        right = [t for t in used if tokens[row, t] == answers[row, t]]
        assert match.tokens[row] == len(right)
        assert match.strings[row] == (len(right) == len(used))
        for t in range(tokens.shape[1]):
            column = [(x, y) for x, y in fit[:, :, t] if x >= 0 and y >= 0] if t < fit.shape[2] else []
            error = smoothing.pooled
            if column:
                missed = max(len(column) * (1 - p), 0.5) / len(column)
                error = min(1.0, (sum(x != y for x, y in column) + 0.5) / (len(column) + 1) / missed)
            expected = 1.0
            if t in used and tokens[row, t] >= 0:
                expected = (1 - error) / p + error if t in right else error
            assert math.isclose(2 ** bits[row, t], expected, rel_tol=1e-9)


@given(st.lists(st.integers(0, 3), max_size=12), st.lists(st.integers(-1, 3), max_size=12), st.integers(1, 4))
def test_every_error_has_a_class_and_only_copies_are_correct(answer, emitted, n):
    found = score.classify_error(answer, emitted, n, end=0)
    assert (found == "correct") == (answer == emitted)
    assert found in {"correct", "jump", "stop", "skip", "none", "other"}
    if found == "jump":
        assert len(answer) > n
    if found == "stop":
        assert 0 in emitted


@given(st.lists(st.floats(-100, 100), max_size=20), st.floats(0, 50), st.floats(0, 10))
def test_more_bits_are_more_evidence_and_more_state_is_less(bits, b, more):
    p = score.bits_recalled_p_value(bits, b)
    assert 0 <= p <= 1
    assert score.bits_recalled_p_value(bits, b + more) >= p * (1 - 1e-9)
    if all(x <= b for x in bits):
        assert p == 1
