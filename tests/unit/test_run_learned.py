"""Suites that train: records of trainings and of what they left, beside each other and one after another."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("torch")

from ngram_copy.models import LanguageModel
from ngram_copy.models.checkpoint import CheckpointError, read_extra, save_model
from ngram_copy.results import RECORDS, Writer, comparison_keys, read
from ngram_copy.run import CHECKPOINTS, run_case, run_cases
from ngram_copy.suite import SuiteError, load, parse, shipped

SUITE = """
name = "learned"

[tasks.letters]
task = "copy"
vocab_size = 4

[tasks.mixed]
task = "copy_subsets"
vocab_size = 4

[models.transformer]
mixer = "attention"
d_model = 16
n_layers = 1

[models.gru]
mixer = "gru"
d_model = 16
n_layers = 1

[training.short]
task = "mixed"
lengths = [1, 4]
steps = 12
tokens_per_step = 256
eval_every = 4
eval_examples = 20

[engines.transformer]
engine = "trained"
model = "transformer"
training = "short"

[engines.gru]
engine = "trained"
model = "gru"
training = "short"

[engines.trigrams]
engine = "ngram"
n = 3

[[cases]]
tasks = ["letters"]
engines = ["transformer", "gru", "trigrams"]
lengths = [2, 6]
examples = 30
"""


def check(text):
    for case in parse(text).cases():
        case.check()


def run(folder, text=SUITE, threads=1, only=None):
    folder.mkdir(exist_ok=True)
    cases = [case for case in parse(text).cases() if only is None or only(case)]
    with Writer(folder / RECORDS) as writer:
        return list(run_cases(cases, writer, threads=threads))


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return run(tmp_path_factory.mktemp("whole"))


def test_trainings_come_before_what_measures_them():
    cases = parse(SUITE).cases()
    assert sum(case.kind == "training" for case in cases) == 2
    for place, case in enumerate(cases):
        if case.trained_by is not None:
            assert case.trained_by.case_id in {before.case_id for before in cases[:place]}
    assert len({case.case_id for case in cases}) == len(cases) == 8
    assert {case.name for case in cases if case.kind == "training"} == {"training/transformer/4/0", "training/gru/4/0"}


def test_a_training_is_a_record(records):
    assert {record["kind"] for record in records} == {"training", "accuracy"}
    training = next(record for record in records if record["kind"] == "training")
    result, case = training["result"], training["case"]
    assert case["engine"]["training"]["task"] == {
        "name": "copy_subsets",
        "vocab_size": 4,
        "whole_share": 0.2,
        "smallest": 3,
    }
    assert case["engine"]["training"]["steps"] == result["steps"] == 12
    assert result["train_lengths"] == [1, 4]
    assert [row[0] for row in result["evaluations"]] == [4, 8, 12]
    assert training["environment"]["device"].startswith(("cpu", "cuda"))
    assert json.loads(json.dumps(case)) == case


def test_a_learned_cell_says_what_a_rounded_state_recalls(records):
    cells = [record["result"] for record in records if record["case"]["engine"]["name"] == "trained"]
    cells = [cell for cell in cells if "quantised" in cell]
    assert len(cells) == 4
    for cell in cells:
        sizes = [row["state_bits"] for row in cell["quantised"]]
        assert sizes == [row["bits_per_value"] * cell["state_bits"] / 32 for row in cell["quantised"]]
        assert cell["free_checked"]["disagreements"] == 0
        assert cell["state_bytes"] * 8 > cell["state_bits"]
        assert sum(count for kind, count in cell["errors"].items() if kind != "checked") == cell["errors"]["checked"]


def test_processes_change_nothing(records, tmp_path):
    beside = run(tmp_path, threads=2)
    assert comparison_keys(beside) == comparison_keys(records)


def test_what_is_trained_is_not_trained_again(tmp_path):
    first = run(tmp_path, only=lambda case: case.kind == "training")
    weights = {path: path.stat().st_mtime_ns for path in (tmp_path / CHECKPOINTS).rglob("*.safetensors")}
    assert len(weights) == 2
    again = run(tmp_path, only=lambda case: case.learned)
    assert {path: path.stat().st_mtime_ns for path in weights} == weights
    assert comparison_keys(first) == comparison_keys([record for record in again if record["kind"] == "training"])


def test_a_failed_training_is_told_and_the_rest_goes_on(tmp_path):
    text = SUITE.replace("steps = 12", "steps = 12\nlr = 1e30\nclip = 1e30")
    records = run(tmp_path, text)
    errors = [record for record in records if record["kind"] == "error"]
    assert any("step" in record["result"]["message"] for record in errors)
    assert {record["case"]["label"] for record in records if record["kind"] == "accuracy"} == {"trigrams"}


def test_a_training_that_has_not_ended_is_not_measured(tmp_path):
    """A checkpoint of a running training, such as one that a kill or a loss that is not finite leaves."""
    training, cell = parse(SUITE).cases()[:2]
    folder = tmp_path / training.case_id
    engine = training.engine()
    save_model(folder, LanguageModel(engine.shape), {"seen": {"step": 3}})
    with pytest.raises(CheckpointError, match="has not ended"):
        engine.prepare(folder, seed=0)
    record = run_case(cell, checkpoints=tmp_path)
    assert record["kind"] == "error"
    assert "has not ended" in record["result"]["message"]


def test_progress_adds_up_where_a_training_ends_early(tmp_path):
    text = SUITE.replace("lengths = [1, 4]", "lengths = [1, 1]").replace(
        "steps = 12", "steps = 400\nstop_when_solved = true"
    )
    case = parse(text).cases()[0]
    shares = []
    record = run_case(case, checkpoints=tmp_path, on_progress=lambda of, share, said: shares.append(share))
    assert record["result"]["examples_to_solve"] is not None
    assert record["result"]["steps"] < 400
    assert sum(shares) == pytest.approx(1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('model = "gru"', 'model = "grue"', "did you mean 'gru'"),
        ('training = "short"', 'training = "shart"', "did you mean 'short'"),
        ('task = "mixed"\n', "", "the key task is missing"),
        ('task = "mixed"\n', 'task = "mixt"\n', "did you mean 'mixed'"),
        ('model = "gru"\n', 'model = "gru"\nseeed = 3\n', "unknown option of trained 'seeed'"),
        ('model = "gru"\n', "model = 3\n", "a name in quotes is needed, not 3"),
        ("steps = 12", "stebs = 12", "did you mean 'steps'"),
        ("steps = 12", "steps = 0", "steps"),
        ('mixer = "gru"', 'mixer = "grU"', "gru"),
        ("d_model = 16\nn_layers = 1\n\n[models.gru]", "d_model = 15\nn_layers = 1\n\n[models.gru]", "n_heads"),
        ("vocab_size = 4\n\n[models", "vocab_size = 5\n\n[models", "tokens"),
    ],
)
def test_bad_suites_are_told_in_one_line(old, new, said):
    assert old in SUITE
    with pytest.raises(SuiteError, match=said) as error:
        check(SUITE.replace(old, new))
    assert "\n" not in str(error.value)


def test_a_module_of_ones_own_is_trained_too(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from torch import nn\n"
        "class Bigram(nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n"
        "        self.table = nn.Embedding(n, n)\n"
        "    def forward(self, tokens):\n"
        "        return self.table(tokens)\n"
        "def build(vocab_size):\n"
        "    return Bigram(vocab_size)\n"
    )
    text = SUITE.replace(
        '[models.gru]\nmixer = "gru"\nd_model = 16\nn_layers = 1', f'[models.gru]\nbuild = "{file}:build"'
    )
    records = run(tmp_path / "out", text, only=lambda case: case.learned)
    assert {record["kind"] for record in records} == {"training", "accuracy"}
    own = [record for record in records if record["case"]["label"] == "gru" and record["kind"] == "accuracy"]
    assert [record["result"]["quantised"] for record in own] == [None, None]
    before = {case.case_id for case in parse(text).cases()}
    file.write_text(file.read_text() + "\n# another content\n")
    assert len(before & {case.case_id for case in parse(text).cases()}) == 5  # those of the others


def test_a_run_that_was_killed_goes_on_to_the_same_records(tmp_path, records):
    """kill -9 in the middle of a training; nothing is left behind, and --resume ends as if nothing had been."""
    file = tmp_path / "suite.toml"
    file.write_text(SUITE.replace("steps = 12", "steps = 400"))
    script = Path(__file__).resolve().parents[1] / "support" / "run_killed.py"
    command = [sys.executable, str(script), "run", str(file), "--no-report", "--threads", "2", "--out"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    process = subprocess.Popen(
        [*command, str(killed)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    deadline = time.monotonic() + 120
    while not any("seen" in read_extra(path.parent) for path in killed.glob(f"{CHECKPOINTS}/*/*.safetensors")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while _alive(process.pid):
        assert time.monotonic() < deadline, "a worker outlived its run"
        time.sleep(0.1)
    subprocess.run([*command, str(killed), "--resume"], check=True, capture_output=True)
    assert comparison_keys(read(killed)) == comparison_keys(read(whole))


def _alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def tiny(of):
    """A shipped suite with the shortest strings, trainings of two steps, and tiny models in place of the paper's."""
    suite = load(of)
    engines, found = dict(suite._engines), set()
    recipes: dict[str, int] = {}
    for alias in suite._learned_from:
        name, options = engines[alias]
        model, training = dict(options["model"]), dict(options["training"])
        if model.get("preset") in {"small", "paper"}:
            model["preset"] = "tiny"
        low = training["lengths"][0]
        steps = 2 + recipes.setdefault(json.dumps(training), len(recipes))  # two recipes stay two
        training |= {"lengths": [low, low], "steps": steps, "tokens_per_step": 256, "warmup": 1, "precision": "float32"}
        training |= {"eval_every": 1, "eval_examples": 2, "cap_share": 0.0, "packing": False}
        training["lr"] = training["lr"][0] if isinstance(training["lr"], list) else training["lr"]
        engines[alias] = (name, {"model": model, "training": training})
    entries = []
    for entry in suite._file.cases:
        aliases = [alias for alias in entry.engines if alias in suite._learned_from and alias not in found]
        found |= set(aliases)
        if aliases:
            update = {"engines": aliases, "lengths": [min(entry.lengths)], "seeds": [0], "examples": 2}
            entries.append(entry.model_copy(update=update))
    file = suite._file.model_copy(update={"cases": entries, "statistics": []})
    return dataclasses.replace(suite, _file=file, _engines=engines)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in shipped() if load(name)._learned_from])
