"""The state at the cut: as bytes, in another process, and rounded to few bits."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch extra is not installed")

from models_cases import MODELS, VOCAB
from resume_models import engine

from ngram_copy import StateError, run
from ngram_copy.engines.neural import NeuralEngine
from ngram_copy.models.state import Codec, state_from_bytes, state_to_bytes
from ngram_copy.suite import parse
from ngram_copy.tasks.copy import Copy

TASK = Copy(vocab_size=VOCAB - 4)
SUPPORT = Path(__file__).resolve().parents[1] / "support"
every = pytest.mark.parametrize("name", MODELS)


@pytest.fixture(autouse=True)
def _one_thread():
    torch.set_num_threads(1)


def prompts(split="test", count=1, length=9):
    return TASK.batch(length, seed=3, split=split, start=0, count=count).prompts()


def test_another_process_goes_on_from_the_bytes_alone(tmp_path):
    expected = {}
    for name in MODELS:
        one = engine(name)
        batch = TASK.batch(9, seed=3, split="test", start=0, count=1)
        (state,) = one.cut(batch.prompts())
        (tmp_path / name).write_bytes(state)
        expected[name] = one.generate(batch, 12)[0].tolist()
    command = [sys.executable, str(SUPPORT / "resume_models.py"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected
    assert len({tuple(tokens) for tokens in expected.values()}) > len(MODELS) // 2  # they do differ


@every
def test_bits_are_the_tensors_bytes(name):
    one = engine(name)
    for length in (1, 5, 40):
        (prompt,) = prompts(length=length)
        state = one.cut([prompt])[0]
        header = 8 + int.from_bytes(state[:8], "little")
        assert 8 * (len(state) - header) == one.state_bits([prompt])[0]


@every
def test_damaged_bytes_and_those_of_another_model_are_refused(name):
    one = engine(name)
    state = one.cut(prompts())[0]
    other = engine("gru" if name != "gru" else "lstm")
    for data, reader in ((state[:-1], one), (b"", one), (state[:8] + b"?" + state[9:], one), (state, other)):
        with pytest.raises(StateError):
            reader.resume([data], 3)


@every
def test_bytes_lose_nothing(name):
    model = engine(name).model
    _, state = model.prefill(torch.from_numpy(np.stack(prompts()).astype(np.int64)))
    again = state_from_bytes(state_to_bytes(state), model)
    assert again.position == state.position
    for layer, other in zip(state.layers, again.layers, strict=True):
        assert list(layer) == list(other)
        assert all(torch.equal(layer[part], other[part]) for part in layer)


# --- Rounded states -------------------------------------------------------------------------------------


def read(model, split, count=40, length=9):
    tokens = torch.from_numpy(np.stack(prompts(split, count, length)).astype(np.int64))
    with torch.no_grad():
        return model.prefill(tokens)[1]


def coordinates(x, grows):
    """Rows of samples, columns of what has levels of its own."""
    return (x.transpose(1, 2).flatten(0, 1) if grows else x).flatten(1)


@every
@pytest.mark.parametrize("bits", [1, 3])
def test_a_rounded_state_has_as_many_levels_as_bits_allow(name, bits):
    model = engine(name).model
    codec = Codec(model, bits, read(model, "fit"))
    rounded = codec(read(model, "test", count=200))
    for mixer, layer in zip(model.mixers(), rounded.layers, strict=True):
        for x in layer.values():
            for column in coordinates(x, mixer.grows).T:
                assert len(column.unique()) <= 2**bits


@every
def test_rounding_depends_on_the_other_strings_and_on_its_own_cell_alone(name):
    """The codec knows nothing of the strings that it rounds, and what is in a cell becomes one number."""
    model = engine(name).model
    codec = Codec(model, 4, read(model, "fit"))
    state = read(model, "test")
    whole, first = codec(state), codec(read(model, "test", count=1))
    again = codec(whole)
    for layer, alone, twice in zip(whole.layers, first.layers, again.layers, strict=True):
        for part, x in layer.items():
            assert torch.equal(x[:1], alone[part])
            assert torch.equal(x, twice[part])


@every
def test_more_bits_round_less(name):
    model = engine(name).model
    fit, state = read(model, "fit", 200), read(model, "fit", 200)
    errors = []
    for bits in (1, 2, 4, 8):
        rounded = Codec(model, bits, fit)(state)
        pairs = [(x, rounded.layers[i][part]) for i, layer in enumerate(state.layers) for part, x in layer.items()]
        errors.append(float(sum(((x - y) ** 2).sum() for x, y in pairs)))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] <= errors[0] / 100  # 0 where nothing is kept


def test_the_bits_of_a_rounded_state_are_those_of_its_codec():
    one = engine("gru")
    rounded = one.quantised(3, prompts("fit", 20))
    assert rounded.state_bits(prompts()) == one.state_bits(prompts()) * 3 / 32
    batch = TASK.batch(9, seed=3, split="test", start=0, count=30)
    assert not np.array_equal(rounded.predict(batch).log2_q, one.predict(batch).log2_q)


def test_bad_codecs_are_refused():
    model = engine("gru").model
    with pytest.raises(ValueError, match=r"bits must be in 1 … 16, not 0"):
        Codec(model, 0, read(model, "fit"))
    with pytest.raises(ValueError, match="there are none"):
        Codec(model, 2, model.initial_state(0))


def test_a_run_fits_its_codec_on_other_strings(monkeypatch):
    """Not one of the strings that are measured is read by the codec."""
    case = parse(
        'name = "x"\n[tasks.t]\ntask = "copy"\nvocab_size = 9\n[engines.e]\nengine = "ngram"\n'
        '[[cases]]\ntasks = ["t"]\nengines = ["e"]\nlengths = [9]\nexamples = 20\n'
    ).cases()[0]
    one, fitted = engine("gru"), []
    inside = NeuralEngine.quantised
    monkeypatch.setattr(NeuralEngine, "quantised", lambda self, bits, of: fitted.extend(of) or inside(self, bits, of))
    rows = run._quantised(case, one)
    assert [row["bits_per_value"] for row in rows] == list(run.QUANTISED_BITS)
    measured = {prompt.tobytes() for prompt in case.task.batch(9, seed=0, split="test", start=0, count=20).prompts()}
    assert len(fitted) == 20 * len(rows)
    assert not measured & {prompt.tobytes() for prompt in fitted}
    assert rows[-1]["state_bits"] == 8 / 32 * one.state_bits(prompts())[0]


def test_equal_states_are_equal_bytes():
    state = engine("lstm").model.prefill(torch.tensor([[1, 2, 3]]))[1]
    assert len({state_to_bytes(state) for _ in range(40)}) == 1
