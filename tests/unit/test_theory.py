"""The bounds, p_ngram and the tables against brute force: all strings, all machines, simulation."""

import math
from collections import Counter
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
import scipy.stats

from ngram_copy import theory
from ngram_copy.theory.ngrams import _distinct_strings

# A Monte-Carlo check fails a right formula with this probability (exact test, fixed seed).
RARE = 1e-9


def strings(vocab_size, length):
    return list(product(range(vocab_size), repeat=length))


def repeats(x, n):
    grams = [x[i : i + n] for i in range(len(x) - n + 1)]
    return len(set(grams)) < len(grams)


def equal_pairs(x, n):
    grams = [x[i : i + n] for i in range(len(x) - n + 1)]
    return sum(grams[i] == grams[j] for j in range(len(grams)) for i in range(j))


# ---- a fixed state ----


@pytest.mark.parametrize(("states", "length"), [(1, 2), (2, 2), (2, 3), (3, 3), (4, 3)])
def test_no_machine_of_so_many_states_copies_more_strings_than_the_bound(states, length):
    """Every update function of every machine: the best decoder is right for one string of each state reached."""
    best = 0
    for table in product(range(states), repeat=2 * states):
        reached = set()
        for x in strings(2, length):
            state = 0
            for token in x:
                state = table[2 * state + token]
            reached.add(state)
        best = max(best, len(reached))
    bound = theory.copy_accuracy_bound(state_bits=math.log2(states), seq_len=length, vocab_size=2)
    assert best / 2**length <= bound + 1e-12
    assert bound == pytest.approx(states / 2**length)


def test_the_string_bound_is_tight_for_an_encoder_that_sees_the_whole_string():
    """A distribution of four answers and two states: the two likeliest are right, at most 2·2^-H_min."""
    p = {"a": 0.4, "b": 0.4, "c": 0.1, "d": 0.1}
    best = max(
        sum(p[x] for x, s in zip(p, states, strict=True) if decoder[s] == x)
        for states in product(range(2), repeat=4)
        for decoder in product(p, repeat=2)
    )
    assert best == pytest.approx(theory.string_bound(1, -math.log2(0.4)))


@pytest.mark.parametrize("teacher_forced", [False, True])
def test_no_encoder_beats_the_token_bounds(teacher_forced):
    """Every encoder of 3 bits into 2 states, with the best guess at each position."""
    texts = strings(2, 3)
    best = 0.0
    for states in product(range(2), repeat=8):
        errors = []
        for i in range(3):
            votes = {}
            for x, s in zip(texts, states, strict=True):
                seen = (s, x[:i]) if teacher_forced else s
                votes.setdefault(seen, Counter())[x[i]] += 1
            errors.append(1 - sum(max(count.values()) for count in votes.values()) / 8)
        assert theory.tokens_bits(errors, 2) <= 1 + 1e-12
        best = max(best, 1 - sum(errors) / 3)
    assert best <= theory.token_bound(1, 3, 2)
    assert best >= 2 / 3  # one token kept, two guessed


def test_the_prefix_machine_reaches_the_bound_on_token_errors_and_not_the_curve_of_the_mean():
    errors = [0.0] * 10 + [25 / 26] * 10
    bits = 10 * math.log2(26)
    assert theory.tokens_bits(errors, 26) == pytest.approx(bits)
    assert 1 - np.mean(errors) == pytest.approx(0.52, abs=0.001)
    assert theory.token_bound(bits, 20, 26) == pytest.approx(0.687, abs=0.001)


def test_token_bound_inverts_the_rate_distortion_function():
    for bits in [0.5, 3.0, 11.0]:
        accuracy = theory.token_bound(bits, 5, 7)
        assert theory.rate_distortion(1 - accuracy, 7) == pytest.approx(bits / 5)
    assert theory.token_bound(0, 5, 7) == pytest.approx(1 / 7)
    assert theory.token_bound(5 * math.log2(7), 5, 7) == 1.0
    assert theory.token_bound(0, 5, 7, known_tokens=1) == pytest.approx((5 / 7 + 1) / 6)
    assert theory.token_bound(0, 0, 7) == 1.0


