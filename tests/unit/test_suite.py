"""Suites: what a file means, and what is said of a wrong one."""

from pathlib import Path

import pytest

import ngram_copy
from ngram_copy.engines import ENGINES
from ngram_copy.suite import SuiteError, load, parse, shipped

TEXT = """
name = "mine"
description = "for tests"

[tasks.letters]
task = "copy"
vocab_size = 26

[tasks.bits]
task = "copy"
vocab_size = 2
source = "uniform"

[engines.trigrams]
engine = "ngram"
n = 3

[engines.prefix]
engine = "prefix"
kept = 4

[[cases]]
tasks = ["letters", "bits"]
engines = ["trigrams", "prefix"]
lengths = [4, 8]
seeds = [0, 7]
examples = 10

[[statistics]]
statistic = "repeats"
tasks = ["letters"]
n = [1, 2]
lengths = [8]
examples = 20
"""


@pytest.mark.parametrize("name", list(shipped()))
def test_shipped_suites_are_sound(name):
    loaded = load(name)
    cases = loaded.cases()
    assert loaded.name == name
    assert loaded.description
    assert len({case.case_id for case in cases}) == len(cases)
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        case.check()


def test_a_suite_expands_to_every_cell():
    cases = parse(TEXT).cases()
    names = [case.name for case in cases if case.kind == "accuracy"]
    assert sorted(names) == sorted(
        f"{task}/{engine}/{length}/{seed}"
        for task in ("letters", "bits")
        for engine in ("trigrams", "prefix")
        for length in (4, 8)
        for seed in (0, 7)
    )
    assert [case.name for case in cases if case.kind == "statistic"] == [
        "letters/repeats-1/8/0",
        "letters/repeats-2/8/0",
    ]


def test_a_case_carries_all_options_with_their_defaults():
    case = parse(TEXT).cases()[0]
    assert case.description == {
        "suite": "mine",
        "task": {
            "name": "copy",
            "vocab_size": 26,
            "source": "uniform",
            "exponent": 1.0,
            "branching": 4,
            "chain_seed": 0,
        },
        "engine": {
            "name": "ngram",
            "n": 3,
            "policy": "first",
            "on_miss": "stop",
            "include_generated": True,
        },
        "length": 4,
        "seed": 0,
        "examples": 10,
        "label": "trigrams",
    }
    assert case.engine().name == "ngram"
    statistic = parse(TEXT).cases()[-1]
    assert statistic.description["statistic"] == "repeats"
    assert statistic.description["n"] == 2
    with pytest.raises(ValueError, match="no engine"):
        statistic.engine()


def identity(text: str) -> str:
    return parse(text).cases()[0].case_id


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("vocab_size = 26", "vocab_size = 25"),
        ("vocab_size = 26", "branching = 3"),
        ("n = 3", "n = 4"),
        ("n = 3", 'policy = "last"'),
        ("lengths = [4, 8]", "lengths = [5, 8]"),
        ("seeds = [0, 7]", "seeds = [1, 7]"),
        ("examples = 10", "examples = 11"),
    ],
)
def test_what_determines_a_result_changes_its_id(old, new):
    assert identity(TEXT) != identity(TEXT.replace(old, new, 1))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('name = "mine"', 'name = "yours"'),
        ("for tests", "for all"),
        ("trigrams", "three"),
        ("letters", "alphabet"),
        ("n = 3", 'n = 3\npolicy = "first"'),
        ("vocab_size = 26", ""),
    ],
)
def test_what_does_not_keeps_it(old, new):
    assert identity(TEXT) == identity(TEXT.replace(old, new))


def test_the_id_depends_on_the_text_not_on_its_place(tmp_path):
    def of(name: str, content: str) -> str:
        (tmp_path / name).mkdir()
        (tmp_path / name / "text.txt").write_text(content)
        text = f"""
            name = "t"
            [tasks.text]
            task = "text_copy"
            path = "{tmp_path / name / "text.txt"}"
            [engines.four]
            engine = "ngram"
            [[cases]]
            tasks = ["text"]
            engines = ["four"]
            lengths = [8]
        """
        return parse(text).cases()[0].case_id

    assert of("a", "she sells sea shells") != of("b", "by the sea shore she")


