"""What must hold of the theory for any arguments."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ngram_copy import theory

bits = st.floats(0, 1e6, allow_nan=False)
lengths = st.integers(0, 3000)
vocabularies = st.integers(2, 100_000)
errors = st.floats(0, 0.999)


@given(bits, st.floats(0, 100), lengths, vocabularies)
def test_the_string_bound_grows_with_bits_and_falls_with_length(b, more, length, d):
    bound = theory.copy_accuracy_bound(state_bits=b, seq_len=length, vocab_size=d)
    assert 0 <= bound <= 1
    assert theory.copy_accuracy_bound(state_bits=b + more, seq_len=length, vocab_size=d) >= bound
    longer = theory.copy_accuracy_bound(state_bits=b, seq_len=length + 1, vocab_size=d)
    assert longer <= bound
    if 1e-290 < longer < bound < 1:
        assert math.isclose(bound / longer, d, rel_tol=1e-6)


@given(st.floats(0, 1e5), vocabularies, errors)
def test_the_longest_string_is_allowed_and_the_next_is_not(b, d, error):
    length = theory.max_copy_length(b, d, error)
    tolerance = 1e-7 * math.log2(d)
    assert theory.required_state_bits(length, d, error) <= b + tolerance
    assert theory.required_state_bits(length + 1, d, error) >= b - tolerance


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), vocabularies)
def test_rate_distortion_is_convex_and_falls(x, y, weight, d):
    r = [theory.rate_distortion(v, d) for v in (x, y, weight * x + (1 - weight) * y)]
    assert all(0 <= value <= math.log2(d) + 1e-12 for value in r)
    assert r[2] <= weight * r[0] + (1 - weight) * r[1] + 1e-9
    assert (r[0] >= r[1] - 1e-12) if x <= y else (r[0] <= r[1] + 1e-12)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30), st.integers(2, 1000))
def test_the_curve_of_the_mean_is_looser_than_the_sum(deltas, d):
    b = theory.tokens_bits(deltas, d)
    assert theory.token_bound(b, len(deltas), d) >= 1 - float(np.mean(deltas)) - 1e-7


@given(st.integers(0, 12), st.integers(1, 5), st.integers(2, 40))
def test_p_ngram_lies_under_its_bounds_and_grows_with_length(length, n, d):
    value = theory.p_ngram(length, n, d, max_work=5000)
    union = theory.p_ngram_union_bound(length, n, d)
    assert 0 <= theory.p_ngram_poisson(length, n, d) <= union + 1e-12
    if value is not None:
        assert 0 <= value <= union + 1e-12
        shorter = theory.p_ngram(max(0, length - 1), n, d, max_work=5000)
        assert shorter is None or shorter <= value


@given(
    st.lists(st.floats(0.01, 1), min_size=1, max_size=12), st.integers(0, 60), st.integers(1, 12), st.integers(0, 100)
)
def test_the_union_bound_of_any_source(weights, length, n, repeat):
    p = np.array(weights) / sum(weights)
    bound = theory.p_ngram_union_bound(length, n, probabilities=p)
    assert bound >= theory.p_ngram_union_bound(length, n, len(p)) - 1e-9  # uniform tokens repeat least
    assert theory.p_ngram_union_bound(length + 1, n, probabilities=p) >= bound - 1e-12
    padded = np.append(p, [0.0] * (repeat % 4))
    assert math.isclose(theory.p_ngram_union_bound(length, n, probabilities=padded), bound, rel_tol=1e-9)


@given(st.integers(1, 10_000), st.integers(0, 300), vocabularies, st.integers(0, 20))
def test_bounded_tables(slots, keys, d, key_bits):
    occupied = theory.expected_occupied(slots, keys)
    assert 0 <= occupied <= min(slots, keys) * (1 + 1e-9)
    assert abs(occupied + theory.expected_collisions(slots, keys) - keys) <= 1e-6
    exact, tagged = (theory.bounded_token_accuracy(slots, keys, d, key_bits=k) for k in (None, key_bits))
    assert 0 <= exact <= tagged <= 1 + 1e-9
    whole, lucky = (theory.bounded_string_accuracy(slots, keys, d, key_bits=k) for k in (None, key_bits))
    assert 0 <= whole <= lucky * (1 + 1e-9) + 1e-300
    assert lucky <= tagged + 1e-9  # all right implies one right
    assert np.allclose(
        theory.key_survival(slots, keys, "keep_first")[::-1], theory.key_survival(slots, keys, "overwrite")
    )
    assert theory.false_positive_rate(slots, keys, key_bits) <= 2.0**-key_bits


@given(st.integers(0, 3000), st.integers(2, 1000), st.floats(1e-6, 1))
def test_required_n_is_enough_and_not_too_much(length, d, error):
    n = theory.required_n(length, d, error)
    assert theory.p_ngram_union_bound(length, n, d) <= error
    assert n == 1 or theory.p_ngram_union_bound(length, n - 1, d) > error