def test_rate_distortion_is_the_least_information_of_any_channel_with_this_error():
    """Blahut's minimum over symmetric channels, and over random ones, for three symbols."""
    rng = np.random.default_rng(1)
    for _ in range(300):
        channel = rng.dirichlet(rng.uniform(0.1, 3, 3), size=3)  # rows: p(guess | token)
        joint = channel / 3
        information = float((joint * np.log2(channel / joint.sum(axis=0))).sum())
        assert theory.rate_distortion(1 - np.trace(joint), 3) <= information + 1e-12
    symmetric = np.full((3, 3), 0.1) + 0.7 * np.eye(3)
    information = float((symmetric / 3 * np.log2(3 * symmetric)).sum())
    assert theory.rate_distortion(0.2, 3) == pytest.approx(information)
    assert theory.rate_distortion(0, 3) == math.log2(3)
    assert theory.rate_distortion(2 / 3, 3) == theory.rate_distortion(1, 3) == 0


def test_longest_string_and_needed_bits():
    assert theory.max_copy_length(1024, 26) == 218
    assert theory.max_copy_length(10 * math.log2(26), 26, error=0) == 10
    assert theory.max_copy_length(9.999 * math.log2(26), 26, error=0) == 9
    assert theory.max_copy_length(0, 2) == 1  # half of the strings of one bit
    assert theory.required_state_bits(300, 26) == pytest.approx(300 * math.log2(26) - 1)
    assert theory.required_state_bits(0, 26) == 0
    assert theory.copy_accuracy_bound(state_bits=1e9, seq_len=1, vocab_size=2) == 1.0
    assert theory.copy_accuracy_bound(state_bits=0, seq_len=10**6, vocab_size=26) == 0.0
    assert theory.bits_recalled_bound(7) == 7.0


# ---- p_ngram ----


@pytest.mark.parametrize(
    ("vocab_size", "n", "longest"),
    [
        (1, 1, 4),
        (1, 3, 5),
        (2, 1, 4),
        (2, 2, 9),
        (2, 3, 12),
        (2, 4, 14),
        (2, 7, 14),
        (3, 1, 5),
        (3, 2, 9),
        (4, 2, 7),
        (5, 3, 6),
    ],
)
def test_exact_p_ngram_counts_all_strings(vocab_size, n, longest):
    for length in range(longest + 1):
        texts = strings(vocab_size, length)
        count = sum(repeats(x, n) for x in texts)
        assert theory.p_ngram(length, n, vocab_size) == pytest.approx(count / len(texts), rel=1e-14)


def test_exact_p_ngram_of_the_longest_strings():
    """Of the strings of length D^n + n - 1 those without a repeat are the de Bruijn sequences, (D!)^(D^(n-1))."""
    for d, n in [(2, 3), (2, 4), (3, 2), (4, 2)]:
        length = d**n + n - 1
        sequences = math.factorial(d) ** (d ** (n - 1))
        assert theory.p_ngram(length, n, d) == float(1 - Fraction(sequences, d**length))
        assert theory.p_ngram(length + 1, n, d) == 1.0


def test_p_ngram_for_single_tokens_is_the_birthday_problem():
    assert theory.p_ngram(23, 1, 365) == pytest.approx(0.5072972343239857, rel=1e-12)
    exact = 1 - Fraction(math.perm(10**6, 1000), 10**6000)
    assert theory.p_ngram(1000, 1, 10**6) == pytest.approx(float(exact), rel=1e-12)
    assert theory.p_ngram(10**6, 1, 2**32) == pytest.approx(1.0)
    assert theory.p_ngram(2, 1, 2**32) == pytest.approx(2**-32, rel=1e-9)


