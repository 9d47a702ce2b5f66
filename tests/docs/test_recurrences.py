"""The table of docs/recurrences.md: every function is in it, and it says what the code and the record say."""

import json
import math
import re
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="torch is not installed")

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))

import ops_cases  # noqa: E402
import recurrences  # noqa: E402

from ngram_copy import ssm  # noqa: E402
from ngram_copy.models import ops  # noqa: E402
from ngram_copy.models.ops import backends  # noqa: E402

PAGE = ROOT / "docs" / "recurrences.md"
RECORDS = sorted((ROOT / "results").glob("ssm-*.json"))
HELPERS = {"Resolution", "resolve_backend", "l2_normalise"}
SHAPE = {"batch": 4, "d_model": 512, "d_state": 16, "seq_len": 1000}


def measurement(kind, seconds, by="ngram-copy", threads=1, **shape):
    named = {"recurrence": "selective_scan", "pass": kind, "by": by, "threads": threads}
    return {**named, "shape": {**SHAPE, **shape}, "seconds": seconds, "peak_bytes": 1}


RECORD = {
    "schema": 1,
    "datetime": "2026-01-02T03:04:05",
    "cpu": "Some CPU",
    "versions": {"torch": "2.15"},
    "errors": [{"recurrence": "selective_scan", "output": 1.2e-7, "last_state": 1e-7, "gradients": 3e-7}],
    "measurements": [
        measurement("forward", [0.001], seq_len=10),
        measurement("forward", [0.5, 0.1, 0.2]),
        measurement("forward + backward", [0.5, 0.4, 0.6]),
        measurement("forward", [0.01], threads=2),
        measurement("forward", [9.0], by="JAX lax.scan"),
        measurement("step", [0.001], seq_len=100_000),
    ],
}


def table(record):
    """Cells of the table's rows, by function."""
    lines = [line for line in recurrences.markdown(record).splitlines() if line.startswith("| `")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {re.findall(r"`(\w+)`", row[0])[0]: row for row in rows}


def test_each_public_function_is_there_once():
    named = re.findall(r"`(\w+)`", " ".join(row[0] for row in table(RECORD).values()))
    assert sorted(named) == sorted(set(ops.__all__) - HELPERS)
    assert all(len(row) == len(recurrences.HEADER) for row in table(RECORD).values())


def test_errors_and_speeds_are_those_of_the_record():
    rows = table(RECORD)
    measured = ["1.2e-07, 1.0e-07, 3.0e-07", "20,000", "8,000", "batch 4, d_model 512, d_state 16, seq_len 1,000"]
    assert rows.pop("selective_scan")[5:] == measured
    assert all(row[5:] == ["-"] * 4 for row in rows.values())
    assert all(row[5:] == ["-"] * 4 for row in table(None).values())


@pytest.mark.parametrize("one", recurrences.RECURRENCES, ids=lambda one: one.function)
def test_backends_are_those_that_run_it(one, monkeypatch):
    monkeypatch.setattr(backends, "INSTALLED", dict.fromkeys(backends.INSTALLED, True))
    monkeypatch.setattr(backends.torch.cuda, "is_available", lambda: True)
    for function in (one.function, one.step):
        names = [name.split(" ")[0] for name in recurrences.backends(function)]
        for backend in set(backends.BACKENDS) - {"auto"}:
            where = ("cpu",) if backend in {"rust", "torch"} else ("cuda", ops_cases.torch.bfloat16)
            if backend in names:
                assert ops.resolve_backend(function, *where, backend=backend).backend == backend
            else:
                with pytest.raises(ValueError, match="cannot run"):
                    ops.resolve_backend(function, *where, backend=backend)


@pytest.mark.parametrize("one", recurrences.RECURRENCES, ids=lambda one: one.function)
def test_sources_are_those_of_the_docstrings(one):
    said = getattr(ssm, one.function).__doc__ + getattr(ops, one.function).__doc__
    for named in re.findall(r"\d{4}\.\d{5}|`\w+`", one.source):
        assert named.strip("`") in said


@pytest.mark.parametrize("case", [case for case in ops_cases.CASES if case.id != "linear-complex"], ids=lambda c: c.id)
def test_the_state_is_of_the_size_that_is_told(case):
    d_model, d_state, heads = ops_cases.D_MODEL, ops_cases.N, case.state[0]
    sizes = {"d_model": d_model, "width": d_model, "channels": d_model, "d_state": d_state, "n_modes": d_state}
    sizes |= {"n_heads": heads, "n_heads_v": heads, "head_k": ops_cases.K, "head_v": ops_cases.V}
    sizes |= {"head_dim": ops_cases.V, "kernel": 4}
    (one,) = (one for one in recurrences.RECURRENCES if one.function == case.function)
    assert one.step == case.step
    _, last_state = case.run(case.arguments(2, 5))
    floats = math.prod(last_state.shape[1:]) * (2 if last_state.is_complex() else 1)
    assert eval(one.state, sizes) == floats


def test_the_page_has_the_table_of_the_newest_record():
    text = PAGE.read_text(encoding="utf-8")
    record = json.loads(RECORDS[-1].read_text(encoding="utf-8")) if RECORDS else None
    assert recurrences.splice(text, recurrences.markdown(record), "recurrences") == text


def test_what_is_wrong_is_said(tmp_path, capsys):
    path = tmp_path / "ssm.json"
    path.write_text(json.dumps({**RECORD, "schema": 2}))
    assert recurrences.main([str(path)]) == 2
    assert "schema must be 1, not 2" in capsys.readouterr().err
    assert recurrences.main([str(path), "--page", str(path)]) == 2
    path.write_text(json.dumps(RECORD))
    assert recurrences.main([str(path), "--page", str(path)]) == 2
    assert "are not there" in capsys.readouterr().err
