"""The delay line: it delays and copies exactly, wastes no number of its state, and its head knows of the rounding."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from resume_models import engine as small_model

from ngram_copy.engines.delay_line import DelayLineEngine
from ngram_copy.models import MIXERS, LanguageModel, LayerConfig, ModelConfig
from ngram_copy.models.checkpoint import load_model, save_model
from ngram_copy.models.delay_line import CopySSM, copy_ssm, fewest_bits, random_strings, read
from ngram_copy.models.state import Codec
from ngram_copy.tasks.copy import Copy

SIZES = [(1, 2), (2, 2), (5, 3), (16, 4), (33, 26), (64, 2), (64, 64), (300, 5)]
every_size = pytest.mark.parametrize(("length", "vocab_size"), SIZES)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def recalled(engine, batch):
    """Bits recalled of each string."""
    return engine.predict(batch).log2_q.sum(1) + engine.length * math.log2(engine.vocab.size)


def drawn(vocab_size, length, count=200, split="test"):
    task = Copy(vocab_size=vocab_size)
    return task, task.batch(length, seed=0, split=split, start=0, count=count)


# --- The delay ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["rust", "torch"])
@pytest.mark.parametrize("length", [1, 2, 3, 8, 9, 100])
@torch.no_grad()
def test_an_input_comes_out_once_in_a_period(length, backend):
    """After L steps as it was, P steps later with the other sign; at once its negative, which the residual undoes."""
    mixer = copy_ssm(length, 2).model.blocks[0].mixer
    mixer.backend = backend
    period = mixer.d_state
    assert period == 2 * math.ceil((length + 1) / 2)
    x = torch.zeros(1, 2 * period + length + 1, 1)
    x[0, 0] = 1
    y, _ = mixer(x, mixer.initial_state(1), 0)
    expected = torch.zeros_like(x)
    expected[0, [0, length, length + period, length + 2 * period]] = torch.tensor([[-1.0], [1], [-1], [1]])
    torch.testing.assert_close(y, expected, atol=2e-5, rtol=0)


@every_size
def test_the_state_is_an_isometry_so_no_number_of_it_is_idle(length, vocab_size):
    """Σ |h|² = P/2 · Σ u² for any inputs of the last P steps: a map of P numbers a channel to P numbers."""
    model = copy_ssm(length, vocab_size).model
    period = model.blocks[0].mixer.d_state
    channels = math.ceil(math.log2(vocab_size))
    assert model.state_size(length) == channels * period
    u = torch.randn(2, period, channels, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, state = model.blocks[0].mixer(u, model.blocks[0].mixer.initial_state(2), 0)
    norms = state["modes"].square().sum((1, 2, 3))
    torch.testing.assert_close(norms, period / 2 * u.square().sum((1, 2)), rtol=1e-4, atol=0)


# --- The copy -------------------------------------------------------------------------------------------


@every_size
def test_every_string_comes_out_exactly_and_ends(length, vocab_size):
    task, batch = drawn(vocab_size, length, 50)
    engine = DelayLineEngine(task.vocab, length=length)
    assert engine.model.training is False
    for out, answer in zip(engine.generate(batch, 2 * length + 5), batch.answers(), strict=True):
        assert out.tolist() == answer.tolist()
    prediction = engine.predict(batch)
    assert np.array_equal(prediction.tokens, batch.answers())
    assert (prediction.log2_q > math.log2(1 - 1e-6)).all()


@pytest.mark.parametrize(("length", "vocab_size"), [(1, 5), (2, 5), (3, 5), (7, 2), (8, 2), (4, 3), (2, 26)])
def test_all_strings_there_are(length, vocab_size):
    strings = torch.tensor(list(itertools.product(range(vocab_size), repeat=length)))
    assert copy_ssm(length, vocab_size).copies(strings).all()


def test_phases_hold_over_many_periods():
    """A phase that is rounded once is wrong by as many roundings as there are steps: not by enough to matter."""
    assert copy_ssm(10_000, 2).copies(random_strings(2, 10_000, 2, seed=1)).all()


def test_strings_that_are_not_copied_are_told_apart():
    ssm = copy_ssm(12, 26)
    strings = random_strings(40, 12, 26, seed=1)
    with torch.no_grad():
        ssm.model.embedding.weight[3] = -ssm.model.embedding.weight[3]
    assert torch.equal(ssm.copies(strings), ~(strings == 3).any(1))
    assert 0 < ssm.copies(strings).sum() < 40
    with torch.no_grad():
        ssm.model.embedding.weight[3] *= -1
        ssm.model.head.bias[28] = -1e4  # never ends
    assert not ssm.copies(strings).any()


@torch.no_grad()
def test_a_saved_one_loads_like_any_model(tmp_path):
    ssm = copy_ssm(20, 26)
    save_model(tmp_path, ssm.model, {})
    loaded = load_model(tmp_path)
    assert type(loaded) is LanguageModel
    strings = random_strings(8, 20, 26, seed=1)
    assert torch.equal(loaded(strings), ssm.model(strings))
    assert type(ssm)(loaded).copies(strings).all()


def test_making_one_draws_nothing():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    copy_ssm(9, 4, bits=2)
    assert torch.equal(torch.rand(3), expected)


# --- The rounded state ----------------------------------------------------------------------------------


@pytest.mark.parametrize("vocab_size", [2, 26, 64])
def test_three_bits_a_number_are_the_fewest(vocab_size):
    assert fewest_bits(64, vocab_size, strings=300) == 3
    strings = random_strings(300, 64, vocab_size, seed=1)
    assert not copy_ssm(64, vocab_size, 2).copies(strings).all()
    assert copy_ssm(64, vocab_size, 3).copies(strings).all()


def test_one_token_needs_one_bit_a_number():
    assert fewest_bits(1, 2) == 1


def test_where_no_bits_are_enough_there_is_no_number(monkeypatch):
    """Where the last string never comes out, no number of bits is enough."""
    tried = []

    def copies(ssm, strings):
        tried.append(ssm.codec.bits)
        return torch.arange(len(strings)) < len(strings) - 1

    monkeypatch.setattr(CopySSM, "copies", copies)
    assert fewest_bits(3, 2, strings=5) is None
    assert tried == list(range(1, 17))


@pytest.mark.parametrize(("bits", "distortion"), [(1, 0.3634), (2, 0.1175), (3, 0.03454)])
def test_the_codec_is_as_good_as_a_bell_shape_allows(bits, distortion):
    """Of a normal variable: Max 1960, "Quantizing for minimum distortion", table I. On strings it was not fitted on."""
    ssm = copy_ssm(128, 4, bits)
    state = read(ssm.model, random_strings(500, 128, 4, seed=1))
    before, after = state.layers[0]["modes"], ssm.codec(state).layers[0]["modes"]
    assert float((after - before).square().mean() / before.square().mean()) == pytest.approx(distortion, rel=0.1)
    # And the head counts with that noise: an output is one of 1, and the state an isometry.
    assert float(ssm.model.head.weight.detach()[0].abs().max()) == pytest.approx(1 / distortion, rel=0.1)


def test_rounds_of_lloyd_only_help_on_what_is_fitted():
    model = copy_ssm(40, 8).model
    state = read(model, random_strings(400, 40, 8, seed=0))
    errors = []
    for rounds in (0, 1, 3, 20):
        rounded = Codec(model, 2, state, rounds=rounds)(state)
        errors.append(float((rounded.layers[0]["modes"] - state.layers[0]["modes"]).square().mean()))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.95 * errors[0]


@pytest.mark.parametrize("bits", [1, 2])
@pytest.mark.parametrize("vocab_size", [2, 26])
def test_no_other_sharpness_recalls_more_and_none_more_than_the_state(bits, vocab_size):
    task, batch = drawn(vocab_size, 64, 300)
    engine = DelayLineEngine(task.vocab, length=64, bits=bits)
    mean = recalled(engine, batch).mean()
    assert 0.4 * engine.state_bits(batch.prompts())[0] < mean < engine.state_bits(batch.prompts())[0]
    for factor in (0.6, 1.6):
        other = DelayLineEngine(task.vocab, length=64, bits=bits)
        with torch.no_grad():
            other.model.head.weight *= factor
            other.model.head.bias *= factor
        assert recalled(other, batch).mean() < mean


# --- The engine -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [0, 1, 2, 5])
def test_bits_of_the_state(bits):
    task, batch = drawn(26, 10, 3)
    engine = DelayLineEngine(task.vocab, length=10, bits=bits)
    assert engine.state_bits(batch.prompts()).tolist() == [(bits or 32) * 5 * 12] * 3


@pytest.mark.parametrize("bits", [1, 2])
def test_the_cut_holds_the_rounded_state_alone(bits):
    """All strings of six bits: no more than 2^bits values of each number, and what is copied has a state of its own."""
    task = Copy(vocab_size=2)
    engine = DelayLineEngine(task.vocab, length=6, bits=bits)
    strings = np.array(list(itertools.product(range(2), repeat=6)), dtype=np.uint32)
    prompts = [np.array([task.vocab.bos, *string, task.vocab.copy], dtype=np.uint32) for string in strings]
    states = engine.cut(prompts)
    numbers = np.array([np.frombuffer(state[-4 * 8 :], dtype=np.float32) for state in states])
    assert max(len(np.unique(column)) for column in numbers.T) <= 2**bits
    copied = [
        out.tolist() == [*string, task.vocab.eos] for out, string in zip(engine.resume(states, 7), strings, strict=True)
    ]
    assert copied == engine._made.copies(torch.from_numpy(strings.astype(np.int64))).tolist()
    assert 0 < sum(copied) <= len(set(states)) <= 64


@pytest.mark.parametrize("name", ["gru", "attention", "s4d"])
def test_the_cut_of_any_rounded_engine_is_rounded(name):
    """What is emitted from it is what the engine predicts, and rounding it again changes nothing."""
    _, batch = drawn(9, 9, 30)
    rounded = small_model(name).quantised(1, drawn(9, 9, 40, "fit")[1].prompts())
    states = rounded.cut(batch.prompts())
    assert states != small_model(name).cut(batch.prompts())
    free = rounded.resume(states, 1)
    assert [out[0] for out in free] == rounded.predict(batch).tokens[:, 0].tolist()
    exact = small_model(name)
    exact.model = rounded.model
    assert [out.tolist() for out in exact.resume(states, 5)] == [out.tolist() for out in rounded.resume(states, 5)]


def test_one_rounded_for_a_task_is_a_delay_line_still():
    task, batch = drawn(26, 20)
    engine = DelayLineEngine(task.vocab, length=20)
    rounded = engine.quantised(2, drawn(26, 20, 400, "fit")[1].prompts())
    assert rounded.state_bits(batch.prompts()[:1]) == engine.state_bits(batch.prompts()[:1]) / 16
    own = recalled(DelayLineEngine(task.vocab, length=20, bits=2), batch).mean()
    assert recalled(rounded, batch).mean() == pytest.approx(own, rel=0.03)
    assert (engine.predict(batch).tokens == batch.answers()).all()  # it stays as it was
    with pytest.raises(ValueError, match="a delay line of length 20 cannot copy a string of 21"):
        rounded.predict(drawn(26, 21, 1)[1])


def test_another_process_goes_on_from_the_bytes(tmp_path):
    task, batch = drawn(26, 17, 5)
    engine = DelayLineEngine(task.vocab, length=17, bits=2)
    states = engine.cut(batch.prompts())
    for index, state in enumerate(states):
        (tmp_path / str(index)).write_bytes(state)
    code = f"""
