"""The commands beside ``run``: what they print."""

import json

import pytest
from small_suite import CASES

from ngram_copy import theory
from ngram_copy.engines import ENGINES
from ngram_copy.results import Writer, read
from ngram_copy.statistics import STATISTICS
from ngram_copy.suite import shipped
from ngram_copy.tasks import TASKS

COMMANDS = ["run", "report", "compare", "rank", "list", "show-example", "theory", "stats"]


@pytest.fixture
def made(cli, suite, tmp_path):
    assert cli("run", suite, "--out", tmp_path / "made", "--no-report").code == 0
    return tmp_path / "made"


def copy_of(made, folder, change):
    folder.mkdir()
    with Writer(folder / "records.jsonl") as writer:
        for record in read(made):
            if change(record) is not False:
                writer.write(record)
    return folder


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(cli, command):
    outcome = cli(command, "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    assert f"ngram-copy {command}" in outcome.out
    assert "Examples" in outcome.out


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_the_main_help_names_all_commands(cli, arguments):
    outcome = cli(*arguments)
    assert outcome.code == 0
    assert all(command in outcome.out for command in COMMANDS)
    assert "ngram-copy list" in outcome.out


def test_version(cli):
    outcome = cli("--version")
    assert outcome.code == 0
    assert outcome.out.startswith("ngram-copy 0.")


def test_list_names_everything(cli):
    outcome = cli("list")
    assert outcome.code == 0
    for name in [*shipped(), *TASKS, *ENGINES, *STATISTICS]:
        assert name in outcome.out
    assert 'vocab_size=26, source="uniform"|"zipf"|"markov", exponent=1.0' in outcome.out
    listed = json.loads(cli("list", "--json").out)
    assert set(listed) == {"suites", "tasks", "engines", "statistics"}
    assert listed["engines"]["ngram"]["options"]["n"] == 4
    assert listed["engines"]["ngram"]["summary"] == ENGINES["ngram"].summary


def test_list_names_what_models_are_made_of(cli):
    pytest.importorskip("torch", reason="the torch extra is not installed")
    from ngram_copy.models import MIXERS

    outcome = cli("list", "--models")
    assert outcome.code == 0
    for name, mixer in MIXERS.items():
        assert f"{name}  {mixer.summary}; {mixer.letter} in a pattern" in outcome.out
    assert 'preset=none|"tiny"|"small"|"paper", mixer=none|"attention"' in outcome.out
    listed = json.loads(cli("list", "--models", "--json").out)
    assert listed["tables"]["training"]["options"]["steps"] == 1000
    assert listed["tables"]["models"]["choices"]["norm"] == ["rms", "layer", "none"]
    assert "vocab_size" not in listed["tables"]["models"]["options"]
    assert listed["tasks"]["copy"]["choices"] == {"source": ["uniform", "zipf", "markov"]}


@pytest.mark.parametrize("task", list(TASKS))
def test_every_task_shows_an_example(cli, task):
    outcome = cli("show-example", task, "--length", 24)
    assert outcome.code == 0, outcome.err
    assert "<bos>" in outcome.out
    assert "answer" in outcome.out
    shown = json.loads(cli("show-example", task, "--length", 24, "--json").out)
    batch = TASKS[task]().batch(24, seed=0, split="test", start=0, count=1)
    assert shown["tokens"] == batch.tokens[0, : batch.lengths[0]].tolist()
    assert (shown["cut"], shown["answer"]) == (batch.cut[0], batch.answer[0])


def test_an_example_is_readable(cli):
    outcome = cli("show-example", "copy", "-L", 5, "-i", 3, "-o", "vocab_size=3", "--seed", 2)
    string = TASKS["copy"](vocab_size=3).batch(5, seed=2, split="test", start=3, count=1).tokens[0, 1:6]
    letters = " ".join("abc"[token] for token in string)
    assert f"<bos> {letters} <copy>" in outcome.out
    assert f"{letters} <eos>" in outcome.out
    assert "log2 p  -7.92   H_min  7.92 bits" in outcome.out
    assert "13 tokens, cut at 7" in outcome.out


def test_options_of_every_type(cli):
    assert cli("show-example", "copy", "-o", "source=zipf", "-o", "exponent=1.5", "-o", "vocab_size=300").code == 0
    assert 'source="zipf"' in cli("show-example", "copy", "-o", 'source="zipf"').out


def test_a_long_example_is_shortened(cli):
    outcome = cli("show-example", "copy", "-L", 1000)
    assert "more …" in outcome.out
    assert len(outcome.out) < 2000


def test_theory_of_a_state(cli):
    outcome = cli("theory", "--state-bits", 65536, "--vocab", 26)
    assert outcome.code == 0
    assert "13,942" in outcome.out
    assert json.loads(cli("theory", "--state-bits", 65536, "--json").out) == {"longest_string": 13942}


def test_theory_of_a_length(cli):
    found = json.loads(cli("theory", "--length", 1000, "--vocab", 26, "--error", 0.01, "--json").out)
    assert found["n"] == 6
    assert found["heads"] == 7
    assert found["width"] == 6 * 13 + 5 + 2
    assert found["state_bits_required"] == pytest.approx(4700.425, abs=0.001)
    assert found["p_ngram_at_most"] == pytest.approx(995 * 994 / 2 / 26**6)
    assert found["parameters"] == theory.construction_sizes(6, 26).parameters
    assert "4,700.43" in cli("theory", "--length", 1000, "--error", 0.01).out
    assert "47.01" in cli("theory", "--length", 10, "--error", 0).out  # 47 do not do: log2 26^10 is 47.004…


def test_theory_of_both(cli):
    found = json.loads(cli("theory", "--length", 10, "--state-bits", 46, "--json").out)
    assert found["whole_strings_at_most"] == pytest.approx(2**46 / 26**10)


def test_report(cli, made, tmp_path):
    outcome = cli("report", made, "--out", tmp_path / "report")
    assert outcome.code == 0
    assert (tmp_path / "report" / "index.html").exists()
    assert str(tmp_path / "report" / "index.html") in outcome.out
    paths = json.loads(cli("report", made, "--json").out)
    assert paths["index.html"] == str(made / "index.html")


def test_compare_of_a_run_with_itself(cli, made):
    outcome = cli("compare", made, made)
    assert outcome.code == 0
    assert f"{CASES} shared cells: {CASES} equal, 0 changed." in outcome.out
    found = json.loads(cli("compare", made, made, "--json").out)
    assert len(found["cells"]) == CASES
    assert all(cell.get("strings", cell.get("repeats"))["change"] == 0 for cell in found["cells"])


def worsen(record):
    case = record["case"]
    if case.get("label") == "trigrams" and case["length"] == 6:
        record["result"]["strings"] |= {"correct": 30, "low": 0.377, "high": 0.623}


def test_compare_finds_what_is_worse(cli, made, tmp_path):
    other = copy_of(made, tmp_path / "other", worsen)
    correct = read(made)[0]["result"]["strings"]["correct"]
    drop = correct / 60 - 0.5
    assert drop > 0.1
    outcome = cli("compare", made, other)
    assert outcome.code == 1
    assert "1 cell worse than the threshold" in outcome.out
    assert "copy uniform D=4, trigrams, length 6, seed 0" in outcome.out
    assert cli("compare", made, other, "--threshold", drop + 0.01).code == 0
    assert cli("compare", made, other, "--threshold", drop - 0.01).code == 1
    assert cli("compare", other, made).code == 0
    found = json.loads(cli("compare", made, other, "--json").out)
    assert found["worse"] == [read(made)[0]["case_id"]]
    cell = found["cells"][0]["strings"]
    assert cell["a"] == correct / 60
    assert cell["b"] == 0.5
    assert cell["low"] < cell["change"] < cell["high"] < 0


def test_compare_finds_fewer_bits(cli, made, tmp_path):
    def fewer(record):
        if record["kind"] == "accuracy" and record["case"]["length"] == 6:
            bits = record["result"]["bits_recalled"]
            record["result"]["bits_recalled"] = {**bits, **{key: bits[key] - 2 for key in ("mean", "low", "high")}}

    other = copy_of(made, tmp_path / "other", fewer)
    assert cli("compare", made, other).code == 1
    assert cli("compare", made, other, "--bits", 2.1).code == 0


def test_compare_of_cells_that_only_one_has(cli, made, tmp_path):
    other = copy_of(made, tmp_path / "other", lambda record: record["case"]["label"] != "prefix")
    outcome = cli("compare", made, other)
    assert outcome.code == 0
    assert "Not compared: 2 cells only in A, 0 only in B" in outcome.out
    named = [line for line in outcome.out.splitlines() if line.startswith("  A: ")]
    assert len(named) == 2
    assert all(", prefix, length " in line for line in named)


def test_compare_of_a_case_that_fails_now(cli, made, tmp_path):
    def fail(record):
        if record["case"]["label"] == "prefix" and record["case"]["length"] == 6:
            record |= {"kind": "error", "result": {"error": "RuntimeError", "message": "no luck"}}

    other = copy_of(made, tmp_path / "other", fail)
    outcome = cli("compare", made, other)
    assert outcome.code == 1
    assert "Failed in B: copy uniform D=4, prefix, length 6, seed 0" in outcome.out
    assert cli("compare", other, made).code == 0


def test_compare_matches_by_case_not_by_name(cli, made, tmp_path):
    def rename(record):
        record["case"] |= {"suite": "other", "label": "x"}
        record["case_id"] = "f" * 16

    assert cli("compare", made, copy_of(made, tmp_path / "other", rename)).code == 0


def test_rank_takes_shared_cells_only(cli, made):
    outcome = cli("rank", made)
    assert outcome.code == 0
    found = json.loads(cli("rank", made, "--json").out)
    assert found["shared"] == 2
    assert [engine["engine"] for engine in found["engines"]] == ["trigrams", "prefix"]
    shared = [r["result"] for r in read(made) if r["case"].get("label") == "trigrams" and r["case"]["length"] > 2]
    trigrams = found["engines"][0]
    assert trigrams["strings"] == pytest.approx(sum(result["strings"]["correct"] for result in shared) / 120)
    assert trigrams["bits"] == pytest.approx(sum(result["bits_recalled"]["mean"] for result in shared) / 2)
    assert len(found["left_out"]) == 1
    assert found["left_out"][0]["missing"] == ["prefix"]
    assert "Means over the 2 cells of 3 that all engines answered." in outcome.out
    assert "Left out: phone_book, length 2, seed 0 (no result of prefix)" in outcome.out


def test_rank_of_some_engines_over_several_folders(cli, made, tmp_path):
    a = copy_of(made, tmp_path / "a", lambda record: record["case"]["label"] == "prefix")
    b = copy_of(made, tmp_path / "b", lambda record: record["case"]["label"] == "trigrams")
    assert json.loads(cli("rank", a, b, "--json").out) == json.loads(cli("rank", made, "--json").out)
    found = json.loads(cli("rank", made, "--engine", "tri*", "--json").out)
    assert found["shared"] == 3
    assert [engine["engine"] for engine in found["engines"]] == ["trigrams"]


def test_rank_says_why_bits_have_no_mean(cli, made, tmp_path):
    assert "no mean" not in cli("rank", made).out
    records = [r for r in read(made) if r["kind"] == "accuracy" and r["case"]["label"] == "trigrams"]
    records[0]["result"]["bits_recalled"] = None
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    outcome = cli("rank", tmp_path / "some.jsonl")
    assert outcome.out.splitlines()[1].split()[4] == "-"
    assert "Bits recalled have no mean: in 1 of these cells they are not known." in outcome.out


def test_rank_tells_engines_of_one_label_apart(cli, made, tmp_path):
    def relabel(record):
        record["case"]["label"] = "same"

    found = json.loads(cli("rank", copy_of(made, tmp_path / "other", relabel), "--json").out)
    assert {engine["engine"].split("(")[0] for engine in found["engines"]} == {"ngram", "prefix"}