def test_p_ngram_says_what_is_out_of_reach():
    assert theory.p_ngram(300, 3, 26) is None
    assert theory.p_ngram(300, 200, 26) is None
    assert theory.p_ngram(10, 2, 2, max_work=3) == 1.0  # more than four pairs
    assert theory.p_ngram(5, 2, 2, max_work=3) is None


@pytest.mark.parametrize("max_work", [10, 300, 5000])
@pytest.mark.parametrize(("d", "n"), [(2, 2), (2, 4), (3, 2), (5, 3), (26, 2), (26, 4)])
def test_what_is_given_up_without_trying_is_out_of_reach(d, n, max_work):
    within = len(_distinct_strings(n, d, max_work)) + n - 2  # the longest strings that are counted
    for length in range(n + 1, min(within + 20, d**n + n)):
        assert (theory.p_ngram(length, n, d, max_work=max_work) is None) == (length > within)


@pytest.mark.parametrize(
    "p", [[0.5, 0.5], [0.9, 0.1], [0.5, 0.3, 0.2], [0.6, 0.4, 0.0]], ids=["uniform", "skewed", "three", "never"]
)
@pytest.mark.parametrize(("length", "n"), [(1, 2), (4, 1), (5, 2), (7, 3), (7, 4), (8, 5), (8, 8)])
def test_the_union_bound_is_the_expected_number_of_equal_pairs(p, length, n):
    expected = sum(math.prod(p[t] for t in x) * equal_pairs(x, n) for x in strings(len(p), length))
    assert theory.p_ngram_union_bound(length, n, probabilities=p) == pytest.approx(min(1, expected), rel=1e-12)
    if len(set(p)) == 1:
        assert theory.p_ngram_union_bound(length, n, len(p)) == pytest.approx(min(1, expected), rel=1e-12)


def test_overlapping_ngrams_are_equal_more_often_where_tokens_are_not_uniform():
    p = np.array([0.7, 0.2, 0.1])
    apart = math.comb(99, 2) * float((p**2).sum()) ** 20
    assert theory.p_ngram_union_bound(118, 20, probabilities=p) > 9 * apart


@pytest.mark.parametrize(
    ("vocab_size", "n", "tolerance"),
    [(2, 2, 0.21), (2, 4, 0.09), (2, 5, 0.06), (4, 3, 0.02), (26, 2, 0.001), (64, 1, 0.04)],
)
def test_the_poisson_form_is_near_the_exact_values(vocab_size, n, tolerance):
    exact = {}
    for length in range(vocab_size**n + n):
        value = theory.p_ngram(length, n, vocab_size)
        if value is not None:
            exact[length] = value
    assert max(exact.values()) > 0.05
    for length, value in exact.items():
        assert theory.p_ngram_poisson(length, n, vocab_size) == pytest.approx(value, abs=tolerance)
        assert value <= theory.p_ngram_union_bound(length, n, vocab_size) + 1e-15


def test_monte_carlo_agrees_with_exact_values_and_the_poisson_form_at_the_median():
    rng = np.random.default_rng(7)
    for length, n, d in [(8, 2, 4), (14, 4, 2), (23, 1, 365)]:
        estimate = theory.p_ngram_monte_carlo(length, n, d, samples=4000, rng=rng)
        count = round(4000 * estimate.value)
        assert scipy.stats.binomtest(count, 4000, theory.p_ngram(length, n, d)).pvalue > RARE
        assert estimate.low <= estimate.value <= estimate.high
    for n, d in [(3, 26), (12, 2), (4, 16)]:
        length = round(theory.median_length(n, d))
        estimate = theory.p_ngram_monte_carlo(length, n, d, samples=4000, rng=rng)
        assert scipy.stats.binomtest(round(4000 * estimate.value), 4000, 0.5).pvalue > 1e-4
        assert theory.p_ngram_poisson(length, n, d) == pytest.approx(0.5, abs=0.02)


