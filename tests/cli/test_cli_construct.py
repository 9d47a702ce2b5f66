"""``construct``: saved, loaded, held against the copier, counted."""

import json
import signal
import subprocess
import sys

import pytest

torch = pytest.importorskip("torch")


@pytest.fixture
def saved(cli, tmp_path):
    folder = tmp_path / "copier"
    assert cli("construct", "save", "-n", 4, "--vocab", 26, "--max-len", 300, "--out", folder).code == 0
    return folder


def test_what_is_saved_copies_and_stops(cli, saved):
    outcome = cli("construct", "copy", saved, "--length", 120)
    assert outcome.code == 0
    assert "copied 120 tokens exactly, and stopped at its end" in outcome.out
    assert "no 4-gram of it repeats" in outcome.out
    found = json.loads(cli("construct", "copy", saved, "--length", 120, "--json").out)
    assert found["exact"]
    assert found["stopped"]
    assert (found["right"], found["emitted"], found["repeat"]) == (120, 121, False)


def test_it_is_an_ordinary_model_in_a_fresh_process(saved):
    code = (
        "import sys\n"
        "from ngram_copy.models.checkpoint import load_model\n"
        "import torch\n"
        "model = load_model(sys.argv[1])\n"
        "x = torch.tensor([[26, 3, 1, 4, 1, 5, 9, 2, 6, 27, 3, 1, 4, 1, 5, 9, 2, 6]])\n"
        "print(model(x)[0, 9:].argmax(-1).tolist(), any('construct' in name for name in sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(saved)], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "[3, 1, 4, 1, 5, 9, 2, 6, 28] False"


def test_a_string_with_a_repeat_is_not_copied(cli, tmp_path):
    cli("construct", "save", "-n", 2, "--vocab", 2, "--max-len", 50, "--out", tmp_path)
    outcome = cli("construct", "copy", tmp_path, "--length", 50)
    assert outcome.code == 1
    assert "not exact" in outcome.out
    assert "some 2-gram of the string repeats: it must fail" in outcome.out


def test_sizes_are_printed(cli, tmp_path):
    outcome = cli("construct", "save", "-n", 3, "--out", tmp_path, "--max-len", 9, "--json")
    found = json.loads(outcome.out)
    assert (found["n"], found["heads"], found["vocab_size"], found["max_len"]) == (3, 4, 26, 9)
    assert found["bytes"] == (tmp_path / "model.safetensors").stat().st_size > 4 * found["parameters"]
    outcome = cli("construct", "save", "-n", 3, "--out", tmp_path)
    assert f"4 heads (3 and 1), width {found['d_model']:,}, {found['parameters']:,} parameters" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["-n", 0], "n must be"),
        (["--vocab", 1], "vocab_size must be"),
        (["--max-len", 0], "max_len must be"),
        (["--error", 0], "error must be"),
        (["--error", 1.5], "error must be"),
        (["--value", "half"], "value must be one of bits, one-hot"),
        (["--dtype", "int8"], "dtype must be a floating-point dtype of torch"),
        (["-n", 100, "--dtype", "bfloat16"], "bfloat16 is exact up to n·m = "),
        (["-n", 50_000, "--vocab", 2], "GiB of memory"),
    ],
)
def test_what_cannot_be_constructed(bad, tmp_path, arguments, said):
    assert said in bad("construct", "save", "--out", tmp_path / "none", *arguments)
    assert not (tmp_path / "none").exists()


def test_a_dtype_past_its_limit_is_forced(cli, tmp_path):
    arguments = ("-n", 70, "--vocab", 4, "--dtype", "bfloat16", "--max-len", 9, "--force", "--out", tmp_path)
    assert cli("construct", "save", *arguments).code == 0


def test_bad_input_of_copy(bad, saved, tmp_path):
    assert "made for strings of up to 300 tokens, not 301" in bad("construct", "copy", saved, "-L", 301)
    assert "no such checkpoint" in bad("construct", "copy", tmp_path / "missing")


def test_a_checkpoint_of_another_kind_is_not_written_over(bad, tmp_path):
    from ngram_copy.models.checkpoint import load_weights, save_model

    other = torch.nn.Linear(2, 2)
    save_model(tmp_path, other, {})
    assert "holds a checkpoint that was not constructed" in bad("construct", "save", "--out", tmp_path)
    load_weights(tmp_path, other)


