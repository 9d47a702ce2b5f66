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
        "bits_above_state": {"cells": 0, "quantised": 0, "p_value": None},
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
    found = score.verdicts(records)["bits_above_state"]
    assert found == {"cells": 3, "quantised": 0, "p_value": pytest.approx(3e-9)}


def test_bits_above_a_quantised_state_are_found():
    """The floats of a state hold more than any model recalls: what is rounded is tested too, and counted."""
    records = [record("trained", 5, 10, 1.0, data=str(i)) for i in range(2)]
    for each, p in zip(records, [0.5, 1e-9], strict=True):
        each["result"]["bits_recalled"] = {"mean": 3.0, "p_value": 1.0}
        each["result"]["quantised"] = [
            {"state_bits": 8.0, "bits_recalled": {"mean": 3.0, "p_value": p}},
            {"state_bits": 16.0, "bits_recalled": {"mean": 3.0, "p_value": 1.0}},
        ]
    found = score.verdicts(records)["bits_above_state"]
    assert found == {"cells": 2, "quantised": 4, "p_value": pytest.approx(6e-9)}
    records[0]["result"]["quantised"] = None
    assert score.verdicts(records)["bits_above_state"]["quantised"] == 2


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


# ---- verdicts of rows ----


def result(k, n=1000, *, recalled=None, half=1.0, quantised=(), h_min=47.0):
    def bits(mean, total=1000):
        return {"mean": mean, "low": mean - half, "high": mean + half, "total": total}

    return {
        "strings": {"correct": k, "total": n},
        "h_min": h_min,
        "bits_recalled": None if recalled is None else bits(recalled),
        "quantised": [{"state_bits": size, "bits_recalled": bits(mean)} for size, mean in quantised],
    }


def verdict(cell, *, length=64, trained=(1, 32), learned=True, **options):
    return score.row_verdict(cell, length=length, trained=trained, learned=learned, **options)


@pytest.mark.parametrize(
    ("k", "n", "word", "is_open"),
    [
        (1000, 1000, "copies", False),
        (950, 1000, "copies", True),
        (949, 1000, "not generalised", True),
        (920, 1000, "not generalised", False),
        (20, 20, "copies", True),  # the interval starts at 0.84
        (0, 20, "not generalised", False),
    ],
)
def test_the_count_decides_and_the_interval_leaves_it_open(k, n, word, is_open):
    found = verdict(result(k, n))
    assert (found.word, found.open) == (word, is_open)
    assert found.text == word + "?" * is_open
    assert found.reason.startswith(f"{k}/{n} whole strings")


@pytest.mark.parametrize(
    ("length", "trained", "learned", "same_task", "word"),
    [
        (32, (1, 32), False, True, "not learned"),
        (64, (1, 32), False, True, "not learned"),
        (64, (1, 32), True, True, "not generalised"),
        (4, (8, 32), True, True, "not generalised"),
        (32, (1, 32), True, False, "not generalised"),  # other strings of a trained length
        (32, (1, 32), False, False, "not learned"),
        (64, (1, 32), None, True, "fails"),
        (32, (1, 32), None, True, "not learned"),
        (64, None, None, True, "fails"),
    ],
)
def test_a_failure_is_told_by_the_trained_lengths(length, trained, learned, same_task, word):
    assert verdict(result(0), length=length, trained=trained, learned=learned, same_task=same_task).word == word


@pytest.mark.parametrize(
    ("recalled", "quantised", "h_min", "word"),
    [
        (30.0, [(32.0, 30.0)], 47.0, "state-limited"),
        (26.6, [(32.0, 26.6)], 47.0, "state-limited"),  # its lower limit is 25.6, exactly 80%
        (26.5, [(32.0, 26.5)], 47.0, "not generalised"),
        (30.0, [(32.0, 29.6), (64.0, 30.0)], 47.0, "not generalised"),  # 32 bits keep less than 99%
        (30.0, [(32.0, 29.7), (64.0, 30.0)], 47.0, "state-limited"),
        (30.0, [(32.0, 30.0)], 32.0, "not generalised"),  # 32 bits could hold such strings
        (30.0, [(32.0, 30.0)], None, "not generalised"),
        (30.0, [], 47.0, "not generalised"),
        (-30.0, [(32.0, -20.0)], 47.0, "not generalised"),
    ],
)
def test_state_limited_is_what_cannot_recall_more(recalled, quantised, h_min, word):
    found = verdict(result(0, recalled=recalled, quantised=quantised, h_min=h_min))
    assert found.word == word
    assert verdict(result(1000, recalled=recalled, quantised=quantised, h_min=h_min)).word == "copies"
    inside = verdict(result(0, recalled=recalled, quantised=quantised, h_min=h_min), length=8)
    assert inside.word == ("state-limited" if word == "state-limited" else "not learned")


