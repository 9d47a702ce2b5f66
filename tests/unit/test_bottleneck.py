"""Learned b-bit machines: what they keep is b bits, and they cannot answer more strings than these tell apart."""

import itertools
import subprocess
import sys

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from ngram_copy import StateError, score
from ngram_copy.engines.bottleneck import BottleneckEngine
from ngram_copy.engines.foreign import from_bytes, tensor_bits
from ngram_copy.engines.trained import TrainedEngine
from ngram_copy.models.bottleneck import BottleneckConfig, BottleneckState, pack, unpack
from ngram_copy.models.checkpoint import load_weights
from ngram_copy.suite import SuiteError, parse
from ngram_copy.tasks.copy import Copy
from ngram_copy.train import Training, train

TASK = Copy(vocab_size=2)
CONFIG = BottleneckConfig(8, max_len=12, width=48)
TRAINING = Training(
    steps=400, tokens_per_step=1024, lengths=(1, 9), length_power=64, cap_start=1, cap_share=0.7, lr=8e-3, eval_every=0
)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The checkpoint of a machine of 8 bits that learned to copy 9 tokens."""
    folder = tmp_path_factory.mktemp("machine")
    train(CONFIG, TRAINING, TASK, seed=0, folder=folder, device="cpu")
    return folder


@pytest.fixture
def engine(folder):
    module = CONFIG(TASK.vocab.total)
    load_weights(folder, module)
    return BottleneckEngine(TASK.vocab, module.eval())


def batch(length, count=64, split="test"):
    return TASK.batch(length, seed=1, split=split, start=0, count=count)


def every(length):
    """Prompts of all strings of a length."""
    vocab = TASK.vocab
    return [np.array([vocab.bos, *one, vocab.copy], np.uint32) for one in itertools.product(range(2), repeat=length)]


# --- What it keeps --------------------------------------------------------------------------------------


def test_the_state_at_the_cut_is_the_bits_alone(engine):
    prompts = batch(10).prompts()
    assert engine.state_bits(prompts).tolist() == [8.0] * len(prompts)
    for state in engine.cut(prompts[:4]):
        kept = from_bytes(state, engine._identity(), "cpu")["state"]
        assert tensor_bits(kept) == 8
        assert kept["memory"].dtype == torch.uint8
        assert {name: value for name, value in kept.items() if name != "memory"} == {"read": 11, "answered": 0}


def test_free_answers_from_the_bits_are_the_teacher_forced_ones(engine):
    for length in (1, 5, 9, 12):
        strings = batch(length, count=16)
        forced = engine.predict(strings).tokens
        for free, row in zip(engine.generate(strings, length + 1), forced, strict=True):
            assert free.tolist() == row[: len(free)].tolist()


def test_a_fresh_process_goes_on_from_the_bits(engine, folder, tmp_path):
    prompts = batch(12, count=3).prompts()
    for index, state in enumerate(engine.cut(prompts)):
        (tmp_path / f"{index}.state").write_bytes(state)
    script = f"""
import pathlib
from ngram_copy.engines.bottleneck import BottleneckEngine
from ngram_copy.models.bottleneck import BottleneckConfig
from ngram_copy.models.checkpoint import load_weights
from ngram_copy.tasks.copy import Copy
vocab = Copy(vocab_size=2).vocab
module = BottleneckConfig(8, max_len=12, width=48)(vocab.total)
load_weights({str(folder)!r}, module)
engine = BottleneckEngine(vocab, module.eval())
states = [pathlib.Path({str(tmp_path)!r}, f"{{index}}.state").read_bytes() for index in range(3)]
print([answer.tolist() for answer in engine.resume(states, 13)])
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([answer.tolist() for answer in engine.resume(engine.cut(prompts), 13)])


def test_a_damaged_state_and_another_machines_are_refused(engine):
    state = engine.cut(every(8)[:1])[0]
    with pytest.raises(StateError):
        engine.resume([state[:-1]], 5)
    other = BottleneckEngine(TASK.vocab, CONFIG(TASK.vocab.total).eval())
    with pytest.raises(StateError, match="another engine"):
        other.resume([state], 5)


