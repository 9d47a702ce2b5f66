"""``run``: what it writes, prints and returns."""

import json
import re
from typing import ClassVar

import pytest
from small_suite import CASES, SUITE

from ngram_copy.engines import ENGINES
from ngram_copy.results import comparison_keys, read
from ngram_copy.tasks import TASKS
from ngram_copy.tasks.copy import Copy


def test_a_run_makes_records_and_a_report(cli, suite, tmp_path):
    out = tmp_path / "out"
    outcome = cli("run", suite, "--out", out)
    assert outcome.code == 0, outcome.err
    assert len(read(out)) == CASES
    assert (out / "suite.toml").read_text() == SUITE
    assert (out / "index.html").exists()
    assert "trigrams" in outcome.out
    assert str(out / "index.html") in outcome.out
    assert str(out / "records.jsonl") in outcome.out


def test_threads_change_nothing(cli, suite, tmp_path):
    for threads in (1, 2):
        assert cli("run", suite, "--out", tmp_path / str(threads), "--threads", threads, "--no-report").code == 0
    assert comparison_keys(read(tmp_path / "1")) == comparison_keys(read(tmp_path / "2"))


def test_a_run_without_a_terminal_says_how_far_it_is_in_plain_lines(cli, suite, tmp_path):
    outcome = cli("run", suite, "--out", tmp_path / "out", "--no-report")
    lines = outcome.err.splitlines()
    assert 3 <= len(lines) <= 9
    assert all(re.fullmatch(r"[1-9]0% after \d+ s: (letters|book)/\S+", line) for line in lines)
    assert lines == sorted(set(lines))
    assert cli("run", suite, "--out", tmp_path / "json", "--no-report", "--json").err == ""


def test_no_report(cli, suite, tmp_path):
    outcome = cli("run", suite, "--out", tmp_path / "out", "--no-report")
    assert outcome.code == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["records.jsonl", "suite.toml"]


def test_json_prints_the_records_and_nothing_else(cli, suite, tmp_path):
    out = tmp_path / "out"
    outcome = cli("run", suite, "--out", out, "--json")
    assert outcome.code == 0
    assert [json.loads(line) for line in outcome.out.splitlines()] == read(out)
    again = cli("run", suite, "--out", out, "--json", "--resume", "--no-report")
    assert again.out == outcome.out


def test_only_takes_names_and_parts_of_names(cli, suite, tmp_path):
    def labels(*globs):
        out = tmp_path / "-".join(globs).replace("/", "_").replace("*", "x")
        options = [word for glob in globs for word in ("--only", glob)]
        assert cli("run", suite, "--out", out, "--no-report", *options).code == 0
        return [(record["case"]["label"], record["case"]["length"]) for record in read(out)]

    assert labels("letters/trigrams/*") == [("trigrams", 6), ("trigrams", 16)]
    assert labels("prefix") == [("prefix", 6), ("prefix", 16)]
    assert labels("repeats-*") == [("letters", 16)]
    assert labels("prefix", "book") == [("prefix", 6), ("prefix", 16), ("trigrams", 2)]


def test_only_then_the_rest(cli, suite, tmp_path):
    out = tmp_path / "out"
    assert cli("run", suite, "--out", out, "--only", "prefix", "--no-report").code == 0
    outcome = cli("run", suite, "--out", out, "--resume", "--no-report")
    assert outcome.code == 0
    assert "2 cases done before, 4 to go." in outcome.err
    assert len(read(out)) == CASES


def test_seed(cli, suite, tmp_path):
    assert cli("run", suite, "--out", tmp_path / "out", "--seed", 9, "--no-report").code == 0
    assert {record["case"]["seed"] for record in read(tmp_path / "out")} == {9}


def test_the_default_folder(cli, suite, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli("run", suite, "--no-report").code == 0
    assert len(read(tmp_path / "results" / "small")) == CASES


def test_verify(cli, suite, tmp_path):
    outcome = cli("run", suite, "--out", tmp_path / "out", "--verify", "--no-report")
    assert outcome.code == 0
    assert "3 sets of examples (task, length, seed) agree with the oracle." in outcome.err


def test_verify_aborts_at_a_difference(bad, suite, tmp_path, monkeypatch):
    class Wrong(Copy):
        name: ClassVar[str] = "copy"

        def oracle(self, prompt, query):
            return [0]

    monkeypatch.setitem(TASKS, "copy", Wrong)
    message = bad("run", suite, "--out", tmp_path / "out", "--verify")
    assert "letters/trigrams/6/0, example 0" in message
    assert "oracle" in message
    assert not (tmp_path / "out").exists()


class Failing(ENGINES["ngram"]):
    name: ClassVar[str] = "failing"

    def predict(self, batch, *, threads=1):
        raise RuntimeError("no luck")


@pytest.fixture
def failing(suite, monkeypatch):
    monkeypatch.setitem(ENGINES, "failing", Failing)
    suite.write_text(SUITE.replace('engine = "ngram"', 'engine = "failing"'))
    return suite


def test_failed_cases_are_counted_and_tried_again(cli, failing, tmp_path, monkeypatch):
    out = tmp_path / "out"
    outcome = cli("run", failing, "--out", out, "--no-report")
    assert outcome.code == 1
    assert "letters/trigrams/6/0: RuntimeError: no luck" in outcome.err
    assert "3 cases of 6 failed" in outcome.err
    assert [record["kind"] for record in read(out)].count("error") == 3
    monkeypatch.setattr(Failing, "predict", ENGINES["ngram"].predict)
    outcome = cli("run", failing, "--out", out, "--no-report", "--resume")
    assert outcome.code == 0
    assert "3 cases done before, 3 to go." in outcome.err
    assert [record["kind"] for record in read(out)].count("error") == 0
    assert len(read(out)) == CASES


def test_a_run_of_failures_alone_has_a_report(cli, failing, tmp_path):
    outcome = cli("run", failing, "--out", tmp_path / "out", "--only", "trigrams")
    assert outcome.code == 1
    assert "3 cases of 3 failed" in outcome.err
    assert "Traceback" not in outcome.err


def test_all_done_is_fine(cli, suite, tmp_path):
    assert cli("run", suite, "--out", tmp_path / "out", "--no-report").code == 0
    before = (tmp_path / "out" / "records.jsonl").read_bytes()
    assert cli("run", suite, "--out", tmp_path / "out", "--no-report", "--resume").code == 0
    assert (tmp_path / "out" / "records.jsonl").read_bytes() == before


def test_a_refuted_claim_is_a_missed_threshold(cli, suite, tmp_path, monkeypatch):
    """An engine that says fewer bits than it keeps is above its bound."""
    monkeypatch.setattr(
        ENGINES["prefix"], "state_bits", lambda self, prompts: __import__("numpy").full(len(prompts), 1.0)
    )
    outcome = cli("run", suite, "--out", tmp_path / "out", "--only", "prefix")
    assert outcome.code == 1
    assert "refute" in outcome.err
