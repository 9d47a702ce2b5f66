"""``ngram-copy run`` with models of one's own: a file, and tiny random ones of transformers."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import torch

from ngram_copy.results import read

ROOT = Path(__file__).resolve().parents[2]


def run(folder, *arguments):
    command = [sys.executable, "-m", "ngram_copy", "run", "smoke", "--out", "out", "--no-report", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A user's folder: a file, and two models that save_pretrained wrote."""
    folder = tmp_path_factory.mktemp("mine")
    shutil.copy(ROOT / "examples" / "my_model.py", folder)
    torch.manual_seed(0)
    sizes = {"vocab_size": 40, "hidden_size": 16, "num_hidden_layers": 2}
    neox = transformers.GPTNeoXConfig(**sizes, num_attention_heads=2, intermediate_size=32, max_position_embeddings=128)
    transformers.GPTNeoXForCausalLM(neox).save_pretrained(folder / "neox")
    transformers.MambaForCausalLM(transformers.MambaConfig(**sizes, state_size=4)).save_pretrained(folder / "mamba")
    return folder


def test_a_file_and_models_of_transformers_take_part(folder):
    done = run(folder, "--model", "my_model.py:build", "--model", "hf:neox", "--model", "hf:mamba")
    assert done.returncode == 0, done.stderr
    records = [record for record in read(folder / "out") if record["kind"] == "accuracy"]
    of = {}
    for record in records:
        of.setdefault(record["case"]["label"], []).append(record)
    assert {"my_model.py:build", "neox", "mamba"} < set(of)
    for label in ("neox", "mamba"):
        for record in of[label]:
            result = record["result"]
            assert result["free_checked"] == {"strings": 16, "disagreements": 0}
            assert result["strings"]["correct"] == 0
            assert result["bits_recalled"]["p_value"] > 1e-6
            assert record["case"]["weights"]["weights"].startswith("sha256:")
    # A cache grows with the length, a state does not.
    bits = {label: {r["case"]["length"]: r["result"]["state_bits"] for r in of[label]} for label in ("neox", "mamba")}
    short, long = sorted(bits["neox"])
    assert bits["neox"][short] < bits["neox"][long]
    assert bits["mamba"][short] == bits["mamba"][long]
    assert all(record["result"]["strings"]["correct"] > 0 for record in of["my_model.py:build"])


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("my_model.py", "FILE.py:FUNCTION"),
        ("gone.py:build", "no such file"),
        ("my_model.py:bild", "bild"),
        ("hf:gone", "gone"),
    ],
)
def test_a_model_that_is_none_is_told_in_one_line(folder, model, said):
    done = run(folder, "--model", model, "--resume")
    assert done.returncode == 2
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("suite", ["quick", "smoke"], ids=["trains", "trains nothing"])
def test_a_gpu_where_there_is_none_is_told_before_anything_runs(tmp_path, suite):
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    command = [
        sys.executable,
        "-m",
        "ngram_copy",
        "run",
        suite,
        "--device",
        "cuda",
        "--out",
        "out",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "ngram-copy: device 'cuda' was asked for, and torch finds no such GPU here (it finds none)\n"
    assert not list(tmp_path.iterdir())