SMALL = ("--vocab", 2, "--vocab", 26, "-n", 3, "--length", 40, "--strings", 100)


def test_check_counts(cli):
    outcome = cli("construct", "check", *SMALL)
    assert outcome.code == 0
    assert "0 disagreements with the n-gram copier" in outcome.out
    assert "0 strings of 100 against the rule" in outcome.out
    found = json.loads(cli("construct", "check", *SMALL, "--json").out)
    total = found["total"]
    assert total["strings"] == 100
    assert [row["vocab_size"] for row in found["rows"]] == [2, 26]
    assert total["positions"] == sum(row["positions"] for row in found["rows"]) > 1000
    assert total["disagreements"] == total["rule_disagreements"] == 0
    kinds = [cell["task"].get("successor", "none") for cell in found["cells"]]
    assert kinds == ["none", "same", "different"] * 2
    assert len({cell["result"]["data_hash"] for cell in found["cells"]}) == 6
    assert f"{total['positions']:,} determined positions" in outcome.out


def test_threads_change_nothing(cli):
    one = json.loads(cli("construct", "check", *SMALL, "--json").out)
    assert json.loads(cli("construct", "check", *SMALL, "--threads", 2, "--json").out) == one


def test_check_fails_where_the_transformer_differs(cli, monkeypatch):
    from ngram_copy.statistics import agreement

    # Transformers of n + 1 in place of n.
    original = agreement.transformer
    monkeypatch.setattr(agreement, "transformer", lambda n, *rest, **options: original(n + 1, *rest, **options))
    outcome = cli("construct", "check", "--vocab", 26, "-n", 1, "--length", 40, "--strings", 60)
    assert outcome.code == 1
    assert "0 disagreements" not in outcome.out


def test_bad_input_of_check(bad):
    assert "3 kinds of strings (D, n, source) need at least 6" in bad(
        "construct", "check", "--vocab", 2, "-n", 1, "--strings", 5
    )
    assert "value must be bits or one-hot" in bad("construct", "check", *SMALL, "--value", "half")
    assert "is exact up to n·m" in bad(
        "construct", "check", "--vocab", 2, "-n", 90, "--dtype", "bfloat16", "--strings", 6
    )


def test_ctrl_c_ends_a_check(start, tmp_path):
    process = start("construct", "check", "--strings", 20_000, "--threads", 2, "--vocab", 2, "-L", 64, go=tmp_path)
    assert "10%" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr
    assert "Stopped after" in stderr
    assert stdout == ""


def test_census(cli):
    outcome = cli("construct", "census", "--length", 4)
    assert outcome.code == 0
    assert "largest share of copied strings in states: 1\n" in outcome.out
    found = json.loads(cli("construct", "census", "--length", 4, "--json").out)
    assert found["largest_share"] == 1
    engines = {(row["label"], row["bits"]): row for row in found["engines"]}
    assert len(engines) == len(found["engines"]) == 9
    assert engines["constructed-3", 0]["rows"][-1]["copied"] == engines["ngram-3", 0]["rows"][-1]["copied"] == 14
    assert engines["delay-line-3", 0]["rows"][-1]["copied"] == 16
    for row in engines.values():
        for one in row["rows"]:
            assert one["copied"] <= one["states"] <= one["strings"] == 2 ** one["length"]


def test_bad_input_of_a_census(bad):
    assert "a census of 2^21 strings is too large" in bad("construct", "census", "--length", 21)


def test_precision(cli):
    options = ("--vocab", 2, "--dtype", "bfloat16", "--length", 20, "--up-to", 16, "--strings", 4)
    outcome = cli("construct", "precision", *options)
    assert outcome.code == 0
    assert "first wrong" in outcome.out
    (row,) = json.loads(cli("construct", "precision", *options, "--json").out)["rows"]
    assert row["first_failure"] is None
    assert [one["product"] for one in row["rows"]] == [2, 4, 8, 16]


def test_bad_input_of_precision(bad):
    assert "dtype must be a floating-point dtype of torch" in bad("construct", "precision", "--dtype", "half2")
