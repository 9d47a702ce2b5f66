"""Records: written whole, read with an eye on every line, compared without the environment."""

import errno
import json
import os
import resource
from pathlib import Path

import pytest

from ngram_copy.results import (
    RECORDS,
    SCHEMA,
    ResultsError,
    Writer,
    canonical_json,
    comparison_keys,
    read,
    repair,
)


def record(number: int, kind: str = "accuracy", **more) -> dict:
    return {
        "schema": SCHEMA,
        "case_id": f"{number:016x}",
        "kind": kind,
        "case": {"suite": "s", "task": {}, "engine": {}, "length": number, "seed": 0, "examples": 10},
        "result": {
            "data_hash": "sha256:0",
            "strings": {"correct": number, "total": 10},
            "tokens": {},
            "bits_recalled": None,
            "state_bits": 1.0,
            "h_min": None,
            "string_bound": None,
            "error": "RuntimeError",
            "message": "no luck",
        },
        "environment": {"seconds": 0.5},
        "artifacts": {},
        **more,
    }


@pytest.fixture
def folder(tmp_path):
    with Writer(tmp_path / RECORDS) as writer:
        for number in range(3):
            writer.write(record(number))
    return tmp_path


def lines(folder: Path) -> list[bytes]:
    return (folder / RECORDS).read_bytes().splitlines(keepends=True)


def test_what_is_written_is_read(folder):
    assert read(folder) == [record(number) for number in range(3)]
    assert read(folder / RECORDS) == read(folder)


def test_each_record_is_in_the_file_before_the_next(tmp_path):
    with Writer(tmp_path / RECORDS) as writer:
        for number in range(3):
            writer.write(record(number))
            assert len(read(tmp_path)) == number + 1


def test_a_writer_appends(folder):
    with Writer(folder / RECORDS) as writer:
        writer.write(record(3))
    assert [one["case"]["length"] for one in read(folder)] == [0, 1, 2, 3]


@pytest.mark.parametrize("cut", [1, 20, 100])
def test_a_torn_last_line_is_refused_and_repaired(folder, cut):
    whole = (folder / RECORDS).read_bytes()
    (folder / RECORDS).write_bytes(whole[:-cut] if cut > 1 else whole + b'{"schema')
    with pytest.raises(ResultsError, match=r"records\.jsonl, line [34]: torn last line.*--resume"):
        read(folder)
    kept = repair(folder)
    assert kept == read(folder)
    assert [one["case"]["length"] for one in kept] == ([0, 1, 2] if cut == 1 else [0, 1])
    assert whole.startswith((folder / RECORDS).read_bytes())


def test_a_last_record_without_its_newline_is_whole(folder):
    content = (folder / RECORDS).read_bytes()
    (folder / RECORDS).write_bytes(content[:-1])
    assert len(read(folder)) == 3
    assert len(repair(folder)) == 3
    assert (folder / RECORDS).read_bytes() == content


def test_a_file_of_one_torn_line_becomes_empty(tmp_path):
    (tmp_path / RECORDS).write_bytes(b'{"schema":"ngram')
    assert repair(tmp_path) == []
    assert (tmp_path / RECORDS).read_bytes() == b""


