"""The runner: records against counts by hand, the same for all batch sizes, threads and interruptions."""

import dataclasses
import json
import math
import platform
from typing import ClassVar

import numpy as np
import pytest

from ngram_copy import run
from ngram_copy.engines import ENGINES
from ngram_copy.engines.base import Prediction
from ngram_copy.results import ResultsError, comparison_keys, read
from ngram_copy.run import VerificationError, open_results, run_case, run_cases, verify
from ngram_copy.suite import parse
from ngram_copy.tasks import TASKS
from ngram_copy.tasks.copy import Copy

TEXT = """
name = "mine"

[tasks.letters]
task = "copy"
vocab_size = 4

[tasks.planted]
task = "duplicate_ngram"
vocab_size = 4
n = 2

[engines.trigrams]
engine = "ngram"
n = 3

[engines.prefix]
engine = "prefix"
kept = 6

[[cases]]
tasks = ["letters", "planted"]
engines = ["trigrams", "prefix"]
lengths = [6, 16]
examples = 60

[[statistics]]
statistic = "repeats"
tasks = ["letters"]
n = [3]
lengths = [16]
examples = 60
"""


@pytest.fixture
def cases():
    return parse(TEXT).cases()


def named(cases, name):
    return next(case for case in cases if case.name == name)


def results(cases, folder, **options):
    suite = parse(TEXT)
    _, writer = open_results(folder, suite, cases, resume=False)
    with writer:
        list(run_cases(cases, writer, **options))
    return read(folder)


def test_an_accuracy_record_against_counts_by_hand(cases):
    case = named(cases, "letters/trigrams/16/0")
    record = run_case(case)
    batch = case.task.batch(16, seed=0, split="test", start=0, count=60)
    answers = batch.answers()
    right = case.engine().predict(batch).tokens == answers
    result = record["result"]
    assert record["kind"] == "accuracy"
    assert record["case_id"] == case.case_id
    assert record["case"] == case.description
    assert result["strings"]["correct"] == sum(all(row) for row in right)
    assert 0 < result["strings"]["correct"] < 60
    assert result["strings"]["total"] == 60
    assert result["tokens"] == {**result["tokens"], "correct": int(right.sum()), "total": 60 * 17}
    assert result["strings"]["low"] < result["strings"]["correct"] / 60 < result["strings"]["high"]
    assert result["free_checked"] == {"strings": 16, "disagreements": 0}
    assert result["state_bits"] == result["h_min"] == 32
    assert result["string_bound"] == 1
    assert result["token_bound"] == 1
    assert 0 < result["bits_recalled"]["mean"] <= 32
    assert result["bits_recalled"]["total"] == 60
    assert result["diagnostics"]["rule_strings"] == 60
    assert result["diagnostics"]["rule_disagreements"] == 0
    assert result["diagnostics"]["repeat_strings"] == 60 - result["strings"]["correct"]
    assert record["environment"]["threads"] == 1
    assert {"version", "python", "platform", "cpu", "seconds", "time"} <= set(record["environment"])
    assert record["environment"]["platform"] == f"{platform.system()} {platform.machine()}"
    json.dumps(record, allow_nan=False)


def test_the_bound_of_a_fixed_state(cases):
    result = run_case(named(cases, "letters/prefix/16/0"))["result"]
    assert result["state_bits"] == 12
    assert result["string_bound"] == 2.0 ** (12 - 32)
    assert 0.25 < result["token_bound"] < 1
    assert result["bits_recalled"]["mean"] <= 12


def test_no_bound_where_the_source_is_unknown(cases):
    result = run_case(named(cases, "planted/prefix/16/0"))["result"]
    assert result["bits_recalled"] is None
    assert result["h_min"] is result["string_bound"] is result["token_bound"] is None


def test_a_statistic_against_counts_by_hand(cases):
    case = cases[-1]
    record = run_case(case)
    strings = case.task.batch(16, seed=0, split="test", start=0, count=60).tokens[:, 1:17]
    grams = [{tuple(row[i : i + 3]) for i in range(14)} for row in strings.tolist()]
    repeating = sum(len(found) < 14 for found in grams)
    result = record["result"]
    assert record["kind"] == "statistic"
    assert 0 < repeating < 60
    assert result["windows"] == {"repeating": repeating, "total": 60}
    assert result["distinct"] == sum(map(len, grams))
    assert result["p"]["value"] == repeating / 60
    assert result["p"]["low"] < repeating / 60 < result["p"]["high"]
    assert result["formula"]["union"] == pytest.approx(min(1, 14 * 13 / 2 * 4.0**-3))


def test_records_do_not_depend_on_batches_or_threads(cases, tmp_path, monkeypatch):
    whole = results(cases, tmp_path / "whole")
    threads = results(cases, tmp_path / "threads", threads=2)
    monkeypatch.setattr(run, "_BATCH_TOKENS", 100)
    small = results(cases, tmp_path / "small")
    assert comparison_keys(whole) == comparison_keys(threads) == comparison_keys(small)
    assert len(whole) == len(cases)


def test_progress_adds_up(cases):
    for case in cases:
        steps = []
        run_case(case, on_progress=lambda *step: steps.append(step))  # noqa: B023  called at once
        assert {of.case_id for of, _, _ in steps} == {case.case_id}
        assert sum(share for _, share, _ in steps) == pytest.approx(1)


