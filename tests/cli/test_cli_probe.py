"""``probe``: engines and checkpoints, tables, JSON and charts, and what is refused."""

import json

import pytest

SMALL = ("--length", 16, "--max-n", 2, "--strings", 10)


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="torch is not installed")


@pytest.fixture
def checkpoint(torch, tmp_path):
    """A folder with a model of hand-set weights that copies 16 tokens by position."""
    import copy_models

    from ngram_copy.models.checkpoint import save_model
    from ngram_copy.tasks import VocabularySpec

    folder = tmp_path / "counter"
    save_model(folder, copy_models.by_position(VocabularySpec(30), 16), {})
    return folder


def test_an_engine_as_json(cli):
    outcome = cli("probe", "ngram", "-o", "n=3", "-o", "policy=last", "--strings", 20, "--length", 48, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(outcome.out)
    assert (found["effective_n"], found["policy"], found["breaks_at"]) == (3, "last", 3)
    assert found["name"] == "ngram, n = 3, policy = last"
    assert found["task"] == {
        "name": "copy",
        "vocab_size": 26,
        "source": "uniform",
        "exponent": 1.0,
        "branching": 4,
        "chain_seed": 0,
    }
    assert (
        cli("probe", "ngram", "-o", "n=3", "-o", "policy=last", "--strings", 20, "-L", 48, "--json").out == outcome.out
    )


def test_what_is_printed(cli):
    outcome = cli("probe", "ngram", "--option", "n=2", *SMALL)
    assert outcome.code == 0
    assert "ngram, n = 2 looks up: its effective n is 2; of three places it goes on after the first one." in outcome.out
    assert "With different successors, less than half of the strings are right: from n = 2 on." in outcome.out
    assert "Heads  left out: the engine ngram is no model of ngram_copy.models." in outcome.out
    outcome = cli("probe", "prefix", "-o", "kept=40", "--max-n", 4, "-L", 20, "--strings", 10, "--seed", 3)
    assert (
        "prefix, kept = 40 does not go on after an n-gram of up to 4 tokens; most often it says: the old" in outcome.out
    )
    assert "less than half of the strings are right: at none of these." in outcome.out
    assert "Three times: n = 4 needs strings of 24 tokens or more." in outcome.out


def test_a_checkpoint(cli, checkpoint, tmp_path, torch):
    pytest.importorskip("vl_convert", reason="vl-convert is not installed")
    before = torch.get_num_threads()
    out = tmp_path / "out"
    outcome = cli("probe", checkpoint, *SMALL, "--out", out, "--device", "cpu")
    assert outcome.code == 0, outcome.err
    assert torch.get_num_threads() == before
    assert "counter does not go on after an n-gram of up to 2 tokens; most often it says: the old place" in outcome.out
    assert "with all: 10 of 10" in outcome.out
    assert "Without all match: 0 of 10" in outcome.out
    found = json.loads((out / "probe.json").read_text())
    assert found["task"]["vocab_size"] == 30  # the model's
    assert [head["kind"] for head in found["heads"]] == ["back", "match"]
    assert "Written to" in outcome.out
    for name in ("probe.html", "charts/teleports.svg", "charts/repeats.svg", "charts/heads.svg"):
        assert (out / name).stat().st_size > 1000


def test_a_model_without_attention(cli, torch, tmp_path):
    from ngram_copy.models import LanguageModel, LayerConfig, ModelConfig
    from ngram_copy.models.checkpoint import save_model

    save_model(tmp_path / "gru", LanguageModel(ModelConfig(30, 8, [LayerConfig("gru")])), {})
    outcome = cli("probe", tmp_path / "gru", *SMALL)
    assert outcome.code == 0
    assert "Heads  left out: the model has no attention." in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'CHECKPOINT|ENGINE'"),
        (["ngramm"], "ngramm: no folder of a checkpoint, and no engine; did you mean 'ngram'?"),
        (["trained"], "the engine trained is probed by its checkpoint: name the folder"),
        (["ngram", "-o", "k=3"], "unknown option of ngram 'k'"),
        (["ngram", "-o", "n"], "--option n: write KEY=VALUE"),
        (["ngram", "-o", "n=0"], "n must be 1 to 65536, not 0"),
        (["ngram", "--task-option", "size"], "--task-option size: write KEY=VALUE"),
        (["ngram", "--task-option", "vocab_size=7"], "the probe needs at least 8 data tokens; copy has 7"),
        (["ngram", "--task", "copi"], "unknown task 'copi'; did you mean 'copy'?"),
        (["ngram", "--task", "suffix_lookup"], "the probe needs a task that copies its whole string, such as copy;"),
        (["ngram", "-L", "19"], "length must be at least 20 to force n-grams of up to 8 tokens, not 19"),
        (["ngram", "--max-n", "0"], "0 must be greater than or equal to 1"),
        (["ngram", "--strings", "0"], "0 must be greater than or equal to 1"),
    ],
)
def test_bad_input(bad, arguments, message):
    assert message in bad("probe", *arguments)


def test_bad_checkpoints(bad, checkpoint, tmp_path):
    assert "no such checkpoint" in bad("probe", tmp_path)
    assert "--option is for engines: a checkpoint has none, so n cannot be set" in bad("probe", checkpoint, "-o", "n=3")
    assert "the model has 34 tokens, and the task 30" in bad("probe", checkpoint, "--task-option", "vocab_size=26")
    assert "the table of learned positions ends at 35" in bad("probe", checkpoint, "--length", 40)
    assert 'device must be "auto", "cpu", "cuda", "cuda:1", "mps", …, not \'abacus\'' in bad(
        "probe", checkpoint, "--device", "abacus"
    )
    weights = checkpoint / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    assert str(weights) in bad("probe", checkpoint)
