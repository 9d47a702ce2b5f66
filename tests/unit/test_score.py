"""Scoring: exact match, smoothing and bits recalled, classes of errors, verdicts on records."""

import math
from itertools import product

import numpy as np
import pytest

from ngram_copy import score
from ngram_copy.engines.base import Prediction
from ngram_copy.theory import rate_distortion


def array(*rows):
    return np.array(rows, dtype=np.int64)


# ---- exact match ----


def test_exact_match_counts_whole_answers_and_tokens():
    answers = array([1, 2, 9], [1, 9, -1], [3, 3, 9], [-1, -1, -1])
    tokens = array([1, 2, 9], [1, 9, 5], [3, -1, 9], [-1, -1, -1])
    match = score.exact_match(tokens, answers)
    assert match.strings.tolist() == [True, True, False, True]
    assert match.tokens.tolist() == [3, 2, 2, 0]


def test_exact_match_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"\(1, 3\), \(1, 2\)"):
        score.exact_match(array([1, 2, 3]), array([1, 2]))


# ---- smoothing ----


def test_smoothing_is_fitted_at_each_position():
    answers = array([1, 1, 9], [2, 2, 9], [3, 9, -1])
    tokens = array([1, 5, -1], [2, 2, -1], [7, -1, 4])  # the 4 stands beyond the end
    log2_p = np.where(answers < 0, 0.0, -2.0)
    smoothing = score.Smoothing.fit(tokens, answers, log2_p)
    assert smoothing.error == pytest.approx([1.5 / 4 / 0.75, 1.5 / 3 / 0.75, 2.5 / 6 / 0.75])  # the last: pooled
    assert smoothing.pooled == pytest.approx(2.5 / 6 / 0.75)


def test_smoothed_probabilities():
    smoothing = score.Smoothing(np.array([0.25, 0.5]), 0.125)
    answers = array([1, 1, 9, -1])
    log2_p = np.array([[-2.0, -2.0, -3.0, 0.0]])
    q = np.array([[0.75 + 0.25 / 4, 0.5 / 4, 0.875 + 0.125 / 8, 1]])
    assert 2 ** (smoothing.bits(array([1, 2, 9, 3]), answers, log2_p) + log2_p) == pytest.approx(q)
    silent = smoothing.bits(array([-1, -1, 3, -1]), answers, log2_p)
    assert silent.tolist() == [[0.0, 0.0, -3.0, 0.0]]  # silence recalls nothing, a slip costs log2 1/ε


def test_smoothed_probabilities_sum_to_one_over_answers():
    """So the engine is a predictor of its own, whatever it emits, and E[2^B] <= 2^b."""
    smoothing = score.Smoothing(np.array([0.3, 0.01, 0.6]), 0.5)
    every = np.array(list(product(range(4), repeat=3)))
    p = np.array([0.4, 0.3, 0.2, 0.1])
    log2_p = np.log2(p)[every]
    for tokens in [[0, 1, 2], [-1, 3, 0], [-1, -1, -1]]:
        q = 2 ** (smoothing.bits(np.tile(tokens, (64, 1)), every, log2_p) + log2_p).sum(axis=1)
        assert q.sum() == pytest.approx(1)


def test_a_fit_without_predictions_or_strings_believes_nothing():
    for rows in (0, 3):
        answers = np.ones((rows, 2), dtype=np.int64)
        smoothing = score.Smoothing.fit(np.full((rows, 2), -1), answers, np.full((rows, 2), -1.0))
        assert smoothing.error.tolist() == [1.0, 1.0]


def test_a_token_that_is_known_anyway_recalls_nothing():
    answers = np.full((50, 1), 7)
    smoothing = score.Smoothing.fit(answers, answers, np.zeros((50, 1)))
    assert smoothing.bits(answers, answers, np.zeros((50, 1))).tolist() == [[0.0]] * 50


def channel(rng, strings, length, d, delta):
    """Answers that are uniform, and predictions wrong with probability delta."""
    answers = rng.integers(0, d, (strings, length))
    wrong = rng.random((strings, length)) < delta
    return np.where(wrong, (answers + rng.integers(1, d, (strings, length))) % d, answers), answers


def test_smoothing_on_other_strings_errs_downwards_and_on_the_same_ones_upwards():
    """A noisy channel, whose true B is its rate; means over many fits."""
    rng = np.random.default_rng(1)
    d, strings, length, runs, delta = 4, 40, 10, 2000, 0.3
    same, other = [], []
    log2_p = np.full((strings, length), -math.log2(d))
    for _ in range(runs):
        (tokens, answers), (fresh_tokens, fresh) = (channel(rng, strings, length, d, delta) for _ in range(2))
        smoothing = score.Smoothing.fit(tokens, answers, log2_p)
        same.append(score.bits_recalled(Prediction(tokens), answers, log2_p, smoothing).mean())
        other.append(score.bits_recalled(Prediction(fresh_tokens), fresh, log2_p, smoothing).mean())
    rate = length * rate_distortion(delta, d)
    per_fit = length / (2 * strings * math.log(2))
    assert np.mean(same) - rate == pytest.approx(per_fit, rel=0.3)
    assert np.mean(other) - rate == pytest.approx(-per_fit, rel=0.3)


