"""Engines: teacher-forced against free, cut here and resume there, the rule of success."""

import subprocess
import sys

import numpy as np
import pytest

from ngram_copy import StateError
from ngram_copy.engines import ENGINES
from ngram_copy.tasks import TASKS, VocabularySpec
from ngram_copy.tasks.copy import Copy

# Settings of every engine; a new one must be added here.
SETTINGS = {
    "ngram": [
        {"n": 3},
        {"n": 2, "policy": "last"},
        {"n": 2, "policy": "most_frequent", "on_miss": "repeat"},
        {"n": 4, "include_generated": False, "on_miss": 0},
    ],
    "bounded": [
        {"n": 3, "slots": 64, "key_bits": 4},
        {"n": 2, "slots": 7, "key_bits": 0, "eviction": "overwrite"},
        {"n": 3, "slots": 500, "key_bits": 64},
    ],
    "prefix": [{"kept": 5}, {"kept": 3, "groups": 13}, {"state_bits": 40.0}],
}
CASES = [(name, options) for name, settings in SETTINGS.items() for options in settings]


# Those over models of torch: test_run_learned.py, test_engines_own.py, test_engines_huggingface.py, test_construct.py,
# test_models_delay_line.py.
NEURAL = {"trained", "module", "huggingface", "constructed", "delay-line"}


def test_every_engine_is_tested():
    assert set(SETTINGS) | NEURAL == set(ENGINES)


@pytest.mark.parametrize(("name", "options"), CASES)
class TestEveryEngine:
    def test_whole_strings_free_and_teacher_forced_agree(self, name, options):
        task = Copy(vocab_size=26)
        engine = ENGINES[name](task.vocab, **options)
        for length in (1, 3, 6, 40):
            batch = task.batch(length, seed=2, split="test", start=0, count=64)
            right = (engine.predict(batch).tokens == batch.answers()).all(axis=1)
            free = engine.generate(batch, length + 1)
            expected = [np.array_equal(out, answer) for out, answer in zip(free, batch.answers(), strict=True)]
            assert right.tolist() == expected

    def test_threads_and_batches_change_nothing(self, name, options):
        task = Copy(vocab_size=4)
        engine = ENGINES[name](task.vocab, **options) if options.get("groups") is None else None
        if engine is None:
            return
        batch = task.batch(20, seed=2, split="test", start=0, count=33)
        whole = engine.predict(batch, threads=2)
        again = engine.predict(batch, threads=1)
        single = [engine.predict(task.batch(20, seed=2, split="test", start=i, count=1)).tokens[0] for i in range(33)]
        assert np.array_equal(whole.tokens, again.tokens)
        assert np.array_equal(whole.sources, again.sources)
        assert np.array_equal(whole.tokens, single)

    def test_another_process_goes_on_from_the_bytes(self, name, options, tmp_path):
        task = Copy(vocab_size=26)
        engine = ENGINES[name](task.vocab, **options)
        batch = task.batch(30, seed=4, split="test", start=0, count=5)
        for i, state in enumerate(engine.cut(batch.prompts())):
            (tmp_path / str(i)).write_bytes(state)
        code = f"""
import json, pathlib
from ngram_copy.engines import ENGINES
from ngram_copy.tasks import VocabularySpec
engine = ENGINES[{name!r}](VocabularySpec(26), **{options!r})
states = [pathlib.Path({str(tmp_path)!r}, str(i)).read_bytes() for i in range(5)]
print(json.dumps([out.tolist() for out in engine.resume(states, 31)]))
"""
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == str([out.tolist() for out in engine.generate(batch, 31)])

    def test_damaged_states_are_refused(self, name, options):
        task = Copy(vocab_size=26)
        engine = ENGINES[name](task.vocab, **options)
        (state,) = engine.cut(task.batch(30, seed=4, split="test", start=0, count=1).prompts())
        for damaged in (b"", state[:-1], state + b"\0", bytes([state[0] ^ 1]) + state[1:], state[:-1] + b"\xff"):
            if damaged != state:
                with pytest.raises(StateError):
                    engine.resume([damaged], 5)
        other = "prefix" if name != "prefix" else "ngram"
        with pytest.raises(StateError):
            ENGINES[other](task.vocab).resume([state], 5)

    def test_the_bytes_hold_the_declared_bits(self, name, options):
        task = Copy(vocab_size=26)
        engine = ENGINES[name](task.vocab, **options)
        batch = task.batch(200, seed=4, split="test", start=0, count=8)
        bits = engine.state_bits(batch.prompts())
        assert bits.shape == (8,)
        sizes = np.array([8 * len(state) for state in engine.cut(batch.prompts())])
        assert (sizes >= bits - 1e-6).all()
        # Whole bits a symbol against log2 of their number, and a header of fixed size.
        assert (sizes <= bits * 1.3 + 8 * 64).all()

    def test_every_task_is_answered(self, name, options):
        if options.get("groups"):
            return
        for task in TASKS.values():
            made = task()
            engine = ENGINES[name](made.vocab, **options)
            batch = made.batch(20, seed=0, split="test", start=0, count=6)
            prediction = engine.predict(batch)
            assert prediction.tokens.shape == batch.answers().shape
            assert (prediction.tokens[batch.answers() < 0] == -1).all()
            assert len(engine.generate(batch, 12)) == 6