@pytest.mark.parametrize("function", [read, repair])
@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"schema":\n', r"line 2: not JSON"),
        (b"\xff\xfe\n", r"line 2: not JSON"),
        (b"\n", r"line 2: not JSON"),
        (b"[1, 2]\n", r"line 2: a record is a JSON object, not list"),
        (json.dumps(record(1, schema="ngram-copy/0")).encode() + b"\n", r"schema 'ngram-copy/0'.*reads 'ngram-copy/1'"),
        (b'{"a": 1}\n', r"schema None"),
        (json.dumps(record(1, result=3)).encode() + b"\n", r"line 2: the key 'result' is missing or is not a dict"),
        (json.dumps(record(1, kind="wrong")).encode() + b"\n", r"line 2: kind 'wrong' is none of accuracy"),
        (json.dumps(record(1, result={})).encode() + b"\n", r"line 2: .* 'accuracy' lacks result\.data_hash"),
        (json.dumps(record(1, kind="statistic")).encode() + b"\n", r"line 2: .* 'statistic' lacks case\.statistic"),
        (json.dumps(record(1, kind="error", result={"error": ""})).encode() + b"\n", r"lacks result\.message"),
    ],
)
def test_a_bad_line_in_the_middle_is_named(folder, function, line, message):
    good = lines(folder)
    (folder / RECORDS).write_bytes(good[0] + line + good[2])
    before = (folder / RECORDS).read_bytes()
    with pytest.raises(ResultsError, match=message) as caught:
        function(folder)
    assert str(folder / RECORDS) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (folder / RECORDS).read_bytes() == before


def test_another_schema_in_the_last_line_is_not_repaired(folder):
    with (folder / RECORDS).open("ab") as file:
        file.write(json.dumps(record(9, schema="other/7")).encode() + b"\n")
    with pytest.raises(ResultsError, match="line 4: records of schema 'other/7'"):
        repair(folder)


def test_repair_drops_failed_cases(folder):
    with Writer(folder / RECORDS) as writer:
        writer.write(record(3, kind="error"))
        writer.write(record(4))
    assert [one["case"]["length"] for one in repair(folder)] == [0, 1, 2, 4]
    assert [one["case"]["length"] for one in read(folder)] == [0, 1, 2, 4]


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(ResultsError, match="no such file"):
        read(tmp_path)
    with pytest.raises(ResultsError, match="no such file"):
        read(tmp_path / "nowhere")
    (tmp_path / RECORDS).touch()
    with pytest.raises(ResultsError, match="no records"):
        read(tmp_path)


def test_the_command_for_a_missing_folder_names_it(tmp_path):
    with pytest.raises(ResultsError, match=r"--out \S*mine` makes it"):
        read(tmp_path / "mine")
    with pytest.raises(ResultsError, match=r"--out \S*mine` makes it"):
        read(tmp_path / "mine" / RECORDS)


def test_an_unreadable_file(tmp_path):
    (tmp_path / RECORDS).mkdir()
    with pytest.raises(ResultsError, match=r"cannot read .*records\.jsonl: Is a directory"):
        read(tmp_path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error_with_the_path(tmp_path):
    path = tmp_path / RECORDS
    path.symlink_to("/dev/full")
    with Writer(path) as writer, pytest.raises(OSError, match="No space left") as caught:
        writer.write(record(0))
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename == str(path)


def test_a_line_that_does_not_fit_is_taken_back(folder):
    """The disk takes a part of the line, then no more: the file ends with a whole line."""
    before = (folder / RECORDS).read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Writer(folder / RECORDS) as writer:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, hard))
        try:
            with pytest.raises(OSError, match="too large"):
                writer.write(record(3))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert (folder / RECORDS).read_bytes() == before
        writer.write(record(3))
    assert len(read(folder)) == 4


def test_runs_are_compared_on_case_and_result_alone():
    a = [record(1), record(2)]
    b = [record(2, environment={"seconds": 9}, artifacts={"x": 1}), record(1)]
    assert comparison_keys(a) == comparison_keys(b)
    assert comparison_keys(a) != comparison_keys([record(1), record(2, result={"strings": {}})])
    assert comparison_keys(a) != comparison_keys([record(1), record(2, case={"length": 3})])


def test_canonical_json():
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"\\u00e9"],"b":1}'
    with pytest.raises(ValueError, match="JSON"):
        canonical_json({"a": float("nan")})


def test_nothing_is_left_beside_the_records(folder):
    with (folder / RECORDS).open("ab") as file:
        file.write(b"torn")
    repair(folder)
    assert os.listdir(folder) == [RECORDS]