def test_every_shipped_suite_that_trains_runs_at_a_tiny_size(name, tmp_path):
    cases = tiny(name).cases()
    assert {case.kind for case in cases} == {"training", "accuracy"}
    with Writer(tmp_path / RECORDS) as writer:
        records = list(run_cases(cases, writer))
    failed = [record["result"]["message"] for record in records if record["kind"] == "error"]
    assert not failed
    assert len(records) == len(cases)


def tiny_statistics(name):
    """Each table of statistics of a shipped suite, with its first task, its engines, the least n and short strings."""
    suite = load(name)
    entries = []
    for entry in suite._file.statistics:
        one_length = entry.model_extra.get("shorter") is False  # of engines that copy no other
        update = {"tasks": entry.tasks[:1], "seeds": [0], "examples": 2}
        update |= {} if entry.n is None else {"n": [min(entry.n)]}
        update |= {} if entry.lengths is None or one_length else {"lengths": [min(8, *entry.lengths)]}
        entries.append(entry.model_copy(update=update))
    file = suite._file.model_copy(update={"cases": [], "statistics": entries})
    return [case for case in dataclasses.replace(suite, _file=file).cases() if not case.learned]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["symbolic", "theory"])  # the others include one of them
def test_statistics_of_every_shipped_suite_run_at_a_tiny_size(name):
    for case in tiny_statistics(name):
        done = []
        record = run_case(case, on_progress=lambda case, share, text, done=done: done.append(share))
        assert record["kind"] == "statistic", record
        assert record["result"]["data_hash"].startswith("sha256:")
        assert sum(done) == pytest.approx(1)