def test_monte_carlo_of_other_sources_and_of_ngrams_too_large_for_one_word():
    rng = np.random.default_rng(8)
    p = [0.7, 0.2, 0.1]
    exact = sum(math.prod(p[t] for t in x) for x in strings(3, 7) if repeats(x, 3))
    estimate = theory.p_ngram_monte_carlo(7, 3, samples=4000, rng=rng, probabilities=p)
    assert scipy.stats.binomtest(round(4000 * estimate.value), 4000, exact).pvalue > RARE
    # 80 tokens do not fit in a word: the same strings, drawn again, counted one by one.
    estimate = theory.p_ngram_monte_carlo(86, 80, 3, samples=500, rng=np.random.default_rng(9))
    assert estimate.value == 0
    p = [0.98, 0.01, 0.01]
    estimate = theory.p_ngram_monte_carlo(86, 80, samples=500, rng=np.random.default_rng(9), probabilities=p)
    texts = np.random.default_rng(9).choice(3, size=(500, 86), p=p)
    assert estimate.value == np.mean([repeats(tuple(x), 80) for x in texts.tolist()])
    assert 0.05 < estimate.value < 0.95
    assert theory.p_ngram_monte_carlo(3, 5, 2, samples=10, rng=rng).value == 0


def test_the_numbers_of_the_construction():
    assert theory.median_length(12, 2) == pytest.approx(118.6, abs=0.1)
    assert theory.median_length(4, 64) == pytest.approx(4864.8, abs=0.1)
    assert theory.median_length(4000, 26) == math.inf
    sizes = theory.construction_sizes(3, 26)
    assert (sizes.heads, sizes.token_bits, sizes.d_model, sizes.d_mlp, sizes.head_dims) == ((3, 1), 5, 49, 66, (6, 18))
    layers = 49 * (3 + 3 + 18 + 18) + 49 * (66 + 66) + 66 + 49 + 49 * (18 + 18 + 6 + 6)
    assert sizes.parameters == 2 * 49 * 30 + 30 + layers
    small = theory.construction_sizes(3, 2, snapping=False, end_of_string=False)
    assert (small.token_bits, small.d_model, small.d_mlp, small.value_dim) == (2, 23, 15, 2)
    named = theory.construction_sizes(3, 26, value="one-hot")
    assert (named.d_model, named.value_dim) == (49 + 2 * 26 - 5, 27)
    with pytest.raises(ValueError, match="value must be one of bits, one-hot, not 'both'"):
        theory.construction_sizes(3, 26, value="both")
    assert [theory.construction_sizes(1, d).token_bits for d in (1, 4, 5, 64, 65)] == [2, 2, 3, 6, 7]


def test_required_n_is_the_smallest():
    for length, d, error in [
        (1000, 26, 0.01),
        (300, 2, 0.5),
        (50, 1, 0.1),
        (10, 2, 0.0),
        (0, 2, 0.1),
        (10**6, 2, 1e-6),
    ]:
        n = theory.required_n(length, d, error)
        assert theory.p_ngram_union_bound(length, n, d) <= error
        assert n == 1 or theory.p_ngram_union_bound(length, n - 1, d) > error


# ---- bounded tables ----


def simulate(slots, keys, vocab_size, key_bits, eviction, rng):
    """One table, filled and asked: (occupied, kept, right answers, answers to keys never inserted of 100)."""
    home = rng.integers(0, slots, keys + 100)
    tag = rng.integers(0, 2 ** (62 if key_bits is None else key_bits), keys + 100)
    value = rng.integers(0, vocab_size, keys)
    table = {}
    for i in range(keys):
        if eviction == "overwrite" or int(home[i]) not in table:
            table[int(home[i])] = i
    kept = [table[int(home[i])] == i for i in range(keys)]
    right = 0
    for i in range(keys):
        j = table[int(home[i])]
        right += tag[i] == tag[j] and value[i] == value[j]
    asked = range(keys, keys + 100)
    false = sum(int(home[i]) in table and tag[i] == tag[table[int(home[i])]] for i in asked)
    return len(table), kept, right, false


