"""Runs that are killed or stopped, and go on: the records are those of a run that was not."""

import json
import signal
import time
from pathlib import Path

import pytest
from small_suite import SUITE

from ngram_copy.results import comparison_keys, read

BLOCKING = SUITE.replace('["trigrams", "prefix"]', '["trigrams", "wait", "prefix"]').replace(
    "[[cases]]", '[engines.wait]\nengine = "blocking"\nn = 3\n\n[[cases]]', 1
)
TOTAL = 8
BEFORE = 2  # records before the first case that blocks


@pytest.fixture
def blocking(tmp_path):
    path = tmp_path / "blocking.toml"
    path.write_text(BLOCKING)
    return path


def wait_for_records(path: Path, count: int, process) -> None:
    """Until so many lines are in the file; the next case blocks, so that there are no more."""
    deadline = time.monotonic() + 60
    while not path.exists() or path.read_bytes().count(b"\n") < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def whole_run(start, tmp_path, blocking, go):
    process = start("run", blocking, "--out", tmp_path / "whole", "--no-report", go=go)
    assert process.wait(60) == 0
    return read(tmp_path / "whole")


@pytest.fixture
def go(tmp_path):
    path = tmp_path / "go"
    path.touch()
    return path


def test_kill_9_then_resume_is_the_same(start, tmp_path, blocking, go):
    out = tmp_path / "killed"
    process = start("run", blocking, "--out", out, "--no-report", go=tmp_path / "never")
    wait_for_records(out / "records.jsonl", BEFORE, process)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert len(read(out)) == BEFORE
    # What a write that was cut short leaves behind.
    with (out / "records.jsonl").open("ab") as file:
        file.write(json.dumps(read(out)[0]).encode()[:200])
    process = start("run", blocking, "--out", out, "--resume", "--no-report", "--threads", "2", go=go)
    assert process.wait(60) == 0
    assert comparison_keys(read(out)) == comparison_keys(whole_run(start, tmp_path, blocking, go))
    assert len(read(out)) == TOTAL


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(start, tmp_path, blocking, go):
    out = tmp_path / "stopped"
    process = start("run", blocking, "--out", out, "--seed", "3", "--no-report", go=tmp_path / "never")
    wait_for_records(out / "records.jsonl", BEFORE, process)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert stdout == ""
    assert f"Stopped after {BEFORE} of {TOTAL} cases" in stderr
    command = f"ngram-copy run {blocking} --out {out} --seed 3 --no-report --resume"
    assert command in stderr
    assert len(read(out)) == BEFORE
    process = start(*command.split()[1:], go=go)
    assert process.wait(60) == 0
    assert len(read(out)) == TOTAL


def test_ctrl_c_before_the_first_case(start, tmp_path, blocking):
    """While the oracle is asked, say: no traceback either."""
    text = BLOCKING.replace('["trigrams", "wait", "prefix"]', '["wait"]')
    blocking.write_text(text)
    process = start("run", blocking, "--out", tmp_path / "out", go=tmp_path / "never")
    wait_for_records(tmp_path / "out" / "records.jsonl", 0, process)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "--resume" in stderr