def test_bits_recalled_of_a_prefix_machine_come_near_its_state():
    """It keeps 5 of 20 uniform tokens and guesses the rest: all of 5·log2 D but what smoothing costs."""
    rng = np.random.default_rng(2)
    d, kept, length, strings = 8, 5, 20, 4000
    log2_p = np.pad(np.full((strings, length), -math.log2(d)), ((0, 0), (0, 1)))

    def run():
        answers = np.concatenate([rng.integers(0, d, (strings, length)), np.full((strings, 1), d)], axis=1)
        tokens = answers.copy()
        tokens[:, kept:length] = 0
        return tokens, answers

    smoothing = score.Smoothing.fit(*run(), log2_p)
    tokens, answers = run()
    bits = score.bits_recalled(Prediction(tokens), answers, log2_p, smoothing)
    low, high = score.mean_interval(bits)
    assert low <= kept * math.log2(d)
    assert high > kept * math.log2(d) - 0.1
    assert score.bits_recalled_p_value(bits, kept * math.log2(d)) > 1e-6
    assert score.bits_recalled_p_value(bits, (kept - 1) * math.log2(d)) < 1e-9  # a smaller state is refuted


def test_bits_recalled_of_a_noisy_channel_are_its_rate():
    rng = np.random.default_rng(3)
    d, length, strings, delta = 8, 50, 4000, 0.2
    log2_p = np.full((strings, length), -math.log2(d))
    smoothing = score.Smoothing.fit(*channel(rng, strings, length, d, delta), log2_p)
    tokens, answers = channel(rng, strings, length, d, delta)
    bits = score.bits_recalled(Prediction(tokens), answers, log2_p, smoothing)
    assert bits.mean() == pytest.approx(length * rate_distortion(delta, d), rel=0.005)


def test_probabilities_of_the_engine_come_first():
    answers = array([1, 9, -1])
    prediction = Prediction(array([1, 9, -1]), log2_q=np.array([[-1.0, -0.5, -7.0]]))
    assert score.bits_recalled(prediction, answers, np.array([[-4.0, 0.0, 0.0]])).tolist() == [2.5]


def test_bits_recalled_says_what_is_missing():
    answers = array([1, 9])
    with pytest.raises(ValueError, match="need a smoothing"):
        score.bits_recalled(Prediction(answers), answers, np.array([[-4.0, 0.0]]))
    with pytest.raises(ValueError, match=r"one shape \(batch, answer_len\), not \(2,\), \(1, 2\)"):
        score.bits_recalled(Prediction(answers), answers, np.zeros(2), score.Smoothing(np.array([0.5]), 0.5))


# ---- classes of errors ----

END = 99
TEXT = [1, 2, 3, 4, 1, 2, 5, 6, END]


@pytest.mark.parametrize(
    ("emitted", "found"),
    [
        (TEXT, "correct"),
        ([1, 2, 3, 4, 1, 2, 3, 4, 1, 2], "jump"),  # 1 2 was followed by 3 before
        ([1, 2, 5, 6, END], "jump"),  # and is followed by 5 later
        ([1, 2, 3, 4, END], "stop"),
        ([1, 2, 3, 1, 2, 5, 6, END], "skip"),
        ([1, 2, 3, 4], "none"),
        ([1, 2, -1, 4, 1, 2, 5, 6, END], "none"),
        ([], "none"),
        ([1, 2, 3, 7, 7, 7], "other"),
        ([2, 2, 3], "other"),
        ([*TEXT, 1], "other"),
    ],
)
def test_errors_are_told_apart(emitted, found):
    assert score.classify_error(TEXT, emitted, 2, end=END) == found


def test_a_jump_to_the_end_is_a_jump():
    text = [1, 2, 3, 1, 2, END]
    assert score.classify_error(text, [1, 2, END], 2, end=END) == "jump"


def test_the_classes_of_a_copier_without_verification_of_its_first_tokens():
    assert score.classify_error([5, 5, 6], [5, 6], 1) == "jump"
    assert score.classify_error([5, 6, 7], [6, 7], 1) == "skip"  # nothing before it: no key to jump by
    with pytest.raises(ValueError, match="n must be at least 1, not 0"):
        score.classify_error([1], [2], 0)


def test_numpy_tokens_are_classified_too():
    assert score.classify_error(np.array(TEXT), np.array([1, 2, 3, 4, END]), 2, end=END) == "stop"


# ---- verdicts ----


