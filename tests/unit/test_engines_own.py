"""Models of your own: what they must do, how they are cut, and what is said where something is wrong."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from torch import nn

from ngram_copy import StateError, run, suite
from ngram_copy.engines import ENGINES
from ngram_copy.engines.foreign import LEAST_LOG2, ModelError, fill, from_bytes, tensor_bits, to_bytes, tree_of
from ngram_copy.engines.own import ModuleEngine, load_builder
from ngram_copy.tasks import TASKS, VocabularySpec
from ngram_copy.tasks.copy import Copy

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "my_model.py"
TASK = Copy(vocab_size=6)
VOCAB = TASK.vocab


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


def batch(length=10, count=8, task=TASK):
    return task.batch(length, seed=3, split="test", start=0, count=count)


class Recurrent(nn.Module):
    """Two recurrences: the base of the modules below."""

    def __init__(self, vocab_size=VOCAB.total, width=8):
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, width)
        self.rnn = nn.LSTM(width, width, batch_first=True)
        self.head = nn.Linear(width, vocab_size)

    def forward(self, tokens):
        return self.head(self.rnn(self.embedding(tokens))[0])


@dataclass
class Kept:
    position: int
    layers: list
    note: tuple


class WithSteps(Recurrent):
    """Its state is a dataclass of everything that a state may hold."""

    def prefill(self, tokens):
        y, (h, c) = self.rnn(self.embedding(tokens))
        return self.head(y), Kept(tokens.shape[1], [{"h": h, 0: c}], ("any", None, 0.5, True))

    def step(self, tokens, state):
        y, (h, c) = self.rnn(self.embedding(tokens)[:, None], (state.layers[0]["h"], state.layers[0][0]))
        return self.head(y[:, 0]), Kept(state.position + 1, [{"h": h, 0: c}], state.note)


def example(name, vocab=VOCAB):
    return ENGINES["module"](vocab, build=f"{EXAMPLE}:{name}")


# --- Answers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Recurrent, WithSteps])
class TestEveryModule:
    def test_predictions_are_the_modules_own(self, kind):
        module, examples = kind(), batch()
        prediction = ModuleEngine(VOCAB, module).predict(examples)
        with torch.inference_mode():
            logits = module(torch.from_numpy(examples.tokens.astype(np.int64)))[:, 11:-1]
        answers = torch.from_numpy(examples.answers())
        expected = logits.double().log_softmax(-1).gather(-1, answers[..., None])[..., 0] / np.log(2)
        assert np.array_equal(prediction.tokens, logits.argmax(-1).numpy())
        np.testing.assert_allclose(prediction.log2_q, expected.numpy(), atol=1e-6)

    def test_free_answers_are_the_modules_own(self, kind):
        module, examples = kind(), batch(count=3)
        for prompt, answer in zip(examples.prompts(), ModuleEngine(VOCAB, module).generate(examples, 7), strict=True):
            tokens = prompt.astype(np.int64).tolist()
            with torch.inference_mode():
                while len(tokens) < len(prompt) + 7 and tokens[-1] != VOCAB.eos:
                    tokens.append(int(module(torch.tensor([tokens]))[0, -1].argmax()))
            assert answer.tolist() == tokens[len(prompt) :]

    def test_every_task_is_answered(self, kind):
        for task in TASKS.values():
            made = task()
            engine = ModuleEngine(made.vocab, kind(made.vocab.total))
            examples = batch(16, 3, made)
            prediction, answers = engine.predict(examples), examples.answers()
            assert prediction.tokens.shape == answers.shape
            assert ((prediction.tokens == -1) == (answers == -1)).all()
            assert (prediction.log2_q[answers < 0] == 0).all()
            assert len(engine.generate(examples, 4)) == 3

    def test_batches_change_nothing(self, kind):
        engine, examples = ModuleEngine(VOCAB, kind()), batch(count=5)
        single = [engine.predict(TASK.batch(10, seed=3, split="test", start=i, count=1)).log2_q[0] for i in range(5)]
        np.testing.assert_allclose(engine.predict(examples).log2_q, single, atol=1e-6)

    def test_damaged_states_are_refused(self, kind):
        engine = ModuleEngine(VOCAB, kind())
        (state,) = engine.cut(batch(count=1).prompts())
        other = ModuleEngine(VOCAB, kind()).cut(batch(count=1).prompts())
        for damaged in (b"", state[:-1], state + b"\0", b"\xff" + state[1:], state[:-1] + b"\xff", *other):
            with pytest.raises(StateError):
                engine.resume([damaged], 5)
        assert len(engine.resume([state], 0)[0]) == 0


def test_rows_of_several_lengths_are_never_padded():
    """A module that counts what is behind a token would see padding; here it fails on it."""
    task = TASKS["phone_book"](digits=3)

    class NoPadding(Recurrent):
        def forward(self, tokens):
            if tokens.shape[0] != 2:  # not the trial of the module
                assert not (tokens == task.vocab.pad).any()
            return super().forward(tokens)

    engine = ModuleEngine(task.vocab, NoPadding(task.vocab.total))
    examples = batch(3, 9, task)
    assert len(set(examples.lengths.tolist())) > 1
    whole = engine.predict(examples)
    for row in range(9):
        alone = engine.predict(task.batch(3, seed=3, split="test", start=row, count=1))
        assert np.array_equal(alone.tokens[0], whole.tokens[row])


def test_a_larger_vocabulary_is_left_out():
    class Wider(Recurrent):
        def __init__(self):
            super().__init__(VOCAB.total + 5)
            with torch.no_grad():
                self.head.bias[VOCAB.total :] = 50.0

    module, examples = Wider(), batch()
    prediction = ModuleEngine(VOCAB, module).predict(examples)
    assert (prediction.tokens < VOCAB.total).all()
    assert (prediction.log2_q > -20).all()
    assert all((answer < VOCAB.total).all() for answer in ModuleEngine(VOCAB, module).generate(examples, 3))


def test_what_has_probability_0_is_finite():
    class Never(Recurrent):
        def forward(self, tokens):
            return super().forward(tokens).index_fill(-1, torch.tensor([2]), -torch.inf)

    prediction = ModuleEngine(VOCAB, Never()).predict(batch())
    assert (prediction.log2_q[batch().answers() == 2] == LEAST_LOG2).all()


@pytest.mark.parametrize("wrap", [lambda y: (y, 1), lambda y: {"logits": y}, lambda y: SimpleNamespace(logits=y)])
def test_logits_may_come_in_a_tuple_a_dict_or_an_output(wrap):
    plain = Recurrent()

    class Wrapped(nn.Module):
        def forward(self, tokens):
            return wrap(plain(tokens))

    expected = ModuleEngine(VOCAB, plain).predict(batch())
    assert np.array_equal(ModuleEngine(VOCAB, Wrapped()).predict(batch()).log2_q, expected.log2_q)


def test_it_answers_in_eval_mode():
    module = nn.Sequential(nn.Embedding(VOCAB.total, 8), nn.Dropout(0.5), nn.Linear(8, VOCAB.total)).train()
    engine = ModuleEngine(VOCAB, module)
    assert np.array_equal(engine.predict(batch()).log2_q, engine.predict(batch()).log2_q)


# --- States ---------------------------------------------------------------------------------------------


def test_without_a_step_the_prompt_is_the_state():
    engine = ModuleEngine(VOCAB, Recurrent())
    bits = engine.state_bits(batch(20).prompts())
    assert bits == pytest.approx(20 * np.log2(6))
    assert bits[0] == ENGINES["ngram"](VOCAB).state_bits(batch(20).prompts())[0]
    assert engine.provenance()["state"] == "the prompt"


def test_with_a_step_the_tensors_are_the_state():
    engine = ModuleEngine(VOCAB, WithSteps())
    assert engine.state_bits([*batch(20).prompts(), *batch(5).prompts()]).tolist() == [2 * 8 * 32.0] * 16
    assert engine.provenance()["state"] == "its own"


def test_a_model_of_ours_is_a_module_too():
    from ngram_copy.models import LanguageModel, LayerConfig, ModelConfig

    config = ModelConfig(VOCAB.total, 8, [LayerConfig("attention", {"n_heads": 2}), LayerConfig("gru")])
    model = LanguageModel(config).eval()
    engine = ModuleEngine(VOCAB, model)
    bits = engine.state_bits(batch(20).prompts())[0]
    assert bits == 32 * model.state_size(21)
    assert len(engine.cut(batch(20).prompts())[0]) * 8 >= bits


def test_another_process_goes_on_from_the_bytes(tmp_path):
    examples, expected = batch(count=3), {}
    for name in ("build", "build_gru"):
        engine = example(name)
        expected[name] = [out.tolist() for out in engine.generate(examples, 11)]
        for i, state in enumerate(engine.cut(examples.prompts())):
            (tmp_path / f"{name}{i}").write_bytes(state)
    code = f"""
