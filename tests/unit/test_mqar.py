"""Multi-query associative recall against its published definition, and answers that are not one piece.

The definition is zoology's (arXiv 2312.04927 and its ``multiquery_ar``), re-derived here: inputs of L tokens begin with
K pairs; a query of the pair j stands at 2K + 2·gap_j, with a label there, its value. Gaps are K of (L - 2K)/2 without
replacement, by weights (gap + 1)^(a - 1).
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from ngram_copy.engines import ENGINES
from ngram_copy.run import run_case, verify
from ngram_copy.suite import parse
from ngram_copy.tasks import BLANK, DataHash
from ngram_copy.tasks.copy import Copy
from ngram_copy.tasks.mqar import MultiQueryRecall, draw_slots


def taken_apart(batch, pairs):
    """Keys, values and gaps of each example, and everything after the cut."""
    cut = 2 * pairs + 2
    keys, values = batch.tokens[:, 1 : cut - 1 : 2].astype(int), batch.tokens[:, 2 : cut - 1 : 2].astype(int)
    after = batch.tokens[:, cut:].astype(int)
    asked = np.argwhere(batch.scored)[:, 1].reshape(len(batch), pairs) - 1
    queried = np.take_along_axis(after, asked, axis=1)
    order = (queried[:, None, :] == keys[:, :, None]).argmax(axis=2)
    return keys, values, np.take_along_axis(asked, order, axis=1) // 2, after


@pytest.mark.parametrize(("seq_len", "pairs"), [(64, 4), (128, 8), (256, 16)])
def test_the_layout_is_zoologys(seq_len, pairs):
    task = MultiQueryRecall(random_non_queries=False)
    batch = task.batch(pairs, seed=3, split="train", start=0, count=50)
    keys, values, gaps, after = taken_apart(batch, pairs)
    assert (batch.cut == 2 * pairs + 2).all()
    assert (batch.answer == batch.cut).all()
    assert (batch.lengths == seq_len + 2).all()  # <bos> and <copy>
    assert (keys >= 1).all()
    assert (keys < 4096).all()
    assert (values >= 4096).all()
    assert (values < 8192).all()
    for row in range(50):
        assert len(set(keys[row])) == len(set(values[row])) == len(set(gaps[row])) == pairs
        inputs, labels = [0] * (seq_len - 2 * pairs), {}
        for key, value, gap in zip(keys[row], values[row], gaps[row], strict=True):
            inputs[2 * gap], labels[2 * gap] = key, value
        # The token that is predicted at a query is its label, and stands after it.
        assert {place - 1: after[row, place] for place in np.flatnonzero(batch.scored[row])} == labels
        assert [0 if place - 1 in labels else token for place, token in enumerate(after[row])] == inputs


@pytest.mark.parametrize("power_a", [0.01, 0.5, 1.0])
def test_the_gaps_follow_the_power_law(power_a):
    # K = 2 of 6 slots: P(i, j) = p_i · p_j / (1 - p_i), exactly.
    batch = MultiQueryRecall(vocab_size=64, tokens_per_pair=8, power_a=power_a).batch(
        2, seed=1, split="test", start=0, count=30_000
    )
    gaps = taken_apart(batch, 2)[2]
    p = np.arange(1, 7) ** (power_a - 1.0)
    p /= p.sum()
    pairs = list(itertools.permutations(range(6), 2))
    expected = [p[i] * p[j] / (1 - p[i]) * 30_000 for i, j in pairs]
    assert math.isclose(sum(expected), 30_000)
    seen = [((gaps[:, 0] == i) & (gaps[:, 1] == j)).sum() for i, j in pairs]
    assert stats.chisquare(seen, expected).pvalue > 1e-6


def test_the_gaps_are_those_of_a_generator():
    rng = np.random.default_rng(0)
    p = np.arange(1, 29) ** (0.01 - 1)
    theirs = np.array([rng.choice(28, size=4, replace=False, p=p / p.sum()) for _ in range(4000)])
    ours = taken_apart(MultiQueryRecall().batch(4, seed=2, split="test", start=0, count=4000), 4)[2]
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > 1e-6


def test_all_slots_can_be_taken():
    draws = np.array([[0, 0, 0], [2**32 - 1] * 3], dtype=np.uint32)
    assert draw_slots(draws, 3, 0.01).tolist() == [[0, 1, 2], [2, 1, 0]]


def test_keys_values_and_fillers_are_uniform():
    batch = MultiQueryRecall(vocab_size=20).batch(3, seed=1, split="test", start=0, count=4000)
    keys, values, gaps, after = taken_apart(batch, 3)
    for column in range(3):
        assert stats.chisquare(np.bincount(keys[:, column])[1:]).pvalue > 1e-6
        assert stats.chisquare(np.bincount(values[:, column])[10:]).pvalue > 1e-6
    free = np.ones(after.shape, dtype=bool)
    np.put_along_axis(free, 2 * gaps, False, axis=1)
    np.put_along_axis(free, 2 * gaps + 1, False, axis=1)
    assert stats.chisquare(np.bincount(after[free], minlength=20)).pvalue > 1e-6


def test_the_probability_of_the_values():
    # Two of the four values 4 … 7, each ordered choice equally likely, whatever order they are asked for in.
    batch = MultiQueryRecall(vocab_size=8).batch(2, seed=0, split="test", start=0, count=12_000)
    answers = batch.answers()
    found = answers[answers >= 0].reshape(-1, 2)
    seen = [(found == pair).all(axis=1).sum() for pair in itertools.permutations(range(4, 8), 2)]
    assert sum(seen) == 12_000
    assert stats.chisquare(seen).pvalue > 1e-6
    assert batch.h_min == pytest.approx(math.log2(12))
    assert np.allclose(batch.log2_p.sum(axis=1), -math.log2(12))
    assert np.allclose(batch.log2_p[batch.scored].reshape(-1, 2), [-2, -math.log2(3)])
    assert (batch.log2_p[~batch.scored] == 0).all()


def test_too_many_pairs_are_refused():
    with pytest.raises(ValueError, match="length must be at most 4, the number of keys, not 5"):
        MultiQueryRecall(vocab_size=10).batch(5, seed=0, split="test", start=0, count=1)
    MultiQueryRecall(vocab_size=10).batch(4, seed=0, split="test", start=0, count=1)


def test_queries_hide_what_is_scored():
    task = MultiQueryRecall(vocab_size=30)
    batch = task.batch(5, seed=0, split="test", start=0, count=10)
    for row, (query, answer) in enumerate(zip(batch.queries(), batch.answers(), strict=True)):
        assert ((query == BLANK) == batch.scored[row]).all()
        filled = query.astype(np.int64)
        filled[filled == BLANK] = answer[answer >= 0]
        assert (filled == batch.tokens[row, batch.cut[row] :]).all()


def test_the_hash_knows_what_is_scored():
    hashes = set()
    batch = Copy().batch(4, seed=0, split="test", start=0, count=2)
    everything = np.ones((2, 5), dtype=bool)
    for scored in (None, everything, everything & (np.arange(5) > 0)):
        data = DataHash()
        data.update(replace(batch, scored=scored))
        hashes.add(data.hexdigest())
    assert len(hashes) == 3


@pytest.mark.parametrize(
    ("name", "options", "least"),
    [
        ("ngram", {"n": 1}, 200),
        ("ngram", {"n": 2}, 0),
        ("bounded", {"n": 1, "slots": 40, "key_bits": 6}, 1),
        ("prefix", {"kept": 3}, 0),
    ],
)
def test_free_answers_agree_with_forced_ones(name, options, least):
    task = MultiQueryRecall(vocab_size=30, tokens_per_pair=6)
    engine = ENGINES[name](task.vocab, **options)
    batch = task.batch(3, seed=0, split="test", start=0, count=200)
    answers = batch.answers()
    forced = engine.predict(batch).tokens
    assert forced.shape == answers.shape
    assert (forced[answers < 0] == -1).all()
    right = (forced == answers).all(axis=1)
    free = engine.generate(batch, 3)
    assert [
        found.tolist() == row[row >= 0].tolist() for found, row in zip(free, answers, strict=True)
    ] == right.tolist()
    assert right.sum() >= least
    assert all(len(found) <= 1 for found in engine.generate(batch, 1))


def test_a_model_answers_from_its_state():
    pytest.importorskip("torch")
    import torch

    from ngram_copy.engines.neural import NeuralEngine
    from ngram_copy.models.base import LanguageModel, LayerConfig, ModelConfig

    torch.set_num_threads(1)
    torch.manual_seed(0)
    task = MultiQueryRecall(vocab_size=30, tokens_per_pair=6)
    config = ModelConfig(task.vocab.total, 16, [LayerConfig("attention", {"n_heads": 2})])
    engine = NeuralEngine(task.vocab, LanguageModel(config).eval())
    batch = task.batch(3, seed=0, split="test", start=0, count=20)
    prediction, answers = engine.predict(batch), batch.answers()
    assert (prediction.tokens[answers < 0] == -1).all()
    assert (prediction.log2_q[answers < 0] == 0).all()
    assert (prediction.log2_q[answers >= 0] < 0).all()
    # The first answer has the same past, teacher-forced or not.
    first = prediction.tokens[np.arange(20), (answers >= 0).argmax(axis=1)]
    expected = [[] if token == task.vocab.eos else [token] for token in first.tolist()]  # an end ends the answer
    assert [found.tolist() for found in engine.generate(batch, 1)] == expected
    assert any(expected)


SUITE = """
name = "recall"

[tasks.mqar]
task = "mqar"
vocab_size = 256

[engines.unigram]
engine = "ngram"
n = 1

[engines.small]
engine = "bounded"
n = 1
slots = 4
key_bits = 4

[[cases]]
tasks = ["mqar"]
engines = ["unigram", "small"]
lengths = [4]
examples = 100
"""


def test_a_case_is_run_and_scored_by_its_values():
    cases = parse(SUITE).cases()
    assert len(list(verify(cases))) == 1
    unigram, small = (run_case(case)["result"] for case in cases)
    assert unigram["strings"]["correct"] == 100
    assert (unigram["tokens"]["correct"], unigram["tokens"]["total"]) == (400, 400)
    assert unigram["h_min"] == pytest.approx(sum(math.log2(128 - i) for i in range(4)))
    assert unigram["free_checked"] == small["free_checked"] == {"strings": 16, "disagreements": 0}
    assert unigram["token_bound"] is small["token_bound"] is None  # values are distinct, of half the tokens
    assert 0.9 * unigram["h_min"] < unigram["bits_recalled"]["mean"] <= unigram["h_min"]
    assert small["strings"]["correct"] < 100
    assert small["bits_recalled"]["mean"] <= small["state_bits"]