import json, pathlib, torch
from ngram_copy.engines.delay_line import DelayLineEngine
from ngram_copy.tasks import VocabularySpec
torch.set_num_threads(1)
engine = DelayLineEngine(VocabularySpec(26), length=17, bits=2)
states = [pathlib.Path({str(tmp_path)!r}, str(i)).read_bytes() for i in range(5)]
print(json.dumps([out.tolist() for out in engine.resume(states, 18)]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [out.tolist() for out in engine.resume(states, 18)]


def test_prompts_of_other_lengths_are_refused():
    task, batch = drawn(4, 8, 2)
    engine = DelayLineEngine(task.vocab, length=9)
    for ask in (engine.predict, lambda batch: engine.cut(batch.prompts()), lambda b: engine.state_bits(b.prompts())):
        with pytest.raises(ValueError, match=r"^a delay line of length 9 cannot copy a string of 8$"):
            ask(batch)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: copy_ssm(0, 4), "length must be at least 1, not 0"),
        (lambda: copy_ssm(4, 1), "vocab_size must be at least 2, not 1"),
        (lambda: copy_ssm(4, 4, 0), "bits must be in 1 … 16, not 0"),
        (lambda: copy_ssm(4, 4, 17), "bits must be in 1 … 16, not 17"),
        (lambda: copy_ssm(10**12, 4), r"length = 1000000000000 and vocab_size = 4 needs [\d,.]+ GiB of memory, and"),
        (lambda: fewest_bits(4, 4, strings=0), "strings must be at least 1, not 0"),
        (lambda: DelayLineEngine(Copy(vocab_size=4).vocab, length=4, bits=17), r"bits must be 0 \(floats\) or in 1"),
        (lambda: DelayLineEngine(Copy(vocab_size=4).vocab, length=0), "length must be at least 1, not 0"),
    ],
)
def test_bad_input_is_refused_in_one_line(make, text):
    with pytest.raises(ValueError, match=text) as error:
        make()
    assert "\n" not in str(error.value)


def test_the_mixer_is_an_ordinary_one():
    """A delay line is S4D with weights of its own: another seed of the same shape is just a model."""
    config = copy_ssm(6, 4).model.config
    assert config.layers == [LayerConfig("s4d", {"d_state": 8, "output": "linear"})]
    assert "s4d" in MIXERS
    torch.manual_seed(0)
    assert LanguageModel(ModelConfig.from_json(config.to_json())).state_size(6) == 2 * 8
