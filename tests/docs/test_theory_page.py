"""docs/theory.md says what the records of the suite theory say."""

import json
import sys
from pathlib import Path

import pytest

from ngram_copy import score
from ngram_copy.results import read

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import theory as theory_page  # noqa: E402

PAGE = ROOT / "docs" / "theory.md"
RECORDS = sorted((ROOT / "results").glob("*-theory"))[-1]


def test_the_page_has_the_tables_of_the_newest_records():
    text = PAGE.read_text(encoding="utf-8")
    assert theory_page.page(text, RECORDS) == text


def test_the_records_hold_the_claims_of_the_page():
    found = score.verdicts(read(RECORDS))
    assert found["agreement"]["disagreements"] == 0
    assert found["census"]["above"] == 0
    assert found["above_bound"]["p_value"] > 1e-6
    assert found["bits_above_state"]["p_value"] > 1e-6


def test_the_records_name_no_machine():
    content = (RECORDS / "records.jsonl").read_text(encoding="utf-8")
    assert not [place for place in ("/home/", "/root/", "/tmp/", "/usr/", "/work/") if place in content]


def test_what_is_missing_is_said(tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("no marks", encoding="utf-8")
    assert theory_page.main([str(RECORDS), "--page", str(page)]) == 2
    assert "are not there" in capsys.readouterr().err
    lines = (RECORDS / "records.jsonl").read_text(encoding="utf-8").splitlines()
    untrained = [line for line in lines if "bottleneck" not in line and json.loads(line)["kind"] == "accuracy"]
    (tmp_path / "records.jsonl").write_text("\n".join(untrained) + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no records of the statistic agreement"):
        theory_page.page("", tmp_path)
    with pytest.raises(ValueError, match="no records of engines bottleneck-…"):
        theory_page.machines(read(tmp_path))
