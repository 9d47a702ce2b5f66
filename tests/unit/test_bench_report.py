"""The report of the benchmarks: what is compared with what, what is kept, where the table goes."""

import importlib.util
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parents[2] / "benches" / "report.py"
specification = importlib.util.spec_from_file_location("bench_report", PATH)
report = importlib.util.module_from_spec(specification)
specification.loader.exec_module(report)


def benchmark(name, median, **info):
    stats = {"min": median, "median": median, "iqr": median / 5, "rounds": 3, "data": [median] * 1000}
    return {"name": name, "group": "g", "params": None, "extra_info": {"tokens": 1000, **info}, "stats": stats}


RUN = {
    "datetime": "2026-01-02T03:04:05",
    "machine_info": {
        "node": "secret",
        "machine": "x86_64",
        "system": "Linux",
        "python_version": "3.11.0",
        "cpu": {"brand_raw": "Some(R) CPU @ 2.0GHz"},
    },
    "benchmarks": [
        benchmark("test_copy[a]", 1.0),
        benchmark("test_count", 2.0),
        benchmark("test_slow_copy", 3.0, peer="slow copy", of="copy"),
        benchmark("test_slow_count", 3.0, peer="slow count", of="count"),
        benchmark("test_first", 4.0, peer="another"),
        benchmark("test_lost", 4.0, peer="lost", of="nothing"),
    ],
}


def test_each_peer_is_compared_with_its_counterpart():
    ratios = {row[0]: row[4] for row in report.rows(RUN["benchmarks"])}
    assert ratios == {
        "**copy**": "",
        "**count**": "",
        "slow copy": "3×",
        "slow count": "1.5×",
        "another": "4×",
        "lost": "",
    }


def test_a_record_makes_the_same_table_and_does_not_name_the_machine(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    readme = tmp_path / "README.md"
    readme.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    assert report.main([str(tmp_path / "run.json"), "--readme", str(readme), "--records", str(tmp_path / "r")]) == 0
    assert "slow count" in capsys.readouterr().out
    (kept,) = (tmp_path / "r").iterdir()
    assert kept.name == "benchmarks-2026-01-02-some-cpu.json"
    text = kept.read_text()
    assert "secret" not in text
    assert len(text) < 5000
    assert report.markdown(json.loads(text)) == report.markdown(RUN)
    assert readme.read_text() == f"before\n{report.BEGIN}\n{report.markdown(RUN)}\n{report.END}\nafter\n"


def test_marks_that_are_not_there_are_said(tmp_path, capsys):
    (tmp_path / "run.json").write_text(json.dumps(RUN))
    (tmp_path / "README.md").write_text("no marks")
    assert report.main([str(tmp_path / "run.json"), "--readme", str(tmp_path / "README.md")]) == 2
    assert "marks" in capsys.readouterr().err


@pytest.mark.parametrize(("brand", "short"), [("AMD EPYC", "amd-epyc"), ("Intel(R) Xeon(R) @ 2GHz", "intel-xeon")])
def test_records_are_named_by_processor(brand, short):
    assert report.record_name("benchmarks", "2026-01-02T03:04:05", brand) == f"benchmarks-2026-01-02-{short}.json"