import json, pathlib
from ngram_copy.engines import ENGINES
from ngram_copy.tasks import VocabularySpec
found = {{}}
for name in ("build", "build_gru"):
    engine = ENGINES["module"](VocabularySpec(6), build={str(EXAMPLE)!r} + ":" + name)
    states = [pathlib.Path({str(tmp_path)!r}, name + str(i)).read_bytes() for i in range(3)]
    found[name] = [out.tolist() for out in engine.resume(states, 11)]
print(json.dumps(found))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected


def test_a_state_goes_through_bytes():
    kept = Kept(3, [{"h": torch.randn(2, 3), 0: torch.tensor([1, 2])}, {}], (None, "é", [1.5, True]))
    tree = tree_of(kept)
    assert tensor_bits(tree) == 6 * 32 + 2 * 64
    read = fill(Kept(0, [], ()), from_bytes(to_bytes(tree, {"a": 1}), {"a": 1}, "cpu"))
    assert (read.position, read.note) == (3, kept.note)
    assert torch.equal(read.layers[0]["h"], kept.layers[0]["h"])
    assert torch.equal(read.layers[0][0], kept.layers[0][0])
    assert read.layers[1] == {}
    with pytest.raises(StateError, match="its a is 1, not 2"):
        from_bytes(to_bytes(tree, {"a": 1}), {"a": 2}, "cpu")
    with pytest.raises(TypeError, match="not ndarray"):
        tree_of([np.zeros(2)])
    with pytest.raises(TypeError, match="keys of a state"):
        to_bytes({2.5: 1}, {})