def record(engine, k, n, bound, *, data="a", length=9, task=None, label=None, **diagnostics):
    return {
        "schema": "ngram-copy/1",
        "case_id": f"{engine}-{length}-{data}",
        "kind": "accuracy",
        "case": {
            "task": task or {"name": "copy", "vocab_size": 26, "source": "uniform"},
            "engine": {"name": engine, "kept": 8} if engine == "prefix" else {"name": engine},
            "length": length,
            **({"label": label} if label else {}),
        },
        "result": {
            "data_hash": f"sha256:{data}",
            "strings": {"correct": k, "total": n},
            "string_bound": bound,
            "diagnostics": diagnostics,
        },
    }


def test_verdicts_of_nothing():
    assert score.verdicts([{"kind": "error"}]) == {
        "above_bound": {"cells": 0, "p_value": None, "per_engine": {}},
        "bits_above_state": {"cells": 0, "p_value": None},
        "prefix_fits": {"cells": 0, "min_p": None, "rows": []},
        "copier_rule": {"strings": 0, "disagreements": 0},
    }


def test_the_bound_is_tested_for_each_engine_over_its_cells():
    records = [
        record("prefix", 40, 1000, 1 / 26, data="a", label="prefix-8"),
        record("prefix", 3, 1000, 1 / 676, data="b", label="prefix-8"),
        record("bounded", 0, 1000, 0.01, data="a"),
        record("ngram", 1000, 1000, 1.0, data="a"),
        record("ngram", 500, 1000, None, data="b"),
    ]
    found = score.verdicts(records)["above_bound"]
    assert found["cells"] == 3
    assert set(found["per_engine"]) == {"prefix-8", "bounded"}
    total = score.poisson_binomial_tail([(1000, 1 / 26), (1000, 1 / 676)], 43)
    cell = min(score.binomial_tail(40, 1000, 1 / 26), score.binomial_tail(3, 1000, 1 / 676))
    assert found["per_engine"]["prefix-8"] == min(1, 2 * total, 4 * cell)
    assert found["p_value"] == min(1, 2 * found["per_engine"]["prefix-8"])


def test_an_engine_above_its_bound_is_found():
    slack = [record("bounded", 100, 1000, 0.9, data=str(i), length=i) for i in range(5)]
    hidden = [*slack, record("bounded", 40, 1000, 0.01, data="x")]
    found = score.verdicts(hidden)["above_bound"]
    assert found["per_engine"]["bounded"] < 1e-10  # the slack cells hide it from the total, not from its own test
    small = [record("bounded", 20, 1000, 0.01, data=str(i), length=i) for i in range(20)]
    found = score.verdicts(small)["above_bound"]
    assert found["per_engine"]["bounded"] < 1e-20 < score.binomial_tail(20, 1000, 0.01)


def test_bits_above_the_state_are_found():
    records = [record("ngram", 5, 10, 1.0, data=str(i)) for i in range(4)]
    for each, p in zip(records, [1.0, 0.5, 1e-9, None], strict=True):
        each["result"]["bits_recalled"] = None if p is None else {"mean": 3.0, "p_value": p}
    assert score.verdicts(records)["bits_above_state"] == {"cells": 3, "p_value": pytest.approx(3e-9)}


def test_cells_of_the_same_strings_are_not_added_up():
    twice = [record("bounded", 20, 1000, 0.01, length=i) for i in range(2)]
    once = score.binomial_tail(20, 1000, 0.01)
    assert score.verdicts(twice)["above_bound"]["per_engine"]["bounded"] == pytest.approx(4 * once)


def test_engines_of_one_label_stay_apart():
    one, two = record("bounded", 1, 10, 0.1, label="table"), record("ngram", 1, 10, 0.1, label="table")
    found = score.verdicts([one, two, one])["above_bound"]
    assert set(found["per_engine"]) == {"table", '{"name": "ngram"}'}


def test_the_prefix_machine_is_held_to_the_bound_where_that_can_be_seen():
    zipf = {"name": "copy", "vocab_size": 26, "source": "zipf"}
    records = [
        record("prefix", 390, 10_000, 1 / 26, data="low"),
        record("prefix", 5100, 10_000, 0.5, length=8, data="seen"),
        record("prefix", 5100, 10_000, 0.5, data="zipf", task=zipf),
        record("bounded", 5100, 10_000, 0.5),
    ]
    found = score.verdicts(records)["prefix_fits"]
    assert found["cells"] == 1
    row = found["rows"][0]
    assert (row["case_id"], row["label"], row["k"], row["N"], row["bound"]) == (
        "prefix-8-seen",
        "prefix, L = 8",
        5100,
        10_000,
        0.5,
    )
    assert found["min_p"] == row["p"] == score.binomial_test(5100, 10_000, 0.5)


def test_the_rule_of_the_copier_is_counted():
    records = [
        record("ngram", 1, 10, 1.0, rule_strings=10, rule_disagreements=0),
        record("ngram", 1, 10, 1.0, rule_strings=20, rule_disagreements=3),
        record("ngram", 1, 10, None),
        record("bounded", 1, 10, 1.0, rule_strings=100, rule_disagreements=9),
    ]
    assert score.verdicts(records)["copier_rule"] == {"strings": 30, "disagreements": 3}
