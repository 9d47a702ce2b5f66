"""docs/learned.md says what the records of the suites copy, lookup and mqar say."""

import json
import re
import sys
from pathlib import Path

import pytest

from ngram_copy.results import read

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import learned  # noqa: E402

PAGE = ROOT / "docs" / "learned.md"
RECORDS = sorted((ROOT / "results").glob("*-copy"))[-1]


def test_the_page_has_the_tables_of_the_newest_records():
    text = PAGE.read_text(encoding="utf-8")
    assert learned.page(text, RECORDS) == text


def test_every_count_of_the_records_is_in_the_tables():
    records = read(RECORDS)
    text = PAGE.read_text(encoding="utf-8")
    trained = [record for record in records if record["case"].get("trained_by")]
    reach = [record for record in trained if not record["case"]["engine"]["training"]["stop_when_solved"]]
    assert reach
    for record in reach:
        strings = record["result"]["strings"]
        assert f"{strings['correct']}/{strings['total']} (" in text


def test_the_records_name_no_machine():
    content = (RECORDS / "records.jsonl").read_text(encoding="utf-8")
    assert not [place for place in ("/home/", "/root/", "/tmp/", "/usr/", "/work/") if place in content]


def test_what_is_missing_is_said(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("no marks", encoding="utf-8")
    assert learned.main([str(RECORDS), "--page", str(page)]) == 2
    assert "are not there" in capsys.readouterr().err
    only = [
        line
        for line in (RECORDS / "records.jsonl").read_text(encoding="utf-8").splitlines()
        if '"training"' not in line
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(only) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no records of kind training"):
        learned.solving(read(tmp_path))


@pytest.mark.parametrize(
    ("day", "begin", "end"),
    [
        ("2026-11-28", "Tried after it", "None is told apart"),
        ("2026-11-29", "On a faster machine", "More steps help, perhaps"),
    ],
)
def test_the_counts_of_later_trials_are_their_record(day, begin, end):
    trials = json.loads((ROOT / f"results/{day}-reach-trials.json").read_text(encoding="utf-8"))["trials"]
    page = " ".join(PAGE.read_text(encoding="utf-8").split())
    said = page[page.index(begin) : page.index(end)]
    counts = [trial["whole_strings"]["1000"] for trial in trials]
    assert {total for _, total in counts} == {300}
    assert sorted(int(count) for count in re.findall(r"\b2\d\d\b", said)) == sorted(n for n, _ in counts if n)