# --- What it learns -------------------------------------------------------------------------------------


def test_it_learns_to_use_its_bits_and_never_more(engine):
    strings = batch(9, count=2000)
    bits = score.bits_recalled(engine.predict(strings), strings.answers(), strings.log2_p)
    assert 6 < bits.mean() < 8
    assert score.bits_recalled_p_value(bits, engine.state_bits(strings.prompts())) > 0.01


def test_it_copies_no_more_strings_than_it_has_states(engine):
    prompts = every(9)
    states = engine.cut(prompts)
    answers = engine.resume(states, 10)
    end = TASK.vocab.eos
    copied = sum(
        answer.tolist() == [*prompt[1:-1].tolist(), end] for prompt, answer in zip(prompts, answers, strict=True)
    )
    assert 100 < copied <= len(set(states)) <= 2**8
    assert len(set(zip(states, map(bytes, answers), strict=True))) == len(set(states))  # the state alone decides


def test_gradients_go_through_a_sign_as_through_tanh():
    module = CONFIG(TASK.vocab.total)
    memory = torch.randn(5, CONFIG.width, requires_grad=True)
    seen = []
    module.signs.register_forward_hook(lambda _module, _inputs, u: seen.append(u) or u.retain_grad())
    weights = torch.randn(8)
    signs = module._signs(memory)
    (signs * weights).sum().backward()
    assert set(signs.unique().tolist()) == {-1.0, 1.0}
    torch.testing.assert_close(seen[0].grad, weights * (1 - torch.tanh(seen[0]) ** 2))


# --- The module -----------------------------------------------------------------------------------------


def test_rows_may_have_their_copy_at_different_places():
    module = CONFIG(TASK.vocab.total).eval()
    vocab = TASK.vocab
    rows = torch.tensor(
        [
            [vocab.bos, 0, 1, vocab.copy, 0, 1],
            [vocab.bos, vocab.copy, vocab.eos, 1, 1, vocab.copy],
            [vocab.bos, 0, 1, 1, 0, vocab.copy],
            [vocab.bos, 0, 1, 1, 0, 1],
        ]
    )
    with torch.inference_mode():
        whole = module(rows)
        for row in range(len(rows)):
            logits, state = module.prefill(rows[row : row + 1, :1])
            found = [logits[:, 0]]
            for token in rows[row, 1:]:
                logits, state = module.step(token[None], state)
                found.append(logits)
            torch.testing.assert_close(torch.cat(found), whole[row])
    with pytest.raises(ValueError, match="at the same place"):
        module.prefill(rows)
    with pytest.raises(ValueError, match="at the same place"):
        module.step(torch.tensor([vocab.copy, 0]), module.prefill(rows[3:, :2].expand(2, 2))[1])


def test_bits_are_packed_and_unpacked():
    signs = torch.randint(2, (20, 24)) * 2 - 1
    packed = pack(signs)
    assert packed.shape == (20, 3)
    assert torch.equal(unpack(packed), signs.to(torch.int8))
    first = torch.full((1, 8), -1)
    first[0, 0] = 1
    assert pack(first).tolist() == [[1]]


def test_what_is_answered_comes_from_the_bits():
    module = CONFIG(TASK.vocab.total).eval()
    with torch.inference_mode():
        found = {
            tuple(module.answer(BottleneckState(torch.tensor([[value]], dtype=torch.uint8), 5, 2))[0].tolist())
            for value in range(256)
        }
    assert len(found) == 256


def test_what_is_too_long_is_refused(engine):
    message = "a string of 13 tokens is too long for a machine of max_len = 12"
    with pytest.raises(ValueError, match=message):
        engine.state_bits(batch(13).prompts())
    with pytest.raises(ValueError, match=message):
        engine.cut(batch(13).prompts())
    with pytest.raises(ValueError, match="max_len = 12 is too short for 14 tokens before <copy>"):
        engine.predict(batch(13))
    with pytest.raises(ValueError, match="must end with <copy>"):
        engine.cut([np.array([TASK.vocab.bos, 1], np.uint32)])


# --- In a suite -----------------------------------------------------------------------------------------