@pytest.mark.parametrize("eviction", ["keep_first", "overwrite"])
@pytest.mark.parametrize(("slots", "keys", "key_bits"), [(64, 40, 0), (64, 200, 2), (512, 300, None), (1, 3, 1)])
def test_tables_by_simulation(slots, keys, key_bits, eviction):
    rng = np.random.default_rng(11)
    runs = 400
    d = 4
    occupied, right, false, kept = [], [], [], np.zeros(keys)
    for _ in range(runs):
        o, k, r, f = simulate(slots, keys, d, key_bits, eviction, rng)
        occupied.append(o)
        kept += k
        right.append(r / keys)
        false.append(f / 100)

    def agrees(values, expected):
        error = np.std(values) / math.sqrt(len(values))
        return abs(np.mean(values) - expected) <= 6 * error + 1e-9

    assert agrees(occupied, theory.expected_occupied(slots, keys))
    assert agrees([keys - o for o in occupied], theory.expected_collisions(slots, keys))
    assert theory.expected_survivors(slots, keys) == theory.expected_occupied(slots, keys)
    assert theory.key_survival(slots, keys, eviction).sum() == pytest.approx(theory.expected_survivors(slots, keys))
    for i in (0, keys // 2, keys - 1):
        p = float(theory.key_survival(slots, keys, eviction)[i])
        assert scipy.stats.binomtest(int(kept[i]), runs, p).pvalue > RARE
    assert agrees(right, theory.bounded_token_accuracy(slots, keys, d, key_bits=key_bits))
    tag_bits = 62 if key_bits is None else key_bits
    assert agrees(false, theory.false_positive_rate(slots, keys, tag_bits))


@pytest.mark.parametrize("eviction", ["keep_first", "overwrite"])
@pytest.mark.parametrize(("slots", "keys", "key_bits"), [(4, 3, 0), (8, 4, 1), (6, 4, None), (2, 3, 0)])
def test_whole_strings_in_tables_by_simulation(slots, keys, key_bits, eviction):
    rng = np.random.default_rng(12)
    runs = 3000
    whole = sum(simulate(slots, keys, 2, key_bits, eviction, rng)[2] == keys for _ in range(runs))
    p = theory.bounded_string_accuracy(slots, keys, 2, key_bits=key_bits)
    assert 0 < p < 1
    assert scipy.stats.binomtest(whole, runs, p).pvalue > RARE


@pytest.mark.parametrize("slots", [1, 2, 5])
def test_tables_by_enumeration(slots):
    """All ways in which keys fall into slots, exactly."""
    for keys in range(6):
        ways = list(product(range(slots), repeat=keys))
        occupied = [len(set(way)) for way in ways]
        assert theory.expected_occupied(slots, keys) == pytest.approx(np.mean(occupied))
        assert theory.bounded_string_accuracy(slots, keys, 3) == pytest.approx(np.mean([o == keys for o in occupied]))
        lucky = np.mean([(2**-1 / 3) ** (keys - o) for o in occupied])
        assert theory.bounded_string_accuracy(slots, keys, 3, key_bits=1) == pytest.approx(lucky)


def test_tables_at_their_ends():
    assert theory.bounded_table_bits(1024, 16, 5) == 1024 * 22
    assert theory.expected_occupied(10, 0) == 0
    assert theory.expected_occupied(10**12, 3) == pytest.approx(3)
    assert theory.expected_collisions(10**12, 10**6) == pytest.approx(10**12 / 2 / 10**12, rel=1e-3)
    assert theory.bounded_token_accuracy(8, 0, 2) == 1.0
    assert theory.bounded_string_accuracy(8, 9, 2) == 0.0
    assert theory.bounded_string_accuracy(8, 0, 2) == 1.0
    assert theory.bounded_string_accuracy(1, 2, 1, key_bits=0) == 1.0


# ---- bad input ----


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: theory.copy_accuracy_bound(state_bits=-1, seq_len=3, vocab_size=2), "state_bits must be at least 0"),
        (lambda: theory.copy_accuracy_bound(state_bits=1, seq_len=-3, vocab_size=2), "seq_len must be 0 to 2"),
        (lambda: theory.copy_accuracy_bound(state_bits=1, seq_len=3, vocab_size=0), "vocab_size must be at least 1"),
        (lambda: theory.copy_accuracy_bound(state_bits=1, seq_len=3.5, vocab_size=2), "seq_len must be an integer"),
        (lambda: theory.string_bound(math.nan, 1), "state_bits must be at least 0, not nan"),
        (lambda: theory.string_bound(10**400, 1), "state_bits must be at most 1.8e"),
        (lambda: theory.copy_accuracy_bound(state_bits=1, seq_len=10**400, vocab_size=2), "seq_len must be 0 to 2"),
        (lambda: theory.required_n(10**400, 2, 0.1), "seq_len must be 0 to 2"),
        (lambda: theory.string_bound("many", 1), "state_bits must be a number, not 'many'"),
        (lambda: theory.rate_distortion(1.5, 2), r"delta must be in \[0, 1\], not 1.5"),
        (lambda: theory.rate_distortion(0.5, 1), "vocab_size must be at least 2, not 1"),
        (lambda: theory.tokens_bits([[0.5]], 2), r"deltas must have one dimension, not shape \(1, 1\)"),
        (lambda: theory.max_copy_length(math.inf, 2), "state_bits must be at least 0 and finite, not inf"),
        (lambda: theory.max_copy_length(5, 2, error=1), r"error must be in \[0, 1\), not 1.0"),
        (lambda: theory.p_ngram(5, 0, 2), "n must be at least 1, not 0"),
        (lambda: theory.p_ngram_union_bound(5, 2), "either vocab_size"),
        (lambda: theory.p_ngram_union_bound(5, 2, 2, probabilities=[1]), "either vocab_size"),
        (lambda: theory.p_ngram_union_bound(5, 2, probabilities=[0.5, 0.6]), "sum to 1"),
        (lambda: theory.p_ngram_union_bound(5, 2, probabilities=[-0.5, 1.5]), "the least is -0.5"),
        (lambda: theory.p_ngram_union_bound(5, 2, probabilities=[[1.0]]), "one row"),
        (lambda: theory.p_ngram_monte_carlo(5, 2, samples=1, rng=np.random.default_rng(0)), "either vocab_size"),
        (lambda: theory.p_ngram_monte_carlo(5, 2, 0, samples=1, rng=np.random.default_rng(0)), "vocab_size must"),
        (lambda: theory.p_ngram_monte_carlo(5, 2, 2, samples=0, rng=np.random.default_rng(0)), "samples must"),
        (lambda: theory.median_length(2, 1), "vocab_size must be at least 2"),
        (lambda: theory.key_survival(2, 2, "last"), "eviction must be 'keep_first' or 'overwrite', not 'last'"),
        (lambda: theory.expected_occupied(0, 2), "slots must be at least 1, not 0"),
        (lambda: theory.bounded_string_accuracy(9, 20_001, 2, key_bits=1), "keys must be at most 20000"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_required_n_where_the_bound_underflows():
    assert theory.required_n(1000, 26, 0) == 1000
    for error in (1e-300, 1e-310):
        n = theory.required_n(1000, 26, error)
        assert math.log2(math.comb(1001 - n, 2)) - n * math.log2(26) <= math.log2(error)
        assert math.log2(math.comb(1002 - n, 2)) - (n - 1) * math.log2(26) > math.log2(error)
