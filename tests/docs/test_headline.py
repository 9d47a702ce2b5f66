"""README's first table is what the reference records say."""

import sys
from pathlib import Path

import pytest

from ngram_copy.results import read

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import headline  # noqa: E402

REFERENCE = sorted((ROOT / "results").glob("*-symbolic"))[-1]


def test_readme_has_the_table_of_the_newest_reference():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert headline.splice(text, headline.markdown(read(REFERENCE))) == text


def test_a_share_is_the_count_of_all_seeds():
    records = [
        record
        for record in read(REFERENCE)
        if record["kind"] == "accuracy"
        and record["case"]["label"] == "ngram-4"
        and record["case"]["task"].items() >= headline.TASK.items()
        and record["case"]["length"] == 1024
    ]
    strings = [record["result"]["strings"] for record in records]
    assert len(strings) == 2
    share = sum(count["correct"] for count in strings) / sum(count["total"] for count in strings)
    line = next(line for line in headline.markdown(read(REFERENCE)).splitlines() if "exact copier" in line)
    assert float(line.split("|")[-2].strip(" %")) == pytest.approx(100 * share, abs=0.051)


def test_references_are_small_and_name_no_machine():
    for path in REFERENCE.iterdir():
        content = path.read_text(encoding="utf-8")
        assert len(content) < 500_000
        assert not [place for place in ("/home/", "/root/", "/tmp/", "/usr/", "/work/") if place in content]


def test_what_is_missing_is_said(tmp_path, capsys):
    records = tmp_path / "records.jsonl"
    lines = (REFERENCE / "records.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    records.write_text("".join(line for line in lines if '"table-1024"' not in line), encoding="utf-8")
    assert headline.main([str(records)]) == 2
    assert capsys.readouterr().err == f"{records}: no copied strings of 26 letters by table-1024\n"
    assert headline.main([str(REFERENCE), "--readme", str(records)]) == 2
    assert "are not there" in capsys.readouterr().err