SUITE = """
name = "machines"
tasks.letters = {{task = "copy", vocab_size = 2}}
models.machine = {{{}}}
training.short = {{task = "letters", lengths = [1, 8], steps = 2, tokens_per_step = 64, eval_every = 0}}
engines.machine = {{engine = "trained", model = "machine", training = "short"}}
[[cases]]
tasks = ["letters"]
engines = ["machine"]
lengths = [{}]
examples = 4
"""


def cases(options, length=8):
    return parse(SUITE.format(options, length)).cases()


def test_a_suite_trains_and_measures_a_machine(tmp_path):
    from ngram_copy.run import run_case

    found = cases("bottleneck = 16, max_len = 8, width = 8")
    for case in found:
        case.check()
    records = [run_case(case, checkpoints=tmp_path, device="cpu") for case in found]
    assert [record["kind"] for record in records] == ["training", "accuracy"]
    assert records[1]["result"]["state_bits"] == 16
    assert records[1]["result"]["free_checked"]["disagreements"] == 0
    # All options determine what is learned, those that are not said too.
    assert {case.case_id for case in cases("bottleneck = 16, max_len = 8, width = 8")} == {
        case.case_id for case in found
    }
    assert not {case.case_id for case in cases("bottleneck = 16, max_len = 9, width = 8")} & {
        case.case_id for case in found
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("bottleneck = 12", "bottleneck must be a multiple of 8"),
        ("bottleneck = 0", "bottleneck must be a whole number, 8 or more, not 0"),
        ("bottleneck = 8.0", "bottleneck must be a whole number, 8 or more, not 8.0"),
        ("bottleneck = 8, max_len = 4", "max_len must be a whole number, 8 or more, not 4"),
        ("bottleneck = 8, width = 0", "width must be a whole number, 1 or more, not 0"),
        ("bottleneck = 8, d_model = 64", "unknown option 'd_model' beside bottleneck"),
    ],
)
def test_a_wrong_table_is_one_line(options, message):
    with pytest.raises(SuiteError, match=message):
        cases(options)


def test_a_string_that_is_too_long_is_found_before_the_run():
    measured = cases("bottleneck = 8, max_len = 8", 9)[-1]
    with pytest.raises(SuiteError, match="a string of 9 tokens is too long"):
        measured.check()


def test_an_engine_that_is_not_trained_knows_its_bits():
    training = {"steps": 1}
    engine = TrainedEngine(TASK.vocab, model={"bottleneck": 24, "max_len": 12}, training=training)
    assert engine.state_bits(batch(12, 2).prompts()).tolist() == [24, 24]
    assert engine.quantised(4, batch(12, 2).prompts()) is None


TRAINED = """
name = "all"
include = ["_theory_trained"]
[[cases]]
tasks = ["uniform-{}"]
engines = {}
lengths = [{}]
examples = 2
"""


@pytest.mark.parametrize(("vocab_size", "length", "sizes"), [(2, 64, (16, 32, 64, 128)), (8, 32, (16, 32, 64, 128))])
def test_shipped_machines_have_the_bits_of_their_names(vocab_size, length, sizes):
    names = [f"bottleneck-{bits}-d{vocab_size}" for bits in sizes]
    measured = [case for case in parse(TRAINED.format(vocab_size, names, length)).cases() if case.kind == "accuracy"]
    for case, bits in zip(measured, sizes, strict=True):
        case.check()
        assert (
            case.engine().state_bits(case.task.batch(length, seed=0, split="test", start=0, count=1).prompts()) == bits
        )


@pytest.mark.parametrize("vocab_size", [2, 4])
def test_shipped_transformers_have_the_heads_of_their_names(vocab_size):
    names = [f"heads-{n}-d{vocab_size}" for n in range(1, 7)]
    measured = [case for case in parse(TRAINED.format(vocab_size, names, 32)).cases() if case.kind == "accuracy"]
    for n, case in enumerate(measured, 1):
        case.check()
        windows, whole = (layer.options["windows"] for layer in case.engine().shape.layers)
        assert windows == list(range(2, n + 2))
        assert whole == 0