def test_a_half_precision_state_goes_through_bytes():
    tree = [torch.randn(2, 3).bfloat16(), torch.tensor(True), torch.zeros(0, 4)]
    read = from_bytes(to_bytes(tree, {}), {}, "cpu")
    assert [(x.dtype, x.shape) for x in read] == [(x.dtype, x.shape) for x in tree]
    assert torch.equal(read[0], tree[0])


# --- What is refused ------------------------------------------------------------------------------------


class Leaky(Recurrent):
    def forward(self, tokens):
        return super().forward(tokens) + self.embedding(tokens).mean((1, 2))[:, None, None]


class TimeFirst(Recurrent):
    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(8, 8)


class Nan(Recurrent):
    def forward(self, tokens):
        return super().forward(tokens).index_fill(1, torch.tensor([3]), torch.nan)


class Noisy(Recurrent):
    def forward(self, tokens):
        y = super().forward(tokens)
        return y + torch.randn_like(y)


class Failing(Recurrent):
    def forward(self, tokens):
        raise IndexError("index out of range\nin self")


class LastOnly(Recurrent):
    def forward(self, tokens):
        return super().forward(tokens)[:, -1]


class Text(Recurrent):
    def forward(self, tokens):
        return "logits"


class Chosen(Recurrent):
    def forward(self, tokens):
        return super().forward(tokens).argmax(-1)


class Hidden(WithSteps):
    """Keeps its state in itself."""

    def prefill(self, tokens):
        logits, self.kept = super().prefill(tokens)
        return logits, {}

    def step(self, tokens, state):
        logits, self.kept = super().step(tokens, self.kept)
        return logits, {}