def test_seeds_are_replaced():
    cases = parse(TEXT).cases(seed=5)
    assert {case.seed for case in cases} == {5}
    assert len(cases) == 10


def test_a_cell_listed_twice_is_run_once():
    again = '\n[[cases]]\ntasks = ["letters"]\nengines = ["prefix"]\nlengths = [8, 9]\nexamples = 10\n'
    assert len(parse(TEXT + again).cases()) == len(parse(TEXT).cases()) + 1


def test_one_case_under_two_names_is_refused():
    again = '\n[engines.other]\nengine = "prefix"\nkept = 4\n'
    with pytest.raises(SuiteError, match=r"letters/prefix/4/0 and letters/other/4/0 are the same case"):
        parse(TEXT.replace('["trigrams", "prefix"]', '["prefix", "other"]') + again).cases()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("vocab_size = 26", "vocab_size = ", r"suite\.toml: .*\(at line 7, column 14\)"),
        ("[engines.prefix]", "[engines.prefix", r"suite\.toml: .*\(at line 18, column 16\)"),
        ("examples = 20\n", 'examples = "20\n', r"suite\.toml: .*\(at line 34, column 15\)"),
        ("examples = 20\n", "examples = [20\n", r"suite\.toml: .*\(at line 34, the end of the file\)"),
        ('name = "mine"', "", r"suite\.toml: name: this key is missing"),
        ('name = "mine"', 'name = "a/b"', r"suite\.toml: name: .* not 'a/b'"),
        ('name = "mine"', 'nam = "mine"', r"nam: unknown key; did you mean 'name'\?.*\(and 1 more\)"),
        ("[tasks.letters]", "[task.letters]", r"task: unknown key; did you mean 'tasks'\?"),
        ("lengths = [4, 8]", "lenghts = [4, 8]", r"cases\[0\]\.lenghts: unknown key; did you mean 'lengths'\?"),
        ("n = [1, 2]", "ns = [1, 2]", r"statistics\[0\]\.ns: unknown key; did you mean 'n'\?"),
        ('task = "copy"', 'task = "copi"', r"\[tasks\.letters\]: unknown task 'copi'; did you mean 'copy'\?"),
        ('task = "copy"', "", r"\[tasks\.letters\]: the key task is missing, such as task = \"copy\""),
        ('task = "copy"', "task = 3", r"\[tasks\.letters\]\.task: a name in quotes is needed, not 3"),
        ('engine = "ngram"', 'engine = "ngrams"', r"unknown engine 'ngrams'; did you mean 'ngram'\?"),
        ("vocab_size = 26", "vocabsize = 26", r"option of copy 'vocabsize'; did you mean 'vocab_size'\?"),
        ("n = 3", "m = 3", r"\[engines\.trigrams\]: unknown option of ngram 'm'"),
        ("vocab_size = 26", 'vocab_size = "26"', r"\[tasks\.letters\]\.vocab_size: '26' must be a valid integer"),
        ("vocab_size = 26", "vocab_size = 26.5", r"\[tasks\.letters\]\.vocab_size: 26\.5 must be a valid integer"),
        ("vocab_size = 26", "vocab_size = 1", r"\[tasks\.letters\]: vocab_size must be at least 2, not 1"),
        ("n = 3", "n = true", r"\[engines\.trigrams\]\.n: True must be a valid integer"),
        ("n = 3", "n = 2001-01-01", r"\[engines\.trigrams\]\.n: 2001-01-01 is not a number"),
        ("n = 3", "n = nan", r"\[engines\.trigrams\]\.n: nan "),
        ('source = "uniform"', 'source = "uniforn"', r"\[tasks\.bits\]: .*'uniforn'"),
        ('name = "mine"', 'name = "my suite"', r"name: must be made of letters, .*, not 'my suite'"),
        (
            "[tasks.letters]",
            '[tasks."a/b"]',
            r"tasks\.a/b\.\[key\]: must not be empty, and have no space and no '/', not 'a/b'",
        ),
        ("lengths = [4, 8]", "lengths = []", r"cases\[0\]\.lengths: must not be empty"),
        ("lengths = [4, 8]", "lengths = 4", r"cases\[0\]\.lengths: must be a valid list, not 4"),
        ("lengths = [4, 8]", "lengths = [4, 0]", r"cases\[0\]\.lengths\[1\]: .* 1, not 0"),
        ("seeds = [0, 7]", "seeds = [-1]", r"cases\[0\]\.seeds\[0\]: .* 0, not -1"),
        ("examples = 10", "examples = 1", r"cases\[0\]\.examples: .* 2, not 1"),
        ("examples = 10", "examples = 1e3", r"cases\[0\]\.examples: must be a valid integer, not 1000\.0"),
        (
            '["letters", "bits"]',
            '["leters"]',
            r"cases\[0\]\.tasks: unknown task 'leters'; did you mean 'letters'",
        ),
        ('"prefix"]', '"prefiks"]', r"cases\[0\]\.engines: unknown engine 'prefiks'; did you mean 'prefix'"),
        ('"repeats"', '"repeat"', r"statistics\[0\]\.statistic: unknown statistic 'repeat'; did you mean 'repeats'"),
        ('tasks = ["letters"]', 'tasks = ["x"]', r"statistics\[0\]\.tasks: unknown task 'x'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(old, new, message):
    assert old in TEXT
    with pytest.raises(SuiteError, match=message) as caught:
        parse(TEXT.replace(old, new, 1))
    assert "\n" not in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_a_suite_without_cases_is_refused():
    with pytest.raises(SuiteError, match="nothing to run"):
        parse('name = "empty"')


def test_a_missing_text_is_refused():
    text = TEXT.replace('task = "copy"\nvocab_size = 26', 'task = "text_copy"\npath = "no/such/text"')
    with pytest.raises(SuiteError, match=r"\[tasks\.letters\]: no such file or folder: no/such/text"):
        parse(text)


def test_an_impossible_length_names_the_case():
    case = parse(TEXT.replace('task = "copy"\nvocab_size = 26', 'task = "duplicate_ngram"\nn = 3')).cases()[0]
    with pytest.raises(SuiteError, match=r"the case letters/trigrams/4/0 cannot run: .*length must be at least 8"):
        case.check()


def test_a_statistic_needs_one_string():
    case = parse(TEXT.replace('task = "copy"\nvocab_size = 26', 'task = "prefix_lookup"')).cases()[-1]
    with pytest.raises(SuiteError, match=r"letters/repeats-2/8/0 cannot run: the prompts of prefix_lookup are not one"):
        case.check()


def test_an_impossible_engine_names_the_case(monkeypatch):
    class Picky(ENGINES["ngram"]):
        name = "picky"

        def __init__(self, vocab, *, n: int = 3):
            raise ValueError(f"n must be even, not {n}")

    monkeypatch.setitem(ENGINES, "picky", Picky)
    text = TEXT.replace('engine = "ngram"', 'engine = "picky"')
    with pytest.raises(SuiteError, match=r"the case letters/trigrams/4/0 cannot run: n must be even, not 3"):
        parse(text).cases()[0].check()


def test_required_options(monkeypatch):
    class Needy(ENGINES["ngram"]):
        name = "needy"

        def __init__(self, vocab, *, n: int):
            super().__init__(vocab, n=n)

    monkeypatch.setitem(ENGINES, "needy", Needy)
    text = TEXT.replace('engine = "ngram"\nn = 3', 'engine = "needy"')
    with pytest.raises(SuiteError, match=r"\[engines\.trigrams\]: the option n is missing"):
        parse(text)


def test_paths_and_names(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT)
    assert load(path).cases() == load(str(path)).cases()
    assert load(path).source == str(path)
    with pytest.raises(SuiteError, match="no suite 'symbolik'; did you mean 'symbolic'"):
        load("symbolik")
    with pytest.raises(SuiteError, match=r"cannot read the suite .*gone\.toml: No such file"):
        load(tmp_path / "gone.toml")
    with pytest.raises(SuiteError, match=r"cannot read the suite .*: Is a directory"):
        load(tmp_path)
    path.write_bytes(b'name = "\xff"')
    with pytest.raises(SuiteError, match=r"mine\.toml: not a TOML file: byte 8 is not UTF-8"):
        load(path)


def test_shipped_suites_lie_in_the_package():
    folder = Path(ngram_copy.__file__).parent / "suites"
    assert set(shipped()) == {path.stem for path in folder.glob("[!_]*.toml")}


def test_a_suite_includes_others(tmp_path):
    one, two = tmp_path / "one.toml", tmp_path / "two.toml"
    one.write_text(TEXT)
    two.write_text(
        f'name = "two"\ninclude = ["{one}"]\n\n[engines.four]\nengine = "ngram"\nn = 4\n\n[[cases]]\n'
        'tasks = ["letters"]\nengines = ["four"]\nlengths = [5]\n'
    )
    both = load(two)
    names = [case.name for case in load(one).cases()]
    assert sorted(case.name for case in both.cases()) == sorted([*names, "letters/four/5/0"])
    assert both.name == "two"
    two.write_text(two.read_text() + '[engines.prefix]\nengine = "ngram"\nn = 9\n')
    with pytest.raises(SuiteError, match="is another one in a suite that is included"):
        load(two)
    two.write_text(f'name = "two"\ninclude = ["{two}"]\n')
    with pytest.raises(SuiteError, match="includes itself"):
        load(two)
    with pytest.raises(SuiteError, match="no suite 'symbolik'"):
        parse('name = "x"\ninclude = ["symbolik"]')


def test_models_of_ones_own_stand_beside_the_engines(tmp_path):
    pytest.importorskip("torch")
    file = tmp_path / "mine.py"
    file.write_text(
        "from torch import nn\ndef build(n):\n    return nn.Sequential(nn.Embedding(n, 2), nn.Linear(2, n))\n"
    )
    with_own = parse(TEXT).with_models([f"{file}:build"])
    names = {case.name for case in with_own.cases()} - {case.name for case in parse(TEXT).cases()}
    assert names == {
        f"{task}/mine.py:build/{n}/{seed}" for task in ("letters", "bits") for n in (4, 8) for seed in (0, 7)
    }
    assert all(case.engine_name == "module" for case in with_own.cases() if case.name in names)
    quick = load("quick").with_models([f"{file}:build"])
    trained = [case for case in quick.cases() if case.kind == "training" and "mine" in case.name]
    assert sorted(case.name for case in trained) == [
        "training/mine.py:build@hard-alibi/32/0",
        "training/mine.py:build@mamba-short/6/0",
    ]
    as_it_is = load("quick").with_models([f"{file}:build"], pretrained=True)
    assert not [case for case in as_it_is.cases(unfit=[]) if case.kind == "training" and "mine" in case.name]
    with pytest.raises(SuiteError, match="no such file"):
        parse(TEXT).with_models([f"{tmp_path}/gone.py:build"]).cases()
    unfit = []
    narrow = tmp_path / "narrow.py"
    narrow.write_text("from torch import nn\ndef build(n):\n    return nn.Embedding(n, 8)\n")
    cases = parse(TEXT).with_models([f"{narrow}:build"]).cases(unfit=unfit)
    assert {case.task.vocab_size for case in cases if "narrow" in case.name} == {2}
    assert unfit
    assert "too few" in unfit[0]
