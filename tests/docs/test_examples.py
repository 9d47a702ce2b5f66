"""The examples run, and say so where what they compare differs."""

import importlib
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
TINY = "--seq-len 32 --hidden-size 32 --layers 1 --repeats 1 --threads".split()


@pytest.fixture
def mamba(monkeypatch):
    monkeypatch.syspath_prepend(EXAMPLES)
    return importlib.import_module("mamba_for_causal_lm")


@pytest.fixture
def tiny():
    return [*TINY, str(torch.get_num_threads())]


@pytest.mark.slow
def test_mamba_runs(mamba, tiny, capsys):
    theirs = mamba.modeling_mamba.mamba_selective_scan
    assert mamba.main(tiny) == 0
    out = capsys.readouterr().out
    assert "logits agree" in out
    assert "ratio" in out
    assert mamba.modeling_mamba.mamba_selective_scan is theirs


@pytest.mark.slow
def test_mamba_says_that_logits_differ(mamba, tiny, capsys, monkeypatch):
    scan = mamba.ops.selective_scan

    def twice(*arguments):
        y, last_state = scan(*arguments)
        return 2 * y, last_state

    monkeypatch.setattr(mamba.ops, "selective_scan", twice)
    assert mamba.main(tiny) == 1
    assert capsys.readouterr().err.startswith("logits differ by")
