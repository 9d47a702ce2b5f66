"""Knuth's estimator of p_ngram, and the statistic half-length: against exact counts, plain strings and the formula."""

import itertools
import math

import numpy as np
import pytest

from ngram_copy import ngram, sample, theory
from ngram_copy.statistics.base import Row
from ngram_copy.statistics.half_length import HalfLength, cached_numbers
from ngram_copy.tasks.copy import Copy
from ngram_copy.tasks.duplicates import DuplicateNgram
from ngram_copy.tasks.text import TextCopy


def error_at(grown, length):
    lengths, error, standard_error = grown.steps()
    at = np.searchsorted(lengths, length, side="right") - 1
    return error[at], standard_error[at]


def measure(task, n, *, examples=100, threads=1, transformer_up_to=0, seed=0):
    told = []
    statistic = HalfLength(transformer_up_to=transformer_up_to)
    result = statistic.measure(Row(task, seed, examples, n=n), threads=threads, answered=told.append)
    assert sum(told) == examples
    assert min(told) >= 0
    return result


# --- The estimator ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("vocab_size", "n"), [(2, 2), (2, 3), (2, 4), (2, 5), (3, 2), (3, 3), (4, 2), (7, 2)])
def test_estimates_the_exact_probability(vocab_size, n):
    grown = ngram.repeat_free(vocab_size, n, 30, samples=20_000, seed=11)
    compared = 0
    for length in range(31):
        exact = theory.p_ngram(length, n, vocab_size)
        if exact is None:
            continue
        error, standard_error = error_at(grown, length)
        assert abs(error - exact) <= 4.5 * standard_error + 1e-9, (length, error, exact)
        compared += 0 < exact < 1
    assert compared >= 2


@pytest.mark.parametrize("vocab_size", [2, 5, 26])
def test_one_string_is_exact_for_single_tokens(vocab_size):
    grown = ngram.repeat_free(vocab_size, 1, 40, samples=1)
    for length in range(41):
        assert error_at(grown, length)[0] == pytest.approx(theory.p_ngram(length, 1, vocab_size), abs=1e-12)


@pytest.mark.parametrize(("vocab_size", "n"), [(2, 12), (5, 5), (26, 3)])
def test_agrees_with_the_first_repeats_of_plain_strings(vocab_size, n):
    """Kolmogorov and Smirnov: the estimate against the distribution of first repeats of 4000 random strings."""
    length = int(3 * theory.median_length(n, vocab_size))
    strings = sample.uniform(5, 0, 0, 4000, length, vocab_size)
    pairs = [ngram.first_repeat(string, n) for string in strings]
    plain = np.sort([length + 1 if pair is None else pair[1] + n for pair in pairs])
    grown = ngram.repeat_free(vocab_size, n, length, samples=4000, seed=6)
    lengths, error, standard_error = grown.steps()
    share = np.searchsorted(plain, lengths, side="right") / len(plain)
    # 1.95/√N is exceeded with probability 0.001; the estimate has an error of its own.
    assert np.abs(share - error).max() < 1.95 / math.sqrt(len(plain)) + 4 * standard_error.max()
    # It varies less than counting does.
    middle = np.abs(error - 0.5).argmin()
    assert standard_error[middle] < 0.8 * math.sqrt(0.25 / grown.samples)


def test_steps_are_the_mean_of_the_weights_of_strings():
    grown = ngram.repeat_free(3, 2, 12, samples=500, seed=3)
    ends = np.cumsum(grown.counts)
    for length in range(13):
        weights = []
        for first, end in zip(ends - grown.counts, ends, strict=True):
            events = zip(grown.positions[first:end], grown.forbidden[first:end], strict=True)
            weights.append(math.prod(1 - c / 3 for position, c in events if position < length))
        error, standard_error = error_at(grown, length)
        assert error == pytest.approx(1 - np.mean(weights), abs=1e-12)
        assert standard_error == pytest.approx(np.std(weights, ddof=1) / math.sqrt(500), abs=1e-12)


def test_strings_depend_on_neither_threads_nor_length_nor_number():
    def events(grown, string, length):
        first = grown.counts[:string].sum()
        place = slice(first, first + grown.counts[string])
        keep = grown.positions[place] < length
        return grown.positions[place][keep].tolist(), grown.forbidden[place][keep].tolist()

    long = ngram.repeat_free(2, 13, 4000, samples=40, seed=1, stream=9, threads=3)
    short = ngram.repeat_free(2, 13, 1500, samples=7, seed=1, stream=9)
    assert [events(long, i, 1500) for i in range(7)] == [events(short, i, 1500) for i in range(7)]
    assert len({str(events(long, i, 4000)) for i in range(40)}) == 40
    other = ngram.repeat_free(2, 13, 1500, samples=7, seed=2, stream=9)
    assert other.positions.tolist() != short.positions.tolist()