def test_a_state_of_bits_stands_for_itself():
    machine = result(0, recalled=15.3, h_min=64.0) | {"state_bits": 16.0, "quantised": None}
    assert verdict(machine).word == "state-limited"
    assert verdict(machine | {"h_min": 16.0}).word == "not generalised"  # 16 bits could hold such strings
    assert verdict(machine | {"state_bits": 24.0}).word == "not generalised"  # most of it is idle
    assert verdict(machine | {"bits_recalled": None}).word == "not generalised"


def test_the_smallest_state_keeps_nearly_all():
    rows = [(64.0, 30.0), (16.0, 12.0), (32.0, 29.8), (48.0, 29.9)]
    assert score.smallest_state(result(0, recalled=30.0, quantised=rows))["state_bits"] == 32.0
    assert score.smallest_state(result(0, recalled=40.0, quantised=rows)) is None
    assert score.smallest_state(result(0, recalled=0.0, quantised=rows)) is None
    assert score.smallest_state(result(0, quantised=rows)) is None
    few = result(0, recalled=40.0, quantised=rows)  # on other strings: compared with the finest, on the same
    for row in few["quantised"]:
        row["bits_recalled"]["total"] = 100
    assert score.smallest_state(few)["state_bits"] == 32.0
    few["quantised"][0]["bits_recalled"]["mean"] = -1.0
    assert score.smallest_state(few) is None


COPY = {"name": "copy", "vocab_size": 26, "source": "uniform"}
ZIPF = {"name": "copy", "vocab_size": 26, "source": "zipf"}


def learned_record(length, k, *, seed=0, task=COPY, own=COPY, lengths=(1, 32)):
    made = record("trained", k, 1000, 1.0, length=length, task=task)
    training = {"lengths": list(lengths)} | ({"task": own} if own else {})
    made["case"] |= {"engine": {"name": "trained", "model": {"mixer": "gru"}, "training": training}, "seed": seed}
    made["case_id"] = f"{task['source']}-{length}-{seed}"
    return made


def words(records):
    return {name: found.word for name, found in score.row_verdicts(records).items()}


def test_each_model_is_judged_by_its_own_trained_lengths():
    records = [
        *(learned_record(length, k) for length, k in [(16, 1000), (32, 990), (64, 0)]),
        *(learned_record(length, k, seed=1) for length, k in [(16, 1000), (32, 900), (64, 0)]),
        record("ngram", 0, 1000, 1.0),
        {"kind": "training"},
    ]
    assert words(records) == {
        "uniform-16-0": "copies",
        "uniform-32-0": "copies",
        "uniform-64-0": "not generalised",
        "uniform-16-1": "copies",
        "uniform-32-1": "not learned",
        "uniform-64-1": "not learned",
    }


def test_another_task_than_the_trained_one_is_no_trained_length():
    records = [learned_record(16, 1000), learned_record(16, 0, task=ZIPF), learned_record(64, 0, task=ZIPF)]
    assert words(records) == {
        "uniform-16-0": "copies",
        "zipf-16-0": "not generalised",
        "zipf-64-0": "not generalised",
    }
    # Without strings of its own task each counts as its own.
    assert words(records[1:]) == {"zipf-16-0": "not learned", "zipf-64-0": "not learned"}
    assert words([learned_record(16, 1000, own=None), learned_record(64, 0, own=None)])["uniform-64-0"] == (
        "not generalised"
    )


def test_models_without_a_training_are_learned_too():
    assert score.is_learned({"name": "huggingface", "path": "some/path"})
    assert score.is_learned({"name": "module", "build": "some.py:build"})
    assert not score.is_learned({"name": "ngram", "n": 3})
    assert score.trained_lengths({"name": "huggingface", "path": "some/path"}) is None
    assert score.trained_lengths({"name": "trained", "training": {"lengths": [8, 32]}}) == (8, 32)
