"""What holds the constructed transformer to the n-gram copier: oracles, counts, a census, a search."""

import json
from collections import Counter
from dataclasses import replace
from typing import ClassVar

import numpy as np
import pytest

from ngram_copy import ngram, theory
from ngram_copy.engines import ENGINES
from ngram_copy.engines.base import Prediction
from ngram_copy.engines.symbolic import NgramEngine, PrefixEngine
from ngram_copy.statistics.agreement import (
    GROUP,
    Agreement,
    compare,
    has_repeat,
    random_lengths,
    successors,
    transformer,
    with_halves_swapped,
)
from ngram_copy.statistics.base import Row
from ngram_copy.statistics.census import MOST_STRINGS, Census, all_strings
from ngram_copy.statistics.precision import Precision, _first, with_near_miss
from ngram_copy.tasks import TASKS
from ngram_copy.tasks.base import VocabularySpec
from ngram_copy.tasks.copy import Copy, copy_batch
from ngram_copy.tasks.duplicates import DuplicateNgram


def measured(statistic, task, *, examples=64, threads=1, reports=1, **row):
    """A statistic of one row; as many examples are reported as there are, at least so many times."""
    done = []
    result = statistic.measure(Row(task, 3, examples, **row), threads=threads, answered=done.append)
    assert sum(done) == examples
    assert len(done) >= reports
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    return result


# --- The rule -------------------------------------------------------------------------------------------


def naive_successors(context, n, vocab):
    """By the words of the rule."""

    def gram(end):
        tokens = []
        while len(tokens) < n and context[end - len(tokens)] not in vocab.boundaries:
            tokens.append(context[end - len(tokens)])
        return tokens

    said = []
    for p in range(len(context)):
        followed = {context[q + 1] for q in range(p) if gram(q) == gram(p)}
        followed = {vocab.eos if token == vocab.copy else token for token in followed}
        said.append(followed.pop() if len(followed) == 1 else -1)
    return said


def contexts(rng, vocab, length, fed):
    """Three strings of a length, each with what is fed after ``<copy>``: the string itself or another."""
    tokens = rng.integers(0, vocab.size, (3, 2 * length + 2)).astype(np.uint32)
    tokens[:, 0], tokens[:, length + 1] = vocab.bos, vocab.copy
    if fed == "itself":
        tokens[:, length + 2 :] = tokens[:, 1 : length + 1]
    return tokens


@pytest.mark.parametrize("fed", ["itself", "another"])
@pytest.mark.parametrize("vocab_size", [2, 3, 26, 10**6])
def test_the_rule_is_the_naive_one(vocab_size, fed):
    rng = np.random.default_rng(1)
    vocab = VocabularySpec(vocab_size)
    seen = Counter()
    for _ in range(100):
        n, length = int(rng.integers(1, 14)), int(rng.integers(1, 20))
        tokens = contexts(rng, vocab, length, fed)
        if vocab_size == 10**6:  # a large vocabulary of which few tokens occur: n-grams by number do not fit in 64 bits
            tokens = np.where(tokens < vocab_size, tokens % 3 * 333_333, tokens)
        found = successors(tokens, n, vocab)
        assert found.tolist() == [naive_successors(row.tolist(), n, vocab) for row in tokens]
        seen.update((found >= 0).ravel().tolist())
    assert min(seen[True], seen[False]) > 100


@pytest.mark.parametrize("policy", ["first", "last", "most_frequent"])
def test_the_core_says_what_is_determined(policy):
    rng = np.random.default_rng(2)
    vocab = VocabularySpec(3)
    compared = 0
    for _ in range(200):
        n, length = int(rng.integers(1, 6)), int(rng.integers(1, 40))
        tokens = contexts(rng, vocab, length, "another")
        copier = ngram.NgramCopier(n, policy=policy, boundaries=vocab.boundaries, end=vocab.eos)
        said, _ = copier.predict(np.pad(tokens, ((0, 0), (0, 1))), start=length + 2)
        expected = successors(tokens, n, vocab)[:, length + 1 :]
        assert np.array_equal(said[expected >= 0], expected[expected >= 0])
        compared += int((expected >= 0).sum())
    assert compared > 1000