def test_tells_progress_and_ends_on_an_exception():
    done = []
    ngram.repeat_free(2, 30, 200_000, samples=50, progress=done.append)
    assert done == sorted(done)
    assert done[-1] == 50
    assert len(done) > 1

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ngram.repeat_free(2, 30, 200_000, samples=50, threads=2, progress=stop)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"vocab_size": 0}, "vocab_size must be 1 to"),
        ({"n": 0}, "n must be 1 to 65536, not 0"),
        ({"length": -1}, "length must be 0 to"),
        ({"samples": 0}, "samples must be 1 to"),
        ({"seed": -1}, "seed must be 0 to"),
        ({"threads": 0}, "threads must be 1 to"),
    ],
)
def test_refuses_what_cannot_be_grown(arguments, message):
    given = {"vocab_size": 2, "n": 3, "length": 10, "samples": 2} | arguments
    with pytest.raises(ValueError, match=message):
        ngram.repeat_free(given.pop("vocab_size"), given.pop("n"), given.pop("length"), **given)


def test_ends_where_every_token_is_forbidden():
    grown = ngram.repeat_free(1, 2, 9, samples=2)
    assert grown.positions.tolist() == [2, 2]
    assert error_at(grown, 2) == (0, 0)
    assert error_at(grown, 3) == (1, 0)
    assert ngram.repeat_free(2, 3, 0, samples=1).steps()[1].tolist() == [0]


# --- The statistic ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vocab_size", "n"), [(2, 1), (2, 2), (2, 3), (2, 4), (2, 5), (4, 1), (4, 2), (26, 1), (64, 1)]
)
def test_is_equal_to_exact_counts(vocab_size, n):
    result = measure(Copy(vocab_size=vocab_size), n, examples=1000)
    for name, error in (("half", 0.5), ("one_percent", 0.01)):
        least = next(length for length in itertools.count() if theory.p_ngram(length, n, vocab_size) >= error)
        assert result[name]["value"] == result["exact"][name] == least
        assert result[name]["low"] <= least <= result[name]["high"]


@pytest.mark.parametrize(("vocab_size", "n"), [(2, 10), (2, 14), (4, 7), (26, 3), (64, 2)])
def test_is_within_a_token_and_three_percent_of_the_formula(vocab_size, n):
    result = measure(Copy(vocab_size=vocab_size), n, examples=1000, threads=2)
    formula = theory.median_length(n, vocab_size)
    assert result["formula"]["half"] == formula
    assert abs(result["half"]["value"] - formula) <= 1 + 0.03 * formula
    rare = result["formula"]["one_percent"]
    assert rare == pytest.approx(n + math.sqrt(-2 * math.log(0.99) * vocab_size**n / (1 - 1 / vocab_size)))
    assert result["one_percent"]["low"] <= rare + 1
    assert result["one_percent"]["high"] >= rare - 1


def test_measures_the_same_with_any_number_of_threads():
    one, three = (measure(Copy(vocab_size=4), 8, threads=threads) for threads in (1, 3))
    assert one == three
    assert one["data_hash"].startswith("sha256:")
    other = measure(Copy(vocab_size=4), 8, seed=1)
    assert other["data_hash"] != one["data_hash"]


def test_strings_grow_on_until_the_interval_has_an_end(monkeypatch):
    module = HalfLength.__module__
    expected = measure(Copy(vocab_size=26), 3, examples=50)
    monkeypatch.setattr(f"{module}._BEYOND", 0.2)
    monkeypatch.setattr(f"{module}._TOKENS", 0)
    monkeypatch.setattr(f"{module}._strings", lambda *_: expected["samples"])
    found = measure(Copy(vocab_size=26), 3, examples=50)
    assert {**found, "data_hash": ""} == {**expected, "data_hash": ""}


