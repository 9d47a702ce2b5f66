"""Whatever a user gets wrong: one line on stderr, exit code 2, no traceback."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from small_suite import SUITE

from ngram_copy.results import Writer, read


@pytest.fixture
def made(cli, suite, tmp_path):
    """A results folder."""
    assert cli("run", suite, "--out", tmp_path / "made", "--no-report").code == 0
    return tmp_path / "made"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rum"], "No such command 'rum'. Did you mean 'run'?"),
        (["run"], "Missing argument 'suite'"),
        (["run", "smoke", "--treads", "2"], "--threads"),
        (["run", "smoke", "--threads", "0"], "0 must be greater than or equal to 1"),
        (["run", "smoke", "--threads", "9999"], "9999 must be less than or equal to 1024"),
        (["run", "smoke", "--threads", "two"], "two must be a valid integer"),
        (["run", "smoke", "--seed", "-1"], "-1 must be greater than or equal to 0"),
        (["run", "smokee"], "no suite 'smokee'; did you mean 'smoke'?"),
        (["run", "copy", "--size", "huge"], "the suite copy does not come in the size huge; its own: cpu, paper"),
        (["run", "smoke", "--size", "cpu"], "the suite smoke does not come in the size cpu; suites that do: copy, "),
        (["run", "nowhere.toml"], "cannot read the suite nowhere.toml: No such file or directory"),
        (["run", "."], "no suite '.'"),
        (["run", "smoke", "--only", "nothing/*"], "--only nothing/*: no case matches; they are named such as letters/"),
        (["report", "nowhere"], "nowhere: no such file"),
        (["compare", "nowhere", "elsewhere"], "nowhere: no such file"),
        (["rank", "nowhere"], "nowhere: no such file"),
        (["rank"], "Missing argument 'DIR"),
        (["show-example", "copi"], "unknown task 'copi'; did you mean 'copy'?"),
        (["show-example", "copy", "-o", "vocabsize=3"], "option of copy 'vocabsize'; did you mean 'vocab_size'?"),
        (["show-example", "copy", "-o", "vocab_size"], "--option vocab_size: write KEY=VALUE, such as vocab_size=26"),
        (["show-example", "copy", "-o", "vocab_size=many"], "'many' must be a valid integer"),
        (["show-example", "copy", "-o", "vocab_size=1"], "vocab_size must be at least 2, not 1"),
        (["show-example", "copy", "--split", "tset"], "--split tset: there are train, validation, test, fit"),
        (["show-example", "copy", "--length", "0"], "0 must be greater than or equal to 1"),
        (["show-example", "copy", "--length", str(10**14)], "Unable to allocate"),
        (["show-example", "duplicate_ngram", "-L", "3"], "length must be at least 8"),
        (["show-example", "text_copy", "-o", "path=nowhere"], "no such file or folder: nowhere"),
        (["theory"], "give --state-bits"),
        (["theory", "--length", "10", "--error", "1"], "error must be in [0, 1), not 1.0"),
        (["theory", "--length", "10", "--error", "2"], "error must be in [0, 1), not 2.0"),
        (["theory", "--state-bits", "10", "--error", "nan"], "error must be in [0, 1), not nan"),
        (["theory", "--length", "10", "--vocab", "1"], "1 must be greater than or equal to 2"),
        (["theory", "--length", str(10**400)], "must be less than or equal to 9223372036854775807"),
        (["theory", "--length", "10", "--vocab", str(10**400)], "must be less than or equal to 9223372036854775807"),
        (["theory", "--state-bits", "inf"], "state_bits must be at least 0 and finite, not inf"),
        (["theory", "--state-bits", "nan"], "nan must be greater than or equal to 0"),
        (["stats"], "Missing argument 'PATH"),
        (["stats", "nowhere"], "no such file or folder: nowhere"),
        (["stats", ".", "--n", "0"], "0 must be greater than or equal to 1"),
        (["stats", ".", "--lengths", "0"], "0 must be greater than or equal to 1"),
    ],
)
def test_bad_arguments(bad, arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert message in bad(*arguments)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("kept = 6", "kept = ", "small.toml: Invalid value (at line 19, column 8)"),
        (
            "kept = 6",
            "keept = 6",
            "small.toml: [engines.prefix]: unknown option of prefix 'keept'; did you mean 'kept'?",
        ),
        ('task = "copy"', 'task = "copie"', "small.toml: [tasks.letters]: unknown task 'copie'; did you mean 'copy'?"),
        ('engine = "prefix"', 'engine = "prefik"', "unknown engine 'prefik'; did you mean 'prefix'?"),
        (
            "lengths = [2]",
            "lengths = [9999999]",
            "the case book/trigrams/9999999/0 cannot run: phone_book: length must be",
        ),
        (
            "examples = 10\n",
            f"examples = {10**17}\n",
            f"small.toml: cases[1].examples: must be less than or equal to 1000000000, not {10**17}",
        ),
        ("kept = 6", "kept = -6", "the case letters/prefix/6/0 cannot run: kept"),
    ],
)
def test_a_bad_suite(bad, suite, old, new, message, tmp_path):
    suite.write_text(SUITE.replace(old, new))
    assert message in bad("run", suite, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_for_a_folder(bad, suite):
    before = suite.read_bytes()
    assert f"{suite} is a file, and results need a folder: choose another --out" in bad("run", suite, "--out", suite)
    assert suite.read_bytes() == before


def test_a_folder_with_records(bad, suite, made):
    before = (made / "records.jsonl").read_bytes()
    message = bad("run", suite, "--out", made)
    assert "holds records already: go on with --resume, or choose another --out" in message
    assert (made / "records.jsonl").read_bytes() == before


def test_resume_of_another_suite(bad, suite, made):
    assert "that are not of this suite" in bad("run", suite, "--out", made, "--resume", "--seed", 5)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk(cli, suite, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "records.jsonl").symlink_to("/dev/full")
    outcome = cli("run", suite, "--out", tmp_path / "out")
    assert outcome.code == 2
    message = f"ngram-copy: {tmp_path / 'out' / 'records.jsonl'}: No space left on device\n"
    assert re.fullmatch(rf"([1-9]0% after .*\n)*{re.escape(message)}", outcome.err)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_output_that_does_not_fit():
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "ngram_copy", "list"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "ngram-copy: the output: No space left on device\n"


def test_a_folder_that_cannot_be_made(bad, suite, tmp_path):
    (tmp_path / "file").touch()
    assert "file" in bad("run", suite, "--out", tmp_path / "file" / "out")


@pytest.mark.parametrize("command", [["report"], ["rank"], ["compare", "{}"]])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: [*lines[:-1], lines[-1][:50]], "line 6: torn last line (the run was stopped)"),
        (lambda lines: [lines[0], lines[1][:50], *lines[2:]], "line 2: not JSON"),
        (lambda lines: [lines[0], lines[1].replace("ngram-copy/1", "other/2"), *lines[2:]], "schema 'other/2'"),
        (lambda lines: [], "no records"),
    ],
)
def test_bad_records(bad, made, command, change, message):
    path = made / "records.jsonl"
    path.write_text("\n".join(change(path.read_text().splitlines())))
    assert message in bad(*[word.format(made) for word in command], made)


def changed(made: Path, folder: Path, change) -> Path:
    """A copy of results with each record changed."""
    folder.mkdir()
    with Writer(folder / "records.jsonl") as writer:
        for record in read(made):
            change(record)
            writer.write(record)
    return folder


@pytest.mark.parametrize("command", ["compare", "rank"])
def test_other_data_are_refused(bad, made, command, tmp_path):
    def change(record):
        record["result"]["data_hash"] = "sha256:" + "0" * 64

    other = changed(made, tmp_path / "other", change)
    message = bad(command, made, other)
    assert "copy uniform D=4, trigrams, length 6, seed 0: the data differ (sha256:" in message
    assert "sha256:000000000000" in message


def test_nothing_shared(bad, made, tmp_path):
    def change(record):
        record["case"]["seed"] = 77

    assert "share no case" in bad("compare", made, changed(made, tmp_path / "other", change))


def test_no_cell_of_all_engines(bad, made, tmp_path):
    records = [record for record in read(made) if record["kind"] == "accuracy"]
    with Writer(tmp_path / "odd.jsonl") as writer:
        for record in (
            records[:2] if records[0]["case"]["label"] != records[1]["case"]["label"] else [records[0], records[3]]
        ):
            writer.write(record)
    message = bad("rank", tmp_path / "odd.jsonl")
    assert "no cell was answered by all 2 engines (trigrams, prefix): choose some with --engine" in message
    assert "most of them meet at copy uniform D=4, length 6, seed 0: trigrams" in message
    assert "--engine x*: none of trigrams, prefix" in bad("rank", made, "--engine", "x*")


def test_stats_of_unreadable_things(bad, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "holds no files" in bad("stats", tmp_path / "empty")
    (tmp_path / "empty" / "nothing.txt").touch()
    assert "nothing to read" in bad("stats", tmp_path / "empty")


def test_the_missing_extra_is_named(tmp_path):
    """Without typer the command says what to install."""
    code = "import sys; sys.modules['typer'] = None; from ngram_copy.__main__ import main; sys.exit(main(['list']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "ngram-copy needs its command-line extra: pip install 'ngram-copy[bench]'\n"
    assert done.stdout == ""


def test_a_module_missing_for_another_reason_is_not_hidden():
    code = "import sys; sys.modules['tomllib'] = None; from ngram_copy.__main__ import main; main(['run', 'smoke'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "tomllib" in done.stderr


@pytest.mark.parametrize("arguments", [["list"], ["run", "{suite}", "--out", "{out}", "--json", "--no-report"]])
def test_a_closed_pipe_is_quiet(arguments, suite, tmp_path):
    """The reader is gone before anything is written."""
    words = [word.format(suite=suite, out=tmp_path / "out") for word in arguments]
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [sys.executable, "-m", "ngram_copy", *words]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write_end)
    assert done.stderr == ""
    assert done.returncode == 141