class OtherPrefill(WithSteps):
    def prefill(self, tokens):
        logits, state = super().prefill(tokens)
        return logits + 1, state


class FlatStep(WithSteps):
    def step(self, tokens, state):
        logits, state = super().step(tokens, state)
        return logits[0], state


class NoState(WithSteps):
    def prefill(self, tokens):
        return super().prefill(tokens)[0]


class Arrays(WithSteps):
    def prefill(self, tokens):
        logits, state = super().prefill(tokens)
        return logits, {"h": state.layers[0]["h"].numpy()}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Leaky, "a later token changes earlier logits: the model must be causal"),
        (TimeFirst, "one row of a batch changes another's logits"),
        (Nan, r"token ids of shape (2, 8): 20 of 160 logits are NaN"),
        (Noisy, "the same token ids give other logits the second time"),
        (Failing, "the model failed on token ids of shape (2, 8): IndexError: index out of range"),
        (LastOnly, "token ids of shape (2, 8) must give logits of shape (2, 8, 10), not (2, 10)"),
        (Text, "the model must return a tensor of logits, not str"),
        (Chosen, "logits must be floating-point numbers, not torch.int64"),
        (lambda: Recurrent(6), "the model failed on token ids of shape (2, 8): IndexError"),
        (
            lambda: nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 6)),
            "logits of 6 tokens are too few: the task has 10, 6 of data and 4 special ones",
        ),
        (lambda: Recurrent, "the model must be a torch.nn.Module, not Recurrent (the class, not a model of it)"),
        (lambda: 3, "the model must be a torch.nn.Module, not int"),
        (Hidden, "the state must be all that the model keeps"),
        (OtherPrefill, "prefill gives other logits than forward"),
        (FlatStep, "step: token ids of shape (1,) must give logits of shape (1, 10), not (10,)"),
        (NoState, "prefill: must return (logits, state), not Tensor"),
        (Arrays, "a state must hold tensors, numbers and strings, not ndarray"),
    ],
)
def test_a_wrong_module_is_refused_in_one_line(make, message):
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        ModuleEngine(VOCAB, make(), source="mine")
    assert str(caught.value).startswith("mine: ")
    assert "\n" not in str(caught.value)


def test_nan_at_a_length_that_was_not_tried():
    class Late(Recurrent):
        def forward(self, tokens):
            y = super().forward(tokens)
            return y * torch.nan if tokens.shape[1] > 8 else y

    engine = ModuleEngine(VOCAB, Late(), source="mine")
    for answer in (engine.predict, lambda examples: engine.generate(examples, 3)):
        with pytest.raises(ModelError, match=r"mine: .*logits are NaN"):
            answer(batch())