@pytest.mark.parametrize("policy", ["first", "last", "most_frequent"])
@pytest.mark.parametrize(("vocab_size", "n", "length"), [(2, 6, 12), (4, 3, 10), (26, 2, 30), (26, 1, 6)])
def test_a_copy_succeeds_exactly_when_no_ngram_repeats(policy, vocab_size, n, length):
    task = Copy(vocab_size=vocab_size)
    engine = ENGINES["ngram"](task.vocab, n=n, policy=policy)
    batch = task.batch(length, seed=0, split="test", start=0, count=500)
    prediction = engine.predict(batch)
    counts = engine.diagnostics(batch, prediction)
    assert counts["rule_strings"] == 500
    assert 0 < counts["repeat_strings"] < 500
    assert counts["rule_disagreements"] == 0
    prediction.tokens[0, 0] = -1  # a wrong answer is noticed, unless this string must fail
    assert engine.diagnostics(batch, prediction)["rule_disagreements"] <= 1


def test_the_phone_book_is_answered_by_looking_the_name_up():
    task = TASKS["phone_book"]()
    engine = ENGINES["ngram"](task.vocab, n=8)
    batch = task.batch(10, seed=0, split="test", start=0, count=20)
    right = (engine.predict(batch).tokens == batch.answers()).all(axis=1)
    free = engine.generate(batch, 10)
    assert right.mean() > 0.5
    assert [np.array_equal(a, b) for a, b in zip(free, batch.answers(), strict=True)] == right.tolist()


def test_suffix_lookup_is_solved_exactly():
    task = TASKS["suffix_lookup"](vocab_size=26, n=3, answer_len=4)
    batch = task.batch(60, seed=0, split="test", start=0, count=100)
    prediction = ENGINES["ngram"](task.vocab, n=3).predict(batch)
    assert (prediction.tokens[:, 0] == batch.answers()[:, 0]).all()
    first = np.take_along_axis(batch.tokens, prediction.sources, axis=1)
    assert (first == prediction.tokens).all()


def test_prefix_machine_reaches_its_bound_and_not_more():
    task = Copy(vocab_size=2)
    engine = ENGINES["prefix"](task.vocab, kept=6)
    batch = task.batch(8, seed=0, split="test", start=0, count=4000)
    right = (engine.predict(batch).tokens == batch.answers()).all(axis=1)
    kept = (batch.tokens[:, 7:9] == 0).all(axis=1)
    assert right.tolist() == kept.tolist()
    assert engine.state_bits(batch.prompts())[0] == 6


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ngram", {"n": 0}, "n"),
        ("ngram", {"policy": "middle"}, "policy"),
        ("ngram", {"on_miss": "guess"}, "on_miss"),
        ("bounded", {"slots": 0}, "slots"),
        ("bounded", {"eviction": "none"}, "eviction"),
        ("bounded", {"key_bits": 65}, "key_bits"),
        ("prefix", {"groups": 5}, "groups"),
        ("prefix", {"kept": -1}, "kept"),
        ("prefix", {"state_bits": -1.0}, "state_bits"),
    ],
)
def test_bad_options(name, options, message):
    with pytest.raises(ValueError, match=message):
        ENGINES[name](VocabularySpec(26), **options)
