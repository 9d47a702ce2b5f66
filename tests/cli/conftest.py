"""The command line in this process and in another."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from small_suite import SUITE

from ngram_copy.__main__ import main


@dataclass
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def suite(tmp_path):
    path = tmp_path / "small.toml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def cli(capfd):
    """The command line in this process: ``cli("run", path, "--json")``."""

    def call(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return Outcome(code, out, err)

    return call


@pytest.fixture
def bad(cli):
    """A command that a user got wrong: exit code 2 and one line on stderr, which is returned."""

    def call(*arguments: object) -> str:
        outcome = cli(*arguments)
        assert outcome.code == 2, outcome
        assert outcome.out == ""
        assert outcome.err.startswith("ngram-copy: ")
        assert outcome.err.count("\n") == 1, outcome.err
        assert "Traceback" not in outcome.err
        return outcome.err

    return call


@pytest.fixture
def start(tmp_path):
    """The command line in another process, with the engine ``blocking``; killed at the end if it still runs."""
    started = []

    def call(*arguments: object, go: Path) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("blocking.py")), *map(str, arguments)],
            cwd=tmp_path,
            env={**os.environ, "GO": str(go)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield call
    for process in started:
        process.kill()
        process.communicate()