@pytest.mark.parametrize(
    ("code", "spec", "message"),
    [
        ("", "other.py:build", "no such file: other.py"),
        ("", "m.py", "is named FILE.py:FUNCTION, such as my_model.py:build"),
        ("", "m.txt:build", "is named FILE.py:FUNCTION"),
        ("", "m.py:", "is named FILE.py:FUNCTION"),
        ("def make(v): ...", "m.py:build", "no function 'build' in m.py; it has: make"),
        ("build = 3", "m.py:build", "'build' is not a function in m.py; it has: none"),
        ("\n\ndef build(v:", "m.py:build", "the file cannot be imported: SyntaxError: '(' was never closed"),
        ("import sys\nsys.exit(3)", "m.py:build", "the file cannot be imported: SystemExit: 3 (line 2)"),
        ("import nothing_of_this_name", "m.py:build", "ModuleNotFoundError: No module named"),
        (
            "def build(v):\n    return 1 / 0",
            "m.py:build",
            "build(10) failed: ZeroDivisionError: division by zero (line 2)",
        ),
        ("def build():\n    pass", "m.py:build", "build(10) failed: TypeError: build() takes 0 positional arguments"),
        ("def build(v):\n    return None", "m.py:build", "the model must be a torch.nn.Module, not NoneType"),
        (
            "from torch import nn\ndef build(v):\n    return nn.Embedding(v, 7)",
            "m.py:build",
            "logits of 7 tokens are too few: the task has 10",
        ),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(code, spec, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("m.py").write_text(code)
    with pytest.raises(ModelError, match=re.escape(message)) as caught:
        ENGINES["module"](VOCAB, build=spec)
    assert spec in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device 'cuda:99' was asked for, and torch finds no such GPU here"):
        ENGINES["module"](VOCAB, build=f"{EXAMPLE}:build", device="cuda:99")


# --- Files ----------------------------------------------------------------------------------------------


def test_a_file_may_import_its_neighbours_and_is_read_again_when_it_changes(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("width = 5\n")
    path = tmp_path / "m.py"
    text = "from torch import nn\nfrom neighbour_of_mine import width\n\ndef build(v):\n    return {}\n"
    path.write_text(text.format("nn.Sequential(nn.Embedding(v, width), nn.Linear(width, v))"))
    before = list(sys.path)
    first = ENGINES["module"](VOCAB, build=f"{path}:build")
    assert sys.path == before
    again = ENGINES["module"](VOCAB, build=f"{path}:build")
    assert first.weights == again.weights
    assert first.module is again.module
    path.write_text(text.format("nn.Embedding(v, v)"))
    other = ENGINES["module"](VOCAB, build=f"{path}:build")
    assert other.provenance()["file"] != first.provenance()["file"]
    assert other.provenance()["parameters"] == VOCAB.total**2


def test_random_weights_are_those_of_the_seed():
    make = ENGINES["module"]
    state = torch.get_rng_state()
    first, again, other = (make(VOCAB, build=f"{EXAMPLE}:build_gru", seed=seed).weights for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(torch.get_rng_state(), state)


def test_a_builder_is_a_function():
    module = load_builder(f"{EXAMPLE}:build_gru")(30)
    assert module(torch.zeros(2, 3, dtype=torch.int64)).shape == (2, 3, 30)


def test_the_example_copies_and_a_suite_runs_it():
    text = f"""
name = "mine"
[tasks.letters]
task = "copy"
[engines.head]
engine = "module"
build = "{EXAMPLE.as_posix()}:build"
[engines.gru]
engine = "module"
build = "{EXAMPLE.as_posix()}:build_gru"
[[cases]]
tasks = ["letters"]
engines = ["head", "gru"]
lengths = [12]
examples = 20
"""
    cases = suite.parse(text).cases()
    records = []
    for case in cases:
        case.check()
        records.append(run.run_case(case))
    head, gru = (record["result"] for record in records)
    assert [record["kind"] for record in records] == ["accuracy"] * 2
    assert head["strings"]["correct"] == 20
    assert head["free_checked"] == gru["free_checked"] == {"strings": 16, "disagreements": 0}
    assert head["bits_recalled"]["mean"] > 50
    assert head["state_bits"] == pytest.approx(12 * np.log2(26))
    assert gru["strings"]["correct"] == 0
    assert gru["state_bits"] == 16 * 32


def test_a_suite_says_what_is_wrong_with_a_model():
    text = """
name = "mine"
[tasks.letters]
task = "copy"
[engines.head]
engine = "module"
build = "nowhere.py:build"
[[cases]]
tasks = ["letters"]
engines = ["head"]
lengths = [12]
"""
    with pytest.raises(suite.SuiteError, match=r"head on letters: nowhere\.py:build: no such file"):
        suite.parse(text).cases()


def test_the_page_has_the_example():
    page = EXAMPLE.parents[1] / "docs" / "your-model.md"
    block = re.search(r"^```python my_model.py\n(.*?)^```", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)
    assert block
    assert block[1] == EXAMPLE.read_text("utf-8")


def test_vocabulary_of_the_example():
    vocab = VocabularySpec(26)
    head = load_builder(f"{EXAMPLE}:build")(vocab.total)
    assert (head.bos, head.copy, head.eos) == (vocab.bos, vocab.copy, vocab.eos)