def test_repeats_are_those_that_the_core_finds():
    rng = np.random.default_rng(3)
    for _ in range(200):
        n = int(rng.integers(1, 5))
        strings = rng.integers(0, 3, (8, int(rng.integers(1, 12)))).astype(np.uint32)
        assert has_repeat(strings, n).tolist() == [ngram.first_repeat(x, n) is not None for x in strings]


# --- Comparing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", [Copy(3), DuplicateNgram(26, n=2), DuplicateNgram(2, n=3, successor="same")])
def test_the_copier_of_the_core_agrees(task):
    engine = NgramEngine(task.vocab, n=3, policy="most_frequent")
    batch = task.batch(40, seed=0, split="test", start=0, count=100)
    for one in (batch, with_halves_swapped(batch)):
        counts = compare(engine, one, 3)
        assert counts["strings"] == 100
        assert counts["disagreements"] == 0
        assert counts["determined"] + counts["undetermined"] == 100 * 41
        assert counts["determined"] > 100
    assert compare(engine, batch, 3)["against_rule"] == 0


def test_others_do_not_agree():
    task = Copy(26)
    batch = task.batch(40, seed=0, split="test", start=0, count=100)
    swapped = with_halves_swapped(batch)
    assert compare(NgramEngine(task.vocab, n=1), batch, 2)["disagreements"] > 0
    assert compare(NgramEngine(task.vocab, n=3), batch, 2)["against_rule"] > 0
    # Who replays the string is right wherever a copy is determined: the rule tells, and halves that are swapped.
    replay = PrefixEngine(task.vocab, kept=40)
    assert compare(replay, batch, 2)["disagreements"] == 0
    assert compare(replay, batch, 2)["against_rule"] == int(has_repeat(batch.tokens[:, 1:41], 2).sum()) > 0
    assert compare(replay, swapped, 2)["disagreements"] > 0


def test_halves_are_swapped():
    batch = copy_batch(np.array([[0, 1, 2, 3, 4]], dtype=np.uint32), VocabularySpec(5), None, None)
    assert with_halves_swapped(batch).tokens[0].tolist() == [5, 0, 1, 2, 3, 4, 6, 3, 4, 0, 1, 2, 7]
    assert batch.tokens[0, 7:12].tolist() == [0, 1, 2, 3, 4]


# --- Strings --------------------------------------------------------------------------------------------


def drawn(task, examples, threads=1, length=64):
    batches = random_lengths(Row(task, 5, examples, n=4, length=length), threads)
    return [row for batch in batches for row in batch.tokens.tolist()]