def test_intervals_cover_the_length_as_often_as_they_say():
    """For D = 26, n = 3 the Poisson formula is good to a token; 95% of 100 intervals, 85 with near certainty."""
    formula = theory.median_length(3, 26)
    results = [measure(Copy(vocab_size=26), 3, examples=5, seed=seed) for seed in range(100)]
    covered = [result["half"]["low"] - 1 <= formula <= result["half"]["high"] + 1 for result in results]
    assert sum(covered) >= 85
    assert any(not result["half"]["low"] + 1 <= formula <= result["half"]["high"] - 1 for result in results)


def test_counts_every_window_of_a_text(tmp_path):
    rng = np.random.default_rng(0)
    text = tmp_path / "text"
    text.write_bytes(bytes(rng.integers(97, 101, 3000).tolist()) + b"the same words, " * 5)
    for n in (1, 2, 4, 6):
        result = measure(TextCopy(path=str(text)), n)
        tokens = TextCopy(path=str(text)).corpus.tokens
        windows = ngram.repeat_windows(tokens, n, range(1, len(tokens) + 1))
        for name, error in (("half", 0.5), ("one_percent", 0.01)):
            least = next(w for w in windows if w.repeating >= error * w.total)
            assert result[name] == {"value": least.length, "low": least.length, "high": least.length}
            if name == "half":
                assert result["samples"] == least.total
        assert result["formula"] is result["exact"] is None


def test_a_text_without_a_repeat_has_no_length(tmp_path):
    text = tmp_path / "text"
    text.write_bytes(bytes(range(60)))
    result = measure(TextCopy(path=str(text)), 2)
    assert result["half"] == result["one_percent"] == {"value": None, "low": None, "high": None}
    assert result["cut_bits"] is result["transformer"] is None


def test_refuses_other_tasks_and_strings_that_are_too_long():
    for task, n, message in [
        (Copy(source="zipf"), 3, "the source uniform"),
        (DuplicateNgram(), 3, "not duplicate_ngram"),
        (Copy(vocab_size=2), None, "of an n"),
        (Copy(vocab_size=2), 70, "n = 70 with 2 tokens takes strings of"),
        (Copy(vocab_size=26), 100_000, "takes strings of"),
    ]:
        with pytest.raises(ValueError, match=message):
            HalfLength().check(Row(task, 0, 10, n=n))
    with pytest.raises(ValueError, match="transformer_up_to must be at least 0, not -1"):
        HalfLength(transformer_up_to=-1)


def test_work_is_the_tokens_that_are_grown(tmp_path):
    rows = [Row(Copy(vocab_size=2), 0, 1000, n=n) for n in (20, 24, 28)]
    works = [HalfLength().work(row) for row in rows]
    assert works[0] < works[1] < works[2]
    assert works[2] == pytest.approx(3000 * 1.06 * theory.median_length(28, 2), rel=0.01)
    text = tmp_path / "text"
    text.write_bytes(b"abc" * 100)
    assert HalfLength().work(Row(TextCopy(path=str(text)), 0, 1000, n=3)) >= 300


# --- The constructed transformer --------------------------------------------------------------------------


def test_the_transformer_itself_copies_half_of_the_strings():
    pytest.importorskip("torch")
    result = measure(Copy(vocab_size=26), 2, transformer_up_to=100)
    itself = result["transformer"]
    assert itself["length"] == result["half"]["value"]
    assert itself["strings"] == 64
    # Its strings are those of the task: it copies those without a repeat, and no others.
    batch = Copy(vocab_size=26).batch(itself["length"], seed=0, split="test", start=0, count=64)
    whole = sum(ngram.first_repeat(prompt[1:-1], 2) is None for prompt in batch.prompts())
    assert itself["correct"] == whole
    assert itself["low"] < 0.5 < itself["high"]
    assert measure(Copy(vocab_size=26), 2, transformer_up_to=result["half"]["value"] - 1)["transformer"] is None


@pytest.mark.parametrize(("vocab_size", "n"), [(2, 1), (2, 5), (26, 3), (64, 2)])
def test_sizes_are_those_of_the_model(vocab_size, n):
    pytest.importorskip("torch")
    from ngram_copy.models.construct import copy_transformer

    model = copy_transformer(n, vocab_size, 64)
    for length in (1, 3, 40):
        # The state at the cut: <bos> and the string are read.
        assert cached_numbers(n, vocab_size, length) == model.state_size(length + 1)
    result = measure(Copy(vocab_size=vocab_size), n, examples=5)
    assert result["parameters"] == model.parameter_count()
    assert result["heads"] == n + 1
    assert result["cut_bits"] == 32 * model.state_size(result["half"]["value"] + 1)