class Sure(ENGINES["ngram"]):
    """Gives each true token the probability 1/2."""

    name: ClassVar[str] = "sure"

    def predict(self, batch, *, threads=1):
        answers = batch.answers()
        return Prediction(answers, log2_q=np.where(answers >= 0, -1.0, 0.0))

    def resume(self, states, max_new_tokens, queries=None):
        return [np.zeros(max_new_tokens, dtype=np.int64) for _ in states]


def test_an_engine_with_probabilities_is_scored_by_them(cases, monkeypatch):
    monkeypatch.setitem(ENGINES, "sure", Sure)
    text = TEXT.replace('engine = "ngram"', 'engine = "sure"')
    result = run_case(parse(text).cases()[1])["result"]
    assert result["bits_recalled"]["mean"] == 32 - 17
    assert result["bits_recalled"]["sd"] == 0
    assert result["strings"]["correct"] == 60
    assert result["free_checked"] == {"strings": 16, "disagreements": 16}


class Failing(ENGINES["ngram"]):
    name: ClassVar[str] = "failing"

    def predict(self, batch, *, threads=1):
        raise RuntimeError("out of\nluck")


def test_an_exception_becomes_a_record_and_the_run_goes_on(monkeypatch, tmp_path):
    monkeypatch.setitem(ENGINES, "failing", Failing)
    suite = parse(TEXT.replace('engine = "ngram"', 'engine = "failing"'))
    cases = suite.cases()
    _, writer = open_results(tmp_path, suite, cases, resume=False)
    with writer:
        records = list(run_cases(cases, writer))
    assert [record["kind"] for record in records].count("error") == 4
    failed = next(record for record in records if record["kind"] == "error")
    assert failed["result"] == {"error": "RuntimeError", "message": "out of\nluck"}
    assert "Traceback" in failed["artifacts"]["traceback"]
    assert read(tmp_path) == records
    done, writer = open_results(tmp_path, suite, cases, resume=True)
    writer.close()
    assert [record["kind"] for record in done].count("error") == 0
    assert len(done) == len(records) - 4


def test_a_record_is_in_the_file_when_it_is_yielded(cases, tmp_path):
    _, writer = open_results(tmp_path, parse(TEXT), cases, resume=False)
    with writer:
        for number, _ in enumerate(run_cases(cases, writer), 1):
            assert len(read(tmp_path)) == number


def test_a_folder_with_records_is_refused(cases, tmp_path):
    results(cases[:2], tmp_path)
    before = (tmp_path / "records.jsonl").read_bytes()
    with pytest.raises(ResultsError, match=r"holds records already: go on with --resume, or choose another --out"):
        open_results(tmp_path, parse(TEXT), cases, resume=False)
    assert (tmp_path / "records.jsonl").read_bytes() == before


def test_resume_skips_what_is_done_and_refuses_strangers(cases, tmp_path):
    results(cases[:2], tmp_path)
    assert (tmp_path / "suite.toml").read_text() == TEXT
    done, writer = open_results(tmp_path, parse(TEXT), cases, resume=True)
    writer.close()
    assert [record["case_id"] for record in done] == [case.case_id for case in cases[:2]]
    other = parse(TEXT).cases(seed=1)
    with pytest.raises(ResultsError, match="holds 2 records that are not of this suite"):
        open_results(tmp_path, parse(TEXT), other, resume=True)


def test_resume_of_nothing_is_a_run(cases, tmp_path):
    done, writer = open_results(tmp_path / "new", parse(TEXT), cases, resume=True)
    writer.close()
    assert done == []


def test_verify_compares_each_set_of_examples_once(cases):
    assert [case.name for case in verify(cases)] == [
        "letters/trigrams/6/0",
        "letters/trigrams/16/0",
        "planted/trigrams/6/0",
        "planted/trigrams/16/0",
    ]


def test_verify_finds_a_wrong_answer(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Wrong(Copy):
        name: ClassVar[str] = "wrong"

        def oracle(self, prompt, query):
            return [*super().oracle(prompt, query)[:-1], 0]

    monkeypatch.setitem(TASKS, "wrong", Wrong)
    cases = parse(TEXT.replace('task = "copy"', 'task = "wrong"')).cases()
    with pytest.raises(VerificationError, match=r"letters/trigrams/6/0, example 0: the data's answer \[.*\] is not"):
        list(verify(cases))


def test_states_of_several_sizes_share_a_bound(monkeypatch):
    """Half of the prompts leave 10 bits, half 14: the bound is the mean of both bounds, not that of the mean."""

    class Uneven(ENGINES["prefix"]):
        name: ClassVar[str] = "uneven"

        def __init__(self, vocab, *, kept: int = 6):
            super().__init__(vocab, kept=kept)

        def state_bits(self, prompts):
            return np.array([10.0 if prompt[1] < 2 else 14.0 for prompt in prompts])

    monkeypatch.setitem(ENGINES, "uneven", Uneven)
    case = named(parse(TEXT.replace('engine = "prefix"', 'engine = "uneven"')).cases(), "letters/prefix/6/0")
    result = run_case(case)["result"]
    few = np.mean(case.task.batch(6, seed=0, split="test", start=0, count=60).tokens[:, 1] < 2)
    assert result["state_bits"] == pytest.approx(14 - 4 * few)
    assert math.isclose(result["string_bound"], few * 2**-2 + (1 - few))