def test_strings_are_a_function_of_seed_and_index():
    task = Copy(4)
    strings = drawn(task, 400)
    assert len(strings) == 400
    assert drawn(task, 150) == strings[:150]
    assert drawn(task, 400, threads=3) == strings
    lengths = [(len(row) - 3) // 2 for row in strings[::GROUP]]
    assert min(lengths) < 4
    assert 1 <= min(lengths) < max(lengths) <= 64


def test_planted_strings_are_no_shorter_than_they_can_be():
    lengths = {(len(row) - 3) // 2 for row in drawn(DuplicateNgram(2, n=5), 2000)}
    assert min(lengths) == 12
    assert drawn(DuplicateNgram(2, n=5), 40, length=12)


def test_lengths_are_log_uniform():
    task = Copy(2)
    batches = list(random_lengths(Row(task, 0, 400 * GROUP, n=1, length=255), 1))
    lengths = np.array([(batch.tokens.shape[1] - 3) // 2 for batch in batches])
    # log2 (L + 1) of 1 … 255 lies in 1 … 8: each factor of 4 has 2 / 8 of the lengths.
    counts = np.histogram(lengths, [1, 4, 16, 64, 256])[0]
    assert counts.sum() == 400
    assert (abs(counts - 100) < 4 * np.sqrt(75)).all()


# --- Agreement ------------------------------------------------------------------------------------------


@pytest.fixture
def torch():
    found = pytest.importorskip("torch")
    before = found.get_num_threads()
    found.set_num_threads(1)
    yield found
    found.set_num_threads(before)


@pytest.mark.parametrize("value", ["bits", "one-hot"])
@pytest.mark.parametrize(
    "task", [Copy(2), Copy(5), DuplicateNgram(5, n=3), DuplicateNgram(26, n=3, successor="same")], ids=str
)
def test_the_constructed_transformer_is_the_copier(torch, task, value):
    found = measured(Agreement(value=value), task, n=3, length=40, examples=300)
    assert found["strings"] == found["rule_strings"] == 300
    assert found["disagreements"] == found["rule_disagreements"] == found["swapped"]["disagreements"] == 0
    assert found["positions"] > 1000
    assert found["repeat_strings"] > 0
    assert found["undetermined"] > 0
    assert 64 < found["swapped"]["strings"] < 200
    assert found["swapped"]["positions"] > 100
    assert (found["shorter_strings"] > 0) == (task.name == "copy")
    assert found["transformer"]["heads"] == found["transformer"]["n"] + 1 == 4


def test_agreement_is_equal_for_equal_rows(torch):
    once = measured(Agreement(), Copy(4), n=2, length=30)
    assert measured(Agreement(), Copy(4), n=2, length=30, threads=2) == once
    assert measured(Agreement(), Copy(4), n=2, length=31)["data_hash"] != once["data_hash"]


def test_a_broken_transformer_is_found_out(torch, monkeypatch):
    def broken(*arguments, **options):
        model = transformer(*arguments, **options)
        with torch.no_grad():
            model.blocks[1].mixer.key.weight[:3] = 0  # the last token is not compared
        return model

    monkeypatch.setattr("ngram_copy.statistics.agreement.transformer", broken)
    found = measured(Agreement(), Copy(4), n=3, length=60, examples=200)
    assert found["disagreements"] > 0
    assert found["rule_disagreements"] > 0


@pytest.mark.parametrize(("vocab_size", "n", "longest"), [(2, 1, 6), (2, 2, 9), (2, 3, 10), (3, 1, 5), (3, 2, 6)])
def test_of_all_strings_those_fail_that_the_exact_count_says(torch, vocab_size, n, longest):
    from ngram_copy.engines.constructed import ConstructedEngine

    engine = ConstructedEngine(VocabularySpec(vocab_size), n=n, max_len=longest)
    for length in range(1, longest + 1):
        wrong = 0
        for strings in all_strings(vocab_size, length):
            batch = copy_batch(strings, engine.vocab, None, None)
            wrong += int((engine.predict(batch).tokens != batch.answers()).any(axis=1).sum())
        assert wrong == round(theory.p_ngram(length, n, vocab_size) * vocab_size**length)


def test_bad_input_of_agreement(torch):
    with pytest.raises(ValueError, match="value must be bits or one-hot, not 'half'"):
        Agreement(value="half")
    with pytest.raises(ValueError, match=r"dtype must be a floating-point dtype of torch.*not 'int8'"):
        measured(Agreement(dtype="int8"), Copy(2), n=2, length=8)
    with pytest.raises(ValueError, match=r"bfloat16 is exact up to n·m = \d+, and n·m is 400"):
        measured(Agreement(dtype="bfloat16"), Copy(2), n=200, length=8)
    with pytest.raises(ValueError, match="the task mqar does not copy"):
        Agreement().check(Row(TASKS["mqar"](), 0, 8, n=2, length=64))
    with pytest.raises(ValueError, match="length must be at least 8"):
        Agreement().check(Row(DuplicateNgram(2, n=3), 0, 8, n=2, length=7))
    Agreement().check(Row(DuplicateNgram(2, n=3), 0, 8, n=2, length=8))


def test_longer_strings_are_more_work():
    rows = [Row(Copy(2), 0, 100, n=2, length=length) for length in (1, 10, 1000)]
    for statistic in (Agreement(), Precision()):
        works = [statistic.work(row) for row in rows]
        assert 0 < works[0] < works[1] < works[2]


# --- Census ---------------------------------------------------------------------------------------------


def census(engine, length, *, vocab_size=2, **options):
    task = Copy(vocab_size)
    return measured(Census(**options), task, engine=engine, length=length, examples=100)


def test_all_strings_there_are():
    strings = np.concatenate(list(all_strings(3, 9)))
    assert strings.shape == (3**9, 9)
    assert len(np.unique(strings, axis=0)) == 3**9
    assert strings.max() == 2


def test_census_of_symbolic_engines():
    vocab = VocabularySpec(2)
    found = census(ENGINES["ngram"](vocab, n=3), 9)
    for row in found["rows"]:
        length = row["length"]
        repeating = round(theory.p_ngram(length, 3, 2) * 2**length)
        assert row["states"] == row["strings"] == 2**length
        assert row["copied"] == row["free"] == 2**length - repeating
        assert row["state_bits"] == length
    assert (found["largest_share"], found["at"]) == (1.0, 1)
    found = census(ENGINES["prefix"](vocab, kept=4), 9)
    assert [row["states"] for row in found["rows"]] == [row["copied"] for row in found["rows"]]
    assert found["rows"][-1]["states"] == 2**4
    found = census(ENGINES["bounded"](vocab, n=2, slots=4, key_bits=0), 9)
    assert 1 < found["rows"][-1]["states"] < 2**9
    assert 0 < found["largest_share"] <= 1
    assert all(row["copied"] == row["free"] for row in found["rows"])


class Cheating(NgramEngine):
    """Says that it keeps nothing, and looks at the prompt when it is asked."""

    name: ClassVar[str] = "cheating"

    def cut(self, prompts):
        return [super(Cheating, self).cut([prompt[:0]])[0] for prompt in prompts]


def test_an_engine_that_copies_more_than_it_has_states_is_found_out():
    found = census(Cheating(VocabularySpec(2), n=3), 6)
    last = found["rows"][-1]
    assert last["states"] == 1
    assert last["free"] == 0
    assert found["largest_share"] == max(row["copied"] for row in found["rows"]) > 1
    assert found["at"] > 3


def test_one_length_alone(torch):
    engine = ENGINES["delay-line"](VocabularySpec(2), length=6, bits=3)
    with pytest.raises(ValueError, match="a delay line of length 6 cannot copy a string of 1"):
        census(engine, 6)
    (row,) = census(engine, 6, shorter=False)["rows"]
    assert (row["length"], row["strings"], row["copied"], row["free"]) == (6, 64, 64, 64)
    assert row["states"] == 64


def test_census_of_a_constructed_engine_and_of_its_rounded_states(torch):
    engine = ENGINES["constructed"](VocabularySpec(2), n=2, max_len=6)
    exact = [2**length - round(theory.p_ngram(length, 2, 2) * 2**length) for length in range(1, 7)]
    found = census(engine, 6)
    assert [row["copied"] for row in found["rows"]] == [row["free"] for row in found["rows"]] == exact
    assert [row["states"] for row in found["rows"]] == [2**length for length in range(1, 7)]
    rounded = census(engine, 6, bits=1)
    assert rounded["data_hash"] == found["data_hash"]
    for row, before in zip(rounded["rows"], found["rows"], strict=True):
        assert row["state_bits"] == before["state_bits"] / 32
        assert row["copied"] <= row["states"] <= 2 ** row["length"]


def test_rounding_to_few_bits_leaves_few_states(torch):
    """A tiny recurrent model that was not trained: what it copies is chance, but states are counted."""
    from ngram_copy.engines.neural import NeuralEngine
    from ngram_copy.models import LanguageModel, LayerConfig, ModelConfig

    vocab = VocabularySpec(2)
    torch.manual_seed(0)
    config = ModelConfig(vocab.total, 8, [LayerConfig("gru", {"d_hidden": 3})])
    engine = NeuralEngine(vocab, LanguageModel(config).eval())
    for bits in (1, 2):
        found = census(engine, 8, bits=bits)
        for row in found["rows"]:
            assert row["states"] <= min(row["strings"], 2 ** row["state_bits"])
            assert row["copied"] <= row["states"]
        assert found["rows"][-1]["states"] < 2**8


def test_bad_input_of_a_census():
    engine = ENGINES["ngram"](VocabularySpec(2), n=3)
    check = Census().check
    check(Row(Copy(2), 0, 8, engine=engine, length=20))
    with pytest.raises(ValueError, match=f"a census of 2\\^21 strings is too large: at most {MOST_STRINGS:,}"):
        check(Row(Copy(2), 0, 8, engine=engine, length=21))
    with pytest.raises(ValueError, match="a census is of the task copy, not of duplicate_ngram"):
        check(Row(DuplicateNgram(2, n=3), 0, 8, engine=engine, length=8))
    with pytest.raises(ValueError, match="bits must be 0"):
        Census(bits=17)
    with pytest.raises(ValueError, match="the states of ngram are not numbers that could be rounded"):
        census(engine, 3, bits=2)


# --- Precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("most", [1, 2, 7, 64, 100])
def test_the_search_finds_the_first_that_fails(most):
    for first in range(1, most + 1):
        tried = []

        def fails(n, first=first, tried=tried):
            tried.append(n)
            return n >= first

        assert _first(fails, most) == first
        assert max(tried) <= most
        assert len(set(tried)) == len(tried) <= min(2 * first.bit_length() + 1, 2 * most.bit_length())
    assert _first(lambda n: False, most) is None


def test_near_misses_differ_in_one_bit():
    rng = np.random.default_rng(0)
    for vocab_size in (2, 3, 26):
        n, length = 4, 17
        strings = rng.integers(0, vocab_size, (200, length)).astype(np.uint32)
        places = rng.integers(0, 2**31, (200, 2))
        found = with_near_miss(strings, n, vocab_size, places)
        assert found.max() < vocab_size
        starts = set()
        for row, (a, b) in zip(found.tolist(), places.tolist(), strict=True):
            first = a * (length - 2 * (n + 1) + 1) >> 31
            rest = length - 2 * (n + 1) - first
            second = first + n + 1 + (b * (rest + 1) >> 31)
            assert second + n < length
            assert (row[first] ^ row[second]).bit_count() == 1
            assert row[first + 1 : first + n] == row[second + 1 : second + n]
            assert row[first + n] != row[second + n]
            starts.add((first, second))
        assert {0, length - 2 * (n + 1)} <= {first for first, _ in starts}
        assert length - n - 1 in {second for _, second in starts}


@pytest.mark.parametrize("first", [1, 5, 8])
def test_the_n_at_which_it_breaks_is_found(torch, monkeypatch, first):
    def breaking(n, *arguments, **options):
        model = transformer(n, *arguments, **options)
        if n >= first:
            with torch.no_grad():
                model.blocks[1].mixer.key.weight[-3:] = 0  # the token n steps back is not compared
        return model

    monkeypatch.setattr("ngram_copy.statistics.precision.transformer", breaking)
    found = measured(Precision(dtype="bfloat16", up_to=20), Copy(4), length=30, examples=20)
    assert found["first_failure"] == 2 * first
    products = [row["product"] for row in found["rows"]]
    assert products == sorted(products)
    assert [row["product"] for row in found["rows"] if row["disagreements"]] == [p for p in products if p >= 2 * first]
    assert all(row["product"] == 2 * row["n"] and row["positions"] > 0 for row in found["rows"])


def test_float32_does_not_break_so_soon(torch):
    found = measured(Precision(dtype="float32", up_to=40), Copy(2), length=30, examples=20, reports=5)
    assert found["first_failure"] is None
    assert found["rows"][-1]["product"] == 40 < found["limit"]
    assert not any(row["disagreements"] for row in found["rows"])


def test_bad_input_of_precision():
    with pytest.raises(ValueError, match="up_to must be at least 2, not 1"):
        Precision(up_to=1)
    with pytest.raises(ValueError, match="the task mqar does not copy"):
        Precision().check(Row(TASKS["mqar"](), 0, 8, length=64))


def test_an_engine_whose_prediction_is_cut_short_disagrees():
    """Positions without a prediction count as wrong where they are determined."""

    class Silent(NgramEngine):
        def predict(self, batch, *, threads=1):
            said = super().predict(batch, threads=threads)
            return Prediction(np.full_like(said.tokens, -1))

    batch = Copy(26).batch(9, seed=0, split="test", start=0, count=4)
    counts = compare(Silent(VocabularySpec(26), n=3), replace(batch, log2_p=None), 3)
    assert counts["disagreements"] == counts["determined"] > 0
